import assert from "node:assert/strict";
import type { IncomingMessage, ServerResponse } from "node:http";
import { type TestContext, test } from "node:test";
import { probePresetNames, probePresets } from "@mcp-failover/contracts";
import { type BoltServer, boltServer } from "./bolt-server.ts";
import { resultOf, runnerFor, targetOf } from "./probe-kit.ts";
import { fakeServer } from "./servers.ts";

/**
 * Each service as its documentation says that it answers: statuses, headers and bodies. What is asked of it in another way than the real one
 * takes is refused as the real one refuses it.
 */
const secrets = {
  PINECONE_API_KEY: "pinecone-key",
  NEO4J_PASSWORD: "right-password",
  GRAPHLIT_JWT_SECRET: "graphlit-jwt",
  TAVILY_API_KEY: "tvly-key",
};

function json(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
}

async function serve(t: TestContext, answer: (request: IncomingMessage, response: ServerResponse, body: string) => void) {
  const server = await fakeServer(answer);
  t.after(() => server.kill());
  return server;
}

/** What a proxy before a service may show in its place. */
const page = "<html>We are down for maintenance</html>";

test("pinecone: POST /describe_index_stats with Api-Key; 401 is the key, a page with status 200 and a 503 are down", async (t) => {
  let mode: "well" | "empty" | "page" | "down" = "well";
  const server = await serve(t, (request, response, body) => {
    if (mode === "page") return void response.writeHead(200, { "content-type": "text/html" }).end(page);
    if (mode === "down") return json(response, 503, { code: 14, message: "unavailable", details: [] });
    if (request.headers["api-key"] !== "pinecone-key") return void response.writeHead(401).end("Unauthorized");
    if (request.method !== "POST" || request.url !== "/describe_index_stats" || request.headers["content-type"] !== "application/json")
      return json(response, 404, { code: 5, message: "Not Found", details: [] });
    assert.deepEqual(JSON.parse(body), {});
    assert.match(String(request.headers["x-pinecone-api-version"]), /^\d{4}-\d{2}$/);
    const namespaces = mode === "empty" ? {} : { "": { vectorCount: 50_000 } };
    json(response, 200, {
      namespaces,
      dimension: 1024,
      indexFullness: 0,
      totalVectorCount: mode === "empty" ? 0 : 50_000,
      metric: "cosine",
      vectorType: "dense",
    });
  });
  const runner = runnerFor(t, { secrets });
  const probe = (headers: object = { "Api-Key": { secret: "PINECONE_API_KEY" } }) =>
    resultOf(runner, targetOf({ preset: "pinecone" }, server.url, { endpoint: { headers } }));
  assert.deepEqual([(await probe()).outcome, (await probe()).error], ["ok", null]);
  mode = "empty";
  assert.equal((await probe()).outcome, "ok", "an index without vectors is well");
  assert.equal((await probe({})).outcome, "auth");
  mode = "page";
  assert.deepEqual([(await probe()).outcome, (await probe()).code], ["hard", "malformed"]);
  assert.match(
    (await probe()).error ?? "",
    /^JSON \$\['totalVectorCount','namespaces'\]: expected that it is there; saw a body that is no JSON$/,
  );
  mode = "down";
  assert.deepEqual([(await probe()).outcome, (await probe()).code], ["hard", "http_5xx"]);
});

async function neo4jHttp(t: TestContext) {
  let mode: "well" | "down" = "well";
  const server = await serve(t, (request, response) => {
    if (mode === "down") return json(response, 503, {});
    if (request.method !== "GET" || request.url !== "/" || !String(request.headers.accept).includes("application/json"))
      return json(response, 404, { errors: [{ code: "Neo.ClientError.Request.Invalid", message: "Not Found" }] });
    json(response, 200, {
      bolt_routing: "neo4j://localhost:7687",
      query: "http://localhost:7474/db/{databaseName}/query/v2",
      transaction: "http://localhost:7474/db/{databaseName}/tx",
      bolt_direct: "bolt://localhost:7687",
      neo4j_version: "5.26.0",
      neo4j_edition: "enterprise",
    });
  });
  const bolt: BoltServer = await boltServer();
  t.after(() => bolt.close());
  return {
    server,
    bolt,
    setMode: (next: "well" | "down") => {
      mode = next;
    },
  };
}

test("neo4j: the discovery document and Bolt with log on; without Bolt it is degraded, without HTTP down", async (t) => {
  const { server, bolt, setMode } = await neo4jHttp(t);
  const runner = runnerFor(t, { secrets });
  const auth = { username: "neo4j", password: { secret: "NEO4J_PASSWORD" } };
  const [extra] = probePresets.neo4j.checks ?? [];
  // The real one is at 7687; this one where the test found a free port.
  const checks = [{ ...extra, port: bolt.port }];
  const probe = (preset: string, more: object = {}) => resultOf(runner, targetOf({ preset, ...more }, server.url, { endpoint: { auth } }));
  const well = await probe("neo4j", { checks });
  assert.deepEqual([well.outcome, well.error, well.degraded], ["ok", null, undefined]);
  assert.ok(bolt.heard.includes("LOGON basic neo4j"));
  assert.equal((await probe("neo4j_http")).outcome, "ok");
  assert.equal((await probe("neo4j_bolt", { port: bolt.port })).outcome, "ok");
  bolt.password = "changed";
  const refused = await probe("neo4j", { checks });
  assert.deepEqual([refused.outcome, refused.degraded?.detail], ["ok", "bolt check: Neo4j says Neo.ClientError.Security.Unauthorized"]);
  await bolt.close();
  const halfDown = await probe("neo4j", { checks });
  assert.deepEqual([halfDown.outcome, halfDown.degraded?.detail], ["ok", "bolt check: no answer: refused (ECONNREFUSED)"]);
  setMode("down");
  assert.deepEqual([(await probe("neo4j", { checks })).outcome, (await probe("neo4j_http")).outcome], ["hard", "hard"]);
});

