import assert from "node:assert/strict";
import { test } from "node:test";
import {
  CallBreaker,
  type CallBreakerPolicy,
  type CallOutcome,
  callFailed,
  callIgnored,
  callOk,
  callSlow,
  defaultCallBreakerPolicy,
  denied,
} from "@mcp-failover/domain";
import fc from "fast-check";

const base: CallBreakerPolicy = { ...defaultCallBreakerPolicy, openJitter: 0 };
const make = (policy: Partial<CallBreakerPolicy> = {}): CallBreaker => new CallBreaker("test", { ...base, ...policy });
function call(breaker: CallBreaker, outcome: CallOutcome, nowMs: number): void {
  const permit = breaker.acquire(nowMs);
  assert.notEqual(permit, denied, `no permit at ${nowMs} in ${breaker.status}`);
  breaker.record(permit, outcome, nowMs);
}
function calls(breaker: CallBreaker, outcomes: readonly CallOutcome[], nowMs: number): void {
  for (const outcome of outcomes) call(breaker, outcome, nowMs);
}
const times = (count: number, outcome: CallOutcome): CallOutcome[] => Array.from({ length: count }, () => outcome);

test("K1: failures in a row open it; a success between, or a gap as long as the window, begins a new run", () => {
  const breaker = make();
  calls(breaker, [...times(4, callFailed), callOk, ...times(4, callFailed)], 0);
  assert.equal(breaker.status, "closed");
  call(breaker, callFailed, base.windowMs);
  assert.equal(breaker.status, "closed");
  calls(breaker, times(4, callFailed), base.windowMs);
  assert.deepEqual([breaker.status, breaker.reason], ["open", "5 failures in a row"]);
});

test("K1: a ratio opens it only at the minimum of calls, and when it is certainly over the threshold", () => {
  const mixed = (failed: number, all: number): CallOutcome[] => [...times(all - failed, callOk), ...times(failed, callFailed)];
  const only = { consecutiveFailures: null };
  const few = make(only);
  calls(few, mixed(19, 19), 0);
  assert.equal(few.status, "closed");
  const half = make(only);
  calls(half, mixed(11, 20), 0);
  assert.equal(half.status, "closed", "11 of 20 may be chance");
  const most = make(only);
  calls(most, mixed(15, 20), 0);
  assert.deepEqual([most.status, most.reason], ["open", "15 of 20 calls failed"]);
  const plain = make({ ...only, plainRatio: true });
  calls(plain, mixed(10, 20), 0);
  assert.equal(plain.status, "open");
});

test("K1: a call that grew late counts once: as slow while it is out, for both ratios when it fails then, and for the run by its end", () => {
  for (const windowCalls of [null, 20]) {
    const breaker = make({ windowCalls, slowRatio: null });
    const late = (failed: boolean, nowMs: number): void => {
      const permit = breaker.acquire(nowMs);
      breaker.grewLate(permit, nowMs);
      breaker.endLate(permit, failed, nowMs + 4000);
    };
    calls(breaker, times(3, callFailed), 0);
    late(true, 0);
    late(false, 0);
    calls(breaker, times(3, callFailed), 4000);
    late(true, 4000);
    assert.equal(breaker.status, "closed", "an answer ended the run");
    late(true, 4000);
    assert.deepEqual([breaker.status, breaker.reason], ["open", "5 failures in a row"]);

    const mixed = make({ windowCalls, consecutiveFailures: null, slowRatio: null });
    calls(mixed, times(4, callOk), 0);
    for (let count = 0; count < 16; count += 1) {
      const permit = mixed.acquire(0);
      mixed.grewLate(permit, 0);
      mixed.endLate(permit, true, 4000);
    }
    // The last one was the twentieth call when it grew late, and opened it then.
    assert.deepEqual([mixed.status, mixed.generation, mixed.reason], ["open", 1, "15 of 20 calls failed"], "K5: its end changed nothing");
  }
});

test("K1: slow calls open it by their own ratio", () => {
  const breaker = make({ slowRatio: 0.5 });
  calls(breaker, [...times(4, callOk), ...times(15, callSlow)], 0);
  assert.equal(breaker.status, "closed");
  call(breaker, callSlow, 0);
  assert.deepEqual([breaker.status, breaker.reason], ["open", "16 of 20 calls were slow"]);
});

test("K1: a window by count forgets by calls, not by time", () => {
  const breaker = make({ consecutiveFailures: null, windowCalls: 10, minimumCalls: 10, plainRatio: true });
  calls(breaker, [...times(4, callFailed), ...times(6, callOk)], 0);
  calls(breaker, times(4, callOk), 1e9);
  calls(breaker, times(4, callFailed), 1e9);
  assert.equal(breaker.status, "closed", "the first four are out of the window");
  call(breaker, callFailed, 1e9);
  assert.equal(breaker.status, "open");
});

