import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import type { EndpointView } from "../src/control/port.ts";
import { Ending } from "../src/ending.ts";
import { createEraBook } from "../src/mcp/era.ts";
import { createUpstreamClient } from "../src/upstream-client.ts";
import { post } from "./support/clients.ts";
import { fakeControl } from "./support/fake-control.ts";
import { startTestRouter } from "./support/router.ts";
import { startScriptedServer } from "./support/scripted-server.ts";
import { controlOf } from "./support/several.ts";

test("R1: what a server says while it sheds load, asks who one is or breaks off is no word on its era; the next request asks again", async (t) => {
  const discovered = JSON.stringify({ jsonrpc: "2.0", id: "mcpf-discover", result: { supportedVersions: ["2026-07-28"] } });
  let answer: readonly [number, string, string] = [200, "application/json", discovered];
  const server = createServer((request, response) => {
    request.resume();
    response.writeHead(answer[0], { "content-type": answer[1] }).end(answer[2]);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const client = createUpstreamClient({ connectionsMax: 2, headerBytesMax: 16_384, idleMs: 4000 });
  t.after(async () => {
    await client.close();
    server.close();
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`;
  const endpoint: EndpointView = { name: "a", url, role: "write", headers: {} };
  for (const silent of [
    [429, "text/plain", "later"],
    [401, "application/json", "{}"],
    [503, "text/plain", ""],
    [200, "text/event-stream", ""],
  ] as const) {
    const book = createEraBook(client, () => 0);
    answer = silent;
    const asked = book.ask(endpoint, 2000, new Ending());
    if (silent[0] === 429 || silent[0] === 401) await assert.rejects(asked, { code: "discover_refused", httpStatus: silent[0] });
    else await asked;
    assert.equal(book.known(endpoint), null, String(silent));
    answer = [200, "application/json", discovered];
    assert.equal(await book.ask(endpoint, 2000, new Ending()), "modern");
    assert.equal(book.known(endpoint), "modern");
  }
  const book = createEraBook(client, () => 0);
  answer = [400, "application/json", JSON.stringify({ jsonrpc: "2.0", id: null, error: { code: -32000, message: "No valid session ID" } })];
  assert.equal(await book.ask(endpoint, 2000, new Ending()), "legacy");
  assert.equal(book.known(endpoint), "legacy");
});

test("R1: what is known of a server's era is kept for a while, and asked for anew then, since a server may be another one by now", async (t) => {
  let asked = 0;
  let modern = false;
  const server = createServer((request, response) => {
    request.resume();
    asked += 1;
    const rest = modern ? { result: { supportedVersions: ["2026-07-28"] } } : { error: { code: -32601, message: "Method not found" } };
    response.writeHead(modern ? 200 : 400, { "content-type": "application/json" });
    response.end(JSON.stringify({ jsonrpc: "2.0", id: "mcpf-discover", ...rest }));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const client = createUpstreamClient({ connectionsMax: 2, headerBytesMax: 16_384, idleMs: 4000 });
  t.after(async () => {
    await client.close();
    server.close();
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`;
  const endpoint: EndpointView = { name: "a", url, role: "write", headers: {} };
  let nowMs = 0;
  const book = createEraBook(client, () => nowMs);
  const ask = async () => [await book.ask(endpoint, 2000, new Ending()), asked];
  assert.deepEqual(await ask(), ["legacy", 1]);
  modern = true;
  nowMs = 5 * 60_000 - 1;
  assert.deepEqual(await ask(), ["legacy", 1]);
  nowMs += 1;
  assert.equal(book.known(endpoint), null);
  assert.deepEqual(await ask(), ["modern", 2]);
  modern = false;
  nowMs += 5 * 60_000;
  assert.deepEqual(await ask(), ["legacy", 3], "and back");
});

const refusals = [
  [429, { "retry-after": "7" }, { code: "overloaded", retriable: true, retryAfterMs: 7000 }],
  [401, {}, { code: "upstream_auth", retriable: false }],
] as const;
for (const [status, headers, told] of refusals) {
  for (const [path, method] of [
    ["/mcp/a", "tools/call"],
    ["/mcp/a", "subscriptions/listen"],
    ["/mcp", "tools/call"],
  ] as const) {
    test(`R22: a server that answers ${status} when it is asked for its era has refused a ${method} at ${path}, which says so and was not sent`, async (t) => {
      const server = await startScriptedServer("a", { modern: true });
      const control = fakeControl([server]);
      const router = await startTestRouter(controlOf({ a: control }));
      t.after(async () => {
        await router.close(0);
        await server.kill();
        assert.deepEqual(router.problems, []);
      });
      server.answer = (asked) => {
        if (asked.method === "server/discover") asked.response.writeHead(status, headers).end();
        return asked.method === "server/discover";
      };
      const name = path === "/mcp" ? "a__write" : "write";
      const _meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": { name: "raw", version: "1" },
        "io.modelcontextprotocol/clientCapabilities": {},
      };
      const params = method === "tools/call" ? { name, arguments: {}, _meta } : { notifications: { toolsListChanged: true }, _meta };
      const of = { "mcp-protocol-version": "2026-07-28", "mcp-method": method, ...(method === "tools/call" ? { "mcp-name": name } : {}) };
      const { body } = await post(router.url + path, { jsonrpc: "2.0", id: 1, method, params }, of);
      const { operationId: _operation, upstream, ...data } = body.error?.data ?? {};
      assert.deepEqual([upstream, data], ["a", told], JSON.stringify(body));
      assert.ok(
        server.heard.every((one) => one.startsWith("server/discover")),
        server.heard.join(", "),
      );
      const outcomes = control.told.map(({ result }) => result.outcome);
      if (path !== "/mcp") assert.deepEqual(new Set(outcomes), new Set([status === 429 ? "soft" : "auth"]));
    });
  }
}
