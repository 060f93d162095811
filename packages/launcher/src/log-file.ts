import { closeSync, openSync, renameSync, statSync, writeSync } from "node:fs";

/** A log of one process: at most `bytesMax` in the file and as much in the one before it (`.1`). */
export interface LogFile {
  write(chunk: Buffer | string): void;
  close(): void;
}

/** Two files of 10 MB each process keep a stack under half a gigabyte. */
const logBytesMax = 10_000_000;

/** Opens a log to go on with. Writes are synchronous: nothing is lost when the launcher dies, and nothing waits in memory. */
export function openLogFile(file: string, bytesMax: number = logBytesMax): LogFile {
  let handle = openSync(file, "a", 0o600);
  let bytes = statSync(file).size;
  let open = true;
  return {
    write(chunk) {
      if (!open) return;
      const data = typeof chunk === "string" ? Buffer.from(chunk) : chunk;
      if (bytes > 0 && bytes + data.length > bytesMax) {
        closeSync(handle);
        renameSync(file, `${file}.1`);
        handle = openSync(file, "a", 0o600);
        bytes = 0;
      }
      writeSync(handle, data);
      bytes += data.length;
    },
    close() {
      if (open) closeSync(handle);
      open = false;
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
