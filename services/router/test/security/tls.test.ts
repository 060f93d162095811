import assert from "node:assert/strict";
import { rename, writeFile } from "node:fs/promises";
import type { ServerResponse } from "node:http";
import { createServer, request as httpsRequest, type RequestOptions } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import type { TLSSocket } from "node:tls";
import { selfSigned, tempDir } from "@mcp-failover/testkit";
import { watchServerTls } from "../../src/tls/server-tls.ts";
import { openSession, post, textOf, toolCall, until } from "../support/clients.ts";
import { type FakeControl, fakeControl } from "../support/fake-control.ts";
import { startTestRouter, type TestRouter } from "../support/router.ts";

const stop: (() => Promise<unknown>)[] = [];
let dir: Awaited<ReturnType<typeof tempDir>>;
beforeEach(async () => {
  dir = await tempDir();
});
afterEach(async () => {
  for (const end of stop.splice(0).reverse()) await end();
  await dir.remove();
});
const made = (name = "localhost") => selfSigned({ untilMs: Date.now() + 86_400_000, name });

/** Puts a file in the place of another one in one step, as a renewal does. */
async function put(name: string, text: string): Promise<string> {
  const path = join(dir.path, name);
  await writeFile(`${path}.new`, text);
  await rename(`${path}.new`, path);
  return path;
}

interface Seen {
  readonly status: number;
  readonly body: string;
  /** Of the server. */
  readonly fingerprint: string;
}
function ask(url: string, options: RequestOptions): Promise<Seen> {
  return new Promise((resolve, reject) => {
    const asking = httpsRequest(url, { agent: false, ...options }, (response) => {
      const fingerprint = (response.socket as TLSSocket).getPeerCertificate().fingerprint256;
      let body = "";
      response.on("data", (chunk: Buffer) => {
        body += chunk.toString();
      });
      response.on("end", () => resolve({ status: response.statusCode ?? 0, body, fingerprint }));
    });
    asking.on("error", reject);
    asking.end();
  });
}

async function upstream(options: {
  key: string;
  cert: string;
  ca?: string;
}): Promise<{ url: string; peers: string[]; connections: () => number }> {
  const peers: string[] = [];
  let connections = 0;
  const server = createServer(
    { ...options, ...(options.ca === undefined ? {} : { requestCert: true, rejectUnauthorized: true }) },
    (request, response) => {
      peers.push(String((request.socket as TLSSocket).getPeerCertificate()?.subject?.CN ?? "nobody"));
      response.end("from the upstream");
    },
  );
  server.on("secureConnection", () => connections++);
  server.on("tlsClientError", () => undefined);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  stop.push(
    () =>
      new Promise((resolve) => {
        server.close(resolve);
        server.closeAllConnections();
      }),
  );
  return { url: `https://127.0.0.1:${(server.address() as AddressInfo).port}`, peers, connections: () => connections };
}

async function routerTo(
  endpoints: FakeControl["view"]["endpoints"],
  tls: Awaited<ReturnType<typeof watchServerTls>> | null = null,
): Promise<TestRouter> {
  const control = fakeControl(endpoints, { kind: "http" });
  const router = await startTestRouter(control, { tls });
  stop.push(async () => {
    tls?.stop();
    await router.close(0);
    assert.deepEqual(router.problems, []);
  });
  return router;
}
const endpoint = (name: string, url: string, tls?: object): FakeControl["view"]["endpoints"][number] => ({
  name,
  url,
  role: "write",
  headers: {},
  ...(tls === undefined ? {} : { tls }),
});

