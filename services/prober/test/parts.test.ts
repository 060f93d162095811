import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { BusError, memoryBroker } from "@mcp-failover/bus";
import {
  type Event,
  farewellOf,
  makeEvent,
  type Observation,
  type ProbeObserved,
  type ProberHeartbeat,
  streams,
} from "@mcp-failover/contracts";
import { proberPolicy } from "@mcp-failover/domain";
import { testKit } from "@mcp-failover/service-kit/testing";
import { eventually, patientMs } from "@mcp-failover/testkit";
import type { ProberEnvironment } from "../src/config.ts";
import { type Fleet, joinFleet } from "../src/fleet.ts";
import { createLimits } from "../src/limits.ts";
import { type ObservationLog, openObservationLog } from "../src/observations.ts";
import { createPerformer, type Performer } from "../src/perform.ts";
import type { ProbeMade } from "../src/probes/run-probe.ts";
import { createProbing, type Probing, type ProbingOptions } from "../src/probing.ts";
import { createQuestions } from "../src/questions.ts";
import { createSchedule } from "../src/schedule.ts";
import { targetOf } from "./probe-kit.ts";

function observation(endpoint: string): Observation {
  return {
    upstream: "api",
    endpoint,
    observer: "p1",
    purpose: "scheduled",
    requestId: null,
    startedAtMs: 1,
    responseTimeMs: 1.5,
    outcome: "ok",
    code: null,
    error: null,
    httpStatus: 200,
    era: null,
  };
}
function observationLog(policy: Partial<typeof proberPolicy>, append: (event: Event<"probe.observed">) => Promise<void>) {
  const state = { reachable: true, dropped: 0, events: 0 };
  const made = (data: ProbeObserved): Event<"probe.observed"> => {
    state.events += 1;
    const id = `p1-${state.events}`;
    return makeEvent({ type: "probe.observed", keys: ["p1"], id, service: "prober", instance: "p1", timeMs: state.events, data });
  };
  const log: ObservationLog = openObservationLog({
    policy: { ...proberPolicy, ...policy },
    event: (observations) => made({ observer: "p1", observations }),
    farewell: () => made(farewellOf("p1", 1, 1)),
    reachable: () => state.reachable,
    append,
    onDropped: (count) => {
      state.dropped += count;
    },
    onFailed: () => undefined,
  });
  return { log, state };
}
const namesOf = (events: readonly Event<"probe.observed">[]) =>
  events.map(({ data }) => (data.leaving ? "leaving" : data.observations.map(({ endpoint }) => endpoint).join("")));

test("O1: regular observations leave together after the batch time, an urgent one takes what waits along at once, and a batch has its limit", async () => {
  const sent: Event<"probe.observed">[] = [];
  const { log } = observationLog({ batchMs: 40, batchMax: 3 }, async (event) => void sent.push(event));
  log.add(observation("a"), false);
  log.add(observation("b"), false);
  assert.deepEqual(namesOf(sent), []);
  await sleep(60);
  assert.deepEqual(namesOf(sent), ["ab"]);
  log.add(observation("c"), false);
  log.add(observation("d"), true);
  assert.deepEqual(namesOf(sent), ["ab", "cd"]);
  for (const name of "efghijk") log.add(observation(name), false);
  await log.close();
  assert.deepEqual(namesOf(sent), ["ab", "cd", "efg", "hij", "k", "leaving"]);
});

test("O2: out of reach the newest are kept, the oldest are dropped and counted, and nothing is tried", async () => {
  const sent: Event<"probe.observed">[] = [];
  const { log, state } = observationLog({ batchMs: 5, batchMax: 10, bufferMax: 4 }, async (event) => void sent.push(event));
  state.reachable = false;
  for (const name of "abcdefg") log.add(observation(name), name === "d");
  await sleep(20);
  assert.deepEqual([namesOf(sent), state.dropped], [[], 3]);
  state.reachable = true;
  log.resume();
  assert.deepEqual(namesOf(sent), ["defg"]);
  await log.close();
});

test("O3: a batch whose outcome is unknown is sent again with the same id; one that is refused for good is dropped and counted", async () => {
  const ids: string[] = [];
  const errors = [new BusError("timeout", "?", { retriable: true }), new BusError("too_large", "!", { retriable: false })];
  const { log, state } = observationLog({ batchMs: 5 }, async (event) => {
    ids.push(event.id);
    const error = errors.shift();
    if (error) throw error;
  });
  log.add(observation("a"), true);
  await sleep(10);
  log.resume();
  await sleep(10);
  assert.deepEqual([ids, state.dropped], [["p1-1", "p1-1"], 1]);
  log.add(observation("b"), true);
  await log.close();
  assert.deepEqual(ids, ["p1-1", "p1-1", "p1-2", "p1-3"], "the last is its farewell");
});

