import assert from "node:assert/strict";
import { test } from "node:test";
import { canonicalJson, type Event, topology } from "@mcp-failover/contracts";
import {
  decideFailover,
  decideReservation,
  type FailoverInput,
  nothingVerified,
  openEvidence,
  type ReservationInput,
  takeSignal,
  verifyNext,
} from "@mcp-failover/domain";
import { Grace } from "../src/grace.ts";
import { type FleetDouble, until, upstreamOf } from "./fleet-double.ts";
import { codeOf, resultOf, stack } from "./stack.ts";

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const two = { shop: upstreamOf(["primary", "secondary"]), bank: upstreamOf(["primary", "secondary"]) };

/** What `mcpf events verify` says of the controllers' events: nothing. */
async function verifyLog(fleet: FleetDouble): Promise<void> {
  const signals = new Map<number, Event>();
  for await (const { seq, content } of fleet.bus.read("SIGNALS")) if (content.kind === "event") signals.set(seq, content.event);
  let state = nothingVerified;
  const deciders = {
    decideFailover: (input: unknown) => decideFailover(input as FailoverInput),
    decideReservation: (input: unknown) => decideReservation(input as ReservationInput),
    decideHealth: () => ({ rule: "test" }),
  };
  for await (const { seq, subject, timeMs, headers, bytes } of fleet.bus.read("AUDIT")) {
    const context = { deciders, signalAt: (at: number) => signals.get(at) ?? null, complete: true };
    state = verifyNext(state, { seq, subject, timeMs, headers, bytes }, context);
  }
  const problems = state.problems.filter(({ subject }) => subject.startsWith("failover.") || subject.startsWith("fleet."));
  assert.deepEqual(problems, []);
  assert.ok(state.decisions > 0);
}

/** Every decision in the log, taken again on the input that it recorded, is the same. Says how many there were of each type. */
async function recheck(fleet: FleetDouble): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  await verifyLog(fleet);
  for (const { type, data } of await fleet.said("failover.decided", "failover.rejected", "failover.failed", "fleet.reserved")) {
    const { decider, rule, input } = data.certificate;
    const again = decider === "decideReservation" ? decideReservation(input as ReservationInput) : decideFailover(input as FailoverInput);
    assert.equal(again.rule, rule, `${type} says ${rule}`);
    if (type === "failover.decided") assert.equal(canonicalJson("state" in again ? again.state : null), canonicalJson(data["state"]));
    counts[`${type} ${rule}`] = (counts[`${type} ${rule}`] ?? 0) + 1;
  }
  return counts;
}

test("two controllers that move two upstreams at once cannot break a safety rule together, and the refusal names the rule", async () => {
  const safety_rules = [{ name: "not-both", never_both_on_backup: ["shop", "bank"], reason: "the backups share a rack" }];
  const { fleet, command } = await stack({ controllers: 2, upstreams: two, more: { safety_rules } });
  fleet.truth.set("shop/primary", "hard").set("bank/primary", "hard");
  await fleet.probe("p1", [
    { upstream: "shop", endpoint: "primary" },
    { upstream: "bank", endpoint: "primary" },
  ]);
  const [refused] = await until(
    () => fleet.said("failover.rejected"),
    (events) => events.length > 0,
  );
  await pause(1200);
  assert.equal((await fleet.said("failover.decided")).length, 1);
  assert.equal(refused?.data.rule, "safety_rule");
  assert.match(refused?.data.reason ?? "", /the safety rule "not-both" forbids it: .* \(the backups share a rack\)/);
  // An operator is bound by it too; force overrides it, on record in the decision and on the fleet's subject.
  const upstream = refused?.data.service ?? "";
  const order = { upstream, to: null, force: false, dryRun: false };
  assert.equal(codeOf(await command("command.failover", { ...order, dryRun: true })), "safety_rule", "a dry run says so too");
  assert.equal(codeOf(await command("command.failover", order)), "safety_rule");
  assert.deepEqual(resultOf(await command("command.failover", { ...order, force: true }))["overrode"], ["safety_rule:not-both"]);
  const reservations = (await fleet.said("fleet.reserved")).at(-1)?.data.reservations;
  assert.deepEqual(reservations?.at(-1)?.overrode, ["safety_rule:not-both"]);
  const counts = await recheck(fleet);
  assert.equal(counts["failover.rejected safety_rule"], 2);
});