test("TLS in: a renewed certificate is shown by the next connection, and a call on an old one goes on; one that does not fit is not taken", async () => {
  const [first, second] = [made("first"), made("second")];
  const certFile = await put("cert.pem", first.cert);
  const keyFile = await put("key.pem", first.key);
  const troubles: unknown[] = [];
  const slow = await upstream(made("upstream"));
  const tls = await watchServerTls({ certFile, keyFile }, (error) => troubles.push(error), 20);
  const router = await routerTo([endpoint("a", slow.url)], tls);
  assert.match(router.url, /^https:/);
  const trust = { ca: [first.cert, second.cert] };
  const before = await ask(`${router.url}/healthz`, trust);
  assert.equal(before.status, 200);

  const chunks: Buffer[] = [];
  const under = httpsRequest(`${router.url}/http/fake/x`, { ...trust, method: "POST", agent: false, headers: { "content-length": 2 } });
  const answered = new Promise<number>((resolve, reject) => {
    under.on("error", reject);
    under.on("response", (response) => {
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("end", () => resolve(response.statusCode ?? 0));
    });
  });
  under.write("a");
  await put("cert.pem", second.cert);
  await until(() => troubles.length > 0, 5000);
  assert.equal((await ask(`${router.url}/healthz`, trust)).fingerprint, before.fingerprint, "a certificate without its key is not shown");
  await put("key.pem", second.key);
  for (let tries = 0; (await ask(`${router.url}/healthz`, trust)).fingerprint === before.fingerprint; tries++) {
    assert.ok(tries < 200, "the new certificate is never shown");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  under.end("b");
  assert.ok((await answered) > 0, "the connection of before was not dropped");
  await assert.rejects(
    watchServerTls({ certFile, keyFile: certFile }, () => undefined),
    "a start with files that do not fit is refused",
  );
});

test("TLS in: with an authority for clients, nobody comes in without a certificate of it", async () => {
  const [server, client, stranger] = [made(), made("agent"), made("agent")];
  const files = {
    certFile: await put("cert.pem", server.cert),
    keyFile: await put("key.pem", server.key),
    clientCaFile: await put("ca.pem", client.cert),
  };
  const router = await routerTo([], await watchServerTls(files, () => undefined));
  const trust = { ca: server.cert };
  assert.equal((await ask(`${router.url}/healthz`, { ...trust, key: client.key, cert: client.cert })).status, 200);
  await assert.rejects(ask(`${router.url}/healthz`, trust));
  await assert.rejects(ask(`${router.url}/healthz`, { ...trust, key: stranger.key, cert: stranger.cert }));
});

test("TLS out: an endpoint is trusted by its own authority alone, and what fails in the handshake was not sent", async () => {
  const server = made();
  const other = made();
  const { url, peers } = await upstream(server);
  const [good, bad] = [await put("good.pem", server.cert), await put("bad.pem", other.cert)];
  const statusOf = async (tls?: object): Promise<[number, string]> => {
    const router = await routerTo([endpoint("a", url, tls)]);
    const answer = await fetch(`${router.url}/http/fake/x`, { method: "POST" });
    return [answer.status, await answer.text()];
  };
  assert.deepEqual(await statusOf({ ca_file: good }), [200, "from the upstream"]);
  const named = await statusOf({ ca_file: good, server_name: "localhost" });
  assert.equal(named[0], 200);
  for (const tls of [
    undefined,
    { ca_file: bad },
    { ca_file: good, server_name: "another.example" },
    { ca_file: join(dir.path, "none.pem") },
  ]) {
    const [status, text] = await statusOf(tls);
    assert.equal(status, 503, JSON.stringify(tls));
    assert.match(text, /no_endpoint/);
    assert.doesNotMatch(text, /BEGIN|none\.pem/);
  }
  assert.equal(peers.length, 2);
});

test("R24: mTLS: each endpoint sees the router's certificate for it, also when two share an address, and a renewed one without a restart", async () => {
  const server = made();
  const [forA, forB, renewed] = [made("router-at-a"), made("router-at-b"), made("router-renewed")];
  const { url, peers } = await upstream({ ...server, ca: forA.cert + forB.cert + renewed.cert });
  const ca = await put("ca.pem", server.cert);
  const files = async (name: string, pair: { cert: string; key: string }): Promise<object> => ({
    ca_file: ca,
    cert_file: await put(`${name}.crt`, pair.cert),
    key_file: await put(`${name}.key`, pair.key),
  });
  const router = await routerTo([endpoint("a", `${url}/a`, await files("a", forA))]);
  const second = await routerTo([endpoint("b", `${url}/b`, await files("b", forB)), endpoint("c", `${url}/c`, { ca_file: ca })]);
  for (let times = 0; times < 3; times++) {
    for (const { url: at } of [router, second]) assert.equal((await fetch(`${at}/http/fake/x`)).status, 200);
  }
  assert.deepEqual(new Set(peers), new Set(["router-at-a", "router-at-b"]));
  const without = await routerTo([endpoint("c", `${url}/c`, { ca_file: ca })]);
  assert.ok(
    (await fetch(`${without.url}/http/fake/x`, { method: "POST" })).status >= 502,
    "without a certificate the endpoint cannot be used",
  );

  await files("a", renewed);
  await new Promise((resolve) => setTimeout(resolve, 1100));
  const again = await routerTo([
    endpoint("a", `${url}/a`, { ca_file: ca, cert_file: join(dir.path, "a.crt"), key_file: join(dir.path, "a.key") }),
  ]);
  assert.equal((await fetch(`${again.url}/http/fake/x`)).status, 200);
  assert.equal(peers.at(-1), "router-renewed");
});

test("R24: mTLS: a server of MCP sees the router's certificate by each transport, on the stream as on what is posted beside it", async () => {
  const [server, client] = [made(), made("router-at-mcp")];
  const peers: string[] = [];
  let stream: ServerResponse | null = null;
  const mcp = createServer({ ...server, ca: client.cert, requestCert: true, rejectUnauthorized: true }, (request, response) => {
    peers.push(`${request.method} ${request.url} ${String((request.socket as TLSSocket).getPeerCertificate().subject.CN)}`);
    let body = "";
    request.on("data", (chunk: Buffer) => {
      body += chunk.toString();
    });
    request.on("end", () => {
      if (request.method === "GET") {
        response.writeHead(200, { "content-type": "text/event-stream" }).write("event: endpoint\ndata: /message\n\n");
        stream = response;
        return;
      }
      const { id, method } = JSON.parse(body || "{}") as { id?: number; method?: string };
      const asked = { protocolVersion: "2025-06-18", capabilities: { tools: {} }, serverInfo: { name: "m", version: "1" } };
      const result = method === "initialize" ? asked : { content: [{ type: "text", text: "by mTLS" }] };
      const answer = JSON.stringify({ jsonrpc: "2.0", id, result });
      if (request.url !== "/message") {
        if (id === undefined) response.writeHead(202).end();
        else response.writeHead(200, { "content-type": "application/json" }).end(answer);
        return;
      }
      response.writeHead(202).end("Accepted");
      if (id !== undefined) stream?.write(`event: message\ndata: ${answer}\n\n`);
    });
  });
  mcp.on("tlsClientError", () => undefined);
  await new Promise<void>((resolve) => mcp.listen(0, "127.0.0.1", resolve));
  stop.push(
    () =>
      new Promise((resolve) => {
        mcp.close(resolve);
        mcp.closeAllConnections();
      }),
  );
  const url = `https://127.0.0.1:${(mcp.address() as AddressInfo).port}`;
  const tls = {
    ca_file: await put("ca.pem", server.cert),
    cert_file: await put("mcp.crt", client.cert),
    key_file: await put("mcp.key", client.key),
  };
  for (const [path, via, seen] of [
    ["/mcp", undefined, ["POST /mcp router-at-mcp"]],
    ["/sse", { kind: "sse" }, ["GET /sse router-at-mcp", "POST /message router-at-mcp"]],
  ] as const) {
    peers.splice(0);
    const one = { ...endpoint("a", `${url}${path}`, tls), ...(via === undefined ? {} : { via }) };
    const router = await startTestRouter(fakeControl([one]));
    stop.push(() => router.close(0));
    const session = await openSession(router.mcpUrl);
    const answer = await post(router.mcpUrl, toolCall(1, "any"), { "mcp-session-id": session });
    assert.equal(textOf(answer.body.result), "by mTLS", answer.text);
    for (const each of seen) assert.ok(peers.includes(each), `${path}: ${peers.join(", ")}`);
    assert.ok(peers.every((each) => each.endsWith(" router-at-mcp")));
  }
});
