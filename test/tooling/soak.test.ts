import assert from "node:assert/strict";
import { test } from "node:test";
import { cases } from "../soak/cases.ts";
import { problemsOf, type SoakResult } from "../soak/soak.ts";

const calm: SoakResult = {
  ...{ name: "calm", seconds: 10, moves: [], breakersOpened: 0, unhealthy: 0, rejected: [] },
  ...{ deeds: {}, failedProbes: 0, calls: 1000, failed: 0, p99Ms: 5 },
};

test("a soak in which nothing moved and nothing was done either is no proof, whatever its case", () => {
  for (const one of cases) {
    const problems = problemsOf(one, calm, 100);
    assert.equal(problems.length, one.proof.length, one.name);
    assert.ok(problems.length > 0, one.name);
  }
});

test("a soak is passed when all came about that was to be suffered, and nothing moved", () => {
  const proof = [
    { deed: /^router-1 is 60 s ahead$/, times: 1 },
    { deed: /^prober-\d was refused$/, times: 3 },
  ];
  const deeds = { "router-1 is 60 s ahead": 1, "prober-1 was refused": 2, "prober-3 was refused": 1 };
  assert.deepEqual(problemsOf({ proof }, { ...calm, deeds }, 100), []);
  assert.match(
    problemsOf({ proof }, { ...calm, deeds: { ...deeds, "prober-3 was refused": 0 } }, 100).join(),
    /2 times, and should have 3/,
  );
  assert.match(problemsOf({ proof }, { ...calm, deeds: { ...deeds, "router-1 is 60 s ahead": 0 } }, 100).join(), /60 s ahead/);
  assert.match(problemsOf({ proof }, { ...calm, deeds, moves: ["a -> b: why"] }, 100).join(), /moved: a -> b: why/);
});

test("a soak without calls shows nothing of the routes that they would have taken", () => {
  assert.match(problemsOf({ proof: [] }, { ...calm, calls: 0 }, 100).join(), /only 0 calls ended in 10 s/);
});