test("upstreams that a rule forbids to move take no turn from others that wait for a place, and each is refused once", async () => {
  const frozen = Array.from({ length: 6 }, (_, index) => `frozen${index}`);
  const upstreams = Object.fromEntries([...frozen, "shop"].map((name) => [name, two.shop]));
  const freeze = { upstreams: frozen, from: "2020-01-01T00:00:00Z", until: "2100-01-01T00:00:00Z" };
  const more = { failover: { fleet_moves: 2 }, safety_rules: [{ name: "freeze", no_moves: freeze }] };
  const { fleet } = await stack({ upstreams, more });
  const failing: string[] = [];
  const fail = async (...names: string[]): Promise<void> => {
    for (const name of names) fleet.truth.set(`${name}/primary`, "hard");
    failing.push(...names);
    for (const prober of fleet.probers)
      await fleet.probe(
        prober,
        failing.map((upstream) => ({ upstream, endpoint: "primary" })),
      );
  };
  await fail(...frozen);
  await until(
    () => fleet.said("failover.rejected"),
    (events) => events.length >= frozen.length,
  );
  await fail("shop");
  const decided = await until(
    () => fleet.said("failover.decided"),
    (events) => events.length > 0,
    3000,
  );
  for (let second = 0; second < 3; second += 1) {
    await pause(1000);
    await fail();
  }
  assert.deepEqual(
    decided.map(({ data }) => data.service),
    ["shop"],
  );
  const refused = (await fleet.said("failover.rejected")).map(({ data }) => `${data.rule} ${data.service}`);
  assert.deepEqual(refused.sort(), frozen.map((name) => `safety_rule ${name}`).sort());
});

test("an endpoint in maintenance is neither moved off nor moved to, and nobody is told", async () => {
  const maintenance = [
    {
      name: "upgrade",
      endpoints: ["shop/primary", "bank/secondary"],
      reason: "upgrade",
      from: "2020-01-01T00:00:00Z",
      until: "2100-01-01T00:00:00Z",
    },
  ];
  const { fleet, command } = await stack({ upstreams: two, more: { maintenance } });
  fleet.truth.set("shop/primary", "hard");
  await fleet.probe("p1", [{ upstream: "shop", endpoint: "primary" }]);
  const order = { upstream: "bank", to: "secondary", force: false, dryRun: false };
  assert.equal(codeOf(await command("command.failover", order)), "candidate_maintenance");
  await pause(1200);
  assert.deepEqual(await fleet.said("failover.decided", "failover.failed"), []);
  assert.deepEqual(
    (await fleet.said("failover.rejected")).map(({ data }) => data.automatic),
    [false],
  );
  assert.deepEqual(resultOf(await command("command.failover", { ...order, force: true }))["overrode"], ["maintenance"]);
});

test("a dry-run policy says once what would be done, with what was not chosen, and does nothing", async () => {
  const { fleet, move } = await stack({
    controllers: 2,
    upstreams: { shop: upstreamOf(["primary", "secondary", "third"], { failover: { dry_run: true } }) },
  });
  fleet.truth.set("shop/primary", "hard");
  await fleet.probe("p1", [{ upstream: "shop", endpoint: "primary" }]);
  const said = await until(
    () => fleet.said("failover.rejected"),
    (events) => events.length > 0,
  );
  await pause(1500);
  assert.equal((await fleet.said("failover.rejected")).length, 1);
  assert.equal(said[0]?.data.rule, "dry_run");
  assert.match(said[0]?.data.reason ?? "", /^would move to secondary \(majority_unhealthy\)/);
  assert.deepEqual(
    said[0]?.data.certificate.rejected.map(({ option }) => option),
    ["secondary", "third"],
  );
  assert.deepEqual(await fleet.said("failover.decided", "fleet.reserved"), []);
  assert.equal(resultOf(await move({}))["to"], "secondary", "an operator's word is no dry run");
});

