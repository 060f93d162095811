import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { type TestContext, test } from "node:test";
import type { RouterControl } from "../src/control/port.ts";
import { type Fixture, start } from "./control/fixture.ts";
import { openSession, post, textOf, toolCall, until } from "./support/clients.ts";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { startTestFleet } from "./support/fleet.ts";
import { startMcpServer } from "./support/mcp-server.ts";
import { startTestRouter } from "./support/router.ts";
import { controlOf } from "./support/several.ts";

/** Longer than any test waits for something. */
const longMs = 120_000;
const waitMs = 30_000;

type Options = Parameters<typeof startMcpServer>[1];

const cancelled = (requestId: string | number) => ({ jsonrpc: "2.0", method: "notifications/cancelled", params: { requestId } });
const cancel = (url: URL | string, session: string, id: string | number) => post(url, cancelled(id), { "mcp-session-id": session });

/** A call that is out; `over` once its response has ended. */
function callOf(url: URL | string, session: string, message: object, headers: Record<string, string> = {}) {
  const heard = { status: 0, text: "", over: Promise.resolve(), isOver: false };
  const read = async (): Promise<void> => {
    const response = await fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json", accept: "application/json, text/event-stream", "mcp-session-id": session, ...headers },
      body: JSON.stringify(message),
    });
    heard.status = response.status;
    const decoder = new TextDecoder();
    for await (const chunk of response.body ?? []) heard.text += decoder.decode(chunk, { stream: true });
    heard.isOver = true;
  };
  heard.over = read();
  return heard;
}

/** What a client was told, besides ids and comments. */
const said = (text: string): string[] =>
  text.startsWith("{") ? [text] : [...text.matchAll(/^data: ?(\S.*)$/gm)].map(([, data]) => data ?? "");

/** The production control in front of one server, whose `whoami` may fall back to a legacy API that counts; one call at a time, one may wait. */
async function world(t: TestContext, options: Options = {}) {
  const server = await startMcpServer("only", options);
  const seen = { legacy: 0 };
  const legacy = createServer((request, response) => {
    seen.legacy += 1;
    request.resume();
    response.end("{}");
  });
  await new Promise<void>((resolve) => legacy.listen(0, "127.0.0.1", resolve));
  const fixture = await start(t, {
    yaml: `
upstreams:
  fake:
    kind: mcp
    trusted: true
    admission: { concurrency_max: 1, queue_max: 1, queue_ms_max: 30000 }
    endpoints:
      - { name: only, url: "${server.url}", tier: 0 }
    tools:
      whoami: { read_only: true, legacy: { url: "http://127.0.0.1:${(legacy.address() as AddressInfo).port}/" } }
`,
  });
  const router = await startTestRouter(fixture.control as RouterControl as FakeControl);
  t.after(async () => {
    await router.close(0);
    await server.kill();
    legacy.closeAllConnections();
    legacy.close();
    assert.deepEqual(router.problems, []);
  });
  return { server, fixture, router, seen, session: await openSession(router.mcpUrl) };
}

const posts = (server: { seen: { headers: Record<string, unknown>[] } }): number =>
  server.seen.headers.filter((headers) => headers[":method"] === "POST").length;
const toolRows = ({ traffic }: Fixture) => traffic.flatMap(({ tools }) => tools);

