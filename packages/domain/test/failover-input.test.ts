import assert from "node:assert/strict";
import { test } from "node:test";
import { type DataOf, type Event, type EventType, makeEvent, type NewEvent, topology } from "@mcp-failover/contracts";
import {
  decideFailover,
  type FailoverAudit,
  type FailoverMoment,
  failoverInput,
  failoverStateOf,
  foldFailoverAudit,
  foldSignal,
  initialFailoverState,
  noEvidence,
  noFailoverAudit,
  reservationInput,
} from "@mcp-failover/domain";
import { calls, trafficOf } from "./signals.ts";

const nowMs = 1_000_000_000;
const by = { kind: "service", id: "test" } as const;
let ids = 0;
function event<T extends EventType>(type: T, keys: readonly string[], data: unknown): Event<T> {
  ids += 1;
  return makeEvent({ type, keys, data: data as DataOf<T>, id: `e${ids}`, service: "prober", instance: "t", timeMs: nowMs } as NewEvent<T>);
}
const moment: FailoverMoment = { command: null, fleet: null, clock: { tilted: false, freshAfterSeq: 0 }, gatherSinceMs: null, nowMs };
const configured = (upstream: object, failover: object = {}) =>
  event("config.applied", [], {
    version: 1,
    environment: "development",
    topology: topology.parse({ upstreams: { shop: { kind: "mcp", ...upstream } }, failover }),
  });
const endpoint = (name: string, tier: number, role = "write") => ({ name, tier, role, url: `http://127.0.0.1:1/${name}` });
const health = (name: string, status: string, state: object = {}, clockMs = nowMs) =>
  event("health.changed", ["shop", name], {
    service: "shop",
    endpoint: name,
    timestamp: new Date(clockMs).toISOString(),
    state: { status, sinceMs: 5, heldDownUntilMs: null, ...state },
  });
const fold = (...events: Event[]): FailoverAudit => events.reduce((audit, next) => foldFailoverAudit(audit, next, nowMs), noFailoverAudit);

function probes(observer: string, seq: number, endpoints: readonly string[], outcome: "ok" | "hard") {
  const observations = endpoints.map((name) => ({
    upstream: "shop",
    endpoint: name,
    observer,
    purpose: "confirm" as const,
    requestId: "r",
    startedAtMs: nowMs - 50,
    responseTimeMs: 1234.567,
    outcome,
    code: outcome === "hard" ? ("timeout" as const) : null,
    error: null,
    httpStatus: null,
    era: null,
  }));
  return { seq, timeMs: nowMs - 50, event: event("probe.observed", [observer], { observer, observations }) };
}

test("before the first decision the first write endpoint of the lowest tier is active, at epoch 0", () => {
  const audit = fold(
    configured({ endpoints: [endpoint("late", 1), endpoint("reader", 0, "read"), endpoint("first", 0), endpoint("second", 0)] }),
  );
  const state = failoverStateOf(audit, "shop");
  assert.deepEqual([state.active, state.tier, state.epoch], ["first", 0, 0]);
  assert.throws(() => initialFailoverState(audit.config!.topology, "nothing", 1), /no upstream "nothing" is configured; known: shop/);
});

test("J1: folding the last event of each subject gives the same as folding all of them", () => {
  const config = configured({ endpoints: [endpoint("a", 0), endpoint("b", 1)] });
  const decided = (epoch: number) => event("failover.decided", ["shop"], { service: "shop", state: { epoch, active: "b", moves: [] } });
  const all = [config, health("a", "unhealthy"), decided(1), health("b", "healthy"), health("a", "healthy"), decided(2)];
  const lastOfEach = [config, health("b", "healthy"), health("a", "healthy"), all[5]!];
  assert.deepEqual(fold(...lastOfEach), fold(...all));
});