test("a move that real traffic shows to be no better is followed by the next candidate, and at last the upstream is held and paged", async () => {
  const upstreams = {
    shop: upstreamOf(["primary", "secondary", "third"], { failover: { verify_moves: 1 } }),
    bank: upstreamOf(["primary"]),
  };
  const { fleet, command } = await stack({ controllers: 2, upstreams });
  fleet.truth.set("shop/primary", "hard");
  await fleet.probe("p1", [{ upstream: "shop", endpoint: "primary" }]);
  await until(
    () => fleet.said("failover.decided"),
    (events) => events.length === 1,
  );
  fleet.truth.delete("shop/primary");
  /** Every endpoint answers its probes; the calls of two routers fail all the same. */
  const callsFail = async (endpoint: string, epoch: number): Promise<void> => {
    const route = { shop: { generation: 1, epoch, eventId: null, active: endpoint } };
    for (const router of ["r1", "r2"]) {
      // Who fails everywhere is not believed: these routers reach something else.
      await fleet.traffic(router, "bank", "primary", { ok: 1 }, route);
      await fleet.traffic(router, "shop", endpoint, { hard: 4 }, route);
    }
  };
  await callsFail("secondary", 1);
  const second = await until(
    () => fleet.said("failover.decided"),
    (events) => events.length === 2,
  );
  assert.deepEqual(
    [second[1]?.data.currentEndpoint, second[1]?.data.certificate.rule, second[1]?.data.state.trial?.round],
    ["third", "verify_failed", 1],
  );
  await callsFail("third", 2);
  const third = await until(
    () => fleet.said("failover.decided"),
    (events) => events.length === 3,
  );
  assert.deepEqual([third[2]?.data.action, third[2]?.data.certificate.rule], ["held", "verify_failed"]);
  const failed = await until(
    () => fleet.said("failover.failed"),
    (events) => events.length > 0,
  );
  assert.deepEqual([failed[0]?.data.failing, failed[0]?.data.rule], [true, "verify_failed"]);
  await command("command.release", { upstream: "shop" });
  // Later calls end well.
  const route = { shop: { generation: 1, epoch: 4, eventId: null, active: "third" } };
  for (const router of ["r1", "r2"]) await fleet.traffic(router, "shop", "third", { ok: 50 }, route);
  await fleet.probeAll(upstreams);
  const over = await until(
    () => fleet.said("failover.failed"),
    (events) => events.length > 1,
  );
  assert.deepEqual(
    over.map(({ data }) => data.failing),
    [true, false],
  );
  await recheck(fleet);
});

test("over the hourly limit the upstream is held, and what that keeps it from is told at once, for somebody to be paged", async () => {
  const failover = { moves_per_hour: 1, cooldown_ms: 0, verify_ms: 0 };
  const { fleet } = await stack({ controllers: 2, upstreams: { shop: upstreamOf(["primary", "secondary", "third"], { failover }) } });
  const dies = async (endpoint: string): Promise<void> => {
    fleet.truth.set(`shop/${endpoint}`, "hard");
    for (const prober of fleet.probers) await fleet.probe(prober, [{ upstream: "shop", endpoint }]);
  };
  await dies("primary");
  const [first] = await until(
    () => fleet.said("failover.decided"),
    (events) => events.length > 0,
    20_000,
  );
  await dies(first?.data.currentEndpoint ?? "");
  const [told] = await until(
    () => fleet.said("failover.rejected"),
    (events) => events.length > 0,
    20_000,
  );
  assert.deepEqual([told?.data.rule, told?.data.automatic], ["held", true]);
  assert.match(told?.data.reason ?? "", /1 automatic moves within an hour, 1 allowed; held until an operator releases it/);
  const decided = await fleet.said("failover.decided");
  assert.deepEqual(
    decided.map(({ data }) => [data.action, data.certificate.rule, data.state.held?.untilMs ?? null]),
    [
      ["moved", "majority_unhealthy", null],
      ["held", "moves_per_hour", null],
    ],
  );
  await recheck(fleet);
});

test("an operator's failback goes to the better tier, is told like a move, and is refused where there is nothing to go back to", async () => {
  const { fleet, move, command } = await stack({ controllers: 2 });
  const back = (more: object = {}) => command("command.failback", { upstream: "shop", force: false, dryRun: false, ...more });
  assert.equal(codeOf(await back()), "not_failed_over");
  await move({ to: "secondary" });
  const dry = resultOf(await back({ dryRun: true }));
  assert.deepEqual([dry["to"], dry["rule"], dry["dryRun"], dry["decisionId"]], ["primary", "operator_failback", true, null]);
  const done = resultOf(await back({ commandId: "back" }));
  assert.deepEqual([done["from"], done["to"], done["epoch"], done["executed"]], ["secondary", "primary", 2, true]);
  assert.equal(resultOf(await back({ commandId: "back" }))["epoch"], 2, "a repeat gets the first answer");
  const decided = await fleet.said("failover.decided");
  assert.equal(decided.length, 2);
  assert.deepEqual([decided[1]?.data.automatic, decided[1]?.data.state.trial?.kind], [false, "failback"]);
  assert.deepEqual(
    (await fleet.said("command.accepted")).map(({ data }) => data.command),
    ["failback", "failover", "failback"],
  );
});

