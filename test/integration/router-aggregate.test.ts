import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { freePort } from "@mcp-failover/testkit";
import { Client as ClientV2, StreamableHTTPClientTransport as TransportV2 } from "@modelcontextprotocol/client";
import { ResourceUpdatedNotificationSchema } from "@modelcontextprotocol/sdk/types.js";
import { connectClient } from "../harness/load.ts";
import { until } from "../harness/wait.ts";
import { startProcess } from "./prober-world.ts";
import { type RouterWorld, routerWorld } from "./router-world.ts";

const root = join(import.meta.dirname, "..", "..");
const everything = join(root, "node_modules", "@modelcontextprotocol", "server-everything", "dist", "index.js");
const textOf = (result: unknown): string => String((result as { content: { text: string }[] }).content[0]?.text);

describe("real servers of several upstreams as one, by two router processes", () => {
  let world: RouterWorld;
  let left: Awaited<ReturnType<RouterWorld["startEverything"]>>;
  let right: Awaited<ReturnType<RouterWorld["startEverything"]>>;
  const upstreams = () => {
    const tools = { echo: { read_only: true } };
    return {
      left: { kind: "mcp", endpoints: [{ name: "only", url: left.url, tier: 0 }], tools },
      right: { kind: "mcp", endpoints: [{ name: "only", url: right.url, tier: 0 }], tools },
      local: { kind: "mcp", endpoints: [{ name: "only", stdio: { command: "everything", args: ["stdio"] }, tier: 0 }], tools },
    };
  };
  const url = (): string => `${world.url}/mcp`;

  before(async () => {
    world = await routerWorld();
    [left, right] = await Promise.all([world.startEverything(), world.startEverything()]);
    await world.configure({ upstreams: upstreams() });
    const env = { MCPF_STDIO_ALLOW: JSON.stringify({ everything: [process.execPath, everything] }) };
    await Promise.all([world.startRouter("router-1", env), world.startRouter("router-2", env)]);
  });
  after(() => world.stop());

  test("tools, prompts, resources, templates and completions of all are there, each reached under the name that it was listed by", async () => {
    const client = await connectClient(url());
    const direct = await connectClient(left.url);
    const own = await direct.listTools();
    const { tools } = await client.listTools();
    for (const name of ["left", "right", "local"]) {
      assert.equal(tools.filter((tool) => tool.name.startsWith(`${name}__`)).length, own.tools.length);
      assert.equal(textOf(await client.callTool({ name: `${name}__echo`, arguments: { message: name } })), `Echo: ${name}`);
    }
    const { prompts } = await client.listPrompts();
    assert.ok(prompts.some(({ name }) => name === "right__simple-prompt"));
    assert.deepEqual(
      (await client.getPrompt({ name: "right__simple-prompt" })).messages,
      (await direct.getPrompt({ name: "simple-prompt" })).messages,
    );
    const { resources } = await client.listResources();
    const found = resources.find(({ uri }) => uri.startsWith("mcpf+right+"));
    assert.ok(found !== undefined);
    const read = await client.readResource({ uri: found.uri });
    assert.equal(read.contents[0]?.uri, found.uri);
    assert.equal((await client.listResourceTemplates()).resourceTemplates.length % 3, 0);
    const links = (await client.callTool({ name: "left__get-resource-links", arguments: { count: 2 } })) as {
      content: { type: string; uri?: string }[];
    };
    const link = links.content.find(({ type }) => type === "resource_link");
    assert.match(String(link?.uri), /^mcpf\+left\+/);
    assert.ok((await client.readResource({ uri: String(link?.uri) })).contents.length > 0);
    const argument = { name: "department", value: "E" };
    const completed = await client.complete({ ref: { type: "ref/prompt", name: "left__completable-prompt" }, argument });
    assert.deepEqual(completed, await direct.complete({ ref: { type: "ref/prompt", name: "completable-prompt" }, argument }));
    for (const one of [client, direct]) await one.close();
  });

  test("a client of 2026-07-28 has the servers of both eras in one list, without a session, at either router process", async () => {
    const port = await freePort();
    const fixture = startProcess(
      process.execPath,
      [join(root, "test", "conformance", "fixtures", "main.ts"), "v2", "new", String(port)],
      {},
    );
    try {
      await until(
        async () => (await fetch(`http://127.0.0.1:${port}/healthz`)).ok,
        30_000,
        () => fixture.output(),
      );
      const modern = { kind: "mcp", endpoints: [{ name: "only", url: `http://127.0.0.1:${port}/mcp`, tier: 0 }] };
      await world.configure({ upstreams: { ...upstreams(), modern } });
      const client = new ClientV2(
        { name: "v2", version: "1" },
        { versionNegotiation: { mode: "auto" }, capabilities: { elicitation: {} } },
      );
      client.setRequestHandler("elicitation/create", async ({ params }) => {
        const [field = ""] = Object.keys((params as { requestedSchema: { properties: object } }).requestedSchema.properties);
        return { action: "accept", content: { [field]: "x" } };
      });
      const listed = async (): Promise<string[]> => (await client.listTools()).tools.map(({ name }) => name);
      await client.connect(new TransportV2(new URL(url())));
      assert.equal(client.getNegotiatedProtocolVersion(), "2026-07-28");
      await until(async () => (await listed()).includes("modern__test_simple_text"), 30_000);
      for (let n = 0; n < 6; n++) {
        for (const name of ["left", "local"]) {
          const echo = await client.callTool({ name: `${name}__echo`, arguments: { message: name } });
          assert.equal(textOf(echo), `Echo: ${name}`);
        }
        const asked = await client.callTool({ name: "modern__test_input_required_result_multi_round", arguments: {} });
        assert.equal(textOf(asked), "Both steps are done");
      }
      await client.close();
    } finally {
      await world.configure({ upstreams: upstreams() });
      await fixture.stop();
    }
  });

  test("progress and updates of subscribed resources arrive, also by way of the other router process", async () => {
    const client = await connectClient(url());
    const steps: number[] = [];
    await client.callTool({ name: "left__trigger-long-running-operation", arguments: { duration: 0.5, steps: 5 } }, undefined, {
      onprogress: ({ progress }) => steps.push(progress),
    });
    assert.deepEqual(steps, [1, 2, 3, 4, 5]);
    const updated: string[] = [];
    client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) => void updated.push(params.uri));
    const { resources } = await client.listResources();
    const uri = String(resources.find((one) => one.uri.startsWith("mcpf+right+"))?.uri);
    await client.subscribeResource({ uri });
    await client.callTool({ name: "right__toggle-subscriber-updates", arguments: {} });
    await until(
      () => updated.includes(uri),
      12_000,
      () => `updated: ${updated.join(" ")}`,
    );
    await client.close();
  });

  test("one upstream killed and back: nothing of the others breaks, its tools stay, and the client of SDK 2.x goes on without a new session", async () => {
    // Each process keeps the lists that it was given itself, and the kernel chooses the process of each connection.
    world.routers[1]?.kill("SIGKILL");
    await world.routers[1]?.stop();
    const client = await connectClient(url());
    const v2 = new ClientV2({ name: "v2", version: "1" }, { versionNegotiation: { mode: "auto" } });
    await v2.connect(new TransportV2(new URL(url())));
    const before = (await client.listTools()).tools.map(({ name }) => name);
    right.kill("SIGKILL");
    const echo = (one: Pick<typeof client, "callTool">, name: string) =>
      one.callTool({ name: `${name}__echo`, arguments: { message: "x" } });
    await assert.rejects(echo(client, "right"), /right|endpoint|reached/);
    assert.equal(textOf(await echo(client, "left")), "Echo: x");
    assert.deepEqual(
      (await client.listTools()).tools.map(({ name }) => name),
      before,
    );
    assert.equal(textOf(await echo(v2 as never, "local")), "Echo: x");
    right = await world.startEverything(right.port);
    await until(async () => textOf(await echo(client, "right").catch(() => ({ content: [] }))) === "Echo: x", 8000);
    assert.equal(textOf(await echo(v2 as never, "right")), "Echo: x");
    await client.close();
    await v2.close();
  });
});
