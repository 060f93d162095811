import assert from "node:assert/strict";
import { test } from "node:test";
import { topology } from "@mcp-failover/contracts";
import {
  decideReservation,
  foldFailoverAudit,
  noFailoverAudit,
  type Reservation,
  type ReservationInput,
  reservationInput,
  type SafetyFacts,
  type Want,
} from "@mcp-failover/domain";
import fc from "fast-check";

const nowMs = Date.parse("2026-03-06T19:00:00Z");
const policy = { fleetMoves: 100, fleetWindowMs: 60_000, fleetCriticalShare: 0, reservationMs: 5000 };
const want = (upstream: string, more: Partial<Want> = {}): Want => ({
  upstream,
  epoch: 1,
  critical: true,
  sinceMs: nowMs,
  from: "primary",
  to: "secondary",
  toBackup: true,
  failback: false,
  operator: false,
  force: false,
  ...more,
});
const decide = (rules: SafetyFacts[], wants: Want[], more: Partial<ReservationInput> = {}) =>
  decideReservation({ wants, rules, state: { reservations: [] }, moved: [], policy, nowMs, ...more });
const outcome = (rules: SafetyFacts[], wants: Want[], more: Partial<ReservationInput> = {}): Record<string, boolean> =>
  Object.fromEntries(decide(rules, wants, more).answers.map(({ upstream, granted }) => [upstream, granted]));
const reserved = (upstream: string, more: Partial<Reservation> = {}): Reservation => ({
  upstream,
  epoch: 1,
  atMs: nowMs - 10,
  expiresAtMs: nowMs + 4990,
  used: false,
  from: "primary",
  to: "secondary",
  toBackup: true,
  ...more,
});

const atLeast = (count: number, off: Record<string, string> = {}): SafetyFacts => ({
  kind: "at_least",
  name: "keep-on",
  reason: "capacity",
  count,
  endpoints: ["a/primary", "b/primary", "c/primary"].map((key) => ({ key, off: off[key] ?? null })),
});
const both = (onBackup: string[] = []): SafetyFacts => ({
  kind: "never_both_on_backup",
  name: "not-both",
  reason: "",
  upstreams: ["a", "b"].map((name) => ({ name, onBackup: onBackup.includes(name) })),
});

test("S2: a move leaves at least so many of the rule's endpoints on; the refusal names the rule and what is off", () => {
  assert.deepEqual(outcome([atLeast(2)], [want("a")]), { a: true });
  assert.deepEqual(outcome([atLeast(2, { "b/primary": "unhealthy" })], [want("a")]), { a: false });
  const [answer] = decide([atLeast(2, { "b/primary": "in maintenance" })], [want("a")]).answers;
  assert.equal(answer?.rule, "safety_rule");
  assert.equal(
    answer?.reason,
    'the safety rule "keep-on" forbids it: at least 2 of its endpoints have to stay on, and 1 would be (a/primary: left, b/primary: in maintenance) (capacity)',
  );
});

test("S1, S2: a move that another decider reserved a moment ago counts as made, until it has ended unused", () => {
  const state = { reservations: [reserved("b")] };
  assert.deepEqual(outcome([atLeast(2)], [want("a")], { state }), { a: false });
  assert.deepEqual(outcome([atLeast(2)], [want("a")], { state, nowMs: nowMs + 5000 }), { a: true }, "it ended unused");
  const moved = [{ upstream: "b", epoch: 1 }];
  assert.deepEqual(outcome([atLeast(2)], [want("a")], { state, moved, nowMs: nowMs + 5000 }), { a: false }, "it was made");
  assert.deepEqual(outcome([atLeast(2)], [want("a"), want("b"), want("c")]), { a: true, b: false, c: false }, "also within one decision");
  const back = { reservations: [reserved("b"), reserved("b", { epoch: 2, from: "secondary", to: "primary" })] };
  assert.deepEqual(outcome([atLeast(2)], [want("a")], { state: back }), { a: true }, "it is being moved back");
});

