import { Ending, type EndSignal, eitherOf } from "../ending.ts";
import { rpcCodes } from "../errors.ts";
import type { Principal } from "../identity/principal.ts";
import { type ServerMessage, serverMessageOf } from "../mcp/envelope.ts";
import { clientDeadlineMs, operationHeader } from "../mcp/inbound.ts";
import { AbortedByRouter, type UpstreamResponse } from "../upstream-client.ts";
import { type Asked, errorOf, InnerError, isStream, type Listener, readMessages, wholeAnswer } from "./inner-answer.ts";
import type { LocalCall } from "./local-request.ts";
import { listenToEnd } from "./parked.ts";
import { lists } from "./translate.ts";

export interface InnerDeps {
  readonly call: LocalCall;
  readonly principal: () => Principal;
  /** The client's own `initialize` params. */
  readonly clientParams: Readonly<Record<string, unknown>>;
  /** Headers of the client that every request carries: name of the agent, trace. */
  readonly passed: Readonly<Record<string, string>>;
  /** Id of the session that another router process began with the upstream. */
  readonly known: (upstream: string) => Promise<string | null>;
  /**
   * Says that one was begun, in place of `lost`. Returns the one that all use from now on, which is another one where another process was
   * first; null: the client has ended its session meanwhile.
   */
  readonly learned: (upstream: string, id: string, lost: string | null) => Promise<string | null>;
  /** What the server says by itself. */
  readonly heard: (upstream: string, message: ServerMessage, value: Record<string, unknown>) => void;
  /** Whether the client's stream is in this process. */
  readonly wanted: () => boolean;
  readonly level: () => Promise<unknown>;
  readonly subscriptions: (upstream: string) => Promise<readonly string[]>;
}

/** A request of the router's own is looked after for so long when the upstream parks it; a client's, until the client leaves. */
const parkedMsMax = 60_000;
/** `initialize` has the time of any call of its upstream; what follows it in a begin is waited for so long, all together. */
const introduceMsMax = 10_000;
const beginsMax = 2;
/** A server that has no stream of its own is asked for one again after so long: its session may live on another endpoint then. */
const streamlessMs = 60_000;
const reopenMsMin = 200;
const reopenMsMax = 5000;

/**
 * A client's session with one of the upstreams, begun when it is first needed, over the router's own `/mcp/<upstream>`: retries, breakers,
 * failover and replay are those of any client's session. Guarantees:
 * I1  One `initialize` however many requests wait; a session that is lost for good is begun again, once a request. Of several router processes
 *     that begin one at once all go on with the same, and the others are ended.
 * I2  A request has one answer: the upstream's, or a JSON-RPC error.
 * I3  A session is begun for all who wait: one that waits no longer leaves it to the others, and has its answer by its own deadline.
 * I4  One that is lost while the client listens is begun again, and the client is told that all may have changed that it is told changes of.
 */
export class InnerSession implements Asked {
  readonly upstream: string;
  readonly #deps: InnerDeps;
  #id: string | null = null;
  #begun = false;
  #wasBegun = false;
  #beginning: Promise<void> | null = null;
  #stream: UpstreamResponse | null = null;
  #streaming = false;
  /** It was begun again for its stream, and has none though its server is there: another time would not help. */
  #isMute = false;
  /** `performance.now()`. */
  #streamlessUntilMs = Number.NEGATIVE_INFINITY;
  #closed = false;

  constructor(upstream: string, deps: InnerDeps) {
    this.upstream = upstream;
    this.#deps = deps;
  }
  get begun(): boolean {
    return this.#begun;
  }

