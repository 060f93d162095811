import { classifyHttpStatus, classifyMcpAnswer } from "@mcp-failover/domain";
import { type LegacyCall, LegacyError } from "../../services/router/src/control/legacy.ts";
import type { Attempt, AttemptResult, LegacyResult, RouterControl } from "../../services/router/src/control/port.ts";
import type { SimProcess } from "./clock.ts";
import type { Random } from "./random.ts";
import type { Answer, Upstreams } from "./upstreams.ts";
import type { AttemptRecord, CallRecord } from "./world-types.ts";

/** A call that a client is going to make. */
export interface PlannedCall {
  readonly atMs: number;
  readonly upstream: string;
  readonly kind: "mcp" | "http";
  readonly method: string;
  readonly tool: string | null;
  readonly agent: string | null;
  /** The client's own deadline; Infinity: it has none. */
  readonly deadlineMs: number;
  /** The client goes away after this long; null: it waits. */
  readonly leavesAfterMs: number | null;
}

export interface CallHooks {
  readonly nowAtMs: () => number;
  readonly nextId: () => number;
  readonly onBegin: (call: CallRecord) => void;
  readonly onAttempt: (call: CallRecord, attempt: AttemptRecord) => void;
  readonly onAttemptEnd: (call: CallRecord, attempt: AttemptRecord) => void;
  readonly onExecuted: (call: CallRecord, attempt: AttemptRecord) => void;
  readonly onEnd: (call: CallRecord) => void;
}

/** The router's data plane in small: the control's loop over attempts, as `http-proxy.ts` and `mcp/call.ts` go through it. */
export async function serveCall(
  process: SimProcess,
  control: RouterControl,
  upstreams: Upstreams,
  planned: PlannedCall,
  hooks: CallHooks,
): Promise<void> {
  const view = control.upstream(planned.upstream);
  const startedAtMs = Date.now();
  const call = control.begin({
    upstream: planned.upstream,
    kind: planned.kind,
    method: planned.method,
    tool: planned.tool,
    agent: planned.agent,
    sessionEndpoint: null,
    deadlineMs: startedAtMs + planned.deadlineMs,
    startedAtMs,
  });
  const record: CallRecord = {
    id: hooks.nextId(),
    router: process.name,
    upstream: planned.upstream,
    tool: planned.tool ?? planned.method,
    agent: planned.agent,
    safety: call.safety,
    implementation: call.implementation,
    beganAtMs: hooks.nowAtMs(),
    deadlineAtMs: hooks.nowAtMs() + (call.deadlineMs - startedAtMs) / process.host.rate,
    endedAtMs: null,
    outcome: null,
    problem: null,
    active: view?.active ?? "",
    epoch: view?.epoch ?? -1,
    attempts: [],
    legacyRuns: 0,
    legacyClaimed: null,
  };
  hooks.onBegin(record);
  const aborter = new AbortController();
  const gone = new AbortController();
  const deadline = setTimeout(() => aborter.abort(), Math.max(0, call.deadlineMs - startedAtMs));
  const leaving = planned.leavesAfterMs === null ? undefined : setTimeout(() => gone.abort(), planned.leavesAfterMs);
  const end = (outcome: NonNullable<CallRecord["outcome"]>, problem: string | null): void => {
    record.outcome = outcome;
    record.problem = problem;
    record.endedAtMs = hooks.nowAtMs();
    call.end(outcome === "error" ? "error" : "ok");
    hooks.onEnd(record);
  };
  try {
    for (; call.implementation === "mcp"; ) {
      const next = call.next();
      const attempt = next instanceof Promise ? await next : next;
      if (attempt === null) break;
      const told = await tryOnce(process, attempt, upstreams, record, planned, { aborter: aborter.signal, gone: gone.signal, hooks });
      const { retry } = attempt.done(told);
      if (told.outcome === "ok" || told.outcome === "caller") return end("ok", null);
      if (told.outcome === "aborted") return end("error", "client_gone");
      if (!retry) break;
    }
    if (call.legacy !== null && !gone.signal.aborted) {
      try {
        await call.legacy({ callId: record.id }, gone.signal, `op-${record.id}`);
        return end("legacy", null);
      } catch (error) {
        if (!(error instanceof LegacyError)) throw error;
        record.legacyClaimed = error.executed;
        // The call was broken off because its client left: nobody is there to be told a problem.
        if (gone.signal.aborted) return end("error", "client_gone");
      }
    }
    end("error", call.problem().code);
  } finally {
    clearTimeout(deadline);
    clearTimeout(leaving);
  }
}

