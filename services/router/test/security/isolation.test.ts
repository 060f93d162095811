import assert from "node:assert/strict";
import { connect } from "node:net";
import { afterEach, beforeEach, describe, test } from "node:test";
import type { Guard } from "../../src/identity/guard.ts";
import { principalOf } from "../../src/identity/principal.ts";
import { initializeBody, openSession, post, textOf, toolCall, until } from "../support/clients.ts";
import { type FakeControl, fakeControl } from "../support/fake-control.ts";
import { guardOf } from "../support/guard.ts";
import { startMcpServer, type TestMcpServer } from "../support/mcp-server.ts";
import { startTestRouter, type TestRouter } from "../support/router.ts";

const stop: (() => Promise<unknown>)[] = [];
let a: TestMcpServer;
let b: TestMcpServer;
let control: FakeControl;
beforeEach(async () => {
  [a, b] = await Promise.all([startMcpServer("a"), startMcpServer("b")]);
  control = fakeControl([
    { name: "a", url: a.url, headers: { Authorization: "Bearer secret-of-a", "X-Tenant": "tenant-of-a" } },
    { name: "b", url: b.url, headers: { "X-Api-Key": "secret-of-b" } },
  ]);
  stop.push(a.kill, b.kill);
});
afterEach(async () => {
  for (const end of stop.splice(0).reverse()) await end();
});

async function router(guard?: Guard): Promise<TestRouter> {
  const started = await startTestRouter(control, guard === undefined ? {} : { guard });
  stop.push(async () => {
    await started.close(0);
    assert.deepEqual(started.problems, []);
  });
  return started;
}

describe("R24: credentials of one endpoint", () => {
  test("R24: what belongs to one endpoint never reaches the other, before, during and after a failover, and nothing of the client's reaches either", async () => {
    const { mcpUrl, url } = await router();
    const client = { authorization: "Bearer of-the-client", cookie: "c=of-the-client", "proxy-authorization": "Basic of-the-client" };
    const begun = await post(mcpUrl, initializeBody, client);
    const id = begun.headers.get("mcp-session-id") ?? "";
    const headers = { ...client, "mcp-session-id": id };
    await post(mcpUrl, { jsonrpc: "2.0", method: "notifications/initialized" }, headers);
    const leave = new AbortController();
    const stream = await fetch(mcpUrl, { headers: { ...headers, accept: "text/event-stream" }, signal: leave.signal });
    assert.equal(stream.status, 200);
    await post(mcpUrl, { jsonrpc: "2.0", id: 2, method: "logging/setLevel", params: { level: "error" } }, headers);
    assert.equal(textOf((await post(mcpUrl, toolCall(3, "whoami"), headers)).body.result), "a");
    const atA = [...a.sessions.keys()];

    await a.kill();
    control.move("b");
    assert.equal(textOf((await post(mcpUrl, toolCall(4, "whoami"), headers)).body.result), "b");
    await until(() => b.seen.headers.some((seen) => seen[":method"] === "GET"));
    await fetch(`${url}/http/fake/v1`, { headers: client });
    const atB = [...b.sessions.keys()];
    await a.start();
    control.move("a");
    assert.equal(textOf((await post(mcpUrl, toolCall(5, "whoami"), headers)).body.result), "a");
    assert.equal((await fetch(mcpUrl, { method: "DELETE", headers })).status, 200);
    leave.abort();
    await until(() => b.seen.deleted.length > 0);

    assert.ok(a.seen.headers.length >= 8 && b.seen.headers.length >= 5, `${a.seen.headers.length} and ${b.seen.headers.length} requests`);
    for (const seen of a.seen.headers) {
      assert.deepEqual([seen["authorization"], seen["x-tenant"], seen["x-api-key"]], ["Bearer secret-of-a", "tenant-of-a", undefined]);
      assert.doesNotMatch(JSON.stringify(seen), /of-b|of-the-client/);
      assert.ok(!atB.includes(String(seen["mcp-session-id"])), "the session id of b stays at b");
      assert.notEqual(seen["mcp-session-id"], id, "the router's own session id stays with the client");
    }
    for (const seen of b.seen.headers) {
      assert.deepEqual([seen["authorization"], seen["x-tenant"], seen["x-api-key"]], [undefined, undefined, "secret-of-b"]);
      assert.doesNotMatch(JSON.stringify(seen), /of-a|of-the-client/);
      assert.ok(!atA.includes(String(seen["mcp-session-id"])), "the session id of a stays at a");
    }
  });
});

