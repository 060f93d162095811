import assert from "node:assert/strict";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, test } from "node:test";
import { patientMs } from "@mcp-failover/testkit";
import { CreateMessageRequestSchema } from "@modelcontextprotocol/sdk/types.js";
import { connectV1, openSession, post, textOf, toolCall, until } from "./support/clients.ts";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { startMcpServer, type TestMcpServer } from "./support/mcp-server.ts";
import { startNotFoundServer } from "./support/not-found-server.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";

describe("a call", () => {
  let a: TestMcpServer;
  let b: TestMcpServer;
  let control: FakeControl;
  let router: TestRouter;
  const others: (() => Promise<void>)[] = [];
  beforeEach(async () => {
    a = await startMcpServer("a");
    b = await startMcpServer("b");
    control = fakeControl([a, b]);
    router = await startTestRouter(control);
  });
  afterEach(async () => {
    await router.close(0);
    for (const close of others.splice(0)) await close();
    await a.kill();
    await b.kill();
    assert.deepEqual(router.problems, []);
  });
  const told = (tool: string): unknown[] =>
    control.told
      .filter((entry) => entry.tool === tool)
      .map(({ endpoint, result }) => [endpoint, result.outcome, "executed" in result ? result.executed : null]);

  test("R19: that writes is never run twice: a reset after it was sent is answered with outcome unknown", async () => {
    const id = await openSession(router.mcpUrl);
    a.resetAfterWrite = true;
    const answer = await post(router.mcpUrl, toolCall("w1", "write", { key: "k" }), { "mcp-session-id": id });
    assert.equal(answer.status, 200);
    assert.equal(answer.body.id, "w1");
    assert.equal(answer.body.error?.code, 1001);
    const { code, upstream, retriable, operationId } = answer.body.error?.data ?? {};
    assert.deepEqual({ code, upstream, retriable }, { code: "outcome_unknown", upstream: "fake", retriable: false });
    assert.equal(operationId, answer.headers.get("mcpf-operation-id"));
    assert.match(String(operationId), /^op-/);
    assert.deepEqual([a.writes, b.writes], [["k"], []]);
    assert.deepEqual(told("write"), [["a", "hard", "unknown"]]);
  });

  test("that is given up because its endpoint hangs runs elsewhere at once, also where its session is not introduced yet", async () => {
    const mute = createServer(() => undefined).listen(0, "127.0.0.1");
    await new Promise((resolve) => mute.once("listening", resolve));
    others.push(async () => {
      mute.closeAllConnections();
      mute.close();
    });
    const hung = { name: "hung", url: `http://127.0.0.1:${(mute.address() as AddressInfo).port}/mcp` };
    const pair = fakeControl([hung, a]);
    pair.active = "a";
    const second = await startTestRouter(pair);
    others.push(() => second.close(0));
    const id = await openSession(second.mcpUrl);
    pair.active = "hung";
    for (const headers of [{ "mcp-session-id": id }, {}] as Record<string, string>[]) {
      pair.givenUp = new AbortController();
      const begunMs = performance.now();
      const answered =
        "mcp-session-id" in headers
          ? post(second.mcpUrl, toolCall("r1", "whoami"), headers)
          : post(second.mcpUrl, {
              jsonrpc: "2.0",
              id: "i1",
              method: "initialize",
              params: { protocolVersion: "2025-06-18", capabilities: {}, clientInfo: { name: "t", version: "1" } },
            });
      setTimeout(() => {
        // The next attempt is one of its own.
        const given = pair.givenUp;
        pair.givenUp = null;
        given?.abort();
      }, 200);
      const answer = await answered;
      assert.equal(answer.body.error, undefined, JSON.stringify(answer.body));
      assert.ok(performance.now() - begunMs < patientMs(2000));
    }
    const failed = pair.told.filter(({ endpoint }) => endpoint === "hung").map(({ result }) => result);
    assert.deepEqual(
      failed.map((result) => (result.outcome === "hard" ? [result.code, result.executed] : result.outcome)),
      [
        ["timeout", "no"],
        ["timeout", "unknown"],
      ],
    );
  });

  test("R19: that writes moves when the connection is refused, which proves that it did not run", async () => {
    const { client } = await connectV1(router.mcpUrl);
    await client.callTool({ name: "whoami" });
    await a.kill();
    assert.match(textOf(await client.callTool({ name: "write", arguments: { key: "k" } })), /^b wrote k/);
    assert.deepEqual([a.writes, b.writes], [[], ["k"]]);
    await client.close();
  });

  test("that only reads is sent again after a reset", async () => {
    const { client } = await connectV1(router.mcpUrl);
    const running = client.callTool({ name: "slow", arguments: { steps: 20, ms: 20 } });
    await new Promise((resolve) => setTimeout(resolve, 100));
    await a.kill();
    assert.equal(textOf(await running), "b is done");
    await client.close();
  });

  test("R8, R12: streams its progress as it comes, and after a retry never backwards", async () => {
    const { client } = await connectV1(router.mcpUrl);
    const seen: { progress: number; by: string; atMs: number }[] = [];
    const running = client.callTool({ name: "slow", arguments: { steps: 20, ms: 40 } }, undefined, {
      onprogress: ({ progress, message }) => seen.push({ progress, by: String(message), atMs: Date.now() }),
    });
    await until(() => seen.length >= 6);
    assert.ok((seen[5]?.atMs ?? 0) - (seen[0]?.atMs ?? 0) >= 60, "events are not held back");
    await a.kill();
    assert.equal(textOf(await running), "b is done");
    assert.deepEqual(
      seen.map(({ progress }) => progress),
      Array.from({ length: 20 }, (_, index) => index + 1),
    );
    assert.deepEqual(new Set(seen.map(({ by }) => by)), new Set(["a", "b"]));
    await client.close();
  });

  test("R10: whose stream dies midway and may not be repeated gets its one answer in the stream", async () => {
    control.readOnly.delete("slow");
    const id = await openSession(router.mcpUrl);
    const call = { ...toolCall(5, "slow", { steps: 50, ms: 20 }) } as { params: Record<string, unknown> };
    call.params["_meta"] = { progressToken: "p" };
    const response = await fetch(router.mcpUrl, {
      method: "POST",
      headers: { "content-type": "application/json", accept: "application/json, text/event-stream", "mcp-session-id": id },
      body: JSON.stringify(call),
    });
    assert.match(response.headers.get("content-type") ?? "", /event-stream/);
    await a.kill();
    const messages = [...(await response.text()).matchAll(/^data: (\{.*)$/gm)].map(([, json]) => JSON.parse(json ?? ""));
    const answers = messages.filter((message) => message.id === 5);
    assert.equal(answers.length, 1);
    assert.equal(answers[0].error.code, 1001);
    assert.equal(messages.at(-1), answers[0]);
  });

  test("R10, R22: with every endpoint dead gets a typed error in under a second", async () => {
    const id = await openSession(router.mcpUrl);
    await Promise.all([a.kill(), b.kill()]);
    for (const tool of ["whoami", "write"]) {
      const startedAtMs = Date.now();
      const answer = await post(router.mcpUrl, toolCall(1, tool, { key: "k" }), { "mcp-session-id": id });
      assert.ok(Date.now() - startedAtMs < patientMs(1000));
      assert.equal(answer.status, 200);
      assert.equal(answer.body.error?.code, 1002);
      assert.equal(answer.body.error?.data?.["retriable"], true);
    }
    const init = await post(router.mcpUrl, {
      jsonrpc: "2.0",
      id: 1,
      method: "initialize",
      params: { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "x", version: "1" } },
    });
    assert.equal(init.body.error?.code, 1002);
  });

  test("R10, R26: that outlives its deadline is answered then", async () => {
    const id = await openSession(router.mcpUrl);
    const startedAtMs = Date.now();
    const answer = await post(router.mcpUrl, toolCall(1, "ask"), { "mcp-session-id": id, "mcpf-timeout-ms": "300" });
    assert.ok(Date.now() - startedAtMs < patientMs(1000));
    assert.equal(answer.text.includes('"code":1001') || answer.text.includes('"code":1003'), true);
    assert.deepEqual(told("ask"), [["a", "hard", "unknown"]]);
  });

  test("R21: is not moved by what the upstream merely refuses, and the refusal is told apart", async () => {
    const id = await openSession(router.mcpUrl);
    const send = () => post(router.mcpUrl, toolCall(1, "write", { key: "k" }), { "mcp-session-id": id });
    a.answerWith = { status: 429, body: "{}", headers: { "retry-after": "2" } };
    const shed = await send();
    assert.equal(shed.body.error?.code, 1004);
    assert.equal(shed.body.error?.data?.["retryAfterMs"], 2000);
    a.answerWith = { status: 401, body: "{}", headers: { "www-authenticate": 'Bearer resource_metadata="http://inner"' } };
    const auth = await send();
    assert.equal(auth.status, 200);
    assert.equal(auth.body.error?.code, 1005);
    assert.equal(auth.headers.get("www-authenticate"), null);
    a.answerWith = { status: 500, body: "{}" };
    assert.equal((await send()).body.error?.code, 1001);
    a.answerWith = { status: 503, body: "{}", headers: { "retry-after": "3" } };
    assert.equal((await send()).body.error?.code, 1001);
    a.answerWith = { status: 200, body: "no json" };
    assert.equal((await send()).body.error?.code, 1001);
    a.answerWith = { status: 302, body: "{}", headers: { location: b.url } };
    assert.equal((await send()).body.error?.code, 1001);
    a.answerWith = { status: 400, body: '{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no"}}' };
    const bad = await send();
    assert.deepEqual([bad.status, bad.body.error?.code], [400, -32600]);
    assert.deepEqual(b.writes, []);
    assert.deepEqual(
      control.told.filter(({ tool }) => tool === "write").map(({ result }) => (result.outcome === "hard" ? result.code : result.outcome)),
      ["soft", "auth", "http_5xx", "http_5xx", "malformed", "malformed", "caller"],
    );
    assert.deepEqual(
      control.told.flatMap(({ result }) => ("retryAfterMs" in result ? [[result.outcome, result.retryAfterMs]] : [])),
      [
        ["soft", 2000],
        ["hard", 3000],
      ],
    );
  });

  test("R4, R19: that writes runs once at a server that never gave a session id and answers 404, which is the client's answer", async () => {
    const placed = await startNotFoundServer("placed", { sessions: false });
    const other = await startNotFoundServer("other", { sessions: false });
    others.push(placed.kill, other.kill);
    const pair = fakeControl([placed, other]);
    const second = await startTestRouter(pair);
    others.push(() => second.close(0));
    const answer = await post(second.mcpUrl, toolCall(1, "write", { key: "k" }), { "mcp-session-id": await openSession(second.mcpUrl) });
    assert.deepEqual([placed.runs, other.runs], [1, 0]);
    assert.deepEqual([answer.status, answer.body.error?.code], [404, -32000]);
    assert.match(answer.text, /the order was placed/);
    assert.deepEqual(
      pair.told.filter(({ tool }) => tool === "write").map(({ result }) => result.outcome),
      ["caller"],
    );
  });

  test("R19: that writes goes nowhere else when its server does not know the session that it has just given: it may have run", async () => {
    const forgetful = await startNotFoundServer("forgetful", { sessions: true });
    const other = await startNotFoundServer("other", { sessions: true });
    others.push(forgetful.kill, other.kill);
    const second = await startTestRouter(fakeControl([forgetful, other]));
    others.push(() => second.close(0));
    const answer = await post(second.mcpUrl, toolCall(1, "write", { key: "k" }), { "mcp-session-id": await openSession(second.mcpUrl) });
    assert.equal(answer.body.error?.data?.["code"], "outcome_unknown", answer.text);
    assert.equal(other.runs, 0);
  });

  test("R21: tells the control of tool errors, and of each attempt once", async () => {
    const { client } = await connectV1(router.mcpUrl);
    await client.callTool({ name: "fail" });
    await client.callTool({ name: "whoami" });
    await client.callTool({ name: "missing" });
    assert.deepEqual(
      control.told
        .filter(({ tool }) => tool !== null)
        .map(({ tool, result }) => [tool, result.outcome, "toolError" in result && result.toolError]),
      [
        ["fail", "caller", true],
        ["whoami", "ok", false],
        ["missing", "caller", true],
      ],
    );
    assert.equal(control.ended.length, control.calls.length);
    assert.equal(control.calls.find(({ tool }) => tool === "whoami")?.agent, "agent-v1");
    await client.close();
  });

  test("R20: of a rolled-back tool is answered by the legacy implementation in the same shape", async () => {
    const { client } = await connectV1(router.mcpUrl);
    control.implementation = "legacy";
    const seen: unknown[] = [];
    control.legacy = async (args, _signal, operationId) => {
      seen.push(args, operationId);
      return { content: [{ type: "text", text: "from legacy" }], structuredContent: { stock: 1 } };
    };
    const result = await client.callTool({ name: "write", arguments: { key: "k" } });
    assert.deepEqual(result, { content: [{ type: "text", text: "from legacy" }], structuredContent: { stock: 1 } });
    assert.deepEqual(seen[0], { key: "k" });
    assert.match(String(seen[1]), /^op-/);
    assert.deepEqual(a.writes, []);
    await client.close();
  });

  test("falls back to the legacy implementation when every endpoint is dead, but not where it may have run", async () => {
    const id = await openSession(router.mcpUrl);
    control.legacy = async () => ({ content: [{ type: "text", text: "from legacy" }] });
    a.resetAfterWrite = true;
    const unknown = await post(router.mcpUrl, toolCall(1, "write", { key: "k" }), { "mcp-session-id": id });
    assert.equal(unknown.body.error?.code, 1001);
    await Promise.all([a.kill(), b.kill()]);
    const answer = await post(router.mcpUrl, toolCall(2, "write", { key: "k" }), { "mcp-session-id": id });
    assert.equal(textOf(answer.body.result), "from legacy");
    control.legacy = async () => {
      throw new Error("broken too");
    };
    assert.equal((await post(router.mcpUrl, toolCall(3, "write", { key: "k" }), { "mcp-session-id": id })).body.error?.code, 1002);
  });

  test("R13: goes on when a client of the session protocol hangs up", async () => {
    const id = await openSession(router.mcpUrl);
    const hangUp = new AbortController();
    const sent = fetch(router.mcpUrl, {
      method: "POST",
      headers: { "content-type": "application/json", accept: "application/json, text/event-stream", "mcp-session-id": id },
      body: JSON.stringify(toolCall(1, "slow", { steps: 5, ms: 30 })),
      signal: hangUp.signal,
    }).catch(() => undefined);
    await new Promise((resolve) => setTimeout(resolve, 60));
    hangUp.abort();
    await sent;
    await until(() => told("slow").length === 1);
    assert.deepEqual(told("slow"), [["a", "ok", null]]);
  });

  test("R13: is cancelled where it runs when the client says so", async () => {
    const { client } = await connectV1(router.mcpUrl);
    let asked = false;
    client.setRequestHandler(CreateMessageRequestSchema, () => {
      asked = true;
      return new Promise(() => undefined);
    });
    const cancel = new AbortController();
    const running = client.callTool({ name: "ask" }, undefined, { signal: cancel.signal }).catch((error: unknown) => error);
    await until(() => asked);
    cancel.abort("enough");
    await running;
    await until(() => a.seen.cancelled.length === 1);
    await client.close();
  });

  test("says of an answer that its route is old while the log is out of reach, also of an error", async () => {
    const write = async (id: number) => {
      const answer = await post(router.mcpUrl, toolCall(id, "write", { key: String(id) }), { "mcp-session-id": session });
      return [answer.body.error?.data?.["code"], answer.headers.get("mcpf-route")];
    };
    const session = await openSession(router.mcpUrl);
    assert.deepEqual(await write(1), [undefined, null]);
    control.stale = true;
    assert.deepEqual(await write(2), [undefined, "stale"]);
    await a.kill();
    await b.kill();
    assert.deepEqual(await write(3), ["no_endpoint", "stale"]);
  });

  test("passes unknown methods and fields on as they came", async () => {
    const bodies: string[] = [];
    const echo: Server = createServer((request, response) => {
      let body = "";
      request.on("data", (chunk: Buffer) => (body += chunk.toString()));
      request.on("end", () => {
        bodies.push(body);
        const { id } = JSON.parse(body) as { id: number };
        response.writeHead(200, { "content-type": "application/json", "set-cookie": "a=b" });
        response.end(`{"jsonrpc":"2.0","id":${id},"result":{"big":12345678901234567890,"x_new":[1]}}`);
      });
    });
    await new Promise<void>((resolve) => echo.listen(0, "127.0.0.1", resolve));
    others.push(() => new Promise((resolve) => echo.close(() => resolve())));
    const url = `http://127.0.0.1:${(echo.address() as AddressInfo).port}/mcp`;
    const second = await startTestRouter(fakeControl([{ name: "echo", url }]));
    others.push(() => second.close(0));
    const body = '{"jsonrpc":"2.0", "id":1,"method":"future/thing","params":{"n":12345678901234567890},"x_extra":{"y":[true]}}';
    const answer = await post(second.mcpUrl, body);
    assert.deepEqual(bodies, [body]);
    assert.equal(answer.text, '{"jsonrpc":"2.0","id":1,"result":{"big":12345678901234567890,"x_new":[1]}}');
    assert.equal(answer.headers.get("set-cookie"), null);
  });

  test("A1: an answer to another request on its stream goes to nobody, and its connection is not used again", async () => {
    const sockets = new Set<unknown>();
    const odd: Server = createServer((request, response) => {
      sockets.add(request.socket);
      request.resume();
      response.writeHead(200, { "content-type": "text/event-stream" });
      const answer = (id: number, text: string) =>
        `data: {"jsonrpc":"2.0","id":${id},"result":{"content":[{"type":"text","text":"${text}"}]}}\n\n`;
      response.end(answer(7, "of another client") + answer(1, "own"));
    });
    await new Promise<void>((resolve) => odd.listen(0, "127.0.0.1", resolve));
    others.push(() => new Promise((resolve) => odd.close(() => resolve())));
    const url = `http://127.0.0.1:${(odd.address() as AddressInfo).port}/mcp`;
    const second = await startTestRouter(fakeControl([{ name: "odd", url }]));
    others.push(() => second.close(0));
    for (let round = 0; round < 2; round += 1) {
      const { text } = await post(second.mcpUrl, toolCall(1, "whoami"));
      assert.doesNotMatch(text, /of another client/);
      assert.match(text, /"id":1,.*own/);
    }
    assert.equal(sockets.size, 2, "each on a connection of its own");
  });

  test("of a thousand in a row leaves no session, stream or call behind", async () => {
    const { client } = await connectV1(router.mcpUrl);
    for (let round = 0; round < 20; round++) await Promise.all(Array.from({ length: 25 }, () => client.callTool({ name: "whoami" })));
    assert.equal(a.sessions.size, 1);
    assert.equal(control.ended.length, control.calls.length);
    await client.close();
  });
});
