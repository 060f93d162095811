import type { Span, SpanExporter } from "./trace.ts";

/**
 * Sends spans to a collector: OTLP over HTTP, as JSON. Guarantees:
 * E1  Nothing waits for it: spans are queued, at most `spansMax`; what comes beyond is dropped and counted.
 * E2  One request at a time, with a time-out; a batch that the collector does not take is dropped, so that an old one never delays the new.
 */
export interface OtlpOptions {
  /** `OTEL_EXPORTER_OTLP_ENDPOINT`; spans go to `/v1/traces` below it. */
  readonly endpoint: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly serviceName: string;
  readonly instance: string;
  readonly onTrouble: (error: unknown, dropped: number) => void;
  readonly everyMs?: number;
  readonly spansMax?: number;
}
export interface OtlpExporter extends SpanExporter {
  readonly dropped: number;
  /** Sends what waits, once. */
  stop(): Promise<void>;
}

const everyMsDefault = 2000;
const spansMaxDefault = 4096;
const batchMax = 512;
const sendMsMax = 5000;

export function createOtlpExporter(options: OtlpOptions): OtlpExporter {
  const url = `${options.endpoint.replace(/\/+$/, "")}/v1/traces`;
  const spansMax = options.spansMax ?? spansMaxDefault;
  let queue: Span[] = [];
  let dropped = 0;
  let sending: Promise<void> | null = null;

  const send = async (): Promise<void> => {
    const batch = queue.slice(0, batchMax);
    queue = queue.slice(batchMax);
    if (batch.length === 0) return;
    try {
      const response = await fetch(url, {
        method: "POST",
        redirect: "error",
        headers: { "content-type": "application/json", ...options.headers },
        body: JSON.stringify(requestOf(batch, options)),
        signal: AbortSignal.timeout(sendMsMax),
      });
      await response.body?.cancel();
      if (!response.ok) throw new Error(`the collector answered ${response.status}`);
    } catch (error) {
      dropped += batch.length;
      options.onTrouble(error, batch.length);
    }
  };
  const flush = (): Promise<void> => {
    sending ??= send().finally(() => {
      sending = null;
    });
    return sending;
  };
  const timer = setInterval(() => void flush(), options.everyMs ?? everyMsDefault);
  timer.unref();

  return {
    get dropped() {
      return dropped;
    },
    export(span) {
      if (queue.length >= spansMax) dropped++;
      else queue.push(span);
      if (queue.length >= batchMax && sending === null) void flush();
    },
    async stop() {
      clearInterval(timer);
      await sending;
      await flush();
    },
  };
}

/** An ExportTraceServiceRequest in the JSON of OTLP: ids in hex, times in nanoseconds as text. */
function requestOf(spans: readonly Span[], { serviceName, instance }: OtlpOptions): object {
  return {
    resourceSpans: [
      {
        resource: { attributes: attributesOf({ "service.name": serviceName, "service.instance.id": instance }) },
        scopeSpans: [
          {
            scope: { name: "mcp-failover/router" },
            spans: spans.map((span) => ({
              traceId: span.traceId,
              spanId: span.spanId,
              ...(span.parentSpanId === null ? {} : { parentSpanId: span.parentSpanId }),
              name: span.name,
              kind: span.kind === "server" ? 2 : 3,
              startTimeUnixNano: nanoseconds(span.startMs),
              endTimeUnixNano: nanoseconds(Math.max(span.startMs, span.endMs)),
              attributes: attributesOf(span.attributes),
              status: span.failed ? { code: 2 } : {},
            })),
          },
        ],
      },
    ],
  };
}

function attributesOf(attributes: Readonly<Record<string, string | number>>): object[] {
  return Object.entries(attributes).map(([key, value]) => ({
    key,
    value: typeof value === "string" ? { stringValue: value } : { doubleValue: value },
  }));
}
function nanoseconds(ms: number): string {
  return `${BigInt(Math.round(ms * 1000)) * 1000n}`;
}

/** `OTEL_EXPORTER_OTLP_HEADERS`: `name=value,name=value`, values URL-encoded. Throws URIError for what is not. */
export function parseOtlpHeaders(text: string): Record<string, string> {
  const pairs = text.split(",").flatMap((pair): [string, string][] => {
    const at = pair.indexOf("=");
    return at < 1 ? [] : [[pair.slice(0, at).trim().toLowerCase(), decodeURIComponent(pair.slice(at + 1).trim())]];
  });
  return Object.fromEntries(pairs);
}
