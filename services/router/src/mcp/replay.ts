import type { AttemptResult, EndpointView, UpstreamView } from "../control/port.ts";
import { retryAfterMsOf, type UpstreamClient, UpstreamError, type UpstreamResponse } from "../upstream-client.ts";
import type { SessionDirectory, SessionRecord } from "./directory.ts";
import { isObject, readServerMessage, type ServerMessage } from "./envelope.ts";
import type { DataPlaneLog } from "./inbound.ts";
import type { OfferBook } from "./offer-book.ts";
import { capabilityPaths, nowhere } from "./seal.ts";
import { type Hold, newHold, type Session, subscriptionsMax } from "./session.ts";
import { readEvents } from "./sse.ts";
import type { ToolBook } from "./tool-book.ts";

/**
 * Gives a session a place on an endpoint (requirement R3). Guarantees:
 * R1  A request waits until the session is whole there: initialize, initialized, log level, subscriptions, the client's stream.
 * R2  Requests of one session that need the same endpoint share one replay; of several router processes the first writer wins.
 * R3  An endpoint that speaks another version, or offers less than the client was promised, is refused: the client is not told of it.
 *     That it refuses one resource, or a log level, is no reason: the client is told that the resource may have changed, and reads it.
 * R4  A session that the client has ended is not brought back, and a sticky one is not moved. Its first place is no move: no server knows anything of
 *     a session that was begun while none was there.
 * R5  Where the client knows a tool list, that of the new endpoint is known before a call goes there.
 */
export interface Replay {
  /** `lost`: the hold that the upstream does not know any more. Throws {@link ReplayError} or {@link UpstreamError}. */
  holdOn(session: Session, view: UpstreamView, endpoint: EndpointView, how: ReplayOptions): Promise<Hold>;
  /** Takes over what other router processes wrote about the session. */
  adopt(session: Session, record: SessionRecord): void;
  /** Tells an endpoint that a session is over; best effort. */
  forget(session: Session, endpoint: EndpointView, hold: Hold): void;
}
interface ReplayOptions {
  readonly lost: Hold | null;
  readonly connectMs: number;
  /** By when whoever asks has to have it (`performance.now()`: the time that is left is that of no clock that can be set). */
  readonly dueAtMs: number;
  /** False while the client itself is about to say `notifications/initialized`. */
  readonly initialized: boolean;
}

/** A session cannot be had on an endpoint, though nothing is wrong with the line. */
export class ReplayError extends Error {
  override readonly name = "ReplayError";
  readonly code: "ended" | "sticky" | "ineligible" | "refused";
  readonly retriable: boolean;
  /** HTTP status of a refusal. */
  readonly status: number;
  /** Of a refusal that said so. */
  readonly retryAfterMs: number | null;
  constructor(code: ReplayError["code"], message: string, status = 0, retryAfterMs: number | null = null) {
    super(message);
    this.code = code;
    this.retriable = code === "ineligible" || code === "refused";
    this.status = status;
    this.retryAfterMs = retryAfterMs;
  }
}

/** What an endpoint that cannot have the session is told as (`sticky` and `ended` are no word on it): nothing was sent there but the replay. */
export function replayTold({ message, status, retryAfterMs }: ReplayError): AttemptResult {
  if (status !== 429) return { outcome: "ineligible", message };
  return { outcome: "soft", httpStatus: status, toolError: false, executed: "no", ...(retryAfterMs === null ? {} : { retryAfterMs }) };
}

export interface ReplayDeps {
  readonly client: UpstreamClient;
  readonly tools: ToolBook;
  readonly offers: OfferBook;
  readonly log: Pick<DataPlaneLog, "debug">;
  readonly directory: SessionDirectory;
  readonly nowMs: () => number;
  readonly onReplay: (session: Session, endpoint: string, outcome: "replayed" | "adopted" | "failed", tookMs: number) => void;
}

/** A replay may take this long, whatever the deadline of the call that needs it. */
const replayMsMax = 10_000;
const answerBytesMax = 1024 * 1024;
/** How long the rest of a stream is read after its answer, so that the connection can be used again. */
const restMs = 250;
/** A server that lists its tools slowly is taken without. */
const toolsMsMax = 2000;

