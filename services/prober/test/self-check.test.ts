import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { proberPolicy } from "@mcp-failover/domain";
import { eventually, patientMs } from "@mcp-failover/testkit";
import { createLimits } from "../src/limits.ts";
import { openSelfCheck } from "../src/self-check.ts";

function selfCheck(
  t: TestContext,
  reached: (url: string) => boolean | Promise<boolean> = () => true,
  references: readonly string[] = ["tcp://reference:1"],
  targets: readonly string[] = [],
) {
  const state = { shiftMs: 0, changes: 0, tries: 0 };
  const self = openSelfCheck({
    policy: { ...proberPolicy, referenceTimeoutMs: 30, referenceFailingMs: 100, answerProvesMs: 2500 },
    references: () => references,
    targets: () => targets,
    reach: async (url) => {
      state.tries += 1;
      return reached(url);
    },
    clockMs: () => performance.now() + state.shiftMs,
    onChange: () => {
      state.changes += 1;
    },
  });
  t.after(() => self.stop());
  const nowMs = () => performance.now() + state.shiftMs;
  return { self, state, nowMs };
}

test("a time-out during which this process stood still proves nothing; a refusal in the same time, and a later time-out, do", async (t) => {
  const { self, state, nowMs } = selfCheck(t, undefined, []);
  const startedMs = nowMs();
  self.began();
  await sleep(120);
  state.shiftMs += 400;
  assert.equal(await self.blames("timeout", startedMs), "late", "the stall is seen before the next tick");
  await sleep(120);
  assert.equal(await self.blames("timeout", startedMs), "late");
  assert.equal(await self.blames("refused", startedMs), null);
  assert.equal(await self.blames("timeout", nowMs()), null);
  self.ended();
});

test("this process looks for stalls of its own ten times a second while probes are under way, and once a second without", async (t) => {
  let looks = 0;
  const clockMs = (): number => {
    looks += 1;
    return performance.now();
  };
  const none = { references: () => [], targets: () => [], reach: async () => true, onChange: () => undefined };
  const self = openSelfCheck({ policy: proberPolicy, ...none, clockMs });
  t.after(() => self.stop());
  await sleep(700);
  assert.ok(looks <= 4, `${looks} readings of the clock without a probe`);
  self.began();
  self.began();
  self.ended();
  const before = looks;
  for (const endMs = performance.now() + 5000; looks < before + 8 && performance.now() < endMs; ) await sleep(50);
  assert.ok(looks >= before + 8, "one probe is still under way");
});

test("overload is said once this process is late, or probes find no place, for three seconds, and is over when it is not", {
  timeout: 30_000,
}, async (t) => {
  const { self, state } = selfCheck(t, undefined, []);
  for (const over of [true, false]) {
    // Three seconds on an idle machine; the seconds of a busy one are longer.
    const endMs = performance.now() + 10_000;
    while (performance.now() < endMs && self.overloaded !== over) {
      await sleep(20);
      for (let probe = 0; probe < 20; probe += 1) self.due(over && probe < 4);
    }
    assert.equal(self.overloaded, over);
  }
  assert.equal(state.changes, 2);
});

test("a failure is blamed on ourselves only after every reference was tried since; answers of the server are never", async (t) => {
  let reached = true;
  const { self, state, nowMs } = selfCheck(t, () => reached);
  assert.equal(await self.blames("refused", nowMs()), null);
  const { tries } = state;
  assert.ok(tries >= 1);
  reached = false;
  await sleep(60);
  const startedMs = nowMs();
  assert.deepEqual(await Promise.all([self.blames("reset", startedMs), self.blames("dns", startedMs)]), ["isolated", "isolated"]);
  assert.equal(state.tries, tries + 1, "failures at the same time share one try");
  assert.equal(self.isolated, true);
  assert.deepEqual([await self.blames("http_5xx", nowMs()), await self.blames("malformed", nowMs())], [null, null]);
  self.answered(nowMs());
  assert.equal(await self.blames("refused", nowMs()), null, "something answers, so the reference itself is down");
});

test("who probes nothing is isolated once the targets that it tries do not answer either, not by its references alone, and is not any more when one does", async (t) => {
  const targets = ["a", "b", "c", "d", "e"];
  const tried: string[] = [];
  let up: readonly string[] = ["d"];
  const reached = (url: string): boolean => {
    if (targets.includes(url)) tried.push(url);
    return up.includes(url);
  };
  const { self, state } = selfCheck(t, reached, ["tcp://reference:1"], targets);
  const isolated = (is: boolean) => eventually(() => self.isolated === is, { what: `isolated is ${is}`, withinMs: patientMs(10_000) });
  await isolated(true);
  assert.deepEqual(tried.slice(0, 2), ["a", "b"], "two are tried before it says so");
  await isolated(false);
  assert.deepEqual(tried.slice(2, 4), ["c", "d"], "others next");
  tried.length = 0;
  await eventually(() => tried.length >= 8, { what: "it goes on", withinMs: patientMs(10_000) });
  assert.deepEqual([...new Set(tried)], ["c", "d"], "who has answered is tried again");
  assert.deepEqual([self.isolated, state.changes], [false, 2]);
  up = [];
  await isolated(true);
  up = ["tcp://reference:1"];
  await isolated(false);
});

test("references that fail make nobody isolated where there is no target to fail", async (t) => {
  const { self, state } = selfCheck(t, () => false);
  await eventually(() => state.tries > 2, { what: "they were tried", withinMs: patientMs(10_000) });
  assert.deepEqual([self.isolated, self.referencesFail], [false, true]);
});

test("without references nobody is called isolated, and nothing is tried", async (t) => {
  const { self, state, nowMs } = selfCheck(t, () => false, []);
  assert.equal(await self.blames("refused", nowMs()), null);
  assert.deepEqual([state.tries, self.isolated], [0, false]);
});

test("when not all due probes find a place, those of critical upstreams do", () => {
  const limits = createLimits({ inFlightMax: 8, inFlightReserved: 2, inFlightCritical: 2, inFlightPerHostMax: 10, confirmPerHostMax: 10 });
  const others = Array.from({ length: 5 }, () => limits.acquire("h", "scheduled", false));
  assert.deepEqual(others, [null, null, null, null, "fleet_limit"]);
  const critical = Array.from({ length: 3 }, () => limits.acquire("h", "scheduled", true));
  assert.deepEqual(critical, [null, null, "fleet_limit"]);
  assert.deepEqual(
    [limits.acquire("h", "confirm"), limits.acquire("h", "confirm"), limits.acquire("h", "confirm")],
    [null, null, "fleet_limit"],
  );
});
