import type { ServerResponse } from "node:http";
import type { Stored } from "@mcp-failover/bus";

export const feedHeaders = { "content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no" } as const;

/** One line of the live list. */
interface FeedItem {
  readonly seq: number;
  readonly time: string;
  readonly type: string;
  readonly subject: string;
  readonly text: string;
}

const itemsMax = 200;
/** Of one item: what is longer is in the log. */
const itemCharsMax = 1000;
const clientsMax = 100;
/** A browser that reads slower than this many bytes behind, besides the state that it was sent last, is dropped; it reconnects and gets the state anew. */
const behindBytesMax = 1024 * 1024;
/** Browsers get the state at most this often, and a tenth of the time at most is spent on making it: that of a large fleet costs more. */
const stateMs = 100;
const stateShare = 10;
/** A page that hears nothing for longer than two of these does not call itself live. */
const beatMs = 5000;

/** What one browser is owed. */
interface Watcher {
  /** It has not taken the last state yet: it gets the newest once it has. */
  isOwedState: boolean;
  behindBytesMax: number;
}

/** The last events, and the browsers that watch (server-sent events). */
export class Feed {
  readonly #items: FeedItem[] = [];
  readonly #watchers = new Map<ServerResponse, Watcher>();
  readonly #view: () => object;
  readonly #beat = setInterval(() => this.#onBeat(), beatMs);
  #due: NodeJS.Timeout | null = null;
  /** The state as it was sent last. */
  #state = "";
  #costMs = 0;

  /** `view` is asked for the state when it is sent. */
  constructor(view: () => object) {
    this.#view = view;
  }

  add(stored: Stored): void {
    const item = itemOf(stored);
    this.#items.push(item);
    if (this.#items.length > itemsMax) this.#items.shift();
    this.#write(`event: item\nid: ${item.seq}\ndata: ${JSON.stringify(item)}\n\n`);
  }

  /** The state is another one: browsers get it soon. */
  changed(): void {
    this.#due ??= setTimeout(
      () => {
        this.#due = null;
        if (this.#watchers.size > 0) this.#sendState(this.#read());
      },
      Math.max(stateMs, stateShare * this.#costMs),
    );
  }

  /** What was said so far is of another log: everybody begins anew. */
  beginAnew(): void {
    this.#items.length = 0;
    this.#write(this.#hello());
  }

  /** False when too many browsers watch already. */
  join(response: ServerResponse): boolean {
    if (this.#watchers.size >= clientsMax) return false;
    const hello = this.#hello();
    const watcher = { isOwedState: false, behindBytesMax: behindBytesMax + Buffer.byteLength(hello) };
    response.writeHead(200, feedHeaders);
    response.write(`retry: 1000\n${hello}`);
    this.#watchers.set(response, watcher);
    response.on("drain", () => {
      if (watcher.isOwedState) this.#writeState(response, watcher);
    });
    response.on("close", () => this.#watchers.delete(response));
    // A browser that goes away in the middle of a write; "close" follows.
    response.on("error", () => this.#watchers.delete(response));
    return true;
  }

  close(): void {
    clearInterval(this.#beat);
    if (this.#due) clearTimeout(this.#due);
    for (const client of this.#watchers.keys()) client.end();
  }

  #hello(): string {
    return `event: hello\ndata: ${JSON.stringify({ ...this.#view(), items: this.#items })}\n\n`;
  }

  /** Time alone changes the state, too: a hold ends, or nothing is read any more. */
  #onBeat(): void {
    if (this.#watchers.size === 0) return;
    const state = this.#read();
    if (state !== this.#state) this.#sendState(state);
    this.#write("event: beat\ndata: {}\n\n");
  }

  #read(): string {
    const sinceMs = performance.now();
    const state = JSON.stringify(this.#view());
    this.#costMs = performance.now() - sinceMs;
    return state;
  }

  #sendState(state: string): void {
    this.#state = state;
    for (const [client, watcher] of this.#watchers) {
      if (client.writableNeedDrain) watcher.isOwedState = true;
      else this.#writeState(client, watcher);
    }
  }

  #writeState(client: ServerResponse, watcher: Watcher): void {
    watcher.isOwedState = false;
    watcher.behindBytesMax = behindBytesMax + Buffer.byteLength(this.#state);
    client.write(`event: state\ndata: ${this.#state}\n\n`);
  }

  #write(text: string): void {
    for (const [client, watcher] of this.#watchers) {
      if (client.writableLength > watcher.behindBytesMax) client.destroy();
      else client.write(text);
    }
  }
}

function itemOf(stored: Stored): FeedItem {
  const base = { seq: stored.seq, time: new Date(stored.timeMs).toISOString(), subject: stored.subject };
  if (stored.content.kind === "malformed") return { ...base, type: "malformed", text: clip(stored.content.reason) };
  const { event } = stored.content;
  return { ...base, type: event.type, text: clip(sayEvent(event.data as Record<string, unknown>)) };
}

function clip(text: string): string {
  return text.length > itemCharsMax ? `${text.slice(0, itemCharsMax)}…` : text;
}

/** One line that a person understands, from the fields that most events have. */
function sayEvent(data: Record<string, unknown>): string {
  const word = (key: string): string => (typeof data[key] === "string" ? data[key] : "");
  const move =
    word("previousEndpoint") && word("previousEndpoint") !== word("currentEndpoint")
      ? `${word("previousEndpoint")} → ${word("currentEndpoint")}`
      : "";
  const status = word("status") && `${word("previousStatus") ? `${word("previousStatus")} → ` : ""}${word("status")}`;
  return [
    word("service") || word("name") || word("target") || word("channel"),
    word("endpoint"),
    move || status || word("what") || word("kind"),
    word("title") || word("incidentId"),
    word("reason") || word("error"),
    // Of an incident: what `mcpf ack` takes.
    word("title") && word("id"),
  ]
    .filter(Boolean)
    .join(" · ");
}
