import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { Client as ClientV1 } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport as TransportV1 } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { startMcpServer, type TestMcpServer } from "./support/mcp-server.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";

async function connect(url: URL): Promise<{ client: ClientV1; transport: TransportV1 }> {
  const client = new ClientV1({ name: "test-agent", version: "1" }, { capabilities: {} });
  const transport = new TransportV1(url);
  await client.connect(transport as never);
  return { client, transport };
}
const textOf = (result: unknown): string => String((result as { content: { text: string }[] }).content[0]?.text);

describe("a session of a real client", () => {
  let a: TestMcpServer;
  let b: TestMcpServer;
  let control: FakeControl;
  let router: TestRouter;
  beforeEach(async () => {
    a = await startMcpServer("a");
    b = await startMcpServer("b");
    control = fakeControl([a, b]);
    router = await startTestRouter(control);
  });
  afterEach(async () => {
    await router.close(0);
    await a.kill();
    await b.kill();
    assert.deepEqual(router.problems, []);
  });

  test("initializes, lists and calls as it does directly", async () => {
    const { client, transport } = await connect(router.mcpUrl);
    assert.match(transport.sessionId ?? "", /^mcpf1\.[A-Za-z0-9_-]+$/);
    assert.equal(a.sessions.has(transport.sessionId ?? ""), false);
    const direct = await connect(new URL(a.url));
    assert.deepEqual(await client.listTools(), await direct.client.listTools());
    assert.deepEqual(client.getServerCapabilities(), direct.client.getServerCapabilities());
    assert.deepEqual(await client.callTool({ name: "whoami" }), await direct.client.callTool({ name: "whoami" }));
    await client.close();
    await direct.client.close();
  });

  test("survives the death of its endpoint", async () => {
    const { client } = await connect(router.mcpUrl);
    assert.equal(textOf(await client.callTool({ name: "whoami" })), "a");
    await a.kill();
    control.move("b");
    assert.equal(textOf(await client.callTool({ name: "whoami" })), "b");
    assert.equal(b.seen.initialized.length, 1);
    await client.close();
  });
});
