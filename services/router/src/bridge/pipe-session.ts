import { serverMessageOf } from "../mcp/envelope.ts";
import { formatEvent } from "../mcp/sse.ts";
import { AbortedByRouter, UpstreamError, type UpstreamRequest, type UpstreamResponse } from "../upstream-client.ts";
import { LocalExchange, LocalResponse, refuseEnded } from "./local-exchange.ts";
import {
  askedTokenOf,
  clientMessageOf,
  idKey,
  jsonHeaders,
  lineOf,
  type MessagePipe,
  MessageRefused,
  oldestBegunMs,
  type PipeListener,
  progressTokenOf,
  refusal,
  sseHeaders,
  tooMany,
  unknownSession,
} from "./message-pipe.ts";

/**
 * One session of the legacy era on a line of its own, spoken to as a server with Streamable HTTP is (requirement R25: one process is one
 * session). Guarantees:
 * B1  A request has one answer: the server's, or an error when the line ends; that error says `written` unless the line refused the message.
 * B2  What the server says while a request runs goes to the stream of the request that it names (progress); a log line or a request of the
 *     server, which names none, to that of the latest request; everything else to the session's own stream.
 * B3  What waits for the session's own stream, and how many requests wait for an answer, is bounded. The line waits for a client that does not read
 *     its stream only while no request of it waits: of what is said by the way then, what is too much is dropped.
 * B4  When the line has ended the session is unknown (404), which lets the data plane introduce it again.
 * B5  An answer that comes after its asker has left is for nobody: its id is not taken for another request before that, nor before `leftMax` others
 *     were left.
 */
export class PipeSession implements PipeListener {
  readonly id: string;
  readonly #limits: PipeLimits;
  readonly #pending = new Map<string, Pending>();
  /** Ids of requests whose client has left, and whose answers may still come (B5). */
  readonly #left = new Set<string>();
  #pipe: MessagePipe | null = null;
  #stream: LocalResponse | null = null;
  #waiting: string[] = [];
  #waitingChars = 0;
  #dropped = 0;
  #closed = false;
  /** `initialize` was answered. */
  #begun = false;
  #usedAtMs: number;

  constructor(id: string, limits: PipeLimits) {
    this.id = id;
    this.#limits = limits;
    this.#usedAtMs = limits.nowMs();
  }

