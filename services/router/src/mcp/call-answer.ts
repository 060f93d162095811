import { classifyMcpAnswer } from "@mcp-failover/domain";
import type { ClientResponse } from "../client-exchange.ts";
import type { AttemptResult, ExchangeFailure } from "../control/port.ts";
import { type RefusedRequest, type RouterError, rpcErrorBody, rpcErrorMessage, sendJson, sendRefusal } from "../errors.ts";
import { type AnyLane, alone } from "../hedge.ts";
import { UpstreamError, type UpstreamResponse } from "../upstream-client.ts";
import { isObject, isTooDeep, outlinedAnswer, readServerMessage, type ServerMessage, serverMessageOf } from "./envelope.ts";
import { rewriteEvent, tagRequestId } from "./rewrite.ts";
import type { Hold } from "./session.ts";
import { isQuiet, readEvents, type SseEvent, SseWriter } from "./sse.ts";
import type { EventSink, StreamLog, StreamLogs } from "./stream-log.ts";

/** An answer in one piece (JSON) may be this long. */
const answerBytesMax = 16 * 1024 * 1024;
/** How long the rest of a stream is read after its answer, so that the connection can be used again. */
const restMs = 250;
/** A server with ids of its own gives one at once. */
const primeAfterMs = 100;
/** Clients of this version and later know what to do with an event without data. */
export const firstPrimedVersion = "2025-11-25";
/** How soon a client should come back. */
const retryMs = 500;

/** What the client may see of an answer; null: all of it. */
export type VisibleAnswer = (message: Answer, endpoint: string) => object | null;
const asItIs: VisibleAnswer = () => null;

/** Where a session keeps what its streams have said, and the version that its client speaks. */
interface Resumable {
  readonly logs: StreamLogs;
  readonly version: string;
}

export type Answer = Extract<ServerMessage, { kind: "answer" }>;

/** How the relay of one upstream answer ended. */
export type Relayed =
  | { readonly kind: "answered"; readonly told: AttemptResult; readonly message: Answer }
  /** The upstream closed the stream in good order before its answer, with an event id to go on from (2025-11-25 polling). */
  | { readonly kind: "parked"; readonly told: AttemptResult }
  /** The client has its answer from another attempt, or is to wait for that. */
  | { readonly kind: "withheld" }
  /** The stream broke; `lastEventId` is the upstream's, when it gave one to go on from. */
  | { readonly kind: "failed"; readonly told: AttemptResult; readonly lastEventId: string | null };

/**
 * The client's side of one request. Guarantees:
 * A1  The client gets exactly one answer to its request (requirement R10): that of the upstream that answered first, or one error.
 * A2  Events are written as they come, in order; a client that reads slowly slows the reading of the upstream.
 * A3  After a retry the client sees no progress value twice or falling (R12).
 * A4  A request that the server made on this stream is withdrawn when its server is gone (R14).
 * A5  The stream outlives the client's connection: in a session every event has an id, with which the client gets the rest (R9). Without one no
 *     event has an id, and a server that ends its stream for the client to come back has given no answer.
 * A6  A client that has cancelled its request gets no answer to it, whatever the upstream still says.
 */
export class CallAnswer {
  readonly #response: ClientResponse;
  readonly #writer: SseWriter;
  readonly #requestId: string | number;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #nowMs: () => number;
  /** Null: nothing was asked. */
  #asked: Set<string> | null = null;
  #progress = Number.NEGATIVE_INFINITY;
  /** What the client had seen when the current attempt began. */
  #progressFloor = Number.NEGATIVE_INFINITY;
  #acknowledged = false;
  /** What is told when a server acknowledges what the client listens to; it is passed on of the first alone. */
  onAcknowledged: ((message: Readonly<Record<string, unknown>>) => void) | null = null;
  #done = false;
  /** What has to be done before the client has the answer; null: nothing. The promise never fails. */
  beforeAnswer: ((message: Answer, endpoint: string) => Promise<void> | null) | null = null;
  readonly #resumable: Resumable | null;
  #isPrimed = false;
  #log: StreamLog | null = null;
  readonly #visible: VisibleAnswer;