  /** Throws {@link InnerError} where no session can be had. `withdrawn`: whoever asked has left, and what is not sent yet never is. */
  async request(
    message: Record<string, unknown>,
    headers: Readonly<Record<string, string>>,
    listen: Listener,
    waited?: EndSignal,
    withdrawn?: EndSignal,
  ): Promise<void> {
    const patience = new Patience(headers);
    const given = withdrawn === undefined ? patience.over : eitherOf(patience.over, withdrawn);
    try {
      for (let tries = 0; ; tries++) {
        await this.#begunBefore(given, headers);
        const id = this.#id;
        const response = await this.#send("POST", message, patience.left(headers), { id });
        // What another process knew of may be lost too.
        if (tries < beginsMax && isSessionGone(response)) {
          response.discard(100);
          this.#noteLost(id);
          continue;
        }
        // What the upstream has parked is waited for by the router, and no longer than its client does.
        const wanted = eitherOf(patience.over, waited ?? AbortSignal.timeout(parkedMsMax));
        return await this.#listen(response, message["id"] as string | number, listen, wanted);
      }
    } finally {
      patience.end();
    }
  }

  /** A message without an answer, also in a session that another router process began; where there is none, nobody has to hear it. */
  async tell(message: Record<string, unknown>): Promise<void> {
    const id = this.#begun ? this.#id : await this.#deps.known(this.upstream);
    if (this.#begun || id !== null) (await this.#send("POST", message, {}, { id })).discard(100);
  }

  /** Hears what the server says by itself, in a session that was begun here or by another router process. */
  async listenAlways(): Promise<void> {
    if (this.#streaming || this.#closed) return;
    await this.#begin({});
    this.#openStream();
  }
  /** The client's stream is gone: whoever has it next listens. */
  stopListening(): void {
    this.#stream?.cancel("nobody listens");
  }

  /** Also a session that another router process began, and this one never used. */
  async end(): Promise<void> {
    this.close();
    if (!this.#begun) this.#id = (await this.#deps.known(this.upstream)) ?? this.#id;
    if (this.#id !== null) (await this.#send("DELETE", null, {})).discard(100);
    this.#begun = false;
  }
  /** Gives up the stream; the session itself stays. */
  close(): void {
    this.#closed = true;
    this.#stream?.cancel("the session is over");
  }

  /** I3. Nothing of the request was sent where it throws. */
  #begunBefore(over: EndSignal, headers: Readonly<Record<string, string>>): Promise<void> {
    if (this.#begun && !over.aborted) return Promise.resolve();
    const late = new InnerError(lateError(this.upstream));
    return new Promise((resolve, reject) => {
      const onOver = (): void => reject(late);
      if (over.aborted) return onOver();
      over.addEventListener("abort", onOver, { once: true });
      this.#begin(headers)
        .then(resolve, reject)
        .finally(() => over.removeEventListener("abort", onOver));
    });
  }

  #begin(headers: Readonly<Record<string, string>>): Promise<void> {
    if (this.#begun) return Promise.resolve();
    const lost = this.#id;
    this.#beginning ??= this.#initialize(headers, lost)
      .catch((error: unknown) => {
        // It stays known as lost: the directory names it until another one is begun.
        this.#id = lost;
        throw error;
      })
      .finally(() => {
        this.#beginning = null;
      });
    return this.#beginning;
  }

  /** Whoever says so after another one was begun means the one before. */
  #noteLost(id: string | null): void {
    if (this.#id === id) this.#begun = false;
  }

  async #initialize({ [deadlineHeader]: _own, ...headers }: Readonly<Record<string, string>>, lost: string | null): Promise<void> {
    const { known, learned, clientParams } = this.#deps;
    const before = await known(this.upstream);
    if (before !== null && before !== lost) this.#id = before;
    else {
      this.#id = null;
      const response = await this.#send(
        "POST",
        { jsonrpc: "2.0", id: "mcpa-initialize", method: "initialize", params: clientParams },
        headers,
      );
      await this.#listen(response, "mcpa-initialize", (message, value) => {
        if (message.kind === "answer" && message.error !== null) throw new InnerError(errorOf(value));
        return true;
      });
      const id = response.headers["mcp-session-id"];
      this.#id = typeof id === "string" ? id : null;
      const untilMs = performance.now() + introduceMsMax;
      const initialized = this.#send("POST", { jsonrpc: "2.0", method: "notifications/initialized" }, {});
      if (!(await isDoneWithin(initialized, introduceMsMax))) {
        this.#abandon();
        throw new InnerError(lateError(this.upstream));
      }
      (await initialized).discard(100);
      if (this.#id !== null) {
        const stands = await learned(this.upstream, this.#id, lost);
        if (stands !== this.#id) this.#abandon();
        if (stands === null) throw new InnerError({ code: -32001, message: "the session has ended" });
        this.#id = stands;
      }
      // What is said again slowly goes on by itself: the session stands.
      await isDoneWithin(this.#sayAgain(this.#id), untilMs - performance.now());
    }
    this.#begun = true;
    this.#streamlessUntilMs = Number.NEGATIVE_INFINITY;
    if (this.#wasBegun && this.#deps.wanted()) await this.#tellGap();
    this.#wasBegun = true;
    if (this.#deps.wanted()) this.#openStream();
  }

  /** What the client has set in this session before. */
  async #sayAgain(id: string | null): Promise<void> {
    const { level, subscriptions } = this.#deps;
    const say = async (method: string, params: unknown): Promise<void> => {
      if (this.#closed || this.#id !== id) return;
      const message = { jsonrpc: "2.0", id: "mcpa-again", method, params };
      const said = await this.#send("POST", message, { [deadlineHeader]: String(introduceMsMax) });
      await this.#listen(said, "mcpa-again", () => undefined);
    };
    const set = await level();
    if (set !== undefined) await say("logging/setLevel", set);
    for (const uri of await subscriptions(this.upstream)) await say("resources/subscribe", { uri });
  }

  /** Nobody uses what was begun, and each further try begins another one. */
  #abandon(): void {
    if (this.#id === null) return;
    this.#send("DELETE", null, {}).then(
      (response) => response.discard(100),
      () => undefined,
    );
  }

  /** Whether the router takes the session for lost; it answers a ping itself where it does not. */
  async #isOver(id: string | null): Promise<boolean> {
    const ping = { jsonrpc: "2.0", id: "mcpa-ping", method: "ping" };
    const response = await this.#send("POST", ping, {}, { id }).catch(() => null);
    response?.discard(100);
    return response !== null && isSessionGone(response);
  }

  /** Whatever keeps it away, it is tried again. */
  #isBegunAgain(): Promise<boolean> {
    return this.#begin({}).then(
      () => true,
      () => false,
    );
  }

  async #tellGap(): Promise<void> {
    const tell = (value: Record<string, unknown>): void => this.#deps.heard(this.upstream, serverMessageOf(value), value);
    for (const method of new Set(Object.values(lists).map(({ changed }) => changed))) tell({ jsonrpc: "2.0", method });
    for (const uri of await this.#deps.subscriptions(this.upstream))
      tell({ jsonrpc: "2.0", method: "notifications/resources/updated", params: { uri } });
  }

  #openStream(): void {
    if (this.#streaming || this.#closed || performance.now() < this.#streamlessUntilMs) return;
    this.#streaming = true;
    void this.#keepStream().finally(() => {
      this.#streaming = false;
    });
  }

  #send(
    method: "POST" | "GET" | "DELETE",
    message: object | null,
    headers: Readonly<Record<string, string>>,
    { id = this.#id, signal }: { readonly id?: string | null; readonly signal?: EndSignal } = {},
  ): Promise<UpstreamResponse> {
    const { call, principal, passed } = this.#deps;
    return call({
      upstream: this.upstream,
      method,
      headers: {
        ...passed,
        ...headers,
        accept: method === "GET" ? "text/event-stream" : "application/json, text/event-stream",
        "content-type": "application/json",
        ...(id === null ? {} : { "mcp-session-id": id }),
      },
      body: message === null ? null : Buffer.from(JSON.stringify(message)),
      principal: principal(),
      ...(signal === undefined ? {} : { signal }),
    });
  }

  async #listen(
    response: UpstreamResponse,
    id: string | number,
    listen: Listener,
    waited: EndSignal = AbortSignal.timeout(parkedMsMax),
  ): Promise<void> {
    const { upstream } = this;
    if (!isStream(response)) return wholeAnswer(response, upstream, id, listen);
    return listenToEnd(response, { upstream, id, listen, waited }, (lastEventId, signal) =>
      this.#send("GET", null, { "last-event-id": lastEventId }, { signal }),
    );
  }

  /** The upstream's own stream, as long as the client has its own here. */
  async #keepStream(): Promise<void> {
    let isLost = false;
    const isWanted = (): boolean => !this.#closed && (this.#begun || isLost) && this.#deps.wanted();
    for (let waitMs = reopenMsMin; isWanted(); waitMs = Math.min(2 * waitMs, reopenMsMax)) {
      if (isLost) isLost = !(await this.#isBegunAgain());
      const id = this.#id;
      const response = isLost ? null : await this.#send("GET", null, {}).catch(() => null);
      if (response?.status === 405) {
        this.#streamlessUntilMs = performance.now() + streamlessMs;
        return response.discard(100);
      }
      if (response?.status === 404 && this.#id === id) {
        response.discard(100);
        // A server that has no streams may say so with 404 too.
        if (this.#isMute || !(await this.#isOver(id))) {
          this.#streamlessUntilMs = performance.now() + streamlessMs;
          return;
        }
        this.#noteLost(id);
        this.#isMute = true;
        isLost = true;
      } else if (response?.status === 200 && !this.#closed && this.#deps.wanted()) {
        this.#isMute = false;
        this.#stream = response;
        waitMs = reopenMsMin;
        await readMessages(response, null, (message, value) => {
          this.#deps.heard(this.upstream, message, value);
          return true;
        });
        this.#stream = null;
      } else {
        // Its server is away, and may have lost the session once more when it is back.
        if (response === null || response.status >= 500) this.#isMute = false;
        response?.discard(100);
      }
      await new Promise((resolve) => setTimeout(resolve, waitMs * (0.5 + Math.random())).unref());
    }
  }
}

