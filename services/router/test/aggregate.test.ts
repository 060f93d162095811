import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { afterEach, beforeEach, describe, test } from "node:test";
import { ambiguousWith } from "@mcp-failover/contracts";
import { grantOf } from "@mcp-failover/domain";
import { eventually, patientMs } from "@mcp-failover/testkit";
import {
  CreateMessageRequestSchema,
  LoggingMessageNotificationSchema,
  ToolListChangedNotificationSchema,
} from "@modelcontextprotocol/sdk/types.js";
import * as fc from "fast-check";
import { prefixed, prefixedUri, splitId, splitName, splitUri, taggedId } from "../src/aggregate/names.ts";
import { AggregateSession } from "../src/aggregate/session.ts";
import { anybody, principalOf } from "../src/identity/principal.ts";
import { createMemoryDirectory, type SessionDirectory } from "../src/mcp/directory.ts";
import { LogBudget } from "../src/mcp/log-budget.ts";
import { SseWriter } from "../src/mcp/sse.ts";
import { StreamLogs } from "../src/mcp/stream-log.ts";
import { connectV1, connectV2, openSession, post, textOf, toolCall, until } from "./support/clients.ts";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { startMcpServer, type TestMcpServer } from "./support/mcp-server.ts";
import { startNotFoundServer } from "./support/not-found-server.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";
import { controlOf } from "./support/several.ts";

