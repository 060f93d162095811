import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { ConfigError, parseTopology, probeChecks } from "@mcp-failover/contracts";
import { policyFor } from "@mcp-failover/domain";
import { node24, ROOT } from "../../scripts/lib/repo.mjs";
import { connectClient } from "../harness/load.ts";
import { until } from "../harness/wait.ts";

const read = (file: string): string => readFileSync(join(ROOT, file), "utf8");

/** Every variable that the implementation guide names, with values of the shape that it expects. */
const guide = {
  PINECONE_HOST: "https://nightingale.pinecone.io",
  PINECONE_BACKUP_HOST: "https://nightingale-backup.pinecone.io",
  NEO4J_URI: "neo4j+s://main.databases.neo4j.io",
  NEO4J_USER: "neo4j",
  NEO4J_BACKUP_URI: "neo4j+s://backup.databases.neo4j.io",
  NEO4J_READ_REPLICA_1: "neo4j+s://replica-1.databases.neo4j.io",
  NEO4J_READ_REPLICA_2: "neo4j+s://replica-2.databases.neo4j.io",
  GRAPHLIT_API_URL: "https://data-scus.graphlit.io/api/v1/graphql",
  GRAPHLIT_ORGANIZATION_ID: "organization-1",
};
const guideSecrets = ["PINECONE_API_KEY", "PINECONE_BACKUP_API_KEY", "NEO4J_PASSWORD", "GRAPHLIT_JWT_SECRET", "TAVILY_API_KEY"];
const reference = (hasSecret = (name: string) => guideSecrets.includes(name)) =>
  parseTopology(read("examples/reference/failover.yaml"), { file: "examples/reference/failover.yaml", env: guide, hasSecret }).topology;

test("the reference configuration holds the guide's upstreams with its breakers, probes, critical flags and contacts", () => {
  const topology = reference();
  assert.deepEqual(Object.keys(topology.upstreams).sort(), ["graphlit", "neo4j", "pinecone", "tavily"]);
  const seen = Object.fromEntries(
    Object.entries(topology.upstreams).map(([name, upstream]) => {
      const { critical, endpoints } = upstream;
      const [check] = endpoints[0] === undefined ? [] : probeChecks(upstream, endpoints[0]);
      const probed = `${check?.method} ${check?.url}`;
      const { breaker, health, router } = policyFor(topology, name, "production");
      const { consecutiveFailures, openMs, openMsMax } = breaker;
      return [name, [critical, probed, consecutiveFailures, openMs, openMsMax, router.callMs, health.intervalMs, health.timeoutMs]];
    }),
  );
  // The probes' 10 s are the rollback block's health_check_interval, which overrides the guide's 5 s where it is loaded.
  assert.deepEqual(seen, {
    pinecone: [true, "POST https://nightingale.pinecone.io/describe_index_stats", 3, 30_000, 30_000, 5000, 10_000, 5000],
    neo4j: [true, "GET https://main.databases.neo4j.io/", 3, 30_000, 30_000, 5000, 10_000, 5000],
    graphlit: [true, "POST https://data-scus.graphlit.io/api/v1/graphql", 5, 60_000, 60_000, 5000, 10_000, 5000],
    tavily: [false, "POST https://api.tavily.com/search", 10, 60_000, 60_000, 5000, 10_000, 5000],
  });
  assert.deepEqual(topology.contacts, {
    "on-call": "Check PagerDuty rotation",
    escalation: "infrastructure@company.com",
    pinecone: "support@pinecone.io",
    neo4j: "support@neo4j.com",
    tavily: "support@tavily.com",
  });
  const { rollback } = policyFor(topology, "pinecone", "production");
  assert.deepEqual([rollback.errorRate, rollback.responseMsMax, rollback.switchMs], [0.1, 5000, 30_000]);
  assert.equal(topology.rollback.rollback_thresholds.memory_usage, 0.8);
  assert.equal(topology.fallback.fallback_timeout, 60);
  assert.equal(topology.production?.monitoring_enabled, true);
});

test("the guide's URIs and credentials are used as its services do, and no secret's value is in the configuration", () => {
  const { upstreams } = reference();
  assert.deepEqual(
    upstreams["neo4j"]?.endpoints.map(({ name, url, role }) => [name, url, role]),
    [
      ["primary", "https://main.databases.neo4j.io", "write"],
      ["secondary", "https://backup.databases.neo4j.io", "write"],
      ["replica-1", "https://replica-1.databases.neo4j.io", "read"],
      ["replica-2", "https://replica-2.databases.neo4j.io", "read"],
    ],
  );
  assert.deepEqual(upstreams["neo4j"]?.endpoints[0]?.auth, { username: "neo4j", password: { secret: "NEO4J_PASSWORD" } });
  assert.deepEqual(
    upstreams["pinecone"]?.endpoints.map(({ headers }) => headers),
    [{ "Api-Key": { secret: "PINECONE_API_KEY" } }, { "Api-Key": { secret: "PINECONE_BACKUP_API_KEY" } }],
  );
  assert.deepEqual(upstreams["graphlit"]?.endpoints[0]?.headers, {
    Authorization: { secret: "GRAPHLIT_JWT_SECRET", prefix: "Bearer " },
    "X-Graphlit-Organization-Id": "organization-1",
  });
  assert.deepEqual(upstreams["tavily"]?.endpoints[0], {
    ...upstreams["tavily"]?.endpoints[0],
    url: "https://api.tavily.com",
    headers: { "api-key": { secret: "TAVILY_API_KEY" }, Authorization: { secret: "TAVILY_API_KEY", prefix: "Bearer " } },
  });
});

