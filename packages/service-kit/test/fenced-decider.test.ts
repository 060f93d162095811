import assert from "node:assert/strict";
import { after, test } from "node:test";
import { type Bus, connectBus, memoryBroker } from "@mcp-failover/bus";
import { giveUpConnection, jetStreamApi, memorySeams } from "@mcp-failover/bus/internal";
import { type DataOf, type Event, makeEvent, type NewEvent, streams } from "@mcp-failover/contracts";
import { eventually, startNats } from "@mcp-failover/testkit";
import { compareClocks } from "../src/decider/clock-guard.ts";
import { type FencedDecider, type FencedDeciderOptions, startFencedDecider } from "../src/decider/fenced-decider.ts";
import { testKit } from "../src/testing.ts";

const by = { kind: "service", id: "test" } as const;
const cleanups: (() => Promise<void>)[] = [];
after(async () => {
  for (const cleanup of cleanups.reverse()) await cleanup();
});

const started = (generation: number): DataOf<"log.started"> => ({ generation, timestamp: new Date().toISOString(), by, reason: "test" });
/** Decided on what is folded now. */
const say = (decider: FencedDecider, generation: number) =>
  decider.publish("log.started", [], started(generation), { expectedSeq: decider.foldedSeq("log.started", []) });
let ids = 0;
function signal(router: string): Event<"traffic.observed"> {
  ids += 1;
  const data = { router, fromMs: 1, toMs: 2, endpoints: [], tools: [], routes: {}, rollbacks: {} };
  const from = { type: "traffic.observed", keys: [router], data, id: `s${ids}`, service: "router", instance: "t", timeMs: Date.now() };
  return makeEvent(from as NewEvent<"traffic.observed">);
}

/** One instance that folds what it hears into lists. */
async function instance(bus: Bus, name: string, more: Partial<FencedDeciderOptions> & { nowMs?: () => number } = {}) {
  const generations: number[] = [];
  const signals: string[] = [];
  const evaluated: (string | null)[] = [];
  const { nowMs, ...options } = more;
  const kit = testKit({ service: "failover-controller", bus, instance: name, ...(nowMs === undefined ? {} : { nowMs }) });
  const decider = startFencedDecider(kit, {
    foldAudit: (event) => {
      if (event.type === "log.started") generations.push(event.data.generation);
    },
    foldSignal: (event) => {
      if (event.type === "traffic.observed") signals.push(event.data.router);
    },
    evaluate: (event) => evaluated.push(event?.type ?? null),
    signalsBackMs: 60_000,
    clockGapMs: 2000,
    tiltMs: 30_000,
    ...options,
  });
  cleanups.push(() => decider.stop());
  const lost = async (): Promise<number> => {
    const values = await kit.registry.getSingleMetric("mcpf_lost_races_total")?.get();
    return (values?.values ?? []).reduce((all, { value }) => all + value, 0);
  };
  return { kit, decider, generations, signals, evaluated, lost };
}
const until = (holds: () => boolean | Promise<boolean>, withinMs = 3000) => eventually(holds, { withinMs, everyMs: 10 });

/** A real server whose streams can be lost, and connections to it. */
async function natsServer() {
  const server = await startNats();
  cleanups.push(() => server.stop());
  const connect = (name: string): Bus => {
    const bus = connectBus({ servers: server.url, name, instance: name });
    cleanups.push(() => bus.close());
    return bus;
  };
  const admin = connect("admin");
  await until(() => admin.status.kind === "connected", 10_000);
  await admin.ensureStreams(streams, { replicas: 1 });
  return {
    connect,
    admin,
    /** As when a volume is lost and bootstrap runs again. */
    async loseStream(name: "AUDIT" | "SIGNALS"): Promise<void> {
      await jetStreamApi(admin, `STREAM.DELETE.${name}`);
      await admin.ensureStreams(streams, { replicas: 1 });
    },
  };
}

test("D1, D2: of two that publish on what both have folded one wins, the other folds what won, and each event is folded once", async () => {
  const broker = memoryBroker();
  const a = await instance(broker.connect(), "a");
  const b = await instance(broker.connect(), "b");
  await until(() => a.decider.settled && b.decider.settled);
  const outcomes = await Promise.all([a, b].map(({ decider }) => say(decider, 1)));
  assert.deepEqual(outcomes.map(({ outcome }) => outcome).sort(), ["lost", "won"]);
  assert.equal((await a.lost()) + (await b.lost()), 1);
  // Whoever lost knows at once what stands there, so that its next decision is on the state in force.
  assert.deepEqual([a.generations, b.generations], [[1], [1]]);
  assert.equal((await say(b.decider, 2)).outcome, "won");
  await until(() => a.generations.length === 2);
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.deepEqual(
    [a.generations, b.generations],
    [
      [1, 2],
      [1, 2],
    ],
  );
});