test("what a prober says of a time is taken from its clock to the store's: one that is an hour wrong keeps no endpoint from use for an hour", () => {
  for (const wrongByMs of [-3_600_000, 0, 3_600_000]) {
    const clockMs = nowMs + wrongByMs;
    const said = { sinceMs: clockMs - 60_000, heldDownUntilMs: clockMs + 240_000, changesAtMs: [clockMs - 60_000] };
    const config = configured({ endpoints: [endpoint("a", 0), endpoint("b", 1)] });
    const audit = fold(config, health("b", "unhealthy", said, clockMs));
    const { health: known } = failoverInput(audit, noEvidence, "shop", moment);
    assert.deepEqual(known["b"], { status: "unhealthy", sinceMs: nowMs - 60_000, heldDownUntilMs: nowMs + 240_000, flaps: 1 });
  }
});

test("since when a breaker is open reaches the decision, and only while it is", () => {
  const breaker = (status: string) =>
    event("breaker.changed", ["shop", "first"], { service: "shop", endpoint: "first", status, state: { status, sinceMs: 7 } });
  const before = [configured({ endpoints: [endpoint("first", 0), endpoint("second", 1)] })];
  const shown = (...events: Event[]) => {
    const { breakers, opened } = failoverInput(fold(...before, ...events), noEvidence, "shop", moment);
    return [breakers, opened];
  };
  assert.deepEqual(shown(), [{}, undefined]);
  assert.deepEqual(shown(breaker("open")), [{ first: "open" }, { first: 7 }]);
  for (const status of ["half_open", "closed", "forced_open"]) {
    assert.deepEqual(shown(breaker("open"), breaker(status)), [{ first: status }, undefined]);
  }
});

test("a rehearsal is known to the decisions on its upstream alone, until it has ended, or for five minutes after it should have", () => {
  const rehearsal = (type: "chaos.started" | "chaos.finished", experiment: string, target: string) =>
    event(type, [experiment], { experiment, target, plan: { expiresAtMs: nowMs + 1000 } });
  const upstreams = { shop: { kind: "mcp", endpoints: [endpoint("one", 0)] }, docs: { kind: "mcp", endpoints: [endpoint("one", 0)] } };
  const config = event("config.applied", [], { version: 1, environment: "development", topology: topology.parse({ upstreams }) });
  const known = (events: readonly Event[], atMs = nowMs) =>
    ["shop", "docs"].map((name) => failoverInput(fold(config, ...events), noEvidence, name, { ...moment, nowMs: atMs }).rehearsal);
  for (const target of ["shop", "shop/one"]) {
    const begun = [rehearsal("chaos.started", "x-1", target)];
    assert.deepEqual(known(begun), ["x-1", undefined], target);
    assert.deepEqual(known(begun, nowMs + 300_999), ["x-1", undefined], "its runner may have died");
    assert.deepEqual(known(begun, nowMs + 301_000), [undefined, undefined]);
    assert.deepEqual(known([...begun, rehearsal("chaos.finished", "x-0", target)]), ["x-1", undefined], "another one has ended");
    assert.deepEqual(known([...begun, rehearsal("chaos.finished", "x-1", target)]), [undefined, undefined]);
  }
});

test("a configuration that does not parse leaves the last good one in force", () => {
  const good = fold(configured({ endpoints: [endpoint("a", 0)] }));
  const bad = event("config.applied", [], { version: 2, environment: "development", topology: { upstreams: {} } });
  assert.equal(foldFailoverAudit(good, bad, nowMs), good);
});

