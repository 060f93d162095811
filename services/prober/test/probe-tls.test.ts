import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import type { TLSSocket } from "node:tls";
import { selfSigned, tempDir } from "@mcp-failover/testkit";
import { WebSocketServer } from "ws";
import { resultOf, runnerFor, targetOf } from "./probe-kit.ts";

const untilMs = Date.now() + 100 * 86_400_000;

/** A server behind a private authority that lets in nobody without a certificate; it answers HTTP, MCP (2025) and WebSockets. */
async function startServer(t: TestContext, name = "localhost") {
  const dir = await tempDir();
  const own = selfSigned({ untilMs, name });
  const client = selfSigned({ untilMs, name: "prober" });
  const file = (path: string, text: string): string => {
    writeFileSync(join(dir.path, path), text);
    return join(dir.path, path);
  };
  const seen: string[] = [];
  const server: Server = createServer(
    { key: own.key, cert: own.cert, ca: [client.cert], requestCert: true, rejectUnauthorized: true },
    async (request, response) => {
      seen.push(String((request.socket as TLSSocket).getPeerCertificate().subject?.CN));
      let text = "";
      for await (const chunk of request) text += chunk;
      const { id, method } = text === "" ? { id: 0, method: "" } : (JSON.parse(text) as { id?: unknown; method: string });
      const result = method === "initialize" ? { protocolVersion: "2025-11-25", capabilities: {}, serverInfo: { name, version: "1" } } : {};
      const known = method === "initialize" || method === "ping" || method === "";
      response.writeHead(id === undefined ? 202 : 200, { "content-type": "application/json" });
      response.end(
        id === undefined
          ? ""
          : JSON.stringify({ jsonrpc: "2.0", id, ...(known ? { result } : { error: { code: -32601, message: "Method not found" } }) }),
      );
    },
  );
  const sockets = new WebSocketServer({ server });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(async () => {
    sockets.close();
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    await dir.remove();
  });
  const tls = {
    ca_file: file("ca.pem", own.cert),
    cert_file: file("client.pem", client.cert),
    key_file: file("client.key", client.key),
  };
  return { url: `https://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`, tls, seen, file };
}

test("an endpoint with an authority of its own is probed by it, and shown the prober's certificate, as the router does: http, mcp, tls, websocket", async (t) => {
  const server = await startServer(t);
  const runner = runnerFor(t);
  for (const type of ["http", "mcp", "tls", "websocket"]) {
    for (const fresh of [false, true]) {
      const well = await resultOf(runner, targetOf({ type }, server.url, { endpoint: { tls: server.tls } }), { fresh });
      assert.deepEqual([type, well.outcome, well.error], [type, "ok", null]);
      const unknown = await resultOf(runner, targetOf({ type }, server.url), { fresh });
      assert.deepEqual([type, unknown.outcome, unknown.code], [type, "hard", "tls"]);
    }
  }
  assert.ok(server.seen.length > 0 && server.seen.every((name) => name === "prober"), server.seen.join(" "));
});

test("a certificate of another name is taken where the endpoint's tls: names it, and only there", async (t) => {
  const server = await startServer(t, "upstream.internal");
  const runner = runnerFor(t);
  const url = server.url.replace("127.0.0.1", "localhost");
  const named = { ...server.tls, server_name: "upstream.internal" };
  for (const type of ["http", "mcp", "tls", "websocket"]) {
    assert.equal((await resultOf(runner, targetOf({ type }, url, { endpoint: { tls: named } }))).outcome, "ok", type);
    assert.equal((await resultOf(runner, targetOf({ type }, url, { endpoint: { tls: server.tls } }))).code, "tls", type);
  }
});

test("P1: the certificate of an endpoint is shown to the endpoint alone, and a file that is missing is told as that", async (t) => {
  const server = await startServer(t);
  const runner = runnerFor(t);
  const elsewhere = targetOf({ type: "http", url: server.url }, "https://127.0.0.1:9/other", { endpoint: { tls: server.tls } });
  assert.equal(elsewhere.checks[0]?.tls, null);
  assert.equal((await resultOf(runner, elsewhere)).code, "tls");
  assert.deepEqual(server.seen, []);
  const missing = { ...server.tls, ca_file: "/nowhere/ca.pem" };
  for (const type of ["http", "mcp", "tls", "websocket"]) {
    const result = await resultOf(runner, targetOf({ type }, server.url, { endpoint: { tls: missing } }));
    assert.deepEqual([type, result.outcome, result.code], [type, "hard", "tls"]);
    assert.equal(result.error, "no answer: tls (ERR_TLS_FILES)", type);
  }
});
