import assert from "node:assert/strict";
import { test } from "node:test";
import { openPool } from "./pool.ts";
import { leastWorld, scheduleOf } from "./schedule.ts";
import type { Fault, RunResult } from "./world-types.ts";

const hourMs = 3_600_000;
const dead = (id: number, atMs: number, forMs: number): Fault => ({
  id,
  atMs,
  kind: "endpoint",
  forMs,
  endpoint: "alpha/one",
  mode: "refused",
  meets: "all",
  share: 1,
  latencyMs: 0,
  periodMs: null,
});

/** Twelve minutes of the world of seed 1, with these faults alone: until everything has to be as before them. */
async function runWith(mutant: string | null, faults: Fault[]): Promise<RunResult> {
  const { world, ...rest } = scheduleOf(1, leastWorld);
  const schedule = { ...rest, world: { ...world, durationMs: 720_000, quietFromMs: 180_000, calls: 600 }, faults };
  const pool = openPool(1, { mutant });
  try {
    return await pool.run({ schedule, validates: false, hashes: false, logFd: null });
  } finally {
    await pool.close();
  }
}

const back: Fault = { id: 2, atMs: 70_000, kind: "clock_jump", process: "nats", byMs: -hourMs };
const faults = [dead(1, 60_000, 30_000), back, dead(3, 150_000, 25_000)];

test("the server's clock is set back by an hour while an endpoint is down: its breaker closes in time, and what dies after it is moved off", async () => {
  const { violation, coverage } = await runWith(null, faults);
  assert.equal(violation, null, `${violation?.message} ${JSON.stringify(violation?.details)}`);
  const moves = (coverage["rule:failover:majority_unhealthy"] ?? 0) + (coverage["rule:failover:calls_failing"] ?? 0);
  assert.ok(moves >= 1, JSON.stringify(coverage));
});

test("deciders that wait for times of the clock before do not recover, which shows that it is looked at", async () => {
  const { violation } = await runWith("waits-for-another-clock", faults);
  assert.equal(violation?.guarantee, "everything_recovers");
});