test("neo4j: written as neo4j+s://, Bolt is asked at port 7687 of the same host, over TLS", () => {
  const target = targetOf({ preset: "neo4j" }, "https://main.databases.neo4j.io", {
    endpoint: { auth: { username: "neo4j", password: { secret: "NEO4J_PASSWORD" } } },
  });
  assert.deepEqual(
    target.checks.map(({ type, url, severity, auth }) => [type, url, severity, auth !== null]),
    [
      ["http", "https://main.databases.neo4j.io/", "hard", true],
      ["bolt", "bolt+s://main.databases.neo4j.io:7687", "degraded", true],
    ],
  );
});

test("graphlit: GraphQL over HTTP at its own URL; an error with status 200 is down, a refused token is the token", async (t) => {
  let mode: "well" | "errors" = "well";
  const server = await serve(t, (request, response, body) => {
    if (request.url !== "/api/v1/graphql" || request.method !== "POST") return json(response, 404, {});
    if (request.headers.authorization !== "Bearer graphlit-jwt")
      return json(response, 401, {
        errors: [{ message: "The current user is not authorized to access this resource.", extensions: { code: "AUTH_NOT_AUTHORIZED" } }],
      });
    const { query } = JSON.parse(body) as { query: string };
    if (query !== "{ __typename }") return json(response, 400, { errors: [{ message: "syntax" }] });
    if (mode === "errors") return json(response, 200, { data: null, errors: [{ message: "Unexpected Execution Error" }] });
    json(response, 200, { data: { __typename: "Query" } });
  });
  const runner = runnerFor(t, { secrets });
  const headers = { Authorization: { secret: "GRAPHLIT_JWT_SECRET", prefix: "Bearer " } };
  const probe = (own: object = headers) =>
    resultOf(runner, targetOf({ preset: "graphlit" }, `${server.url}/api/v1/graphql`, { endpoint: { headers: own } }));
  assert.deepEqual([(await probe()).outcome, (await probe()).error], ["ok", null]);
  assert.equal((await probe({})).outcome, "auth");
  mode = "errors";
  const failing = await probe();
  assert.deepEqual([failing.outcome, failing.error], ["hard", "JSON $.errors: expected that it is not there; saw a list of 1"]);
});

test("tavily: POST /search of one character costs nothing and shows that it answers; a real search once an hour; a spent plan degrades", async (t) => {
  let plan: "left" | "spent" = "left";
  let isDown = false;
  const searches: string[] = [];
  const server = await serve(t, (request, response, body) => {
    if (isDown) return json(response, 500, { detail: { error: "Internal Server Error" } });
    if (request.method !== "POST" || request.url !== "/search") return json(response, 404, { detail: "Not Found" });
    if (request.headers.authorization !== "Bearer tvly-key")
      return json(response, 401, { detail: { error: "Unauthorized: missing or invalid API key." } });
    const { query, max_results } = JSON.parse(body) as { query: string; max_results?: number };
    if (query.length < 2) return json(response, 400, { detail: { error: "Query is too short. Min query length is 2 characters." } });
    if (plan === "spent") return json(response, 432, { detail: { error: "This request exceeds your plan's set usage limit." } });
    searches.push(query);
    const results = [{ title: "Status", url: "https://example.com/", content: "...", score: 0.9, raw_content: null }].slice(0, max_results);
    json(response, 200, { query, follow_up_questions: null, answer: null, images: [], results, response_time: 0.9, request_id: "r-1" });
  });
  let nowMs = 1_800_000_000_000;
  const runner = runnerFor(t, { secrets, nowMs: () => nowMs });
  const headers = { Authorization: { secret: "TAVILY_API_KEY", prefix: "Bearer " } };
  const target = targetOf({ preset: "tavily" }, server.url, { endpoint: { headers } });
  for (let n = 0; n < 290; n += 1) {
    const { outcome, degraded } = await resultOf(runner, target);
    assert.deepEqual([outcome, degraded], ["ok", undefined]);
    nowMs += 12_000;
  }
  assert.equal(searches.length, 1, "one credit in an hour of probes");
  nowMs += 3_600_000;
  plan = "spent";
  const spent = await resultOf(runner, target);
  assert.deepEqual([spent.outcome, spent.degraded?.detail], ["ok", "http check: status: expected 200; saw 432"]);
  isDown = true;
  assert.deepEqual([(await resultOf(runner, target)).outcome, (await resultOf(runner, target)).code], ["hard", "http_5xx"]);
  isDown = false;
  assert.equal((await resultOf(runner, targetOf({ preset: "tavily" }, server.url))).outcome, "auth");
});

test("every preset has a test here, and none carries a credential of its own", () => {
  assert.deepEqual([...probePresetNames], ["pinecone", "neo4j", "neo4j_http", "neo4j_bolt", "graphlit", "tavily"]);
  assert.doesNotMatch(JSON.stringify(probePresets), /secret|authorization|api-key/i);
});
