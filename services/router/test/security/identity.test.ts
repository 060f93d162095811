import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { memoryBroker } from "@mcp-failover/bus";
import { type SecretRef, topology } from "@mcp-failover/contracts";
import { testKit } from "@mcp-failover/service-kit/testing";
import { tempDir } from "@mcp-failover/testkit";
import { exportJWK, generateKeyPair, type JSONWebKeySet, SignJWT } from "jose";
import { routerConfig } from "../../src/config.ts";
import { keySetFile } from "../../src/identity/key-set-file.ts";
import { createKeySets, type KeySetStore } from "../../src/identity/key-sets.ts";
import { startTokenGuard } from "../../src/identity/start-guard.ts";
import { createTokenGuard } from "../../src/identity/token-guard.ts";
import { connectV1, initializeBody, post, textOf, toolCall, until } from "../support/clients.ts";
import { type FakeControl, fakeControl } from "../support/fake-control.ts";
import { startMcpServer, type TestMcpServer } from "../support/mcp-server.ts";
import { startTestRouter, type TestRouter } from "../support/router.ts";
import { startScriptedServer } from "../support/scripted-server.ts";

const stop: (() => Promise<unknown>)[] = [];
let a: TestMcpServer;
let control: FakeControl;
let nowMs = 0;
let problems: string[] = [];
/** Gives the router that was started last another configuration. */
let configure: (config: object) => void = () => undefined;
beforeEach(async () => {
  a = await startMcpServer("a", { json: true });
  control = fakeControl([{ name: "a", url: a.url }]);
  control.face = { tools: ["whoami", "write"], inForce: false };
  stop.push(a.kill);
  nowMs = Date.now();
  problems = [];
});
afterEach(async () => {
  for (const end of stop.splice(0).reverse()) await end();
});

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

async function routerWith(config: object, options: { store?: KeySetStore; againMs?: number } = {}): Promise<TestRouter> {
  const parse = (given: object) =>
    topology.parse({ upstreams: { fake: { kind: "mcp", endpoints: [{ name: "a", url: a.url, tier: 0 }] } }, ...given });
  let parsed = parse(config);
  configure = (given) => {
    parsed = parse(given);
  };
  const values: Record<string, string> = { ALICE_TOKEN: "token-of-alice" };
  const guard = createTokenGuard({
    configuration: () => parsed,
    secrets: {
      resolve(value: string | SecretRef) {
        const found = typeof value === "string" ? value : values[value.secret];
        if (found === undefined) throw new Error("missing");
        return found;
      },
    },
    keys: createKeySets({
      monotonicMs: () => nowMs,
      store: options.store ?? null,
      onTrouble: (error) => problems.push(String(error)),
      ...(options.againMs === undefined ? {} : { againMs: options.againMs }),
    }),
    nowMs: () => nowMs,
    onProblem: (agent) => problems.push(agent),
  });
  const router = await startTestRouter(control, { guard });
  stop.push(async () => {
    await router.close(0);
    assert.deepEqual(router.problems, []);
  });
  return router;
}
const bearer = (token: string): { authorization: string } => ({ authorization: `Bearer ${token}` });

