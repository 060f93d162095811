import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { openPool, type Pool } from "./pool.ts";
import { leastWorld, scheduleOf } from "./schedule.ts";

const minuteMs = 60_000;
const short = { ...leastWorld, durationMs: 10 * minuteMs, quietFromMs: 8 * minuteMs, calls: 400 };
const seed = 20_260_701;

let pool: Pool;
before(() => {
  pool = openPool(2, { mutant: null });
});
after(() => pool.close());

const run = (of: number, options: { validates: boolean }) =>
  pool.run({ schedule: scheduleOf(of, short), hashes: true, logFd: null, ...options });

test("the same seed gives the same log byte for byte, in any thread, and another seed another one", async () => {
  const [one, other, next] = await Promise.all([
    run(seed, { validates: false }),
    run(seed, { validates: false }),
    run(seed + 1, { validates: false }),
  ]);
  assert.match(one.logHash, /^[0-9a-f]{64}$/);
  assert.equal(one.logHash, other.logHash);
  assert.notEqual(one.logHash, next.logHash);
  assert.ok(one.audit > 10 && one.signals > 500, `only ${one.audit} events of AUDIT and ${one.signals} of SIGNALS`);
});

test("the simulation speaks the real language: with every event through its bytes and schema the log is the same", async () => {
  const [plain, validated] = await Promise.all([run(seed, { validates: false }), run(seed, { validates: true })]);
  assert.equal(validated.violation, null);
  assert.equal(validated.logHash, plain.logHash);
});