/** As a configuration gives it: `shop` is a pool of a and b before c, `search` has one endpoint active at a time. */
function inPool(count: number, endpoints: string[], maintained: string[] = []): SafetyFacts[] {
  const endpoint = (name: string, tier: number) => ({ name, tier, url: `http://${name}.internal` });
  const config = topology.parse({
    upstreams: {
      shop: {
        kind: "http",
        mode: "pool",
        endpoints: [endpoint("a", 0), endpoint("b", 0), endpoint("c", 1), { ...endpoint("reader", 0), role: "read" }],
      },
      search: { kind: "http", endpoints: [endpoint("x", 0), endpoint("y", 0)] },
    },
    safety_rules: [{ name: "keep-on", at_least: { count, endpoints } }],
    maintenance: maintained.map((name) => ({
      name,
      reason: "disks",
      endpoints: [`search/${name}`],
      from: "2026-03-06T18:00:00Z",
      until: "2026-03-06T20:00:00Z",
    })),
  });
  const data = { version: 1, environment: "development", topology: config };
  const audit = foldFailoverAudit(noFailoverAudit, { type: "config.applied", data } as never, nowMs);
  return reservationInput(audit, [want("shop"), want("search")], nowMs).rules;
}

test("S2: a move off an endpoint that is off already is made however few of the others are on, and its place says so", () => {
  const dead = { "a/primary": "unhealthy", "b/primary": "breaker open", "c/primary": "held down" };
  const [answer] = decide([atLeast(2, dead)], [want("a")]).answers;
  assert.equal(
    answer?.reason,
    '1 of 100 automatic moves in 60000 ms; the safety rule "keep-on" is broken already: at least 2 of its endpoints have to stay on, and 0 would be without it too (a/primary: unhealthy, b/primary: breaker open, c/primary: held down)',
  );
  assert.deepEqual(answer?.overrode, [], "nothing gave way");
  const [ordered] = decide([atLeast(2, dead)], [want("a", { operator: true })]).answers;
  assert.match(ordered?.reason ?? "", /counts for no limit; the safety rule "keep-on" is broken already/);
  const one = { "a/primary": "unhealthy", "b/primary": "unhealthy" };
  assert.deepEqual(outcome([atLeast(2, one)], [want("a"), want("c")]), { a: true, c: false }, "c is on, and would not be");
  assert.deepEqual(outcome([atLeast(2, one), both(["b"])], [want("a")]), { a: false }, "another rule stands");
  assert.doesNotMatch(decide([atLeast(1, one)], [want("a")]).answers[0]?.reason ?? "", /broken/, "one is on, as it asks for");
});

test("S2: a pool's tier of which one endpoint is on is not left where too few of the others are on; one that is off whole is", () => {
  const off = (names: string[]) =>
    inPool(2, ["shop/a", "shop/b", "search/x"]).map((rule) =>
      rule.kind === "at_least"
        ? { ...rule, endpoints: rule.endpoints.map((one) => ({ ...one, off: names.includes(one.key) ? "unhealthy" : null })) }
        : rule,
    );
  const leave = [want("shop", { from: "a", to: "c" })];
  assert.deepEqual(outcome(off(["shop/a", "search/x"]), leave), { shop: false });
  assert.deepEqual(outcome(off(["shop/a", "shop/b", "search/x"]), leave), { shop: true });
});

test("S2: a move leaves the whole tier of a pool, whichever of its endpoints is the active one", () => {
  const rules = inPool(1, ["shop/b", "search/x"], ["x"]);
  for (const from of ["a", "b"]) assert.deepEqual(outcome(rules, [want("shop", { from, to: "c" })]), { shop: false }, from);
  assert.deepEqual(outcome(inPool(1, ["shop/a", "shop/b"]), [want("shop", { from: "a", to: "c" })]), { shop: false }, "both are left");
  assert.deepEqual(outcome(inPool(1, ["shop/reader"]), [want("shop", { from: "a", to: "c" })]), { shop: true }, "a replica is read on");
  assert.deepEqual(outcome(inPool(1, ["search/x", "search/y"]), [want("search", { from: "x", to: "y" })]), { search: true }, "no pool");
  const [answer] = decide(rules, [want("shop", { from: "a", to: "c" })]).answers;
  assert.match(answer?.reason ?? "", /shop\/b: left, search\/x: in maintenance/);
});

test("S2: an endpoint that a rule names twice is on once", () => {
  const rules = inPool(2, ["search/x", "search/y", "search/y"]);
  assert.deepEqual(outcome(rules, [want("search", { from: "x", to: "y" })]), { search: false });
});

test("S2: a move into the tier of a pool comes back to all of it, and one within it leaves nothing", () => {
  const rules = inPool(1, ["shop/b", "search/x"]);
  const left = reserved("shop", { from: "a", to: "c" });
  const back = reserved("shop", { epoch: 2, from: "c", to: "a" });
  assert.deepEqual(outcome(rules, [want("search", { from: "x", to: "y" })], { state: { reservations: [left] } }), { search: false });
  assert.deepEqual(outcome(rules, [want("search", { from: "x", to: "y" })], { state: { reservations: [left, back] } }), { search: true });
  const within = want("shop", { from: "b", to: "a", toBackup: false });
  assert.deepEqual(outcome(inPool(2, ["shop/b", "search/x"], ["x"]), [within]), { shop: true }, "b serves on");
});