export function createReplay(deps: ReplayDeps): Replay {
  const { client, directory, nowMs } = deps;

  const holdOn: Replay["holdOn"] = (session, view, endpoint, how) => {
    const here = session.holds.get(endpoint.name);
    if (here !== undefined && here !== how.lost) return Promise.resolve(here);
    const underWay = session.replays.get(endpoint.name);
    if (underWay !== undefined) return underWay;
    const replay = move(session, view, endpoint, how).finally(() => session.replays.delete(endpoint.name));
    session.replays.set(endpoint.name, replay);
    return replay;
  };

  const move = async (session: Session, view: UpstreamView, endpoint: EndpointView, how: ReplayOptions): Promise<Hold> => {
    if (session.ended) throw new ReplayError("ended", "the client has ended this session");
    const startedAtMs = performance.now();
    if (view.sessions === "stateless" && session.sealed.upstreamSession === null) return settle(session, endpoint, null);
    const record = await directory.read(session.sealed.key);
    if (record?.ended) throw new ReplayError("ended", "the client has ended this session");
    const adopted = record?.holds[endpoint.name];
    if (adopted !== undefined && (how.lost === null || adopted !== how.lost.upstreamSession)) {
      deps.onReplay(session, endpoint.name, "adopted", performance.now() - startedAtMs);
      return settle(session, endpoint, adopted);
    }
    const isSticky = view.sessions === "sticky";
    const lives = isSticky ? (session.place ?? [...session.holds.keys(), ...Object.keys(record?.holds ?? {})][0]) : undefined;
    if (lives !== undefined) throw stuck(session, lives, endpoint);
    if (record !== null) remember(session, record.level, record.subscriptions);
    const signal = AbortSignal.timeout(Math.max(1, Math.round(Math.min(replayMsMax, how.dueAtMs - performance.now()))));
    try {
      const { upstreamSession, refused } = await introduce(session, endpoint, how, signal);
      await askForTools(session, view, endpoint, upstreamSession, how, signal);
      const stands = await directory.change(session.sealed.key, (now) => {
        const theirs = now.holds[endpoint.name];
        const stale = how.lost !== null && theirs === how.lost.upstreamSession;
        if (now.ended || (theirs !== undefined && !stale) || (isSticky && Object.keys(now.holds).length > 0)) return null;
        return { ...now, holds: { ...now.holds, [endpoint.name]: upstreamSession } };
      });
      const winner = stands.holds[endpoint.name] ?? null;
      // Another process was first, or the client ended the session meanwhile: what we made is not used.
      if (winner !== upstreamSession || stands.ended) forget(session, endpoint, newHold(endpoint.name, upstreamSession, nowMs()));
      if (stands.ended) throw new ReplayError("ended", "the client has ended this session");
      const first = isSticky ? Object.keys(stands.holds)[0] : undefined;
      if (first !== undefined && first !== endpoint.name) throw stuck(session, first, endpoint);
      const hold = settle(session, endpoint, winner);
      await session.stream?.follow(hold, endpoint, view);
      session.stream?.tellUpdated(refused);
      deps.onReplay(session, endpoint.name, "replayed", performance.now() - startedAtMs);
      return hold;
    } catch (error) {
      deps.onReplay(session, endpoint.name, "failed", performance.now() - startedAtMs);
      throw error;
    }
  };

  const settle = (session: Session, endpoint: EndpointView, upstreamSession: string | null): Hold => {
    const hold = newHold(endpoint.name, upstreamSession, nowMs());
    session.holds.set(endpoint.name, hold);
    return hold;
  };

  /** Says to the endpoint all that the client has said. */
  const introduce = async (session: Session, endpoint: EndpointView, how: ReplayOptions, signal: AbortSignal): Promise<Introduced> => {
    const { sealed } = session;
    const say = (method: string, params: unknown, id: string | null, upstreamSession: string | null) =>
      client.send({
        endpoint,
        method: "POST",
        headers: {
          "content-type": "application/json",
          accept: "application/json, text/event-stream",
          ...(id === "mcpf-initialize" ? {} : { "mcp-protocol-version": sealed.version }),
          ...(upstreamSession === null ? {} : { "mcp-session-id": upstreamSession }),
        },
        body: Buffer.from(JSON.stringify({ jsonrpc: "2.0", ...(id === null ? {} : { id }), method, params })),
        connectMs: how.connectMs,
        signal,
        lane: "call",
      });

    const answer = await say("initialize", { ...sealed.clientParams, protocolVersion: sealed.version }, "mcpf-initialize", null);
    const header = answer.headers["mcp-session-id"];
    const upstreamSession = typeof header === "string" ? header : null;
    try {
      const refused = await complete(session, endpoint, how, answer, (method, params, id) => say(method, params, id, upstreamSession));
      return { upstreamSession, refused };
    } catch (error) {
      // Nobody will use what was begun, and each further call would begin another one.
      forget(session, endpoint, newHold(endpoint.name, upstreamSession, nowMs()));
      throw error;
    }
  };

  /** Returns the subscriptions that are refused. */
  const complete = async (
    session: Session,
    endpoint: EndpointView,
    how: ReplayOptions,
    answer: UpstreamResponse,
    say: (method: string, params: unknown, id: string | null) => Promise<UpstreamResponse>,
  ): Promise<readonly string[]> => {
    const { sealed } = session;
    const { result } = await readAnswer(answer, endpoint, nowMs());
    deps.offers.learn(sealed.upstream, endpoint.name, sealed.version, result);
    if (result["protocolVersion"] !== sealed.version) {
      throw new ReplayError("ineligible", `${endpoint.name} speaks ${String(result["protocolVersion"])}, the session ${sealed.version}`);
    }
    const offers = new Set(capabilityPaths(result["capabilities"]));
    const missing = sealed.capabilities.filter((path) => !offers.has(path));
    if (missing.length > 0)
      throw new ReplayError("ineligible", `${endpoint.name} lacks what the client was promised: ${missing.join(", ")}`);
    if (how.initialized) {
      const accepted = await say("notifications/initialized", undefined, null);
      accepted.discard(1000);
      if (accepted.status >= 400) throw refusedBy(accepted, `${endpoint.name} refused notifications/initialized`, nowMs());
    }
    if (session.level !== undefined) await answerTo(await say("logging/setLevel", session.level, "mcpf-level"), endpoint, nowMs());
    const refused: string[] = [];
    for (const uri of session.subscriptions) {
      const { error } = await answerTo(await say("resources/subscribe", { uri }, "mcpf-subscribe"), endpoint, nowMs());
      // It stays remembered: another endpoint, or this one when it is started again, may have the resource.
      if (error !== null) refused.push(uri);
    }
    return refused;
  };

  /** What the client takes for the tools of this endpoint may be another one's (requirement R16). Without an answer nothing is known. */
  const askForTools = async (
    session: Session,
    view: UpstreamView,
    endpoint: EndpointView,
    upstreamSession: string | null,
    how: ReplayOptions,
    signal: AbortSignal,
  ): Promise<void> => {
    if (session.listedOn === null || !how.initialized || deps.tools.knows(view.name, endpoint.name)) return;
    try {
      const answer = await client.send({
        endpoint,
        method: "POST",
        headers: {
          "content-type": "application/json",
          accept: "application/json, text/event-stream",
          "mcp-protocol-version": session.sealed.version,
          ...(upstreamSession === null ? {} : { "mcp-session-id": upstreamSession }),
        },
        body: Buffer.from(JSON.stringify({ jsonrpc: "2.0", id: "mcpf-tools", method: "tools/list", params: {} })),
        connectMs: how.connectMs,
        signal: AbortSignal.any([signal, AbortSignal.timeout(toolsMsMax)]),
        lane: "call",
      });
      deps.tools.learn(view.name, endpoint.name, (await readAnswer(answer, endpoint, nowMs())).result);
    } catch (error) {
      if (!(error instanceof UpstreamError || error instanceof ReplayError)) throw error;
      deps.log.debug({ upstream: view.name, endpoint: endpoint.name, err: error }, "the tool list of an endpoint could not be had");
    }
  };

  const forget: Replay["forget"] = (session, endpoint, hold) => {
    if (hold.upstreamSession === null) return;
    client
      .send({
        endpoint,
        method: "DELETE",
        headers: { "mcp-session-id": hold.upstreamSession, "mcp-protocol-version": session.sealed.version },
        body: null,
        connectMs: 1000,
        signal: AbortSignal.timeout(5000),
        lane: "call",
      })
      .then(
        (response) => response.discard(1000),
        // The endpoint is most likely gone, which is why the session left it.
        () => undefined,
      );
  };

  const adopt: Replay["adopt"] = (session, record) => {
    for (const [endpoint, upstreamSession] of Object.entries(record.holds)) {
      if (session.holds.get(endpoint)?.upstreamSession !== upstreamSession) {
        session.holds.set(endpoint, newHold(endpoint, upstreamSession, nowMs()));
      }
    }
  };

  return { holdOn, adopt, forget };
}

