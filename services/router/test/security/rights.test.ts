import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { afterEach, beforeEach, test } from "node:test";
import { type Topology, topology } from "@mcp-failover/contracts";
import { createLocalJWKSet, exportJWK, generateKeyPair, SignJWT } from "jose";
import { createTokenGuard } from "../../src/identity/token-guard.ts";
import { initializeBody, post, until } from "../support/clients.ts";
import { fakeControl } from "../support/fake-control.ts";
import { startMcpServer, type TestMcpServer } from "../support/mcp-server.ts";
import { type ModernServer, startModernServer } from "../support/modern-server.ts";
import { startTestRouter } from "../support/router.ts";
import { controlOf } from "../support/several.ts";

const waitMs = 30_000;
const stop: (() => Promise<unknown>)[] = [];
const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");
const endpoints = [{ name: "only", url: "http://127.0.0.1:1", tier: 0 }];
const upstreams = { old: { kind: "mcp", endpoints }, modern: { kind: "mcp", endpoints } };
const meta = {
  "io.modelcontextprotocol/protocolVersion": "2026-07-28",
  "io.modelcontextprotocol/clientInfo": { name: "raw", version: "1" },
  "io.modelcontextprotocol/clientCapabilities": {},
};
let old: TestMcpServer;
let modern: ModernServer;
beforeEach(async () => {
  [old, modern] = await Promise.all([startMcpServer("old"), startModernServer("modern")]);
  stop.push(old.kill, modern.kill);
});
afterEach(async () => {
  for (const end of stop.splice(0).reverse()) await end();
});

/** A stream that is read until it ends. */
function reading(response: Response): { readonly ended: boolean; readonly status: number } {
  const stream = { ended: false, status: response.status };
  (async () => {
    for await (const _ of response.body ?? []);
  })()
    .catch(() => undefined)
    .finally(() => {
      stream.ended = true;
    });
  return stream;
}

test("W1: the streams of an agent whose right is withdrawn are closed, those of another one and of other upstreams go on", async () => {
  const agents = (allowed: string[]) => ({
    x: { tokens: [{ sha256: sha256("token-x") }], allow: { upstreams: allowed } },
    y: { tokens: [{ sha256: sha256("token-y") }] },
  });
  let configuration: Topology = topology.parse({ upstreams, agents: agents(["*"]) });
  const guard = createTokenGuard({
    configuration: () => configuration,
    secrets: { resolve: String },
    keys: { get: () => Promise.resolve(null), again: () => Promise.resolve(false) } as never,
    nowMs: () => Date.now(),
    onProblem: (agent) => assert.fail(agent),
  });
  const one = ({ url }: { url: string }) => fakeControl([{ name: "only", url }]);
  const router = await startTestRouter(controlOf({ old: one(old), modern: one(modern) }), { guard });
  stop.push(() => router.close(0));
  const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
  const session = async (path: string, token: string): Promise<string> => {
    const headers = bearer(token);
    const id = (await post(`${router.url}${path}`, initializeBody, headers)).headers.get("mcp-session-id") ?? "";
    await post(`${router.url}${path}`, { jsonrpc: "2.0", method: "notifications/initialized" }, { ...headers, "mcp-session-id": id });
    return id;
  };
  const open = async (path: string, token: string) =>
    reading(
      await fetch(`${router.url}${path}`, {
        headers: { ...bearer(token), accept: "text/event-stream", "mcp-session-id": await session(path, token) },
      }),
    );
  const listen = async (path: string, token: string) => {
    const params = { notifications: { toolsListChanged: true }, _meta: meta };
    return reading(
      await fetch(`${router.url}${path}`, {
        method: "POST",
        headers: {
          ...bearer(token),
          "content-type": "application/json",
          accept: "application/json, text/event-stream",
          "mcp-protocol-version": "2026-07-28",
          "mcp-method": "subscriptions/listen",
        },
        body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "subscriptions/listen", params }),
      }),
    );
  };
  const [lost, lostListen] = [await open("/mcp/old", "token-x"), await listen("/mcp/modern", "token-x")];
  const kept = [await open("/mcp/old", "token-y"), await listen("/mcp/modern", "token-y")];
  const all = [await open("/mcp", "token-x"), await listen("/mcp", "token-x")];
  for (const { status, ended } of [lost, lostListen, ...kept, ...all]) assert.deepEqual([status, ended], [200, false]);

  configuration = topology.parse({ upstreams, agents: agents(["modern"]) });
  await until(() => lost.ended, waitMs);
  assert.deepEqual(
    [lostListen, ...kept, ...all].map(({ ended }) => ended),
    [false, false, false, false, false],
  );
  const { y } = agents([]);
  configuration = topology.parse({ upstreams, agents: { y } });
  await until(() => lostListen.ended && all.every(({ ended }) => ended), waitMs);
  assert.deepEqual(
    kept.map(({ ended }) => ended),
    [false, false],
  );
  assert.equal((await post(`${router.url}/mcp/old`, initializeBody, bearer("token-x"))).status, 401);
  assert.deepEqual(router.problems, []);
});

test("W1: a token of an issuer is good until it expires, its agent is another's, or its issuer is gone", async () => {
  const { publicKey, privateKey } = await generateKeyPair("ES256");
  const keys = createLocalJWKSet({ keys: [{ ...(await exportJWK(publicKey)), alg: "ES256" }] });
  const issuer = { issuer: "https://idp.example.com/", jwks_url: "https://idp.example.com/jwks", audiences: ["router"] };
  const configured = (agents: object): Topology => topology.parse({ upstreams, agents, router: { auth: { issuers: [issuer] } } });
  const startMs = Date.now();
  let nowMs = startMs;
  let configuration = configured({ x: { subjects: ["x@clients"] } });
  const guard = createTokenGuard({
    configuration: () => configuration,
    secrets: { resolve: String },
    keys: { get: () => Promise.resolve(keys), again: () => Promise.resolve(false) } as never,
    nowMs: () => nowMs,
    onProblem: (agent) => assert.fail(agent),
  });
  const token = await new SignJWT({})
    .setProtectedHeader({ alg: "ES256" })
    .setIssuer(issuer.issuer)
    .setSubject("x@clients")
    .setAudience("router")
    .setExpirationTime(Math.floor(startMs / 1000) + 600)
    .sign(privateKey);
  const principal = await guard.identify({ authorization: `Bearer ${token}` }, "mcp", "old");
  assert.equal(principal.agent, "x");
  assert.ok(principal.still("old") && principal.still(""));
  configuration = configured({ x: { subjects: ["x@clients"], allow: { upstreams: ["modern"] } } });
  assert.deepEqual([principal.still("old"), principal.still("modern"), principal.still("")], [false, true, true]);
  configuration = configured({ z: { subjects: ["x@clients"] } });
  assert.equal(principal.still("modern"), false);
  configuration = configured({ x: { subjects: ["x@clients"] } });
  assert.ok(principal.still("old"));
  nowMs = startMs + 700_000;
  assert.equal(principal.still("old"), false);
});

test("W1: where nobody had to say who he was, streams end once somebody has to", () => {
  let configuration = topology.parse({ upstreams });
  const guard = createTokenGuard({
    configuration: () => configuration,
    secrets: { resolve: String },
    keys: {} as never,
    nowMs: () => 0,
    onProblem: (agent) => assert.fail(agent),
  });
  const principal = guard.identify({}, "mcp", "old");
  assert.ok(!(principal instanceof Promise) && principal.still("old"));
  configuration = topology.parse({ upstreams, agents: { x: { tokens: [{ sha256: sha256("token-x") }] } } });
  assert.equal(principal.still("old"), false);
});