test("D1: a decision loses to one that was folded after it was taken, however long it is on its way before it is published", async () => {
  const broker = memoryBroker();
  const a = await instance(broker.connect(), "a");
  const b = await instance(broker.connect(), "b");
  await until(() => a.decider.settled && b.decider.settled);
  const expectedSeq = a.decider.foldedSeq("log.started", []);
  assert.equal((await say(b.decider, 1)).outcome, "won");
  await until(() => a.generations.length === 1);
  assert.deepEqual(await a.decider.publish("log.started", [], started(2), { expectedSeq }), { outcome: "lost" });
  assert.equal(await a.lost(), 1);
  assert.equal((await say(a.decider, 3)).outcome, "won", "decided anew, on what it had lost to");
  await until(() => b.generations.length === 2);
  assert.deepEqual(b.generations, [1, 3]);
});

test("D1: a publish whose answer was lost is settled, not repeated as another decision", async () => {
  const bus = memoryBroker().connect();
  const { decider, generations } = await instance(bus, "a");
  await until(() => decider.settled);
  memorySeams(bus).losePublishes(1, { stored: true });
  assert.equal((await say(decider, 1)).outcome, "won");
  memorySeams(bus).losePublishes(1, { stored: false });
  assert.equal((await say(decider, 2)).outcome, "won");
  assert.equal((await bus.info("AUDIT")).messages, 2);
  assert.deepEqual(generations, [1, 2]);
});

test("D6: when AUDIT is lost and made again, its events are folded from its start, and decisions are stored on it again", async () => {
  const { connect, admin, loseStream } = await natsServer();
  const { decider, generations, kit } = await instance(connect("a"), "a");
  await until(() => decider.settled, 10_000);
  for (let generation = 1; generation <= 5; generation += 1) {
    assert.equal((await say(decider, generation)).outcome, "won");
  }
  await loseStream("AUDIT");
  const { kit: another } = await instance(admin, "b");
  await admin.appendFenced(another.event("log.started", [], started(7)), 0);
  await until(() => generations.at(-1) === 7, 15_000);
  await until(() => decider.settled && kit.readiness().conditions["log"]?.ok === true, 10_000);
  const outcome = await say(decider, 8);
  assert.deepEqual([outcome.outcome, outcome.outcome === "won" && outcome.seq], ["won", 2]);
  assert.deepEqual(decider.folded().AUDIT, { first: 1, last: 2 });
  assert.deepEqual(generations, [1, 2, 3, 4, 5, 7, 8]);
});

test("D6: who loses to an older sequence than it has folded decides on that, before it is told that the log is another one", async () => {
  const [lost, restored] = [memoryBroker(), memoryBroker()];
  const [bus, store] = [lost.connect(), restored.connect()];
  const { decider, generations, kit } = await instance(Object.create(bus, { appendFenced: { get: () => fenced } }), "a");
  let fenced: Bus["appendFenced"] = (event, seq, options) => bus.appendFenced(event, seq, options);
  await until(() => decider.settled);
  for (let generation = 1; generation <= 3; generation += 1) await say(decider, generation);
  // From here on what is stored goes to a log restored from a backup, which ends before what was folded.
  fenced = (event, seq, options) => store.appendFenced(event, seq, options);
  await store.append(kit.event("log.started", [], started(2)));
  assert.deepEqual(await say(decider, 4), { outcome: "lost" });
  assert.deepEqual(generations, [1, 2, 3, 2], "the next decision is on what stands there");
  assert.equal((await say(decider, 5)).outcome, "won");
  // A log with nothing on the subject, likewise.
  const empty = memoryBroker().connect();
  fenced = (event, seq, options) => empty.appendFenced(event, seq, options);
  assert.deepEqual(await say(decider, 6), { outcome: "lost" });
  assert.equal((await say(decider, 7)).outcome, "won");
});

test("D6: when SIGNALS is lost and made again, what comes is evidence, however far the lost one had counted", async () => {
  const { connect, admin, loseStream } = await natsServer();
  const bus = connect("a");
  const { decider, signals } = await instance(bus, "a");
  await until(() => decider.settled, 10_000);
  for (let count = 1; count <= 5; count += 1) await admin.append(signal("old"));
  await until(() => signals.length === 5, 10_000);
  await giveUpConnection(bus);
  await until(() => decider.settled && decider.clock.freshAfterSeq === 5, 15_000);
  await loseStream("SIGNALS");
  await until(() => decider.settled && decider.clock.freshAfterSeq === 0, 15_000);
  await admin.append(signal("new"));
  await until(() => signals.at(-1) === "new", 10_000);
  assert.deepEqual(decider.folded().SIGNALS, { first: 1, last: 1 });
});

