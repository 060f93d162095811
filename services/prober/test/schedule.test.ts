import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import { createDueHeap } from "../src/due-heap.ts";
import { createSchedule } from "../src/schedule.ts";

test("what is due first comes out first, whatever went in before and between", () => {
  const steps = fc.array(fc.option(fc.integer({ min: 0, max: 50 })), { maxLength: 200 });
  fc.assert(
    fc.property(steps, (all) => {
      const heap = createDueHeap<number>();
      let model: number[] = [];
      for (const atMs of all) {
        if (atMs === null) {
          const popped = heap.pop();
          assert.equal(popped, model.length === 0 ? undefined : Math.min(...model));
          if (popped !== undefined) model.splice(model.indexOf(popped), 1);
        } else {
          heap.push(atMs, atMs);
          model = [...model, atMs];
        }
        assert.equal(heap.firstMs, model.length === 0 ? null : Math.min(...model));
      }
    }),
  );
});

test("a clock that is set back or forth stops no probe and starts none early", async (t) => {
  let shiftMs = 0;
  const runs: string[] = [];
  const schedule = createSchedule({
    nowMs: () => performance.now() + shiftMs,
    clockMs: () => performance.now(),
    run: async (key) => {
      runs.push(key);
      return null;
    },
    onLag: () => undefined,
    onError: assert.fail,
    errorWaitMs: 10,
  });
  t.after(() => schedule.stop());
  schedule.plan("soon", { atMs: performance.now() + 60, purpose: "scheduled" });
  schedule.plan("later", { atMs: performance.now() + 5000, purpose: "scheduled" });
  shiftMs = -60_000;
  await sleep(150);
  assert.deepEqual(runs, ["soon"]);
  shiftMs = 60_000;
  await sleep(50);
  assert.deepEqual(runs, ["soon"]);
});

test("of several plans for one key the last counts, and one that was removed never runs", async (t) => {
  const runs: string[] = [];
  const schedule = createSchedule({
    nowMs: () => performance.now(),
    clockMs: () => performance.now(),
    run: async (key, { purpose }) => {
      runs.push(`${key} ${purpose}`);
      return null;
    },
    onLag: () => undefined,
    onError: assert.fail,
    errorWaitMs: 10,
  });
  t.after(() => schedule.stop());
  const soon = performance.now() + 20;
  schedule.plan("a", { atMs: soon, purpose: "scheduled" });
  schedule.plan("a", { atMs: soon + 20, purpose: "retry" });
  schedule.plan("b", { atMs: soon, purpose: "scheduled" });
  schedule.remove("b");
  await sleep(120);
  assert.deepEqual([runs, schedule.size], [["a retry"], 0]);
});
