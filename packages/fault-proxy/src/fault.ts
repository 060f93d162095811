import type { FaultKind } from "@mcp-failover/contracts";

/** What a proxy does to the traffic to its upstream (`faultKind` in contracts says what each means). */
export interface Fault {
  readonly kind: FaultKind;
  /** Of `latency`; 0 for the others. */
  readonly latencyMs: number;
  /** Of `status`. */
  readonly status: number;
}

const statusUsual = 503;

/** Fills in what was left out. Throws {@link RangeError} on what makes no sense. */
export function faultOf(given: {
  readonly kind?: FaultKind | undefined;
  readonly latencyMs?: number | undefined;
  readonly status?: number | undefined;
}): Fault {
  const { kind = "latency", latencyMs = 0, status = statusUsual } = given;
  if (!(latencyMs >= 0)) throw new RangeError(`latencyMs ${latencyMs}: it is 0 or more`);
  if (!(Number.isInteger(status) && status >= 400 && status <= 599)) throw new RangeError(`status ${status}: it is 400 to 599`);
  return { kind, latencyMs: kind === "latency" ? latencyMs : 0, status };
}

/** A whole HTTP answer with which the connection ends. */
export function statusAnswer(status: number): string {
  const body = `fault proxy: ${status}\n`;
  return `HTTP/1.1 ${status} Fault\r\ncontent-type: text/plain\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`;
}
