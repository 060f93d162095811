import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { endpointTag } from "../src/mcp/cursor.ts";
import { readIssuedState } from "../src/mcp/issued-state.ts";
import { connectV1, connectV2, openSession, post, textOf, toolCall, until } from "./support/clients.ts";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { startMcpServer } from "./support/mcp-server.ts";
import { type ModernServer, startModernServer } from "./support/modern-server.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";
import { type Scripted, startScriptedServer, stream } from "./support/scripted-server.ts";

describe("a client of the modern era", () => {
  let a: ModernServer;
  let b: ModernServer;
  let control: FakeControl;
  let router: TestRouter;
  const others: (() => Promise<unknown>)[] = [];
  beforeEach(async () => {
    a = await startModernServer("a");
    b = await startModernServer("b");
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

  test("discovers, lists and calls as it does directly, without a session", async () => {
    const routed = await connectV2(router.mcpUrl, "auto");
    const direct = await connectV2(a.url, "auto");
    assert.equal(routed.getNegotiatedProtocolVersion(), "2026-07-28");
    assert.deepEqual(await routed.listTools(), await direct.listTools());
    assert.deepEqual(await routed.callTool({ name: "whoami" }), await direct.callTool({ name: "whoami" }));
    assert.ok(a.methods.every((method) => method.startsWith("POST")));
    await routed.close();
    await direct.close();
  });

  test("goes on at another endpoint when its own is killed", async () => {
    const client = await connectV2(router.mcpUrl, "auto");
    assert.equal(textOf(await client.callTool({ name: "whoami" })), "a");
    await a.kill();
    assert.equal(textOf(await client.callTool({ name: "whoami" })), "b");
    assert.equal(textOf(await client.callTool({ name: "write", arguments: { key: "k" } })), "b wrote k");
    await client.close();
  });

  test("R13: cancels its call by hanging up, and the upstream is told", async () => {
    const client = await connectV2(router.mcpUrl, "auto");
    const cancel = new AbortController();
    const running = client.callTool({ name: "slow", arguments: { ms: 5000 } }, { signal: cancel.signal }).catch(() => undefined);
    await until(() => a.methods.filter((method) => method.includes("tools/call")).length === 1);
    await new Promise((resolve) => setTimeout(resolve, 50));
    cancel.abort();
    await running;
    await until(() => a.aborted.length === 1);
    await until(() => control.told.some(({ tool, result }) => tool === "slow" && result.outcome === "aborted"));
    await client.close();
  });

  test("R1: is never sent to a server that knows only sessions, which might run the call under the old meaning", async () => {
    const old = await startMcpServer("old");
    others.push(() => old.kill());
    control = fakeControl([a, old, b]);
    const second = await startTestRouter(control);
    others.push(() => second.close(0));
    const client = await connectV2(second.mcpUrl, "auto");
    await a.kill();
    assert.equal(textOf(await client.callTool({ name: "write", arguments: { key: "k" } })), "b wrote k");
    assert.deepEqual(old.writes, []);
    assert.deepEqual(
      control.told.filter(({ tool }) => tool === "write").map(({ endpoint, result }) => [endpoint, result.outcome]),
      [
        ["a", "hard"],
        ["old", "ineligible"],
        ["b", "ok"],
      ],
    );
    await client.close();
  });

  test("R1: is not shut out by another one that asks server/discover in a way that the server refuses", async () => {
    const client = await connectV2(router.mcpUrl, "auto");
    assert.equal(client.getNegotiatedProtocolVersion(), "2026-07-28");
    const badly = {
      jsonrpc: "2.0",
      id: 1,
      method: "server/discover",
      params: { _meta: { "io.modelcontextprotocol/protocolVersion": "2999-01-01" } },
    };
    const refused = await post(router.mcpUrl, badly, { "mcp-protocol-version": "2999-01-01", "mcp-method": "server/discover" });
    assert.equal(refused.status, 400);
    assert.equal(textOf(await client.callTool({ name: "write", arguments: { key: "k" } })), "a wrote k");
    await client.close();
  });

  test("R16: keeps listening when its server dies, and is acknowledged once", async () => {
    const client = await connectV2(router.mcpUrl, "auto");
    const heard: string[] = [];
    client.setNotificationHandler("notifications/tools/list_changed", () => {
      heard.push("changed");
    });
    const subscription = await client.listen({ toolsListChanged: true });
    const notifyUntil = async (server: ModernServer, count: number): Promise<void> => {
      for (let tries = 0; heard.length < count && tries < 60; tries++) {
        server.toolsChanged();
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      assert.ok(heard.length >= count);
    };
    await notifyUntil(a, 1);
    heard.length = 0;
    await a.kill();
    // What may have changed while nobody listened; the next one is b's own.
    await until(() => heard.length > 0);
    await notifyUntil(b, heard.length + 1);
    await subscription.close();
    await client.close();
  });

  /** What is said on a stream of `subscriptions/listen`, as methods with the URI that they name. */
  const listenRaw = async (url: URL | string, notifications: object): Promise<{ readonly said: string[]; stop(): Promise<void> }> => {
    const said: string[] = [];
    const abort = new AbortController();
    const _meta = {
      "io.modelcontextprotocol/protocolVersion": "2026-07-28",
      "io.modelcontextprotocol/clientInfo": { name: "raw", version: "1" },
      "io.modelcontextprotocol/clientCapabilities": {},
    };
    const stream = await fetch(url, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        accept: "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "subscriptions/listen",
      },
      body: JSON.stringify({ jsonrpc: "2.0", id: "ears", method: "subscriptions/listen", params: { notifications, _meta } }),
      signal: abort.signal,
    });
    const reading = (async () => {
      let text = "";
      const decoder = new TextDecoder();
      for await (const chunk of stream.body ?? []) {
        text += decoder.decode(chunk, { stream: true });
        const lines = text.split("\n");
        text = lines.pop() ?? "";
        for (const line of lines) {
          if (!line.startsWith("data: {")) continue;
          const { method, params } = JSON.parse(line.slice("data: ".length)) as { method: string; params: Record<string, unknown> };
          const meta = params["_meta"] as Record<string, unknown> | undefined;
          assert.equal(meta?.["io.modelcontextprotocol/subscriptionId"], "ears", line);
          const uri = params["uri"];
          said.push(`${method.slice("notifications/".length)}${typeof uri === "string" ? ` ${uri}` : ""}`);
        }
      }
    })().catch((error: unknown) => {
      if (!abort.signal.aborted) throw error;
    });
    return {
      said,
      async stop() {
        abort.abort();
        await reading;
      },
    };
  };

  test("R16: at a switch it is told once what may have changed, of what it asked for and its server gives, and of nothing else", async () => {
    const ears = await listenRaw(router.mcpUrl, { toolsListChanged: true, resourceSubscriptions: ["note://one"] });
    await until(() => ears.said.length === 1);
    control.move("b");
    const changes = ["tools/list_changed", "resources/updated note://one"];
    await until(() => ears.said.length === 3);
    assert.deepEqual(ears.said, ["subscriptions/acknowledged", ...changes]);
    // A route that names the same endpoint again is no switch.
    control.move("b");
    await b.kill();
    await until(() => ears.said.length === 5);
    assert.deepEqual(ears.said.slice(3), changes);
    a.toolsChanged();
    await until(() => ears.said.length === 6);
    assert.equal(ears.said[5], "tools/list_changed");
    await ears.stop();
  });

  test("R16: it is not told of what its server did not promise, though it asked for it", async () => {
    const ears = await listenRaw(router.mcpUrl, {
      toolsListChanged: true,
      resourcesListChanged: true,
      promptsListChanged: false,
      other: true,
    });
    await until(() => ears.said.length === 1);
    control.move("b");
    await until(() => ears.said.length === 3);
    a.toolsChanged();
    b.toolsChanged();
    await until(() => ears.said.length === 4);
    assert.deepEqual(ears.said, ["subscriptions/acknowledged", "tools/list_changed", "resources/list_changed", "tools/list_changed"]);
    await ears.stop();
  });

  const listen = {
    jsonrpc: "2.0",
    id: "ears",
    method: "subscriptions/listen",
    params: {
      notifications: { toolsListChanged: true },
      _meta: {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": { name: "raw", version: "1" },
        "io.modelcontextprotocol/clientCapabilities": {},
      },
    },
  };
  const acknowledge = (asked: Scripted): void =>
    stream(asked, {
      method: "notifications/subscriptions/acknowledged",
      params: { notifications: { toolsListChanged: true }, _meta: { "io.modelcontextprotocol/subscriptionId": "ears" } },
    });
  /** Two servers, and what each does when somebody wants to listen to it. */
  const listenedTo = async (...answers: ((asked: Scripted) => void | Promise<void>)[]) => {
    const servers = await Promise.all(answers.map((_, index) => startScriptedServer(`s${index}`, { modern: true })));
    servers.forEach((server, index) => {
      server.answer = async (asked) => {
        if (asked.method !== "subscriptions/listen") return false;
        await answers[index]?.(asked);
        return true;
      };
    });
    const own = fakeControl(servers);
    const listening = await startTestRouter(own);
    others.push(() => listening.close(0), ...servers.map((server) => () => server.kill()));
    const asked = (index: number): number => servers[index]?.heard.filter((one) => one.startsWith("subscriptions/listen")).length ?? 0;
    return { url: listening.mcpUrl, control: own, asked };
  };
  const refuse = (status: number, headers: Record<string, string> = {}) => {
    return ({ response }: Scripted): void => void response.writeHead(status, { "content-type": "text/plain", ...headers }).end("mine");
  };

  for (const [status, code, headers] of [
    [401, "upstream_auth", { "www-authenticate": "Bearer" }],
    [403, "upstream_auth", {}],
    [429, "overloaded", { "retry-after": "2" }],
    [307, "outcome_unknown", { location: "http://elsewhere.test/" }],
  ] as const) {
    test(`R22, R24: that listens is told of ${status} by the router, not by the server, which means somebody else`, async () => {
      const { url } = await listenedTo(refuse(status, headers));
      const answer = await post(url, listen, { "mcp-method": "subscriptions/listen", "mcp-protocol-version": "2026-07-28" });
      assert.deepEqual([answer.status, answer.body.id, answer.body.error?.data?.["code"]], [200, "ears", code], answer.text);
      assert.equal(answer.headers.get("www-authenticate"), null);
      if (status === 429) assert.equal(answer.body.error?.data?.["retryAfterMs"], 2000);
    });
  }

  test("R16: goes on listening where the next server sheds load at first", async () => {
    let isBusy = true;
    const moved = await listenedTo(acknowledge, (asked) => (isBusy ? refuse(429)(asked) : acknowledge(asked)));
    const ears = await listenRaw(moved.url, { toolsListChanged: true });
    await until(() => ears.said.length === 1);
    moved.control.move("s1");
    await until(() => moved.asked(1) >= 2);
    isBusy = false;
    await until(() => ears.said.length === 2);
    assert.deepEqual(ears.said, ["subscriptions/acknowledged", "tools/list_changed"]);
    await ears.stop();
  });

  test("R10: whose next server refuses to be listened to gets one answer to its request", async () => {
    const moved = await listenedTo(acknowledge, refuse(400));
    const answer = post(moved.url, listen, { "mcp-method": "subscriptions/listen", "mcp-protocol-version": "2026-07-28" });
    await until(() => moved.asked(0) === 1);
    moved.control.move("s1");
    const last = JSON.parse((await answer).text.trim().split("data: ").at(-1) ?? "") as { id: unknown; error: { code: number } };
    assert.deepEqual([last.id, last.error.code], ["ears", 1009]);
  });

  test("R16: listens to the server that the routes name since it began to ask another one, which was slow", async () => {
    let go = (): void => undefined;
    const slow = new Promise<void>((resolve) => {
      go = resolve;
    });
    const moved = await listenedTo(async (asked) => {
      await slow;
      acknowledge(asked);
    }, acknowledge);
    const ears = listenRaw(moved.url, { toolsListChanged: true });
    await until(() => moved.asked(0) === 1);
    moved.control.move("s1");
    go();
    await until(() => moved.asked(1) === 1);
    await (await ears).stop();
  });

  const greet = async (params: object) => {
    const _meta = {
      "io.modelcontextprotocol/protocolVersion": "2026-07-28",
      "io.modelcontextprotocol/clientInfo": { name: "raw", version: "1" },
      "io.modelcontextprotocol/clientCapabilities": { elicitation: {} },
    };
    const headers = { "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "greet" };
    const call = toolCall(1, "greet") as { params: object };
    return (await post(router.mcpUrl, { ...call, params: { ...call.params, ...params, _meta } }, headers)).body;
  };

  test("R14: what goes on with a call is never served by legacy, rolled back or fallen back: what the user declined is not run", async () => {
    let ran = 0;
    control.legacy = async () => {
      ran += 1;
      return { content: [{ type: "text", text: "legacy ran it" }] };
    };
    const declined = { inputResponses: { who: { action: "decline" } } };
    const asked = await greet({});
    assert.equal(asked.result?.["resultType"], "input_required");
    control.implementation = "legacy";
    const refused = await greet({ requestState: asked.result?.["requestState"], ...declined });
    assert.doesNotMatch(JSON.stringify(refused), /legacy ran it/);
    // A server may ask without a state; the answers alone are no new call either.
    assert.doesNotMatch(JSON.stringify(await greet(declined)), /legacy ran it/);
    assert.equal(control.told.filter(({ tool }) => tool === "greet").length, 3, "a server of MCP was asked");
    control.implementation = "mcp";
    await Promise.all([a.kill(), b.kill()]);
    assert.ok((await greet({ requestState: asked.result?.["requestState"], ...declined })).error);
    assert.equal(ran, 0);
    // What begins is served.
    assert.equal(textOf((await greet({})).result), "legacy ran it");
  });

  test("R14: what a call goes on with goes back to the endpoint of the pool that asked, as that one gave it", async () => {
    control.view = { ...control.view, mode: "pool" };
    const { begin } = control;
    let calls = 0;
    control.begin = (call) => {
      calls += 1;
      control.active = call.sessionEndpoint ?? (calls % 2 === 0 ? "a" : "b");
      return begin(call);
    };
    for (const name of ["Ada", "Eve", 'one that says "mcpf."', "Bob"]) {
      const asked = await greet({});
      const server = control.active;
      const requestState = asked.result?.["requestState"];
      assert.equal(typeof requestState, "string", JSON.stringify(asked));
      const again = { requestState, inputResponses: { who: { action: "accept", content: { name } } } };
      // It is the other one's turn.
      if (calls % 2 === (server === "a" ? 1 : 0)) calls += 1;
      assert.equal(textOf((await greet(again)).result), `${server} greets ${name}`);
      const twice = { ...again, inputResponses: { who: { action: "accept", content: { name: requestState } } } };
      assert.match(textOf((await greet(twice)).result), new RegExp(`^${server} greets mcpf`));
    }
  });

  test("R14: a state loses the name of its endpoint, and nothing else of a message is touched, however it is written", () => {
    const tag = `mcpf.${endpointTag("a")}.`;
    const written = (state: string, name: string): string =>
      `{"jsonrpc":"2.0","id":1,"params":{"big":12345678901234567890,"name":"${name}","requestState":"${state}"}}`;
    const read = (text: string) => {
      const { params } = JSON.parse(text) as { params: Record<string, unknown> };
      return String(readIssuedState(Buffer.from(text), () => params)?.body ?? null);
    };
    assert.equal(read(written(`${tag}s.1`, "x")), written("s.1", "x"));
    const other = JSON.parse(read(written(`\\u006d${tag.slice(1)}s.1`, `${tag}x`))) as { params: Record<string, unknown> };
    assert.deepEqual([other.params["requestState"], other.params["name"]], ["s.1", `${tag}x`]);
    assert.equal(read(written("s.1", `${tag}x`)), "null");
  });

  test("R1: shares the URL with clients of the session protocol", async () => {
    const modern = await connectV2(router.mcpUrl, "auto");
    const legacy = await connectV1(router.mcpUrl);
    assert.equal(textOf(await modern.callTool({ name: "whoami" })), "a");
    assert.equal(textOf(await legacy.client.callTool({ name: "whoami" })), "a");
    await modern.close();
    await legacy.client.close();
  });

  test("R1: falls back to sessions where the upstream knows only those", async () => {
    const old = await startMcpServer("old");
    others.push(() => old.kill());
    const second = await startTestRouter(fakeControl([old]));
    others.push(() => second.close(0));
    const client = await connectV2(second.mcpUrl, "auto");
    assert.equal(client.getNegotiatedProtocolVersion(), "2025-11-25");
    assert.equal(textOf(await client.callTool({ name: "whoami" })), "old");
    await client.close();
  });

  test("R20, R22: gets a rolled-back tool's legacy answer as a complete result, and typed errors in-band", async () => {
    const client = await connectV2(router.mcpUrl, "auto");
    control.implementation = "legacy";
    control.legacy = async () => ({ content: [{ type: "text", text: "from legacy" }] });
    assert.equal(textOf(await client.callTool({ name: "write", arguments: { key: "k" } })), "from legacy");
    const meta = {
      "io.modelcontextprotocol/protocolVersion": "2026-07-28",
      "io.modelcontextprotocol/clientInfo": { name: "raw", version: "1" },
      "io.modelcontextprotocol/clientCapabilities": {},
    };
    const call = toolCall(1, "write", { key: "k" }) as { params: Record<string, unknown> };
    call.params["_meta"] = meta;
    const headers = { "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "write" };
    assert.equal((await post(router.mcpUrl, call, headers)).body.result?.["resultType"], "complete");
    control.implementation = "mcp";
    control.legacy = null;
    await Promise.all([a.kill(), b.kill()]);
    assert.equal((await post(router.mcpUrl, call, headers)).body.error?.code, 1002);
    await client.close();
  });

  describe("that says where it was, as sessions let clients do (R9)", () => {
    const lastEventId = "aaaaaaaa.BBBBs.1.";
    const meta = {
      "io.modelcontextprotocol/protocolVersion": "2026-07-28",
      "io.modelcontextprotocol/clientInfo": { name: "raw", version: "1" },
      "io.modelcontextprotocol/clientCapabilities": {},
    };
    const asked = { "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "write", "last-event-id": lastEventId };
    const call = toolCall(7, "write", { key: "k" });
    const modernCall = { ...call, params: { ...(call as { params: object }).params, _meta: meta } };

    for (const path of ["/mcp/fake", "/mcp"]) {
      test(`is told at ${path} that this era has no stream to come back to, and its servers are not asked`, async () => {
        for (const headers of [{ "last-event-id": lastEventId }, {}]) {
          const answer = await fetch(router.url + path, {
            headers: { accept: "text/event-stream", "mcp-protocol-version": "2026-07-28", ...headers },
          });
          const { error } = (await answer.json()) as { error: { message: string } };
          assert.deepEqual([answer.status, answer.headers.get("allow")], [405, "POST"]);
          assert.match(error.message, /2026-07-28/);
        }
        assert.deepEqual(a.methods, []);
      });
    }

    test("and has a session after all, is served as one", async () => {
      const session = { "mcp-session-id": await openSession(router.mcpUrl) };
      const stop = new AbortController();
      const headers = { accept: "text/event-stream", "mcp-protocol-version": "2026-07-28", ...session };
      const answer = await fetch(router.mcpUrl, { headers, signal: stop.signal });
      assert.notEqual(answer.headers.get("allow"), "POST");
      stop.abort();
    });

    test("makes a new call with it, of which its server is told nothing else", async () => {
      const server = await startScriptedServer("s", { modern: true });
      const second = await startTestRouter(fakeControl([server]));
      others.push(
        () => second.close(0),
        () => server.kill(),
      );
      const seen: unknown[] = [];
      server.answer = ({ method, request }) => {
        if (method === "tools/call") seen.push(request.headers["last-event-id"]);
        return false;
      };
      assert.equal((await post(second.mcpUrl, modernCall, asked)).body.result?.content?.[0]?.text, "s");
      assert.deepEqual(seen, [undefined]);
    });

    test("has its answer, which is that its outcome is unknown, where a server sends it away to come back; the server's own event ids reach nobody", async () => {
      const server = await startScriptedServer("s", { modern: true });
      const second = await startTestRouter(fakeControl([server]));
      others.push(
        () => second.close(0),
        () => server.kill(),
      );
      server.answer = (one) => {
        if (one.method !== "tools/call") return false;
        one.response.writeHead(200, { "content-type": "text/event-stream" });
        const progress = { jsonrpc: "2.0", method: "notifications/progress", params: { progressToken: "p", progress: 1 } };
        one.response.end(`id: of-the-server\nretry: 10\ndata: ${JSON.stringify(progress)}\n\n`);
        return true;
      };
      const answer = await post(second.mcpUrl, modernCall, asked);
      const last = JSON.parse(answer.text.trim().split("data: ").at(-1) ?? "") as { id: unknown; error?: { code: number } };
      assert.deepEqual([last.id, last.error?.code], [7, 1001], answer.text);
      assert.ok(answer.text.includes("notifications/progress") && !/^(id|retry):/m.test(answer.text), answer.text);
      assert.deepEqual(
        server.heard.filter((one) => one.startsWith("GET")),
        [],
      );
    });
  });
});
