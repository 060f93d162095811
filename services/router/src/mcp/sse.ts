import { ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { createParser, type EventSourceMessage } from "eventsource-parser";
import type { ClientResponse } from "../client-exchange.ts";
import type { BodySink, UpstreamError, UpstreamResponse } from "../upstream-client.ts";
import { writeTogether } from "../write-together.ts";

/** One event of a stream, ready to be written. */
export interface SseEvent {
  readonly id?: string | undefined;
  readonly event?: string | undefined;
  readonly data: string;
  readonly retryMs?: number | undefined;
}

/** An event bigger than this ends the stream that sent it (requirement R25); images travel in events, so it is generous. */
const eventCharsMax = 8 * 1024 * 1024;
/** So much that is no event (comments, unknown lines) ends it too; a heartbeat every second takes weeks for that. */
const silentBytesMax = 4 * eventCharsMax;

/** The text of one event. */
export function formatEvent(event: SseEvent): string {
  let text = event.event === undefined ? "" : `event: ${event.event}\n`;
  if (event.id !== undefined) text += `id: ${event.id}\n`;
  if (event.retryMs !== undefined) text += `retry: ${event.retryMs}\n`;
  if (event.data.includes("\n")) for (const line of event.data.split("\n")) text += `data: ${line}\n`;
  else text += `data: ${event.data}\n`;
  return `${text}\n`;
}

/** The events in a text that {@link formatEvent} has made. */
export function eventsIn(text: string): SseEvent[] {
  const events: SseEvent[] = [];
  const parser = createParser({ onEvent: ({ id, event, data }) => events.push({ id, event, data }) });
  parser.feed(text);
  return events;
}

export interface SseListener {
  /** Returns false to stop the reading until `resume()` of the response. */
  event(event: SseEvent): boolean;
  /** Orderly end of the stream. */
  end(): void;
  error(error: UpstreamError): void;
  /** The stream is not one: an event over the limit. */
  malformed(message: string): void;
}

/** Reads an answer as a stream of events, handed over one by one as they come. */
export function readEvents(response: UpstreamResponse, listener: SseListener): void {
  const decoder = new TextDecoder();
  let retryMs: number | undefined;
  let more = true;
  let over = false;
  let silentBytes = 0;
  const stop = (message: string): void => {
    if (over) return;
    over = true;
    response.cancel(message);
    listener.malformed(message);
  };
  const parser = createParser({
    maxBufferSize: eventCharsMax,
    onRetry: (value) => {
      retryMs = value;
    },
    onEvent: (message: EventSourceMessage) => {
      silentBytes = 0;
      const event = { id: message.id, event: message.event, data: message.data, retryMs };
      retryMs = undefined;
      more = listener.event(event) && more;
    },
    onError: (error) => {
      if (error.type === "max-buffer-size-exceeded") stop(`an event is longer than ${eventCharsMax} characters`);
    },
  });
  const sink: BodySink = {
    data(chunk) {
      if (over) return true;
      more = true;
      silentBytes += chunk.length;
      if (silentBytes > silentBytesMax) {
        stop(`there was no event in ${silentBytesMax} bytes`);
        return true;
      }
      parser.feed(decoder.decode(chunk, { stream: true }));
      return more;
    },
    end() {
      if (!over) listener.end();
      over = true;
    },
    error(error) {
      if (!over) listener.error(error);
      over = true;
    },
  };
  response.read(sink);
}

/**
 * The socket of an answer in chunks whose head is out, where node:http has the answer: it writes a chunk in three pieces, a tick later, which
 * costs an event as much as all else that is done for it. Null: events go the usual way, after those of an answer that is not its turn yet.
 */
function socketOf(response: ClientResponse): Socket | null {
  if (!(response instanceof ServerResponse) || !response.chunkedEncoding || response.socket === null) return null;
  // Something is kept back by node:http: a chunk must not overtake it.
  return response.writableLength === response.socket.writableLength ? response.socket : null;
}

/** Whether it is time for a heartbeat; where the clock was set back since the last word, nobody knows, and it is. */
export function isQuiet({ lastWriteAtMs }: Pick<SseWriter, "lastWriteAtMs">, everyMs: number, nowMs: number): boolean {
  const quietMs = nowMs - lastWriteAtMs;
  return quietMs >= everyMs || quietMs < 0;
}

/** The client's side of a stream. Writes are dropped after the client went away. */
export class SseWriter {
  readonly #response: ClientResponse;
  /** Where chunks are written past node:http ({@link socketOf}). */
  #socket: Socket | null = null;
  #open = false;
  #lastWriteAtMs = 0;
  #drained: (() => void) | null = null;
  #listening = false;

  constructor(response: ClientResponse) {
    this.#response = response;
  }
  get open(): boolean {
    return this.#open;
  }
  get gone(): boolean {
    return this.#response.destroyed || this.#response.writableEnded;
  }
  get lastWriteAtMs(): number {
    return this.#lastWriteAtMs;
  }

  begin(headers: Readonly<Record<string, string>>): void {
    if (this.#open || this.gone || this.#response.headersSent) return;
    this.#open = true;
    this.#response.writeHead(200, {
      "content-type": "text/event-stream",
      "cache-control": "no-cache, no-transform",
      "x-accel-buffering": "no",
      ...headers,
    });
  }
  /** Returns false when the client reads too slowly; `whenDrained` tells when to go on. */
  write(event: SseEvent, nowMs: number): boolean {
    return this.writeText(formatEvent(event), nowMs);
  }
  writeText(text: string, nowMs: number): boolean {
    if (this.gone) return true;
    this.#lastWriteAtMs = nowMs;
    const socket = this.#socket;
    if (socket === null) {
      const more = this.#response.write(text);
      // Its head is out now.
      if (!this.#listening) this.#socket = socketOf(this.#response);
      return more;
    }
    if (!socket.writable) return true;
    writeTogether(socket);
    const bytes = Buffer.byteLength(text);
    return socket.write(`${bytes.toString(16)}\r\n${text}\r\n`, bytes === text.length ? "latin1" : "utf8");
  }
  comment(text: string, nowMs: number): void {
    this.writeText(`: ${text}\n\n`, nowMs);
  }
  flushHeaders(): void {
    if (!this.gone) this.#response.flushHeaders();
  }
  whenDrained(go: () => void): void {
    this.#drained = go;
    // Most calls have no stream, and most streams a client that keeps up.
    if (this.#listening) return;
    this.#listening = true;
    const drained = (): void => this.#goOn();
    this.#response.on("drain", drained);
    // node:http does not tell of what was written past it.
    const socket = this.#socket;
    socket?.on("drain", drained);
    // What comes for a client that is gone is not held back for it.
    this.#response.on("close", () => {
      // The next request of the connection is none of this stream's.
      socket?.off("drain", drained);
      drained();
    });
  }
  end(): void {
    if (!this.gone) this.#response.end();
    // Nor is it held back for one that is told no more: what it was told may never be taken, and TCP says so after a quarter of an hour.
    this.#goOn();
  }
  #goOn(): void {
    const next = this.#drained;
    this.#drained = null;
    next?.();
  }
}
