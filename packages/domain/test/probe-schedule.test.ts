import assert from "node:assert/strict";
import { test } from "node:test";
import { defaultPolicy, gridSlot, nextProbe, probeTimeoutMs, slotsBetween } from "@mcp-failover/domain";
import fc from "fast-check";

const policy = defaultPolicy.health;
const key = fc.tuple(fc.nat(99), fc.nat(9)).map(([upstream, endpoint]) => `u${upstream}/e${endpoint}`);
const now = fc.integer({ min: 1_700_000_000_000, max: 1_900_000_000_000 });
const interval = fc.integer({ min: 100, max: 600_000 });

test("S1, S2: slots keep to the grid of key and clock, whoever asks and whenever", () => {
  fc.assert(
    fc.property(key, now, interval, fc.double({ min: 0, max: 1, noNaN: true }), (k, nowMs, intervalMs, share) => {
      const own = { ...policy, intervalMs };
      const first = gridSlot(k, own, nowMs);
      const asked = nowMs + Math.floor(share * (first - nowMs - 1));
      assert.equal(gridSlot(k, own, asked), first, "who asks later, but before it, is told the same slot");
      let slot = first;
      for (let n = 0; n < 20; n += 1) {
        const next = gridSlot(k, own, slot);
        const gap = next - slot;
        assert.ok(gap >= intervalMs * 0.9 - 2 && gap <= intervalMs * 1.1 + 2, `gap of ${gap} in an interval of ${intervalMs}`);
        slot = next;
      }
      assert.ok(Math.abs(slot - first - 20 * intervalMs) <= 0.1 * intervalMs + 2, "no drift over 20 intervals");
      assert.equal(slotsBetween(k, own, nowMs, slot), 21);
    }),
  );
});

test("S1: a thousand endpoints do not fall into step: no twentieth of the interval has over twice its share", () => {
  const bins = new Array<number>(20).fill(0);
  for (let index = 0; index < 1000; index += 1) {
    const bin = Math.floor(
      ((gridSlot(`upstream-${index}/primary`, policy, 1_800_000_000_000) - 1_800_000_000_000) / policy.intervalMs) * 20,
    );
    bins[Math.min(19, bin)] = (bins[Math.min(19, bin)] ?? 0) + 1;
  }
  assert.ok(Math.max(...bins) <= 100, bins.join(" "));
});

const state = fc.record({
  status: fc.constantFrom("healthy", "degraded", "unhealthy", "unknown"),
  okRun: fc.nat(5),
  failRun: fc.nat(5),
});
const outcome = fc.constantFrom("ok", "hard", "soft", "auth", "caller");

test("S3: the next probe is in the future, and no more than an interval with its jitter away", () => {
  fc.assert(
    fc.property(
      key,
      now,
      interval,
      state,
      fc.option(outcome),
      fc.option(fc.nat(600_000)),
      (k, nowMs, intervalMs, s, last, retryAfterMs) => {
        const own = { ...policy, intervalMs };
        const next = nextProbe({ key: k, policy: own, state: s, lastOutcome: last, retryAfterMs, nowMs });
        assert.ok(next.atMs > nowMs && next.atMs <= nowMs + 1.1 * intervalMs + 2);
      },
    ),
  );
});

test("S4: a first failure and a first answer are checked within 250 ms; what is down is probed at least every second", () => {
  const at = (s: typeof state extends fc.Arbitrary<infer T> ? T : never, lastOutcome: "hard" | "ok") =>
    nextProbe({
      key: "a/b",
      policy: { ...policy, intervalMs: 60_000 },
      state: s,
      lastOutcome,
      retryAfterMs: null,
      nowMs: 1_800_000_000_000,
    }).atMs - 1_800_000_000_000;
  assert.equal(at({ status: "healthy", okRun: 0, failRun: 1 }, "hard"), 250);
  assert.equal(at({ status: "unhealthy", okRun: 1, failRun: 0 }, "ok"), 250);
  assert.equal(at({ status: "unknown", okRun: 1, failRun: 0 }, "ok"), 250);
  const down = at({ status: "unhealthy", okRun: 0, failRun: 9 }, "hard");
  assert.ok(down > 800 && down <= 1000, `${down}`);
  const heldDown = at({ status: "unhealthy", okRun: 7, failRun: 0 }, "ok");
  assert.ok(heldDown > 800 && heldDown <= 1000, `${heldDown}`);
  assert.ok(at({ status: "healthy", okRun: 7, failRun: 0 }, "ok") > 1000, "what is well is left alone until its slot");
});

test("S6: who limits our rate is asked no sooner than it says, and after a whole interval at the latest; nor quickly, whatever it was before", () => {
  const from = 1_800_000_000_000;
  const own = { ...policy, intervalMs: 60_000 };
  const at = (retryAfterMs: number | null, status: "healthy" | "unknown" | "unhealthy" = "healthy"): number => {
    const asked = {
      key: "a/b",
      policy: own,
      state: { status, okRun: 1, failRun: 0 },
      lastOutcome: "soft" as const,
      retryAfterMs,
      nowMs: from,
    };
    const { atMs, purpose } = nextProbe(asked);
    assert.equal(purpose, "scheduled");
    return atMs - from;
  };
  const slot = gridSlot("a/b", own, from) - from;
  assert.deepEqual([at(null), at(0), at(null, "unknown"), at(null, "unhealthy")], [slot, slot, slot, slot]);
  assert.equal(at(slot + 1000), slot + 1000);
  assert.equal(at(3_600_000), 60_000, "two intervals on its result would prove nothing any more");
});

test("S5: a quick probe waits for four usual response times, never beyond the time-out", () => {
  assert.equal(probeTimeoutMs(policy, "scheduled", 3), 5000);
  assert.equal(probeTimeoutMs(policy, "confirm", null), 500);
  assert.equal(probeTimeoutMs(policy, "retry", 20), 500);
  assert.equal(probeTimeoutMs(policy, "confirm", 400, 500), 1600);
  assert.equal(probeTimeoutMs(policy, "confirm", 4000, 500), 5000);
  assert.equal(probeTimeoutMs(policy, "requested", 400, 200), 200);
});
