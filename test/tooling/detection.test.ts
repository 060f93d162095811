import assert from "node:assert/strict";
import { test } from "node:test";
import { trafficAfter } from "../bench/detection/judge.ts";
import type { CallRecord } from "../bench/detection/load.ts";

const faultMs = 10_000;
let n = 0;
const call = (kind: CallRecord["kind"], begunMs: number, tookMs: number | null, status = 200): CallRecord => {
  n += 1;
  return {
    n,
    kind,
    begunMs,
    endedMs: tookMs === null ? null : begunMs + tookMs,
    status,
    reason: status === 200 ? null : `status ${status}`,
  };
};
/** Calls of 10 ms, before and after the fault. */
const usual = Array.from({ length: 200 }, (_, index) => call("read", faultMs - 1000 + index * 10, 10));

test("traffic that goes on as before was normal all the time", () => {
  const { normalMs, failed, unknown, slowOverMs } = trafficAfter(usual, faultMs, 20_000);
  assert.deepEqual({ normalMs, failed, unknown, slowOverMs }, { normalMs: 0, failed: 0, unknown: 0, slowOverMs: 250 });
});

test("it is normal again when the last safe call that was slow or failed had ended, or waits still, and the last such unsafe one was begun", () => {
  const slow = call("read", faultMs + 100, 800);
  const failed = call("idempotent", faultMs + 300, 100, 502);
  const unsafe = call("unsafe", faultMs + 1200, null, 0);
  assert.equal(trafficAfter([...usual, slow, failed], faultMs, 20_000).normalMs, 900);
  assert.equal(trafficAfter([...usual, slow, failed, unsafe], faultMs, 20_000).normalMs, 1200);
  assert.equal(trafficAfter([...usual, call("read", faultMs + 50, null, 0)], faultMs, 20_000).normalMs, 10_000);
});

test("a call counts when it was not over at the fault, also one that was begun before; failures are counted by what may have run", () => {
  const calls = [
    call("read", faultMs - 50, 40, 500),
    call("read", faultMs - 50, 60, 500),
    call("unsafe", faultMs - 10, null, 0),
    call("unsafe", faultMs + 10, 20, 503),
  ];
  const { failed, unknown, reasons, calls: counted } = trafficAfter(calls, faultMs, 20_000);
  assert.deepEqual({ failed, unknown, reasons, counted }, { failed: 1, unknown: 2, reasons: { "status 500": 1 }, counted: 3 });
});

test("a run whose calls were slow or stuck before the fault already is told from one that the fault has slowed", () => {
  assert.equal(trafficAfter(usual, faultMs, 20_000).busy, false);
  const afterwards = Array.from({ length: 50 }, (_, index) => call("read", faultMs + index, 5000));
  assert.equal(trafficAfter([...usual, ...afterwards], faultMs, 20_000).busy, false);
  // None of them was over at the fault, so what is usual says nothing of them.
  const stuck = Array.from({ length: 50 }, (_, index) => call("read", faultMs - 1000 + index, 8000));
  const { busy, beforeP95Ms } = trafficAfter([...usual, ...stuck], faultMs, 20_000);
  assert.deepEqual({ busy, beforeP95Ms }, { busy: true, beforeP95Ms: 994 });
});

test("a call without an answer is not one that was answered with a failure", () => {
  const { failed, unanswered } = trafficAfter(
    [...usual, call("read", faultMs + 50, null, 0), call("read", faultMs + 60, 30, 502)],
    faultMs,
    20_000,
  );
  assert.deepEqual({ failed, unanswered }, { failed: 1, unanswered: 1 });
});
