import { isMainThread, parentPort, workerData } from "node:worker_threads";
import type { RunResult, Schedule } from "./world-types.ts";

/** What a worker is asked: run this. `validates` and `hashes` as in `RunOptions`. */
export interface Order {
  readonly schedule: Schedule;
  readonly validates: boolean;
  readonly hashes: boolean;
  readonly logFd: number | null;
}
export type Done = { readonly result: RunResult } | { readonly failed: string };
export interface WorkerData {
  readonly mutant: string | null;
  /** Only this guarantee is checked; all where it is left out. */
  readonly guarantee?: string;
}

/** One thread that runs worlds, one after the other. A mutant is put in place before any production code is loaded. */
async function serve(): Promise<void> {
  const port = parentPort;
  if (isMainThread || port === null) throw new Error("worker.ts is started by main.ts");
  const { mutant, guarantee } = workerData as WorkerData;
  if (mutant !== null) {
    const { installMutant } = await import("./mutants.ts");
    installMutant(mutant);
  }
  const [{ runWorld }, all] = await Promise.all([import("./world.ts"), import("./checks/index.ts")]);
  const checks = all.checks.filter((check) => guarantee === undefined || check.guarantee === guarantee);
  port.on("message", ({ schedule, validates, hashes, logFd }: Order) => {
    // The loop drains microtasks itself, so it must not run inside of one.
    setImmediate(() => {
      try {
        port.postMessage({ result: runWorld(schedule, { checks, validates, hashes, logFd }) } satisfies Done);
      } catch (error) {
        port.postMessage({ failed: error instanceof Error ? (error.stack ?? error.message) : String(error) } satisfies Done);
      }
    });
  });
}

await serve();
