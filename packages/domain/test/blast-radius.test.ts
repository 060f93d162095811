import assert from "node:assert/strict";
import { test } from "node:test";
import type { StatusView } from "@mcp-failover/contracts";
import { type CanaryCall, checkBlastRadius, experimentPolicy, findAbort, servedUpstreams } from "@mcp-failover/domain";
import fc from "fast-check";

type Upstream = StatusView["upstreams"][number];
type Health = Upstream["endpoints"][number]["health"];

function upstream(name: string, healths: Readonly<Record<string, Health>>, more: Partial<Upstream> = {}): Upstream {
  const endpoints = Object.entries(healths).map(([endpoint, health], tier) => ({
    name: endpoint,
    tier,
    health,
    score: 1,
    breaker: "closed" as const,
    responseTime: 1,
    reason: null,
  }));
  const active = endpoints[0]?.name ?? "none";
  return { name, critical: true, active, epoch: 0, since: "", mode: "active_standby", held: null, endpoints, ...more };
}
const held = { by: "ann", reason: "a release", until: null };
const anyHealth = fc.constantFrom<Health>("healthy", "degraded", "unhealthy", "unknown");
const kill = { endpoint: "primary", takesAway: true, hasLegacy: false, force: false };

test("B1: the active endpoint is taken away only where another one is healthy and nothing holds the upstream, or legacy serves every tool", () => {
  fc.assert(
    fc.property(fc.array(anyHealth, { maxLength: 4 }), fc.boolean(), fc.boolean(), fc.boolean(), (others, isHeld, takesAway, hasLegacy) => {
      const healths = Object.fromEntries([
        ["primary", "healthy" as Health],
        ...others.map((health, at) => [`other-${at}`, health] as const),
      ]);
      const view = upstream("shop", healths, { held: isHeld ? held : null });
      const { overrode, refused } = checkBlastRadius({ ...kill, upstream: view, takesAway, hasLegacy });
      assert.deepEqual(overrode, [], "without force nothing is overridden");
      assert.equal(refused === null, !takesAway || hasLegacy || (others.includes("healthy") && !isHeld));
    }),
  );
  const standby = upstream("shop", { primary: "healthy", secondary: "healthy" }, { held });
  assert.equal(
    checkBlastRadius({ ...kill, upstream: standby, endpoint: "secondary" }).refused,
    null,
    "a standby is nobody's last endpoint",
  );
});

test("B1: a refusal says what would be left, and what to do", () => {
  const alone = upstream("shop", { primary: "healthy", secondary: "unhealthy", third: "unknown" });
  assert.equal(
    checkBlastRadius({ ...kill, upstream: alone }).refused,
    "without primary nothing would serve shop: no other endpoint is healthy (secondary is unhealthy, third is unknown); bring one back first, " +
      "or order it with `force` and your reason, which is recorded",
  );
  assert.match(checkBlastRadius({ ...kill, upstream: upstream("shop", { primary: "healthy" }) }).refused ?? "", /\(it has no other\)/);
  const isHeld = upstream("shop", { primary: "healthy", secondary: "healthy" }, { held });
  assert.match(
    checkBlastRadius({ ...kill, upstream: isHeld }).refused ?? "",
    /^shop is held at primary by ann \(a release\); release it first, or/,
  );
});

test("B2: force lets it begin, and names what it overrode and nothing else", () => {
  const of = (more: Partial<Upstream>, secondary: Health): readonly string[] => {
    const view = upstream("shop", { primary: "healthy", secondary }, more);
    const { overrode, refused } = checkBlastRadius({ ...kill, upstream: view, force: true });
    assert.equal(refused, null);
    return overrode;
  };
  assert.deepEqual(of({}, "healthy"), []);
  assert.deepEqual(of({}, "unhealthy"), ["last_endpoint"]);
  assert.deepEqual(of({ held }, "healthy"), ["hold"]);
  assert.deepEqual(of({ held }, "degraded"), ["last_endpoint", "hold"]);
});

const quiet = { target: "shop", calls: [], servedBefore: new Set<string>(), status: null };

test("B3: it is given up exactly when the last calls that have a result, by their end, all failed", () => {
  const { abortAfterCalls } = experimentPolicy;
  fc.assert(
    fc.property(
      fc.array(fc.constantFrom("fine", "failed", "under way"), { maxLength: 60 }),
      fc.integer({ min: 0, max: 60 }),
      (results, failedAtEnd) => {
        const all = [...results, ...Array.from({ length: failedAtEnd }, () => "failed")];
        const calls: CanaryCall[] = all.map((result, at) => ({
          startedAtMs: at,
          endedAtMs: result === "under way" ? null : 1000 + at,
          ok: result === "fine",
          answer: null,
          error: result === "failed" ? "connection refused" : null,
        }));
        const ended = all.filter((result) => result !== "under way").slice(-abortAfterCalls);
        const expected = ended.length === abortAfterCalls && ended.every((result) => result === "failed");
        const found = findAbort({ ...quiet, calls: calls.toReversed() });
        assert.equal(found !== null, expected);
        if (expected) assert.equal(found, "it was given up: the last 20 calls failed (connection refused)");
      },
    ),
  );
});

test("B4: it is given up when another upstream lost its healthy active endpoint, and not for the target, nor for one that was sick before", () => {
  const before = {
    upstreams: [upstream("shop", { a: "healthy" }), upstream("mail", { a: "healthy", b: "healthy" }), upstream("sick", { a: "unhealthy" })],
  };
  const servedBefore = servedUpstreams(before);
  assert.deepEqual([...servedBefore], ["shop", "mail"]);
  const look = (...upstreams: Upstream[]) => findAbort({ ...quiet, servedBefore, status: { upstreams } });
  const sick = upstream("sick", { a: "unhealthy" });
  assert.equal(look(upstream("shop", { a: "unhealthy" }), upstream("mail", { a: "healthy" }), sick), null);
  assert.equal(look(upstream("mail", { a: "unhealthy", b: "healthy" }, { active: "b" })), null, "it moved in time");
  assert.equal(look(), null, "one that is not shown any more");
  assert.equal(
    look(upstream("mail", { a: "unhealthy", b: "healthy" }), sick),
    "it was given up: mail, which is not its target, has no healthy active endpoint any more (a is unhealthy)",
  );
});