/** Of what is kept as `upstream uri`, the URIs of one upstream. */
export function urisOf(upstream: string, subscriptions: Iterable<string>): string[] {
  return [...subscriptions].filter((one) => one.startsWith(`${upstream} `)).map((one) => one.slice(upstream.length + 1));
}

/** The router itself refuses a session that is over; a 404 of the upstream is passed on with the operation's id, and its call has run. */
function isSessionGone({ status, headers }: UpstreamResponse): boolean {
  return status === 404 && headers[operationHeader] === undefined;
}

const deadlineHeader = "mcpf-timeout-ms";
const timerMsMax = 2 ** 31 - 1;

/** How long whoever asks waits for its answer, where its headers say so. */
class Patience {
  readonly over = new Ending();
  readonly #untilMs: number;
  readonly #timer: NodeJS.Timeout | undefined;
  constructor(headers: Readonly<Record<string, string>>) {
    const nowMs = performance.now();
    this.#untilMs = clientDeadlineMs(headers, nowMs);
    const leftMs = this.#untilMs - nowMs;
    if (leftMs < timerMsMax) this.#timer = setTimeout(() => this.over.abort(new AbortedByRouter("deadline")), leftMs).unref();
  }

  /** The headers with what is left of the time. */
  left(headers: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
    if (this.#untilMs === Number.POSITIVE_INFINITY) return headers;
    return { ...headers, [deadlineHeader]: String(Math.max(1, Math.round(this.#untilMs - performance.now()))) };
  }
  end(): void {
    clearTimeout(this.#timer);
  }
}

/** False: it goes on by itself. Rejects with the work's own error until then. */
function isDoneWithin(work: Promise<unknown>, ms: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => resolve(false), Math.max(0, ms)).unref();
    work.then(() => resolve(true), reject).finally(() => clearTimeout(timer));
  });
}

function lateError(upstream: string): Record<string, unknown> {
  const message = `no session with ${upstream} could be begun in time; nothing was sent`;
  return { code: rpcCodes.deadline, message, data: { code: "deadline", upstream, retriable: true } };
}
