import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import type { CallControl, CallDescription } from "../src/control/port.ts";
import { start } from "./control/fixture.ts";
import { until } from "./support/clients.ts";
import type { FakeControl } from "./support/fake-control.ts";
import { startTestRouter } from "./support/router.ts";

test("Q3, Q6: what is too much is told with Retry-After over HTTP (429 an agent's own, 503 the upstream's), with code 1004 over MCP", async (t) => {
  const held: (() => void)[] = [];
  const api = createServer((_, response) => held.push(() => response.end("done")));
  await new Promise<void>((resolve) => api.listen(0, "127.0.0.1", resolve));
  t.after(() => api.close());
  const url = `http://127.0.0.1:${(api.address() as AddressInfo).port}`;
  const limits = "admission: { concurrency_max: 1, queue_max: 0, queue_ms_max: 3000 }";
  const fixture = await start(t, {
    yaml: `
upstreams:
  api: { kind: http, endpoints: [{ name: one, url: "${url}", tier: 0 }], ${limits} }
  tools: { kind: mcp, endpoints: [{ name: one, url: "${url}/mcp", tier: 0 }] }
router: { agent_rates: { agents: { crawler: { calls_per_second: 0.2, burst: 1 } } } }
`,
  });
  const router = await startTestRouter(fixture.control as unknown as FakeControl);
  t.after(() => router.close(0));
  const first = fetch(`${router.url}/http/api/x`, { headers: { "mcpf-agent": "crawler" } });
  while (held.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));

  const tooOften = await fetch(`${router.url}/http/api/x`, { headers: { "mcpf-agent": "crawler" } });
  assert.deepEqual([tooOften.status, tooOften.headers.get("retry-after")], [429, "5"]);
  const { error } = (await tooOften.json()) as { error: { code: string; retriable: boolean; operationId: string } };
  assert.deepEqual([error.code, error.retriable, error.operationId], ["overloaded", true, tooOften.headers.get("mcpf-operation-id")]);

  const tooMany = await fetch(`${router.url}/http/api/x`);
  assert.deepEqual([tooMany.status, tooMany.headers.get("retry-after")], [503, "3"]);

  const called = await fetch(`${router.url}/mcp/tools`, {
    method: "POST",
    headers: { "content-type": "application/json", accept: "application/json, text/event-stream", "mcpf-agent": "crawler" },
    body: JSON.stringify({ jsonrpc: "2.0", id: 7, method: "tools/call", params: { name: "any", arguments: {} } }),
  });
  const answer = (await called.json()) as { id: number; error: { code: number; data: { code: string; retryAfterMs: number } } };
  assert.deepEqual([called.status, answer.id, answer.error.code, answer.error.data.code], [200, 7, 1004, "overloaded"]);
  assert.ok(answer.error.data.retryAfterMs > 3000 && answer.error.data.retryAfterMs <= 5000, String(answer.error.data.retryAfterMs));

  for (const end of held) end();
  assert.equal(await (await first).text(), "done");
  const next = fetch(`${router.url}/http/api/x`);
  while (held.length < 2) await new Promise((resolve) => setTimeout(resolve, 5));
  held[1]?.();
  assert.equal((await next).status, 200, "there is room again");
  assert.deepEqual(router.problems, []);
});

test("Q1: a client that leaves while its call of an API waits gives its place in the queue to the next one, and nothing is sent for it", async (t) => {
  const held: (() => void)[] = [];
  const seen: string[] = [];
  const api = createServer((request, response) => {
    // What looks whether it hangs is no call.
    if (request.method === "OPTIONS") return void response.end();
    seen.push(request.url ?? "");
    held.push(() => response.end("done"));
  });
  await new Promise<void>((resolve) => api.listen(0, "127.0.0.1", resolve));
  t.after(() => api.close());
  const url = `http://127.0.0.1:${(api.address() as AddressInfo).port}`;
  const limits = "admission: { concurrency_max: 1, queue_max: 1, queue_ms_max: 60000 }";
  const fixture = await start(t, {
    yaml: `upstreams:\n  api: { kind: http, endpoints: [{ name: one, url: "${url}", tier: 0 }], ${limits} }\n`,
  });
  const { control } = fixture;
  const begun: CallControl[] = [];
  const begin = control.begin.bind(control);
  const watched = Object.assign(control, {
    begin: (call: CallDescription) => {
      const one = begin(call);
      begun.push(one);
      return one;
    },
  });
  const router = await startTestRouter(watched as unknown as FakeControl);
  t.after(() => router.close(0));
  const first = fetch(`${router.url}/http/api/first`);
  await until(() => held.length === 1);
  const leave = new AbortController();
  const gone = fetch(`${router.url}/http/api/gone`, { signal: leave.signal }).catch(() => null);
  await until(() => begun.length === 2);
  leave.abort();
  assert.equal(await gone, null);
  await until(() => router.connections.front + router.connections.node === 1);
  const next = fetch(`${router.url}/http/api/next`);
  await until(() => begun.length === 3);
  held[0]?.();
  assert.equal((await first).status, 200);
  await until(() => held.length === 2);
  held[1]?.();
  assert.equal((await next).status, 200);
  assert.deepEqual(seen, ["/first", "/next"]);
  assert.deepEqual(router.problems, []);
});