test("D3: nothing is evaluated before the past is prepared, and a preparation that failed is tried again", async () => {
  const bus = memoryBroker().connect();
  let tries = 0;
  let finish = (): void => assert.fail("not preparing yet");
  const prepare = async (): Promise<void> => {
    tries += 1;
    if (tries === 1) throw new Error("the log is out of reach");
    await new Promise<void>((resolve) => {
      finish = resolve;
    });
  };
  const { kit, decider, evaluated } = await instance(bus, "a", { prepare });
  await until(() => tries === 2);
  await bus.append(signal("r1"));
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.deepEqual([decider.settled, evaluated, kit.readiness().conditions["log"]?.ok], [false, [], false]);
  finish();
  await until(() => decider.settled);
  assert.deepEqual([evaluated, kit.readiness().conditions["log"]?.ok], [[null], true]);
});

test("D4: while the bus is away nothing may be decided; when it is back, what SIGNALS held until then is no evidence", async () => {
  const broker = memoryBroker();
  const bus = broker.connect();
  const others = broker.connect();
  const { decider, signals } = await instance(bus, "a");
  await until(() => decider.settled);
  await others.append(signal("before"));
  await until(() => signals.length === 1);
  assert.equal(decider.clock.freshAfterSeq, 0, "a start is no gap: what was read is as fresh as its time");
  memorySeams(bus).cut();
  assert.equal(decider.settled, false);
  await others.append(signal("meanwhile"));
  memorySeams(bus).restore();
  await until(() => decider.settled);
  assert.equal(decider.clock.freshAfterSeq, 2);
  assert.equal(decider.clock.tilted, false, "a disconnect is no jump of the clock");
});

test("D3: when the bus is back nothing is evaluated before all is folded that was decided meanwhile", async () => {
  const broker = memoryBroker();
  const bus = broker.connect();
  const others = broker.connect();
  const { kit: other } = await instance(others, "b");
  const foldedAt: number[] = [];
  const { decider, generations, kit } = await instance(bus, "a", { evaluate: () => foldedAt.push(generations.length) });
  await until(() => decider.settled);
  memorySeams(bus).cut();
  for (let generation = 1; generation <= 200; generation += 1) await others.append(other.event("log.started", [], started(generation)));
  foldedAt.length = 0;
  const settledAt = new Promise<number>((resolve) => {
    const look = (): unknown => (decider.settled ? resolve(generations.length) : setImmediate(look));
    look();
  });
  memorySeams(bus).restore();
  assert.equal(await settledAt, 200);
  await until(() => foldedAt.length > 0);
  assert.equal(foldedAt[0], 200);
  assert.equal(kit.readiness().conditions["log"]?.ok, true);
});

test("D3: a log whose end was taken out while the bus was away is read to its end all the same", async () => {
  const { connect, admin } = await natsServer();
  const bus = connect("a");
  const { decider, kit } = await instance(bus, "a");
  await until(() => decider.settled, 10_000);
  for (let generation = 1; generation <= 3; generation += 1) assert.equal((await say(decider, generation)).outcome, "won");
  const seq = (await admin.append(kit.event("log.started", [], started(4)))).seq;
  let gone = false;
  const taken = kit.bus.onStatus(({ kind }) => {
    gone ||= kind === "disconnected";
  });
  await giveUpConnection(bus);
  await until(() => gone);
  const last = (await admin.append(kit.event("log.started", [], started(5)))).seq;
  await jetStreamApi(admin, "STREAM.MSG.DELETE.AUDIT", { seq: last });
  taken();
  await until(() => decider.settled, 15_000);
  assert.deepEqual([seq, last], [4, 5]);
});

test("D4: after a jump of the clock nothing automatic may happen for a while", async () => {
  let skewMs = 0;
  const nowMs = (): number => Date.now() + skewMs;
  const { decider } = await instance(memoryBroker({ nowMs }).connect(), "a", { nowMs, tiltMs: 600 });
  await until(() => decider.settled);
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(decider.clock.tilted, false);
  skewMs = -3_600_000;
  await until(() => decider.clock.tilted);
  await until(() => !decider.clock.tilted);
});

