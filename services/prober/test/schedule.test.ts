import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import { createDueHeap } from "../src/due-heap.ts";
import { createSchedule } from "../src/schedule.ts";

test("what is due first comes out first, whatever went in before and between", () => {
  const steps = fc.array(fc.option(fc.integer({ min: 0, max: 50 })), { maxLength: 200, size: "max" });
  fc.assert(
    fc.property(steps, (all) => {
      const heap = createDueHeap<{ dueMs: number }>();
      let model: number[] = [];
      for (const atMs of all) {
        if (atMs === null) {
          const popped = heap.pop()?.dueMs;
          assert.equal(popped, model.length === 0 ? undefined : Math.min(...model));
          if (popped !== undefined) model.splice(model.indexOf(popped), 1);
        } else {
          heap.push({ dueMs: atMs });
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
  const lagsMs: number[] = [];
  const schedule = createSchedule({
    nowMs: () => performance.now() + shiftMs,
    clockMs: () => performance.now(),
    run: async (key) => {
      runs.push(key);
      return null;
    },
    onLag: (lagMs) => lagsMs.push(lagMs),
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
  shiftMs = 0;
  schedule.plan("set", { atMs: performance.now() + 30, purpose: "scheduled" });
  shiftMs = 60_000;
  for (let waits = 0; runs.length < 2 && waits < 500; waits += 1) await sleep(10);
  assert.deepEqual(runs, ["soon", "set"]);
  assert.ok(Math.max(...lagsMs) < 50_000, `a set clock is no lag: ${lagsMs}`);
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

test("what is overdue at once begins in turns, with the answers of what already runs heard in between", async (t) => {
  const keys = Array.from({ length: 200 }, (_, index) => `e${index}`);
  const ran = new Set<string>();
  let inTurn = 0;
  let inTurnMost = 0;
  const schedule = createSchedule({
    nowMs: () => performance.now(),
    clockMs: () => performance.now(),
    run: async (key) => {
      ran.add(key);
      if (inTurn === 0) {
        setImmediate(() => {
          inTurn = 0;
        });
      }
      inTurn += 1;
      inTurnMost = Math.max(inTurnMost, inTurn);
      return null;
    },
    onLag: () => undefined,
    onError: assert.fail,
    errorWaitMs: 10,
  });
  t.after(() => schedule.stop());
  for (const key of keys) schedule.plan(key, { atMs: performance.now(), purpose: "scheduled" });
  for (let waits = 0; ran.size < keys.length && waits < 500; waits += 1) await sleep(10);
  assert.equal(ran.size, keys.length);
  assert.ok(inTurnMost < 100, `${inTurnMost} of them began in one turn`);
});