describe("agents by static token", () => {
  const agents = {
    alice: { tokens: [{ secret: "ALICE_TOKEN" }, { secret: "NOT_THERE" }], allow: { tools: ["who*", "fake/slow"] } },
    bob: { tokens: [{ sha256: sha256("token-of-bob") }] },
    carol: { tokens: [{ sha256: sha256("token-of-carol") }], allow: { upstreams: ["other"] } },
  };

  test("I1, I2: only a token of the configuration lets in, by secret or by hash; the answer to any other names nothing", async () => {
    const { mcpUrl, url } = await routerWith({ agents });
    for (const token of ["token-of-alice", "token-of-bob"]) assert.equal((await post(mcpUrl, initializeBody, bearer(token))).status, 200);
    const before = a.seen.headers.length;
    for (const headers of [
      {},
      bearer("x"),
      bearer(""),
      bearer("token-of-alice "),
      { authorization: "Basic dG9rZW4tb2YtYWxpY2U=" },
      { cookie: "token-of-alice" },
      bearer(sha256("token-of-bob")),
    ]) {
      const answer = await post(mcpUrl, initializeBody, headers as Record<string, string>);
      if ((headers as { authorization?: string }).authorization === "Bearer token-of-alice ") continue;
      assert.equal(answer.status, 401, JSON.stringify(headers));
      assert.match(answer.headers.get("www-authenticate") ?? "", /^Bearer realm="mcp-failover"/);
      assert.doesNotMatch(answer.text, /token-of|alice|bob/);
    }
    assert.equal((await fetch(`${url}/http/fake/v1`)).status, 401);
    assert.equal((await fetch(mcpUrl, { headers: { accept: "text/event-stream" } })).status, 401);
    assert.equal((await fetch(mcpUrl, { method: "DELETE" })).status, 401);
    assert.equal((await post(`${url}/mcp/nobody`, initializeBody)).status, 401, "an upstream that there is not is no news for strangers");
    assert.equal((await fetch(`${url}/healthz`)).status, 200);
    assert.equal((await fetch(`${url}/.well-known/oauth-protected-resource`)).status, 404, "there is no issuer to name");
    assert.ok(a.seen.headers.length <= before + 1);
    assert.deepEqual(problems, ["alice"], "a token whose secret is missing is told, and the others work");
  });

  test("R24: a real client sees the tools that its agent may call; another one is refused with a typed error and not sent", async () => {
    for (const json of [true, false]) {
      const server = await startMcpServer("s", { json });
      stop.push(server.kill);
      control = fakeControl([{ name: "s", url: server.url }]);
      const { mcpUrl } = await routerWith({ agents });
      const { client } = await connectV1(mcpUrl, { requestInit: { headers: bearer("token-of-alice") } });
      assert.deepEqual((await client.listTools()).tools.map(({ name }) => name).sort(), ["slow", "whoami"]);
      assert.equal(textOf(await client.callTool({ name: "whoami", arguments: {} })), "s");
      await assert.rejects(
        client.callTool({ name: "write", arguments: { key: "1" } }),
        (error: { code?: number; data?: { code?: string; retriable?: boolean } }) => {
          assert.deepEqual([error.code, error.data?.code, error.data?.retriable], [1010, "forbidden", false]);
          return true;
        },
      );
      assert.deepEqual(server.writes, []);
      await client.close();
      assert.equal(control.calls.at(-1)?.agent, "alice", "the name is that of the token, whatever a header says");
      const bob = await connectV1(mcpUrl, { requestInit: { headers: { ...bearer("token-of-bob"), "mcpf-agent": "alice" } } });
      assert.ok((await bob.client.listTools()).tools.length > 2);
      await bob.client.close();
      assert.equal(control.calls.at(-1)?.agent, "bob");
    }
  });

  test("R16: a list that is cut to what an agent may see is that agent's alone, though the upstream gave it for all", async () => {
    const server = await startScriptedServer("s", { modern: true });
    stop.push(server.kill);
    const tools = ["whoami", "write"].map((name) => ({ name, inputSchema: { type: "object" } }));
    server.answer = ({ method, message, response }) => {
      if (method !== "tools/list") return false;
      const result = { resultType: "complete", ttlMs: 60_000, cacheScope: "public", tools };
      response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ jsonrpc: "2.0", id: message.id, result }));
      return true;
    };
    control = fakeControl([{ name: "s", url: server.url }]);
    const { mcpUrl } = await routerWith({ agents });
    const version = "2026-07-28";
    const list = async (token: string) => {
      const meta = {
        "io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientInfo": { name: "raw", version: "1" },
        "io.modelcontextprotocol/clientCapabilities": {},
      };
      const headers = { ...bearer(token), "mcp-protocol-version": version, "mcp-method": "tools/list" };
      const { result } = (await post(mcpUrl, { jsonrpc: "2.0", id: 1, method: "tools/list", params: { _meta: meta } }, headers)).body;
      const names = ((result?.["tools"] ?? []) as { name: string }[]).map(({ name }) => name);
      return [names, result?.["cacheScope"], result?.["ttlMs"]];
    };
    assert.deepEqual(await list("token-of-alice"), [["whoami"], "private", 60_000]);
    assert.deepEqual(await list("token-of-bob"), [["whoami", "write"], "public", 60_000], "who sees all of it has it as it came");
  });

  test("R24: an agent's limits hold for what stands in while no server is there, too", async () => {
    const { mcpUrl } = await routerWith({ agents });
    await a.kill();
    const begun = await post(mcpUrl, initializeBody, bearer("token-of-alice"));
    const id = begun.headers.get("mcp-session-id") ?? "";
    const list = await post(mcpUrl, { jsonrpc: "2.0", id: 2, method: "tools/list" }, { ...bearer("token-of-alice"), "mcp-session-id": id });
    assert.deepEqual(
      ((list.body.result?.["tools"] ?? []) as { name: string }[]).map(({ name }) => name),
      ["whoami"],
    );
  });

  test("R24: no second reading of a message, and no raw request, reaches a tool that is forbidden", async () => {
    const { mcpUrl, url } = await routerWith({ agents });
    const begun = await post(mcpUrl, initializeBody, bearer("token-of-alice"));
    const headers = { ...bearer("token-of-alice"), "mcp-session-id": begun.headers.get("mcp-session-id") ?? "" };
    const before = a.seen.headers.length;
    for (const body of [
      '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"write","name":"whoami","arguments":{"key":"1"}}}',
      '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"Name":"write","name":"whoami","arguments":{"key":"1"}}}',
      '{"jsonrpc":"2.0","id":1,"method":"tools/call","method":"tools/list","params":{"name":"write"}}',
      '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"write"},"params":{"name":"whoami"}}',
      '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":["write"]}}',
    ]) {
      const answer = await post(mcpUrl, body, headers);
      assert.deepEqual([answer.status, answer.body.error?.code], [200, 1010], body);
    }
    const modern = { _meta: { "io.modelcontextprotocol/protocolVersion": "2026-07-28" } };
    for (const more of [
      { "mcp-method": "tools/call", "mcp-name": "write" },
      { "mcp-method": "tools/list" },
      { "mcp-name": "=?base64?d3JpdGU=?=" },
    ] as Record<string, string>[]) {
      const call = { jsonrpc: "2.0", id: 1, method: "tools/call", params: { name: "whoami", ...modern } };
      const answer = await post(mcpUrl, call, { ...bearer("token-of-alice"), ...more });
      assert.equal(answer.body.result, undefined, JSON.stringify(more));
    }
    const notified = await post(
      mcpUrl,
      { jsonrpc: "2.0", method: "tools/call", params: { name: "write", arguments: { key: "1" } } },
      headers,
    ).catch(() => null);
    assert.ok(notified === null || notified.status === 403);
    const raw = await fetch(`${url}/http/fake`, {
      method: "POST",
      headers: { ...headers, "content-type": "application/json" },
      body: JSON.stringify(toolCall(1, "write", { key: "1" })),
    });
    assert.equal(raw.status, 403);
    assert.equal(a.seen.headers.length, before, "nothing was sent on");
    assert.deepEqual(a.writes, []);
  });

  test("R24: a tool that is allowed is called by whatever name says it in the header: plain, or encoded as what no header can hold is", async () => {
    const { mcpUrl } = await routerWith({ agents });
    const begun = await post(mcpUrl, initializeBody, bearer("token-of-alice"));
    const headers = { ...bearer("token-of-alice"), "mcp-session-id": begun.headers.get("mcp-session-id") ?? "" };
    for (const name of ["whoami", "=?base64?d2hvYW1p?="]) {
      const answer = await post(mcpUrl, toolCall(1, "whoami"), { ...headers, "mcp-name": name });
      assert.equal(answer.body.result?.content?.[0]?.text, "a", name);
    }
  });

  test("R24: an upstream that the agent may not use is refused like one that there is not", async () => {
    const { mcpUrl, url } = await routerWith({ agents });
    const known = await post(mcpUrl, initializeBody, bearer("token-of-carol"));
    const unknown = await post(`${url}/mcp/xxxx`, initializeBody, bearer("token-of-carol"));
    assert.deepEqual([known.status, unknown.status], [403, 403]);
    assert.equal(known.text.replaceAll("fake", "xxxx"), unknown.text);
    assert.doesNotMatch((await post(`${url}/mcp/other`, initializeBody, bearer("token-of-carol"))).text, /fake/);
  });
});

