import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { ConfigError, parseTopology, secretsIn, type Topology } from "@mcp-failover/contracts";
import {
  contactsOf,
  defaultPolicy,
  emptyReadModel,
  foldIncident,
  incidentContext,
  initialActive,
  initialLocalBreaker,
  localAllows,
  localRecord,
  type Placed,
  planRoute,
  policyFor,
  type ReadModel,
  type RouteEndpoint,
} from "@mcp-failover/domain";
import { parse, stringify } from "yaml";
import { ROOT } from "../../scripts/lib/repo.mjs";
import { targetsOf } from "../../services/prober/src/targets.ts";

/** Every variable that the guide names. */
const env = {
  PINECONE_HOST: "https://nightingale.pinecone.io",
  NEO4J_URI: "neo4j+s://main.databases.neo4j.io",
  NEO4J_USER: "neo4j",
  NEO4J_READ_REPLICA_1: "neo4j+s://replica-1.databases.neo4j.io",
  NEO4J_READ_REPLICA_2: "neo4j+s://replica-2.databases.neo4j.io",
  GRAPHLIT_API_URL: "https://data-scus.graphlit.io/api/v1/graphql",
  GRAPHLIT_ORGANIZATION_ID: "organization-1",
};
type Path = readonly (string | number)[];
type Raw = Record<string, unknown>;

const text = readFileSync(join(ROOT, "examples/reference/failover.yaml"), "utf8");
const raw = (): Raw => parse(text) as Raw;
const nowMs = 1_800_000_000_000;

interface RouteCase {
  readonly safety: "read_only" | "unsafe";
  readonly tried?: readonly string[];
  readonly mode?: "pool";
  readonly strategy?: "round_robin";
}

/** What a call of this kind would be sent to, for several rolls of the dice. */
function routesOf(topology: Topology, name: string, { safety, tried = [], mode, strategy }: RouteCase): (string | null)[] {
  const upstream = topology.upstreams[name] as Topology["upstreams"][string];
  const endpoints = upstream.endpoints.map(
    (endpoint): RouteEndpoint => ({
      name: endpoint.name,
      tier: endpoint.tier,
      role: endpoint.role,
      weight: endpoint.weight,
      usable: true,
      health: "healthy",
      score: 1,
      breaker: "closed",
      breakerAllows: true,
      localAllows: true,
      lastFailedAtMs: null,
      inFlight: 0,
      ewmaMs: null,
      recoveredAtMs: null,
    }),
  );
  const active = initialActive(upstream);
  return [0.05, 0.35, 0.65, 0.95].flatMap((random) =>
    [0, 1, 2].map(
      (turn) =>
        planRoute({
          mode: mode ?? upstream.mode,
          active,
          activeTier: endpoints.find((endpoint) => endpoint.name === active)?.tier ?? 0,
          strategy: strategy ?? upstream.balancing,
          safety,
          sessions: upstream.sessions,
          sessionEndpoint: null,
          tried,
          again: false,
          mayWait: false,
          endpoints,
          random,
          turn,
          nowMs,
        }).endpoint,
    ),
  );
}

/** How urgent it is for people when the active endpoint of an upstream is down. */
function severityOf(topology: Topology, name: string): string | undefined {
  const model: ReadModel = { ...emptyReadModel, topology };
  const active = initialActive(topology.upstreams[name] as Topology["upstreams"][string]);
  const data = { service: name, endpoint: active, status: "unhealthy", previousStatus: "healthy", reason: "3 failures" };
  const placed = { seq: 1, subject: "health.changed", timeMs: nowMs, event: { type: "health.changed", data } } as unknown as Placed;
  return foldIncident(null, placed, incidentContext(model, name))?.severity;
}

const routeCases: readonly RouteCase[] = [
  { safety: "unsafe" },
  { safety: "read_only" },
  { safety: "read_only", tried: ["primary"] },
  { safety: "read_only", tried: ["primary", "replica-1"] },
  { safety: "read_only", mode: "pool" },
  { safety: "unsafe", mode: "pool", strategy: "round_robin" },
];

