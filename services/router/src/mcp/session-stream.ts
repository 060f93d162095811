import type { EndpointView, RouterControl, UpstreamView } from "../control/port.ts";
import { AbortedByRouter, type UpstreamClient, UpstreamError, type UpstreamResponse } from "../upstream-client.ts";
import { firstPrimedVersion } from "./call-answer.ts";
import { readServerMessage } from "./envelope.ts";
import type { DataPlaneLog } from "./inbound.ts";
import { openAnywhere } from "./open-anywhere.ts";
import type { Replay } from "./replay.ts";
import { isToBeRead, rewriteEvent } from "./rewrite.ts";
import type { Hold, Session } from "./session.ts";
import { isSessionUnknown } from "./session-unknown.ts";
import { eventsIn, isQuiet, readEvents, type SseEvent, type SseWriter } from "./sse.ts";
import { type EventId, eventIdOf, type Logged, type StreamLog } from "./stream-log.ts";
import { takesOver } from "./take-over.ts";
import type { ToolBook } from "./tool-book.ts";

/**
 * The one stream of a session on which the server speaks by itself (GET). Guarantees (requirements R7, R8):
 * G1  It is open upstream before the client hears that it is initialized, so that nothing the server says early is lost; until the client
 *     comes, events wait here, at most `waitingCharsMax`, after which the upstream waits too.
 * G2  A client comes within `unclaimedMs`, or comes back within `detachedMs`, or the stream is closed, so that another router process can
 *     open it. One that comes back with its last event id gets what it has missed.
 * G3  The client's stream outlives its upstream: it is opened again on the endpoint that the routes name, until the client leaves. A server that
 *     ends it again and again is asked after pauses that grow. Where it broke off a moment after an event with an id, the same server is asked
 *     for what came after that, as the client would ask it.
 * G4  One stream a session. Its client's newest connection has it (`take-over.ts`); where another router process has it, the one that comes
 *     with an id of it.
 * G6  A client that comes back after what it has missed is known no more is told so: by `list_changed`, and `updated` for what it subscribed to.
 * G5  Between router processes a stream changes hands in a quiet moment: what a server says while it has no stream is lost.
 */
export interface StreamDeps {
  readonly control: RouterControl;
  readonly client: UpstreamClient;
  readonly replay: Replay;
  readonly tools: ToolBook;
  readonly log: DataPlaneLog;
  readonly nowMs: () => number;
  readonly heartbeatMs: number;
}

export type StreamOutcome =
  | { readonly kind: "open" }
  /** The upstream has not said anything yet; it goes on in the background. */
  | { readonly kind: "pending" }
  /** 405: the upstream has no such stream. */
  | { readonly kind: "unsupported" }
  /** 409: another has it, most likely another router process. */
  | { readonly kind: "conflict" }
  | { readonly kind: "session_lost" }
  | { readonly kind: "refused"; readonly status: number; readonly retryAfterMs?: number | null }
  | { readonly kind: "failed"; readonly error: UpstreamError };

/** Fits into one NATS message, compressed or not, when another router process claims it. */
const waitingCharsMax = 512 * 1024;
/** Shorter than a client's GET waits for it in another router process (`get.ts`). */
const unclaimedMs = 1500;
/** SDK clients come back after a second. */
export const detachedMs = 3000;
const headersWaitMs = 500;
const quietMs = 300;
export const handOverMsMax = 5000;
/** The other process has just closed it: the upstream notices within milliseconds. */
const borrowedMsMin = 4;
const reopenMsMin = 100;
const reopenMsMax = 5000;
/** Servers keep their events for a while; one that knows an id no more may take it for that of another stream, and say nothing on this one. */
const idMsMax = 60_000;
/** A stream that did not last so long is not asked for again at once. */
const lastingMs = 1000;

/** A client that takes the stream. */
interface Coming {
  /** Of streams before this one. */
  readonly earlier: readonly string[];
  /** The event of this one with which it came back; null: with none. */
  readonly last: EventId | null;
  /** Its old connection was still open. */
  readonly hasTakenOver: boolean;
}

/** What the router process gets where the client is now; `isWhole`: it is all that the client has missed. */
type Send = (events: readonly SseEvent[], open: boolean, isWhole: boolean) => void;