test("K3, K6: the open time doubles up to its limit with each opening, and quiet time takes it back", () => {
  const breaker = make({ consecutiveFailures: 1 });
  let nowMs = 0;
  const lasted: number[] = [];
  for (let round = 0; round < 8; round += 1) {
    call(breaker, callFailed, nowMs);
    const untilMs = breaker.openUntilMs ?? 0;
    lasted.push((untilMs - nowMs) / 1000);
    assert.equal(breaker.allows(untilMs - 1), false);
    assert.equal(breaker.allows(untilMs), true);
    nowMs = untilMs;
  }
  assert.deepEqual(lasted, [5, 10, 20, 40, 80, 160, 300, 300]);
  call(breaker, callOk, nowMs);
  assert.equal(breaker.status, "closed");
  nowMs += 10 * base.openingDecayMs;
  call(breaker, callFailed, nowMs);
  assert.equal((breaker.openUntilMs ?? 0) - nowMs, 5000);
});

test("K6: the open time is spread by the seed, never over its whole", () => {
  const lasted = ["a", "b", "c", "d"].map((seed) => {
    const breaker = new CallBreaker(seed, { ...base, consecutiveFailures: 1, openJitter: 0.5 });
    call(breaker, callFailed, 0);
    return breaker.openUntilMs ?? 0;
  });
  assert.equal(new Set(lasted).size, 4);
  assert.ok(lasted.every((ms) => ms >= 2500 && ms <= 5000));
});

test("K4: trials that hang stop counting after trialMs, all at once, and their late reports free no place twice", () => {
  const breaker = make({ consecutiveFailures: 1, halfOpenCalls: 2, halfOpenSuccesses: 5 });
  call(breaker, callFailed, 0);
  const old = [breaker.acquire(5000), breaker.acquire(5000)];
  assert.equal(breaker.acquire(5000 + base.trialMs - 1), denied);
  const atMs = 5000 + base.trialMs;
  assert.notEqual(breaker.acquire(atMs), denied);
  for (const permit of old) breaker.record(permit, callOk, atMs);
  assert.notEqual(breaker.acquire(atMs), denied);
  assert.equal(breaker.acquire(atMs), denied, "two new ones are out");
});

test("K4: a trial that is given back makes way at once", () => {
  const breaker = make({ consecutiveFailures: 1 });
  call(breaker, callFailed, 0);
  breaker.release(breaker.acquire(5000));
  assert.equal(breaker.allows(5000), true);
});

test("K4: in half-open an answer that does not count is a good trial; in closed it is no call at all", () => {
  const breaker = make({ consecutiveFailures: 2, halfOpenSuccesses: 2 });
  calls(breaker, [callFailed, callIgnored, callFailed], 0);
  assert.equal(breaker.status, "open", "K1: it did not end the run");
  const ofBefore = breaker.acquire(5000);
  const trial = breaker.acquire(5000 + base.trialMs);
  breaker.record(ofBefore, callIgnored, 5000 + base.trialMs);
  assert.equal(breaker.acquire(5000 + base.trialMs), denied, "K4: the late report freed no place of the new round");
  breaker.record(trial, callIgnored, 5000 + base.trialMs);
  assert.deepEqual([breaker.status, breaker.reason], ["closed", "2 successful trials"]);
  const ratio = make({ consecutiveFailures: null, minimumCalls: 4, plainRatio: true });
  calls(ratio, [...times(10, callIgnored), ...times(3, callFailed)], 0);
  assert.equal(ratio.status, "closed", "K2: three calls");
  call(ratio, callFailed, 0);
  assert.deepEqual([ratio.status, ratio.reason], ["open", "4 of 4 calls failed"]);
});

test("K7: an operator's states hold against any result; metrics_only says how often it would have opened", () => {
  for (const status of ["forced_open", "disabled", "metrics_only"] as const) {
    const breaker = make();
    breaker.set(status, 0, "by hand");
    for (let count = 0; count < 12; count += 1) {
      const permit = breaker.acquire(count);
      assert.equal(permit === denied, status === "forced_open");
      if (permit !== denied) breaker.record(permit, callFailed, count);
    }
    assert.equal(breaker.status, status);
    assert.equal(breaker.withheld, status === "metrics_only" ? 2 : 0);
    breaker.set("closed", 20, "by hand");
    call(breaker, callOk, 20);
  }
});

test("restore takes up an open time and its back-off, and never more than the limit", () => {
  const breaker = make();
  breaker.restore({ status: "half_open", openings: 3, openForMs: 1e12 }, 100);
  assert.deepEqual([breaker.status, breaker.openUntilMs, breaker.openings], ["open", 100 + base.openMsMax, 3]);
});

