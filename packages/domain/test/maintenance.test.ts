import assert from "node:assert/strict";
import { test } from "node:test";
import { type MaintenanceWindow, weekday } from "@mcp-failover/contracts";
import { maintenanceAt, maintenanceEndedMs } from "@mcp-failover/domain";
import fc from "fast-check";

const at = (iso: string): number => Date.parse(iso);
const once: MaintenanceWindow = { name: "upgrade", from: "2026-03-01T02:00:00Z", until: "2026-03-01T03:00:00Z", reason: "new disks" };
const untilOf = (window: MaintenanceWindow, iso: string): string | null => {
  const found = maintenanceAt({ maintenance: [window] }, "a", "one", at(iso));
  return found === null ? null : new Date(found.untilMs).toISOString();
};

test("W1: a window holds from its first millisecond to the one before its end, and never without being configured", () => {
  assert.equal(untilOf(once, "2026-03-01T01:59:59.999Z"), null);
  assert.equal(untilOf(once, "2026-03-01T02:00:00Z"), "2026-03-01T03:00:00.000Z");
  assert.equal(untilOf(once, "2026-03-01T02:59:59.999Z"), "2026-03-01T03:00:00.000Z");
  assert.equal(untilOf(once, "2026-03-01T03:00:00Z"), null);
  assert.equal(maintenanceAt({}, "a", "one", at("2026-03-01T02:30:00Z")), null);
});

test("W2: a window on an endpoint is none on its sibling or on the upstream; one on an upstream is one on all its endpoints", () => {
  const nowMs = at("2026-03-01T02:30:00Z");
  const holds = (window: Partial<MaintenanceWindow>, upstream: string, endpoint: string | null) =>
    maintenanceAt({ maintenance: [{ ...once, ...window }] }, upstream, endpoint, nowMs) !== null;
  const cases: [Partial<MaintenanceWindow>, boolean, boolean, boolean, boolean][] = [
    // a/one, a/two, a as a whole, b/one
    [{ endpoints: ["a/one"] }, true, false, false, false],
    [{ upstreams: ["a"] }, true, true, true, false],
    [{ upstreams: ["b"], endpoints: ["a/two"] }, false, true, false, true],
    [{}, true, true, true, true],
  ];
  for (const [window, one, two, whole, other] of cases) {
    assert.deepEqual(
      [holds(window, "a", "one"), holds(window, "a", "two"), holds(window, "a", null), holds(window, "b", "one")],
      [one, two, whole, other],
    );
  }
});

test("W3: daily and weekly windows run over midnight and over the end of the week", () => {
  const nightly: MaintenanceWindow = { name: "n", daily: { at: "23:30", for_ms: 3_600_000 }, reason: "backup" };
  assert.equal(untilOf(nightly, "2026-03-01T23:29:59Z"), null);
  assert.equal(untilOf(nightly, "2026-03-01T23:45:00Z"), "2026-03-02T00:30:00.000Z");
  assert.equal(untilOf(nightly, "2026-03-02T00:15:00Z"), "2026-03-02T00:30:00.000Z");
  assert.equal(untilOf(nightly, "2026-03-02T00:30:00Z"), null);
  // 2026-03-01 is a Sunday.
  const weekend: MaintenanceWindow = { name: "w", weekly: { days: ["sun"], at: "22:00", for_ms: 4 * 3_600_000 }, reason: "patches" };
  assert.equal(untilOf(weekend, "2026-02-28T23:00:00Z"), null);
  assert.equal(untilOf(weekend, "2026-03-01T22:00:00Z"), "2026-03-02T02:00:00.000Z");
  assert.equal(untilOf(weekend, "2026-03-02T01:59:59Z"), "2026-03-02T02:00:00.000Z");
  assert.equal(untilOf(weekend, "2026-03-02T22:30:00Z"), null);
});

test("W4: where several windows hold, the one that ends last is named", () => {
  const longer: MaintenanceWindow = { ...once, name: "longer", until: "2026-03-01T05:00:00Z", reason: "and new cables" };
  const found = maintenanceAt({ maintenance: [once, longer, { ...once, name: "third" }] }, "a", null, at("2026-03-01T02:30:00Z"));
  assert.deepEqual(found, { name: "longer", reason: "and new cables", untilMs: at("2026-03-01T05:00:00Z") });
});

