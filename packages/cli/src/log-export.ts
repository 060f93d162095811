import { once } from "node:events";
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createInterface } from "node:readline";
import type { Bus } from "@mcp-failover/bus";
import type { StreamName } from "@mcp-failover/contracts";
import type { LogMessage } from "@mcp-failover/domain";
import { z } from "zod";
import { CliError, usageError } from "./errors.ts";

/** One line of `mcpf events export`. `payload` keeps the stored bytes exactly: as text where they are UTF-8, else in base64. */
const exportedEvent = z.object({
  seq: z.number().int().positive(),
  subject: z.string(),
  timeMs: z.number(),
  headers: z.record(z.string(), z.string()),
  payload: z.string().optional(),
  payloadBase64: z.string().optional(),
});

/** Its last line: a file without it was cut off, by a full disk for example, or is of a version that wrote none. */
const exportedEnd = z.object({
  end: z.object({ lastSeq: z.number().int().nonnegative(), count: z.number().int().nonnegative() }),
});

/** Where a log is said to end: sequence of its last event, and how many it has, where that is known. */
export interface LogEnd {
  readonly lastSeq: number;
  readonly count?: number;
}

/** A stream line by line, and at last the line that says that it is whole. Throws a BusError where the log is out of reach. */
export async function* exportLines(bus: Bus, stream: StreamName): AsyncGenerator<string> {
  // Before reading: where the newest events were taken out of the log, it goes further than what is read.
  let { lastSeq } = await bus.info(stream);
  let count = 0;
  for await (const { seq, subject, timeMs, headers, bytes } of bus.read(stream)) {
    yield `${JSON.stringify({ seq, subject, timeMs, headers, ...payloadOf(bytes) })}\n`;
    lastSeq = Math.max(lastSeq, seq);
    count += 1;
  }
  yield `${JSON.stringify({ end: { lastSeq, count } })}\n`;
}

function payloadOf(bytes: Uint8Array): { payload: string } | { payloadBase64: string } {
  const text = Buffer.from(bytes).toString("utf8");
  return Buffer.from(text, "utf8").equals(bytes) ? { payload: text } : { payloadBase64: Buffer.from(bytes).toString("base64") };
}

/** Events of a file of {@link exportLines}; `onEnd` is told its last line. Throws a {@link CliError} for what is no such file. */
export async function* readExport(file: string, onEnd: (end: LogEnd) => void): AsyncGenerator<LogMessage> {
  const unreadable = ({ code }: NodeJS.ErrnoException): CliError =>
    usageError(`${file} cannot be read (${code}): give the file that \`mcpf events export --file\` wrote`, "no_file");
  const input = createReadStream(file);
  await once(input, "open").catch((error: NodeJS.ErrnoException) => {
    throw unreadable(error);
  });
  // A folder is opened well, and cannot be read.
  if ((await stat(file)).isDirectory()) throw unreadable(Object.assign(new Error(), { code: "EISDIR" }));
  let number = 0;
  let hasEnded = false;
  for await (const line of createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })) {
    number += 1;
    if (line === "") continue;
    const value = jsonOf(line);
    const end = exportedEnd.safeParse(value);
    const event = exportedEvent.safeParse(value);
    if (hasEnded || !(end.success || event.success))
      throw new CliError(1, "not_an_export", `line ${number} of ${file} is not a line of an export: it was altered, or is another file`);
    if (end.success) {
      hasEnded = true;
      onEnd(end.data.end);
    }
    if (event.success) {
      const { seq, subject, timeMs, headers, payload, payloadBase64 } = event.data;
      const bytes = payload === undefined ? Buffer.from(payloadBase64 ?? "", "base64") : Buffer.from(payload, "utf8");
      yield { seq, subject, timeMs, headers, bytes };
    }
  }
}

function jsonOf(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}
