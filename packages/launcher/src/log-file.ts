import { closeSync, fstatSync, openSync, renameSync, writeSync } from "node:fs";

/** A log of one process: at most `bytesMax` in the file and as much in the one before it (`.1`). */
export interface LogFile {
  write(chunk: Buffer | string): void;
  close(): void;
}

/** Two files of 10 MB each process keep a stack under half a gigabyte. */
const logBytesMax = 10_000_000;

/**
 * Opens a log to go on with; throws when that cannot be done. Writes are synchronous: nothing is lost when the launcher dies, and nothing
 * waits in memory. A write never throws: a full disk may cost lines, and must not end the stack whose lines they are. `onProblem` hears of
 * it once, until the log goes on, with a line of what was lost.
 */
export function openLogFile(
  file: string,
  { bytesMax = logBytesMax, onProblem = () => undefined }: { bytesMax?: number; onProblem?: (problem: string) => void } = {},
): LogFile {
  let handle: number | null = null;
  let bytes = 0;
  let lostBytes = 0;
  let open = true;
  const reopen = (): number => {
    handle = openSync(file, "a", 0o600);
    bytes = fstatSync(handle).size;
    return handle;
  };
  const shut = (): void => {
    const shutting = handle;
    handle = null;
    try {
      if (shutting !== null) closeSync(shutting);
    } catch {
      // A close that fails has closed all the same.
    }
  };
  const append = (data: Buffer): void => {
    let into = handle ?? reopen();
    if (bytes > 0 && bytes + data.length > bytesMax) {
      shut();
      renameSync(file, `${file}.1`);
      into = reopen();
    }
    // The end of a disk takes a part.
    for (let at = 0; at < data.length; ) {
      const written = writeSync(into, data, at);
      at += written;
      bytes += written;
    }
  };
  reopen();
  return {
    write(chunk) {
      if (!open) return;
      const data = typeof chunk === "string" ? Buffer.from(chunk) : chunk;
      try {
        const note = `--- ${new Date().toISOString()} ${lostBytes} bytes before this could not be written and are lost\n`;
        append(lostBytes === 0 ? data : Buffer.concat([Buffer.from(note), data]));
        lostBytes = 0;
      } catch (error) {
        if (lostBytes === 0) onProblem(`${file} cannot be written (${(error as Error).message}); until it can, its lines are lost`);
        lostBytes += data.length;
        // Opened anew at the next write: the file may have been moved or removed.
        shut();
      }
    },
    close() {
      open = false;
      shut();
    },
  };
}

/** Cuts a stream of bytes into lines for `onLine`; a line longer than `lengthMax` is cut off there. */
export function lineCutter(onLine: (line: string) => void, lengthMax = 64 * 1024): (chunk: Buffer | string) => void {
  let rest = "";
  return (chunk) => {
    const parts = (rest + chunk.toString()).split("\n");
    rest = (parts.pop() ?? "").slice(0, lengthMax);
    for (const line of parts) if (line !== "") onLine(line.slice(0, lengthMax));
  };
}

/** A warning or worse of a JSON log line as one line for a person; null for everything else. */
export function summaryOf(line: string): { level: "warn" | "error"; text: string } | null {
  if (!line.startsWith("{")) return null;
  let parsed: { level?: unknown; msg?: unknown; reason?: unknown; condition?: unknown; err?: { message?: unknown } };
  try {
    parsed = JSON.parse(line) as typeof parsed;
  } catch {
    return null; // Not a log line of ours; it stays in the file.
  }
  const { level } = parsed;
  if (level !== "warn" && level !== "error" && level !== "fatal") return null;
  // Each service says these two of itself at every start and at every absence of NATS; `/readyz` has them.
  if (parsed.msg === "readiness" && (parsed.condition === "started" || parsed.condition === "bus")) return null;
  const details = [parsed.reason, parsed.err?.message].filter((part): part is string => typeof part === "string" && part !== "");
  return { level: level === "warn" ? "warn" : "error", text: [String(parsed.msg ?? ""), ...details].join(": ").slice(0, 300) };
}
