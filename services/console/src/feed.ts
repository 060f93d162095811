import type { ServerResponse } from "node:http";
import type { Stored } from "@mcp-failover/bus";

/** One line of the live list. */
export interface FeedItem {
  readonly seq: number;
  readonly time: string;
  readonly type: string;
  readonly subject: string;
  readonly text: string;
}

const itemsMax = 200;
const clientsMax = 100;
/** A browser that reads slower than this many bytes behind is dropped; it reconnects and gets the state anew. */
const behindBytesMax = 1024 * 1024;
const heartbeatMs = 15_000;

/** The last events, and the browsers that watch (server-sent events). */
export class Feed {
  readonly #items: FeedItem[] = [];
  readonly #clients = new Set<ServerResponse>();
  readonly #heartbeat = setInterval(() => this.#write(": still here\n\n"), heartbeatMs);

  items(): readonly FeedItem[] {
    return this.#items;
  }

  add(stored: Stored): void {
    const item = itemOf(stored);
    this.#items.push(item);
    if (this.#items.length > itemsMax) this.#items.shift();
    this.#write(`event: item\nid: ${item.seq}\ndata: ${JSON.stringify(item)}\n\n`);
  }

  send(event: string, data: unknown): void {
    this.#write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
  }

  /** False when too many browsers watch already. */
  join(response: ServerResponse, hello: unknown): boolean {
    if (this.#clients.size >= clientsMax) return false;
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no" });
    response.write(`retry: 1000\nevent: hello\ndata: ${JSON.stringify(hello)}\n\n`);
    this.#clients.add(response);
    response.on("close", () => this.#clients.delete(response));
    // A browser that goes away in the middle of a write; "close" follows.
    response.on("error", () => this.#clients.delete(response));
    return true;
  }

  close(): void {
    clearInterval(this.#heartbeat);
    for (const client of this.#clients) client.end();
  }

  #write(text: string): void {
    for (const client of this.#clients) {
      if (client.writableLength > behindBytesMax) client.destroy();
      else client.write(text);
    }
  }
}

function itemOf(stored: Stored): FeedItem {
  const base = { seq: stored.seq, time: new Date(stored.timeMs).toISOString(), subject: stored.subject };
  if (stored.content.kind === "malformed") return { ...base, type: "malformed", text: stored.content.reason };
  const { event } = stored.content;
  return { ...base, type: event.type, text: sayEvent(event.data as Record<string, unknown>) };
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
    word("service") || word("name") || word("target"),
    word("endpoint"),
    move || status || word("title") || word("what"),
    word("reason") || word("error"),
  ]
    .filter(Boolean)
    .join(" · ");
}
