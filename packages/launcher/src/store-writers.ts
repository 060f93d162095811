import { closeSync, constants, openSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import * as z from "zod";
import { startOf } from "./process-identity.ts";

/** nats-server or redis-server of the stack before still writes into the data directory, and nothing ends it. */
export class StoreInUseError extends Error {
  override readonly name = "StoreInUseError";
  readonly code = "store_in_use";
  readonly retriable = true;
  constructor(dataDir: string, left: readonly StoreWriter[]) {
    const pids = left.map(({ pid }) => pid).join(" ");
    super(`still at work in ${dataDir}: ${named(left)} of the stack before; end what is named (kill ${pids}) and start again`);
  }
}

/** A process that writes into the data directory's stores; `start` as {@link startOf} said it, so that nobody else is taken for it. */
const storeWriter = z.object({ name: z.string(), pid: z.int().positive(), start: z.string() });
type StoreWriter = z.infer<typeof storeWriter>;

/** Keeps on record who writes into the stores. */
export interface StoreWriters {
  began(name: string, pid: number): void;
  close(): void;
}

/** Written over in place, and always as long: on a full disk too. */
const recordBytes = 1024;
const lookMs = 100;

/**
 * Waits until nobody of a stack before writes into the stores of the data directory, which must be locked: neither nats-server nor
 * redis-server keeps a second one of its kind away, and of two the one loses what the other acknowledged. Ends nobody: that is the guardian's.
 * Returns early once `isOver`. Throws {@link StoreInUseError} after `waitMs`.
 */
export async function storesFree(
  dataDir: string,
  options: { readonly waitMs: number; readonly isOver: () => boolean; readonly say: (text: string) => void },
): Promise<void> {
  const found = readRecord(dataDir);
  const living = (): StoreWriter[] => found.filter(({ pid, start }) => startOf(pid) === start);
  const endMs = performance.now() + options.waitMs;
  for (let left = living(), first = true; left.length > 0 && !options.isOver(); left = living(), first = false) {
    if (first) options.say(`waiting for ${named(left)} of the stack before to end`);
    if (performance.now() >= endMs) throw new StoreInUseError(dataDir, left);
    await sleep(lookMs);
  }
}

/** Begins a new record, once the stores are free. A writer that cannot be put on record is told to `onProblem`, and runs all the same. */
export function recordStoreWriters(dataDir: string, onProblem: (problem: string) => void): StoreWriters {
  const file = recordFile(dataDir);
  const writers = new Map<string, StoreWriter>();
  const record = openSync(file, constants.O_RDWR | constants.O_CREAT, 0o600);
  const write = (): void => void writeSync(record, `${JSON.stringify([...writers.values()])}\n`.padEnd(recordBytes), 0);
  write();
  return {
    began(name, pid) {
      const start = startOf(pid);
      if (start === null) return;
      writers.set(name, { name, pid, start });
      try {
        write();
      } catch (error) {
        onProblem(
          `${file} cannot be written (${(error as Error).message}): should this stack be killed, the next start may not see ${name}`,
        );
      }
    },
    close: () => closeSync(record),
  };
}

function recordFile(dataDir: string): string {
  return join(dataDir, "servers.json");
}

function readRecord(dataDir: string): StoreWriter[] {
  try {
    return z.array(storeWriter).parse(JSON.parse(readFileSync(recordFile(dataDir), "utf8")));
  } catch (error) {
    // Missing: the first start, or the stack before was of an earlier version. Damaged: by a power failure, which nobody outlived.
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || error instanceof SyntaxError || error instanceof z.ZodError) return [];
    throw error;
  }
}

function named(writers: readonly StoreWriter[]): string {
  return writers.map(({ name, pid }) => `${name} (process ${pid})`).join(", ");
}
