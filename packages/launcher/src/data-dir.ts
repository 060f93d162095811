import { randomBytes } from "node:crypto";
import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join, sep } from "node:path";
import { startOf } from "./process-identity.ts";

/** Another stack lives in the data directory. */
export class DataDirInUseError extends Error {
  override readonly name = "DataDirInUseError";
  readonly code = "data_dir_in_use";
  readonly retriable = false;
  constructor(dataDir: string, pid: number) {
    super(`${dataDir} is in use by the stack of process ${pid}; stop that one, or give another --data-dir (and --port-base)`);
  }
}

/** What the file system did not do in the data directory, in one sentence; null for an error that is not about it. */
export function dataDirProblem(error: unknown, dataDir: string): string | null {
  const { errno, code, path, syscall = "", message } = error as NodeJS.ErrnoException;
  if (errno === undefined || code === undefined) return null;
  const within = (inner: string, outer: string): boolean => inner === outer || inner.startsWith(outer.endsWith(sep) ? outer : outer + sep);
  // Where a folder above it cannot be made, the error names that one; what has been opened already is not named.
  const isAbout = path === undefined ? ["write", "fsync", "close"].includes(syscall) : within(path, dataDir) || within(dataDir, path);
  return isAbout ? `the data directory ${dataDir} cannot be used: ${message}; give another --data-dir` : null;
}

/** How to reach the running stack; the CLI reads it. */
export interface StackFile {
  readonly routerUrl: string;
  readonly consoleUrl: string;
  readonly natsUrl: string;
  readonly redisUrl: string;
  /** Where the credentials of the bus lie, a folder for each user; missing: the bus has no permissions. */
  readonly credentialsDir?: string;
  readonly pid: number;
  readonly portBase: number;
  readonly startedAt: string;
  readonly environment: "development" | "production";
  readonly configFile: string;
  /** `MCPF_PORT_<NAME>` of the local processes, for `${...}` in a configuration. */
  readonly ports: Readonly<Record<string, number>>;
}

export interface DataDirLock {
  /** True when the one who held the lock before had died with it. */
  readonly tookOver: boolean;
  release(): void;
}

interface LockContent {
  readonly pid: number;
  readonly start: string;
}

const lockAttemptsMax = 10;
const settleMs = 25;
const pause = (ms: number): void => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);

/** Takes the data directory for this process, making it where it is missing. Throws {@link DataDirInUseError}. */
export function lockDataDir(dataDir: string): DataDirLock {
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  const file = join(dataDir, "launcher.lock");
  const mine = `${JSON.stringify({ pid: process.pid, start: startOf(process.pid) ?? "" } satisfies LockContent)}\n`;
  const draft = `${file}.${process.pid}`;
  let tookOver = false;
  writeFileSync(draft, mine, { mode: 0o600 });
  try {
    for (let attempt = 0; attempt < lockAttemptsMax; attempt += 1) {
      try {
        // A link is made whole or not at all, and only where no file is.
        linkSync(draft, file);
        // One that still believes the dead lock to be there may move ours away for a moment, and a third may come in between.
        pause(settleMs);
        if (readText(file) !== mine) continue;
        return {
          tookOver,
          release: () => {
            if (readText(file) === mine) rmSync(file, { force: true });
          },
        };
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      }
      const found = readText(file);
      if (found === null) continue;
      const holder = readLock(found);
      if (holder !== null && startOf(holder.pid) === holder.start) throw new DataDirInUseError(dataDir, holder.pid);
      // Of two that find it stale, one moves it away; the other finds nothing, or the winner's, and puts that back.
      const aside = `${file}.stale.${process.pid}`;
      try {
        renameSync(file, aside);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "ENOENT") continue;
        throw error;
      }
      if (readText(aside) === found) tookOver = true;
      else {
        try {
          linkSync(aside, file);
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
        }
      }
      rmSync(aside, { force: true });
    }
    throw new Error(`${file} changes all the time; remove it when no stack uses ${dataDir}`);
  } finally {
    rmSync(draft, { force: true });
  }
}

function readLock(text: string): LockContent | null {
  try {
    const parsed = JSON.parse(text) as Partial<LockContent>;
    return typeof parsed.pid === "number" && typeof parsed.start === "string" ? { pid: parsed.pid, start: parsed.start } : null;
  } catch {
    return null; // Cut off by a full disk or a power failure: whoever wrote it is gone.
  }
}

function readText(file: string): string | null {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}

/** Writes `stack.json` whole or not at all; returns how to remove it. */
export function writeStackFile(dataDir: string, stack: StackFile): () => void {
  const file = join(dataDir, "stack.json");
  const draft = `${file}.${process.pid}`;
  writeFileSync(draft, `${JSON.stringify(stack, null, 2)}\n`, { mode: 0o600 });
  renameSync(draft, file);
  return () => rmSync(file, { force: true });
}

/** The key under which the routers seal session ids: 32 bytes, made once, so that sessions outlive a restart of the stack. */
export function sessionKey(dataDir: string): string {
  const file = join(dataDir, "session.key");
  const found = readText(file)?.trim();
  if (found !== undefined && /^[0-9a-f]{64}$/.test(found)) return found;
  const key = randomBytes(32).toString("hex");
  const draft = `${file}.${process.pid}`;
  writeFileSync(draft, `${key}\n`, { mode: 0o600 });
  renameSync(draft, file);
  return key;
}