describe("R23: a page that has its name rebound to the router's address", () => {
  test("R23: is refused whatever way it names a host, before anything is looked up or sent on", async () => {
    const started = await router();
    const statusOf = async (lines: string[], body = JSON.stringify(initializeBody)): Promise<number> => {
      const socket = connect(started.port, "127.0.0.1");
      const head = [...lines, "content-type: application/json", "accept: application/json, text/event-stream", "connection: close"];
      socket.write(`${head.join("\r\n")}\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
      let text = "";
      for await (const chunk of socket) text += String(chunk);
      return Number(text.split(" ")[1]);
    };
    const rebound = [
      ["POST /mcp/fake HTTP/1.1", "host: evil.example"],
      ["POST /mcp/fake HTTP/1.1", `host: evil.example:${started.port}`],
      ["POST /mcp/fake HTTP/1.1", "host: localhost.evil.example"],
      ["POST /mcp/fake HTTP/1.1", "host: localhost@evil.example"],
      ["POST /mcp/fake HTTP/1.1", "host: 127.0.0.1.nip.example"],
      ["POST /mcp/fake HTTP/1.1", "host: evil.example/localhost"],
      ["POST /mcp/fake HTTP/1.1", "host: "],
      ["POST /mcp/fake HTTP/1.1", "host: localhost", "origin: http://evil.example"],
      ["POST /mcp/fake HTTP/1.1", "host: localhost", "origin: http://localhost.evil.example"],
      ["POST /mcp/fake HTTP/1.1", "host: localhost", "origin: null"],
      ["GET /mcp/fake HTTP/1.1", "host: evil.example"],
      ["DELETE /mcp/fake HTTP/1.1", "host: evil.example"],
      ["OPTIONS /mcp/fake HTTP/1.1", "host: evil.example", "origin: http://evil.example"],
      ["GET /http/fake/v1 HTTP/1.1", "host: evil.example"],
      ["POST /mcp/nobody HTTP/1.1", "host: evil.example"],
      ["GET /metrics HTTP/1.1", "host: evil.example"],
    ];
    for (const lines of rebound) assert.equal(await statusOf(lines), 403, lines.join(", "));
    assert.ok((await statusOf(["POST http://localhost/mcp/fake HTTP/1.1", "host: evil.example"])) >= 400, "nor by an absolute target");
    assert.ok((await statusOf(["POST /mcp/fake HTTP/1.0"])) >= 400, "nor without a Host");
    assert.deepEqual([a.seen.headers, b.seen.headers], [[], []]);
    assert.equal(await statusOf(["POST /mcp/fake HTTP/1.1", "host: LOCALHOST:1", "origin: http://localhost:6274"]), 200);
  });
});

describe("a session id in the hands of another agent", () => {
  const agents = new Map(
    ["alice", "bob"].map((name) => [`Bearer ${name}`, principalOf(`agent:${name}`, name, { upstreams: ["*"], tools: ["*"] })]),
  );
  const guard = guardOf(agents);

  test("R2, R24: is answered like one that never was, by every method, in every router process, and the session goes on for its owner", async () => {
    const first = await router(guard);
    const second = await router(guard);
    const alice = { authorization: "Bearer alice" };
    const bob = { authorization: "Bearer bob" };
    const begun = await post(first.mcpUrl, initializeBody, alice);
    const stolen = { "mcp-session-id": begun.headers.get("mcp-session-id") ?? "" };
    await post(first.mcpUrl, { jsonrpc: "2.0", method: "notifications/initialized" }, { ...alice, ...stolen });
    const before = a.seen.headers.length;
    for (const { mcpUrl } of [first, second]) {
      const unknown = await post(mcpUrl, toolCall(1, "write", { key: "x" }), { ...bob, "mcp-session-id": "mcpf1.nothing" });
      for (const message of [
        toolCall(1, "write", { key: "stolen" }),
        { jsonrpc: "2.0", method: "notifications/cancelled", params: { requestId: 1 } },
        { jsonrpc: "2.0", id: 1, result: {} },
        { jsonrpc: "2.0", id: 1, method: "ping" },
      ]) {
        const answer = await post(mcpUrl, message, { ...bob, ...stolen });
        assert.deepEqual([answer.status, answer.text], [404, unknown.text], JSON.stringify(message));
      }
      const get = await fetch(mcpUrl, { headers: { ...bob, ...stolen, accept: "text/event-stream", "last-event-id": "12345678.0" } });
      assert.equal(get.status, 404);
      assert.equal((await fetch(mcpUrl, { method: "DELETE", headers: { ...bob, ...stolen } })).status, 404);
      assert.equal((await post(mcpUrl, toolCall(2, "write", { key: "stolen" }), stolen)).status, 401, "nor without any credential");
    }
    assert.equal(a.seen.headers.length, before, "nothing of it was sent on");
    assert.deepEqual(a.writes, []);
    for (const { mcpUrl } of [first, second]) {
      assert.equal(textOf((await post(mcpUrl, toolCall(3, "whoami"), { ...alice, ...stolen })).body.result), "a");
    }
  });

  test("R2: of a time without identities is worth nothing once there are some, and the other way round", async () => {
    const open = await router();
    const closed = await router(guard);
    const anonymous = { "mcp-session-id": await openSession(open.mcpUrl) };
    assert.equal((await post(closed.mcpUrl, toolCall(1, "whoami"), { ...anonymous, authorization: "Bearer alice" })).status, 404);
    const begun = await post(closed.mcpUrl, initializeBody, { authorization: "Bearer alice" });
    const ofAlice = { "mcp-session-id": begun.headers.get("mcp-session-id") ?? "" };
    assert.equal((await post(open.mcpUrl, toolCall(1, "whoami"), ofAlice)).status, 404);
  });
});