/** Everything that the deciders, the prober, the router and the notifier make of a configuration. */
function effectsOf(topology: Topology, environment: "development" | "production"): object {
  const names = Object.keys(topology.upstreams);
  return {
    policies: names.map((name) => policyFor(topology, name, environment)),
    probes: [...targetsOf(topology, environment).values()].map(({ key, checks, critical }) => ({ key, checks, critical })),
    routes: names.map((name) => routeCases.map((one) => routesOf(topology, name, one))),
    severities: names.map((name) => severityOf(topology, name)),
    contacts: names.map((name) => contactsOf(topology, name)),
    // What `mcpf env` and `mcpf exec` set; that they do is shown in packages/cli/test.
    variables: Object.values(topology.upstreams).map(({ env: shared, endpoints }) => [shared, endpoints.map(({ env: own }) => own)]),
    secrets: secretsIn(topology),
    kinds: names.map((name) => topology.upstreams[name]?.kind),
  };
}

function leavesOf(value: unknown, path: Path = []): Path[] {
  if (value === null || typeof value !== "object") return [path];
  const entries = Array.isArray(value) ? [...value.entries()] : Object.entries(value);
  return entries.flatMap(([key, inner]) => leavesOf(inner, [...path, key]));
}
function replaced(root: Raw, path: Path, make: (value: unknown) => unknown): Raw {
  const copy = structuredClone(root);
  // biome-ignore lint/suspicious/noExplicitAny: a path into a document of any shape.
  const holder = path.slice(0, -1).reduce((node: any, key) => node[key], copy);
  const last = path.at(-1) as string | number;
  holder[last] = make(holder[last]);
  return copy;
}
/** With a worker whose memory is watched, which is what `memory_usage` is about, and a sibling for each lone endpoint, whose tier ranks it. */
const withOthers = (root: Raw): Raw => {
  const copy = structuredClone(root);
  for (const { endpoints } of Object.values(copy["upstreams"] as Record<string, { endpoints: object[] }>)) {
    if (endpoints.length === 1) endpoints.push({ name: "sibling", tier: 1, url: "https://sibling.example" });
  }
  (copy["upstreams"] as Raw)["worker"] = {
    kind: "http",
    endpoints: [{ name: "only", tier: 0, url: "http://127.0.0.1:9001/metrics" }],
    probe: { type: "resource", resource: { metric: "process_resident_memory_bytes", limit: 1_000_000 } },
  };
  return copy;
};
const read = (root: Raw): Topology =>
  parseTopology(stringify(withOthers(root), { aliasDuplicateObjects: false }), { file: "failover.yaml", env }).topology;

/** Another value that may stand in the same place. */
function otherThan(value: unknown, path: Path): unknown {
  const key = String(path.at(-1));
  if (typeof value === "boolean") return !value;
  if (key === "tier") return value === 0 ? 2 : 0;
  // One of the bounds that routers count by.
  if (key === "response_time") return 10;
  if (typeof value === "number") return Number.isInteger(value) ? value + 1 : value / 2;
  assert.ok(typeof value === "string", path.join("."));
  if (key === "url") return "https://elsewhere.example/api";
  if (key === "kind") return "mcp";
  if (key === "role") return "write";
  if (key === "balancing") return "round_robin";
  if (key === "secret") return "ANOTHER_SECRET";
  if (key === "path") return "/elsewhere";
  if (path.at(-2) === "env" && value === "url") return "name";
  if (key === "preset") return value === "pinecone" ? "graphlit" : "pinecone";
  return `${value.replace(/\W+$/, "")}-other`;
}

test("every value of the reference configuration has an effect on a decision, a probe, a route or a message", () => {
  const leaves = leavesOf(raw());
  assert.ok(leaves.length > 100, `${leaves.length} values`);
  const idle: string[] = [];
  const unchanged = read(raw());
  const before = {
    development: JSON.stringify(effectsOf(unchanged, "development")),
    production: JSON.stringify(effectsOf(unchanged, "production")),
  };
  for (const path of leaves) {
    const environments = path[0] === "development" ? (["development"] as const) : (["production"] as const);
    for (const environment of environments) {
      let changed: Topology;
      try {
        changed = read(replaced(raw(), path, (value) => otherThan(value, path)));
      } catch (error) {
        // What has one meaning only refuses every other.
        if (error instanceof ConfigError && path.join(".") === "version") continue;
        throw new Error(path.join("."), { cause: error });
      }
      if (JSON.stringify(effectsOf(changed, environment)) === before[environment]) idle.push(path.join("."));
    }
  }
  assert.deepEqual(idle, [], "these values change nothing");
});