export class SessionStream {
  readonly #deps: StreamDeps;
  readonly #session: Session;
  readonly #upstreamName: string;
  readonly #log: StreamLog;
  #upstream: UpstreamResponse | null = null;
  #connection = 0;
  #abort: AbortController | null = null;
  #endpoint: string | null = null;
  #writer: SseWriter | null = null;
  /** The last event that the client is known to have: its id came with it, or it was told before its connection began. */
  #known: EventId;
  /** After which event something was told last that another process passed on, and that is not kept here. */
  #unkeptSeq = -1;
  /** Its client was told of streams before this one since the last that it is known to have. */
  #hasToldEarlier = false;
  #waiting: Logged[] = [];
  #waitingChars = 0;
  #unclaimed: NodeJS.Timeout | undefined;
  #reopening = false;
  /** The upstream has ended it, and nobody has asked for it again. */
  #isGone = false;
  /** `performance.now()`. */
  #openedAtMs = Number.NEGATIVE_INFINITY;
  /** When the upstream gave its last id (`performance.now()`). */
  #idAtMs = Number.NEGATIVE_INFINITY;
  /** Before it is asked for again; 0: at once. */
  #pauseMs = 0;
  #taken = false;
  #borrowed = false;
  #away: {
    readonly send: Send;
    readonly quiet: NodeJS.Timeout;
    readonly last: NodeJS.Timeout;
  } | null = null;
  #closed = false;

  constructor(deps: StreamDeps, session: Session, upstreamName: string) {
    this.#deps = deps;
    this.#session = session;
    this.#upstreamName = upstreamName;
    this.#log = session.logs.open(null);
    this.#known = this.#log.lastId;
  }

  get name(): string {
    return this.#log.name;
  }

  /** A client takes the stream that nobody has; false when somebody has it (G4). */
  take(): boolean {
    if (this.#taken) return false;
    this.#taken = true;
    clearTimeout(this.#unclaimed);
    return true;
  }

  /** The client has a new connection while its old one is still open here (G4). False: it is too soon for that, or another process has the stream. */
  takeOver(): boolean {
    if (this.#closed || this.#writer === null || !(this.#writer.gone || takesOver(this.#session))) return false;
    return this.#letGo();
  }
  #letGo(): boolean {
    const before = this.#writer;
    this.#writer = null;
    // What the upstream says now, where it waited for the old connection, waits for the new one.
    before?.end();
    return before !== null;
  }

  /** Opens the stream upstream, in place of the one that it had. Waits for the first word of the upstream, but not long. */
  async connect(hold: Hold, endpoint: EndpointView, connectMs: number): Promise<StreamOutcome> {
    if (this.#closed) return { kind: "refused", status: 410 };
    const connection = ++this.#connection;
    this.#isGone = false;
    this.#abort?.abort(new AbortedByRouter("given_up"));
    this.#upstream?.cancel("the stream moves");
    this.#upstream = null;
    this.#endpoint = endpoint.name;
    const abort = new AbortController();
    this.#abort = abort;
    const opening = this.#open(connection, hold, endpoint, connectMs, abort.signal);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<StreamOutcome>((resolve) => {
      timer = setTimeout(() => resolve({ kind: "pending" }), Math.max(headersWaitMs, 0));
    });
    const outcome = await Promise.race([opening, late]);
    clearTimeout(timer);
    // An upstream that answers late and badly ends what it was given the benefit of the doubt for.
    if (outcome.kind === "pending") this.#watch(opening, connection);
    return outcome;
  }

  #watch(opening: Promise<StreamOutcome>, connection: number): void {
    const gone = (): void => this.#upstreamGone(connection);
    opening.then((later) => later.kind !== "open" && gone(), gone);
  }

  async #open(connection: number, hold: Hold, endpoint: EndpointView, connectMs: number, signal: AbortSignal): Promise<StreamOutcome> {
    const lastId = performance.now() - this.#idAtMs < idMsMax ? this.#log.lastIdOf(hold) : null;
    let response: UpstreamResponse;
    try {
      response = await this.#deps.client.send({
        endpoint,
        method: "GET",
        headers: { ...streamHeaders(this.#session, hold), ...(lastId === null ? {} : { "last-event-id": lastId }) },
        body: null,
        connectMs,
        signal,
        lane: "stream",
      });
    } catch (error) {
      if (error instanceof UpstreamError) return { kind: "failed", error };
      throw error;
    }
    const outcome = await streamOutcome(response);
    if (outcome.kind === "refused" && lastId !== null && !signal.aborted) {
      // It goes on from none of its ids, or not from this one.
      this.#idAtMs = Number.NEGATIVE_INFINITY;
      return this.#open(connection, hold, endpoint, connectMs, signal);
    }
    if (outcome.kind !== "open") return outcome;
    if (connection !== this.#connection || this.#closed) {
      response.cancel("the stream is not wanted any more");
      return { kind: "refused", status: 410 };
    }
    this.#upstream = response;
    this.#openedAtMs = performance.now();
    this.#tellChangedTools(endpoint.name);
    readEvents(response, {
      event: (event) => this.#event(connection, event, hold),
      end: () => this.#upstreamGone(connection),
      error: () => this.#upstreamGone(connection),
      malformed: () => this.#upstreamGone(connection),
    });
    return outcome;
  }

  /** The client has come: what it has missed, or what waited, is written first. False: some of what it has missed is not kept. */
  attach(writer: SseWriter, headers: Readonly<Record<string, string>>, { earlier, last, hasTakenOver }: Coming): boolean {
    this.#writer = writer;
    writer.begin(headers);
    writer.flushHeaders();
    const nowMs = this.#deps.nowMs();
    if (last !== null || !hasTakenOver) {
      this.#known = last ?? this.#beforeWaiting();
      this.#hasToldEarlier = false;
    }
    const { seq } = this.#known;
    const isWhole = this.#covers(seq) && !this.#hasToldEarlier;
    if (earlier.length > 0) this.#hasToldEarlier = true;
    for (const text of earlier) writer.writeText(text, nowMs);
    if (this.#session.sealed.version >= firstPrimedVersion) writer.write({ id: eventIdOf(this.#known), data: "" }, nowMs);
    // What waits is kept too, unless others took the room.
    const kept = this.#log.after(seq);
    const missed = isWhole || kept.length > this.#waiting.length ? kept : this.#waiting.map(({ text }) => text);
    for (const text of missed) writer.writeText(text, nowMs);
    this.#waiting = [];
    this.#waitingChars = 0;
    if (this.#isGone) this.#reopen();
    else this.#upstream?.resume();
    return isWhole;
  }
  /** Before what waits; which id of the upstream's own was there is not known any more. */
  #beforeWaiting(): EventId {
    const { lastId } = this.#log;
    const waiting = this.#waiting.length;
    return waiting === 0 ? lastId : { ...lastId, tag: "", upstreamId: "", seq: lastId.seq - waiting };
  }

  /**
   * The client comes back with an id that is none of this stream: it was another router process's, given up meanwhile, or is too old. What it has
   * missed is not known any more, so it is told that everything may have changed that it is told changes of (G6).
   */
  tellGap(subscriptions: Iterable<string>): void {
    const { capabilities } = this.#session.sealed;
    const tell = (method: string, params?: object): void =>
      this.#say({ jsonrpc: "2.0", method, ...(params === undefined ? {} : { params }) });
    for (const list of ["tools", "prompts", "resources"]) {
      if (capabilities.includes(`${list}.listChanged`)) tell(`notifications/${list}/list_changed`);
    }
    for (const uri of subscriptions) tell("notifications/resources/updated", { uri });
  }

  /** Resources that the client subscribed to and the server of the session does not take: it reads them, and learns what became of them. */
  tellUpdated(uris: readonly string[]): void {
    for (const uri of uris) this.#say({ jsonrpc: "2.0", method: "notifications/resources/updated", params: { uri } });
  }

  /** Whether what came after an event of this stream is still here. */
  #covers(seq: number): boolean {
    return seq > this.#unkeptSeq && this.#log.covers(seq);
  }

  /** The client's connection is gone; the client may come back (G2). */
  detach(writer: SseWriter): void {
    if (this.#closed || this.#writer !== writer) return;
    this.#writer = null;
    this.#taken = false;
    this.awaitClient(detachedMs);
    this.#upstream?.resume();
  }

  /** The session has moved to a server with other tools: the client is told to list them again, where it was told to expect that (R16). */
  #tellChangedTools(endpoint: string): void {
    const { listedOn, sealed } = this.#session;
    if (listedOn === null || listedOn === endpoint || !sealed.capabilities.includes("tools.listChanged")) return;
    if (this.#deps.control.upstream(this.#upstreamName)?.active !== endpoint) return;
    if (this.#deps.tools.differing(this.#upstreamName, listedOn, endpoint).length === 0) return;
    this.#session.listedOn = endpoint;
    this.#say({ jsonrpc: "2.0", method: "notifications/tools/list_changed" });
  }

  /** A word of the router's own. */
  #say(message: object): void {
    const logged = this.#log.add({ event: "message", data: JSON.stringify(message) }, null);
    if (this.#writer !== null) this.#writer.writeText(logged.text, this.#deps.nowMs());
    else if (this.#away !== null) this.#away.send([logged.event], true, false);
    else this.#waiting.push(logged);
  }

  /** Gives the client this long to come (G2). */
  awaitClient(ms: number = unclaimedMs): void {
    if (this.#taken) return;
    clearTimeout(this.#unclaimed);
    this.#unclaimed = setTimeout(() => this.close(), ms);
    this.#unclaimed.unref();
  }

  /**
   * The client came to another router process: what waited and what comes goes there, until nothing has come for `quietMs` and nothing of
   * the session runs here; then the upstream's stream is given up (G5). False when a client reads it here, but it is the same one (`from`, G4).
   */
  handOver(send: Send, from: EventId | null): boolean {
    const isBack = from?.stream === this.name;
    // One that is just being borrowed stands with neither process.
    if (this.#closed || !((isBack && !this.#borrowed && this.#letGo()) || this.take())) return false;
    const isWhole = isBack && this.#covers(from.seq);
    const untilMs = performance.now() + handOverMsMax;
    const look = (): void => {
      if (this.#session.running.size > 0 && performance.now() < untilMs) quiet.refresh();
      else this.close();
    };
    const quiet = setTimeout(look, quietMs);
    const last = setTimeout(() => this.close(), handOverMsMax);
    this.#away = { send, quiet, last };
    send(isWhole ? this.#log.after(from.seq).flatMap(eventsIn) : this.#waiting.map(({ event }) => event), true, isWhole);
    this.#waiting = [];
    this.#waitingChars = 0;
    this.#upstream?.resume();
    return true;
  }

  /** The other way round: the client is here, and the stream is still open in another process, which passes on what comes. */
  async borrow(rest: AsyncIterable<readonly SseEvent[]>): Promise<void> {
    this.#borrowed = true;
    try {
      for await (const events of rest) {
        for (const event of events) {
          this.#unkeptSeq = this.#log.lastId.seq;
          this.#writer?.write(event, this.#deps.nowMs());
        }
      }
    } finally {
      this.#borrowed = false;
      this.#reopen(borrowedMsMin);
    }
  }

  /** The session has a new hold: the stream goes there if the session itself moved (not for a read that was balanced elsewhere). */
  async follow(hold: Hold, endpoint: EndpointView, view: UpstreamView): Promise<void> {
    const moved = view.mode === "active_standby" && view.active === endpoint.name;
    if (this.#closed || this.#borrowed || !(moved || this.#endpoint === endpoint.name || this.#upstream === null)) return;
    const outcome = await this.connect(hold, endpoint, headersWaitMs);
    if (outcome.kind !== "open" && outcome.kind !== "pending") this.#upstreamGone(this.#connection);
  }

  /** Once a second: heartbeats, and a move when the routes name another endpoint. */
  tick(view: UpstreamView | null): void {
    if (this.#closed || this.#writer === null) return;
    if (this.#writer.gone) {
      this.detach(this.#writer);
      return;
    }
    const nowMs = this.#deps.nowMs();
    if (isQuiet(this.#writer, this.#deps.heartbeatMs, nowMs)) this.#writer.comment("alive", nowMs);
    const movable = view !== null && !this.#borrowed && view.mode === "active_standby" && view.sessions !== "sticky";
    if (movable && this.#endpoint !== view.active && !this.#reopening) this.#reopen();
  }

  /** The client's connection has to end, and its stream with it, unless the client has another connection by now. */
  closeOf(writer: SseWriter): void {
    if (this.#writer === writer) this.close();
    else writer.end();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#unclaimed);
    this.#abort?.abort(new AbortedByRouter("given_up"));
    this.#upstream?.cancel("the stream is closed");
    this.#upstream = null;
    this.#writer?.end();
    this.#log.end(this.#deps.nowMs());
    if (this.#away !== null) {
      clearTimeout(this.#away.quiet);
      clearTimeout(this.#away.last);
      this.#away.send([], false, false);
    }
    if (this.#session.stream === this) this.#session.stream = null;
  }

  #event(connection: number, event: SseEvent, hold: Hold): boolean {
    if (connection !== this.#connection || this.#closed) return true;
    if (event.id !== undefined && event.id !== "") this.#idAtMs = performance.now();
    const own = isToBeRead(event.data) ? rewriteEvent(event, readServerMessage(event.data), hold) : event;
    const logged = this.#log.add(own, hold);
    if (this.#writer !== null) {
      const more = this.#writer.writeText(logged.text, this.#deps.nowMs());
      if (!more) this.#writer.whenDrained(() => this.#upstream?.resume());
      return more;
    }
    if (this.#away !== null) {
      this.#away.quiet.refresh();
      this.#away.send([logged.event], true, false);
      return true;
    }
    this.#waiting.push(logged);
    this.#waitingChars += logged.text.length;
    return this.#waitingChars < waitingCharsMax;
  }

  #upstreamGone(connection: number): void {
    if (connection !== this.#connection || this.#closed) return;
    this.#upstream = null;
    this.#abort = null;
    this.#isGone = true;
    const isLasting = performance.now() - this.#openedAtMs >= lastingMs;
    this.#pauseMs = isLasting ? 0 : Math.min(Math.max(reopenMsMin, 2 * this.#pauseMs), reopenMsMax);
    if (this.#writer !== null) this.#reopen();
    // Nobody listens: whoever comes will open it anew. One who is just coming finds it gone (`attach`).
    else if (!this.#taken || this.#away !== null) this.close();
  }

  #reopen(waitMs: number = reopenMsMin): void {
    if (this.#reopening || this.#closed) return;
    this.#reopening = true;
    this.#reopenLoop(waitMs)
      .catch((error: unknown) => {
        this.#deps.log.warn({ upstream: this.#upstreamName, err: error }, "the stream of a session could not be opened again");
        this.close();
      })
      .finally(() => {
        this.#reopening = false;
        // It ended in the same moment.
        if (this.#isGone) this.#reopen();
      });
  }

  /** Until it stands or the client leaves; the wait doubles. */
  async #reopenLoop(firstWaitMs: number): Promise<void> {
    if (this.#isGone && this.#pauseMs > 0) {
      await pause(this.#pauseMs);
      // The session has moved meanwhile, and its stream with it.
      if (!this.#isGone) return;
    }
    for (let waitMs = firstWaitMs; !this.#closed; waitMs = Math.min(2 * waitMs, reopenMsMax)) {
      const outcome = await openAnywhere(this.#deps, this.#session, this.#upstreamName, (hold, endpoint, connectMs) =>
        this.connect(hold, endpoint, connectMs),
      );
      if (outcome.kind === "open" || outcome.kind === "pending") return;
      const { ended, lost } = this.#session;
      // 404: it was ended at another router process, or its upstream is configured no more.
      const isOver = ended || lost || outcome.kind === "unsupported" || (outcome.kind === "refused" && outcome.status === 404);
      if (this.#writer?.gone || isOver) return this.close();
      await pause(waitMs);
    }
  }
}

/** Differs between sessions so that they do not come all at once. */
function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms * (0.5 + Math.random())).unref());
}

export function streamHeaders(session: Session, hold: Hold): Record<string, string> {
  return {
    accept: "text/event-stream",
    "mcp-protocol-version": session.sealed.version,
    ...(hold.upstreamSession === null ? {} : { "mcp-session-id": hold.upstreamSession }),
  };
}

/** What an answer to a GET means. The body of one that is no stream is read and forgotten. */
export async function streamOutcome(response: UpstreamResponse): Promise<StreamOutcome> {
  const isStream = String(response.headers["content-type"] ?? "").includes("text/event-stream");
  if (response.status === 200 && isStream) return { kind: "open" };
  if (response.status === 405 || response.status === 409 || response.status < 400) {
    response.discard(250);
    return response.status === 405
      ? { kind: "unsupported" }
      : response.status === 409
        ? { kind: "conflict" }
        : { kind: "refused", status: 502 };
  }
  if (response.status >= 500) {
    response.discard(250);
    return { kind: "failed", error: new UpstreamError("http_5xx", `a stream was answered with ${response.status}`, true) };
  }
  let body: Buffer;
  try {
    body = await response.collect(64 * 1024);
  } catch (error) {
    if (error instanceof UpstreamError) return { kind: "failed", error };
    throw error;
  }
  return isSessionUnknown(response.status, body) ? { kind: "session_lost" } : { kind: "refused", status: response.status };
}
