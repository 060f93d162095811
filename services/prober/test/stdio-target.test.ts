import assert from "node:assert/strict";
import { test } from "node:test";
import { topology } from "@mcp-failover/contracts";
import { type Target, targetsOf } from "../src/targets.ts";
import { resultOf, runnerFor, targetOf } from "./probe-kit.ts";
import { answers, fakeServer } from "./servers.ts";

const stdio = { command: "files", env: { TOKEN: { secret: "FILES_TOKEN" } } };
const configured = (router: object = {}) =>
  topology.parse({ upstreams: { files: { kind: "mcp", endpoints: [{ name: "local", stdio, tier: 0 }] } }, router });

test("a process of the router is looked at through the router, without credentials: by its own address of it, else the public one", () => {
  const urlOf = (router: object, given?: string): string | undefined =>
    [...targetsOf(configured(router), "development", given).values()][0]?.url;
  assert.equal(urlOf({}), "http://127.0.0.1:7300/probe/files/local");
  assert.equal(urlOf({ public_urls: ["https://mcp.example.com/"] }), "https://mcp.example.com/probe/files/local");
  assert.equal(urlOf({ public_urls: ["https://mcp.example.com/"] }, "http://10.0.0.1:7300"), "http://10.0.0.1:7300/probe/files/local");
  const [target] = [...targetsOf(configured(), "development").values()];
  assert.equal(target?.type, "http");
  assert.equal(target?.host, "127.0.0.1:7300");
  assert.doesNotMatch(JSON.stringify(target?.checks), /FILES_TOKEN/);
});

test("a router that asks for a token is shown the newest one, and nobody else is", async (t) => {
  const [router, server] = await Promise.all([fakeServer(answers.status(200)), fakeServer(answers.status(200))]);
  t.after(() => Promise.all([router.kill(), server.kill()]));
  let token: string | null = "a-token-of-probers-that-is-long-enough";
  const opened = runnerFor(t, { routerToken: () => token });
  const ofProcess = [...targetsOf(configured(), "development", router.url).values()][0] as Target;
  const ofServer = targetOf({}, `${server.url}/health`);
  const look = async (): Promise<unknown> => {
    assert.equal((await resultOf(opened, ofProcess)).outcome, "ok");
    return router.requests.at(-1)?.headers.authorization;
  };
  assert.equal(await look(), `Bearer ${token}`);
  token = "the-token-that-came-after-it-without-a-restart";
  assert.equal(await look(), `Bearer ${token}`);
  await resultOf(opened, ofServer);
  assert.ok(server.requests.length > 0);
  for (const { headers } of server.requests) assert.doesNotMatch(JSON.stringify(headers), /token/);
  token = null;
  assert.equal(await look(), undefined, "without one the router lets in who is on its machine");
});

test("the memory of a process is asked of its router with the token, and is degraded over its share of the limit", async (t) => {
  const router = await fakeServer(answers.status(200));
  t.after(() => router.kill());
  const opened = runnerFor(t, { routerToken: () => "a-token-of-probers-that-is-long-enough" });
  const look = async (of: "largest" | "all") => {
    const checks = [{ type: "resource", resource: { stdio: of, limit: 1000, ratio_max: 0.5 } }];
    const local = { name: "local", stdio, tier: 0, probe: { checks } };
    const parsed = topology.parse({ upstreams: { files: { kind: "mcp", endpoints: [local] } } });
    return resultOf(opened, [...targetsOf(parsed, "development", router.url).values()][0] as Target);
  };
  router.handler = (request, response) =>
    response.end(request.url?.endsWith("/memory") ? JSON.stringify({ processes: 2, largestBytes: 400, allBytes: 700 }) : "{}");
  const largest = await look("largest");
  assert.deepEqual([largest.outcome, largest.degraded ?? null], ["ok", null]);
  const all = await look("all");
  assert.equal(all.degraded?.detail, "resource check: resident memory: expected at most 50 % of 1000; saw 700 (70 %)");
  assert.deepEqual(
    [...new Set(router.requests.map(({ path, headers }) => `${path} ${headers.authorization}`))].sort(),
    ["", "/memory"].map((path) => `/probe/files/local${path} Bearer a-token-of-probers-that-is-long-enough`),
  );
  router.handler = (_, response) => response.end(JSON.stringify({ processes: 2, largestBytes: null, allBytes: null }));
  assert.match((await look("all")).degraded?.detail ?? "", /no number at/, "a machine that cannot say");
});

test("a router that refuses the token says nothing of its process, neither good nor bad: the reason is told instead", async (t) => {
  const router = await fakeServer(answers.status(401));
  t.after(() => router.kill());
  const opened = runnerFor(t, { routerToken: () => "a-token-of-another-router-altogether" });
  const target = [...targetsOf(configured(), "development", router.url).values()][0] as Target;
  for (const status of [401, 403]) {
    router.handler = answers.status(status);
    const probe = await opened.probe(target, { fresh: true, timeoutMs: 2000 });
    assert.ok(probe.kind === "not_made" && probe.reason === "not_allowed", JSON.stringify(probe));
    assert.match(probe.detail, /MCPF_PROBE_TOKEN/);
    assert.doesNotMatch(probe.detail, /altogether/);
  }
  router.handler = answers.status(503);
  assert.equal((await resultOf(opened, target)).outcome, "hard", "a process that does not answer is down");
});
