import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type Bus, connectBus } from "@mcp-failover/bus";
import { type DataOf, type Event, type EventType, makeEvent, type NewEvent, streams, topology } from "@mcp-failover/contracts";
import { becomes, freePort, type RunningServer, startNats } from "@mcp-failover/testkit";

const by = { kind: "service", id: "test" } as const;
const root = join(import.meta.dirname, "../..");
const changes = 50;

let nats: RunningServer;
let bus: Bus;
const controllers: { child: ChildProcess; healthPort: number; log: () => string }[] = [];
let ids = 0;

function event<T extends EventType>(type: T, keys: readonly string[], data: DataOf<T>): Event<T> {
  ids += 1;
  return makeEvent({ type, keys, data, id: `race-${ids}`, service: "prober", instance: "test", timeMs: Date.now() } as NewEvent<T>);
}

/** What the probers, played by this test, find: endpoints (`upstream/endpoint`) that are dead. */
const dead = new Set<string>();

async function observe(
  prober: string,
  targets: readonly { upstream: string; endpoint: string }[],
  requestId: string | null,
): Promise<void> {
  const observations = targets.map(({ upstream, endpoint }) => {
    const isDead = dead.has(`${upstream}/${endpoint}`);
    return {
      upstream,
      endpoint,
      observer: prober,
      purpose: requestId === null ? ("scheduled" as const) : ("confirm" as const),
      requestId,
      startedAtMs: Date.now(),
      responseTimeMs: 1,
      outcome: isDead ? ("hard" as const) : ("ok" as const),
      code: isDead ? ("refused" as const) : null,
      error: null,
      httpStatus: null,
      era: null,
    };
  });
  await bus.append(event("probe.observed", [prober], { observer: prober, observations }));
}

const healthSeqs = new Map<string, number>();
/** `health.changed`, as the owning prober would say it. */
async function sayHealth(upstream: string, endpoint: string, status: "healthy" | "unhealthy"): Promise<void> {
  const key = `${upstream}/${endpoint}`;
  const nowMs = Date.now();
  const runs = { okRun: 0, failRun: 0, changesAtMs: [], heldDownUntilMs: null, lastObservedAtMs: nowMs };
  const folded = { AUDIT: null, SIGNALS: null };
  const data: DataOf<"health.changed"> = {
    service: upstream,
    endpoint,
    status,
    responseTime: null,
    error: null,
    timestamp: new Date(nowMs).toISOString(),
    critical: true,
    previousStatus: null,
    reason: "test",
    prober: "p1",
    votes: [],
    state: { status, score: status === "healthy" ? 1 : 0, sinceMs: nowMs, ...runs },
    certificate: { decider: "decideHealth", rule: "test", policyHash: "test", nowMs, folded, input: null, rejected: [] },
  };
  const stored = await bus.appendFenced(event("health.changed", [upstream, endpoint], data), healthSeqs.get(key) ?? 0);
  assert.equal(stored.outcome, "won");
  if (stored.outcome === "won") healthSeqs.set(key, stored.seq);
}

let configSeq = 0;
async function configure(upstreams: readonly string[], failover: object): Promise<void> {
  const endpoints = ["a", "b"].map((name) => ({ name, tier: 0, url: `http://127.0.0.1:1/${name}` }));
  const parsed = topology.parse({ upstreams: Object.fromEntries(upstreams.map((name) => [name, { kind: "mcp", endpoints }])), failover });
  const version = configSeq + 1;
  const applied = { version, hash: `h${version}`, fileHash: null, timestamp: new Date().toISOString(), by, reason: "test" };
  const stored = await bus.appendFenced(
    event("config.applied", [], { ...applied, environment: "development", topology: parsed }),
    configSeq,
  );
  assert.equal(stored.outcome, "won");
  if (stored.outcome === "won") configSeq = stored.seq;
}