for (const json of [false, true]) {
  test(`C5: a call that its session's client cancelled ends at once: no failure of the tool or endpoint, no place held, no legacy call, no answer (${json ? "JSON" : "SSE"})`, async (t) => {
    const { server, fixture, router, seen, session } = await world(t, { json });
    server.lagMs = longMs;
    const out = callOf(router.mcpUrl, session, toolCall(1, "whoami"));
    await until(() => posts(server) === 3, waitMs);
    const queued = callOf(router.mcpUrl, session, toolCall("2", "whoami"));
    await new Promise((resolve) => setTimeout(resolve, 50));
    // `2` is not `"2"`.
    for (const id of ["2", 2, 1]) assert.equal((await cancel(router.mcpUrl, session, id)).status, 202);
    await Promise.all([out.over, queued.over]);
    for (const call of [out, queued]) assert.deepEqual([call.status, said(call.text)], [200, []]);
    await until(() => server.seen.cancelled.length === 1, waitMs);
    server.lagMs = 0;
    // One place and no other: it would be refused, or wait.
    assert.equal(textOf((await post(router.mcpUrl, toolCall(3, "whoami"), { "mcp-session-id": session })).body.result), "only");
    await until(() => toolRows(fixture).length > 0, waitMs);
    assert.deepEqual(
      toolRows(fixture).map(({ calls, errors, implementation }) => [calls, errors, implementation]),
      [[1, 0, "mcp"]],
    );
    const endpoints = fixture.traffic.flatMap((one) => one.endpoints);
    assert.ok(endpoints.every(({ hard }) => hard === 0));
    assert.equal(fixture.traffic.at(-1)?.endpoints.reduce((sum, { inFlight }) => sum + inFlight, 0) ?? 0, 0);
    assert.equal(seen.legacy, 0);
    assert.equal(server.seen.cancelled.length, 1, "the one that waited was never sent");
  });
}

test("C5: a cancellation ends nothing of another session, nor of another agent, whose request has the same id", async (t) => {
  const server = await startMcpServer("only");
  const router = await startTestRouter(fakeControl([server]));
  t.after(async () => {
    await router.close(0);
    await server.kill();
  });
  const [mine, other] = [await openSession(router.mcpUrl), await openSession(router.mcpUrl)];
  server.lagMs = 500;
  const running = callOf(router.mcpUrl, mine, toolCall(7, "whoami"));
  await until(() => posts(server) === 5, waitMs);
  assert.equal((await cancel(router.mcpUrl, other, 7)).status, 202);
  // Nobody's session: nothing to end.
  await post(router.mcpUrl, cancelled(7));
  await running.over;
  assert.match(running.text, /only/);
  assert.deepEqual(server.seen.cancelled, []);
});

test("C5: what is cancelled while a stream of it runs, or waits for its client to come back, says no more, and whoever comes back is told so", async (t) => {
  for (const polling of [false, true]) {
    const server = await startMcpServer("only", { polling });
    const control = fakeControl([server]);
    const router = await startTestRouter(control);
    const second = await startTestRouter(control);
    t.after(async () => {
      await router.close(0);
      await second.close(0);
      await server.kill();
    });
    const session = await openSession(router.mcpUrl);
    const slow = toolCall(1, "slow", { steps: 600, ms: 50 }) as { params: object };
    const call = callOf(router.mcpUrl, session, { ...slow, params: { ...slow.params, _meta: { progressToken: "p" } } });
    const idsOf = (text: string): string[] => [...text.matchAll(/^id: ?(.+)$/gm)].map(([, id]) => id ?? "");
    const comeBack = async (url: URL, id: string) => {
      const headers = { accept: "text/event-stream", "mcp-session-id": session, "last-event-id": id };
      const response = await fetch(url, { headers });
      return { status: response.status, text: await response.text() };
    };
    let back: ReturnType<typeof comeBack> | null = null;
    if (polling) {
      // It is parked; the client waits for the rest of it.
      await call.over;
      back = comeBack(router.mcpUrl, idsOf(call.text).at(-1) ?? "");
      await until(() => server.seen.headers.some((headers) => headers["last-event-id"] !== undefined), waitMs);
    } else await until(() => idsOf(call.text).length > 1, waitMs);
    await cancel(router.mcpUrl, session, 1);
    await call.over;
    if (back !== null) assert.doesNotMatch((await back).text, /"(result|error)"/);
    assert.doesNotMatch(call.text, /"(result|error)"/);
    const last = idsOf(call.text).at(-1) ?? "";
    const first = idsOf(call.text)[0] ?? "";
    for (const id of [first, last]) assert.equal((await comeBack(router.mcpUrl, id)).status, 204);
    if (!polling) assert.equal((await comeBack(second.mcpUrl, last)).status, 204, "also at another router process");
    assert.equal(textOf((await post(router.mcpUrl, toolCall(2, "whoami"), { "mcp-session-id": session })).body.result), "only");
  }
});

