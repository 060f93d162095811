import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { afterEach, beforeEach, describe, test } from "node:test";
import { memoryBroker } from "@mcp-failover/bus";
import { testKit } from "@mcp-failover/service-kit/testing";
import { CreateMessageRequestSchema, ElicitRequestSchema, LoggingMessageNotificationSchema } from "@modelcontextprotocol/sdk/types.js";
import { createStreamClaims, serveStreamClaims } from "../src/mcp/claims.ts";
import { createMemoryDirectory } from "../src/mcp/directory.ts";
import { createSealer } from "../src/mcp/seal.ts";
import { connectV1, initializeBody, openSession, post, textOf, toolCall, until } from "./support/clients.ts";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { startTestFleet } from "./support/fleet.ts";
import { startMcpServer, type TestMcpServer } from "./support/mcp-server.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";
import { startScriptedServer, stream } from "./support/scripted-server.ts";

/** Servers drop what they say while no stream is open, and when it is open again only the server knows. */
async function shoutUntil(server: TestMcpServer, text: string, heard: () => boolean): Promise<void> {
  const endMs = Date.now() + 8000;
  while (!heard()) {
    assert.ok(Date.now() < endMs, `${text} was not heard in time`);
    await server.shout(text);
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
}

const secret = "a secret of the tests that is long enough";

describe("a stream", () => {
  let a: TestMcpServer;
  let b: TestMcpServer;
  let control: FakeControl;
  let router: TestRouter;
  const others: (() => Promise<unknown>)[] = [];
  beforeEach(async () => {
    a = await startMcpServer("a");
    b = await startMcpServer("b");
    control = fakeControl([a, b]);
    router = await startTestRouter(control, { limits: { heartbeatMs: 100 } });
  });
  afterEach(async () => {
    await router.close(0);
    for (const close of others.splice(0)) await close();
    await a.kill();
    await b.kill();
    assert.deepEqual(router.problems, []);
  });

  /** Opens the session's own stream by hand. */
  const openStream = async (url: URL, id: string, headers: Record<string, string> = {}) => {
    const abort = new AbortController();
    const response = await fetch(url, {
      headers: { accept: "text/event-stream", "mcp-session-id": id, ...headers },
      signal: abort.signal,
    });
    const stream = { status: response.status, text: "", ended: false, close: () => abort.abort() };
    others.push(async () => abort.abort());
    const decoder = new TextDecoder();
    (async () => {
      for await (const chunk of response.body ?? []) stream.text += decoder.decode(chunk, { stream: true });
    })().then(
      () => {
        stream.ended = true;
      },
      () => {
        stream.ended = true;
      },
    );
    return stream;
  };

  test("R14: carries a sampling request on the call's own stream, and the answer back", async () => {
    const { client } = await connectV1(router.mcpUrl);
    client.setRequestHandler(CreateMessageRequestSchema, async () => ({
      model: "m",
      role: "assistant",
      content: { type: "text", text: "hi" },
    }));
    assert.match(textOf(await client.callTool({ name: "ask" })), /a heard .*hi/);
    await client.close();
  });

  test("R14: takes the client's answer to its server although the line breaks under it twice", async () => {
    const { client } = await connectV1(router.mcpUrl);
    client.setRequestHandler(CreateMessageRequestSchema, async () => {
      a.breakPosts = 2;
      return { model: "m", role: "assistant", content: { type: "text", text: "hi" } };
    });
    assert.match(textOf(await client.callTool({ name: "ask" })), /a heard .*hi/);
    assert.equal(a.breakPosts, 0);
    await client.close();
  });

  test("R11, R14: carries an elicitation, also when the answer comes through another router process", async () => {
    const directory = createMemoryDirectory();
    const one = await startTestRouter(control, { directory });
    const two = await startTestRouter(control, { directory });
    others.push(
      () => one.close(0),
      () => two.close(0),
    );
    const { client } = await connectV1(one.mcpUrl);
    client.setRequestHandler(ElicitRequestSchema, async () => ({ action: "accept", content: { name: "x" } }));
    assert.match(textOf(await client.callTool({ name: "elicit" })), /a heard accept/);
    await client.close();

    const init = await post(one.mcpUrl, {
      jsonrpc: "2.0",
      id: 1,
      method: "initialize",
      params: { protocolVersion: "2025-11-25", capabilities: { elicitation: {} }, clientInfo: { name: "x", version: "1" } },
    });
    const id = init.headers.get("mcp-session-id") ?? "";
    await post(one.mcpUrl, { jsonrpc: "2.0", method: "notifications/initialized" }, { "mcp-session-id": id });
    const call = await fetch(one.mcpUrl, {
      method: "POST",
      headers: { "content-type": "application/json", accept: "application/json, text/event-stream", "mcp-session-id": id },
      body: JSON.stringify(toolCall(9, "elicit")),
    });
    let text = "";
    const decoder = new TextDecoder();
    const reading = (async () => {
      for await (const chunk of call.body ?? []) text += decoder.decode(chunk, { stream: true });
    })();
    await until(() => text.includes("elicitation/create"));
    const asked = JSON.parse(/^data: (\{.*elicitation\/create.*)$/m.exec(text)?.[1] ?? "{}") as { id: string };
    assert.match(asked.id, /^mcpf\./, "the server's own id does not reach the client");
    const answered = await post(two.mcpUrl, { jsonrpc: "2.0", id: asked.id, result: { action: "decline" } }, { "mcp-session-id": id });
    assert.equal(answered.status, 202);
    await reading;
    assert.match(text, /a heard decline/);
  });

  test("R14: withdraws what a dead server asked, and does not ask the user again", async () => {
    control.readOnly.add("ask");
    const { client } = await connectV1(router.mcpUrl);
    let asked = 0;
    let withdrawn = 0;
    client.setRequestHandler(CreateMessageRequestSchema, async (_request, { signal }) => {
      asked++;
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
      withdrawn++;
      return { model: "m", role: "assistant", content: { type: "text", text: "late" } };
    });
    const running = client.callTool({ name: "ask" }).catch((error: unknown) => error as { code: number });
    await until(() => asked === 1);
    await a.kill();
    assert.equal(((await running) as { code: number }).code, 1001);
    await until(() => withdrawn === 1);
    assert.equal(asked, 1);
    await client.close();
  });

  test("R14: drops an answer to a server that is gone, and says 202", async () => {
    const id = await openSession(router.mcpUrl);
    const answer = await post(router.mcpUrl, { jsonrpc: "2.0", id: "mcpf.AAAAAAAA.0", result: {} }, { "mcp-session-id": id });
    assert.equal(answer.status, 202);
    assert.equal(a.seen.headers.filter((headers) => headers[":method"] === "POST").length, 2, "nothing was sent on");
  });

  test("of the session brings what the server says by itself", async () => {
    const { client } = await connectV1(router.mcpUrl);
    const heard: unknown[] = [];
    client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => {
      heard.push(params.data);
    });
    await client.callTool({ name: "whoami" });
    await a.shout("hello");
    await until(() => heard.length === 1);
    assert.deepEqual(heard, ["hello"]);
    await client.close();
  });

  test("R7: of the session is open before the client hears that it is initialized: nothing said early is lost", async () => {
    const id = await openSession(router.mcpUrl);
    await a.shout("early");
    const stream = await openStream(router.mcpUrl, id);
    await until(() => stream.text.includes("early"));
    await a.shout("later");
    await until(() => stream.text.includes("later"));
  });

  test("R7: of the session outlives the death of its server, and moves with the routes", async () => {
    const id = await openSession(router.mcpUrl);
    const stream = await openStream(router.mcpUrl, id);
    await a.kill();
    await until(() => b.sessions.size === 1);
    await shoutUntil(b, "from b", () => stream.text.includes("from b"));
    await a.start();
    control.move("a");
    await shoutUntil(a, "from a again", () => stream.text.includes("from a again"));
    assert.equal(stream.ended, false);
  });

  test("R3: of the session is open on the new upstream session before a call is sent there", async () => {
    const id = await openSession(router.mcpUrl);
    const stream = await openStream(router.mcpUrl, id);
    await new Promise((resolve) => setTimeout(resolve, 20));
    const before = a.seen.headers.length;
    // The server forgets the session, but its streams stay open: nothing but the call itself tells the router.
    a.forget();
    assert.equal((await post(router.mcpUrl, toolCall(1, "whoami"), { "mcp-session-id": id })).body.error, undefined);
    const methods = a.seen.headers.slice(before).map((headers) => headers[":method"]);
    assert.deepEqual(methods, ["POST", "POST", "POST", "GET", "POST"], "the call, initialize, initialized, the stream, the call again");
    await a.shout("heard at once");
    await until(() => stream.text.includes("heard at once"));
  });

  test("R7, T1: of the session is one, the newest: the one before ends, a third one right after it gets 409, and a new one gets it after the last left", async () => {
    const id = await openSession(router.mcpUrl);
    const first = await openStream(router.mcpUrl, id);
    assert.equal(first.status, 200);
    const second = await openStream(router.mcpUrl, id);
    assert.equal(second.status, 200);
    await until(() => first.ended);
    assert.equal((await openStream(router.mcpUrl, id)).status, 409);
    assert.equal(second.ended, false);
    second.close();
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.equal((await openStream(router.mcpUrl, id)).status, 200);
  });

  test("R7: of the session that a client takes while it is opened ahead is not closed for want of one", async () => {
    const server = await startScriptedServer("s");
    server.answer = async (asked) => {
      if (asked.method !== "GET") return false;
      await new Promise((resolve) => setTimeout(resolve, 200));
      stream(asked);
      return true;
    };
    const other = await startTestRouter(fakeControl([server]));
    others.push(
      () => other.close(0),
      () => server.kill(),
    );
    const id = (await post(other.mcpUrl, initializeBody)).headers.get("mcp-session-id") ?? "";
    const initialized = post(other.mcpUrl, { jsonrpc: "2.0", method: "notifications/initialized" }, { "mcp-session-id": id });
    await until(() => server.heard.some((one) => one.startsWith("GET")));
    const own = await openStream(other.mcpUrl, id);
    await initialized;
    await new Promise((resolve) => setTimeout(resolve, 1800));
    assert.deepEqual([own.status, own.ended], [200, false]);
  });

  test("R5: of the session ends here too when the session is ended at another router process", async () => {
    const directory = createMemoryDirectory();
    const [one, two] = [await startTestRouter(control, { directory }), await startTestRouter(control, { directory })];
    others.push(
      () => one.close(0),
      () => two.close(0),
    );
    const id = await openSession(one.mcpUrl);
    const own = await openStream(one.mcpUrl, id);
    assert.equal((await fetch(two.mcpUrl, { method: "DELETE", headers: { "mcp-session-id": id } })).status, 200);
    await until(() => own.ended);
  });

  for (const isRefused of [false, true]) {
    test(`R9: of the session is gone on with by the id of its last event${isRefused ? ", or begun anew where the server takes none" : ": what its server kept meanwhile is heard"}`, async () => {
      const server = await startScriptedServer("s");
      const ids: unknown[] = [];
      server.answer = ({ method, request, response }) => {
        if (method !== "GET") return false;
        const id = request.headers["last-event-id"];
        ids.push(id);
        if (id !== undefined && isRefused) {
          response.writeHead(400).end();
          return true;
        }
        response.writeHead(200, { "content-type": "text/event-stream" });
        const said = JSON.stringify({ jsonrpc: "2.0", method: "notifications/resources/updated", params: { uri: `after ${String(id)}` } });
        if (ids.length === 1) response.end(`id: e1\ndata: ${said}\n\n`);
        else response.write(`id: e${ids.length}\ndata: ${said}\n\n`);
        return true;
      };
      const other = await startTestRouter(fakeControl([server]));
      others.push(
        () => other.close(0),
        () => server.kill(),
      );
      const begun = await post(other.mcpUrl, initializeBody);
      const own = await openStream(other.mcpUrl, begun.headers.get("mcp-session-id") ?? "");
      await until(() => [...own.text.matchAll(/"uri"/g)].length === 2);
      assert.deepEqual(ids, isRefused ? [undefined, "e1", undefined] : [undefined, "e1"]);
    });
  }

  for (const afterMs of [0, 20]) {
    test(`R7: of the session goes on at a server that ends it after ${afterMs} ms, which is not asked for it without a pause`, async () => {
      const server = await startScriptedServer("s");
      const streams = (): number => server.heard.filter((one) => one.startsWith("GET")).length;
      let isEnded = true;
      server.answer = async (asked) => {
        if (asked.method !== "GET") return false;
        // As it was asked: one that says nothing is ended, whatever the test wants by then.
        const isSilent = isEnded;
        stream(asked, ...(isSilent ? [] : [{ method: "notifications/resources/updated", params: { uri: "heard" } }]));
        if (isSilent && afterMs > 0) await new Promise((resolve) => setTimeout(resolve, afterMs));
        if (isSilent) asked.response.end();
        return true;
      };
      const other = await startTestRouter(fakeControl([server]), { limits: { heartbeatMs: 100 } });
      others.push(
        () => other.close(0),
        () => server.kill(),
      );
      const begun = await post(other.mcpUrl, initializeBody);
      const own = await openStream(other.mcpUrl, begun.headers.get("mcp-session-id") ?? "");
      await new Promise((resolve) => setTimeout(resolve, 1000));
      assert.ok(streams() >= 2 && streams() <= 8, `it was asked ${streams()} times in a second`);
      isEnded = false;
      await until(() => own.text.includes("heard"));
      assert.equal(own.ended, false);
    });
  }

  test("R8: that is quiet carries heartbeats", async () => {
    const id = await openSession(router.mcpUrl);
    const stream = await openStream(router.mcpUrl, id);
    await until(() => stream.text.includes(": alive"), 3000);
  });

  test("R7: is refused as the upstream refuses it: 405 where there is none, 406 without the right Accept", async () => {
    const stateless = await startMcpServer("s", { sessions: false });
    others.push(() => stateless.kill());
    const id = await openSession(router.mcpUrl);
    assert.equal((await openStream(router.mcpUrl, id, { accept: "application/json" })).status, 406);
    assert.equal((await openStream(router.mcpUrl, "nonsense")).status, 404);
  });

  for (const nats of [true, false]) {
    test(`R7: that was opened ahead in one router process is given to the one where the client comes, ${nats ? "with what waited" : "also without NATS"}`, async () => {
      const broker = memoryBroker();
      const directory = createMemoryDirectory();
      const sealer = createSealer(secret);
      const routers: TestRouter[] = [];
      for (const instance of ["router-1", "router-2"]) {
        const kit = testKit({ service: "router", instance, bus: await broker.connect() });
        const claims = nats ? createStreamClaims(kit, sealer) : { claim: async () => null };
        const plane = await startTestRouter(control, { directory, claims, secret });
        routers.push(plane);
        const serving = nats ? serveStreamClaims(kit, sealer, plane.sessionByKey) : null;
        others.push(async () => {
          serving?.stop();
          await plane.close(0);
          await kit.bus.close();
        });
      }
      const [one, two] = routers as [TestRouter, TestRouter];
      const id = await openSession(one.mcpUrl);
      await a.shout("early");
      const stream = await openStream(two.mcpUrl, id);
      assert.equal(stream.status, 200);
      if (nats) await until(() => stream.text.includes("early"));
      await a.shout("later");
      await until(() => stream.text.includes("later"));
      assert.equal((await openStream(one.mcpUrl, id)).status, 409, "a client reads it in the other process");
    });
  }

  test("G4: that hangs at one router process is at another one for the client that comes back with an event id of it, with what it has missed, and for no other", async () => {
    const fleet = await startTestFleet(() => control);
    others.push(() => fleet.close());
    const { one, two } = fleet;
    const id = await openSession(one.mcpUrl);
    const first = await openStream(one.mcpUrl, id);
    await a.shout("early");
    await until(() => first.text.includes("early"));
    const lastId = [...first.text.matchAll(/^id: (.*)$/gm)].at(-1)?.[1] ?? "";
    await a.shout("missed");
    await until(() => first.text.includes("missed"));
    assert.equal((await openStream(two.mcpUrl, id)).status, 409);
    const [tag = "", name = "", ...rest] = lastId.split(".");
    const guessed = [tag, `${name.startsWith("A") ? "B" : "A"}${name.slice(1)}`, ...rest].join(".");
    assert.equal((await openStream(two.mcpUrl, id, { "last-event-id": guessed })).status, 409);
    assert.equal(first.ended, false);
    const second = await openStream(two.mcpUrl, id, { "last-event-id": lastId });
    assert.equal(second.status, 200);
    await until(() => second.text.includes("missed") && first.ended);
    await shoutUntil(a, "later", () => second.text.includes("later"));
    assert.equal(second.text.split("missed").length, 2, "once");
    assert.ok(!/early|list_changed/.test(second.text), second.text);
    assert.equal((await openStream(one.mcpUrl, id)).status, 409, "a client reads it in the other process");
  });

  test("R7: what is too large to travel between processes is left out when a stream is given to another one, and nothing else", async () => {
    const sealer = createSealer(secret);
    const kit = testKit({ service: "router", instance: "router-1", bus: await memoryBroker().connect() });
    let claim: (respond: (event: { data: { sealed: string | null; open: boolean } }) => void) => void = () => undefined;
    const bus = {
      subscribe: (_type: string, handler: (event: object, respond: unknown) => void) => {
        claim = (respond) => handler({ data: { router: "router-2", session: "s" } }, respond);
        return { stop: () => undefined };
      },
    };
    const event = (number: number, chars = 0) => ({ data: `${number}${randomBytes(chars).toString("hex")}` });
    const stream = {
      handOver: (send: (events: object[], open: boolean) => void) => {
        send([event(1), event(2, 500_000), event(3)], true);
        send([event(4, 500_000)], true);
        send([event(5)], true);
        send([], false);
        return true;
      },
    };
    serveStreamClaims({ ...kit, bus } as never, sealer, () => ({ stream }) as never);
    const heard: string[] = [];
    let isOpen = true;
    claim(({ data }) => {
      if ((data.sealed?.length ?? 0) > 100_000) throw new Error("too large");
      assert.ok(isOpen);
      isOpen = data.open;
      if (data.sealed !== null) for (const one of JSON.parse(sealer.unwrap(data.sealed) ?? "") as { data: string }[]) heard.push(one.data);
    });
    assert.deepEqual([heard, isOpen], [["1", "3", "5"], false]);
    await kit.bus.close();
  });

  test("R9: that the server closes for polling is resumed on the same server, and gives its answer once", async () => {
    const polling = await startMcpServer("polling", { polling: true });
    others.push(() => polling.kill());
    const second = await startTestRouter(fakeControl([polling, b]));
    others.push(() => second.close(0));
    const { client } = await connectV1(second.mcpUrl);
    assert.equal(textOf(await client.callTool({ name: "slow", arguments: { steps: 5, ms: 40 } })), "polling is done");
    assert.ok(polling.seen.headers.some((headers) => headers["last-event-id"] !== undefined));
    assert.ok(!String(polling.seen.headers.find((headers) => headers["last-event-id"] !== undefined)?.["last-event-id"]).includes("."));
    await client.close();
  });

  test("R10: that was left for polling on a server that died then gives the client its error", async () => {
    const polling = await startMcpServer("polling", { polling: true });
    others.push(() => polling.kill());
    const second = await startTestRouter(fakeControl([polling, b]));
    others.push(() => second.close(0));
    const { client } = await connectV1(second.mcpUrl);
    const running = client.callTool({ name: "slow", arguments: { steps: 100, ms: 20 } }).catch((error: unknown) => error);
    await until(() => polling.seen.headers.some((headers) => headers["last-event-id"] !== undefined));
    await polling.kill();
    assert.equal(((await running) as { code: number }).code, 1001);
    await client.close();
  });

  test("R9: whose line breaks is gone on with by its event id: the call is not repeated, and the client sees nothing of it", async () => {
    const stored = await startMcpServer("stored", { eventStore: true });
    others.push(() => stored.kill());
    const unsafe = fakeControl([stored, b]);
    unsafe.readOnly.delete("slow");
    const second = await startTestRouter(unsafe);
    others.push(() => second.close(0));
    const { client } = await connectV1(second.mcpUrl);
    const seen: number[] = [];
    const running = client.callTool({ name: "slow", arguments: { steps: 10, ms: 30 } }, undefined, {
      onprogress: ({ progress }) => seen.push(progress),
    });
    await until(() => seen.length >= 3);
    stored.breakConnections();
    assert.equal(textOf(await running), "stored is done");
    assert.equal(stored.seen.started.length, 1);
    assert.deepEqual(seen, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    await client.close();
  });

  test("R9: with an event store is relayed with ids that name their server, and a failover midway still answers", async () => {
    const stored = await startMcpServer("stored", { eventStore: true });
    others.push(() => stored.kill());
    const second = await startTestRouter(fakeControl([stored, b]));
    others.push(() => second.close(0));
    const { client } = await connectV1(second.mcpUrl);
    const running = client.callTool({ name: "slow", arguments: { steps: 10, ms: 30 } });
    await new Promise((resolve) => setTimeout(resolve, 100));
    await stored.kill();
    assert.equal(textOf(await running), "b is done");
    await client.close();
  });
});
