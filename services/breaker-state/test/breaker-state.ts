import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { type Bus, connectBus, memoryBroker } from "@mcp-failover/bus";
import { canonicalJson, type Event, latencyBucketsMs, makeEvent, type OutcomeClass, parseTopology, streams } from "@mcp-failover/contracts";
import { type BreakerInput, decideBreaker } from "@mcp-failover/domain";
import { testKit } from "@mcp-failover/service-kit/testing";
import { eventually, startNats } from "@mcp-failover/testkit";
import { startBreakerState } from "../src/wiring.ts";

const { topology, hash } = parseTopology(
  `upstreams:
  docs:
    kind: http
    breaker: { reset_timeout_ms: 300 }
    endpoints:
      - { name: primary, url: "http://127.0.0.1:1", tier: 0 }
      - { name: secondary, url: "http://127.0.0.1:2", tier: 1 }
`,
  { file: "failover.yaml", env: {} },
);

let count = 0;
const envelope = (instance: string) => {
  count += 1;
  return { id: `${instance}-${count}`, instance, timeMs: Date.now() };
};

export async function applyConfiguration(bus: Bus): Promise<void> {
  const data = {
    version: 1,
    hash,
    fileHash: hash,
    timestamp: new Date().toISOString(),
    by: { kind: "operator" as const, id: "ada" },
    reason: "test",
  };
  const event = makeEvent({
    type: "config.applied",
    keys: [],
    service: "bootstrap",
    ...envelope("test"),
    data: { ...data, environment: "development", topology },
  });
  assert.equal((await bus.appendFenced(event, 0)).outcome, "won");
}
export async function traffic(
  bus: Bus,
  router: string,
  counts: { ok?: number; hard?: number },
  endpoint = "primary",
  breakerGeneration?: number,
): Promise<void> {
  const { ok = 0, hard = 0 } = counts;
  const item = {
    upstream: "docs",
    endpoint,
    ...(breakerGeneration === undefined ? {} : { breakerGeneration }),
    ok,
    hard,
    soft: 0,
    auth: 0,
    caller: 0,
    inFlight: 0,
    oldestInFlightMs: 0,
    hardRunHead: ok === 0 ? hard : 0,
    hardRunTail: hard,
    lastCode: hard > 0 ? ("refused" as const) : null,
    lastHardAtMs: null,
    lastOkAtMs: null,
    latency: [ok + hard, ...latencyBucketsMs.map(() => 0)],
    latencyMsSum: ok + hard,
    latencyMsMax: 1,
  };
  const nowMs = Date.now();
  const data = { router, fromMs: nowMs - 1, toMs: nowMs, endpoints: ok + hard > 0 ? [item] : [], tools: [], routes: {}, rollbacks: {} };
  await bus.append(makeEvent({ type: "traffic.observed", keys: [router], service: "router", ...envelope(router), data }));
}
async function probe(bus: Bus, prober: string, outcome: OutcomeClass, endpoint = "primary"): Promise<void> {
  const seen = {
    upstream: "docs",
    endpoint,
    observer: prober,
    purpose: "scheduled" as const,
    requestId: null,
    startedAtMs: Date.now(),
    responseTimeMs: 1,
    outcome,
    code: outcome === "hard" ? ("refused" as const) : null,
    error: null,
    httpStatus: null,
    era: null,
  };
  const data = { observer: prober, observations: [seen] };
  await bus.append(makeEvent({ type: "probe.observed", keys: [prober], service: "prober", ...envelope(prober), data }));
}

type Changed = Event<"breaker.changed">;
export async function changesOf(bus: Bus, filter = "breaker.changed.>"): Promise<Changed[]> {
  const found: Changed[] = [];
  for await (const { content } of bus.read("AUDIT", { filter })) {
    if (content.kind === "event" && content.event.type === "breaker.changed") found.push(content.event);
  }
  return found;
}
/** Of the endpoint that a test is about: old evidence may open another one meanwhile, once what contradicted it is not fresh any more. */
const ofPrimary = (bus: Bus): Promise<Changed[]> => changesOf(bus, "breaker.changed.docs.primary");
export const until = <T>(what: string, check: () => Promise<T | null | false>, withinMs = 8000) =>
  eventually(check, { what, withinMs, everyMs: 40 });
export const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

export async function startInstance(bus: Bus, instance: string) {
  const kit = testKit({ service: "breaker-state", bus, instance });
  const running = await startBreakerState(kit);
  const served = await bus.serve({ name: "breaker-state", instance, version: "0.1.0", description: "", handlers: running.handlers ?? {} });
  await until(`${instance} has read the log`, async () => kit.readiness().conditions["log"]?.ok ?? false);
  return {
    kit,
    handlers: running.handlers ?? {},
    stop: async () => {
      await served.stop();
      await running.stop?.();
    },
  };
}

interface Adapter {
  open(): Promise<{ connect(): Promise<Bus>; close(): Promise<void> }>;
}
export const memory: Adapter = {
  async open() {
    const broker = memoryBroker();
    const buses: Bus[] = [];
    return {
      connect: async () => {
        const bus = broker.connect();
        buses.push(bus);
        return bus;
      },
      close: async () => {
        await Promise.all(buses.map((bus) => bus.close()));
      },
    };
  },
};
export async function connected(servers: string): Promise<Bus> {
  const bus = connectBus({ servers, name: "test", instance: "test" });
  await until("connected", async () => bus.status.kind === "connected");
  return bus;
}
export const nats: Adapter = {
  async open() {
    const server = await startNats();
    const buses: Bus[] = [];
    const connect = async () => {
      const bus = await connected(server.url);
      buses.push(bus);
      return bus;
    };
    await (await connect()).ensureStreams(streams, { replicas: 1 });
    return {
      connect,
      close: async () => {
        await Promise.all(buses.map((bus) => bus.close()));
        await server.stop();
      },
    };
  },
};