const topology = read(raw());
const rows: [string, unknown, unknown][] = [
  ["pinecone: 3 failures", policyFor(topology, "pinecone", "production").breaker.consecutiveFailures, 3],
  ["pinecone: open for 30 s", policyFor(topology, "pinecone", "production").breaker.openMs, 30_000],
  ["neo4j: 3 failures", policyFor(topology, "neo4j", "production").breaker.consecutiveFailures, 3],
  ["neo4j: open for 30 s", policyFor(topology, "neo4j", "production").breaker.openMs, 30_000],
  ["tavily: 10 failures", policyFor(topology, "tavily", "production").breaker.consecutiveFailures, 10],
  ["tavily: open for 60 s", policyFor(topology, "tavily", "production").breaker.openMs, 60_000],
  ["graphlit: 5 failures", policyFor(topology, "graphlit", "production").breaker.consecutiveFailures, 5],
  ["graphlit: open for 60 s", policyFor(topology, "graphlit", "production").breaker.openMs, 60_000],
  ["a call times out after 5 s", policyFor(topology, "graphlit", "production").router.callMs, 5000],
  ["a probe times out after 5 s", policyFor(topology, "tavily", "production").health.timeoutMs, 5000],
  ["health_check_interval: probes every 10 s", policyFor(topology, "tavily", "production").health.intervalMs, 10_000],
  ["error_rate", policyFor(topology, "tavily", "production").rollback.errorRate, 0.1],
  ["response_time in seconds", policyFor(topology, "tavily", "production").rollback.responseMsMax, 5000],
  ["memory_usage", targetsOf(topology, "production").get("worker/only")?.checks[0]?.resource?.ratio_max, 0.8],
  ["rollback.fallback_timeout bounds a switch", policyFor(topology, "tavily", "production").rollback.switchMs, 30_000],
  ["fallback.fallback_timeout bounds a call", policyFor(topology, "tavily", "production").router.fallbackMs, 60_000],
  ["pinecone is critical: it pages", severityOf(topology, "pinecone"), "page"],
  ["tavily is not critical: it notifies", severityOf(topology, "tavily"), "notify"],
  [
    "pinecone's contacts",
    contactsOf(topology, "pinecone"),
    ["on-call: Check PagerDuty rotation", "escalation: infrastructure@company.com", "pinecone: support@pinecone.io"],
  ],
  ["neo4j's probe", targetsOf(topology, "production").get("neo4j/secondary")?.url, "https://backup.databases.neo4j.io/"],
  [
    "pinecone's probe",
    targetsOf(topology, "production").get("pinecone/primary")?.url,
    "https://nightingale.pinecone.io/describe_index_stats",
  ],
];
for (const [name, found, expected] of rows) {
  test(`the reference configuration as the guide means it: ${name}`, () => assert.deepEqual(found, expected));
}

test("neo4j: writes go to the primary alone, reads that it cannot take to its replicas, before the backup", () => {
  const routes = (one: RouteCase) => [...new Set(routesOf(topology, "neo4j", one))];
  assert.deepEqual(routes({ safety: "unsafe" }), ["primary"]);
  assert.deepEqual(routes({ safety: "read_only", tried: ["primary"] }), ["replica-1"]);
  assert.deepEqual(routes({ safety: "read_only", tried: ["primary", "replica-1"] }), ["replica-2"]);
});

test("a breaker of its own opens after exactly the failures that the guide gives it", () => {
  for (const [name, failures] of [
    ["pinecone", 3],
    ["neo4j", 3],
    ["graphlit", 5],
    ["tavily", 10],
  ] as const) {
    const { localBreaker } = policyFor(topology, name, "production");
    let breaker = initialLocalBreaker;
    let count = 0;
    for (; localAllows(breaker, nowMs) && count < 50; count += 1) {
      breaker = localRecord(breaker, { generation: breaker.generation }, { class: "hard", code: "http_5xx" }, nowMs, localBreaker);
    }
    assert.equal(count, failures, name);
  }
});

test("the switches of an environment do what they say: legacy only, no fallback, no rollback, no regular probes", () => {
  const off = (key: string, value: boolean) => {
    const changed = read(replaced(raw(), ["production", key], () => value));
    return policyFor(changed, "tavily", "production");
  };
  assert.equal(off("mcp_enabled", false).router.legacyMode, true);
  assert.equal(off("legacy_mode", true).router.legacyMode, true);
  assert.deepEqual(off("fallback_enabled", false).router.fallback, { tool: false, agent: false, system: false });
  assert.equal(off("rollback_enabled", false).rollback.enabled, false);
  assert.equal(off("monitoring_enabled", false).health.monitored, false);
  assert.equal(defaultPolicy.health.monitored, true);
});
