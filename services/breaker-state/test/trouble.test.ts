import assert from "node:assert/strict";
import { test } from "node:test";
import { defaultPolicy } from "@mcp-failover/domain";
import { type Item, Trouble } from "../src/trouble.ts";

const policy = defaultPolicy.breaker;
const word = (more: Partial<Item>): Item => ({ upstream: "docs", endpoint: "primary", bad: false, slow: false, ...more });

test("an endpoint that only answers, in time, is no trouble; one failure or slow answer is, until its window is over", () => {
  const trouble = new Trouble();
  for (let second = 0; second < 60; second += 1) trouble.fold("docs/primary", word({}), second * 1000);
  assert.equal(trouble.has("docs/primary", policy, 60_000), false);
  for (const [at, item] of [
    [100_000, word({ bad: true })],
    [300_000, word({ slow: true })],
  ] as const) {
    trouble.fold("docs/primary", item, at);
    trouble.fold("docs/primary", word({}), at + 1000);
    assert.equal(trouble.has("docs/primary", policy, at + policy.windowMs), true);
    assert.equal(trouble.has("docs/primary", policy, at + 2 * policy.windowMs), false);
    assert.equal(trouble.has("docs/secondary", policy, at + 1), false);
  }
});

test("a window in calls may reach back as far as the baseline, and so may that of an endpoint that is configured later", () => {
  const trouble = new Trouble();
  trouble.fold("docs/primary", word({ bad: true }), 0);
  for (const one of [{ ...policy, windowCalls: 100 }, undefined]) {
    assert.equal(trouble.has("docs/primary", one, policy.baselineMs), true);
    assert.equal(trouble.has("docs/primary", one, policy.baselineMs + 1), false);
  }
});
