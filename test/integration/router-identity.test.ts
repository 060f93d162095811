import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { request } from "node:https";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { selfSigned, tempDir } from "@mcp-failover/testkit";
import { until } from "../harness/wait.ts";
import { type RouterWorld, routerWorld } from "./router-world.ts";

let world: RouterWorld;
let dir: Awaited<ReturnType<typeof tempDir>>;
let endpoint: string;
before(async () => {
  [world, dir] = await Promise.all([routerWorld(), tempDir()]);
  endpoint = (await world.startEverything()).url;
});
after(async () => {
  await world.stop();
  await dir.remove();
});

describe("a real router process with agents", () => {
  test("lets in who has a token from the environment or a hash, says who called, and takes a new configuration at once", async () => {
    const upstreams = { everything: { kind: "mcp", endpoints: [{ name: "one", url: endpoint, tier: 0 }] } };
    const hash = createHash("sha256").update("token-of-bob").digest("hex");
    await world.configure({
      upstreams,
      agents: { alice: { tokens: [{ secret: "ALICE_TOKEN" }], allow: { tools: ["echo"] } }, bob: { tokens: [{ sha256: hash }] } },
    });
    const router = await world.startRouter("router-1", { ALICE_TOKEN: "token-of-alice", MCPF_ROUTER_ACCESS_LOG: "all" });
    const ask = async (message: object, headers: Record<string, string>): Promise<{ status: number; text: string; session: string }> => {
      const answer = await fetch(`${world.url}/mcp/everything`, {
        method: "POST",
        headers: { "content-type": "application/json", accept: "application/json, text/event-stream", ...headers },
        body: JSON.stringify(message),
      });
      return { status: answer.status, text: await answer.text(), session: answer.headers.get("mcp-session-id") ?? "" };
    };
    const initialize = {
      jsonrpc: "2.0",
      id: 1,
      method: "initialize",
      params: { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "raw", version: "1" } },
    };
    const alice = { authorization: "Bearer token-of-alice" };
    const bob = { authorization: "Bearer token-of-bob" };
    assert.equal((await ask(initialize, {})).status, 401);
    assert.equal((await ask(initialize, { authorization: "Bearer token-of-carol" })).status, 401);
    assert.equal((await ask(initialize, bob)).status, 200);
    const { session } = await ask(initialize, alice);
    const own = { ...alice, "mcp-session-id": session };
    await ask({ jsonrpc: "2.0", method: "notifications/initialized" }, own);
    const list = await ask({ jsonrpc: "2.0", id: 2, method: "tools/list" }, own);
    assert.deepEqual(
      [...list.text.matchAll(/"name":"([^"]+)"/g)].map(([, name]) => name),
      ["echo"],
    );
    const called = await ask(
      { jsonrpc: "2.0", id: 3, method: "tools/call", params: { name: "echo", arguments: { message: "hello" } } },
      own,
    );
    assert.match(called.text, /hello/);
    assert.equal((await ask({ jsonrpc: "2.0", id: 4, method: "tools/list" }, { ...bob, "mcp-session-id": session })).status, 404);
    await until(() => router.output().includes('"tool":"echo"'), 5000);
    assert.match(router.output(), /"agent":"alice"/);
    assert.doesNotMatch(router.output(), /token-of-/);

    await world.configure({ upstreams, agents: { bob: { tokens: [{ sha256: hash }] } } });
    await until(async () => (await ask(initialize, alice)).status === 401, 5000);
    assert.equal((await ask(initialize, bob)).status, 200);
    await router.stop();
  });

  test("serves TLS on its port, and warns when everybody who reaches it may call everything", async () => {
    const { key, cert } = selfSigned({ untilMs: Date.now() + 86_400_000 });
    const [certFile, keyFile] = [join(dir.path, "cert.pem"), join(dir.path, "key.pem")];
    await Promise.all([writeFile(certFile, cert), writeFile(keyFile, key)]);
    await world.configure({ upstreams: { everything: { kind: "mcp", endpoints: [{ name: "one", url: endpoint, tier: 0 }] } } });
    const tls = { MCPF_ROUTER_TLS_CERT_FILE: certFile, MCPF_ROUTER_TLS_KEY_FILE: keyFile };
    const router = await world.startRouter("router-2", { ...tls, MCPF_ROUTER_HOST: "0.0.0.0", MCPF_ROUTER_ALLOWED_HOSTS: "Tools.Example" });
    const ask = (path: string, headers: Record<string, string> = {}): Promise<{ status: number | undefined; body: string }> =>
      new Promise((resolve, reject) => {
        const url = `${world.url.replace("http:", "https:")}${path}`;
        const asking = request(url, { ca: cert, agent: false, headers, servername: "localhost" }, (response) => {
          let body = "";
          response.on("data", (chunk: Buffer) => {
            body += chunk.toString();
          });
          response.on("end", () => resolve({ status: response.statusCode, body }));
        });
        asking.on("error", reject);
        asking.end();
      });
    const { body: readiness } = await ask("/readyz");
    const { conditions } = JSON.parse(readiness) as { conditions: Record<string, { ok: boolean; reason: string }> };
    assert.deepEqual(
      [conditions["identity"]?.ok, /^warning: anybody who reaches 0\.0\.0\.0/.test(conditions["identity"]?.reason ?? "")],
      [true, true],
    );
    assert.match(router.output(), /anybody who reaches this address can call every tool/);
    const statuses = ["tools.example", "other.example"].map(async (host) => (await ask("/metrics", { host })).status);
    assert.deepEqual(await Promise.all(statuses), [200, 403], "names of hosts are the same in capitals");
    await router.stop();
  });
});
