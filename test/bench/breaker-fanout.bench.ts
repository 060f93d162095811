// How long a change of a breaker takes from its decider to the routers' tables.
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { type Bus, connectBus } from "@mcp-failover/bus";
import { type BreakerState, makeEvent, parseTopology, streams } from "@mcp-failover/contracts";
import { type BreakerInput, decideBreaker, initialBreakerState, type ObserverEvidence, policyFor } from "@mcp-failover/domain";
import { startNats } from "@mcp-failover/testkit";
import { atMost, type Benchmark, type Measured, quantile, wholeNumber } from "./benchmark.ts";
import type { FromSubscribers } from "./breaker-fanout/subscriber.ts";

const processes = 5;
const endpoints = 100;
/** Apart, so that each is measured by itself; 10 changes a second is a fleet in trouble. */
const gapMs = 100;
/** After the last one, for what is still on its way. */
const restMs = 1000;

/** What a decider publishes when an endpoint fails for 5 observers, with a certificate of the usual size. */
function nextState(state: BreakerState, endpoint: string, nowMs: number): { state: BreakerState; data: object; input: BreakerInput } {
  const evidence = Array.from(
    { length: 5 },
    (_, index): ObserverEvidence => ({
      observer: `router-${index}`,
      kind: "router",
      evaluations: [3000, 2000, 1000].map((agoMs) => ({ atMs: nowMs - agoMs, calls: 300, hard: 40, slow: 2 })),
      hardRun: state.status === "half_open" ? 0 : 9,
      runSinceMs: nowMs - 900,
      lastNotHardAtMs: nowMs - 1000,
      lastAtMs: nowMs,
      answered: 300,
      slowMs: 1000,
    }),
  );
  const input: BreakerInput = { upstream: "docs", endpoint, policy, nowMs, state, evidence, routers: evidence.map((one) => one.observer) };
  const decision = decideBreaker(input);
  return { state: decision.state, input, data: { reason: decision.reason, rule: decision.rule, rejected: decision.rejected } };
}
const names = Array.from({ length: endpoints }, (_, index) => `e${index}`);
const yaml = `upstreams:\n  docs:\n    kind: http\n    endpoints:\n${names.map((name, tier) => `      - { name: ${name}, url: "http://127.0.0.1:9/${name}", tier: ${tier} }`).join("\n")}\n`;
const { topology, hash } = parseTopology(yaml, { file: "bench.yaml", env: {} });
const policy = policyFor(topology, "docs", "production").breaker;
const by = { kind: "service", id: "bench" } as const;

export const bench: Benchmark = {
  what: "the time from a breaker's decider, publishing a fenced breaker.changed, until the tables of 50 routers have it; beside a bare NATS message",
  notMeasured:
    "one machine, one nats-server, no disk that is waited for (sync_interval default), and tables ten to a process: no network lies between.",
  options: { subscribers: "how many tables and connections (default 50)", changes: "how many changes a repetition" },
  async run(context) {
    const subscribers = wholeNumber(context.args, "subscribers", 50);
    const changes = wholeNumber(context.args, "changes", context.quick ? 40 : 300);
    const server = await startNats();
    const bus = connectBus({ servers: server.url, name: "bench", instance: "decider" });
    const children: ChildProcess[] = [];
    try {
      await untilConnected(bus);
      await bus.ensureStreams(streams, { replicas: 1 });
      const config = {
        version: 1,
        hash,
        fileHash: hash,
        timestamp: new Date().toISOString(),
        by,
        reason: "bench",
        environment: "production" as const,
        topology,
      };
      await bus.appendFenced(
        makeEvent({
          type: "config.applied",
          keys: [],
          data: config,
          id: "config-1",
          service: "bootstrap",
          instance: "bench",
          timeMs: Date.now(),
        }),
        0,
      );
      for (let index = 0; index < processes; index += 1) {
        const share = Math.floor(subscribers / processes) + (index < subscribers % processes ? 1 : 0);
        if (share > 0)
          children.push(fork(new URL("breaker-fanout/subscriber.ts", import.meta.url), [server.url, `p${index}`, String(share)]));
      }
      await Promise.all(children.map((child) => answerOf(child, "ready")));
      context.say(`${subscribers} tables follow the log in ${children.length} processes`);
      return await measure(context, bus, children, { subscribers, changes, repetitions: context.quick ? 1 : 3 });
    } finally {
      for (const child of children) if (child.connected) child.disconnect();
      await Promise.all(children.map((child) => (child.exitCode === null ? once(child, "exit") : null)));
      await bus.close();
      await server.stop();
    }
  },
};

