import { randomBytes } from "node:crypto";
import { Ending } from "../ending.ts";
import { isObject, type ServerMessage } from "../mcp/envelope.ts";
import { AbortedByRouter, UpstreamError } from "../upstream-client.ts";
import { InnerError, rpcErrorOf } from "./inner-answer.ts";
import type { InnerSession } from "./inner-session.ts";
import type { Link } from "./links.ts";
import { oldestOfMost } from "./shares.ts";

type Value = Record<string, unknown>;

/** Who hears of a call: the client's request, or the one with which it came back. */
export interface CallListener {
  /** False: it reads slowly; `goOn` is called when it has caught up. */
  notify(value: Value, goOn: () => void): boolean;
  /** The answer to the request; nothing comes after it. */
  finish(answer: { readonly result: Value } | { readonly error: unknown }): void;
}

/** A client answers within this time, or the call goes on without it. The call's own deadline at its server runs meanwhile. */
const heldMs = 5 * 60_000;
const heldMax = 1000;
/** Of one call, all together; a server that asks more at once is told so. */
const questionsMax = 32;
const questionsCharsMax = 1024 * 1024;
/** Questions of a server that a result can carry; what the client's answer to one looks like is the same in both eras. */
const askable: ReadonlySet<string> = new Set(["elicitation/create", "sampling/createMessage", "roots/list"]);

/**
 * Calls that clients of the modern era have under way at servers that know only sessions. Such a server asks while its call runs, and such a
 * client hears of questions in a result (`input_required`) and comes back with the answers. Guarantees:
 * Q1  While a call waits for answers it stays where it is: it is not made again when the client comes back.
 * Q2  Only who made a call can come back to it, for the same tool, and once an answer.
 * Q3  Who comes back to a call that is not here gets an error that says that it may have run.
 * Q4  When too many wait, one is given up, of the agent that has the most.
 * Q5  Of one call at most `questionsMax` questions wait, and `questionsCharsMax` characters; the server is told of each that is not taken.
 */
export class SessionCalls {
  readonly #held = new Map<string, SessionCall>();
  #number = 0;

