import { type MessagePipe, MessageRefused, type PipeListener } from "../bridge/message-pipe.ts";
import type { EndpointView } from "../control/port.ts";
import type { EndSignal } from "../ending.ts";
import { isObject, isTooDeep } from "../mcp/envelope.ts";
import { readEvents } from "../mcp/sse.ts";
import { AbortedByRouter, type UpstreamClient, UpstreamError, type UpstreamResponse } from "../upstream-client.ts";

/**
 * One session over HTTP+SSE of protocol 2024-11-05: a stream that names, in its first event, where messages are posted, and carries all that
 * the server says. Guarantees:
 * H1  Messages, and the endpoint's credentials with them, are posted only to the origin of the stream, whatever the server names.
 * H2  Nothing was posted while the stream is not open: a failure until then proves that nothing ran.
 * H3  A stream that ends is the end of the session: the transport has no way to go on with it.
 */
export class SseConnection implements MessagePipe {
  readonly #client: UpstreamClient;
  readonly #endpoint: EndpointView;
  readonly #postMs: number;
  readonly #abort = new AbortController();
  #postUrl: string | null = null;
  #stream: UpstreamResponse | null = null;
  #listener: PipeListener | null = null;
  #over: UpstreamError | null = null;
  #paused = false;

  constructor(client: UpstreamClient, endpoint: EndpointView, postMs: number) {
    this.#client = client;
    // Its requests are plain HTTP.
    const { via: _via, ...plain } = endpoint;
    this.#endpoint = plain;
    this.#postMs = postMs;
  }

  /** Opens the stream. Throws {@link MessageRefused} with what the server answered instead, or an {@link UpstreamError} (H2). */
  async open(how: { readonly connectMs: number; readonly withinMs: number; readonly signal: EndSignal | undefined }): Promise<void> {
    const late = setTimeout(() => this.#abort.abort(new AbortedByRouter("deadline")), how.withinMs);
    const onAbort = (): void => this.#abort.abort(how.signal?.reason);
    if (how.signal?.aborted) onAbort();
    else how.signal?.addEventListener("abort", onAbort, { once: true });
    try {
      await this.#open(how.connectMs);
    } catch (error) {
      this.close();
      if (error instanceof UpstreamError) throw new UpstreamError(error.code, error.message, false, error);
      throw error;
    } finally {
      clearTimeout(late);
      how.signal?.removeEventListener("abort", onAbort);
    }
  }

  attach(listener: PipeListener): void {
    this.#listener = listener;
    if (this.#over !== null) listener.lineEnded(this.#over);
  }

  async send(text: string): Promise<void> {
    const url = this.#postUrl;
    if (this.#over !== null || url === null) throw new UpstreamError("closed", `the stream of ${this.#endpoint.name} has ended`, false);
    const response = await this.#client.send({
      endpoint: { ...this.#endpoint, url },
      method: "POST",
      headers: { "content-type": "application/json", accept: "application/json, text/event-stream" },
      body: Buffer.from(text),
      connectMs: this.#postMs,
      signal: AbortSignal.any([this.#abort.signal, AbortSignal.timeout(this.#postMs)]),
      lane: "call",
    });
    if (response.status >= 200 && response.status < 300) return response.discard(discardMs);
    if (response.status !== 404 && response.status !== 410) throw new MessageRefused(response);
    // It does not know the stream any more, so it did not take the message.
    response.discard(discardMs);
    this.#end(new UpstreamError("closed", `${this.#endpoint.name} does not know the session any more`, true));
    throw new UpstreamError("closed", `${this.#endpoint.name} does not know the session any more`, false);
  }

  pause(): void {
    this.#paused = true;
  }
  resume(): void {
    this.#paused = false;
    this.#stream?.resume();
  }
  close(): void {
    this.#end(new UpstreamError("closed", "the session was ended", true));
  }

  async #open(connectMs: number): Promise<void> {
    const { name, url } = this.#endpoint;
    const response = await this.#client.send({
      endpoint: this.#endpoint,
      method: "GET",
      headers: { accept: "text/event-stream" },
      body: null,
      connectMs,
      signal: this.#abort.signal,
      lane: "stream",
    });
    if (response.status !== 200) throw new MessageRefused(response);
    if (!String(response.headers["content-type"] ?? "").includes("text/event-stream")) {
      response.discard(discardMs);
      throw new UpstreamError("malformed", `${name} answered with no event stream; is its transport sse?`, false);
    }
    this.#stream = response;
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const over = (error: UpstreamError): void => {
      reject(error);
      this.#end(error);
    };
    readEvents(response, {
      event: (event) => {
        if (event.event === "endpoint" && this.#postUrl === null) resolve(event.data);
        else if (event.event === undefined || event.event === "message") this.#hear(event.data);
        return !this.#paused;
      },
      end: () => over(new UpstreamError("closed", `${name} ended its stream`, true)),
      error: over,
      malformed: (message) => over(new UpstreamError("malformed", `${name}: ${message}`, true)),
    });
    const named = await promise;
    const post = URL.canParse(named, url) ? new URL(named, url) : null;
    if (post === null || post.origin !== new URL(url).origin) {
      throw new UpstreamError("malformed", `${name} names another host for its messages; that is not followed`, false);
    }
    this.#postUrl = post.href;
  }

  #hear(text: string): void {
    let value: unknown;
    try {
      value = isTooDeep(text) ? undefined : JSON.parse(text);
    } catch {
      value = undefined;
    }
    if (value === undefined) {
      this.#end(new UpstreamError("malformed", `${this.#endpoint.name} sent an event that is not JSON, or nested too deeply`, true));
      return;
    }
    if (isObject(value)) this.#listener?.message(value, /[\r\n]/.test(text) ? JSON.stringify(value) : text);
  }

  #end(error: UpstreamError): void {
    if (this.#over !== null) return;
    this.#over = error;
    this.#abort.abort(new AbortedByRouter("given_up"));
    this.#stream?.cancel("the session is over");
    this.#listener?.lineEnded(error);
  }
}

const discardMs = 1000;