test("O4: who has said something says once that it leaves; nobody whom nobody has heard does, nor out of reach, and a stop waits for a log that fails no longer than that takes", async () => {
  const sent: Event<"probe.observed">[] = [];
  const silent = observationLog({}, async (event) => void sent.push(event));
  await silent.log.close();
  assert.deepEqual(namesOf(sent), [], "it is in nobody's count");
  const { log, state } = observationLog({}, async (event) => void sent.push(event));
  log.add(observation("a"), true);
  state.reachable = false;
  await log.close();
  assert.deepEqual(namesOf(sent), ["a"]);
  const failing = observationLog({}, async (event) => {
    sent.push(event);
    throw new BusError("timeout", "?", { retriable: true });
  });
  failing.log.add(observation("b"), true);
  await failing.log.close();
  assert.deepEqual(namesOf(sent), ["a", "b", "leaving"], "and does not begin again");
});

test("a schedule never runs two probes of one endpoint, plans from the end of each, and keeps going after one that threw", async (t) => {
  let running = 0;
  let most = 0;
  const runs: string[] = [];
  const lags: number[] = [];
  const failures: unknown[] = [];
  const schedule = createSchedule({
    nowMs: () => performance.now(),
    clockMs: () => performance.now(),
    run: async (key, { purpose }) => {
      running += 1;
      most = Math.max(most, running);
      runs.push(`${key} ${purpose}`);
      await sleep(30);
      running -= 1;
      if (runs.length === 2) throw new Error("a mistake");
      return runs.length >= 4 ? null : { atMs: performance.now() + 5, purpose: "retry" };
    },
    onLag: (lagMs) => lags.push(lagMs),
    onError: (error) => failures.push(error),
    errorWaitMs: 5,
  });
  t.after(() => schedule.stop());
  schedule.plan("a/b", { atMs: 0, purpose: "scheduled" });
  await sleep(10);
  // Asked for while one is under way: it does not start a second one, and comes no later than asked.
  schedule.plan("a/b", { atMs: 0, purpose: "scheduled" });
  for (const endMs = performance.now() + 8000; schedule.size > 0 && performance.now() < endMs; ) await sleep(10);
  assert.deepEqual(runs, ["a/b scheduled", "a/b scheduled", "a/b scheduled", "a/b retry"]);
  assert.deepEqual([most, failures.length, schedule.size], [1, 1, 0]);
  assert.ok(lags.every((lagMs) => lagMs >= 0));
});

test("limits: nobody waits; confirming probes have a reserve of their own", () => {
  const limits = createLimits({ inFlightMax: 4, inFlightReserved: 2, inFlightCritical: 0, inFlightPerHostMax: 1, confirmPerHostMax: 2 });
  assert.deepEqual([limits.acquire("h1", "scheduled"), limits.acquire("h1", "scheduled")], [null, "host_limit"]);
  assert.deepEqual([limits.acquire("h2", "scheduled"), limits.acquire("h3", "scheduled")], [null, "fleet_limit"]);
  assert.deepEqual(
    [limits.acquire("h1", "confirm"), limits.acquire("h1", "confirm"), limits.acquire("h2", "confirm")],
    [null, null, "fleet_limit"],
  );
  limits.release("h1", "scheduled");
  assert.deepEqual([limits.acquire("h1", "confirm"), limits.acquire("h3", "confirm")], ["host_limit", null]);
  assert.equal(limits.inFlight, 4);
});

function heartbeat(prober: string, more: Partial<ProberHeartbeat> = {}): ProberHeartbeat {
  return { prober, zone: null, startedAtMs: 1, sentAtMs: 2, endpointsOwned: 0, ready: true, ...more };
}

test("G2: only the time in which others could be heard counts until a prober settles", async (t) => {
  let shiftMs = 0;
  const begunMs = performance.now();
  const fleet = joinFleet({
    self: "p1",
    zone: null,
    startedAtMs: 1,
    policy: { heartbeatMs: 400, deadAfterMs: 1200, settleMs: 600 },
    clockMs: () => performance.now() + shiftMs,
    send: () => undefined,
    onChange: () => undefined,
    onImpostor: () => undefined,
  });
  t.after(() => fleet.stop());
  fleet.setConnected(false);
  // A busy machine may stand still between two lines: till here it could hear others too.
  const beforeMs = performance.now() - begunMs;
  // So that the next look comes soon, and finds the bus connected.
  shiftMs += 390;
  const connectedMs = performance.now();
  fleet.setConnected(true);
  while (!fleet.settled && performance.now() - connectedMs < 10_000) await sleep(5);
  const heardMs = beforeMs + performance.now() - connectedMs;
  assert.ok(fleet.settled && heardMs >= 590, `settled when it could have heard others for ${heardMs} ms`);
});