async function startController(instance: string): Promise<void> {
  const healthPort = await freePort();
  const env = { ...process.env, NATS_URL: nats.url, MCPF_INSTANCE: instance, MCPF_HEALTH_PORT: String(healthPort), MCPF_LOG_LEVEL: "warn" };
  const child = spawn(process.execPath, [join(root, "services/failover-controller/src/main.ts")], {
    env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  let log = "";
  const keep = (chunk: Buffer): void => {
    log = (log + chunk.toString()).slice(-20_000);
  };
  child.stdout.on("data", keep);
  child.stderr.on("data", keep);
  controllers.push({ child, healthPort, log: () => log });
  await until(
    () =>
      fetch(`http://127.0.0.1:${healthPort}/readyz`).then(
        (response) => response.ok,
        () => false,
      ),
    (ready) => ready,
    15_000,
    () => `${instance} is not ready: ${log}`,
  );
}

/** How many races the controllers lost, by the type of the event. */
async function lostRaces(): Promise<Record<string, number>> {
  const lost: Record<string, number> = {};
  for (const { healthPort } of controllers) {
    const metrics = await (await fetch(`http://127.0.0.1:${healthPort}/metrics`)).text();
    for (const [, type = "", count] of metrics.matchAll(/^mcpf_lost_races_total\{type="([^"]+)"\} (\d+)/gm)) {
      lost[type] = (lost[type] ?? 0) + Number(count);
    }
  }
  return lost;
}

async function said<T extends EventType>(type: T, subject: string): Promise<Event<T>[]> {
  const found: Event<T>[] = [];
  for await (const { content } of bus.read("AUDIT", { filter: subject })) {
    if (content.kind === "event" && content.event.type === type) found.push(content.event as unknown as Event<T>);
  }
  return found;
}

const until = <V>(read: () => Promise<V>, holds: (value: V) => boolean, withinMs: number, what: () => string) =>
  becomes(read, holds, { withinMs, what, everyMs: 10 });

before(async () => {
  nats = await startNats();
  bus = connectBus({ servers: nats.url, name: "race-test", instance: "race-test" });
  await bus.ensureStreams(streams, { replicas: 1 });
  const timestamp = new Date().toISOString();
  await bus.appendFenced(event("log.started", [], { generation: 1, timestamp, by, reason: "test" }), 0);
  await configure(["bank", "mill"], {});
  bus.subscribe("probe.requested", ({ data }) => {
    const probers = ["p1", "p2", "p3"].map((prober) => observe(prober, data.targets, data.requestId));
    Promise.all(probers).catch((error: unknown) => assert.equal(bus.status.kind, "closed", String(error)));
  });
  await Promise.all([startController("fc-1"), startController("fc-2")]);
});

after(async () => {
  await Promise.all(
    controllers.map(
      ({ child }) =>
        new Promise<void>((resolve) => {
          child.once("exit", () => resolve());
          child.kill("SIGTERM");
        }),
    ),
  );
  await bus?.close();
  await nats?.stop();
});

test("of two upstreams that fail together, one moves when the fleet may make one move", { timeout: 30_000 }, async () => {
  await configure(["bank", "mill"], { fleet_moves: 1, fleet_window_ms: 600_000 });
  dead.add("bank/a").add("mill/a");
  await observe(
    "p1",
    [
      { upstream: "bank", endpoint: "a" },
      { upstream: "mill", endpoint: "a" },
    ],
    null,
  );
  const moved = () => Promise.all(["bank", "mill"].map((name) => said("failover.decided", `failover.decided.${name}`)));
  const rejected = () => Promise.all(["bank", "mill"].map((name) => said("failover.rejected", `failover.rejected.${name}`)));
  await until(
    rejected,
    (all) => all.flat().length > 0,
    8000,
    () => `nobody was refused: ${controllers.map(({ log }) => log()).join("\n")}`,
  );
  await new Promise((resolve) => setTimeout(resolve, 1500));
  assert.equal((await moved()).flat().length, 1, "exactly one of the two moved");
  const refusals = (await rejected()).flat();
  assert.deepEqual(
    refusals.map(({ data }) => data.rule),
    ["fleet_limit"],
  );
  assert.notEqual(refusals[0]?.data.service, (await moved()).flat()[0]?.data.service);
  dead.clear();
});

test("two controllers that both see everything make one decision for each change of health, told once each", {
  timeout: 60_000,
}, async (t) => {
  // The policy of this test: no cool-down and no limits; everything else is the default.
  await configure(["shop"], { cooldown_ms: 0, moves_per_hour: 100_000, fleet_moves: 100_000 });
  // As in life, the endpoints are probed on a schedule as well: a word that comes late never is the last one.
  const endpoints = ["a", "b"].map((endpoint) => ({ upstream: "shop", endpoint }));
  const scheduled = setInterval(() => {
    observe("p1", endpoints, null).catch((error: unknown) => assert.equal(bus.status.kind, "closed", String(error)));
  }, 1000);
  t.after(() => clearInterval(scheduled));
  const startedMs = Date.now();
  for (let change = 1; change <= changes; change += 1) {
    const [active, other] = change % 2 === 1 ? ["a", "b"] : ["b", "a"];
    dead.delete(`shop/${other}`);
    if (change > 1) await sayHealth("shop", other as string, "healthy");
    dead.add(`shop/${active}`);
    await sayHealth("shop", active as string, "unhealthy");
    await until(
      () => bus.lastOf("AUDIT", "failover.decided.shop"),
      (last) => last?.content.kind === "event" && (last.content.event as Event<"failover.decided">).data.state.epoch >= change,
      10_000,
      () => `change ${change} was not decided: ${controllers.map(({ log }) => log()).join("\n")}`,
    );
  }
  const tookMs = Date.now() - startedMs;
  const executed = await until(
    () => said("failover.executed", "failover.executed.shop"),
    (events) => events.length >= changes,
    5000,
    () => "not every decision was told",
  );
  const decided = await said("failover.decided", "failover.decided.shop");
  const epochs = Array.from({ length: changes }, (_, index) => index + 1);
  assert.deepEqual(
    decided.map(({ data }) => data.state.epoch),
    epochs,
  );
  assert.deepEqual(
    executed.map(({ data }) => data.epoch),
    epochs,
  );
  assert.deepEqual(
    executed.map(({ data }) => data.decisionId),
    decided.map(({ id }) => id),
  );
  const winners = new Map<string, number>();
  for (const { source } of decided) winners.set(source, (winners.get(source) ?? 0) + 1);
  const lost = await lostRaces();
  t.diagnostic(
    `${changes} decisions in ${tookMs} ms; won: ${JSON.stringify(Object.fromEntries(winners))}; lost races: ${JSON.stringify(lost)}`,
  );
  assert.ok((lost["failover.decided"] ?? 0) > 0, "no race was lost: the controllers did not compete, and the test proves nothing");
  const largest = Math.max(...decided.map(({ data }) => JSON.stringify(data).length));
  assert.ok(largest < 100_000, `the largest decision has ${largest} characters`);
});
