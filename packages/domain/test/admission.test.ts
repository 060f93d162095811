import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type Admission,
  type AdmissionPolicy,
  admitCall,
  leaveCall,
  nobodyAdmitted,
  ratePolicyOf,
  stopWaiting,
  type TokenBucket,
  takeToken,
} from "@mcp-failover/domain";
import fc from "fast-check";

const policy: AdmissionPolicy = { concurrencyMax: 2, queueMax: 2, queueMsMax: 1000 };
const deadlineMs = Number.POSITIVE_INFINITY;
const usual = (id: number) => ({ id, critical: false, deadlineMs });
const critical = (id: number) => ({ id, critical: true, deadlineMs });

function admitAll(calls: readonly { readonly id: number; readonly critical: boolean; readonly deadlineMs: number }[], nowMs = 0) {
  let state: Admission = nobodyAdmitted;
  const answers: string[] = [];
  for (const call of calls) {
    const next = admitCall(state, call, policy, nowMs);
    state = next.state;
    answers.push(next.answer.kind === "wait" && next.answer.displaced !== null ? `wait for ${next.answer.displaced}` : next.answer.kind);
  }
  return { state, answers };
}

test("Q1, Q3: the rest waits, then is refused; a critical call takes the place of the one that came last", () => {
  const { answers } = admitAll([usual(1), usual(2), usual(3), usual(4), usual(5), critical(6), critical(7), critical(8)]);
  assert.deepEqual(answers, ["run", "run", "wait", "wait", "refuse", "wait for 4", "wait for 3", "refuse"]);
});

test("Q2, Q5: who ends lets one in, the critical ones first, each kind in the order in which it came", () => {
  let { state } = admitAll([usual(1), usual(2), usual(3), critical(4)]);
  const order: (number | null)[] = [];
  for (let round = 0; round < 4; round += 1) {
    const left = leaveCall(state, policy, 10);
    order.push(left.next);
    state = left.state;
  }
  assert.deepEqual(order, [4, 3, null, null]);
  assert.equal(state.running, 0);
});

test("Q4: whose time is over is not let in, and a call without time does not begin to wait", () => {
  const { state } = admitAll([usual(1), usual(2), { ...usual(3), deadlineMs: 500 }, usual(4)]);
  assert.equal(leaveCall(state, policy, 500).next, 4);
  assert.equal(leaveCall(state, policy, 1000).next, null);
  assert.equal(admitCall(state, { ...usual(9), deadlineMs: 0 }, policy, 0).answer.kind, "refuse");
});

test("Q1, Q2, Q5: whatever comes, ends and gives up, the limits hold, and everybody leaves an empty house", () => {
  const step = fc.record({ kind: fc.constantFrom("come", "come_critical", "end", "give_up"), at: fc.nat(20), pick: fc.nat() });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60, size: "max" }), fc.nat(4), fc.nat(4), (steps, more, queueMax) => {
      const limits = { ...policy, concurrencyMax: more + 1, queueMax };
      let state: Admission = nobodyAdmitted;
      let nowMs = 0;
      const running = new Set<number>();
      for (const [id, { kind, at, pick }] of steps.entries()) {
        nowMs += at * 20;
        if (kind === "end") {
          const [one] = running;
          if (one === undefined) continue;
          running.delete(one);
          const waited = state.waiting.filter(({ untilMs }) => untilMs > nowMs);
          const left = leaveCall(state, limits, nowMs);
          state = left.state;
          assert.equal(left.next, waited[0]?.id ?? null);
          if (left.next !== null) running.add(left.next);
        } else if (kind === "give_up") {
          const one = state.waiting[pick % Math.max(1, state.waiting.length)];
          if (one !== undefined) state = stopWaiting(state, one.id);
        } else {
          const next = admitCall(state, { id, critical: kind === "come_critical", deadlineMs }, limits, nowMs);
          state = next.state;
          if (next.answer.kind === "run") running.add(id);
        }
        assert.equal(state.running, running.size);
        assert.ok(state.running <= limits.concurrencyMax && state.waiting.length <= limits.queueMax);
        const kinds = state.waiting.map((one) => one.critical);
        assert.deepEqual(
          kinds,
          [...kinds].sort((a, b) => Number(b) - Number(a)),
        );
        const ids = (wanted: boolean) => state.waiting.filter((one) => one.critical === wanted).map((one) => one.id);
        for (const found of [ids(true), ids(false)])
          assert.deepEqual(
            found,
            [...found].sort((a, b) => a - b),
          );
      }
      for (const _ of running) state = leaveCall({ ...state, waiting: [] }, limits, nowMs).state;
      assert.equal(state.running, 0);
    }),
  );
});

test("Q6: an agent makes at most `burst` + rate x T calls in any time, and the time that it is told is enough", () => {
  assert.deepEqual(ratePolicyOf({ calls_per_second: 0.2 }), { perSecond: 0.2, burst: 1 });
  assert.deepEqual(ratePolicyOf({ calls_per_second: 5 }), { perSecond: 5, burst: 10 });
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: -50, max: 500 }), { maxLength: 80, size: "max" }),
      fc.integer({ min: 1, max: 20 }),
      fc.integer({ min: 1, max: 9 }),
      (gaps, perSecond, burst) => {
        const rate = { perSecond, burst };
        let bucket: TokenBucket | null = null;
        let nowMs = 1000;
        let latestMs = Number.NEGATIVE_INFINITY;
        const made: number[] = [];
        for (const gap of gaps) {
          nowMs += gap;
          latestMs = Math.max(latestMs, nowMs);
          const taken = takeToken(bucket, rate, nowMs);
          bucket = taken.bucket;
          if (taken.allowed) made.push(latestMs);
          else assert.ok(takeToken(bucket, rate, latestMs + taken.retryAfterMs).allowed, "the time that it was told");
        }
        for (const [from, fromMs] of made.entries())
          for (const [to, toMs] of made.entries())
            if (to >= from) assert.ok(to - from + 1 <= burst + ((toMs - fromMs) / 1000) * perSecond + 1e-6);
      },
    ),
    // 0.08 and 0.92 of a token are a little less than one.
    { examples: [[[0, 8], 10, 1]], numRuns: 500 },
  );
});