test("G1 to G3: who is silent is dead, who leaves is gone, who is not ready owns nothing, and while nobody can be heard nobody dies", async (t) => {
  let shiftMs = 0;
  let impostors = 0;
  let changes = 0;
  const sent: boolean[] = [];
  const fleet: Fleet = joinFleet({
    self: "p1",
    zone: null,
    startedAtMs: 1,
    policy: { heartbeatMs: 20, deadAfterMs: 100, settleMs: 40 },
    clockMs: () => performance.now() + shiftMs,
    send: ({ settled }) => sent.push(settled),
    onChange: () => {
      changes += 1;
    },
    onImpostor: () => {
      impostors += 1;
    },
  });
  t.after(() => fleet.stop());
  const keys = Array.from({ length: 30 }, (_, index) => `u/e${index}`);
  const owned = () => keys.filter((key) => fleet.owns(key)).length;
  assert.equal(owned(), 0, "G2: nothing before it has settled");
  const ownsAll = async (): Promise<void> => {
    // A machine that is busy puts it off: what this process was too late for counts for nothing.
    for (const endMs = performance.now() + 5000; owned() < 30 && performance.now() < endMs; ) await sleep(10);
  };
  await ownsAll();
  assert.equal(owned(), 30);
  const before = sent.length;
  fleet.hear(heartbeat("p2", { ready: false }));
  assert.deepEqual([owned(), fleet.peers()], [30, []], "G2: it keeps all until the new one is ready");
  fleet.hear(heartbeat("p2"));
  const shared = owned();
  assert.ok(shared > 5 && shared < 25);
  assert.ok(sent.length >= before);
  fleet.setConnected(false);
  await sleep(160);
  assert.equal(owned(), shared, "G3: the bus is gone");
  fleet.setConnected(true);
  // The process stood still for a minute.
  shiftMs += 60_000;
  await sleep(30);
  assert.equal(owned(), shared, "G3: stood still");
  await ownsAll();
  assert.equal(owned(), 30, "G1: silent");
  fleet.hear(heartbeat("p3"));
  assert.ok(owned() < 30);
  fleet.hear(heartbeat("p3", { leaving: true, startedAtMs: 7 }));
  assert.ok(owned() < 30, "G1: the process before it, under its name");
  fleet.hear(heartbeat("p3", { leaving: true }));
  assert.equal(owned(), 30, "G1: left");
  fleet.hear(heartbeat("p1"));
  assert.equal(impostors, 0, "its own echo");
  fleet.hear(heartbeat("p1", { startedAtMs: 7 }));
  assert.equal(impostors, 1);
  assert.ok(changes >= 5 && sent.some((settled) => !settled) && sent.at(-1) === true);
});

/** Probes that end when the test says so, on a clock that it sets. */
function probingByHand() {
  const state = { clockMs: 0 };
  const begun: { readonly timeoutMs: number; readonly end: () => void }[] = [];
  const ignore = (): void => undefined;
  let target = targetOf({});
  /** What was published, and what the keeper was given. */
  const told: Observation[] = [];
  const skipped: string[] = [];
  const probing = createProbing({
    instance: "p1",
    targets: () => new Map([[target.key, target]]),
    runner: {
      probe: (_target: unknown, { timeoutMs }: { timeoutMs: number }) =>
        new Promise<ProbeMade>((resolve) => {
          const startedAtMs = state.clockMs;
          const made = { kind: "made", result: { outcome: "ok", code: null, error: null, responseTimeMs: 1 }, startedAtMs };
          begun.push({ timeoutMs, end: () => resolve(made as ProbeMade) });
        }),
    },
    limits: createLimits(proberPolicy),
    keeper: {
      owns: () => true,
      usualMs: () => null,
      observe: (_key: string, observation: Observation) => {
        told.push(observation);
        return null;
      },
    },
    health: { last: () => null },
    observations: { add: (observation: Observation) => told.push(observation) },
    metrics: { skipped: { inc: ({ reason }: { reason: string }) => skipped.push(reason) }, countProbe: ignore },
    self: { due: ignore, began: ignore, ended: ignore, answered: ignore },
    nowMs: () => state.clockMs,
    clockMs: () => state.clockMs,
  } as unknown as ProbingOptions);
  const answered: string[] = [];
  const ask = (requestId: string, purpose: "confirm" | "requested", timeoutMs: number): Promise<void> =>
    probing.now(target, { purpose, requestId, timeoutMs, decide: true }).then((seen) => {
      answered.push(`${seen?.requestId} began ${seen?.startedAtMs}`);
    });
  /** A configuration puts another server under the name. */
  const move = (url: string): void => {
    target = targetOf({}, url);
  };
  const regular = () => probing.scheduled(target.key, { atMs: state.clockMs, purpose: "scheduled" });
  return { state, begun, answered, ask, move, regular, told, skipped, timeouts: () => begun.map(({ timeoutMs }) => timeoutMs) };
}

