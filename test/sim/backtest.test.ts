import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import type { BacktestResult } from "@mcp-failover/domain";
import type { Wanted } from "./backtest-worker.ts";

const seeds = [500, 502, 602, 610, 614, 617];

test("tried on what a fleet recorded under faults, the policy that was in force moves what the fleet moved, within a second, and next to nothing else", async () => {
  const worker = new Worker(new URL("./backtest-worker.ts", import.meta.url), { workerData: { seeds } satisfies Wanted });
  const [results] = (await once(worker, "message")) as [readonly BacktestResult[]];
  await worker.terminate();
  const sum = (of: (result: BacktestResult) => number): number => results.reduce((all, result) => all + of(result), 0);
  const [recorded, again, added] = [
    sum((one) => one.fidelity.recorded),
    sum((one) => one.fidelity.again),
    sum((one) => one.fidelity.added),
  ];
  const said = `${again} of ${recorded} moves again, ${added} others`;
  assert.ok(recorded >= 10, said);
  assert.ok(again >= 0.9 * recorded, said);
  assert.ok(added <= 0.1 * recorded, said);
  for (const { sides, fidelity, silentMs } of results) {
    assert.ok(Math.abs(fidelity.medianLagMs ?? 0) < 1000, `${fidelity.medianLagMs} ms`);
    // The same policy, however it is given.
    assert.deepEqual(sides.wanted, sides.replayed);
    const { total } = sides.recorded;
    const judgedMs = (total.upMs + total.downMs + total.unknownMs) / Object.keys(sides.recorded.upstreams).length;
    assert.ok(judgedMs + silentMs > 3_000_000, `${judgedMs} ms of an hour were judged, ${silentMs} ms were silent`);
  }
});
