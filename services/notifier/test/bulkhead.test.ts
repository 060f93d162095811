import assert from "node:assert/strict";
import { test } from "node:test";
import { Bulkhead, triesMax } from "../src/bulkhead.ts";

const full = (bulkhead: Bulkhead, channel: string, nowMs: number): number => {
  let entered = 0;
  while (entered < 100 && bulkhead.enter(channel, nowMs) === 0) entered += 1;
  return entered;
};

test("C1: a channel has its own few places, whatever another one does", () => {
  const bulkhead = new Bulkhead();
  assert.equal(full(bulkhead, "chat", 0), triesMax);
  assert.equal(full(bulkhead, "pager", 0), triesMax);
  bulkhead.leave("pager", true, 10);
  assert.equal(full(bulkhead, "pager", 10), 1);
  assert.equal(full(bulkhead, "chat", 10), 0);
});

test("C2: a channel that does not answer is left alone, longer each time, and gets one try until it answers", () => {
  const bulkhead = new Bulkhead();
  full(bulkhead, "chat", 0);
  for (let tries = 0; tries < triesMax; tries += 1) bulkhead.leave("chat", false, 10_000 + tries);
  assert.ok(bulkhead.enter("chat", 10_999) > 0, "all together are one silence");
  let nowMs = 11_000;
  for (const leftMs of [2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]) {
    assert.equal(full(bulkhead, "chat", nowMs), 1);
    bulkhead.leave("chat", false, nowMs);
    assert.deepEqual([bulkhead.enter("chat", nowMs), bulkhead.isSilent("chat")], [leftMs, true]);
    nowMs += leftMs;
  }
  assert.equal(full(bulkhead, "chat", nowMs), 1);
  bulkhead.leave("chat", true, nowMs);
  assert.equal(bulkhead.isSilent("chat"), false);
  assert.equal(full(bulkhead, "chat", nowMs), triesMax);
});

test("C4: a channel whose receiver wants to be asked later is asked nothing before, and no longer than a minute; an answer from before changes nothing", () => {
  const bulkhead = new Bulkhead();
  bulkhead.enter("chat", 0);
  bulkhead.enter("chat", 0);
  bulkhead.leave("chat", true, 10, 5000);
  bulkhead.leave("chat", true, 20);
  assert.deepEqual([bulkhead.enter("chat", 1010), bulkhead.isSilent("chat")], [4000, false]);
  assert.equal(full(bulkhead, "pager", 1010), triesMax);
  assert.equal(bulkhead.enter("chat", 5010), 0);
  bulkhead.leave("chat", true, 5010, 3_600_000);
  assert.equal(bulkhead.enter("chat", 5010), 60_000);
  bulkhead.forget("chat");
  assert.equal(full(bulkhead, "chat", 5010), triesMax);
});

test("C2: a channel that was configured anew begins anew, and what was under way on the old one ends without harm", () => {
  const bulkhead = new Bulkhead();
  bulkhead.enter("chat", 0);
  bulkhead.leave("chat", false, 0);
  bulkhead.enter("chat", 1000);
  bulkhead.forget("chat");
  assert.equal(full(bulkhead, "chat", 1000), triesMax - 1);
  bulkhead.leave("chat", true, 1001);
  assert.equal(full(bulkhead, "chat", 1001), 1);
});