test("K3: what is restored and makes no sense is refused, and changes nothing", () => {
  const sound = { status: "open", openings: 1, openForMs: 1000 } as const;
  for (const [wrong, name] of [
    [{ status: "OPEN" }, /status is OPEN/],
    [{ status: undefined }, /status is undefined/],
    [{ openings: undefined }, /openings is undefined/],
    [{ openings: Number.NaN }, /openings is NaN/],
    [{ openings: "1" }, /openings is 1/],
    [{ openForMs: Number.NaN }, /openForMs is NaN/],
    [{ openForMs: Number.POSITIVE_INFINITY }, /openForMs is Infinity/],
    [{ status: "closed", openings: null }, /openings is null/],
  ] as const) {
    const breaker = make({ consecutiveFailures: 1 });
    // Of a file, or of another version.
    const state = { ...sound, ...wrong } as unknown as typeof sound;
    assert.throws(() => breaker.restore(state, 0), { name: "RangeError", message: name });
    assert.deepEqual([breaker.status, breaker.generation, breaker.openings], ["closed", 0, 0]);
    call(breaker, callFailed, 0);
    assert.equal(breaker.allows(breaker.openUntilMs ?? Number.NaN), true);
  }
});

/** Failures often enough, and close enough, for it to open; answers that are late enough to come after that. */
const step = fc.record({
  waitMs: fc.oneof({ weight: 6, arbitrary: fc.integer({ min: 0, max: 500 }) }, { weight: 1, arbitrary: fc.integer({ min: 0, max: 8000 }) }),
  takesMs: fc.oneof(
    { weight: 3, arbitrary: fc.integer({ min: 0, max: 300 }) },
    { weight: 1, arbitrary: fc.integer({ min: 0, max: 12_000 }) },
  ),
  outcome: fc.option(
    fc.oneof(
      { weight: 4, arbitrary: fc.constant<CallOutcome>(callFailed) },
      { weight: 3, arbitrary: fc.constantFrom<CallOutcome>(callOk, callSlow, callIgnored) },
    ),
    { freq: 10 },
  ),
});

test("K1, K3, K4, K5 hold for any overlapping calls, and the same calls give the same states", () => {
  /** How often each of them had something to say. */
  const met = { opened: 0, late: 0, waiting: 0, closed: 0 };
  const run = (steps: readonly { waitMs: number; takesMs: number; outcome: CallOutcome | null }[], halfOpenCalls: number): string => {
    const breaker = make({ halfOpenCalls, halfOpenSuccesses: halfOpenCalls, slowRatio: 0.5, minimumCalls: 5 });
    let pending: { atMs: number; permit: number; generation: number; outcome: CallOutcome }[] = [];
    let nowMs = 0;
    const told: string[] = [];
    for (const { waitMs, takesMs, outcome } of steps) {
      nowMs += waitMs;
      const due = pending.filter(({ atMs }) => atMs <= nowMs).sort((a, b) => a.atMs - b.atMs);
      pending = pending.filter(({ atMs }) => atMs > nowMs);
      for (const one of due) {
        const before = breaker.generation;
        breaker.record(one.permit, one.outcome, one.atMs);
        if (one.generation !== before) {
          met.late += 1;
          assert.equal(breaker.generation, before, "K5");
        }
        if (breaker.status === "open" && breaker.generation !== before) {
          met.opened += 1;
          assert.ok(one.outcome !== callOk && one.outcome !== callIgnored, "K1, K2");
        }
        if (breaker.status === "closed" && breaker.generation !== before) met.closed += 1;
      }
      const allowed = breaker.allows(nowMs);
      const permit = breaker.acquire(nowMs);
      assert.equal(permit !== denied, allowed, "allows and acquire agree");
      if (permit !== denied && outcome !== null) pending.push({ atMs: nowMs + takesMs, permit, generation: breaker.generation, outcome });
      if (breaker.openUntilMs !== null) {
        met.waiting += 1;
        assert.ok(breaker.openUntilMs <= nowMs + base.openMsMax, "K3");
      }
      told.push(`${breaker.status}/${breaker.generation}`);
    }
    assert.ok(breaker.allows(nowMs + base.openMsMax + base.trialMs), "K3, K4: time alone makes a trial possible");
    return told.join();
  };
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80, size: "max" }), fc.integer({ min: 1, max: 3 }), (steps, halfOpenCalls) => {
      assert.equal(run(steps, halfOpenCalls), run(steps, halfOpenCalls));
    }),
    { numRuns: 300 },
  );
  for (const [what, times] of Object.entries(met)) assert.ok(times >= 10, `too few to mean anything: ${what} ${times} times`);
});
