import type { TestContext } from "node:test";
import { type Bus, memoryBroker, type Stored } from "@mcp-failover/bus";
import {
  type HealthChanged,
  hashOf,
  makeEvent,
  type Observation,
  type ProbeObserved,
  streams,
  subjectFor,
  topology,
} from "@mcp-failover/contracts";
import { type ProberPolicy, proberPolicy } from "@mcp-failover/domain";
import type { Kit, Running } from "@mcp-failover/service-kit";
import { testKit } from "@mcp-failover/service-kit/testing";
import { eventually } from "@mcp-failover/testkit";
import type { ProberEnvironment } from "../src/config.ts";
import { startProber } from "../src/wiring.ts";
import { answers, type FakeServer, fakeServer } from "./servers.ts";

/** Probers of one fleet in this process, on the memory bus unless another is given, with the short times of a test. */
export interface MemoryFleet {
  readonly bus: Bus;
  configure(upstreams: Record<string, unknown>, more?: Record<string, unknown>): Promise<void>;
  start(
    instance: string,
    options?: {
      secrets?: Record<string, string>;
      policy?: Partial<ProberPolicy>;
      deaf?: boolean;
      config?: ProberEnvironment;
      /** Whether it reaches a reference, or the address of a target, when it tries; asked each time. */
      reaches?: (url: string) => boolean;
      /** By how much its machine's clock is wrong; asked each time. */
      clockAheadMs?: () => number;
    },
  ): Promise<MemoryProber>;
  /** All that was said about an endpoint's health, oldest first. */
  health(
    upstream: string,
    endpoint: string,
  ): Promise<readonly { readonly seq: number; readonly id: string; readonly data: HealthChanged }[]>;
  observations(): Promise<readonly Observation[]>;
  stop(): Promise<void>;
}
interface MemoryProber {
  readonly kit: Kit<ProberEnvironment>;
  readonly bus: Bus;
  stop(): Promise<void>;
  metric(name: string): Promise<number>;
}

const quick: Partial<ProberPolicy> = {
  heartbeatMs: 60,
  deadAfterMs: 200,
  settleMs: 120,
  batchMs: 30,
  referenceEveryMs: 300,
  referenceFailingMs: 100,
  answerProvesMs: 2500,
};

async function fleetOn(connect: (instance: string) => Bus): Promise<MemoryFleet> {
  const bus = connect("test");
  await eventually(() => bus.status.kind === "connected", { what: "the bus is there" });
  await bus.ensureStreams(streams, { replicas: 1 });
  const running = new Set<Running>();
  const connections = new Set<Bus>([bus]);
  let version = 0;

  async function all(stream: "AUDIT" | "SIGNALS", filter: string): Promise<Stored[]> {
    const found: Stored[] = [];
    for await (const stored of bus.read(stream, { filter })) found.push(stored);
    return found;
  }

  return {
    bus,
    async configure(upstreams, more = {}) {
      const parsed = topology.parse({ upstreams, ...more });
      const seq = (await bus.lastOf("AUDIT", subjectFor("config.applied")))?.seq ?? 0;
      version += 1;
      await bus.appendFenced(
        makeEvent({
          type: "config.applied",
          keys: [],
          id: `config-${version}`,
          service: "bootstrap",
          instance: "test",
          timeMs: Date.now(),
          data: {
            version,
            hash: hashOf(parsed),
            fileHash: null,
            timestamp: new Date().toISOString(),
            by: { kind: "operator", id: "test" },
            reason: "test",
            environment: "development",
            topology: parsed,
          },
        }),
        seq,
      );
    },
    async start(instance, { secrets = {}, policy = {}, deaf = false, config = {}, reaches = () => true, clockAheadMs = () => 0 } = {}) {
      const own = connect(instance);
      connections.add(own);
      // Who is deaf hears no other prober, and so takes everything for its own.
      const subscribe: Bus["subscribe"] = (type, handler) => own.subscribe(type, type === "prober.heartbeat" ? () => undefined : handler);
      const heard: Bus = deaf ? Object.create(own, { subscribe: { value: subscribe } }) : own;
      const right = testKit<ProberEnvironment>({ service: "prober", bus: heard, instance, config, secrets });
      const kit = Object.create(right, { nowMs: { value: () => right.nowMs() + clockAheadMs() } }) as typeof right;
      const prober = await startProber(kit, { ...proberPolicy, ...quick, ...policy }, undefined, async (url) => reaches(url));
      running.add(prober);
      return {
        kit,
        bus: own,
        async stop() {
          running.delete(prober);
          await prober.stop?.();
          await own.close();
        },
        async metric(name) {
          const found = await kit.registry.getSingleMetric(name)?.get();
          return found?.values.reduce((sum, { value }) => sum + value, 0) ?? Number.NaN;
        },
      };
    },
    async health(upstream, endpoint) {
      const stored = await all("AUDIT", subjectFor("health.changed", upstream, endpoint));
      return stored.flatMap(({ seq, content }) =>
        content.kind === "event" ? [{ seq, id: content.event.id, data: content.event.data as HealthChanged }] : [],
      );
    },
    async observations() {
      const stored = await all("SIGNALS", "probe.observed.>");
      return stored.flatMap(({ content }) => (content.kind === "event" ? (content.event.data as ProbeObserved).observations : []));
    },
    async stop() {
      for (const prober of running) await prober.stop?.();
      await Promise.all([...connections].map((connection) => connection.close()));
    },
  };
}

/** Waits until the check gives something other than null, undefined or false. */
export const until = <T>(what: string, check: () => Promise<T> | T, withinMs = 5000) => eventually(check, { what, withinMs, everyMs: 15 });

export async function fleetFor(t: TestContext, connect?: (instance: string) => Bus): Promise<MemoryFleet> {
  const broker = memoryBroker();
  const fleet = await fleetOn(connect ?? ((instance) => broker.connect({ instance })));
  t.after(() => fleet.stop());
  return fleet;
}
export async function server(t: TestContext, status = 200): Promise<FakeServer> {
  const fake = await fakeServer(answers.status(status));
  t.after(() => fake.kill());
  return fake;
}
/** An HTTP upstream with quick probes. */
export const http = (urls: Record<string, string>, probe: object = {}, more: object = {}) => ({
  kind: "http",
  probe: { interval_ms: 200, timeout_ms: 300, ...probe },
  endpoints: Object.entries(urls).map(([name, url], tier) => ({ name, url, tier, ...more })),
});
export const statusOf = async (fleet: MemoryFleet, upstream: string, endpoint: string) =>
  (await fleet.health(upstream, endpoint)).at(-1)?.data.status;
