import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import type { FakeControl } from "../support/fake-control.ts";
import { startTestRouter } from "../support/router.ts";
import { attemptOf, describe, type Fixture, ok, play, reset, start, until } from "./fixture.ts";

const noted = ({ traffic }: Fixture) => traffic.flatMap(({ unknown = [] }) => unknown);

test("R19: a call whose outcome is unknown is reported with its operation id, where it was sent and by whom; others are not", async (t) => {
  const fixture = await start(t);
  const run = async (operationId: string, tool: string, answer: Parameters<typeof play>[1]) => {
    const call = fixture.control.begin(describe(fixture, { tool, operationId, agent: "picker" }));
    await play(call, answer);
    call.end("error");
  };
  await run("op-write", "ship_order", () => reset);
  await run("op-done", "ship_order", () => ok);
  await run("op-read", "get_inventory", () => reset);
  const gone = fixture.control.begin(describe(fixture, { tool: "ship_order", operationId: "op-gone" }));
  (await attemptOf(gone)).done({ outcome: "aborted" });
  gone.end("error");
  const read = fixture.control.begin(describe(fixture, { operationId: "op-read-gone" }));
  (await attemptOf(read)).done({ outcome: "aborted" });
  read.end("error");
  const without = fixture.control.begin(describe(fixture, { tool: "ship_order" }));
  await play(without, () => reset);
  without.end("error");
  await until("both are reported", () => noted(fixture).length >= 2);
  const place = { upstream: "warehouse", endpoint: "primary", method: "tools/call", tool: "ship_order" };
  assert.deepEqual(
    noted(fixture).map(({ atMs, ...call }) => call),
    [
      { ...place, operationId: "op-write", agent: "picker", code: "reset" },
      { ...place, operationId: "op-gone", agent: null, code: null },
    ],
  );
});

test("C3: of very many the first are named and the others counted", async (t) => {
  const fixture = await start(t, { frozen: true });
  fixture.cut();
  for (let index = 0; index < 300; index += 1) {
    const call = fixture.control.begin(describe(fixture, { tool: "ship_order", operationId: `op-${index}` }));
    await play(call, () => reset);
    call.end("error");
  }
  fixture.restore();
  await until("it is reported", () => noted(fixture).length > 0, 5000);
  assert.equal(noted(fixture).length, 200);
  assert.equal(
    fixture.traffic.reduce((sum, { unknownMore = 0 }) => sum + unknownMore, 0),
    100,
  );
});

test("C3: names that a client made very long do not keep what this router saw out of the log", async (t) => {
  const fixture = await start(t);
  const long = "x".repeat(2 * 1024 * 1024);
  for (const given of [{ tool: long }, { tool: "ship_order", agent: long }, { method: long, tool: null }]) {
    const call = fixture.control.begin(describe(fixture, { operationId: "op-long", ...given }));
    await play(call, () => reset);
    call.end("error");
  }
  const hard = () => fixture.traffic.flatMap(({ endpoints }) => endpoints).reduce((sum, endpoint) => sum + endpoint.hard, 0);
  await until("the failures are in the log", () => hard() >= 3, 3000);
  assert.equal(noted(fixture).length, 3);
});

test("R19: the operation id of the error that an agent got is the one in the log", async (t) => {
  const server = createServer((request) => request.resume().on("end", () => request.socket.resetAndDestroy()));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const fixture = await start(t, {
    yaml: `
upstreams:
  tools: { kind: mcp, endpoints: [{ name: one, url: "${url}/mcp", tier: 0 }] }
  api: { kind: http, endpoints: [{ name: one, url: "${url}", tier: 0 }] }
`,
  });
  const router = await startTestRouter(fixture.control as unknown as FakeControl);
  t.after(() => router.close(0));
  const headers = { "content-type": "application/json", accept: "application/json, text/event-stream" };
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params: { name: "ship", arguments: {} } });
  const called = (await (await fetch(`${router.url}/mcp/tools`, { method: "POST", headers, body })).json()) as {
    error: { code: number; data: { operationId: string } };
  };
  assert.equal(called.error.code, 1001);
  const posted = await fetch(`${router.url}/http/api/orders`, { method: "POST", body: "{}" });
  assert.equal(posted.status, 502);
  const ids = [called.error.data.operationId, posted.headers.get("mcpf-operation-id")];
  await until("both are in the log", () => noted(fixture).length >= 2, 3000);
  assert.deepEqual(
    noted(fixture).map(({ operationId }) => operationId),
    ids,
  );
});
