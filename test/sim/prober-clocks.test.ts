import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { openPool, type Pool } from "./pool.ts";
import { leastWorld, scheduleOf } from "./schedule.ts";
import type { Fault, RunResult } from "./world-types.ts";

let pool: Pool;
before(() => {
  pool = openPool(1, { mutant: null });
});
after(() => pool.close());

const secondMs = 1000;
const minuteMs = 60 * secondMs;

/** Fourteen minutes of the world of seed 1, in which nothing is wrong but these. */
async function run(faults: readonly Fault[], calls: number): Promise<RunResult> {
  const { seed, topology } = scheduleOf(1, leastWorld);
  const world = { ...leastWorld, durationMs: 14 * minuteMs, quietFromMs: 5 * minuteMs, calls };
  const result = await pool.run({ schedule: { seed, topology, world, faults }, validates: false, hashes: false, logFd: null });
  assert.equal(result.violation, null, `${result.violation?.message} ${JSON.stringify(result.violation?.details)}`);
  return result;
}
const wrongClocks = (id: number, atMs: number, byMs: number, forMs: number): Fault => ({ id, atMs, kind: "prober_clocks", byMs, forMs });

/** All that was said of health, breakers, moves and what is asked of the fleet, apart from the first words on each endpoint. */
const said = ({ coverage }: RunResult): string[] =>
  Object.keys(coverage).filter(
    (cell) => /^(health|rule|failing|breaker|rejected):/.test(cell) && !/^(health:unknown>healthy|rule:health:rise)$/.test(cell),
  );

test("clocks of all probers that are set together, ahead or back, and set right again, change nobody's health and move nothing", async () => {
  const jumps = [10, -10, 25, -25, 60, -60];
  const result = await run(
    jumps.map((seconds, index) => wrongClocks(index + 1, (30 + index * 40) * secondMs, seconds * secondMs, 20 * secondMs)),
    400,
  );
  assert.equal(result.coverage["fault:prober_clocks:ahead"], 3);
  assert.equal(result.coverage["fault:prober_clocks:behind"], 3);
  assert.deepEqual(said(result), []);
});

const setAtMs = 100 * secondMs;
const dies: Fault = {
  id: 2,
  atMs: setAtMs + secondMs,
  kind: "endpoint",
  // Two intervals of probes, and nobody else calls it.
  forMs: 10 * secondMs,
  endpoint: "alpha/one",
  mode: "killed",
  meets: "all",
  share: 1,
  latencyMs: 0,
  periodMs: null,
};

for (const [what, fault] of Object.entries({
  "a minute ahead": wrongClocks(1, setAtMs, minuteMs, 2 * minuteMs),
  "a minute back": wrongClocks(1, setAtMs, -minuteMs, 2 * minuteMs),
  "right again, after they were a minute ahead": wrongClocks(1, setAtMs - minuteMs, minuteMs, minuteMs),
})) {
  test(`an endpoint that dies just after the clocks of all probers were set ${what} is moved off once, and all of it recovers`, async () => {
    const { coverage } = await run([fault, dies], 0);
    assert.deepEqual([coverage["rule:health:fall"], coverage["rule:failover:majority_unhealthy"]], [1, 1]);
    assert.equal(coverage["failover:moved:automatic"], 1);
  });
}
