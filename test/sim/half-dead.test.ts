import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { openPool, type Pool } from "./pool.ts";
import { leastWorld, scheduleOf } from "./schedule.ts";
import type { Fault, Schedule } from "./world-types.ts";

let pool: Pool;
before(() => {
  pool = openPool(1, { mutant: null });
});
after(() => pool.close());

/** Two and a half minutes of the world of seed 1: for 40 s every call to the active endpoint of `alpha` fails, and every probe of it passes. */
function halfDead(): Schedule {
  const { world, ...rest } = scheduleOf(1, leastWorld);
  const fault: Fault = {
    id: 1,
    atMs: 60_000,
    kind: "endpoint",
    forMs: 40_000,
    endpoint: "alpha/one",
    mode: "http_503",
    meets: "calls",
    share: 1,
    latencyMs: 0,
    periodMs: null,
  };
  return { ...rest, world: { ...world, durationMs: 150_000, quietFromMs: 120_000, calls: 600 }, faults: [fault] };
}

const rule = "rule:failover:calls_failing";

test("an endpoint that fails calls while probes pass is moved off by those that call it, and no guarantee is broken meanwhile", async () => {
  const { violation, coverage } = await pool.run({ schedule: halfDead(), validates: false, hashes: false, logFd: null });
  assert.equal(violation, null, violation?.message);
  assert.equal(coverage[rule], 1);
});

test("where one router alone meets the failing calls, nothing is moved for them", async () => {
  const cut: Fault = { id: 1, atMs: 60_000, kind: "partition", forMs: 40_000, process: "router-1", peer: "alpha/one", direction: "both" };
  const schedule = { ...halfDead(), faults: [cut] };
  const { violation, coverage } = await pool.run({ schedule, validates: false, hashes: false, logFd: null });
  assert.equal(violation, null, violation?.message);
  assert.equal(coverage[rule] ?? 0, 0);
});