test("the clocks are compared: set back or forward is a jump, both standing still is a pause, a late timer is neither", () => {
  const at = (wallMs: number, monotonicMs: number) => ({ wallMs, monotonicMs });
  const before = at(1_000_000, 5000);
  assert.equal(compareClocks(before, at(1_000_250, 5250), 2000), "even");
  assert.equal(compareClocks(before, at(1_001_900, 6900), 2000), "even");
  assert.equal(compareClocks(before, at(1_002_000, 7000), 2000), "paused");
  assert.equal(compareClocks(before, at(1_002_250, 5250), 2000), "jumped");
  assert.equal(compareClocks(before, at(997_000, 5250), 2000), "jumped");
  assert.equal(compareClocks(before, at(1_060_000, 7000), 2000), "jumped");
});

test("D5: a decision is for the time of what was folded last, or for the second that began since", async () => {
  let storeMs = 1_700_000_000_400;
  const bus = memoryBroker({ nowMs: () => storeMs }).connect();
  const { decider, signals } = await instance(bus, "a", { nowMs: () => 1_700_000_000_900 });
  await until(() => decider.settled);
  assert.equal(decider.decisionMs(), 1_700_000_000_000);
  await bus.append(signal("r1"));
  await until(() => signals.length === 1);
  assert.equal(decider.decisionMs(), storeMs);
  storeMs += 5000;
  await bus.append(signal("r1"));
  await until(() => signals.length === 2);
  assert.equal(decider.decisionMs(), storeMs);
});

test("D5: an own event that won is folded at the store's time, however wrong the clock of this machine is", async () => {
  const storeMs = 1_700_000_000_400;
  const bus = memoryBroker({ nowMs: () => storeMs }).connect();
  const at: number[] = [];
  const foldAudit = (_event: Event, { timeMs }: { timeMs: number }): number => at.push(timeMs);
  // AUDIT comes late: an own event is folded before it is followed.
  const published = Promise.withResolvers<void>();
  const follow: Bus["follow"] = (stream, options, handler) =>
    bus.follow(stream, options, async (stored) => {
      if (stream === "AUDIT") await published.promise;
      await handler(stored);
    });
  const late: Bus = Object.create(bus, { follow: { value: follow } });
  const { decider, signals } = await instance(late, "a", { nowMs: () => storeMs - 3_600_000, foldAudit });
  await until(() => decider.settled);
  await bus.append(signal("r1"));
  await until(() => signals.length === 1);
  assert.equal((await say(decider, 1)).outcome, "won");
  published.resolve();
  assert.equal(at.length, 1);
  // The store's clock is known from what was heard, and runs on here; this store's stands still.
  assert.ok(Math.abs((at[0] ?? 0) - storeMs) < 1_800_000, `${(at[0] ?? 0) - storeMs} ms off`);
});

test("D5: a start on a machine with a wrong clock decides for no time of that clock, and reads all of SIGNALS that is evidence", async () => {
  for (const skewMs of [900_000, -900_000]) {
    const broker = memoryBroker();
    const bus = broker.connect();
    await bus.append(signal("before"));
    const decidedMs: number[] = [];
    const { kit, decider, signals } = await instance(broker.connect(), "a", {
      nowMs: () => Date.now() + skewMs,
      evaluate: () => decidedMs.push(decider.decisionMs()),
    });
    await until(() => decider.settled && kit.readiness().conditions["log"]?.ok === true);
    assert.deepEqual(signals, ["before"]);
    await until(async () => {
      await bus.append(signal("live"));
      return decidedMs.length > 5;
    });
    for (const atMs of decidedMs) assert.ok(Math.abs(atMs - Date.now()) < 450_000, `decided for ${atMs - Date.now()} ms from now`);
  }
});

test("D5: where nothing is said after a start, no second is judged before what was read of SIGNALS is too old to be evidence", async () => {
  let storeMs = 1_700_000_000_400;
  const broker = memoryBroker({ nowMs: () => storeMs });
  const bus = broker.connect();
  await bus.append(signal("before"));
  const evaluatedAtMs: number[] = [];
  const { decider } = await instance(broker.connect(), "a", {
    signalsBackMs: 1500,
    evaluate: () => evaluatedAtMs.push(decider.decisionMs()),
  });
  storeMs += 7_200_000;
  await until(() => evaluatedAtMs.length > 0, 20_000);
  assert.ok((evaluatedAtMs[0] ?? 0) >= 1_700_000_001_000, "by the last message's time and what has passed since");
  assert.ok((evaluatedAtMs[0] ?? 0) < 1_700_001_000_000, "not by the clock of this machine");
  assert.equal(decider.heardClock, false);
  await bus.append(signal("live"));
  await until(() => decider.decisionMs() >= storeMs);
});