/** An issuer of tokens with a key set that can be renewed, or break. */
async function startIssuer() {
  let keys: { kid: string; private: Awaited<ReturnType<typeof generateKeyPair>>["privateKey"]; jwk: object }[] = [];
  let fetches = 0;
  let answer: "keys" | "error" | "redirect" | "endless" | "large" = "keys";
  let held: Promise<void> | null = null;
  const metadata = new Map<string, object>();
  const asked: string[] = [];
  const server = createServer((request, response) => {
    const path = request.url ?? "";
    if (path.includes("/.well-known/") && answer === "keys") {
      asked.push(path);
      const found = metadata.get(path);
      response.writeHead(found === undefined ? 404 : 200, { "content-type": "application/json" }).end(JSON.stringify(found ?? {}));
      return;
    }
    fetches++;
    if (answer === "error") response.writeHead(500).end();
    else if (answer === "redirect" && path !== "/moved") response.writeHead(302, { location: "/moved" }).end();
    else if (answer === "endless") {
      const pump = (): void => {
        while (!response.destroyed && response.write("x".repeat(65_536)));
        if (!response.destroyed) response.once("drain", pump);
      };
      response.on("error", () => undefined);
      pump();
    } else {
      const give = (): void => {
        const text = JSON.stringify({ keys: keys.map(({ jwk }) => jwk) });
        response.writeHead(200, { "content-type": "application/json" }).end(answer === "large" ? text.padEnd(300 * 1024) : text);
      };
      if (held === null) give();
      else void held.then(give);
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  stop.push(
    () =>
      new Promise((resolve) => {
        server.close(resolve);
        server.closeAllConnections();
      }),
  );
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const self = {
    issuer: "https://idp.example",
    url,
    jwksUrl: `${url}/jwks`,
    /** What it says of itself, by path; and the paths that it was asked for. */
    metadata,
    asked,
    get fetches() {
      return fetches;
    },
    set answer(what: typeof answer) {
      answer = what;
    },
    /** Gives its keys only after what this returns is called. */
    hold(): () => void {
      const { promise, resolve } = Promise.withResolvers<void>();
      held = promise;
      return () => {
        held = null;
        resolve();
      };
    },
    /** `keep`: the keys from before are given beside the new one. */
    async rotate(kid: string, keep = false) {
      const pair = await generateKeyPair("ES256", { extractable: true });
      const one = { kid, private: pair.privateKey, jwk: { ...(await exportJWK(pair.publicKey)), kid, alg: "ES256", use: "sig" } };
      keys = keep ? [one, ...keys] : [one];
    },
    /** Gives a key that is none beside those that it has. */
    giveToo(jwk: object) {
      const [key] = keys;
      if (key !== undefined) keys.push({ ...key, kid: "", jwk });
    },
    get keySet() {
      return { keys: keys.map(({ jwk }) => jwk) } as JSONWebKeySet;
    },
    sign(
      claims: { aud?: string | string[]; sub?: string; iss?: string; scope?: string; expiresInS?: number | null; kid?: string | null } = {},
    ): Promise<string> {
      const [key] = keys;
      const { aud = "https://router.example/mcp/fake", sub = "alice-at-idp", iss = self.issuer, scope = "mcp", expiresInS = 300 } = claims;
      const nowS = Math.floor(nowMs / 1000);
      const token = new SignJWT({ scope })
        .setProtectedHeader({ alg: "ES256", ...(claims.kid === null ? {} : { kid: claims.kid ?? key?.kid ?? "" }) })
        .setIssuer(iss)
        .setSubject(sub)
        .setAudience(aud)
        .setIssuedAt(nowS);
      if (expiresInS !== null) token.setExpirationTime(nowS + expiresInS);
      return token.sign(key?.private ?? new Uint8Array());
    },
  };
  await self.rotate("one");
  return self;
}

describe("agents by OAuth 2.1 bearer token", () => {
  const configuration = (issuer: { issuer: string; jwksUrl: string }): object => ({
    agents: { alice: { subjects: ["alice-at-idp"], allow: { tools: ["whoami"] } } },
    router: {
      public_urls: ["https://router.example"],
      auth: { issuers: [{ issuer: issuer.issuer, jwks_url: issuer.jwksUrl, scopes: ["mcp"], audiences: ["api://router"] }] },
    },
  });

  test("R24, I3: signature, issuer, time, audience and scope have to be right, and the refusal says how to get a token", async () => {
    const issuer = await startIssuer();
    const stranger = await startIssuer();
    const { mcpUrl } = await routerWith(configuration(issuer));
    const ask = async (token: string) => post(mcpUrl, initializeBody, bearer(token));
    for (const aud of ["https://router.example/mcp/fake", "https://router.example", ["x", "api://router"]]) {
      const answer = await ask(await issuer.sign({ aud }));
      assert.equal(answer.status, 200, `${JSON.stringify(aud)}: ${answer.text}`);
    }
    const good = await issuer.sign();
    const [head = "", payload = "", signature = ""] = good.split(".");
    const encode = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
    const claims = JSON.parse(Buffer.from(payload, "base64url").toString()) as object;
    const bad: [string, string][] = [
      ["of another router", await issuer.sign({ aud: "https://other.example/mcp/fake" })],
      ["of another upstream", await issuer.sign({ aud: "https://router.example/mcp/other" })],
      ["expired", await issuer.sign({ expiresInS: -120 })],
      ["without an end", await issuer.sign({ expiresInS: null })],
      ["of another issuer", await issuer.sign({ iss: "https://evil.example" })],
      ["signed by another issuer", await stranger.sign()],
      ["with a key that there is not", await issuer.sign({ kid: "two" })],
      ["with other claims", `${head}.${encode({ ...claims, sub: "root" })}.${signature}`],
      ["without a signature", `${encode({ alg: "none" })}.${payload}.`],
      ["with a shared secret", `${encode({ alg: "HS256", kid: "one" })}.${payload}.${signature}`],
      ["cut", good.slice(0, -4)],
      ["nonsense", "a.b.c"],
    ];
    const before = a.seen.headers.length;
    for (const [what, token] of bad) {
      const answer = await ask(token);
      assert.equal(answer.status, 401, what);
      const said = answer.headers.get("www-authenticate") ?? "";
      assert.match(said, /^Bearer realm="mcp-failover", error="invalid_token"/, what);
      assert.match(said, /resource_metadata="https:\/\/router\.example\/\.well-known\/oauth-protected-resource\/mcp\/fake"/);
    }
    const poor = await ask(await issuer.sign({ scope: "other" }));
    assert.equal(poor.status, 403);
    assert.match(poor.headers.get("www-authenticate") ?? "", /error="insufficient_scope".*scope="mcp"/);
    assert.equal((await ask(await issuer.sign({ sub: "nobody-that-is-known" }))).status, 403);
    assert.equal((await post(mcpUrl, initializeBody)).status, 401);
    assert.equal(a.seen.headers.length, before);
    assert.ok(
      a.seen.headers.every((seen) => seen["authorization"] === undefined),
      "no token is passed through",
    );
  });

  test("RFC 9728: the metadata names the resource and who gives tokens for it", async () => {
    const issuer = await startIssuer();
    const { url } = await routerWith(configuration(issuer));
    const metadata = async (path: string): Promise<[number, unknown]> => {
      const answer = await fetch(`${url}/.well-known/oauth-protected-resource${path}`);
      return [answer.status, await answer.json()];
    };
    const [status, body] = await metadata("/mcp/fake");
    assert.equal(status, 200);
    assert.deepEqual(body, {
      resource: "https://router.example/mcp/fake",
      authorization_servers: ["https://idp.example"],
      bearer_methods_supported: ["header"],
      resource_name: "mcp-failover",
      scopes_supported: ["mcp"],
    });
    assert.equal(((await metadata(""))[1] as { resource: string }).resource, "https://router.example");
    assert.equal(((await metadata("/mcp"))[1] as { resource: string }).resource, "https://router.example/mcp");
    assert.equal((await metadata("/mcp/fake/../../x"))[0], 404);
  });

  test("I3: a session is bound to the subject; the signature is not looked at for each call, the expiry is", async () => {
    const issuer = await startIssuer();
    const { mcpUrl } = await routerWith(configuration(issuer));
    const token = await issuer.sign({ expiresInS: 20 });
    const begun = await post(mcpUrl, initializeBody, bearer(token));
    const headers = { "mcp-session-id": begun.headers.get("mcp-session-id") ?? "" };
    const renewed = await issuer.sign({ expiresInS: 500 });
    assert.equal(textOf((await post(mcpUrl, toolCall(1, "whoami"), { ...headers, ...bearer(renewed) })).body.result), "a");
    assert.equal((await post(mcpUrl, toolCall(1, "write", { key: "1" }), { ...headers, ...bearer(token) })).body.error?.code, 1010);
    nowMs += 55_000;
    assert.equal((await post(mcpUrl, toolCall(2, "whoami"), { ...headers, ...bearer(token) })).status, 401, "it has expired meanwhile");
    assert.equal(issuer.fetches, 1);
  });

  test("I3: a token that was good is no longer worth more than the configuration in force says, nor good for another upstream", async () => {
    const issuer = await startIssuer();
    const config = configuration(issuer);
    const { mcpUrl, url } = await routerWith(config);
    const headers = bearer(await issuer.sign());
    const ask = async (to: URL | string): Promise<number> => (await post(new URL(to), initializeBody, headers)).status;
    assert.deepEqual([await ask(mcpUrl), await ask(`${url}/mcp/other`), await ask(mcpUrl)], [200, 401, 200]);
    configure({ ...config, agents: { alice: { subjects: ["somebody-else"] } } });
    assert.equal(await ask(mcpUrl), 403);
  });

  test("I3: a token that is looked at while the configuration changes is worth what the new one says, then and later", async () => {
    for (const [what, later, expected] of [
      ["its subject is another one's", { subjects: ["somebody-else"] }, { status: 403 }],
      ["it may use another upstream", { subjects: ["alice-at-idp"], allow: { upstreams: ["other"] } }, { status: 403 }],
      ["it may use more", { subjects: ["alice-at-idp"] }, { status: 200 }],
    ] as const) {
      const issuer = await startIssuer();
      const config = configuration(issuer);
      const { mcpUrl } = await routerWith(config);
      const release = issuer.hold();
      const headers = bearer(await issuer.sign());
      const looked = post(mcpUrl, initializeBody, headers);
      await until(() => issuer.fetches === 1);
      configure({ ...config, agents: { alice: later } });
      assert.equal((await post(mcpUrl, initializeBody)).status, 401, "somebody else's request shows the new configuration to the guard");
      release();
      const [first, second] = [await looked, await post(mcpUrl, initializeBody, headers)];
      assert.deepEqual([first.status, second.status], [expected.status, expected.status], what);
    }
  });

  test("K2: a new key is fetched when a token names it, but not for every token that names a wrong one", async () => {
    const issuer = await startIssuer();
    const { mcpUrl } = await routerWith(configuration(issuer), { againMs: 30_000 });
    assert.equal((await post(mcpUrl, initializeBody, bearer(await issuer.sign()))).status, 200);
    await issuer.rotate("two");
    const next = await issuer.sign();
    assert.equal((await post(mcpUrl, initializeBody, bearer(next))).status, 401, "the keys have just been fetched");
    nowMs += 31_000;
    assert.equal((await post(mcpUrl, initializeBody, bearer(next))).status, 200);
    assert.equal(issuer.fetches, 2);
    const wrong = await issuer.sign({ kid: "three" });
    for (let times = 0; times < 20; times++) assert.equal((await post(mcpUrl, initializeBody, bearer(wrong))).status, 401);
    assert.equal(issuer.fetches, 2);
  });

  test("K2: tokens that name no key are good by any of the issuer's, while it has two of them and when it has a new one", async () => {
    const issuer = await startIssuer();
    const { mcpUrl } = await routerWith(configuration(issuer), { againMs: 30_000 });
    const old = [await issuer.sign({ kid: null }), await issuer.sign({ kid: null, expiresInS: 3000 })] as const;
    assert.equal((await post(mcpUrl, initializeBody, bearer(old[0]))).status, 200);
    await issuer.rotate("two", true);
    nowMs += 31_000;
    assert.equal(
      (await post(mcpUrl, initializeBody, bearer(await issuer.sign({ kid: null })))).status,
      200,
      "of a key that is not known yet",
    );
    assert.equal((await post(mcpUrl, initializeBody, bearer(old[1]))).status, 200, "of the one from before");
    await issuer.rotate("three");
    const gone = await issuer.sign({ kid: null });
    await issuer.rotate("four");
    nowMs += 31_000;
    const refused = await post(mcpUrl, initializeBody, bearer(gone));
    assert.deepEqual([refused.status, refused.text.includes("its signature is wrong")], [401, true]);
    assert.equal(issuer.fetches, 3);
    for (let times = 0; times < 5; times++) assert.equal((await post(mcpUrl, initializeBody, bearer(gone))).status, 401);
    assert.equal(issuer.fetches, 3, "not for every token that is wrong");
  });

  test("K2: a token that names no key is tried with eight of the issuer's, and with no more", async () => {
    const issuer = await startIssuer();
    const tokens = [await issuer.sign({ kid: null })];
    for (const kid of ["two", "three", "four", "five", "six", "seven", "eight", "nine"]) {
      await issuer.rotate(kid, true);
      tokens.push(await issuer.sign({ kid: null }));
    }
    const { mcpUrl } = await routerWith(configuration(issuer));
    const [ninth = "", eighth = ""] = tokens;
    assert.equal((await post(mcpUrl, initializeBody, bearer(eighth))).status, 200);
    assert.equal((await post(mcpUrl, initializeBody, bearer(ninth))).status, 401);
  });

  test("K1: keys are fetched once for all that wait for them, and refused where they are too large, too many, or somewhere else", async () => {
    const issuer = await startIssuer();
    const ask = async ({ mcpUrl }: TestRouter): Promise<number> => (await post(mcpUrl, initializeBody, bearer(await issuer.sign()))).status;
    const router = await routerWith(configuration(issuer));
    const release = issuer.hold();
    const asked = Array.from({ length: 5 }, () => ask(router));
    await until(() => issuer.fetches > 0);
    await new Promise((resolve) => setTimeout(resolve, 50));
    release();
    assert.deepEqual([...(await Promise.all(asked)), issuer.fetches], [200, 200, 200, 200, 200, 1]);
    for (const answer of ["redirect", "large"] as const) {
      issuer.answer = answer;
      assert.equal(await ask(await routerWith(configuration(issuer))), 503, answer);
    }
    issuer.answer = "keys";
    for (let key = 0; key < 200; key++) issuer.giveToo({ kty: "EC", kid: `more-${key}` });
    assert.equal(await ask(await routerWith(configuration(issuer))), 503, "201 keys");
  });

  test("K3: keys that the disk does not take are used all the same, and a secret one is neither used nor kept", async () => {
    const issuer = await startIssuer();
    issuer.giveToo({ kty: "oct", kid: "shared", k: "c2VjcmV0" });
    const saved: string[] = [];
    const store: KeySetStore = {
      load: async () => ({}),
      save: async (sets) => {
        saved.push(JSON.stringify(sets));
        throw new Error("no space left on device");
      },
    };
    const { mcpUrl } = await routerWith(configuration(issuer), { store, againMs: 30_000 });
    assert.equal((await post(mcpUrl, initializeBody, bearer(await issuer.sign()))).status, 200);
    await issuer.rotate("two");
    nowMs += 31_000;
    assert.equal((await post(mcpUrl, initializeBody, bearer(await issuer.sign()))).status, 200);
    assert.deepEqual(
      saved.map((text) => text.includes("c2VjcmV0")),
      [false, false],
    );
  });

  test("I1: a key of the issuer that cannot be used lets nobody in, keeps nobody out, and is no fault of the router", async () => {
    const issuer = await startIssuer();
    issuer.giveToo({ kty: "EC", crv: "P-256", x: "AA", y: "AA", kid: "damaged", alg: "ES256", use: "sig" });
    const { mcpUrl } = await routerWith(configuration(issuer));
    const refused = await post(mcpUrl, initializeBody, bearer(await issuer.sign({ kid: "damaged" })));
    assert.deepEqual([refused.status, refused.text.includes("the issuer's key for it cannot be used")], [401, true], refused.text);
    for (const kid of [null, "one"]) assert.equal((await post(mcpUrl, initializeBody, bearer(await issuer.sign({ kid })))).status, 200);
  });

  test("K3: keys on disk are not lost by a process that was never asked for their issuer", async () => {
    const dir = await tempDir();
    stop.push(() => dir.remove());
    const store = keySetFile(join(dir.path, "key-sets.json"));
    const set = { keys: [] } as unknown as JSONWebKeySet;
    const given = { monotonicMs: () => 0, store, onTrouble: (error: unknown) => problems.push(String(error)), fetch: async () => set };
    const both = createKeySets(given);
    for (const url of ["one", "two"]) await both.get(url);
    await createKeySets(given).get("one");
    assert.deepEqual(await store.load(), { one: set, two: set });
    const many = createKeySets(given);
    for (let index = 0; index < 110; index++) await many.get(`of ${index}`);
    assert.equal(Object.keys(await store.load()).length, 100, "their number has a limit");
    await writeFile(join(dir.path, "key-sets.json"), "{");
    await createKeySets(given).get("one");
    assert.deepEqual(await store.load(), { one: set }, "a damaged file is written anew");
  });

  test("K2: new keys are fetched though the machine's clock was set back", async (t) => {
    const dir = await tempDir();
    stop.push(() => dir.remove());
    const issuer = await startIssuer();
    const parsed = topology.parse({
      upstreams: { fake: { kind: "mcp", endpoints: [{ name: "a", url: a.url, tier: 0 }] } },
      ...configuration(issuer),
    });
    const kit = testKit({ service: "router", instance: "router-1", bus: memoryBroker().connect(), dataDir: dir.path, nowMs: () => nowMs });
    const config = routerConfig.parse({});
    const guard = startTokenGuard({ ...kit, config }, { configuration: () => parsed, onRouteChange: () => () => undefined });
    const identify = async () => (await guard.identify(bearer(await issuer.sign()), "mcp", "fake")).agent;
    assert.equal(await identify(), "alice");
    nowMs -= 3_600_000;
    await issuer.rotate("two");
    const realMs = performance.now.bind(performance);
    t.mock.method(performance, "now", () => realMs() + 31_000);
    assert.equal(await identify(), "alice");
  });

  test("K1, K3, I4: keys that cannot be fetched refuse nobody whom the last good ones let in, also after a restart", async () => {
    const dir = await tempDir();
    stop.push(() => dir.remove());
    const store = keySetFile(join(dir.path, "router", "key-sets.json"));
    const issuer = await startIssuer();
    const first = await routerWith(configuration(issuer), { store });
    assert.equal((await post(first.mcpUrl, initializeBody, bearer(await issuer.sign()))).status, 200);
    assert.deepEqual(await store.load(), { [issuer.jwksUrl]: issuer.keySet });
    for (const answer of ["error", "redirect", "endless"] as const) {
      issuer.answer = answer;
      nowMs += 3_600_000;
      assert.equal((await post(first.mcpUrl, initializeBody, bearer(await issuer.sign()))).status, 200, answer);
      const second = await routerWith(configuration(issuer), { store });
      assert.equal((await post(second.mcpUrl, initializeBody, bearer(await issuer.sign()))).status, 200, `${answer}, after a restart`);
    }
    const blank = await routerWith(configuration(issuer));
    const answer = await post(blank.mcpUrl, initializeBody, bearer(await issuer.sign()));
    assert.deepEqual(
      [answer.status, answer.headers.get("retry-after")],
      [503, "5"],
      "without any key nobody is told that his token is bad",
    );
    issuer.answer = "keys";
    nowMs += 5000;
    assert.equal(
      (await post(blank.mcpUrl, initializeBody, bearer(await issuer.sign()))).status,
      200,
      "who comes again when he was told to",
    );
  });

  test("K4: an issuer without jwks_url is asked where its keys are, by RFC 8414 and then by OpenID Connect, again with each fetch, and its word is kept", async () => {
    const dir = await tempDir();
    stop.push(() => dir.remove());
    const store = keySetFile(join(dir.path, "router", "key-sets.json"));
    const issuer = await startIssuer();
    const name = `${issuer.url}/tenant`;
    const config = {
      agents: { alice: { subjects: ["alice-at-idp"] } },
      router: { public_urls: ["https://router.example"], auth: { issuers: [{ issuer: name }] } },
    };
    const ask = async (router: TestRouter): Promise<number> =>
      (await post(router.mcpUrl, initializeBody, bearer(await issuer.sign({ iss: name })))).status;
    issuer.metadata.set("/tenant/.well-known/openid-configuration", { issuer: name, jwks_uri: `${issuer.url}/keys/one` });
    const router = await routerWith(config, { store });
    assert.equal(await ask(router), 200);
    assert.equal(await ask(router), 200);
    assert.deepEqual(issuer.asked, [
      "/.well-known/oauth-authorization-server/tenant",
      "/.well-known/openid-configuration/tenant",
      "/tenant/.well-known/openid-configuration",
    ]);

    issuer.metadata.set("/.well-known/oauth-authorization-server/tenant", { issuer: name, jwks_uri: `${issuer.url}/keys/two` });
    await issuer.rotate("two");
    nowMs += 31_000;
    assert.equal(await ask(router), 200, "a key that is not known is a reason to ask anew");
    assert.equal(issuer.asked.at(-1), "/.well-known/oauth-authorization-server/tenant");

    for (const answer of ["error", "redirect", "endless"] as const) {
      issuer.answer = answer;
      nowMs += 3_600_000;
      assert.equal(await ask(router), 200, answer);
      assert.equal(await ask(await routerWith(config, { store })), 200, `${answer}, after a restart`);
    }
  });

  test("K4: metadata that are about another issuer, or whose keys do not come by https, let nobody in", async () => {
    const issuer = await startIssuer();
    const name = issuer.url;
    const config = {
      agents: { alice: { subjects: ["alice-at-idp"] } },
      router: { public_urls: ["https://router.example"], auth: { issuers: [{ issuer: name }] } },
    };
    for (const said of [
      { issuer: "https://idp.example", jwks_uri: issuer.jwksUrl },
      { issuer: `${name}/`, jwks_uri: issuer.jwksUrl },
      { issuer: name, jwks_uri: issuer.jwksUrl.replace("127.0.0.1", "keys.example") },
      { issuer: name, jwks_uri: "data:application/json,{}" },
      { issuer: name },
      { jwks_uri: issuer.jwksUrl },
    ]) {
      issuer.metadata.set("/.well-known/oauth-authorization-server", said);
      const { mcpUrl } = await routerWith(config);
      const answer = await post(mcpUrl, initializeBody, bearer(await issuer.sign({ iss: name })));
      assert.deepEqual([answer.status, answer.headers.get("retry-after")], [503, "5"], JSON.stringify(said));
    }
    assert.equal(issuer.fetches, 0, "its keys were not even asked for");
    assert.equal(problems.length, 6);
    for (const problem of problems) assert.match(problem, /give jwks_url/);
    issuer.metadata.set("/.well-known/oauth-authorization-server", { issuer: name, jwks_uri: issuer.jwksUrl });
    const { mcpUrl } = await routerWith(config);
    assert.equal((await post(mcpUrl, initializeBody, bearer(await issuer.sign({ iss: name })))).status, 200);
  });
});