test("an automatic failback waits for steady health, and goes once", async () => {
  const failover = { failback: "automatic", failback_after_ms: 1000, cooldown_ms: 0, verify_ms: 0 };
  const { fleet, move } = await stack({ controllers: 2, upstreams: { shop: upstreamOf(["primary", "secondary"], { failover }) } });
  await move({ to: "secondary" });
  const movedMs = Date.now();
  await fleet.health("shop", "primary", "healthy");
  const answering = setInterval(() => {
    fleet
      .probe("p1", [{ upstream: "shop", endpoint: "secondary" }])
      .catch((error: unknown) => assert.equal(fleet.bus.status.kind, "closed", String(error)));
  }, 300);
  try {
    const decided = await until(
      () => fleet.said("failover.decided"),
      (events) => events.length > 1,
    );
    assert.ok(Date.now() - movedMs >= 1000);
    assert.deepEqual([decided[1]?.data.certificate.rule, decided[1]?.data.currentEndpoint], ["failback", "primary"]);
  } finally {
    clearInterval(answering);
  }
  await pause(700);
  assert.equal((await fleet.said("failover.decided")).length, 2);
  await recheck(fleet);
});

test("before its grace is over a controller moves nothing by itself; it ends early when every endpoint was proven", async () => {
  const { fleet, start } = await stack({ controllers: 0 });
  fleet.truth.set("shop/primary", "hard");
  for (const prober of fleet.probers) await fleet.probe(prober, [{ upstream: "shop", endpoint: "primary" }]);
  const startedMs = Date.now();
  const { kit } = await start("fc-1", { wait: false });
  await until(
    () => kit.readiness().conditions["log"]?.ok,
    (ready) => ready === true,
  );
  assert.equal(kit.readiness().status, "not_ready", "ready comes after the grace");
  const decided = await until(
    () => fleet.said("failover.decided"),
    (events) => events.length > 0,
    8000,
  );
  assert.ok(Date.parse(decided[0]?.data.timestamp ?? "") - startedMs >= 4000, "5 s, counted from a boundary of a second");
  assert.equal(kit.readiness().status, "ready");
});

test("what was said of the server before it does not end the grace of an endpoint whose address has changed; another tier changes nothing in it", () => {
  const grace = new Grace();
  const evidence = openEvidence();
  let seq = 0;
  const atMs = 1_000_000;
  const applied = (path: string, secondTier: number, nowMs: number): ((askedMs: number) => number | null) => {
    const endpoints = [
      { name: "primary", tier: 0, url: `http://127.0.0.1:1/${path}` },
      { name: "secondary", tier: secondTier, url: "http://127.0.0.1:2/" },
    ];
    const known = { topology: topology.parse({ upstreams: { shop: { kind: "mcp", endpoints } } }), environment: "development" } as const;
    grace.configured(known.topology, nowMs);
    return (askedMs) => grace.untilMs("shop", known, evidence, askedMs);
  };
  const answers = (name: string, timeMs: number): void => {
    const seen = { upstream: "shop", endpoint: name, purpose: "scheduled", startedAtMs: timeMs, outcome: "ok", code: null };
    const event = { type: "probe.observed", data: { observer: "p1", observations: [seen] } } as unknown as Event<"probe.observed">;
    seq += 1;
    takeSignal(evidence, { seq, timeMs, event });
  };
  const first = applied("old", 1, atMs);
  assert.equal(first(atMs), atMs + 5000);
  for (const name of ["primary", "secondary"]) answers(name, atMs + 100);
  assert.equal(first(atMs + 200), null);
  assert.equal(applied("old", 2, atMs + 300)(atMs + 400), null, "the same servers");
  const moved = applied("new", 2, atMs + 500);
  assert.equal(moved(atMs + 600), atMs + 5600);
  assert.ok(!grace.allOver && !grace.isOver("shop"));
  answers("secondary", atMs + 700);
  assert.equal(moved(atMs + 800), atMs + 5600, "of the new one nothing is known yet");
  answers("primary", atMs + 900);
  assert.equal(moved(atMs + 1000), null);
});

