import { isObject, subscriptionKey } from "../mcp/envelope.ts";
import type { SseWriter } from "../mcp/sse.ts";

type Value = Record<string, unknown>;

/**
 * The stream of one `subscriptions/listen`, as its client reads it. Guarantee:
 * S4  A client that does not read costs one waiting message for each list and resource that it listens to, without what else the upstream
 *     said with it: that something has changed is as true when it is told once.
 */
export class ChangeStream {
  readonly #writer: SseWriter;
  readonly #id: string | number;
  readonly #nowMs: () => number;
  /** The client reads more slowly than it is told: what comes waits. */
  #isSlow = false;
  readonly #waiting = new Map<string, { readonly method: string; readonly uri: unknown }>();

  constructor(writer: SseWriter, id: string | number, nowMs: () => number) {
    this.#writer = writer;
    this.#id = id;
    this.#nowMs = nowMs;
  }

  say(method: string, params: Value): void {
    const { uri } = params;
    if (this.#isSlow) this.#waiting.set(`${method} ${String(uri)}`, { method, uri });
    else this.#write(this.#stamped(method, params));
  }
  /** The last message: the upstreams have nothing more to say. */
  complete(): void {
    for (const { method, uri } of this.#waiting.values()) this.#write(this.#short(method, uri));
    this.#waiting.clear();
    this.#write({ jsonrpc: "2.0", id: this.#id, result: { resultType: "complete", _meta: { [subscriptionKey]: this.#id } } });
    this.#writer.end();
  }
  comment(text: string): void {
    if (!this.#isSlow) this.#writer.comment(text, this.#nowMs());
  }

  #flush(): void {
    this.#isSlow = false;
    for (const [key, { method, uri }] of this.#waiting) {
      if (this.#isSlow) return;
      this.#waiting.delete(key);
      this.#write(this.#short(method, uri));
    }
  }
  #write(value: Value): void {
    if (this.#writer.write({ event: "message", data: JSON.stringify(value) }, this.#nowMs())) return;
    this.#isSlow = true;
    this.#writer.whenDrained(() => this.#flush());
  }
  #stamped(method: string, params: Value): Value {
    const meta = isObject(params["_meta"]) ? params["_meta"] : {};
    return { jsonrpc: "2.0", method, params: { ...params, _meta: { ...meta, [subscriptionKey]: this.#id } } };
  }
  #short(method: string, uri: unknown): Value {
    return this.#stamped(method, uri === undefined ? {} : { uri });
  }
}