  get closed(): boolean {
    return this.#closed;
  }
  get busy(): boolean {
    return this.#pending.size > 0 || this.#stream !== null;
  }
  get inFlight(): number {
    return this.#pending.size;
  }
  /** When the oldest request that waits for its answer was given to the server (`performance.now()`); null: none waits. */
  get oldestBegunMs(): number | null {
    return oldestBegunMs(this.#pending);
  }
  get usedAtMs(): number {
    return this.#usedAtMs;
  }
  get dropped(): number {
    return this.#dropped;
  }

  /** Gives the session its line; to be called once, before the first request. One that was ended meanwhile has no use for it. */
  attach(pipe: MessagePipe): void {
    this.#pipe = pipe;
    if (this.#closed) pipe.close();
  }

  /** The `initialize` of the session. Without an answer nobody learns of the session, so it ends with its line. */
  async begin(request: UpstreamRequest): Promise<UpstreamResponse> {
    if (this.#closed) throw new UpstreamError("closed", "the session was ended before it had begun", false);
    try {
      return await this.handle(request);
    } catch (error) {
      this.end();
      throw error;
    }
  }

  async handle(request: UpstreamRequest): Promise<UpstreamResponse> {
    const pipe = this.#pipe;
    if (this.#closed || pipe === null) return unknownSession();
    this.#usedAtMs = this.#limits.nowMs();
    switch (request.method) {
      case "POST":
        return this.#post(request, pipe);
      case "GET":
        return this.#get(request, pipe);
      case "DELETE":
        this.end();
        return LocalResponse.whole(200, {}, "");
      default:
        return refusal(405, -32000, "Method not allowed.", { allow: "GET, POST, DELETE" });
    }
  }

  /** Ends the session and its line. */
  end(): void {
    this.#pipe?.close();
    this.lineEnded(new UpstreamError("closed", "the session was ended", true));
  }

  message(value: Record<string, unknown>, text: string): void {
    const message = serverMessageOf(value);
    if (message.kind === "answer") {
      const pending = message.id === null ? undefined : this.#pending.get(idKey(message.id));
      if (pending === undefined) {
        if (message.id !== null) this.#left.delete(idKey(message.id));
        return;
      }
      this.#begun = true;
      if (pending.exchange.begun) {
        this.#push(pending, text);
        pending.exchange.end();
      } else pending.exchange.whole(200, { ...jsonHeaders, ...pending.headers }, text);
      return;
    }
    const pending = this.#belongsTo(value, message.kind);
    if (pending !== null) {
      if (!pending.exchange.begun) pending.exchange.begin(200, { ...sseHeaders, ...pending.headers }, () => this.#pipe?.resume());
      this.#push(pending, text);
    } else this.#toStream(text);
  }
  lineEnded(error: UpstreamError): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const { exchange } of [...this.#pending.values()]) exchange.fail(error);
    this.#stream?.fail(error);
    this.#stream = null;
    this.#waiting = [];
    this.#limits.onEnd(this);
  }

  async #post(request: UpstreamRequest, pipe: MessagePipe): Promise<UpstreamResponse> {
    const message = clientMessageOf(request.body);
    if (message === null) return refusal(400, -32700, "Parse error: Invalid JSON-RPC message");
    const line = lineOf(request.body, message.value);
    if (message.kind !== "request") {
      return (await this.#give(pipe, line)) ?? LocalResponse.whole(202, {}, "");
    }
    const key = idKey(message.id);
    if (this.#pending.has(key) || this.#left.has(key)) return refusal(400, -32600, "Invalid Request: a request with this id is under way");
    if (this.#pending.size >= this.#limits.pendingMax) return tooMany("requests wait for an answer of this session");
    refuseEnded(request.signal);
    const exchange = new LocalExchange(request.signal, (aborted) => {
      this.#pending.delete(key);
      if (aborted) this.#leave(key, request.signal?.reason);
      // A reader that was too slow may never ask for more: the line is not its own.
      pipe.resume();
    });
    const headers = message.method === "initialize" ? { "mcp-session-id": this.id } : {};
    // It may wait for a slow reader of the session's own stream.
    pipe.resume();
    this.#pending.set(key, { exchange, headers, token: askedTokenOf(message.value), begunMs: performance.now() });
    try {
      const refused = await this.#give(pipe, line);
      // Another session may take the message: the line ended before it had it (B4). There is none yet where this one was to begin.
      if (refused !== null) {
        exchange.end();
        return refused;
      }
    } catch (error) {
      exchange.fail(error instanceof UpstreamError ? error : new UpstreamError("other", "the message could not be sent", true, error));
    }
    return exchange.response;
  }

  /** One that the router has ended may be made again, and is another run of the same request; one whose client has left never is. */
  #leave(key: string, reason: unknown): void {
    if (!(reason instanceof AbortedByRouter) || reason.kind !== "client_gone") return;
    this.#left.add(key);
    if (this.#left.size > leftMax) this.#left.delete(this.#left.values().next().value as string);
  }

  /** Hands a message over; the answer to it where the line has none for it. */
  async #give(pipe: MessagePipe, line: string): Promise<UpstreamResponse | null> {
    try {
      await pipe.send(line);
      return null;
    } catch (error) {
      if (error instanceof MessageRefused) return error.response;
      if (this.#begun && this.#closed && error instanceof UpstreamError && !error.written) return unknownSession();
      throw error;
    }
  }

  #get(request: UpstreamRequest, pipe: MessagePipe): UpstreamResponse {
    // Whoever has it is the data plane of this process, and is heard when it leaves: it never hangs, as a client's connection may.
    if (this.#stream !== null) return refusal(409, -32000, "Conflict: Only one SSE stream is allowed per session");
    const leave = (): void => {
      request.signal?.removeEventListener("abort", onAbort);
      if (this.#stream === stream) this.#stream = null;
      pipe.resume();
    };
    const stream = new LocalResponse(200, sseHeaders, { onResume: () => pipe.resume(), onCancel: leave });
    const onAbort = (): void => {
      leave();
      stream.fail(new UpstreamError("other", "the stream was given up", true, request.signal?.reason));
    };
    this.#stream = stream;
    if (request.signal?.aborted) onAbort();
    else request.signal?.addEventListener("abort", onAbort, { once: true });
    const waiting = this.#waiting;
    this.#waiting = [];
    this.#waitingChars = 0;
    for (const text of waiting) this.#toStream(text);
    return stream;
  }

  /** B2. */
  #belongsTo(value: Record<string, unknown>, kind: string): Pending | null {
    const token = progressTokenOf(value);
    if (token !== null) {
      for (const pending of this.#pending.values()) if (pending.token === token) return pending;
      return null;
    }
    const method = value["method"];
    const related = kind === "request" || method === "notifications/message" || method === "notifications/cancelled";
    return related ? ([...this.#pending.values()].at(-1) ?? null) : null;
  }

  #push({ exchange }: Pending, text: string): void {
    if (!exchange.push(formatEvent({ event: "message", data: text }))) this.#pipe?.pause();
  }

  #toStream(text: string): void {
    if (this.#stream !== null) {
      const isAwaited = this.#pending.size > 0;
      if (isAwaited && this.#stream.isFull) this.#dropped += 1;
      else if (!this.#stream.push(Buffer.from(formatEvent({ event: "message", data: text }))) && !isAwaited) this.#pipe?.pause();
      return;
    }
    this.#waiting.push(text);
    this.#waitingChars += text.length;
    while (this.#waitingChars > this.#limits.waitingCharsMax || this.#waiting.length > this.#limits.waitingMax) {
      this.#waitingChars -= (this.#waiting.shift() as string).length;
      this.#dropped += 1;
    }
  }
}

/** Of those that nobody has used since then, the one that has rested longest. */
export function restingLongest(sessions: Iterable<PipeSession>, beforeMs: number): PipeSession | undefined {
  let oldest: PipeSession | undefined;
  for (const session of sessions) {
    if (!session.busy && session.usedAtMs < Math.min(beforeMs, oldest?.usedAtMs ?? Number.POSITIVE_INFINITY)) oldest = session;
  }
  return oldest;
}

const leftMax = 256;

interface Pending {
  readonly exchange: LocalExchange;
  /** What the answer carries besides its type: `initialize` gives the session's id. */
  readonly headers: Readonly<Record<string, string>>;
  readonly token: string | number | null;
  readonly begunMs: number;
}

export interface PipeLimits {
  /** Requests of one session that wait for an answer. */
  readonly pendingMax: number;
  /** What waits for the session's own stream. */
  readonly waitingMax: number;
  readonly waitingCharsMax: number;
  readonly nowMs: () => number;
  readonly onEnd: (session: PipeSession) => void;
}
