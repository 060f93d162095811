import assert from "node:assert/strict";
import { test } from "node:test";
import { type StatusView, topology } from "@mcp-failover/contracts";
import {
  type CanaryCall,
  checkBlastRadius,
  experimentPolicy,
  findAbort,
  type StandIns,
  servedUpstreams,
  standInsOf,
} from "@mcp-failover/domain";
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
const fit: StandIns = { unfit: {}, stays: null };
const kill = { endpoint: "primary", takesAway: true, hasLegacy: false, force: false, standIns: fit };

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

/** What the configuration says of `shop`, whose endpoints are all healthy, with primary active. */
function standIns(shop: object, more: object = {}, change: Partial<Upstream> = {}, others: readonly Upstream[] = []): StandIns {
  const endpoints = ["primary", "secondary", "third"].map((name, tier) => ({ name, tier, url: `http://127.0.0.1:${tier + 1}/` }));
  const mail = { kind: "http", endpoints: endpoints.slice(0, 2) };
  const config = topology.parse({ version: 1, upstreams: { shop: { kind: "http", endpoints, ...shop }, mail }, ...more });
  const view = upstream("shop", { primary: "healthy", secondary: "healthy", third: "healthy" }, change);
  return standInsOf({ topology: config, environment: "production" }, { upstreams: [view, ...others] }, view, 1_000_000);
}
const always = { daily: { at: "00:00", for_ms: 86_400_000 } };
const work = (more: object) => ({ maintenance: [{ name: "disks", reason: "new ones", ...more, ...always }] });

test("SI1: an endpoint that takes no writes, is in maintenance, behind an open breaker or barred by a safety rule is no stand-in", () => {
  assert.deepEqual(standIns({}), fit);
  const roles = ["write", "read", "write"].map((role, tier) => ({
    name: ["primary", "secondary", "third"][tier],
    tier,
    role,
    url: "http://127.0.0.1:1/",
  }));
  assert.deepEqual(standIns({ endpoints: roles }).unfit, { secondary: "takes no writes (role: read)" });
  assert.deepEqual(standIns({}, work({ endpoints: ["shop/third"] })).unfit, { third: "is in maintenance (disks)" });
  const view = upstream("shop", { primary: "healthy", secondary: "healthy" });
  const broken = view.endpoints.map((endpoint) => ({
    ...endpoint,
    breaker: endpoint.name === "primary" ? ("closed" as const) : ("forced_open" as const),
  }));
  assert.deepEqual(standIns({}, {}, { endpoints: broken }).unfit, { secondary: "is behind a breaker that is forced_open" });
  const frozen = standIns({}, { safety_rules: [{ name: "freeze", no_moves: { upstreams: ["shop"], ...always } }] });
  assert.deepEqual(Object.keys(frozen.unfit), ["secondary", "third"]);
  assert.match(frozen.unfit["third"] ?? "", /^may not be moved to \(freeze: no moves until /);
  const never = { safety_rules: [{ name: "apart", never_both_on_backup: ["shop", "mail"] }] };
  const mail = (active: string) => upstream("mail", { primary: "unhealthy", secondary: "healthy" }, { active });
  assert.deepEqual(standIns({}, never, {}, [mail("primary")]), fit);
  assert.deepEqual(Object.keys(standIns({}, never, {}, [mail("secondary")]).unfit), ["secondary", "third"]);
  const least = { safety_rules: [{ name: "two", at_least: { count: 1, endpoints: ["shop/primary", "mail/primary"] } }] };
  assert.deepEqual(standIns({}, least, {}, [upstream("mail", { primary: "healthy" })]), fit);
  assert.match(standIns({}, least, {}, [mail("primary")]).unfit["secondary"] ?? "", /^may not be moved to \(two: at least 1 /);
});

test("SI2: an upstream stays where it is in maintenance, without automatic moves, and in a dry run; a pool of which more is fit need not move", () => {
  assert.deepEqual(standIns({}, work({ endpoints: ["shop/primary"] })).stays, {
    rule: "maintenance",
    why: "primary is in maintenance (disks): nobody moves shop because of it",
  });
  for (const [failover, rule] of [
    [{ automatic: false }, "automatic_off"],
    [{ moves_per_hour: 0 }, "automatic_off"],
    [{ dry_run: true }, "dry_run"],
  ] as const) {
    assert.equal(standIns({ failover }).stays?.rule, rule);
    const pool = upstream("shop", { primary: "healthy", secondary: "healthy" }, { mode: "pool" });
    assert.equal(standIns({ failover }, {}, pool).stays?.rule, rule, "of another tier");
    const one = { ...pool, endpoints: pool.endpoints.map((endpoint) => ({ ...endpoint, tier: 0 })) };
    assert.equal(standIns({ failover }, {}, one).stays, null);
  }
});

test("B1, B2: a healthy endpoint that is no stand-in counts for none, nor does one to which nobody would move; force overrides both, by name", () => {
  const view = upstream("shop", { primary: "healthy", secondary: "healthy", third: "unhealthy" });
  const unfit = { unfit: { secondary: "takes no writes (role: read)" }, stays: null };
  const refused = checkBlastRadius({ ...kill, upstream: view, standIns: unfit }).refused ?? "";
  assert.match(
    refused,
    /^without primary .* no other endpoint could \(secondary takes no writes \(role: read\), third is unhealthy\); bring/,
  );
  const stays = { unfit: {}, stays: { rule: "dry_run", why: "shop is not moved by itself" } };
  assert.match(
    checkBlastRadius({ ...kill, upstream: view, standIns: stays }).refused ?? "",
    /^shop is not moved by itself; change that first, or/,
  );
  const both = { unfit: unfit.unfit, stays: stays.stays };
  assert.deepEqual(checkBlastRadius({ ...kill, upstream: view, standIns: both, force: true }), {
    overrode: ["last_endpoint", "dry_run"],
    refused: null,
  });
});

const quiet = { target: "shop", calls: [], servedBefore: new Set<string>(), status: null, blindMs: 0 };

test("B3: it is given up exactly when the last calls that have a result, by their end, all failed", () => {
  const { abortAfterCalls } = experimentPolicy;
  fc.assert(
    fc.property(
      fc.array(fc.constantFrom("fine", "failed", "under way"), { maxLength: 60, size: "max" }),
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

test("B5: it is given up once nobody has seen the status for ten seconds", () => {
  const { abortAfterBlindMs } = experimentPolicy;
  assert.equal(findAbort({ ...quiet, blindMs: abortAfterBlindMs - 1 }), null);
  assert.match(findAbort({ ...quiet, blindMs: abortAfterBlindMs }) ?? "", /^it was given up: for 10 s nobody saw the status/);
  assert.equal(findAbort({ ...quiet, status: { upstreams: [] }, blindMs: 0 }), null);
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
