import assert from "node:assert/strict";
import { test } from "node:test";
import { defaultPolicy } from "@mcp-failover/domain";
import { Trouble } from "../src/trouble.ts";

const policy = defaultPolicy.breaker;

test("an endpoint that only answers, in time, is no trouble; one failure or slow answer is, until its window is over", () => {
  const trouble = new Trouble();
  for (let second = 0; second < 60; second += 1) trouble.fold("docs/primary", false, false, second * 1000);
  assert.equal(trouble.has("docs/primary", policy, 60_000), false);
  for (const [at, bad] of [
    [100_000, true],
    [300_000, false],
  ] as const) {
    trouble.fold("docs/primary", bad, !bad, at);
    trouble.fold("docs/primary", false, false, at + 1000);
    assert.equal(trouble.has("docs/primary", policy, at + policy.windowMs), true);
    assert.equal(trouble.has("docs/primary", policy, at + 2 * policy.windowMs), false);
    assert.equal(trouble.has("docs/secondary", policy, at + 1), false);
  }
});

test("a window in calls may reach back as far as the baseline, and so may that of an endpoint that is configured later", () => {
  const trouble = new Trouble();
  trouble.fold("docs/primary", true, false, 0);
  for (const one of [{ ...policy, windowCalls: 100 }, undefined]) {
    assert.equal(trouble.has("docs/primary", one, policy.baselineMs), true);
    assert.equal(trouble.has("docs/primary", one, policy.baselineMs + 1), false);
  }
});
