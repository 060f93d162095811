import { isMainThread, parentPort, workerData } from "node:worker_threads";
import { Backtest, type BacktestMessage, type BacktestResult } from "@mcp-failover/domain";
import { leastWorld, scheduleOf } from "./schedule.ts";
import { runWorld } from "./world.ts";
import type { Check, Entry, World } from "./world-types.ts";

/** What it is asked for: runs of these seeds, and a backtest of each with the configuration that it ran under. */
export interface Wanted {
  readonly seeds: readonly number[];
}

/** Records a run as the streams hold it. */
function recorder(record: BacktestMessage[], onWorld: (world: World) => void): Check {
  const take =
    (stream: BacktestMessage["stream"]) =>
    ({ seq, timeMs, event }: Entry): void => {
      record.push({ stream, seq, timeMs, event });
    };
  return {
    guarantee: "recorded",
    says: "every message is recorded",
    start(world) {
      onWorld(world);
      return { onAudit: take("AUDIT"), onSignal: take("SIGNALS") };
    },
  };
}

function backtestOf(seed: number): BacktestResult {
  const record: BacktestMessage[] = [];
  let ran: World | null = null;
  const check = recorder(record, (world) => {
    ran = world;
  });
  runWorld(scheduleOf(seed, leastWorld), { checks: [check] });
  const { topology, environment } = ran as unknown as World;
  const backtest = new Backtest({ wanted: { topology, environment }, fromMs: 0 });
  for (const message of record) backtest.take(message);
  return backtest.end();
}

if (isMainThread || parentPort === null) throw new Error("backtest-worker.ts is started by backtest.test.ts");
const port = parentPort;
// A run drains microtasks itself, so it must not be inside of one.
setImmediate(() => port.postMessage((workerData as Wanted).seeds.map(backtestOf)));