test("an endpoint that is given another address is not moved off before its grace is over, though its server of before was well", async () => {
  const shop = {
    kind: "mcp",
    endpoints: [
      { name: "primary", tier: 0, url: "http://127.0.0.1:1/moved" },
      { name: "secondary", tier: 1, url: "http://127.0.0.1:1/secondary" },
    ],
  };
  const { fleet } = await stack();
  const appliedMs = Date.now();
  await fleet.configure({ shop });
  fleet.truth.set("shop/primary", "hard");
  for (const prober of fleet.probers) await fleet.probe(prober, [{ upstream: "shop", endpoint: "primary" }]);
  const decided = await until(
    () => fleet.said("failover.decided"),
    (events) => events.length > 0,
    8000,
  );
  assert.ok(Date.parse(decided[0]?.data.timestamp ?? "") - appliedMs >= 4000, "5 s, counted from a boundary of a second");
});

test("a controller that starts on a machine with a fast clock keeps an operator's hold, and its grace is no longer than anybody's", async () => {
  const { fleet, controllers, start, command } = await stack({ upstreams: two });
  resultOf(await command("command.hold", { upstream: "bank", forMs: 600_000 }));
  for (const { stop } of controllers) await stop();
  fleet.truth.set("shop/primary", "hard");
  const { kit } = await start("fc-fast", { wait: false, nowMs: () => Date.now() + 900_000 });
  const asking = setInterval(() => {
    for (const prober of fleet.probers) fleet.probe(prober, [{ upstream: "shop", endpoint: "primary" }]).catch(() => undefined);
  }, 300);
  try {
    await until(
      () => fleet.said("failover.decided"),
      (events) => events.some(({ data }) => data.service === "shop"),
      30_000,
    );
  } finally {
    clearInterval(asking);
  }
  await until(
    () => kit.readiness().conditions["grace"]?.ok ?? true,
    (over) => over,
  );
  const ofBank = (await fleet.said("failover.decided")).filter(({ data }) => data.service === "bank");
  assert.deepEqual(
    ofBank.map(({ data }) => data.action),
    ["held"],
  );
});

test("a hold until a time ends at that time of the store's clock, an hour ahead of every other, and one that is over by it is refused", async (t) => {
  const storeNowMs = (): number => Date.now() + 3_600_000;
  const { fleet, start, command } = await stack({ controllers: 0, storeNowMs });
  // The store's clock is heard by what it takes, as in any fleet that is alive.
  const alive = setInterval(() => {
    for (const prober of fleet.probers) fleet.probe(prober, [{ upstream: "shop", endpoint: "primary" }]).catch(() => undefined);
  }, 200);
  t.after(() => clearInterval(alive));
  await start("fc-1");
  const holdUntil = (untilMs: number) => command("command.hold", { upstream: "shop", forMs: 1, untilMs });
  const over = await holdUntil(Date.now() + 1_800_000);
  assert.equal(codeOf(over), "until_over");
  assert.match(over.ok ? "" : over.error.message, /by the store's clock; give a time that is still to come/);
  const untilMs = storeNowMs() + 600_000;
  resultOf(await holdUntil(untilMs));
  const [held] = await fleet.said("failover.decided");
  assert.deepEqual([held?.data.action, held?.data.state.held?.untilMs], ["held", untilMs]);
  const recorded = (await fleet.said("command.accepted")).at(-1)?.data.parameters;
  assert.deepEqual([recorded?.["forMs"], recorded?.["untilMs"]], [null, untilMs]);
  await recheck(fleet);
});

test("a grace ends no later than it lasts, also after the store's clock was set back", () => {
  const grace = new Grace();
  const endpoints = [{ name: "primary", tier: 0, url: "http://127.0.0.1:1/" }];
  const known = { topology: topology.parse({ upstreams: { shop: { kind: "mcp", endpoints } } }), environment: "development" } as const;
  grace.configured(known.topology, 10_000_000);
  const untilMs = (atMs: number) => grace.untilMs("shop", known, openEvidence(), atMs);
  assert.deepEqual([untilMs(10_000_000), untilMs(1_000_000), untilMs(1_004_999)], [10_005_000, 1_005_000, 1_005_000]);
  assert.equal(untilMs(1_005_000), null);
});

test("an order that waits for proof is answered in its time, though the clock of the controller is set back meanwhile", async () => {
  let skewMs = 0;
  const { fleet, start, move } = await stack({ controllers: 0 });
  await start("fc-1", { nowMs: () => Date.now() + skewMs });
  for (const prober of fleet.probers) fleet.silent.add(prober);
  const asked = move({ to: "secondary" });
  await until(
    () => fleet.said("command.accepted"),
    (events) => events.length > 0,
  );
  skewMs = -3_600_000;
  assert.equal(codeOf(await asked), "candidate_unknown");
});