test("who asks is served by a probe under way that is over in time, and never waits for a longer one than its own would be", async () => {
  const { state, begun, answered, ask, timeouts } = probingByHand();
  const requested = ask("long", "requested", 5000);
  state.clockMs = 100;
  const confirm = ask("first", "confirm", 500);
  assert.deepEqual(timeouts(), [5000, 500], "a quick question does not wait for a slow one");
  state.clockMs = 400;
  const joined = [ask("second", "confirm", 500), ask("again", "requested", 5000), ask("nearly", "confirm", 480)];
  assert.deepEqual(timeouts(), [5000, 500], "each is served by the one that is as patient");
  begun[1]?.end();
  await Promise.all([confirm, joined[0], joined[2]]);
  assert.deepEqual(answered.sort(), ["first began 100", "nearly began 100", "second began 100"]);
  state.clockMs = 4700;
  const late = ask("late", "confirm", 500);
  assert.deepEqual(timeouts(), [5000, 500, 500], "what began long before the question is no answer to it");
  for (const { end } of begun) end();
  await Promise.all([requested, joined[1], late]);
  assert.deepEqual(answered.slice(3).sort(), ["again began 0", "late began 4700", "long began 0"]);
  const afterwards = ask("afterwards", "requested", 5000);
  assert.equal(begun.length, 4, "what is over serves nobody");
  begun[3]?.end();
  await afterwards;
});

test("what a probe finds after the configuration has put another server under the name counts for nobody, and proves nothing of it", async () => {
  const { state, begun, answered, ask, move, regular, told, skipped } = probingByHand();
  const [scheduled, old] = [regular(), ask("of the old one", "requested", 1000)];
  const joined = ask("of the old one too", "requested", 1000);
  assert.equal(begun.length, 2);
  move("http://127.0.0.1:10");
  state.clockMs = 100;
  const proof = ask("of the new one", "requested", 900);
  assert.equal(begun.length, 3, "a probe of its own");
  begun[0]?.end();
  begun[1]?.end();
  assert.deepEqual(await scheduled, { atMs: 100, purpose: "scheduled" }, "the new one is probed at once");
  await Promise.all([old, joined]);
  assert.deepEqual([told, answered], [[], Array(2).fill("undefined began undefined")]);
  assert.deepEqual(skipped, Array(3).fill("reconfigured"));
  begun[2]?.end();
  await proof;
  assert.deepEqual(answered.slice(2), ["of the new one began 100"]);
  assert.deepEqual(
    told.map(({ requestId }) => requestId),
    Array(2).fill("of the new one"),
  );
});

