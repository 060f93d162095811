import type { Stored } from "@mcp-failover/bus";
import type { TrafficUnknown } from "@mcp-failover/contracts";
import type { Context } from "../context.ts";
import { type ExitCode, usageError } from "../errors.ts";
import { readToEnd, sayStored, storedMs } from "../read-log.ts";
import { parseDuration } from "./changes.ts";

const foundMax = 1000;

/** `mcpf events find`: 0 with every event that has the text in it, of decisions and of traffic; 1 when there is none. */
export async function find(context: Context, text: string, options: { since?: string }): Promise<ExitCode> {
  if (text.length < 3) throw usageError("give at least 3 characters to look for");
  const backMs = parseDuration(options.since ?? "1h");
  const bus = await context.bus();
  const sinceMs = ((await storedMs(bus)) ?? context.nowMs()) - backMs;
  let found = 0;
  for (const stream of ["AUDIT", "SIGNALS"] as const) {
    await readToEnd(bus, stream, { from: { timeMs: sinceMs } }, (stored) => {
      if (found >= foundMax || !Buffer.from(stored.bytes).includes(text)) return;
      found += 1;
      context.out.line(lineOf(stored, text), sayFound(stored, text));
    });
  }
  if (found === 0)
    context.out.note(`nothing says ${JSON.stringify(text)} since ${new Date(sinceMs).toISOString()}; look further back with --since`);
  if (found >= foundMax) context.out.note(`more than ${foundMax}: look for something longer`);
  return found > 0 ? 0 : 1;
}

/** Of a window of traffic only what was looked for: the rest is about other calls. */
function unknownIn({ content }: Stored, text: string): readonly TrafficUnknown[] {
  if (content.kind !== "event" || content.event.type !== "traffic.observed") return [];
  return (content.event.data.unknown ?? []).filter((call) => JSON.stringify(call).includes(text));
}

function lineOf(stored: Stored, text: string): object {
  const place = { stream: stored.stream, seq: stored.seq, subject: stored.subject, time: new Date(stored.timeMs).toISOString() };
  const unknown = unknownIn(stored, text);
  if (unknown.length > 0) return { ...place, unknown };
  return stored.content.kind === "event" ? { ...place, event: stored.content.event } : { ...place, malformed: stored.content.reason };
}

function sayFound(stored: Stored, text: string): string {
  const calls = unknownIn(stored, text).map(({ operationId, upstream, endpoint, method, tool, agent, code, atMs }) => {
    const what = `${tool ?? method}${agent === null ? "" : ` of ${agent}`}`;
    const where = endpoint === null ? `the legacy API of ${upstream}` : `${upstream}/${endpoint}`;
    return `${new Date(atMs).toISOString()} ${operationId}: outcome unknown: ${what} at ${where} (${code ?? "the caller went away"}); look there whether it ran`;
  });
  return calls.length > 0 ? calls.join("\n") : sayStored(stored);
}