  constructor(
    response: ClientResponse,
    requestId: string | number,
    headers: Readonly<Record<string, string>>,
    nowMs: () => number,
    visible: VisibleAnswer = asItIs,
    resumable: Resumable | null = null,
  ) {
    this.#resumable = resumable;
    this.#response = response;
    this.#writer = new SseWriter(response);
    this.#requestId = requestId;
    this.#headers = headers;
    this.#nowMs = nowMs;
    this.#visible = visible;
  }

  get done(): boolean {
    return this.#done;
  }
  /** The server has asked the client something (sampling, elicitation): such a call is not sent again. */
  get prompted(): boolean {
    return this.#asked !== null && this.#asked.size > 0;
  }
  get streaming(): boolean {
    return this.#writer.open;
  }

  /** Keeps a quiet stream alive through what lies between; opens it when the answer lets itself be waited for. */
  heartbeat(everyMs: number): void {
    const nowMs = this.#nowMs();
    const sink = this.#sink;
    if (this.#writer.open && sink !== null && isQuiet(sink, everyMs, nowMs)) sink.comment("alive", nowMs);
  }

  /** Relays a successful answer (2xx with a body). */
  relay(response: UpstreamResponse, hold: Hold | null, where: string, lane: AnyLane = alone): Relayed | Promise<Relayed> {
    const type = String(response.headers["content-type"] ?? "");
    if (type.includes("text/event-stream")) return this.#relayStream(response, hold, where, lane);
    if (!type.includes("application/json")) {
      response.discard(restMs);
      return failed("malformed", `${where} answered with content type ${JSON.stringify(type.slice(0, 80))}`);
    }
    const bytes = response.whole?.(answerBytesMax) ?? null;
    if (bytes !== null) return this.#relayWhole(bytes, response, where, lane);
    return response.collect(answerBytesMax).then(
      (late) => this.#relayWhole(late, response, where, lane),
      (error: unknown) => failedBy(error, where),
    );
  }

  #relayWhole(bytes: Buffer, response: UpstreamResponse, where: string, lane: AnyLane): Relayed | Promise<Relayed> {
    let message: ServerMessage | null = outlinedAnswer(bytes);
    if (message === null) {
      const text = bytes.toString("utf8");
      if (isTooDeep(text)) return failed("malformed", `${where} answered with something that is nested too deeply`);
      try {
        message = serverMessageOf(JSON.parse(text));
      } catch {
        response.distrust?.();
        return failed("malformed", `${where} answered with something that is not JSON`);
      }
    }
    if (message.kind !== "answer" || message.id !== this.#requestId) {
      response.distrust?.();
      return failed("malformed", `${where} answered with something that is no answer to the request`);
    }
    if (!lane.takes(kindOf(message, lane))) return { kind: "withheld" };
    const kept = this.beforeAnswer?.(message, where) ?? null;
    if (kept === null) return this.#answerWhole(message, bytes, response, where);
    // The connection may use its memory again meanwhile.
    const own = Buffer.from(bytes);
    const { kind, id, error, isError, value } = message;
    const answer: Answer = { kind, id, error, isError, value };
    return kept.then(() => this.#answerWhole(answer, own, response, where));
  }

  #answerWhole(message: Answer, bytes: Buffer, response: UpstreamResponse, where: string): Relayed {
    const shown = this.#visible(message, where);
    this.#finish(shown === null ? bytes : Buffer.from(JSON.stringify(shown)), response.status, response);
    return { kind: "answered", told: toldOf(message, response.status), message };
  }

  /** Passes on an answer that is no success, as it is (a caller's error). */
  pass(status: number, body: Buffer, response: UpstreamResponse): void {
    this.#finish(body, status, response);
  }