test("a regular probe: its place is that of a critical upstream or not, what was due meanwhile is counted as overrun, and Retry-After puts the next one off", async () => {
  const clock = { nowMs: 1_800_000_000_000 };
  const places: unknown[] = [];
  const skipped: unknown[] = [];
  const ignore = (): void => undefined;
  let found: object = { outcome: "ok", retryAfterMs: null };
  let tookMs = 0;
  const targets = new Map(
    [true, false].map((critical) => {
      const target = targetOf({ interval_ms: 1000 }, undefined, { upstream: { critical } });
      return [String(critical), { ...target, key: String(critical) }];
    }),
  );
  const probing = createProbing({
    instance: "p1",
    targets: () => targets,
    runner: {
      probe: async () => {
        const startedAtMs = clock.nowMs;
        clock.nowMs += tookMs;
        return { kind: "made", result: { code: null, error: null, responseTimeMs: 1, ...found }, startedAtMs };
      },
    },
    limits: {
      acquire: (_host: string, lane: string, critical: boolean) => {
        places.push([lane, critical]);
        return null;
      },
      release: ignore,
    },
    keeper: { owns: () => true, usualMs: () => null, observe: () => ({ state: { status: "healthy", okRun: 3, failRun: 0 } }) },
    health: { last: () => null },
    observations: { add: ignore },
    metrics: { skipped: { inc: (labels: object, count: number) => skipped.push([labels, count]) }, countProbe: ignore },
    self: { due: ignore, began: ignore, ended: ignore, answered: ignore },
    nowMs: () => clock.nowMs,
    clockMs: () => clock.nowMs,
  } as unknown as ProbingOptions);
  const probe = (key: "true" | "false" = "true") => probing.scheduled(key, { atMs: clock.nowMs, purpose: "scheduled" });
  await probe("true");
  await probe("false");
  assert.deepEqual(places, [
    ["scheduled", true],
    ["scheduled", false],
  ]);
  assert.deepEqual(skipped, []);
  tookMs = 5000;
  await probe();
  assert.deepEqual(skipped, [[{ reason: "overrun" }, 5]]);
  tookMs = 0;
  found = { outcome: "soft", retryAfterMs: 60_000 };
  assert.equal((await probe())?.atMs, clock.nowMs + 1000, "an interval, the most that it may be put off");
});

test("no more questions are asked at once than the limit, and an isolated prober, whose word is worth nothing, asks none", async () => {
  let isolated = false;
  const asked: ((words: Observation[]) => void)[] = [];
  const questions = createQuestions({
    instance: "p1",
    policy: { questionsMax: 2, answerMarginMs: 1 },
    targets: () => new Map(),
    probing: { confirmTimeoutMs: () => 10, now: async () => null, scheduled: async () => null },
    performer: { askPeers: () => new Promise<Observation[]>((resolve) => asked.push(resolve)) } as unknown as Performer,
    peers: () => ["p2"],
    zoneOf: () => null,
    isolated: () => isolated,
  });
  const target = targetOf({});
  const first = [questions.ask(target), questions.ask(target)];
  assert.equal(await questions.ask(target), null, "two are under way");
  for (const answer of asked) answer([]);
  assert.deepEqual(await Promise.all(first), Array(2).fill({ asked: 2, votes: [] }));
  const next = questions.ask(target);
  asked.at(-1)?.([]);
  assert.deepEqual(await next, { asked: 2, votes: [] });
  isolated = true;
  assert.equal(await questions.ask(target), null);
  assert.equal(asked.length, 3);
});

test("a reply of who was not asked takes nobody's place, and who was asked is waited for no longer than until all have answered", async (t) => {
  const broker = memoryBroker();
  const bus = broker.connect({ instance: "test" });
  await eventually(() => bus.status.kind === "connected", { what: "the bus is there" });
  await bus.ensureStreams(streams, { replicas: 1 });
  const target = targetOf({});
  const buses = [bus];
  t.after(() => Promise.all(buses.map((one) => one.close())));
  /** A prober that sees the endpoint fail, after so long. */
  const prober = (name: string, peers: readonly string[], afterMs: number) => {
    const own = broker.connect({ instance: name });
    buses.push(own);
    const performer = createPerformer(
      testKit<ProberEnvironment>({ service: "prober", bus: own, instance: name, config: {} }),
      proberPolicy,
      1,
    );
    const now: Probing["now"] = async (_target, { requestId }) => {
      await sleep(afterMs);
      const seen = { outcome: "hard", code: "http_5xx", error: "HTTP 503", httpStatus: 503 } as const;
      return { ...observation("one"), upstream: "up", observer: name, purpose: "confirm", requestId, ...seen };
    };
    const questions = createQuestions({
      instance: name,
      policy: { questionsMax: 1, answerMarginMs: 5000 },
      targets: () => new Map([[target.key, target]]),
      probing: { confirmTimeoutMs: () => 500, now, scheduled: async () => null },
      performer,
      peers: () => peers,
      zoneOf: () => null,
      isolated: () => false,
    });
    own.subscribe("probe.requested", (event, respond) => void questions.answer(event, respond));
    return questions;
  };
  const asker = prober("p1", ["p2"], 1);
  prober("p2", [], 120);
  prober("p3", [], 10);
  await eventually(() => buses.every(({ status }) => status.kind === "connected"), { what: "all are there" });
  const startedMs = performance.now();
  const word = await asker.ask(target);
  assert.deepEqual([word?.asked, word?.votes.map(({ observer }) => observer)], [2, ["p1", "p2"]]);
  assert.ok(performance.now() - startedMs < patientMs(2500), "not the whole time that it may take");
});
