import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, test } from "node:test";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { SSEServerTransport } from "@modelcontextprotocol/sdk/server/sse.js";
import { CreateMessageRequestSchema, CreateMessageResultSchema } from "@modelcontextprotocol/sdk/types.js";
import { z } from "zod";
import { createSseBridge } from "../src/http-sse/bridge.ts";
import { createUpstreamClient } from "../src/upstream-client.ts";
import { connectV1, connectV2, initializeBody, openSession, post, textOf, toolCall, until } from "./support/clients.ts";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";

/** A real server of SDK 1.x with the transport of 2024-11-05. */
class OldServer {
  readonly writes: string[] = [];
  readonly authorizations: unknown[] = [];
  readonly transports = new Map<string, SSEServerTransport>();
  /** Status of the next answer to a POST. */
  postStatus: number | null = null;
  /** What the stream names instead of its own address. */
  names: string | null = null;
  #http: Server | null = null;
  port = 0;

  get url(): string {
    return `http://127.0.0.1:${this.port}/sse`;
  }
  async start(): Promise<void> {
    const http = createServer((request, response) => {
      this.#serve(request, response).catch(() => response.destroy());
    });
    await new Promise<void>((resolve) => http.listen(this.port, "127.0.0.1", resolve));
    this.port = (http.address() as AddressInfo).port;
    this.#http = http;
  }
  async kill(): Promise<void> {
    this.transports.clear();
    this.#http?.closeAllConnections();
    await new Promise((resolve) => this.#http?.close(resolve) ?? resolve(undefined));
    this.#http = null;
  }
  breakStreams(): void {
    this.transports.clear();
    this.#http?.closeAllConnections();
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "/", "http://old");
    this.authorizations.push(request.headers.authorization);
    if (request.method === "GET" && url.pathname === "/sse") {
      if (this.names !== null) {
        response.writeHead(200, { "content-type": "text/event-stream" }).write(`event: endpoint\ndata: ${this.names}\n\n`);
        return;
      }
      const transport = new SSEServerTransport("/message", response);
      this.transports.set(transport.sessionId, transport);
      await this.#makeServer().connect(transport as never);
      return;
    }
    if (this.postStatus !== null) {
      response.writeHead(this.postStatus).end("no");
      this.postStatus = null;
      return;
    }
    const transport = this.transports.get(url.searchParams.get("sessionId") ?? "");
    if (transport === undefined) {
      request.resume();
      response.writeHead(404).end("Session not found");
      return;
    }
    await transport.handlePostMessage(request, response);
  }

  #makeServer(): McpServer {
    const server = new McpServer({ name: "old", version: "1" }, { capabilities: { tools: {} } });
    const text = (said: string) => ({ content: [{ type: "text" as const, text: said }] });
    server.registerTool("whoami", {}, async () => text("old"));
    server.registerTool("write", { inputSchema: { key: z.string() } }, async ({ key }) => {
      this.writes.push(key);
      return text("written");
    });
    server.registerTool("lost", { inputSchema: { key: z.string() } }, async ({ key }) => {
      this.writes.push(key);
      this.breakStreams();
      return text("never heard");
    });
    server.registerTool("slow", { inputSchema: { steps: z.number() } }, async ({ steps }, { _meta, sendNotification }) => {
      for (let progress = 1; progress <= steps; progress++) {
        if (_meta?.progressToken !== undefined)
          await sendNotification({ method: "notifications/progress", params: { progressToken: _meta.progressToken, progress } });
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      return text("done");
    });
    server.registerTool("ask", {}, async () => {
      const params = { messages: [{ role: "user", content: { type: "text", text: "2+2?" } }], maxTokens: 5 };
      const answer = await server.server.request({ method: "sampling/createMessage", params } as never, CreateMessageResultSchema as never);
      return text(JSON.stringify((answer as { content: unknown }).content));
    });
    return server;
  }
}