test("J2: with 200 endpoints in a tier and 150 observers the input stays small, and still decides right", () => {
  const names = Array.from({ length: 200 }, (_, index) => `e${index}`);
  const endpoints = [...names.map((name) => endpoint(name, 0)), ...["s1", "s2"].map((name) => endpoint(name, 1))];
  const audit = fold(configured({ mode: "pool", endpoints }));
  const observers = Array.from({ length: 150 }, (_, index) => `prober-with-a-long-name-${index}`);
  const looked = (alive: readonly string[]) => {
    let evidence = noEvidence;
    observers.forEach((observer, index) => {
      // Every tenth observer is of another mind about everything.
      const minority = index % 10 === 0;
      const dead = names.filter((name) => !alive.includes(name));
      evidence = foldSignal(evidence, probes(observer, 2 * index + 1, dead, minority ? "ok" : "hard"));
      evidence = foldSignal(evidence, probes(observer, 2 * index + 2, [...alive, "s1", "s2"], minority ? "hard" : "ok"));
    });
    return failoverInput(audit, evidence, "shop", moment);
  };
  const allDead = looked([]);
  const size = JSON.stringify(allDead).length;
  assert.ok(size < 100_000, `the input has ${size} characters`);
  assert.equal(decideFailover(allDead).kind, "reserve");
  assert.equal(decideFailover(looked(["e199"])).kind, "none", "one endpoint of the tier lives");
});

/** Three probers: these endpoints are dead, all others live. */
function seen(names: readonly string[], dead: readonly string[]) {
  let evidence = noEvidence;
  ["p1", "p2", "p3"].forEach((observer, index) => {
    evidence = foldSignal(evidence, probes(observer, 2 * index + 1, dead, "hard"));
    const alive = names.filter((name) => !dead.includes(name));
    evidence = foldSignal(evidence, probes(observer, 2 * index + 2, alive, "ok"));
  });
  return evidence;
}

const order = {
  kind: "failover",
  commandId: "c",
  by: { kind: "operator", id: "ann" },
  reason: "r",
  force: false,
  afterSeq: 0,
  gatherOver: true,
} as const;

test("J2: of a large tier the active endpoint is always looked at, however bad it is: it is not taken for one that is not configured", () => {
  const names = Array.from({ length: 30 }, (_, index) => `e${index}`);
  const audit = fold(configured({ mode: "pool", endpoints: [...names, "s1"].map((name) => endpoint(name, name === "s1" ? 1 : 0)) }));
  const input = failoverInput(audit, seen([...names, "s1"], ["e0"]), "shop", moment);
  assert.ok(input.endpoints.some(({ name }) => name === "e0"));
  const decision = decideFailover(input);
  assert.deepEqual([decision.kind, decision.rule], ["none", "active_healthy"], "the rest of its tier serves on");
  const command = { ...order, to: "e29" };
  assert.equal(decideFailover(failoverInput(audit, seen([...names, "s1"], []), "shop", { ...moment, command })).rule, "operator");
});

test("J2: many read replicas take no candidate's place, and what an operator names is looked at", () => {
  const replicas = Array.from({ length: 40 }, (_, index) => `r${index}`);
  const backups = Array.from({ length: 40 }, (_, index) => `s${index}`);
  const endpoints = [
    endpoint("primary", 0),
    ...replicas.map((name) => endpoint(name, 0, "read")),
    ...backups.map((name) => endpoint(name, 1)),
  ];
  const audit = fold(configured({ endpoints }));
  const evidence = seen(["primary", ...replicas, ...backups], ["primary"]);
  const automatic = decideFailover(failoverInput(audit, evidence, "shop", moment));
  assert.deepEqual([automatic.kind, "to" in automatic && automatic.to], ["reserve", "s0"]);
  for (const [to, rule] of [
    ["s39", "operator"],
    ["r39", "read_only"],
    ["s40", "unknown_endpoint"],
  ] as const) {
    const command = { ...order, to };
    assert.equal(decideFailover(failoverInput(audit, evidence, "shop", { ...moment, command })).rule, rule, to);
  }
});

test("J2: many endpoints of a tier that are down take no place from one of the next that lives; that of the first tier says what is a backup", () => {
  const [dead, backups] = ["d", "s"].map((of) => Array.from({ length: 30 }, (_, index) => `${of}${index}`)) as [string[], string[]];
  const config = configured({
    endpoints: [...dead.map((name) => endpoint(name, 0)), ...backups.map((name) => endpoint(name, 1)), endpoint("gone", 1)],
  });
  const route = event("failover.decided", ["shop"], {
    service: "shop",
    state: { epoch: 1, active: "gone", tier: 1, sinceMs: 0, held: null, moves: [] },
  });
  const audit = fold(config, route, ...dead.map((name) => health(name, "unhealthy")));
  const decision = decideFailover(failoverInput(audit, seen([...dead, ...backups, "gone"], [...dead, "gone"]), "shop", moment));
  assert.ok(decision.kind === "reserve");
  assert.deepEqual([decision.to, decision.toBackup], ["s0", true]);
});

