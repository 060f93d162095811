import { Worker } from "node:worker_threads";
import type { Done, Order, WorkerData } from "./worker.ts";
import type { RunResult } from "./world-types.ts";

/** Threads that run worlds. Close it at the end. */
export interface Pool {
  /** Throws when the simulator itself failed, never for a guarantee that does not hold. */
  run(order: Order): Promise<RunResult>;
  close(): Promise<void>;
}

/** Starts `size` threads, with a mutant in the production code or none. */
export function openPool(size: number, data: WorkerData): Pool {
  const idle: Worker[] = [];
  const waiting: ((worker: Worker) => void)[] = [];
  const all = Array.from(
    { length: size },
    () =>
      new Worker(new URL("./worker.ts", import.meta.url), {
        workerData: data,
        // Most of what a run makes is dead at once: a large nursery leaves it there.
        resourceLimits: { maxYoungGenerationSizeMb: 96 },
      }),
  );
  idle.push(...all);
  const give = (worker: Worker): void => {
    const next = waiting.shift();
    if (next === undefined) idle.push(worker);
    else next(worker);
  };
  const take = (): Promise<Worker> => {
    const worker = idle.pop();
    return worker === undefined ? new Promise((resolve) => waiting.push(resolve)) : Promise.resolve(worker);
  };
  return {
    async run(order) {
      const worker = await take();
      return new Promise((resolve, reject) => {
        const end = (): void => {
          worker.off("message", onMessage);
          worker.off("error", onError);
        };
        const onMessage = (done: Done): void => {
          end();
          give(worker);
          if ("result" in done) resolve(done.result);
          else reject(new Error(`the simulator failed on seed ${order.schedule.seed}: ${done.failed}`));
        };
        const onError = (error: unknown): void => {
          end();
          reject(error instanceof Error ? error : new Error(String(error)));
        };
        worker.on("message", onMessage);
        worker.on("error", onError);
        worker.postMessage(order);
      });
    },
    async close() {
      await Promise.all(all.map((worker) => worker.terminate()));
    },
  };
}