/** Of a session that had no place, another request may have found one meanwhile: there it lives, and there this one goes too. */
function stuck(session: Session, place: string, endpoint: EndpointView): ReplayError {
  if (session.sealed.endpoint === nowhere && place !== endpoint.name) {
    session.home = place;
    return new ReplayError("ineligible", `the session lives on ${place} and must not move (sessions: sticky)`);
  }
  session.lost = true;
  return new ReplayError("sticky", `the session lived on ${place} and must not move (sessions: sticky); start a new one`);
}

function remember(session: Session, level: unknown, subscriptions: readonly string[]): void {
  // The client may have set another one since, at another router process.
  session.level = level ?? session.level;
  for (const uri of subscriptions) if (session.subscriptions.size < subscriptionsMax) session.subscriptions.add(uri);
}

interface Introduced {
  readonly upstreamSession: string | null;
  /** Subscriptions that the endpoint does not take. */
  readonly refused: readonly string[];
}

/** The result of a request of ours; an error of the server makes the endpoint ineligible. */
async function readAnswer(response: UpstreamResponse, endpoint: EndpointView, nowMs: number): Promise<{ result: Record<string, unknown> }> {
  const message = await answerTo(response, endpoint, nowMs);
  if (message.error !== null) {
    throw new ReplayError("ineligible", `${endpoint.name} answered the replay of a session with error ${message.error}`);
  }
  return { result: isObject(message.value["result"]) ? message.value["result"] : {} };
}

