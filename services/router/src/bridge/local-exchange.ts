import type { EndSignal } from "../ending.ts";
import { AbortedByRouter, type BodySink, type ResponseHeaders, UpstreamError, type UpstreamResponse } from "../upstream-client.ts";

/**
 * The answer of something that speaks no HTTP, in the form in which the data plane reads those that do. What nobody reads yet is kept, at most
 * `bytesMax`; whoever feeds it is told to wait by `push` and to go on by `onResume`.
 */
export class LocalResponse implements UpstreamResponse {
  readonly status: number;
  readonly headers: ResponseHeaders;
  readonly #onResume: () => void;
  readonly #onCancel: (reason: string) => void;
  #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #sink: BodySink | null = null;
  #paused = true;
  #ended = false;
  #told = false;
  #failed: UpstreamError | null = null;

  constructor(status: number, headers: ResponseHeaders, hooks: { onResume?: () => void; onCancel?: (reason: string) => void } = {}) {
    this.status = status;
    this.headers = headers;
    this.#onResume = hooks.onResume ?? (() => undefined);
    this.#onCancel = hooks.onCancel ?? (() => undefined);
  }

  /** An answer that is there whole. */
  static whole(status: number, headers: ResponseHeaders, body: string): LocalResponse {
    const response = new LocalResponse(status, headers);
    if (body !== "") response.push(Buffer.from(body));
    response.end();
    return response;
  }

  /** As much waits for the reader as may. */
  get isFull(): boolean {
    return this.#waitingBytes >= waitingBytesMax;
  }
  /** False when the reader is slow: wait for `onResume`. */
  push(chunk: Buffer): boolean {
    if (this.#over) return true;
    if (this.#sink !== null && !this.#paused) {
      this.#paused = !this.#sink.data(chunk);
      return !this.#paused;
    }
    this.#waiting.push(chunk);
    this.#waitingBytes += chunk.length;
    return this.#waitingBytes < waitingBytesMax;
  }
  end(): void {
    if (this.#over) return;
    this.#ended = true;
    this.#tell();
  }
  fail(error: UpstreamError): void {
    if (this.#over) return;
    this.#failed = error;
    this.#waiting = [];
    this.#tell();
  }

  read(sink: BodySink): void {
    this.#sink = sink;
    this.#flow();
  }
  resume(): void {
    this.#flow();
  }
  cancel(reason: string): void {
    if (this.#told) return;
    this.#onCancel(reason);
    this.fail(new UpstreamError("other", reason, true, new AbortedByRouter("given_up")));
  }
  discard(ms: number): void {
    if (this.#told) return;
    const timer = setTimeout(() => this.cancel("the rest of the answer is not wanted"), ms);
    const stop = (): void => clearTimeout(timer);
    this.read({ data: () => true, end: stop, error: stop });
  }
  collect(bytesMax: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const chunks: Buffer[] = [];
      let size = 0;
      this.read({
        data: (chunk) => {
          size += chunk.length;
          if (size > bytesMax) this.fail(new UpstreamError("malformed", `the answer is longer than ${bytesMax} bytes`, true));
          else chunks.push(chunk);
          return true;
        },
        end: () => resolve(Buffer.concat(chunks, size)),
        error: reject,
      });
    });
  }

  get #over(): boolean {
    return this.#ended || this.#failed !== null;
  }
  #flow(): void {
    const sink = this.#sink;
    if (sink === null) return;
    this.#paused = false;
    while (this.#waiting.length > 0 && !this.#paused) {
      const chunk = this.#waiting.shift() as Buffer;
      this.#waitingBytes -= chunk.length;
      this.#paused = !sink.data(chunk);
    }
    this.#tell();
    if (!this.#paused && !this.#told) this.#onResume();
  }
  /** The end is told after all that came before it was read; a failure at once. */
  #tell(): void {
    const sink = this.#sink;
    if (sink === null || this.#told || !this.#over || (this.#failed === null && this.#waiting.length > 0)) return;
    this.#told = true;
    if (this.#failed !== null) sink.error(this.#failed);
    else sink.end();
  }
}

const waitingBytesMax = 1024 * 1024;

/** To be called before anything of a request is written: throws where whoever asked has left already; that proves that it did not run. */
export function refuseEnded(signal: EndSignal | undefined): void {
  if (signal?.aborted) throw endedError(signal.reason, false);
}

function endedError(reason: unknown, written: boolean): UpstreamError {
  const late = reason instanceof AbortedByRouter ? reason.kind === "deadline" : (reason as { name?: unknown })?.name === "TimeoutError";
  return new UpstreamError(late ? "timeout" : "other", late ? "no answer in time" : "the exchange was ended", written, reason);
}

/** One request that waits for its answer: a promise that is settled once, and the answer that may still be fed after that. */
export class LocalExchange {
  readonly response: Promise<UpstreamResponse>;
  #settle!: { resolve(response: UpstreamResponse): void; reject(error: UpstreamError): void };
  #begun: LocalResponse | null = null;
  #over = false;
  readonly #signal: EndSignal | undefined;
  readonly #onOver: (aborted: boolean) => void;

  /** `onOver` is called once, when nothing is waited for any more. */
  constructor(signal: EndSignal | undefined, onOver: (aborted: boolean) => void) {
    this.response = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    // Whoever asked may have left; an error that nobody hears would end the process.
    this.response.catch(() => undefined);
    this.#signal = signal;
    this.#onOver = onOver;
    if (signal?.aborted) this.#onAbort();
    else signal?.addEventListener("abort", this.#onAbort, { once: true });
  }

  get begun(): boolean {
    return this.#begun !== null;
  }
  begin(status: number, headers: ResponseHeaders, onResume: () => void): LocalResponse {
    this.#begun ??= new LocalResponse(status, headers, { onResume, onCancel: () => this.#finish(true) });
    this.#settle.resolve(this.#begun);
    return this.#begun;
  }
  whole(status: number, headers: ResponseHeaders, body: string): void {
    if (this.#over) return;
    this.#finish(false);
    this.#settle.resolve(LocalResponse.whole(status, headers, body));
  }
  get isFull(): boolean {
    return this.#begun?.isFull ?? false;
  }
  push(text: string): boolean {
    return this.#begun?.push(Buffer.from(text)) ?? true;
  }
  end(): void {
    this.#finish(false);
    this.#begun?.end();
  }
  fail(error: UpstreamError): void {
    if (this.#over) return;
    this.#finish(false);
    this.#reject(error);
  }

  readonly #onAbort = (): void => {
    if (this.#over) return;
    this.#finish(true);
    this.#reject(endedError(this.#signal?.reason, true));
  };
  #reject(error: UpstreamError): void {
    if (this.#begun === null) this.#settle.reject(error);
    else this.#begun.fail(error);
  }
  #finish(aborted: boolean): void {
    if (this.#over) return;
    this.#over = true;
    this.#signal?.removeEventListener("abort", this.#onAbort);
    this.#onOver(aborted);
  }
}