test("W3: a weekly window holds exactly when one of its beginnings lies less than its length back", () => {
  const minuteMs = 60_000;
  const days = fc.uniqueArray(fc.constantFrom(...weekday.options), { minLength: 1, maxLength: 7 });
  fc.assert(
    fc.property(
      days,
      fc.integer({ min: 0, max: 1439 }),
      fc.integer({ min: 1, max: 7 * 1440 }),
      fc.integer({ min: 0, max: 60 * 365 * 1440 }),
      (named, minute, lengthMin, nowMin) => {
        const clock = `${String(Math.floor(minute / 60)).padStart(2, "0")}:${String(minute % 60).padStart(2, "0")}`;
        const window: MaintenanceWindow = { name: "w", reason: "r", weekly: { days: named, at: clock, for_ms: lengthMin * minuteMs } };
        let expected: number | null = null;
        for (let back = 0; back < lengthMin && expected === null; back += 1) {
          const begin = new Date((nowMin - back) * minuteMs);
          const day = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"][begin.getUTCDay()];
          if (named.some((one) => one === day) && begin.toISOString().slice(11, 16) === clock)
            expected = begin.getTime() + lengthMin * minuteMs;
        }
        assert.equal(maintenanceAt({ maintenance: [window] }, "a", "one", nowMin * minuteMs)?.untilMs ?? null, expected);
      },
    ),
    { numRuns: 25 },
  );
});

test("W6: the last end of any window lies right behind maintenance, and none since", () => {
  const dayMs = 86_400_000;
  const minute = fc.integer({ min: 0, max: 1439 });
  const clock = (of: number): string => `${String(Math.floor(of / 60)).padStart(2, "0")}:${String(of % 60).padStart(2, "0")}`;
  const startMs = at("2026-03-01T00:00:00Z");
  const windowArb: fc.Arbitrary<MaintenanceWindow> = fc.oneof(
    fc.record({ fromM: fc.integer({ min: 0, max: 20_000 }), forM: fc.integer({ min: 1, max: 3000 }) }).map(({ fromM, forM }) => ({
      name: "once",
      reason: "r",
      from: new Date(startMs + fromM * 60_000).toISOString(),
      until: new Date(startMs + (fromM + forM) * 60_000).toISOString(),
    })),
    fc
      .tuple(minute, fc.integer({ min: 1, max: 1440 }))
      .map(([of, forM]) => ({ name: "daily", reason: "r", daily: { at: clock(of), for_ms: forM * 60_000 } })),
    fc
      .tuple(fc.uniqueArray(fc.constantFrom(...weekday.options), { minLength: 1, maxLength: 3 }), minute, fc.integer({ min: 1, max: 9000 }))
      .map(([days, of, forM]) => ({ name: "weekly", reason: "r", weekly: { days, at: clock(of), for_ms: forM * 60_000 } })),
  );
  let ended = 0;
  fc.assert(
    fc.property(fc.array(windowArb, { maxLength: 3 }), fc.integer({ min: 0, max: 20_000 }), (maintenance, nowM) => {
      const nowMs = startMs + nowM * 60_000;
      const inWork = (ms: number): boolean => maintenanceAt({ maintenance }, "a", "one", ms) !== null;
      const endedMs = maintenanceEndedMs({ maintenance }, "a", "one", nowMs);
      if (inWork(nowMs)) return;
      if (endedMs !== null) {
        ended += 1;
        assert.ok(endedMs <= nowMs && inWork(endedMs - 1));
      }
      const sinceMs = Math.max(endedMs ?? 0, nowMs - 7 * dayMs);
      for (let ms = nowMs; ms >= sinceMs; ms -= 10 * 60_000) assert.ok(!inWork(ms), new Date(ms).toISOString());
    }),
  );
  assert.ok(ended > 10, `only ${ended} had ended`);
});
