import { randomBytes } from "node:crypto";

/** W3C Trace Context: which trace a request belongs to. Ids in lower-case hex. */
export interface TraceContext {
  readonly traceId: string;
  readonly spanId: string;
  readonly sampled: boolean;
}

/** What an exporter gets of a step. Times in epoch milliseconds. */
export interface Span {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId: string | null;
  readonly kind: "server" | "client";
  readonly name: string;
  readonly startMs: number;
  readonly endMs: number;
  readonly failed: boolean;
  readonly attributes: Readonly<Record<string, string | number>>;
}
export interface SpanExporter {
  export(span: Span): void;
}

/** Null: none, or not one that can be gone on with. Versions to come may add fields at the end; `ff` is none. */
export function parseTraceparent(value: unknown): TraceContext | null {
  if (typeof value !== "string") return null;
  const parts = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/.exec(value);
  if (parts === null) return null;
  const [, version, traceId = "", spanId = "", flags = "", more] = parts;
  if (version === "ff" || (version === "00" && more !== undefined) || /^0+$/.test(traceId) || /^0+$/.test(spanId)) return null;
  return { traceId, spanId, sampled: (Number.parseInt(flags, 16) & 1) === 1 };
}
export function formatTraceparent({ traceId, spanId, sampled }: TraceContext): string {
  return `00-${traceId}-${spanId}-${sampled ? "01" : "00"}`;
}

type Headers = Record<string, string | string[] | undefined>;

/**
 * The trace of one request of a client. What goes upstream names the attempt that it belongs to as its parent: `traceparent` in the headers,
 * which are changed in place, and in `_meta` of a message (MCP 2026-07-28), where the same number of bytes is written.
 */
export class RequestTrace {
  readonly #exporter: SpanExporter;
  readonly #headers: Headers;
  #parent: TraceContext | null;
  #own: TraceContext;

  constructor(headers: Headers, exporter: SpanExporter, ratio: number) {
    this.#headers = headers;
    this.#exporter = exporter;
    this.#parent = parseTraceparent(headers["traceparent"]);
    this.#own = next(this.#parent, ratio);
    // A state that belongs to no trace says nothing (W3C Trace Context, 4.3).
    if (this.#parent === null) delete headers["tracestate"];
    headers["traceparent"] = formatTraceparent(this.#own);
  }

  get sampled(): boolean {
    return this.#own.sampled;
  }

  /** For one message of several in this request, which is a step of its own: `headers` are its own too, and changed in place. */
  part(headers: Headers): RequestTrace {
    const part = new RequestTrace(headers, this.#exporter, 0);
    part.#parent = this.#parent;
    part.#own = { ...this.#own, spanId: newSpanId() };
    headers["traceparent"] = formatTraceparent(part.#own);
    return part;
  }

  /** The body to be sent in place of `body`; its `_meta.traceparent`, where there is one, comes before the header. */
  enterMessage(meta: unknown, body: Buffer): Buffer {
    const given = typeof meta === "object" && meta !== null ? (meta as Record<string, unknown>)["traceparent"] : undefined;
    const parent = parseTraceparent(given);
    if (parent === null) return body;
    this.#parent = parent;
    this.#own = { ...this.#own, traceId: parent.traceId, sampled: parent.sampled };
    const text = formatTraceparent(this.#own);
    this.#headers["traceparent"] = text;
    const at = body.indexOf(given as string);
    // Written twice, or with escapes, it stays as it is: the trace is right all the same, without this step.
    if (at === -1 || text.length !== (given as string).length || body.indexOf(given as string, at + 1) !== -1) return body;
    const changed = Buffer.from(body);
    changed.write(text, at, "latin1");
    return changed;
  }

  /** The next attempt; what is sent from now on names it. */
  enterAttempt(): TraceContext {
    const attempt = { ...this.#own, spanId: newSpanId() };
    this.#headers["traceparent"] = formatTraceparent(attempt);
    return attempt;
  }

  attemptEnded(attempt: TraceContext, span: Pick<Span, "name" | "startMs" | "endMs" | "failed" | "attributes">): void {
    if (!this.#own.sampled) return;
    this.#exporter.export({ ...span, kind: "client", traceId: attempt.traceId, spanId: attempt.spanId, parentSpanId: this.#own.spanId });
  }

  ended(span: Pick<Span, "name" | "startMs" | "endMs" | "failed" | "attributes">): void {
    if (!this.#own.sampled) return;
    const { traceId, spanId } = this.#own;
    this.#exporter.export({ ...span, kind: "server", traceId, spanId, parentSpanId: this.#parent?.spanId ?? null });
  }
}

/** A step in the caller's trace, sampled as the caller says; without one a new trace, sampled by the ratio. */
function next(parent: TraceContext | null, ratio: number): TraceContext {
  if (parent !== null) return { ...parent, spanId: newSpanId() };
  const traceId = randomBytes(16).toString("hex");
  return { traceId, spanId: newSpanId(), sampled: Number.parseInt(traceId.slice(0, 8), 16) / 0x1_0000_0000 < ratio };
}
function newSpanId(): string {
  return randomBytes(8).toString("hex");
}