async function measure(
  context: Parameters<Benchmark["run"]>[0],
  bus: Bus,
  children: readonly ChildProcess[],
  { subscribers, changes, repetitions }: { subscribers: number; changes: number; repetitions: number },
): Promise<Measured> {
  const states = new Map<string, { state: BreakerState; seq: number }>();
  const [allMs, allBareMs, runs] = [[] as number[], [] as number[], [] as object[]];
  let lost = 0;
  // The first few warm the code and the connections up.
  await publish(bus, states, 10, "warm");
  await new Promise((resolve) => setTimeout(resolve, restMs));
  await Promise.all(children.map((child) => heardOf(child)));
  for (let run = 1; run <= repetitions; run += 1) {
    const sent = await publish(bus, states, changes, `run${run}`);
    await new Promise((resolve) => setTimeout(resolve, restMs));
    const heard = await Promise.all(children.map((child) => heardOf(child)));
    const tookMs = heard.flatMap((one) => one.changes.flatMap(([id, atNs]) => since(sent.changes.get(id), atNs)));
    const bareMs = heard.flatMap((one) => one.heartbeats.flatMap(([sentAtMs, atNs]) => since(sent.heartbeats.get(sentAtMs), atNs)));
    lost += changes * subscribers - tookMs.length;
    allMs.push(...tookMs);
    allBareMs.push(...bareMs);
    const [p50, p99, worst] = [0.5, 0.99, 1].map((share) => round(quantile(tookMs, share)));
    runs.push({
      run,
      subscribers,
      changes,
      p50Ms: p50,
      p99Ms: p99,
      worstMs: worst,
      bareP50Ms: round(quantile(bareMs, 0.5)),
      bareP99Ms: round(quantile(bareMs, 0.99)),
    });
    context.say(`run ${run}: ${tookMs.length} arrivals, median ${p50} ms, p99 ${p99} ms, worst ${worst} ms`);
  }
  const [p99Ms, p99Ratio] = [quantile(allMs, 0.99), round(quantile(allMs, 0.99) / quantile(allBareMs, 0.99))];
  return {
    ratios: {
      "median, breaker.changed to table / bare NATS message": round(quantile(allMs, 0.5) / quantile(allBareMs, 0.5)),
      "p99, breaker.changed to table / bare NATS message": p99Ratio,
    },
    runs,
    bounds: [
      // A machine that does other work besides makes both late: the short version compares them.
      context.quick
        ? atMost("p99 from decider to table, in bare NATS messages", p99Ratio, 10, "times")
        : atMost("p99 from decider to table", round(p99Ms), 20, "ms"),
      atMost("changes that a table never had", lost, 0, "arrivals"),
    ],
  };
}

interface Sent {
  readonly changes: Map<string, bigint>;
  readonly heartbeats: Map<number, bigint>;
}

/** A change, half a gap later a bare message, and so on. */
async function publish(bus: Bus, states: Map<string, { state: BreakerState; seq: number }>, changes: number, name: string): Promise<Sent> {
  const sent: Sent = { changes: new Map(), heartbeats: new Map() };
  for (let index = 0; index < changes; index += 1) {
    const beganMs = performance.now();
    const endpoint = names[index % names.length] ?? "";
    const before = states.get(endpoint) ?? { state: initialBreakerState, seq: 0 };
    // As if its open time, or its half-open trial, were over.
    const nowMs = Math.max(Date.now(), before.state.openUntilMs ?? 0);
    const { state, input, data } = nextState(before.state, endpoint, nowMs);
    const { reason, rule, rejected } = data as { reason: string; rule: string; rejected: [] };
    const id = `${name}-${index}`;
    const event = makeEvent({
      type: "breaker.changed",
      keys: ["docs", endpoint],
      data: {
        service: "docs",
        endpoint,
        status: state.status,
        previousStatus: before.state.status,
        timestamp: new Date(nowMs).toISOString(),
        reason,
        by,
        state,
        certificate: {
          decider: "decideBreaker",
          rule,
          policyHash: "bench",
          nowMs,
          folded: { AUDIT: null, SIGNALS: null },
          input,
          rejected,
        },
      },
      id,
      service: "breaker-state",
      instance: "bench",
      timeMs: nowMs,
    });
    sent.changes.set(id, process.hrtime.bigint());
    const result = await bus.appendFenced(event, before.seq);
    if (result.outcome !== "won") throw new Error(`the bench is the only decider, and lost ${id}: run it anew`);
    states.set(endpoint, { state, seq: result.seq });
    await until(beganMs + gapMs / 2);
    const sentAtMs = Date.now() * 1000 + index;
    const heartbeat = { prober: "bench", zone: null, startedAtMs: 0, sentAtMs, endpointsOwned: 0, ready: true };
    sent.heartbeats.set(sentAtMs, process.hrtime.bigint());
    bus.publish(
      makeEvent({
        type: "prober.heartbeat",
        keys: [],
        data: heartbeat,
        id: `h-${id}`,
        service: "prober",
        instance: "bench",
        timeMs: nowMs,
      }),
    );
    await until(beganMs + gapMs);
  }
  return sent;
}

function until(endMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, Math.max(0, endMs - performance.now())));
}

function since(sentNs: bigint | undefined, atNs: string): number[] {
  return sentNs === undefined ? [] : [Number(BigInt(atNs) - sentNs) / 1e6];
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}

const answerMs = 30_000;

async function heardOf(child: ChildProcess): Promise<Extract<FromSubscribers, { kind: "heard" }>> {
  const answer = answerOf(child, "heard");
  child.send("tell");
  return answer;
}

/** Waits for a message of a kind. Throws when the process ends or says nothing. */
function answerOf<K extends FromSubscribers["kind"]>(child: ChildProcess, kind: K): Promise<Extract<FromSubscribers, { kind: K }>> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => done(() => reject(new Error(`a process of the bench said nothing for ${answerMs} ms`))), answerMs);
    const onMessage = (message: unknown): void => {
      if ((message as FromSubscribers).kind === kind) done(() => resolve(message as Extract<FromSubscribers, { kind: K }>));
    };
    const onExit = (code: number | null): void => done(() => reject(new Error(`a process of the bench ended with ${code}`)));
    const done = (settle: () => void): void => {
      clearTimeout(timer);
      child.off("message", onMessage);
      child.off("exit", onExit);
      settle();
    };
    child.on("message", onMessage);
    child.on("exit", onExit);
  });
}

async function untilConnected(bus: Bus): Promise<void> {
  for (let tries = 0; bus.status.kind !== "connected"; tries += 1) {
    if (tries > 100) throw new Error("nats-server was started, and cannot be reached");
    await until(performance.now() + 50);
  }
}