/** To be called in a suite: the behaviour that every adapter of the bus has to give. */
export function breakerStateBehaviour(adapter: Adapter): void {
  let log: Awaited<ReturnType<Adapter["open"]>>;
  let bus: Bus;
  let instances: Awaited<ReturnType<typeof startInstance>>[];
  before(async () => {
    log = await adapter.open();
    bus = await log.connect();
    await applyConfiguration(bus);
    instances = await Promise.all(["one", "two"].map(async (name) => startInstance(await log.connect(), `breaker-state-${name}`)));
  });
  after(async () => {
    await Promise.all(instances.map((instance) => instance.stop()));
    await log.close();
  });

  test("healthy traffic changes nothing, and neither do failures of an endpoint that the configuration does not name: nothing is said", async () => {
    for (let round = 0; round < 6; round += 1) {
      await traffic(bus, "router-1", { ok: 20 });
      await traffic(bus, "router-1", { ok: 20 }, "secondary");
      await probe(bus, "prober-1", "ok");
      await traffic(bus, "router-1", { hard: 9 }, "tertiary");
      await sleep(250);
    }
    assert.deepEqual(await changesOf(bus), []);
  });

  test("one router's failures, however many, do not open it while a prober has a fresh answer, older than they or newer", async () => {
    await probe(bus, "prober-1", "ok", "secondary");
    await traffic(bus, "router-1", { hard: 9 }, "secondary");
    await sleep(300);
    assert.deepEqual(await changesOf(bus, "breaker.changed.docs.secondary"), [], "the answer is older");
    await probe(bus, "prober-1", "ok", "secondary");
    for (let second = 0; second < 4; second += 1) {
      await traffic(bus, "router-1", { ok: 1, hard: 99 }, "secondary");
      await sleep(1000);
    }
    assert.deepEqual(await changesOf(bus, "breaker.changed.docs.secondary"), [], "nor does their ratio");
  });

  test("two instances say each change once: open, half-open with permits, closed; every one can be taken again from its certificate", async () => {
    // After a second's own look and well before the next, so that a decision that waited for one would show.
    await sleep(1400 - (Date.now() % 1000));
    await traffic(bus, "router-1", { hard: 5 });
    await traffic(bus, "router-2", { hard: 5 });
    const opened = await until("open", async () => (await ofPrimary(bus))[0] ?? null);
    const seen = await bus.lastOf("SIGNALS", "traffic.observed.router-2");
    assert.ok(opened.data.certificate.nowMs - (seen?.timeMs ?? 0) < 500, "a failure is looked at as it comes");
    const halfOpen = await until("half-open", async () => (await ofPrimary(bus))[1] ?? null);
    assert.deepEqual(
      halfOpen.data.state.permits.map(({ router, calls }) => ({ router, calls })),
      [
        { router: "router-1", calls: 5 },
        { router: "router-2", calls: 5 },
      ],
    );
    await sleep(1400 - (Date.now() % 1000));
    await probe(bus, "prober-1", "ok");
    await traffic(bus, "router-1", { ok: 2 }, "primary", 2);
    const closed = await until("closed", async () => (await ofPrimary(bus))[2] ?? null);
    const answered = await bus.lastOf("SIGNALS", "traffic.observed.router-1");
    assert.ok(
      closed.data.certificate.nowMs - (answered?.timeMs ?? 0) < 500,
      "callers wait for it: what it answers is looked at as it comes",
    );
    await sleep(1300);
    const changes = await ofPrimary(bus);
    assert.deepEqual(
      changes.map(({ data }) => [data.previousStatus, data.status, data.state.generation, data.certificate.rule]),
      [
        ["closed", "open", 1, "consecutive_failures"],
        ["open", "half_open", 2, "open_time_over"],
        ["half_open", "closed", 3, "half_open_succeeded"],
      ],
    );
    for (const { data } of changes) {
      const again = decideBreaker(data.certificate.input as BreakerInput);
      assert.equal(canonicalJson(again.state), canonicalJson(data.state));
      assert.equal(again.rule, data.certificate.rule);
      assert.equal(data.certificate.decider, "decideBreaker");
    }
  });

  test("the failures that opened it do not open it again, and late ones of an older generation do not either", async () => {
    const before = (await ofPrimary(bus)).length;
    await traffic(bus, "router-1", { hard: 9 }, "primary", 0);
    await sleep(1300);
    assert.equal((await ofPrimary(bus)).length, before);
  });

  test("after a restart the state goes on from the log, and the windows from SIGNALS", async () => {
    await Promise.all(instances.map((instance) => instance.stop()));
    const before = (await ofPrimary(bus)).length;
    // Its answer of a moment ago would contradict a single router.
    await probe(bus, "prober-1", "hard");
    await traffic(bus, "router-1", { hard: 3 }, "primary", 3);
    await traffic(bus, "router-1", { hard: 1 }, "primary", 3);
    instances = [await startInstance(await log.connect(), "breaker-state-three")];
    await sleep(300);
    assert.equal((await ofPrimary(bus)).length, before, `four in a row: ${JSON.stringify((await ofPrimary(bus))[before]?.data)}`);
    await traffic(bus, "router-1", { hard: 1 }, "primary", 3);
    const opened = await until("open", async () => (await ofPrimary(bus))[before] ?? null);
    assert.deepEqual([opened.data.previousStatus, opened.data.status, opened.data.state.generation], ["closed", "open", 4]);
  });
}