function tryOnce(
  process: SimProcess,
  attempt: Attempt,
  upstreams: Upstreams,
  call: CallRecord,
  planned: PlannedCall,
  { aborter, gone, hooks }: { aborter: AbortSignal; gone: AbortSignal; hooks: CallHooks },
): Promise<AttemptResult> {
  const record: AttemptRecord = {
    endpoint: `${planned.upstream}/${attempt.endpoint.name}`,
    beganAtMs: hooks.nowAtMs(),
    endedAtMs: null,
    told: null,
    code: null,
    claimed: null,
    executed: 0,
    written: false,
    plannedBy: process.name,
  };
  call.attempts.push(record);
  hooks.onAttempt(call, record);
  return new Promise((resolve) => {
    const signals = [aborter, gone, ...(attempt.givenUp === null ? [] : [attempt.givenUp])];
    const end = (told: AttemptResult): void => {
      for (const signal of signals) signal.removeEventListener("abort", onAbort);
      record.endedAtMs = hooks.nowAtMs();
      record.told = told.outcome;
      record.written = exchange.written;
      if (told.outcome === "hard") {
        record.code = told.code;
        record.claimed = told.executed;
      }
      hooks.onAttemptEnd(call, record);
      resolve(told);
    };
    const onAbort = (): void => {
      exchange.abort();
      if (gone.aborted) end({ outcome: "aborted" });
      else end({ outcome: "hard", code: "timeout", executed: exchange.written ? "unknown" : "no", message: "no answer in time" });
    };
    const exchange = upstreams.send(process, record.endpoint, {
      lane: "calls",
      fresh: false,
      connectMs: attempt.connectMs,
      onExecuted: () => {
        record.executed += 1;
        record.written = true;
        hooks.onExecuted(call, record);
      },
      onAnswer: (answer) => {
        if (answer.kind === "status") attempt.answering();
        end(resultOf(answer, exchange.written, planned.kind));
      },
    });
    record.written = exchange.written;
    for (const signal of signals) signal.addEventListener("abort", onAbort, { once: true });
    if (aborter.aborted || gone.aborted) onAbort();
  });
}

function resultOf(answer: Answer, written: boolean, kind: "mcp" | "http"): AttemptResult {
  if (answer.kind === "error") {
    return { outcome: "hard", code: answer.code, executed: written ? "unknown" : "no", message: `no answer: ${answer.code}` };
  }
  const { status: httpStatus, toolError: isError, retryAfterMs } = answer;
  const { outcome, code, toolError } =
    kind === "mcp" ? classifyMcpAnswer({ httpStatus, rpcErrorCode: null, isError }) : classifyHttpStatus(httpStatus);
  if (outcome === "hard") return { outcome, code: code ?? "http_5xx", executed: "unknown", message: `it answered ${httpStatus}` };
  return { outcome, httpStatus, toolError, ...(retryAfterMs === null ? {} : { retryAfterMs }) };
}

/** Legacy APIs are sound but for one call in fifty, while anything is wrong with the world. */
const legacyFailShare = 0.02;

/** In place of the one that opens sockets; `ran` is told the id of the call. A legacy API is sound once the world is `quiet`. */
export function simLegacy(
  random: Random,
  ran: (callId: number) => void,
  quiet: () => boolean,
): (call: LegacyCall) => Promise<LegacyResult> {
  return async (call) => {
    await new Promise<void>((resolve) => {
      setTimeout(resolve, random.between(10, 80));
    });
    if (call.signal.aborted) throw new LegacyError("the client went away", { executed: "unknown" });
    if (random.chance(legacyFailShare) && !quiet())
      throw new LegacyError(`the legacy API of ${call.tool.name} answered 500`, { executed: "unknown" });
    ran((call.args as { callId: number }).callId);
    return { content: [] };
  };
}