describe("several upstreams as one server", () => {
  let a: TestMcpServer;
  let b: TestMcpServer;
  let upstreams: Record<string, FakeControl>;
  let router: TestRouter;
  let url: string;
  const directory = createMemoryDirectory();

  beforeEach(async () => {
    [a, b] = [await startMcpServer("A"), await startMcpServer("B")];
    upstreams = { a: fakeControl([{ name: "one", url: a.url }]), b_2: fakeControl([{ name: "one", url: b.url }]) };
    router = await startTestRouter(controlOf(upstreams), { directory });
    url = `${router.url}/mcp`;
  });
  afterEach(async () => {
    await router.close(0);
    for (const server of [a, b]) await server.kill();
    assert.deepEqual(router.problems, []);
  });

  const namesOf = async (client: { listTools(): Promise<{ tools: { name: string }[] }> }): Promise<string[]> =>
    (await client.listTools()).tools.map(({ name }) => name);

  test("clients of both SDK lines list and call the tools of all upstreams under their names", async () => {
    for (const client of [(await connectV1(url)).client, await connectV2(url, "auto")]) {
      const names = await namesOf(client as never);
      assert.ok(names.includes("a__whoami") && names.includes("b_2__whoami"), names.join(" "));
      assert.equal(textOf(await client.callTool({ name: "a__whoami", arguments: {} })), "A");
      assert.equal(textOf(await client.callTool({ name: "b_2__whoami", arguments: {} })), "B");
      await assert.rejects(client.callTool({ name: "whoami", arguments: {} }), /no upstream of \/mcp is named by it/);
      await client.close();
    }
  });

  test("progress, requests of a server and its log lines find their client, though both servers count from 0", async () => {
    const { client } = await connectV1(url);
    client.setRequestHandler(
      CreateMessageRequestSchema,
      async () => ({ model: "m", role: "assistant", content: { type: "text", text: "4" } }) as never,
    );
    const heard: unknown[] = [];
    client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => void heard.push(params.data));
    const steps: number[] = [];
    const slow = client.callTool({ name: "a__slow", arguments: { ms: 100, steps: 3 } }, undefined, {
      onprogress: ({ progress }) => steps.push(progress),
    });
    const asked = await Promise.all(["a", "b_2"].map((name) => client.callTool({ name: `${name}__ask`, arguments: {} })));
    for (const answer of asked) assert.match(textOf(answer), /4/);
    await slow;
    assert.ok(steps.length > 0);
    await until(() => a.sessions.size === 1 && b.sessions.size === 1);
    await until(
      () =>
        a.seen.headers.some((headers) => headers[":method"] === "GET") && b.seen.headers.some((headers) => headers[":method"] === "GET"),
    );
    await a.shout("from a");
    await b.shout("from b");
    await until(() => heard.includes("from a") && heard.includes("from b"));
    await client.setLoggingLevel("error");
    assert.deepEqual([a.seen.levels.length, b.seen.levels.length], [1, 1]);
    await client.close();
  });

  test("a dead upstream hides and breaks nothing of the others; its tools stay listed, and a call to them gets the typed error", async () => {
    const { client } = await connectV1(url);
    const before = await namesOf(client);
    await b.kill();
    assert.deepEqual(await namesOf(client), before);
    assert.equal(textOf(await client.callTool({ name: "a__whoami", arguments: {} })), "A");
    await assert.rejects(client.callTool({ name: "b_2__write", arguments: { key: "x" } }), /no endpoint can be reached/);
    await b.start();
    assert.equal(textOf(await client.callTool({ name: "b_2__whoami", arguments: {} })), "B");
    await client.close();
  });

  test("an upstream that was never there is left out, and the client is told when it comes", async () => {
    await b.kill();
    const { client } = await connectV1(url);
    let changes = 0;
    client.setNotificationHandler(ToolListChangedNotificationSchema, () => {
      changes += 1;
    });
    const before = await namesOf(client);
    assert.ok(before.every((name) => name.startsWith("a__")) && before.length > 0);
    await b.start();
    await until(() => changes > 0);
    assert.ok((await namesOf(client)).includes("b_2__whoami"));
    await client.close();
  });

  test("never twice: a write whose connection is reset is not made again", async () => {
    const session = await openSession(url);
    a.resetAfterWrite = true;
    const lost = await post(url, toolCall(2, "a__write", { key: "x" }), { "mcp-session-id": session });
    assert.equal(lost.body.error?.data?.["code"], "outcome_unknown");
    assert.equal(lost.body.id, 2);
    assert.deepEqual(a.writes, ["x"]);
  });

  test("never twice: a write that its server answers with 404 is not made again", async (t) => {
    const placed = await startNotFoundServer("placed", { sessions: false });
    const other = await startTestRouter(controlOf({ orders: fakeControl([placed]) }));
    t.after(async () => {
      await other.close(0);
      await placed.kill();
    });
    const session = await openSession(`${other.url}/mcp`);
    const answer = await post(`${other.url}/mcp`, toolCall(2, "orders__write"), { "mcp-session-id": session });
    assert.equal(placed.runs, 1);
    assert.match(answer.text, /the order was placed/);
  });

  test("a session goes on in another router process, in the same sessions with the upstreams", async () => {
    const session = await openSession(url);
    await post(url, toolCall(2, "a__whoami"), { "mcp-session-id": session });
    const other = await startTestRouter(controlOf(upstreams), { directory });
    const answer = await post(`${other.url}/mcp`, toolCall(3, "a__whoami"), { "mcp-session-id": session });
    assert.equal(answer.body.result?.content?.[0]?.text, "A");
    assert.equal(a.seen.initialized.length, 1);
    assert.equal((await fetch(`${other.url}/mcp`, { method: "DELETE", headers: { "mcp-session-id": session } })).status, 200);
    assert.equal(a.seen.deleted.length, 1);
    assert.equal((await post(`${other.url}/mcp`, toolCall(4, "a__whoami"), { "mcp-session-id": session })).status, 404);
    await other.close(0);
  });

  test("who leaves while his session is looked up leaves no stream: another router has it, and a stop waits for calls", async (t) => {
    const { client, transport } = await connectV1(url);
    const session = transport.sessionId ?? "";
    await client.callTool({ name: "a__whoami", arguments: {} });
    const looked = Promise.withResolvers<void>();
    let looks = 0;
    const slow: SessionDirectory = {
      ...directory,
      read: async (key) => {
        looks += 1;
        await looked.promise;
        return directory.read(key);
      },
    };
    await client.close();
    const other = await startTestRouter(controlOf(upstreams), { directory: slow });
    t.after(() => other.close(0));
    const leave = new AbortController();
    const headers = { accept: "text/event-stream", "mcp-session-id": session };
    const asked = fetch(`${other.url}/mcp`, { headers, signal: leave.signal }).catch(() => undefined);
    await until(() => looks === 1);
    leave.abort();
    await asked;
    // What the router reads after the end of that connection: it knows of it then.
    for (let turns = 0; turns < 5; turns += 1) await fetch(`${other.url}/healthz`);
    looked.resolve();
    for (let turns = 0; turns < 5; turns += 1) await fetch(`${other.url}/healthz`);

    const here = new AbortController();
    const stream = await fetch(url, { headers, signal: here.signal });
    let heard = "";
    const reading = (async () => {
      for await (const chunk of stream.body ?? []) heard += Buffer.from(chunk).toString();
    })().catch(() => undefined);
    await eventually(async () => {
      await a.shout("to whoever listens");
      return heard.includes("to whoever listens");
    });
    here.abort();
    await reading;

    const running = post(`${other.url}/mcp`, toolCall(7, "a__slow", { steps: 5, ms: 200 }), { "mcp-session-id": session });
    await until(() => a.seen.started.length === 1);
    await other.close(patientMs(20_000));
    assert.equal((await running).body.result?.content?.[0]?.text, "A is done");
  });

  test("G3: a client that only listens hears an upstream again that lost its session, which must not move, and that all may have changed", async (t) => {
    const sticky = await startTestRouter(controlOf({ a: fakeControl([a], { sessions: "sticky" }) }));
    const leave = new AbortController();
    t.after(async () => {
      leave.abort();
      await sticky.close(0);
    });
    const session = { "mcp-session-id": await openSession(`${sticky.url}/mcp`) };
    const subscribe = { jsonrpc: "2.0", id: 2, method: "resources/subscribe", params: { uri: "mcpf+a+note://x" } };
    assert.ok((await post(`${sticky.url}/mcp`, subscribe, session)).body.result);
    const stream = await fetch(`${sticky.url}/mcp`, { headers: { accept: "text/event-stream", ...session }, signal: leave.signal });
    let heard = "";
    (async () => {
      for await (const chunk of stream.body ?? []) heard += Buffer.from(chunk).toString();
    })().catch(() => undefined);
    const hears = (text: string): Promise<unknown> =>
      eventually(
        async () => {
          await a.shout(text);
          return heard.includes(text);
        },
        { withinMs: 30_000 },
      );
    await hears("before");
    await a.kill();
    await a.start();
    await hears("after");
    assert.deepEqual(a.seen.subscriptions, ["note://x", "note://x"]);
    assert.match(heard, /tools\/list_changed/);
    assert.match(heard, /resources\/updated.*mcpf\+a\+note:\/\/x/);
  });

  test("a session that ends at a router process that never used it ends at the upstreams too", async () => {
    const session = await openSession(url);
    for (const name of ["a__whoami", "b_2__whoami"]) await post(url, toolCall(2, name), { "mcp-session-id": session });
    const other = await startTestRouter(controlOf(upstreams), { directory });
    try {
      assert.equal((await fetch(`${other.url}/mcp`, { method: "DELETE", headers: { "mcp-session-id": session } })).status, 200);
      assert.deepEqual([a.seen.deleted.length, b.seen.deleted.length], [1, 1]);
    } finally {
      await other.close(0);
    }
  });

  test("ids of sessions with all and with one upstream are not taken for each other, and a cursor of another list is refused", async () => {
    const [all, one] = [await openSession(url), await openSession(`${router.url}/mcp/a`)];
    assert.equal((await post(url, toolCall(2, "a__whoami"), { "mcp-session-id": one })).status, 404);
    assert.equal((await post(`${router.url}/mcp/a`, toolCall(2, "whoami"), { "mcp-session-id": all })).status, 404);
    assert.equal((await post(url, toolCall(2, "a__whoami"))).status, 400);
    const list = { jsonrpc: "2.0", id: 5, method: "tools/list", params: { cursor: "500.3.foreign" } };
    assert.equal((await post(url, list, { "mcp-session-id": all })).body.error?.code, -32602);
    const unknown = { jsonrpc: "2.0", id: 6, method: "tasks/get", params: {} };
    assert.equal((await post(url, unknown, { "mcp-session-id": all })).body.error?.code, -32601);
  });

  test("a tool that is taken from an agent is refused in the sessions that it has already", async () => {
    const may = (tools: string) => principalOf("agent:x", "x", grantOf({ allow: { upstreams: ["a"], tools: [tools] } } as never));
    let principal = may("*");
    await router.close(0);
    router = await startTestRouter(controlOf(upstreams), { guard: { identify: () => principal, metadata: () => null } });
    url = `${router.url}/mcp`;
    const session = { "mcp-session-id": await openSession(url) };
    assert.match((await post(url, toolCall(2, "a__write", { key: "one" }), session)).text, /wrote one/);
    principal = may("whoami");
    assert.equal((await post(url, toolCall(3, "a__write", { key: "two" }), session)).body.error?.code, 1010);
    assert.match((await post(url, toolCall(4, "a__whoami"), session)).text, /"A"/);
    assert.deepEqual(a.writes, ["one"]);
  });

  test("G2: what waits for a client is told on a stream that says it is one; a client that does not read costs no more than what may wait", () => {
    const sent: string[] = [];
    let heads = 0;
    let isSlow = false;
    const response = Object.assign(new EventEmitter(), {
      headersSent: false,
      destroyed: false,
      writableEnded: false,
      writeHead: () => {
        heads += 1;
      },
      flushHeaders: () => undefined,
      write: (text: string) => {
        assert.equal(heads, 1);
        sent.push(text);
        return !isSlow;
      },
    });
    const session = new AggregateSession(
      { nowMs: () => 0 } as never,
      null as never,
      { logs: new StreamLogs(new LogBudget().of("")), sealed: { version: "2025-06-18" } } as never,
      anybody,
    );
    session.push({ number: -1 });
    assert.ok(session.attach(new SseWriter(response as never), {}));
    isSlow = true;
    for (let number = 0; number < 2000; number += 1) session.push({ number });
    assert.equal(sent.length, 2);
    isSlow = false;
    response.emit("drain");
    assert.equal(sent.length, 502);
    assert.match(sent.at(-1) ?? "", /1999/);
    session.push({ number: 2000 });
    assert.equal(sent.length, 503);
  });

  test("a body that is nested too deeply is refused before it is walked through", async () => {
    const deep = `${"[".repeat(20_000)}${"]".repeat(20_000)}`;
    assert.equal((await post(url, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"x":${deep}}}`)).status, 400);
  });

  test("N2: names, URIs and ids come back to the upstream that they came from, whatever they look like", () => {
    const name = fc.stringMatching(/^[ab][Ab_]{0,5}$/);
    fc.assert(
      fc.property(fc.uniqueArray(name, { minLength: 1, maxLength: 5 }), fc.string(), fc.nat(), (names, text, number) => {
        const [upstream = ""] = names;
        assert.deepEqual(splitUri(prefixedUri(upstream, text), names), { upstream, uri: text });
        assert.deepEqual(splitId(taggedId(upstream, text)), { upstream, id: text });
        assert.deepEqual(splitId(taggedId(upstream, number)), { upstream, id: number });
        const clear = names.filter((one) => ambiguousWith(one, names, "__") === null);
        for (const one of clear) assert.deepEqual(splitName(prefixed(one, "__", text), "__", clear), { upstream: one, name: text });
      }),
    );
  });
});