  /** A whole answer with headers of its own (`initialize`). */
  whole(body: Buffer, headers: Readonly<Record<string, string>>): void {
    if (this.#done) return;
    this.#done = true;
    sendJson(this.#response, 200, body, { ...this.#headers, ...headers });
  }

  /** The request is not taken at all. */
  refuse(refusal: RefusedRequest): void {
    if (this.#writer.open) {
      this.#finish(Buffer.from(JSON.stringify(rpcErrorBody(this.#requestId, refusal.rpcCode, refusal.message))), 200, null);
      return;
    }
    this.#done = true;
    sendRefusal(this.#response, refusal);
  }

  /** The router's own result. */
  result(result: object): void {
    this.#finish(Buffer.from(JSON.stringify({ jsonrpc: "2.0", id: this.#requestId, result })), 200, null);
  }

  /** The router's own error, in-band: HTTP 200, or an event on the stream that has begun (R10, R22). */
  error(error: RouterError, place: { upstream: string; operationId: string }): void {
    this.#finish(Buffer.from(JSON.stringify(rpcErrorMessage(this.#requestId, error, place))), 200, null);
  }

  /** Where somebody else reads the server: a message that comes before the answer. False: hold it back until `goOn`. */
  tell(message: object, goOn: () => void): boolean {
    if (this.#done) return true;
    this.#begin(this.#headers);
    return this.#write({ event: "message", data: JSON.stringify(message) }, null, goOn);
  }
  /** And its answer. */
  give(message: object): void {
    this.#finish(Buffer.from(JSON.stringify(message)), 200, null);
  }
  /** Gives the client an id to come back with, should the answer let itself be waited for. Returns how not to. */
  primeLater(): () => void {
    if (this.#resumable === null || this.#resumable.version < firstPrimedVersion) return () => undefined;
    const timer = setTimeout(() => this.#prime(this.#headers), primeAfterMs);
    return () => clearTimeout(timer);
  }
  /** Whether somebody is there to hear it: the client that asked, or the same one that came back. */
  get isHeard(): boolean {
    const sink = this.#sink;
    return sink !== null && !sink.gone;
  }

  /** A message of the router's own, on the stream that has begun. */
  say(message: object): void {
    if (this.#writer.open && !this.#done) this.#write({ event: "message", data: JSON.stringify(message) }, null);
  }

  /** Ends the stream without an answer: the client will come for it with its last event id. */
  park(): void {
    this.#done = true;
    if (this.#log === null) this.#writer.end();
    else this.#log.park(this.#nowMs());
  }

  /** The client has cancelled its request: what is under way ends, and it gets no answer (A6). */
  cancel(): void {
    if (this.#done) return;
    this.#done = true;
    if (this.#log === null) {
      this.#writer.begin(this.#headers);
      this.#writer.end();
      return;
    }
    // SDK clients come back to a stream that ends without an answer; the id says to any router process that nothing follows (L4).
    if (this.#resumable !== null && this.#resumable.version >= firstPrimedVersion) this.#log.write({ data: "" }, null, this.#nowMs(), true);
    this.#log.cancel(this.#nowMs());
  }

  /** Tells the client that what the dead server asked is void (A4). */
  withdraw(): void {
    for (const id of this.#asked ?? []) {
      const message = { jsonrpc: "2.0", method: "notifications/cancelled", params: { requestId: id, reason: "the server is gone" } };
      if (this.#writer.open) this.#write({ event: "message", data: JSON.stringify(message) }, null);
    }
    this.#asked = null;
  }

  #finish(body: Buffer, status: number, response: UpstreamResponse | null): void {
    if (this.#done) return;
    this.#done = true;
    if (this.#writer.open) {
      this.#write({ event: "message", data: body.toString("utf8") }, null, null, true);
      this.#end();
      return;
    }
    sendJson(this.#response, status, body, this.#headersWith(response));
  }

  #headersWith(response: UpstreamResponse | null): Record<string, string> {
    const headers: Record<string, string> = {};
    for (const name in this.#headers) headers[name] = this.#headers[name] as string;
    if (response !== null) addPassedHeaders(response, headers);
    return headers;
  }

  #relayStream(response: UpstreamResponse, hold: Hold | null, where: string, lane: AnyLane): Promise<Relayed> {
    this.#progressFloor = this.#progress;
    return new Promise((resolve) => {
      let lastEventId: string | null = null;
      let answered = false;
      // Of a second attempt nothing is passed on while the first one lives: an id of that time is none that the client has.
      let told = !lane.isSecond;
      const headers = this.#headersWith(response);
      const isToBePrimed =
        this.#resumable !== null && this.#resumable.version >= firstPrimedVersion && !this.#writer.open && !lane.isSecond;
      const silent = isToBePrimed ? setTimeout(() => this.#prime(headers), primeAfterMs) : undefined;
      readEvents(response, {
        event: (event) => {
          if (answered) return true;
          const isMessage = event.event === undefined || event.event === "message";
          const message: ServerMessage = isMessage && event.data !== "" ? readServerMessage(event.data) : { kind: "other" };
          if (message.kind === "answer" && message.id !== this.#requestId) {
            // It is another client's perhaps, and so is what comes on its connection after it (U5).
            response.distrust?.();
            return true;
          }
          if (event.id !== undefined && event.id !== "") lastEventId = event.id;
          // An event without data is no part of an answer.
          const taken = event.data === "" ? !lane.isSecond : lane.takes(kindOf(message, lane));
          if (!taken) {
            // A question that the client is not asked would be waited for until the deadline.
            if (message.kind !== "answer" && message.kind !== "request") return true;
            answered = true;
            clearTimeout(silent);
            response.cancel("the answer is not wanted");
            resolve({ kind: "withheld" });
            return true;
          }
          if (!this.#wanted(message, hold)) return true;
          clearTimeout(silent);
          told ||= event.id !== undefined && event.id !== "";
          if (event.data === "" && this.#isPrimed) {
            // The client has an id of this stream already, from the router; one of the upstream lets it go on through another router process too.
            return event.id === undefined || event.id === "" || this.#write(event, hold, () => response.resume());
          }
          this.#begin(headers);
          if (message.kind !== "answer") return this.#write(rewriteEvent(event, message, hold), hold, () => response.resume());
          answered = true;
          const finish = (): void => {
            // Cancelled while its task was noted.
            if (this.#done) {
              resolve({ kind: "withheld" });
              return;
            }
            const shown = this.#visible(message, where);
            const own = shown === null ? event : { ...event, data: JSON.stringify(shown) };
            this.#write(rewriteEvent(own, message, hold), hold, () => response.resume(), true);
            this.#done = true;
            this.#end();
            const rest = setTimeout(() => response.cancel("the answer is complete"), restMs);
            rest.unref();
            resolve({ kind: "answered", told: toldOf(message, response.status), message });
          };
          const kept = this.beforeAnswer?.(message, where) ?? null;
          if (kept === null) finish();
          else kept.then(finish);
          return true;
        },
        end: () => {
          clearTimeout(silent);
          if (answered) return;
          // With an event id a session's client can come back for the answer; without one, or without a session, it never could.
          if (lastEventId !== null && told && this.#resumable !== null)
            resolve({ kind: "parked", told: { outcome: "ok", httpStatus: response.status, toolError: false } });
          else resolve({ ...failed("closed", `${where} ended its stream without an answer`), lastEventId });
        },
        error: (error) => {
          clearTimeout(silent);
          // It is about to be passed on: the call is not made again.
          if (answered) return;
          resolve({ ...failedBy(error, where), lastEventId });
        },
        malformed: (message) => {
          clearTimeout(silent);
          if (answered) return;
          resolve(failed("malformed", `${where}: ${message}`));
        },
      });
    });
  }

  get #sink(): EventSink | null {
    return this.#log === null ? this.#writer : this.#log.sink;
  }

  #begin(headers: Readonly<Record<string, string>>): void {
    if (this.#writer.open) return;
    this.#writer.begin(headers);
    if (this.#resumable === null || !this.#writer.open) return;
    this.#log = this.#resumable.logs.open(this.#requestId);
    this.#log.sink = this.#writer;
  }

  /** The upstream is silent: an event without data gives the client an id to come back with, should its connection break (R9). */
  #prime(headers: Readonly<Record<string, string>>): void {
    if (this.#done || this.#writer.open) return;
    this.#begin(headers);
    this.#log?.write({ data: "", retryMs }, null, this.#nowMs());
    this.#isPrimed = true;
  }

  #end(): void {
    if (this.#log === null) this.#writer.end();
    else this.#log.end(this.#nowMs());
  }

  #write(event: SseEvent, hold: Hold | null, resume: (() => void) | null = null, isAnswer = false): boolean {
    // Without a session there is nothing to come back to, and so no id to do it with (R9).
    const more =
      this.#log === null
        ? this.#writer.write({ event: event.event, data: event.data }, this.#nowMs())
        : this.#log.write(event, hold, this.#nowMs(), isAnswer);
    if (!more && resume !== null) this.#sink?.whenDrained(resume);
    return more;
  }

  /** Whether the client should see a message; remembers what A3 and A4 need. */
  #wanted(message: ServerMessage, hold: Hold | null): boolean {
    if (message.kind === "request") {
      this.#asked ??= new Set();
      if (hold !== null && this.#asked.size < 1024) this.#asked.add(tagRequestId(message.id, hold));
      else this.#asked.add(String(message.id));
      return true;
    }
    if (message.kind !== "notification") return true;
    if (message.method === "notifications/progress") {
      const params = message.value["params"];
      const progress = isObject(params) ? params["progress"] : undefined;
      if (typeof progress !== "number") return true;
      if (progress <= this.#progressFloor) return false;
      this.#progress = Math.max(progress, this.#progress);
    }
    if (message.method === "notifications/subscriptions/acknowledged") {
      this.onAcknowledged?.(message.value);
      if (this.#acknowledged) return false;
      this.#acknowledged = true;
    }
    return true;
  }
}

/** What may travel from an upstream to the client besides the body. No cookies, no credentials (requirement R24). */
function addPassedHeaders({ headers }: UpstreamResponse, passed: Record<string, string>): void {
  for (const name in headers) {
    const value = headers[name];
    if (typeof value !== "string" || name === "mcp-session-id") continue;
    if (name === "content-type" || name === "cache-control" || name === "retry-after" || name === "allow" || name.startsWith("mcp-")) {
      passed[name] = value;
    }
  }
}

export function toldOf(message: Answer, httpStatus: number): AttemptResult {
  const { outcome, toolError } = classifyMcpAnswer({ httpStatus, rpcErrorCode: message.error, isError: message.isError });
  return { outcome: outcome === "hard" ? "caller" : outcome, httpStatus, toolError };
}

function kindOf(message: ServerMessage, { isSecond }: AnyLane): "answer" | "error" | "before_answer" {
  if (message.kind !== "answer") return "before_answer";
  if (message.error !== null || message.isError) return "error";
  // A question is not what a late read was made again for: the first attempt goes on, and the user is asked once.
  const result = isSecond ? message.value["result"] : null;
  return isObject(result) && result["resultType"] === "input_required" ? "error" : "answer";
}

export type Failed = Extract<Relayed, { kind: "failed" }>;

export function failed(code: ExchangeFailure, message: string): Failed {
  return { kind: "failed", told: { outcome: "hard", code, executed: "unknown", message }, lastEventId: null };
}
function failedBy(error: unknown, where: string): Failed {
  if (error instanceof UpstreamError) return failed(error.code, error.message);
  return failed("other", `${where}: the answer could not be read`);
}
