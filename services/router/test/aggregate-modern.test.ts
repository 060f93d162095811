import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { connectV1, connectV2, post, textOf, until } from "./support/clients.ts";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { startMcpServer, type TestMcpServer } from "./support/mcp-server.ts";
import { type ModernServer, startModernServer } from "./support/modern-server.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";
import { startScriptedServer } from "./support/scripted-server.ts";
import { controlOf } from "./support/several.ts";

const waitMs = 30_000;
const meta = {
  "io.modelcontextprotocol/protocolVersion": "2026-07-28",
  "io.modelcontextprotocol/clientInfo": { name: "raw", version: "1" },
  "io.modelcontextprotocol/clientCapabilities": { elicitation: {}, sampling: {} },
};

describe("several upstreams of both eras as one server, for a client without sessions", () => {
  let modern: ModernServer;
  let other: ModernServer;
  let old: TestMcpServer;
  let upstreams: Record<string, FakeControl>;
  let router: TestRouter;
  let url: string;

  beforeEach(async () => {
    [modern, other, old] = await Promise.all([startModernServer("M"), startModernServer("N"), startMcpServer("O")]);
    const one = ({ url }: { url: string }): FakeControl => fakeControl([{ name: "only", url }]);
    upstreams = { modern: one(modern), other: one(other), old: one(old) };
    router = await startTestRouter(controlOf(upstreams));
    url = `${router.url}/mcp`;
  });
  afterEach(async () => {
    await router.close(0);
    for (const server of [modern, other, old]) await server.kill();
    assert.deepEqual(router.problems, []);
  });

  /** A client that answers what it is asked. */
  const connect = async (): Promise<Client> => {
    const client = new Client(
      { name: "agent", version: "1" },
      { versionNegotiation: { mode: "auto" }, capabilities: { elicitation: {}, sampling: {} } },
    );
    client.setRequestHandler("elicitation/create", async () => ({ action: "accept", content: { name: "Ada" } }));
    client.setRequestHandler(
      "sampling/createMessage",
      async () => ({ model: "m", role: "assistant", content: { type: "text", text: "4" } }) as never,
    );
    await client.connect(new StreamableHTTPClientTransport(new URL(url)));
    return client;
  };
  const raw = (method: string, params: Record<string, unknown>, headers: Record<string, string> = {}) =>
    post(
      url,
      { jsonrpc: "2.0", id: 7, method, params: { ...params, _meta: meta } },
      {
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": method,
        ...(typeof params["name"] === "string" ? { "mcp-name": params["name"] } : {}),
        ...headers,
      },
    );

  test("R1: it discovers, lists, calls and reads what all of them have, each under the name that it was listed by", async () => {
    const client = await connect();
    assert.equal(client.getNegotiatedProtocolVersion(), "2026-07-28");
    const names = (await client.listTools()).tools.map(({ name }) => name);
    for (const name of ["modern__whoami", "other__whoami", "old__whoami"]) assert.ok(names.includes(name), names.join(" "));
    const said = await Promise.all(["modern", "other", "old"].map((name) => client.callTool({ name: `${name}__whoami`, arguments: {} })));
    assert.deepEqual(said.map(textOf), ["M", "N", "O"]);
    const [resource] = (await client.listResources()).resources;
    const read = await client.readResource({ uri: String(resource?.uri) });
    assert.deepEqual(read.contents, [{ uri: "mcpf+modern+note://one", text: "M" }]);
    const prompt = await client.getPrompt({ name: "other__hello" });
    assert.deepEqual(prompt.messages[0]?.content, { type: "text", text: "N" });
    await assert.rejects(client.callTool({ name: "whoami", arguments: {} }), /no upstream of \/mcp is named by it/);
    await client.close();
  });

  test("R1: one that knows only sessions gets no request of the other era, and one session for all requests of a client", async () => {
    const client = await connect();
    await client.listTools();
    for (let n = 0; n < 3; n++) await client.callTool({ name: "old__whoami", arguments: {} });
    assert.equal(old.seen.initialized.length, 1);
    const calls = modern.methods.filter((method) => !method.includes("discover"));
    assert.ok(calls.length > 0 && calls.every((method) => /^POST \w/.test(method)), calls.join(", "));
    const legacy = (await connectV1(url)).client;
    assert.equal(textOf(await legacy.callTool({ name: "modern__whoami", arguments: {} })), "M");
    await legacy.close();
    await client.close();
  });

  test("R12, R13: progress arrives under the client's token; a client that hangs up ends its call in either era", async () => {
    const client = await connect();
    const steps: number[] = [];
    await client.callTool(
      { name: "old__slow", arguments: { ms: 10, steps: 4 } },
      { onprogress: ({ progress }) => void steps.push(progress) },
    );
    assert.deepEqual(steps, [1, 2, 3, 4]);
    const leave = new AbortController();
    old.lagMs = 60_000;
    const gone = [
      client.callTool({ name: "modern__slow", arguments: { ms: 60_000 } }, { signal: leave.signal }),
      client.callTool({ name: "old__write", arguments: { key: "k" } }, { signal: leave.signal }),
    ].map((call) => call.catch(() => undefined));
    await until(() => modern.running > 0 && old.writes.length > 0, waitMs);
    leave.abort();
    await Promise.all(gone);
    await until(() => modern.aborted.length === 1 && old.seen.cancelled.length === 1, waitMs);
    await client.close();
  });

  test("R14: a result that asks for input comes through, and its state goes back to the upstream that gave it and to no other", async () => {
    const client = await connect();
    assert.equal(textOf(await client.callTool({ name: "modern__greet", arguments: {} })), "M greets Ada");
    assert.equal(textOf(await client.callTool({ name: "other__greet", arguments: {} })), "N greets Ada");
    const asked = await raw("tools/call", { name: "modern__greet", arguments: {} });
    assert.equal(asked.body.result?.["resultType"], "input_required");
    const requestState = asked.body.result?.["requestState"];
    const inputResponses = { who: { action: "accept", content: { name: "Eve" } } };
    const again = await raw("tools/call", { name: "modern__greet", arguments: {}, requestState, inputResponses });
    assert.equal(again.body.result?.content?.[0]?.text, "M greets Eve");
    const elsewhere = await raw("tools/call", { name: "other__greet", arguments: {}, requestState, inputResponses });
    assert.equal(elsewhere.body.error?.code, -32602);
    assert.match(String(elsewhere.body.error?.message), /requestState is none that other gave/);
    await client.close();
  });

  test("R14: a server with sessions asks its client in the middle of a call, which runs once", async () => {
    const client = await connect();
    assert.match(textOf(await client.callTool({ name: "old__elicit", arguments: {} })), /O heard accept .*Ada/);
    assert.match(textOf(await client.callTool({ name: "old__ask", arguments: {} })), /O heard .*4/);
    const asked = await raw("tools/call", { name: "old__elicit", arguments: {} });
    const requestState = asked.body.result?.["requestState"];
    const [key = ""] = Object.keys(asked.body.result?.["inputRequests"] ?? {});
    const inputResponses = { [key]: { action: "accept", content: { name: "Eve" } } };
    const wrong = await raw("tools/call", { name: "old__ask", arguments: {}, requestState, inputResponses });
    assert.equal(wrong.body.error?.code, 1001, "another tool's call");
    const missing = await raw("tools/call", { name: "old__elicit", arguments: {}, requestState });
    assert.equal(missing.body.result?.["resultType"], "input_required");
    const given = { ...missing.body.result } as { requestState?: string };
    const done = await raw("tools/call", { name: "old__elicit", arguments: {}, requestState: given.requestState, inputResponses });
    assert.match(String(done.body.result?.content?.[0]?.text), /heard accept .*Eve/);
    const late = await raw("tools/call", { name: "old__elicit", arguments: {}, requestState: given.requestState, inputResponses });
    assert.equal(late.body.error?.data?.["code"], "outcome_unknown");
    await client.close();
  });

  test("R16: it listens to all of them on one stream, and hears of one that comes back", async () => {
    const client = await connect();
    let heard = 0;
    const updated: string[] = [];
    client.setNotificationHandler("notifications/tools/list_changed", () => {
      heard += 1;
    });
    client.setNotificationHandler("notifications/resources/updated", ({ params }) => void updated.push(params.uri));
    const subscription = await client.listen({ toolsListChanged: true, resourceSubscriptions: ["mcpf+modern+note://one"] });
    const sayUntil = async (say: () => void, condition: () => boolean): Promise<void> => {
      for (const endMs = Date.now() + waitMs; !condition() && Date.now() < endMs; ) {
        say();
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      assert.ok(condition(), `${heard} ${updated.join(" ")}`);
    };
    await sayUntil(
      () => modern.resourceUpdated("note://one"),
      () => updated.length > 0,
    );
    assert.ok(updated.every((uri) => uri === "mcpf+modern+note://one"));
    await sayUntil(
      () => other.toolsChanged(),
      () => heard > 0,
    );
    await old.kill();
    await subscription.close();
    heard = 0;
    const second = await client.listen({ toolsListChanged: true });
    await new Promise((resolve) => setTimeout(resolve, 100));
    await old.start();
    await until(() => heard > 0, waitMs);
    await second.close();
    await client.close();
  });

  test("R16: it hears that lists may have changed when another endpoint takes an upstream over", async () => {
    const two = fakeControl([
      { name: "first", url: modern.url },
      { name: "second", url: other.url },
    ]);
    const second = await startTestRouter(controlOf({ two }));
    try {
      const client = await connectV2(`${second.url}/mcp`, "auto");
      const heard: string[] = [];
      client.setNotificationHandler("notifications/tools/list_changed", () => void heard.push("tools"));
      client.setNotificationHandler("notifications/resources/list_changed", () => void heard.push("resources"));
      const subscription = await client.listen({ toolsListChanged: true });
      // From now on its upstream is heard.
      for (const endMs = Date.now() + waitMs; heard.length === 0 && Date.now() < endMs; ) {
        modern.toolsChanged();
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      const listened = other.methods.filter((method) => method.includes("listen")).length;
      heard.splice(0);
      two.move("second");
      await modern.kill();
      await until(() => other.methods.filter((method) => method.includes("listen")).length > listened, waitMs);
      await until(() => heard.includes("tools"), waitMs);
      assert.ok(!heard.includes("resources"), heard.join(" "));
      await subscription.close();
      await client.close();
    } finally {
      await second.close(0);
    }
    assert.deepEqual(second.problems, []);
  });

  test("a dead upstream hides and breaks nothing of the others, and a call to it gets the typed error", async () => {
    const client = await connectV2(url, "auto");
    const before = (await client.listTools()).tools.length;
    await other.kill();
    assert.equal((await client.listTools()).tools.length, before);
    assert.equal(textOf(await client.callTool({ name: "modern__whoami", arguments: {} })), "M");
    const lost = await raw("tools/call", { name: "other__write", arguments: { key: "k" } });
    assert.equal(lost.body.error?.code, 1002);
    await client.close();
  });

  test("R6: headers that say something else than the message, unknown versions and methods are refused as servers refuse them", async () => {
    const call = { name: "modern__whoami", arguments: {} };
    assert.equal((await raw("tools/call", call)).body.result?.content?.[0]?.text, "M");
    for (const headers of [{ "mcp-name": "modern__write" }, { "mcp-method": "tools/list" }, { "mcp-protocol-version": "2025-11-25" }]) {
      const { status, body } = await raw("tools/call", call, headers);
      assert.deepEqual([status, body.error?.code], [400, -32020], JSON.stringify(headers));
    }
    const params = { _meta: { ...meta, "io.modelcontextprotocol/protocolVersion": "2999-01-01" } };
    const headers = { "mcp-protocol-version": "2999-01-01", "mcp-method": "tools/list" };
    const unknown = await post(url, { jsonrpc: "2.0", id: 1, method: "tools/list", params }, headers);
    assert.deepEqual([unknown.status, unknown.body.error?.code], [400, -32022]);
    const none = await raw("resources/subscribe", { uri: "mcpf+modern+note://one" });
    assert.deepEqual([none.status, none.body.error?.code], [404, -32601]);
  });

  test("R6: a name that no header can hold comes encoded, is compared with the message as what it says, and goes on encoded; a plain one goes on as it is", async () => {
    const server = await startScriptedServer("s", { modern: true });
    const second = await startTestRouter(controlOf({ up: fakeControl([server]) }));
    try {
      let heard: unknown;
      server.answer = ({ method, request }) => {
        if (method === "tools/call") heard = request.headers["mcp-name"];
        return false;
      };
      const encoded = (text: string): string => `=?base64?${Buffer.from(text).toString("base64")}?=`;
      const call = (name: string, header: string) =>
        post(
          `${second.url}/mcp`,
          { jsonrpc: "2.0", id: 1, method: "tools/call", params: { name, arguments: {}, _meta: meta } },
          { "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": header },
        );
      const ofUpstream: readonly (readonly [name: string, header: string])[] = [
        ["plain name", "plain name"],
        ["größe", encoded("größe")],
        ["two\nlines", encoded("two\nlines")],
        ["ends in a space ", encoded("ends in a space ")],
        ["tab\there", encoded("tab\there")],
        // What looks encoded would be read as what it is not.
        ["=?base64?eA==?=", encoded("=?base64?eA==?=")],
      ];
      for (const [name, header] of ofUpstream) {
        heard = undefined;
        const answer = await call(`up__${name}`, encoded(`up__${name}`));
        assert.equal(answer.body.result?.content?.[0]?.text, "s", `${name}: ${answer.text}`);
        assert.equal(heard, header, JSON.stringify(name));
      }
      heard = undefined;
      for (const header of [encoded("up__other"), encoded(encoded("up__größe")), "=?base64?not base64?=", "=?base64??="]) {
        const { status, body } = await call("up__größe", header);
        assert.deepEqual([status, body.error?.code], [400, -32020], header);
      }
      assert.equal(heard, undefined, "nothing that is refused is sent");
    } finally {
      await second.close(0);
      await server.kill();
    }
    assert.deepEqual(second.problems, []);
  });
});