test("each missing secret and variable of the reference configuration is named with its path", () => {
  assert.throws(
    () => reference(() => false),
    (error: unknown) =>
      error instanceof ConfigError && guideSecrets.every((name) => error.message.includes(`the secret ${name} is missing`)),
  );
  assert.throws(
    () => parseTopology(read("examples/reference/failover.yaml"), { file: "f", env: {} }),
    (error: unknown) =>
      error instanceof ConfigError && /upstreams\.pinecone\.endpoints\.0\.url.*the variable PINECONE_HOST is not set/.test(error.message),
  );
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  return typeof address === "object" && address !== null ? address.port : 0;
}
function startNode(t: TestContext, args: readonly string[], port: number): ChildProcess {
  const child = spawn(node24(), [...args], {
    cwd: ROOT,
    env: { PATH: process.env["PATH"], PORT: String(port), MCPF_PARENT_PIPE: "1" },
    stdio: ["pipe", "ignore", "inherit"],
  });
  t.after(() => child.kill("SIGKILL"));
  return child;
}
const answers = (url: string) => () =>
  fetch(url).then(
    (response) => response.status > 0,
    () => false,
  );

test("the warehouse answers the same through MCP and through its legacy API, but for who answered", async (t) => {
  const [mcpPort, legacyPort] = [await freePort(), await freePort()];
  startNode(t, ["examples/local/warehouse/mcp-server.ts"], mcpPort);
  startNode(t, ["examples/local/warehouse/legacy-api.ts"], legacyPort);
  await until(answers(`http://127.0.0.1:${mcpPort}/healthz`), 10_000);
  await until(answers(`http://127.0.0.1:${legacyPort}/healthz`), 10_000);
  const client = await connectClient(`http://127.0.0.1:${mcpPort}/mcp`);
  t.after(() => client.close());
  const { tools } = await client.listTools();
  assert.deepEqual(
    tools.map(({ name, annotations }) => [name, annotations?.readOnlyHint]),
    [
      ["get_inventory", true],
      ["get_orders", true],
    ],
  );
  const questions = [
    ["get_inventory", {}, "/inventory"],
    ["get_inventory", { sku: "TAPE-050" }, "/inventory?sku=TAPE-050"],
    ["get_inventory", { below: 50 }, "/inventory?below=50"],
    ["get_orders", { status: "picking", limit: 1 }, "/orders?status=picking&limit=1"],
  ] as const;
  for (const [name, args, path] of questions) {
    // The client checks structuredContent against the tool's outputSchema.
    const viaMcp = (await client.callTool({ name, arguments: args })).structuredContent as Record<string, unknown>;
    const viaLegacy = (await (await fetch(`http://127.0.0.1:${legacyPort}${path}`)).json()) as Record<string, unknown>;
    assert.deepEqual(viaLegacy, { ...viaMcp, source: "legacy" });
    assert.equal(viaMcp["source"], "mcp");
  }
  assert.equal((await fetch(`http://127.0.0.1:${legacyPort}/orders?status=lost`)).status, 400);
  const stranger = await fetch(`http://127.0.0.1:${mcpPort}/mcp`, {
    method: "POST",
    headers: { "content-type": "application/json", accept: "application/json, text/event-stream", "mcp-session-id": "of-another-server" },
    body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/list" }),
  });
  assert.equal(stranger.status, 404, "a session that the server does not know");
});

test("server-everything, which would listen on all interfaces, is held to loopback and ends with its supervisor", async (t) => {
  const port = await freePort();
  const everything = "node_modules/@modelcontextprotocol/server-everything/dist/index.js";
  const child = startNode(t, ["--import", "./examples/local/loopback-only.mjs", everything, "streamableHttp"], port);
  await until(answers(`http://127.0.0.1:${port}/mcp`), 15_000);
  const hex = port.toString(16).toUpperCase().padStart(4, "0");
  const listening = ["/proc/net/tcp", "/proc/net/tcp6"].flatMap((file) =>
    readFileSync(file, "utf8")
      .split("\n")
      .map((line) => line.trim().split(/\s+/))
      .filter(([, local, , state]) => local?.endsWith(`:${hex}`) && state === "0A")
      .map(([, local]) => local),
  );
  assert.deepEqual(listening, [`0100007F:${hex}`], "127.0.0.1 and nothing else");
  const ended = once(child, "exit");
  child.stdin?.end();
  await ended;
});
