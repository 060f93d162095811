import assert from "node:assert/strict";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, test } from "node:test";
import { openSession, post, toolCall, until } from "./support/clients.ts";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";

interface ListServer {
  readonly name: string;
  readonly url: string;
  /** Methods that came, with the cursor of a list. */
  readonly seen: string[];
  kill(): Promise<void>;
  start(): Promise<void>;
}

/** A server whose lists come in pages, with the tools that it is given. */
async function startListServer(name: string, tools: Readonly<Record<string, object>>, pages = 1): Promise<ListServer> {
  let http: Server | null = null;
  let port = 0;
  let life = 0;
  const seen: string[] = [];
  const start = async (): Promise<void> => {
    life += 1;
    const session = `${name}-${life}`;
    http = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on("data", (chunk: Buffer) => chunks.push(chunk));
      request.on("end", () => {
        const id = request.headers["mcp-session-id"];
        if (request.method === "GET") {
          response.writeHead(id === session ? 200 : 404, { "content-type": "text/event-stream" });
          response.flushHeaders();
          if (id !== session) response.end();
          return;
        }
        const message = JSON.parse(Buffer.concat(chunks).toString() || "{}") as {
          id?: unknown;
          method: string;
          params?: { cursor?: string; name?: string };
        };
        seen.push(`${message.method}${message.params?.cursor === undefined ? "" : ` ${message.params.cursor}`}`);
        const answer = (result: object): void => {
          response.writeHead(200, { "content-type": "application/json", "mcp-session-id": session });
          response.end(JSON.stringify({ jsonrpc: "2.0", id: message.id, result }));
        };
        if (message.method === "initialize") {
          const capabilities = { tools: { listChanged: true }, resources: {} };
          return answer({ protocolVersion: "2025-11-25", capabilities, serverInfo: { name, version: "1" } });
        }
        if (id !== session) return void response.writeHead(404).end("{}");
        if (message.id === undefined) return void response.writeHead(202).end();
        const all = Object.entries(tools).map(([tool, inputSchema]) => ({ name: tool, inputSchema }));
        if (message.method === "tools/list") return answer({ tools: all });
        if (message.method === "resources/list") {
          const page = Number(message.params?.cursor ?? "0");
          const resources = [{ uri: `test://${name}/${page}`, name: `${page}` }];
          return answer({ resources, ...(page + 1 < pages ? { nextCursor: String(page + 1) } : {}) });
        }
        return answer({ content: [{ type: "text", text: `${name} ran ${message.params?.name}` }] });
      });
    });
    await new Promise<void>((resolve) => http?.listen(port, "127.0.0.1", resolve));
    port = (http.address() as AddressInfo).port;
  };
  await start();
  return {
    name,
    get url() {
      return `http://127.0.0.1:${port}/mcp`;
    },
    seen,
    start,
    async kill() {
      const dying = http;
      http = null;
      dying?.closeAllConnections();
      if (dying !== null) await new Promise((resolve) => dying.close(resolve));
    },
  };
}

const plain = { type: "object", properties: {} };
const other = { type: "object", properties: { n: { type: "number" } }, required: ["n"] };

describe("lists of several endpoints", () => {
  let a: ListServer;
  let b: ListServer;
  let control: FakeControl;
  let router: TestRouter;
  const warned: string[] = [];
  const begin = async (of: Readonly<Record<string, object>>): Promise<string> => {
    a = await startListServer("a", { same: plain, changed: plain, gone: plain }, 3);
    b = await startListServer("b", of, 3);
    control = fakeControl([a, b]);
    for (const tool of ["same", "changed", "gone"]) control.readOnly.add(tool);
    router = await startTestRouter(control, { log: (_, message) => warned.push(message) });
    return openSession(router.mcpUrl);
  };
  beforeEach(() => void warned.splice(0));
  afterEach(async () => {
    await router.close(0);
    await a.kill();
    await b.kill();
    assert.deepEqual(router.problems, []);
  });
  const ask = (session: string, method: string, params: object = {}) =>
    post(router.mcpUrl, { jsonrpc: "2.0", id: 1, method, params }, { "mcp-session-id": session });
  const call = async (session: string, tool: string): Promise<string | undefined> => {
    const answer = await post(router.mcpUrl, toolCall(1, tool), { "mcp-session-id": session });
    return answer.body.result?.content?.[0]?.text ?? String(answer.body.error?.code);
  };

  test("R16: a cursor goes back to the endpoint that gave it, as that one wrote it", async () => {
    const session = await begin({ same: plain });
    const first = await ask(session, "resources/list");
    const cursor = String(first.body.result?.["nextCursor"]);
    assert.notEqual(cursor, "1");
    const second = await ask(session, "resources/list", { cursor });
    assert.deepEqual(second.body.result?.["resources"], [{ uri: "test://a/1", name: "1" }]);
    assert.deepEqual(
      a.seen.filter((method) => method.startsWith("resources")),
      ["resources/list", "resources/list 1"],
    );
    const last = await ask(session, "resources/list", { cursor: second.body.result?.["nextCursor"] });
    assert.equal(last.body.result?.["nextCursor"], undefined);
  });

  test("R16: a cursor of an endpoint that is gone is refused with -32602, and never given to another one", async () => {
    const session = await begin({ same: plain });
    const cursor = (await ask(session, "resources/list")).body.result?.["nextCursor"];
    await a.kill();
    const refused = await ask(session, "resources/list", { cursor });
    assert.deepEqual([refused.status, refused.body.error?.code], [200, -32602]);
    assert.ok(
      b.seen.every((method) => !method.includes(" ")),
      b.seen.join(", "),
    );
    assert.deepEqual((await ask(session, "resources/list")).body.result?.["resources"], [{ uri: "test://b/0", name: "0" }]);
  });

  test("R16: an endpoint whose tool differs does not stand in for the active one, and the operator is told", async () => {
    const session = await begin({ same: plain, changed: other });
    await ask(session, "tools/list");
    await a.kill();
    assert.equal(await call(session, "same"), "b ran same");
    assert.equal(await call(session, "changed"), "1002");
    assert.equal(await call(session, "gone"), "1002");
    assert.deepEqual(
      b.seen.filter((method) => method === "tools/list" || method === "tools/call"),
      ["tools/list", "tools/call"],
    );
    assert.ok(warned.some((message) => /different tools/.test(message)));
    // Where the fleet has moved to it, it is what the upstream is now.
    control.move("b");
    assert.equal(await call(session, "changed"), "b ran changed");
  });

  for (const [of, isTold] of [
    [{ same: plain, changed: other }, true],
    [{ same: plain, changed: plain, gone: plain }, false],
  ] as const) {
    test(`R16: after a switch the client hears list_changed ${isTold ? "where the list has changed" : "only where it has"}`, async () => {
      const session = await begin(of);
      await ask(session, "tools/list");
      const abort = new AbortController();
      const stream = await fetch(router.mcpUrl, {
        headers: { accept: "text/event-stream", "mcp-session-id": session },
        signal: abort.signal,
      });
      let text = "";
      const decoder = new TextDecoder();
      const reading = (async () => {
        for await (const chunk of stream.body ?? []) text += decoder.decode(chunk, { stream: true });
      })().catch(() => undefined);
      control.move("b");
      assert.equal(await call(session, "same"), "b ran same");
      if (isTold) await until(() => text.includes("notifications/tools/list_changed"));
      else await new Promise((resolve) => setTimeout(resolve, 300));
      assert.equal(text.split("list_changed").length - 1, isTold ? 1 : 0);
      abort.abort();
      await reading;
    });
  }
});