describe("servers with the transport of protocol 2024-11-05", () => {
  let old: OldServer;
  let control: FakeControl;
  let router: TestRouter;

  beforeEach(async () => {
    old = new OldServer();
    await old.start();
    const headers = { authorization: "Bearer of-this-endpoint" };
    control = fakeControl([{ name: "old", url: old.url, headers, via: { kind: "sse" } }]);
    router = await startTestRouter(control);
  });
  afterEach(async () => {
    await router.close(0);
    await old.kill();
    assert.deepEqual(router.problems, []);
  });

  test("clients of both SDK lines initialize, list, call, are told progress and answer the server", async () => {
    const { client, transport } = await connectV1(router.mcpUrl);
    client.setRequestHandler(
      CreateMessageRequestSchema,
      async () => ({ model: "m", role: "assistant", content: { type: "text", text: "4" } }) as never,
    );
    assert.equal((await client.listTools()).tools.length, 5);
    const steps: number[] = [];
    await client.callTool({ name: "slow", arguments: { steps: 3 } }, undefined, { onprogress: ({ progress }) => steps.push(progress) });
    assert.deepEqual(steps, [1, 2, 3]);
    assert.match(textOf(await client.callTool({ name: "ask", arguments: {} })), /"4"/);
    assert.ok(old.authorizations.every((value) => value === "Bearer of-this-endpoint"));
    assert.equal(old.transports.size, 1);
    await transport.terminateSession();
    const v2 = await connectV2(router.mcpUrl, "auto");
    assert.equal(textOf(await v2.callTool({ name: "whoami", arguments: {} })), "old");
    await v2.close();
  });

  test("R4: a stream that broke, or that the server forgot, is a lost session: it is introduced again and the call runs once", async () => {
    const session = await openSession(router.mcpUrl);
    const write = (key: string) => post(router.mcpUrl, toolCall(key, "write", { key }), { "mcp-session-id": session });
    await write("a");
    old.transports.clear();
    assert.equal((await write("b")).body.result?.content?.[0]?.text, "written");
    old.breakStreams();
    await until(() => old.transports.size === 0);
    assert.equal((await write("c")).body.result?.content?.[0]?.text, "written");
    await old.kill();
    await old.start();
    assert.equal((await write("d")).body.result?.content?.[0]?.text, "written");
    assert.deepEqual(old.writes, ["a", "b", "c", "d"]);
  });

  test("R19: a stream that ends after the call was taken leaves the outcome unknown, and the call is not made again", async () => {
    const session = await openSession(router.mcpUrl);
    const lost = await post(router.mcpUrl, toolCall(2, "lost", { key: "x" }), { "mcp-session-id": session });
    assert.equal(lost.body.error?.data?.["code"], "outcome_unknown");
    assert.deepEqual(old.writes, ["x"]);
  });

  test("a status instead of 202 is told as what it is", async () => {
    const session = await openSession(router.mcpUrl);
    for (const [status, code] of [
      [503, "outcome_unknown"],
      [401, "upstream_auth"],
      [429, "overloaded"],
    ] as const) {
      old.postStatus = status;
      const answer = await post(router.mcpUrl, toolCall(2, "write", { key: "x" }), { "mcp-session-id": session });
      assert.equal(answer.body.error?.data?.["code"], code);
    }
    assert.deepEqual(old.writes, []);
  });

  test("a session that rests gives its place to a new one, and comes back by itself", async () => {
    const bridge = createSseBridge(
      createUpstreamClient({ connectionsMax: 99, headerBytesMax: 64 * 1024, idleMs: 4000 }),
      () => Date.now(),
      {
        sessionsMax: 1,
        roomIdleMs: 0,
      },
    );
    const narrow = await startTestRouter(fakeControl([{ name: "old", url: old.url, via: { kind: "sse" } }]), { bridges: { sse: bridge } });
    try {
      const first = await openSession(narrow.mcpUrl);
      await new Promise((resolve) => setTimeout(resolve, 1700)); // its stream, opened ahead, is given up when no client comes for it
      for (const session of [await openSession(narrow.mcpUrl), first]) {
        assert.equal(bridge.sessionCount, 1);
        assert.ok((await post(narrow.mcpUrl, toolCall(2, "whoami"), { "mcp-session-id": session })).body.result);
        await new Promise((resolve) => setTimeout(resolve, 1700));
      }
    } finally {
      await narrow.close(0);
    }
  });

  test("whose endpoint is taken out of the configuration while its stream is opened has no stream afterwards, and has not begun", async () => {
    const named = Promise.withResolvers<void>();
    let streams = 0;
    const slow = createServer((request, response) => {
      streams += 1;
      request.once("close", () => {
        streams -= 1;
      });
      response.writeHead(200, { "content-type": "text/event-stream" }).flushHeaders();
      named.promise.then(() => response.write("event: endpoint\ndata: /message\n\n"));
    });
    await new Promise<void>((resolve) => slow.listen(0, "127.0.0.1", resolve));
    const client = createUpstreamClient({ connectionsMax: 9, headerBytesMax: 64 * 1024, idleMs: 4000 });
    const bridge = createSseBridge(client, () => Date.now());
    const url = `http://127.0.0.1:${(slow.address() as AddressInfo).port}/sse`;
    try {
      const begun = bridge.send({
        endpoint: { name: "old", url, role: "write", headers: {}, via: { kind: "sse" } },
        method: "POST",
        headers: {},
        body: Buffer.from(JSON.stringify(initializeBody)),
        connectMs: 2000,
        lane: "call",
      });
      await until(() => streams === 1);
      bridge.configure([]);
      named.resolve();
      await assert.rejects(begun, { code: "closed", written: false });
      await until(() => streams === 0);
    } finally {
      await bridge.close();
      await client.close();
      slow.closeAllConnections();
      slow.close();
    }
  });

  test("R24: messages and credentials never follow a stream that names another host", async () => {
    const elsewhere = new OldServer();
    await elsewhere.start();
    old.names = `http://127.0.0.1:${elsewhere.port}/message`;
    const answer = await post(router.mcpUrl, { jsonrpc: "2.0", id: 1, method: "initialize", params: {} });
    assert.ok(answer.body.error);
    assert.deepEqual(elsewhere.authorizations, []);
    await elsewhere.kill();
  });
});