test("S3: two upstreams of a rule never are on their backups together, nor on their way there", () => {
  assert.deepEqual(outcome([both()], [want("a")]), { a: true });
  assert.deepEqual(outcome([both(["b"])], [want("a")]), { a: false });
  assert.deepEqual(outcome([both(["b"])], [want("a", { toBackup: false })]), { a: true });
  assert.deepEqual(outcome([both(["a", "b"])], [want("a", { from: "secondary", to: "third" })]), { a: true }, "it is there already");
  assert.deepEqual(outcome([both()], [want("a"), want("b")]), { a: true, b: false });
  assert.deepEqual(outcome([both()], [want("a")], { state: { reservations: [reserved("b")] } }), { a: false });
  const over = { state: { reservations: [reserved("b")] }, moved: [{ upstream: "b", epoch: 1 }] };
  assert.deepEqual(outcome([both()], [want("a")], over), { a: true }, "once it was made, its route says where it is");
});

test("S4: nothing of a rule is moved while its window holds", () => {
  const window = { weekly: { days: ["fri" as const], at: "18:00", for_ms: 7_200_000 } };
  const rule: SafetyFacts = { kind: "no_moves", name: "month-end", reason: "", upstreams: ["a"], window };
  assert.deepEqual(outcome([rule], [want("a"), want("b")]), { a: false, b: true });
  assert.deepEqual(outcome([rule], [want("a")], { nowMs: nowMs + 3_600_000 }), { a: true });
});

test("L7: an operator's force overrides a rule, and the place names it", () => {
  const forced = decide([both(["b"])], [want("a", { operator: true, force: true })]);
  assert.deepEqual(forced.answers[0]?.overrode, ["safety_rule:not-both"]);
  assert.deepEqual(forced.state.reservations[0]?.overrode, ["safety_rule:not-both"]);
  assert.deepEqual(outcome([both(["b"])], [want("a", { operator: true })]), { a: false }, "an operator's move without force is refused");
});

test("S5: a rule refuses nothing that it does not name", () => {
  assert.deepEqual(outcome([atLeast(3), both(["b"])], [want("z")]), { z: true });
  assert.deepEqual(outcome([atLeast(3)], [want("a", { from: "secondary" })]), { a: true }, "it leaves none of the rule's endpoints");
});

test("S1 to S3 hold whatever is asked, in whatever order and by however many deciders on one log", () => {
  const upstreamArb = fc.constantFrom("a", "b", "c");
  const stepArb = fc.record({ upstream: upstreamArb, moves: fc.boolean(), afterMs: fc.integer({ min: 0, max: 3000 }) });
  let dead = 0;
  let refused = 0;
  let granted = 0;
  fc.assert(
    fc.property(
      fc.array(stepArb, { minLength: 2, maxLength: 12, size: "max" }),
      fc.integer({ min: 1, max: 3 }),
      fc.subarray(["a", "b", "c"]),
      (steps, count, down) => {
        const off = Object.fromEntries(down.map((name) => [`${name}/primary`, "unhealthy"]));
        let state: ReservationInput["state"] = { reservations: [] };
        let timeMs = nowMs;
        const moved: ReservationInput["moved"] = [];
        const away = new Set<string>();
        for (const { upstream, moves, afterMs } of steps) {
          timeMs += afterMs;
          if (away.has(upstream)) continue;
          const rules = [atLeast(count, off), both([...away].filter((name) => name !== "c"))];
          const decision = decideReservation({ wants: [want(upstream)], rules, state, moved: [...moved], policy, nowMs: timeMs });
          if (decision.publish) state = decision.state;
          if (decision.kind === "refused") refused += 1;
          if (decision.kind === "refused" || !moves) continue;
          granted += 1;
          moved.push({ upstream, epoch: 1 });
          away.add(upstream);
          const on = 3 - new Set([...away, ...down]).size;
          if (on < count) dead += 1;
          assert.ok(on >= count || down.includes(upstream), "S2");
          assert.ok(!(away.has("a") && away.has("b")), "S3");
        }
      },
    ),
    { numRuns: 500 },
  );
  assert.ok(refused > 100 && granted > 100 && dead > 100, `too little to mean anything: ${refused}, ${granted}, ${dead}`);
});
