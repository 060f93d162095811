import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { type Bus, memoryBroker } from "@mcp-failover/bus";
import {
  type BreakerCommand,
  canonicalJson,
  type Event,
  makeEvent,
  parseTopology,
  streams,
  type TrafficObserved,
} from "@mcp-failover/contracts";
import { type BreakerInput, decideBreaker } from "@mcp-failover/domain";
import { testKit } from "@mcp-failover/service-kit/testing";
import { tempDir } from "@mcp-failover/testkit";
import { startBreakerState } from "../../services/breaker-state/src/wiring.ts";
import { createRouterControl, type RunningControl } from "../../services/router/src/control/control.ts";
import type { AttemptResult } from "../../services/router/src/control/port.ts";

const yaml = `
upstreams:
  docs:
    kind: http
    breaker: { failure_threshold: 3, reset_timeout_ms: 400 }
    endpoints:
      - { name: primary, url: "http://127.0.0.1:1", tier: 0 }
      - { name: secondary, url: "http://127.0.0.1:2", tier: 1 }
`;
const ok: AttemptResult = { outcome: "ok", httpStatus: 200, toolError: false };
const reset: AttemptResult = { outcome: "hard", code: "reset", executed: "unknown", message: "socket hang up" };

const untilMsMax = 15_000;