  nextId(): string {
    this.#number += 1;
    return `mcpm-${this.#number}`;
  }
  /** The call that a `requestState` names, with the answers given to it; null: it is not here any more. */
  take(handle: string, owner: string, what: string): SessionCall | null {
    const call = this.#held.get(handle);
    if (call === undefined || call.link.key !== owner || call.what !== what) return null;
    this.#held.delete(handle);
    call.released();
    call.link.running -= 1;
    return call;
  }
  hold(call: SessionCall): string {
    const handle = randomBytes(18).toString("base64url");
    this.#held.set(handle, call);
    // Its session is not idle meanwhile.
    call.link.running += 1;
    call.heldUntil(setTimeout(() => this.#giveUp(handle), heldMs));
    if (this.#held.size > heldMax) {
      const oldest = oldestOfMost(
        this.#held,
        ([, { link }]) => link.principal.id,
        ([one]) => one !== handle,
      );
      if (oldest !== undefined) this.#giveUp(oldest[0]);
    }
    return handle;
  }
  #giveUp(handle: string): void {
    const call = this.#held.get(handle);
    if (call === undefined) return;
    this.#held.delete(handle);
    call.released();
    call.link.running -= 1;
    call.cancel();
  }
  close(): void {
    for (const handle of [...this.#held.keys()]) this.#giveUp(handle);
  }
}

export class SessionCall {
  /** Whose it is, and in which sessions. */
  readonly link: Link;
  /** Upstream and tool or prompt: what the client has to ask for again. */
  readonly what: string;
  readonly #inner: InnerSession;
  readonly #calls: SessionCalls;
  readonly #id: string;
  /** Questions that wait for the client, by the key that it knows them by. */
  readonly #asked = new Map<string, { readonly id: string | number; readonly question: Value; readonly chars: number }>();
  #askedChars = 0;
  #questions = 0;
  #listener: CallListener | null = null;
  #answer: Parameters<CallListener["finish"]>[0] | null = null;
  #timer: NodeJS.Timeout | undefined;
  #over = false;
  /** Nobody waits for its answer any more. */
  readonly #left = new Ending();

  constructor(link: Link, what: string, inner: InnerSession, calls: SessionCalls) {
    this.link = link;
    this.what = what;
    this.#inner = inner;
    this.#calls = calls;
    this.#id = calls.nextId();
  }

  /** Sends the request; its answer, or the first question, goes to the listener. */
  begin(method: string, params: Value, progressToken: unknown, headers: Readonly<Record<string, string>>, listener: CallListener): void {
    this.#listener = listener;
    const meta = progressToken === undefined ? {} : { _meta: { progressToken: this.#id } };
    const message = { jsonrpc: "2.0", id: this.#id, method, params: { ...params, ...meta } };
    this.#inner
      .request(message, headers, (heard, value, goOn) => this.#heard(heard, value, progressToken, goOn), this.#left, this.#left)
      .then(
        () => this.#end({ error: { code: -32603, message: `${this.#inner.upstream} gave no answer` } }),
        (error: unknown) => {
          this.#end({ error: error instanceof InnerError || error instanceof UpstreamError ? rpcErrorOf(error) : rpcErrorOf(null) });
        },
      );
  }

  /** The client has come back with what it was asked for. */
  goOn(responses: unknown, listener: CallListener): void {
    this.#listener = listener;
    for (const [key, { id, chars }] of [...this.#asked]) {
      const given = isObject(responses) ? responses[key] : undefined;
      if (given === undefined) continue;
      this.#asked.delete(key);
      this.#askedChars -= chars;
      this.#tell({ jsonrpc: "2.0", id, result: given });
    }
    if (this.#answer !== null) this.#deliver();
    else if (this.#asked.size > 0) this.#ask();
  }

  /** The client has hung up (requirement R13). */
  cancel(): void {
    if (this.#over) return;
    this.#over = true;
    this.#tell({ jsonrpc: "2.0", method: "notifications/cancelled", params: { requestId: this.#id, reason: "the client has left" } });
    this.#left.abort(new AbortedByRouter("client_gone"));
  }
  heldUntil(timer: NodeJS.Timeout): void {
    timer.unref();
    this.#timer = timer;
  }
  released(): void {
    clearTimeout(this.#timer);
  }

  #heard(heard: ServerMessage, value: Value, progressToken: unknown, goOn: () => void): boolean {
    if (heard.kind === "answer") {
      this.#end(isObject(value["result"]) ? { result: { resultType: "complete", ...value["result"] } } : { error: value["error"] });
    } else if (heard.kind === "notification") {
      const params = isObject(value["params"]) ? value["params"] : {};
      const isProgress = heard.method === "notifications/progress";
      return this.#listener?.notify(isProgress ? { ...value, params: { ...params, progressToken } } : value, goOn) ?? true;
    }
    if (heard.kind === "request") this.#question(heard, value);
    return true;
  }

  #question({ id, method }: Extract<ServerMessage, { kind: "request" }>, value: Value): void {
    if (method === "ping") {
      this.#tell({ jsonrpc: "2.0", id, result: {} });
      return;
    }
    if (!askable.has(method)) {
      const message = `Method not found: a client of 2026-07-28 cannot be asked for ${method.slice(0, 100)}`;
      this.#tell({ jsonrpc: "2.0", id, error: { code: -32601, message } });
      return;
    }
    const question = { method, params: value["params"] ?? {} };
    const chars = JSON.stringify(question).length;
    if (this.#asked.size >= questionsMax || this.#askedChars + chars > questionsCharsMax) {
      const message = `too many questions wait for the client: at most ${questionsMax}, and ${questionsCharsMax} characters, of one call`;
      this.#tell({ jsonrpc: "2.0", id, error: { code: -32000, message } });
      return;
    }
    this.#questions += 1;
    this.#askedChars += chars;
    this.#asked.set(`question-${this.#questions}`, { id, question, chars });
    if (this.#listener !== null) this.#ask();
  }

  /** Q1. */
  #ask(): void {
    const listener = this.#listener;
    this.#listener = null;
    const inputRequests = Object.fromEntries([...this.#asked].map(([key, { question }]) => [key, question]));
    listener?.finish({ result: { resultType: "input_required", inputRequests, requestState: this.#calls.hold(this) } });
  }

  #end(answer: Parameters<CallListener["finish"]>[0]): void {
    if (this.#over) return;
    this.#over = true;
    this.#answer = answer;
    this.#deliver();
  }
  #deliver(): void {
    const listener = this.#listener;
    this.#listener = null;
    if (this.#answer !== null) listener?.finish(this.#answer);
  }

  #tell(message: Value): void {
    // A server that cannot be told has lost the call too, and that has its own error.
    this.#inner.tell(message).catch(() => undefined);
  }
}