test("a reservation's input says which places were used, from the moves of the upstreams", () => {
  const place = { atMs: nowMs - 10, expiresAtMs: nowMs + 10, used: false };
  const audit = fold(
    configured({ endpoints: [endpoint("a", 0), endpoint("b", 1)] }, { fleet_moves: 7, fleet_window_ms: 5000 }),
    event("failover.decided", ["shop"], { service: "shop", state: { epoch: 4, active: "b", moves: [{ epoch: 3 }, { epoch: 4 }] } }),
    event("fleet.reserved", [], {
      reservations: [
        { ...place, upstream: "shop", epoch: 4 },
        { ...place, upstream: "shop", epoch: 5 },
      ],
      by,
    }),
  );
  const want = { upstream: "shop", epoch: 5, critical: true, sinceMs: nowMs, from: "a", to: "b", toBackup: true };
  const input = reservationInput(audit, [{ ...want, failback: false, operator: false, force: false }], nowMs);
  assert.deepEqual(input.moved, [{ upstream: "shop", epoch: 4 }]);
  assert.deepEqual([input.policy.fleetMoves, input.policy.fleetWindowMs], [7, 5000]);
});

test("a rehearsal is over by its own end or by the time, and no other one with it", () => {
  const started = (upstream: string, experiment: string) =>
    event("chaos.started", [experiment], { experiment, target: `${upstream}/primary`, plan: { expiresAtMs: nowMs } });
  const finished = (experiment: string) => event("chaos.finished", [experiment], { experiment });
  const config = configured({ endpoints: [endpoint("primary", 0)] });
  const under = (atMs: number, ...events: Event[]) =>
    failoverInput(fold(config, ...events), noEvidence, "shop", { ...moment, nowMs: atMs }).rehearsal;
  assert.equal(under(nowMs, started("shop", "x1"), started("bank", "x2"), finished("x2")), "x1");
  assert.equal(under(nowMs, started("shop", "x1"), finished("x1")), undefined);
  assert.equal(under(nowMs + 299_999, started("shop", "x1")), "x1", "it waits for recovery");
  assert.equal(under(nowMs + 300_000, started("shop", "x1")), undefined);
});

test("ST2: what another clock said of an endpoint holds it down no more, and counts as no change of it", () => {
  const config = configured({ endpoints: [endpoint("primary", 0)] });
  const told = health("primary", "unhealthy", { heldDownUntilMs: nowMs + 600_000, changesAtMs: [nowMs - 2000, nowMs - 1000] });
  const seen = (atMs: number) => failoverInput(fold(config, told), noEvidence, "shop", { ...moment, nowMs: atMs }).health["primary"];
  assert.deepEqual([seen(nowMs)?.heldDownUntilMs, seen(nowMs)?.flaps], [nowMs + 600_000, 2]);
  const hourBefore = seen(nowMs - 3_600_000);
  assert.deepEqual([hourBefore?.heldDownUntilMs, hourBefore?.flaps], [null, undefined]);
});