/** The shells of two breaker-states and two routers on one log; what becomes of a call is what the test says. */
async function fleet(t: TestContext) {
  const broker = memoryBroker();
  const bus = broker.connect();
  await bus.ensureStreams(streams, { replicas: 1 });
  const { topology, hash } = parseTopology(yaml, { file: "failover.yaml", env: {} });
  const by = { kind: "operator" as const, id: "ada" };
  const data = {
    version: 1,
    hash,
    fileHash: hash,
    timestamp: new Date().toISOString(),
    by,
    reason: "test",
    environment: "production" as const,
    topology,
  };
  await bus.appendFenced(
    makeEvent({ type: "config.applied", keys: [], data, id: "c-1", service: "bootstrap", instance: "b", timeMs: Date.now() }),
    0,
  );
  const folder = await tempDir("mcpf-breaker-shells-");
  const stops: (() => unknown)[] = [];
  for (const instance of ["breaker-state-1", "breaker-state-2"]) {
    const own = broker.connect();
    const running = await startBreakerState(testKit({ service: "breaker-state", bus: own, instance }));
    const served = await own.serve({
      name: "breaker-state",
      instance,
      version: "0.1.0",
      description: "",
      handlers: running.handlers ?? {},
    });
    stops.push(
      () => served.stop(),
      () => running.stop?.(),
      () => own.close(),
    );
  }
  const routers: Record<string, RunningControl> = {};
  for (const instance of ["router-1", "router-2"]) {
    const own = broker.connect();
    const control = await createRouterControl(testKit({ service: "router", bus: own, instance, dataDir: folder.path }), {
      reaches: async () => "listens",
    });
    routers[instance] = control;
    stops.push(
      () => control.stop(),
      () => own.close(),
    );
  }
  t.after(async () => {
    for (const stop of stops) await stop();
    await bus.close();
    await folder.remove();
  });
  /** What a call of one router to an endpoint ends as. */
  const truth = new Map<string, AttemptResult>();
  const went: Record<string, number> = {};
  const call = async (router: string): Promise<void> => {
    const control = routers[router] ?? assert.fail();
    const one = control.begin({
      upstream: "docs",
      kind: "http",
      method: "GET",
      tool: null,
      agent: null,
      sessionEndpoint: null,
      deadlineMs: Number.POSITIVE_INFINITY,
      startedAtMs: Date.now(),
    });
    for (let attempt = await one.next(); attempt !== null; attempt = await one.next()) {
      const { name } = attempt.endpoint;
      went[`${router} ${name}`] = (went[`${router} ${name}`] ?? 0) + 1;
      await new Promise((resolve) => setTimeout(resolve, 2));
      if (!attempt.done(truth.get(`${router} ${name}`) ?? truth.get(name) ?? ok).retry) break;
    }
    one.end("ok");
  };
  /** Calls of each router, one every 10 ms. */
  const callFor = async (ms: number, names: readonly string[] = ["router-1", "router-2"]): Promise<void> => {
    const calls: Promise<void>[] = [];
    for (const endMs = Date.now() + ms; Date.now() < endMs; ) {
      calls.push(...names.map(call));
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    await Promise.all(calls);
  };
  /** Calls until it is so: what counts calls must not depend on how many this machine makes in a time. */
  const callUntil = async (isSo: () => boolean | Promise<boolean>, what: string): Promise<void> => {
    const endMs = Date.now() + untilMsMax;
    while (!(await isSo())) {
      assert.ok(Date.now() < endMs, `not within ${untilMsMax} ms: ${what}`);
      await callFor(100);
    }
  };
  return { bus, truth, went, callFor, callUntil };
}

async function changesOf(bus: Bus): Promise<Event<"breaker.changed">[]> {
  const found: Event<"breaker.changed">[] = [];
  for await (const { content } of bus.read("AUDIT", { filter: "breaker.changed.docs.primary" })) {
    if (content.kind === "event" && content.event.type === "breaker.changed") found.push(content.event);
  }
  return found;
}

test("a router whose own network is broken goes elsewhere at once, and opens nothing for the fleet", async (t) => {
  const { bus, truth, went, callFor } = await fleet(t);
  await callFor(300);
  truth.set("router-1 primary", reset);
  const before = went["router-1 primary"] ?? 0;
  await callFor(2500);
  assert.deepEqual(await changesOf(bus), []);
  const paid = (went["router-1 primary"] ?? 0) - before;
  // Three failures eject it, and what was out by then; later single trials.
  assert.ok(paid >= 3 && paid <= 15, `${paid} calls of some 240 went where they could only fail`);
  assert.equal(went["router-2 secondary"] ?? 0, 0, "the other router has not heard of it");
});

test("a dead endpoint is opened for all, tried by no more calls than the fleet permits, and closed when they are answered; every decision can be taken again", async (t) => {
  const { bus, truth, went, callFor, callUntil } = await fleet(t);
  await callFor(300);
  truth.set("primary", reset);
  await callUntil(async () => (await changesOf(bus)).length > 0, "it is opened");
  const [opened] = await changesOf(bus);
  assert.deepEqual([opened?.data.status, opened?.data.certificate.rule], ["open", "consecutive_failures"]);
  // Half-open again and again, while it is dead; then it answers.
  await callFor(1000);
  await callUntil(async () => (await changesOf(bus)).some(({ data }) => data.status === "half_open"), "it is tried");
  truth.delete("primary");
  await callUntil(async () => (await changesOf(bus)).at(-1)?.data.status === "closed", "it is closed");
  const before = { ...went };
  await callUntil(() => (went["router-1 primary"] ?? 0) - (before["router-1 primary"] ?? 0) > 20, "traffic is back");
  const changes = await changesOf(bus);
  const last = changes.at(-1);
  assert.deepEqual([last?.data.status, last?.data.certificate.rule], ["closed", "half_open_succeeded"]);
  for (const [index, { data }] of changes.entries()) assert.equal(data.state.generation, index + 1);
  for (const { data } of changes) {
    assert.equal(canonicalJson(decideBreaker(data.certificate.input as BreakerInput).state), canonicalJson(data.state));
  }
  const permitted = new Map(changes.filter(({ data }) => data.status === "half_open").map(({ data }) => [data.state.generation, 10]));
  const told = new Map<number, number>();
  for await (const { content } of bus.read("SIGNALS")) {
    if (content.kind !== "event" || content.event.type !== "traffic.observed") continue;
    for (const item of (content.event.data as TrafficObserved).endpoints) {
      const generation = item.breakerGeneration ?? 0;
      if (item.endpoint !== "primary" || !permitted.has(generation)) continue;
      told.set(generation, (told.get(generation) ?? 0) + item.ok + item.hard);
    }
  }
  for (const [generation, calls] of told) assert.ok(calls <= 10, `${calls} calls in generation ${generation}`);
  assert.ok(told.size >= 1, "the permits were used");
});

test("forced open by an operator, every router keeps away within moments; disabled, none does, whatever fails", async (t) => {
  const { bus, truth, went, callFor, callUntil } = await fleet(t);
  const order = async (action: BreakerCommand["action"]): Promise<void> => {
    const by = { kind: "operator" as const, id: "ada" };
    const reply = await bus.request("command.breaker", {
      commandId: `c-${action}`,
      by,
      reason: "rebuilt",
      upstream: "docs",
      endpoint: "primary",
      action,
    });
    assert.ok(reply.ok, JSON.stringify(reply));
    await new Promise((resolve) => setTimeout(resolve, 200));
  };
  await order("force_open");
  await callFor(300);
  assert.deepEqual(Object.keys(went).sort(), ["router-1 secondary", "router-2 secondary"]);
  await order("disable");
  truth.set("primary", reset);
  await callFor(600);
  await callUntil(() => (went["router-1 primary"] ?? 0) > 20, "calls go there, and go on");
  assert.equal((await changesOf(bus)).length, 2);
});
