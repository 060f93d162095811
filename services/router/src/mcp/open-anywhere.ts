import type { EndpointView } from "../control/port.ts";
import { UpstreamError } from "../upstream-client.ts";
import { ReplayError, replayTold } from "./replay.ts";
import type { Hold, Session } from "./session.ts";
import type { StreamDeps, StreamOutcome } from "./session-stream.ts";

/** Opens a stream on the endpoint that the control names, with a replay of the session where it is needed. */
export async function openAnywhere(
  deps: StreamDeps,
  session: Session,
  upstreamName: string,
  connect: (hold: Hold, endpoint: EndpointView, connectMs: number) => Promise<StreamOutcome>,
): Promise<StreamOutcome> {
  const { control, replay, nowMs } = deps;
  const view = control.upstream(upstreamName);
  if (view === null) return { kind: "refused", status: 404 };
  const startedAtMs = nowMs();
  const call = control.begin({
    upstream: upstreamName,
    kind: "mcp",
    method: "GET",
    tool: null,
    agent: null,
    sessionEndpoint: session.place,
    deadlineMs: Number.POSITIVE_INFINITY,
    startedAtMs,
  });
  const dueAtMs = performance.now() + (call.deadlineMs - startedAtMs);
  let outcome: StreamOutcome = { kind: "refused", status: 503 };
  for (let attempt = await call.next(); attempt !== null; attempt = await call.next()) {
    const { endpoint, connectMs } = attempt;
    try {
      const how = { lost: null, connectMs, dueAtMs: Math.min(dueAtMs, performance.now() + 10_000), initialized: true };
      let hold = await replay.holdOn(session, view, endpoint, how);
      outcome = await connect(hold, endpoint, connectMs);
      if (outcome.kind === "session_lost") {
        hold = await replay.holdOn(session, view, endpoint, { ...how, lost: hold });
        outcome = await connect(hold, endpoint, connectMs);
      }
    } catch (error) {
      if (error instanceof ReplayError) {
        const told = replayTold(error);
        const { retry } = attempt.done(told);
        outcome =
          told.outcome === "soft"
            ? { kind: "refused", status: told.httpStatus, retryAfterMs: error.retryAfterMs }
            : { kind: "refused", status: error.code === "ended" || error.code === "sticky" ? 404 : 503 };
        if (retry) continue;
        break;
      }
      if (!(error instanceof UpstreamError)) throw error;
      outcome = { kind: "failed", error };
    }
    if (outcome.kind !== "failed") {
      attempt.done({ outcome: outcome.kind === "open" ? "ok" : "caller", httpStatus: 200, toolError: false });
      break;
    }
    const { code, message } = outcome.error;
    // A stream asks for nothing that could run twice.
    if (!attempt.done({ outcome: "hard", code, executed: "no", message }).retry) break;
  }
  call.end(outcome.kind === "failed" || outcome.kind === "refused" ? "error" : "ok");
  return outcome;
}