test("traffic at the active endpoint is read where a move is verified, from the epoch that led there on, and where a failback may come", () => {
  const endpoints = [endpoint("a", 0), endpoint("b", 1)];
  const trial = {
    epoch: 1,
    kind: "failover",
    atMs: nowMs - 2000,
    untilMs: nowMs + 8000,
    round: 0,
    tried: [],
    before: { ok: 0, hard: 0 },
    failed: false,
  };
  const state = { generation: 1, epoch: 2, active: "b", tier: 1, sinceMs: nowMs - 2000, held: null, moves: [] };
  const window = (epoch: number) => ({
    seq: 1,
    timeMs: nowMs - 500,
    event: event("traffic.observed", ["r1"], {
      router: "r1",
      fromMs: nowMs - 750,
      toMs: nowMs - 500,
      endpoints: [{ ...trafficOf(calls("ok", 3)), upstream: "shop", endpoint: "b" }],
      tools: [],
      routes: { shop: { generation: 1, epoch } },
      rollbacks: {},
    }),
  });
  const read = (state: object, failback = "manual", epoch = 1) => {
    const decided = event("failover.decided", ["shop"], { service: "shop", state });
    const started = event("log.started", [], { generation: 1 });
    const audit = fold(started, configured({ endpoints }, { failback }), decided);
    return failoverInput(audit, foldSignal(noEvidence, window(epoch) as never), "shop", moment).traffic;
  };
  // Epoch 2 is a hold's: it changed no endpoint.
  assert.deepEqual(
    read({ ...state, trial })?.after.map(({ router, ok }) => [router, ok]),
    [["r1", 3]],
  );
  assert.equal(read(state), undefined, "nobody asks");
  assert.deepEqual(read(state, "automatic")?.before, { ok: 3, hard: 0 });
  assert.equal(read({ ...state, trial: { ...trial, untilMs: nowMs } }), undefined, "it is over");
});

test("since when an observer says that an endpoint fails is when its run of failures began, of probes as of calls", () => {
  const probed = (seq: number, outcome: "ok" | "hard") => ({ ...probes("p1", seq, ["a"], outcome), timeMs: nowMs - 1000 + seq });
  const called = (seq: number, ok: number, hard: number) => ({
    seq,
    timeMs: nowMs - 1000 + seq,
    event: event("traffic.observed", ["r1"], {
      router: "r1",
      fromMs: nowMs - 1000,
      toMs: nowMs,
      endpoints: [{ ...trafficOf([...calls("ok", ok), ...calls("hard", hard)]), upstream: "shop", endpoint: "a" }],
      tools: [],
      routes: {},
      rollbacks: {},
    }),
  });
  const audit = fold(configured({ endpoints: [endpoint("a", 0)] }));
  const since = (...signals: object[]) => {
    const evidence = signals.reduce<typeof noEvidence>((all, signal) => foldSignal(all, signal as never), noEvidence);
    const [vote] = failoverInput(audit, evidence, "shop", moment).evidence["a"]?.votes ?? [];
    return [(vote?.hardSinceMs ?? 0) - nowMs + 1000, vote?.hardRun];
  };
  assert.deepEqual(since(probed(1, "hard"), probed(2, "ok"), probed(3, "hard"), probed(4, "hard")), [3, 2]);
  assert.deepEqual(since(called(1, 0, 2), called(2, 1, 1), called(3, 0, 2)), [2, 3]);
});

test("what is read at a replica says nothing of the pool's active tier", () => {
  const endpoints = [endpoint("a", 0), endpoint("reader", 0, "read")];
  const ended = { ...trafficOf(calls("hard", 3)), upstream: "shop", endpoint: "reader" };
  const data = { router: "r1", fromMs: nowMs - 750, toMs: nowMs - 500, endpoints: [ended], tools: [], rollbacks: {} };
  const signal = {
    seq: 1,
    timeMs: nowMs - 500,
    event: event("traffic.observed", ["r1"], { ...data, routes: { shop: { generation: 0, epoch: 0 } } }),
  };
  const hold: FailoverMoment = { ...moment, command: { kind: "hold", commandId: "c", by, reason: "test", forMs: null } };
  const { traffic } = failoverInput(fold(configured({ mode: "pool", endpoints })), foldSignal(noEvidence, signal as never), "shop", hold);
  assert.deepEqual(traffic, { after: [], before: { ok: 0, hard: 0 } });
  const ordered = failoverInput(fold(configured({ endpoints })), noEvidence, "shop", hold);
  assert.notEqual(ordered.traffic, undefined, "an order is compared with it afterwards");
});