/** The answer to a request of ours, a result or an error of the server. */
async function answerTo(response: UpstreamResponse, endpoint: EndpointView, nowMs: number): Promise<Answered> {
  if (response.status >= 500) {
    response.discard(1000);
    throw new UpstreamError("http_5xx", `${endpoint.name} answered ${response.status} to the replay of a session`, false);
  }
  if (response.status >= 300) {
    response.discard(1000);
    throw refusedBy(response, `${endpoint.name} answered ${response.status} to the replay of a session`, nowMs);
  }
  const message = await firstAnswer(response);
  if (message === null) throw new UpstreamError("malformed", `${endpoint.name} gave no answer to the replay of a session`, false);
  return message;
}

function refusedBy({ status, headers }: UpstreamResponse, message: string, nowMs: number): ReplayError {
  return new ReplayError("refused", message, status, retryAfterMsOf(headers, nowMs));
}

type Answered = Extract<ServerMessage, { kind: "answer" }> & { readonly text: string };

/** The first JSON-RPC answer in a JSON body or an event stream; what a server says after it is not waited for. */
export async function firstAnswer(response: UpstreamResponse): Promise<Answered | null> {
  if (!String(response.headers["content-type"] ?? "").includes("text/event-stream")) {
    return answeredOf((await response.collect(answerBytesMax)).toString("utf8"));
  }
  return new Promise((resolve, reject) => {
    let rest: NodeJS.Timeout | undefined;
    readEvents(response, {
      event(event) {
        const answered = rest !== undefined || event.data === "" ? null : answeredOf(event.data);
        if (answered === null) return true;
        // A server need not end its stream, and each one that stays open keeps a connection.
        rest = setTimeout(() => response.cancel("the answer is complete"), restMs).unref();
        resolve(answered);
        return true;
      },
      end: () => {
        clearTimeout(rest);
        resolve(null);
      },
      error: (error) => {
        clearTimeout(rest);
        reject(error);
      },
      malformed: () => resolve(null),
    });
  });
}

function answeredOf(text: string): Answered | null {
  const message = readServerMessage(text);
  return message.kind === "answer" ? { ...message, text } : null;
}