test("C5: a cancelled read that is out at two servers is ended and told at both, once", async (t) => {
  const [primary, secondary] = [await startMcpServer("primary"), await startMcpServer("secondary")];
  const fixture = await start(t, {
    yaml: `
upstreams:
  fake:
    kind: mcp
    trusted: true
    endpoints:
      - { name: primary, url: "${primary.url}", tier: 0 }
      - { name: secondary, url: "${secondary.url}", tier: 1 }
    tools:
      whoami: { read_only: true }
`,
  });
  for (const name of ["primary", "secondary"]) await fixture.health("fake", name, { status: "healthy" });
  const router = await startTestRouter(fixture.control as RouterControl as FakeControl);
  t.after(async () => {
    await router.close(0);
    await primary.kill();
    await secondary.kill();
  });
  const session = await openSession(router.mcpUrl);
  for (let id = 1; id <= 25; id += 1) await post(router.mcpUrl, toolCall(id, "whoami"), { "mcp-session-id": session });
  for (const server of [primary, secondary]) server.lagMs = longMs;
  const before = [primary, secondary].map(posts);
  const call = callOf(router.mcpUrl, session, toolCall("both", "whoami"));
  // `initialize`, `initialized` and the call.
  await until(() => posts(primary) === (before[0] ?? 0) + 1 && posts(secondary) >= 3, waitMs);
  await cancel(router.mcpUrl, session, "both");
  await call.over;
  assert.deepEqual(said(call.text), []);
  await until(() => primary.seen.cancelled.length === 1 && secondary.seen.cancelled.length === 1, waitMs);
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.deepEqual([posts(primary), posts(secondary)], [(before[0] ?? 0) + 2, 4]);
  assert.deepEqual(
    fixture.traffic.flatMap(({ endpoints }) => endpoints.map(({ hard }) => hard)).filter((hard) => hard > 0),
    [],
  );
});

for (const path of ["/mcp/fake", "/mcp"]) {
  test(`C5: a call to ${path} is ended by a cancellation that reaches another router process, and by none of another session`, async (t) => {
    const server = await startMcpServer("only");
    t.after(() => server.kill());
    const fake = fakeControl([server], { callMs: longMs });
    const fleet = await startTestFleet(() => (path === "/mcp" ? controlOf({ fake }) : fake));
    const { one, two: other } = fleet;
    t.after(async () => {
      await fleet.close();
      assert.deepEqual([...one.problems, ...other.problems], []);
    });
    const [session, another] = [await openSession(one.url + path), await openSession(one.url + path)];
    server.lagMs = longMs;
    const before = posts(server);
    const call = callOf(one.url + path, session, toolCall(5, path === "/mcp" ? "fake__whoami" : "whoami"));
    // On /mcp the session with its server is begun by it.
    await until(() => posts(server) === before + (path === "/mcp" ? 3 : 1), waitMs);
    assert.equal((await cancel(other.url + path, another, 5)).status, 202);
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.equal(call.isOver, false);
    assert.equal((await cancel(other.url + path, session, 5)).status, 202);
    await call.over;
    assert.deepEqual(said(call.text), []);
    await until(() => server.seen.cancelled.length === 1, waitMs);
    assert.deepEqual(
      fake.told.filter(({ tool }) => tool === "whoami").map(({ result }) => result.outcome),
      ["aborted"],
    );
  });
}

test("C5: on /mcp a cancelled call has no answer either, and is ended at its server", async (t) => {
  const server = await startMcpServer("A");
  const control = fakeControl([{ name: "only", url: server.url }], { callMs: longMs });
  const router = await startTestRouter(controlOf({ a: control }));
  t.after(async () => {
    await router.close(0);
    await server.kill();
  });
  const url = `${router.url}/mcp`;
  const session = await openSession(url);
  server.lagMs = longMs;
  const call = callOf(url, session, toolCall(9, "a__whoami"));
  await until(() => posts(server) === 3, waitMs);
  await cancel(url, session, 9);
  await call.over;
  assert.deepEqual([call.status, said(call.text)], [200, []]);
  await until(() => server.seen.cancelled.length === 1 && control.told.some(({ result }) => result.outcome === "aborted"), waitMs);
  assert.deepEqual(router.problems, []);
});
