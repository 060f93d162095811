import type { EndSignal } from "../ending.ts";
import { RefusedRequest } from "../errors.ts";
import { isObject, readServerMessage, type ServerMessage } from "../mcp/envelope.ts";
import { readEvents } from "../mcp/sse.ts";
import type { UpstreamResponse } from "../upstream-client.ts";

/** What an upstream refused before or instead of a session; `error` is the JSON-RPC error for whoever asked. */
export class InnerError extends Error {
  override readonly name = "InnerError";
  readonly code = "inner_error";
  readonly retriable = true;
  readonly error: Record<string, unknown>;
  constructor(error: Record<string, unknown>) {
    super(String(error["message"]));
    this.error = error;
  }
}

/** Hears every message of an answer, the last being the answer itself. Returns false to hear no more until `goOn` is called. */
export type Listener = (message: ServerMessage, value: Record<string, unknown>, goOn: () => void) => boolean | undefined;

const answerBytesMax = 16 * 1024 * 1024;

/** Whom a request to one upstream is given: a session with it, or the upstream itself where it needs none. */
export interface Asked {
  readonly upstream: string;
  /** Throws {@link InnerError} where nobody can be asked. `waited`: whether somebody waits for an answer that the upstream has parked. */
  request(message: Record<string, unknown>, headers: Readonly<Record<string, string>>, listen: Listener, waited?: EndSignal): Promise<void>;
}

export function isStream({ status, headers }: UpstreamResponse): boolean {
  return status === 200 && String(headers["content-type"] ?? "").includes("text/event-stream");
}

/** Reads an answer that is no stream. Throws {@link InnerError} where it is none at all. */
export async function wholeAnswer(response: UpstreamResponse, upstream: string, id: string | number, listen: Listener): Promise<void> {
  const text = (await response.collect(answerBytesMax)).toString("utf8");
  const message = readServerMessage(text);
  if (message.kind !== "answer") {
    throw new InnerError({ code: -32603, message: `${upstream} answered with status ${response.status} and no JSON-RPC answer` });
  }
  listen(message, { ...message.value, id }, () => undefined);
}

/** What a stream has said, apart from its messages. */
export interface Read {
  readonly answered: boolean;
  readonly lastEventId: string | null;
  /** The pause that the server asks for before a client comes again. */
  readonly retryMs: number | null;
  /** The server has closed it; else it broke off. */
  readonly inOrder: boolean;
}

/** Hands the events over until the answer to `id`, or the end; never rejects but with what `listen` throws. */
export function readMessages(response: UpstreamResponse, id: string | number | null, listen: Listener): Promise<Read> {
  return new Promise((resolve, reject) => {
    let lastEventId: string | null = null;
    let retryMs: number | null = null;
    let answered = false;
    const over = (inOrder: boolean): void => resolve({ answered, lastEventId, retryMs, inOrder });
    readEvents(response, {
      event: (event) => {
        if (event.id !== undefined && event.id !== "") lastEventId = event.id;
        retryMs = event.retryMs ?? retryMs;
        if (event.data === "" || answered) return true;
        const message = readServerMessage(event.data);
        if (message.kind === "other") return true;
        let more = true;
        try {
          more = listen(message, message.value, () => response.resume()) !== false;
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)));
        }
        answered = id !== null && message.kind === "answer" && message.id === id;
        if (answered) over(true);
        return more || answered;
      },
      end: () => over(true),
      error: () => over(false),
      malformed: () => over(false),
    });
  });
}

export function errorOf(value: Record<string, unknown>): Record<string, unknown> {
  return isObject(value["error"]) ? value["error"] : { code: -32603, message: "the upstream failed" };
}
export function lostError(upstream: string): Record<string, unknown> {
  const message = `the answer of ${upstream} broke off; the call may have run`;
  return { code: 1001, message, data: { code: "outcome_unknown", upstream, retriable: false } };
}

/** The JSON-RPC error that a failure of any kind is for the client. */
export function rpcErrorOf(error: unknown): Record<string, unknown> {
  if (error instanceof InnerError) return error.error;
  if (error instanceof RefusedRequest) return { code: error.rpcCode, message: error.message };
  return { code: -32603, message: "internal error of the router" };
}
