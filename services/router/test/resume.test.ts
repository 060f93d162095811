import assert from "node:assert/strict";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { createServer, type IncomingHttpHeaders, type ServerResponse } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import { afterEach, beforeEach, describe, test } from "node:test";
import { eventually, patientMs } from "@mcp-failover/testkit";
import { anybody } from "../src/identity/principal.ts";
import { createMemoryDirectory } from "../src/mcp/directory.ts";
import { initializeBody, openSession, post, toolCall, until } from "./support/clients.ts";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { startMcpServer, type TestMcpServer } from "./support/mcp-server.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";
import { type Scripted, startScriptedServer, stream } from "./support/scripted-server.ts";

interface Seen {
  readonly id: string | null;
  readonly retry: string | null;
  readonly data: string;
}

describe("a client whose connection breaks", () => {
  let a: TestMcpServer;
  let b: TestMcpServer;
  let control: FakeControl;
  let router: TestRouter;
  const others: (() => Promise<unknown>)[] = [];
  beforeEach(async () => {
    a = await startMcpServer("a");
    b = await startMcpServer("b");
    control = fakeControl([a, b]);
    router = await startTestRouter(control);
  });
  afterEach(async () => {
    for (const close of others.splice(0).reverse()) await close();
    await router.close(0);
    await a.kill();
    await b.kill();
    assert.deepEqual(router.problems, []);
  });

  /** A request whose stream is read event by event, until `cut`. */
  const open = async (url: URL, session: string, request: { body?: object; lastEventId?: string }) => {
    const abort = new AbortController();
    const response = await fetch(url, {
      method: request.body === undefined ? "GET" : "POST",
      headers: {
        accept: "application/json, text/event-stream",
        "mcp-session-id": session,
        ...(request.body === undefined ? {} : { "content-type": "application/json" }),
        ...(request.lastEventId === undefined ? {} : { "last-event-id": request.lastEventId }),
      },
      signal: abort.signal,
      ...(request.body === undefined ? {} : { body: JSON.stringify(request.body) }),
    });
    let text = "";
    const stream = {
      status: response.status,
      ended: false,
      cut: () => abort.abort(),
      get events(): Seen[] {
        const blocks = text.split("\n\n").slice(0, -1);
        const field = (block: string, name: string): string | null => new RegExp(`^${name}: ?(.*)$`, "m").exec(block)?.[1] ?? null;
        return blocks
          .filter((block) => /^data:/m.test(block))
          .map((block) => ({ id: field(block, "id"), retry: field(block, "retry"), data: field(block, "data") ?? "" }));
      },
      get said(): string[] {
        return this.events.map(({ data }) => data).filter((data) => data !== "");
      },
    };
    others.push(async () => abort.abort());
    const decoder = new TextDecoder();
    (async () => {
      for await (const chunk of response.body ?? []) text += decoder.decode(chunk, { stream: true });
    })().then(
      () => {
        stream.ended = true;
      },
      () => undefined,
    );
    return stream;
  };
  /** One stream a session: the upstream takes another one only once the router has left. */
  const untilLeft = async (): Promise<void> => {
    const headers = { accept: "text/event-stream", "mcp-session-id": [...a.sessions.keys()][0] ?? "" };
    await eventually(
      async () => {
        const direct = await fetch(a.url, { headers });
        await direct.body?.cancel();
        return direct.status === 200;
      },
      { withinMs: 30_000 },
    );
  };
  const slow = (id: number | string, steps: number, ms: number): object => {
    const call = toolCall(id as number, "slow", { steps, ms }) as { params: object };
    return { ...call, params: { ...call.params, _meta: { progressToken: "p" } } };
  };
  const progressOf = (said: readonly string[]): unknown[] =>
    said
      .map((data) => (JSON.parse(data) as { params?: { progress?: number } }).params?.progress)
      .filter((progress) => progress !== undefined);
  const answersOf = (said: readonly string[]): { id: unknown; result?: unknown; error?: { code: number } }[] =>
    said.map((data) => JSON.parse(data)).filter((message) => "result" in message || "error" in message);

  test("R9: gets the rest of its call by its last event id, once and in order, though the upstream gives no ids", async () => {
    const session = await openSession(router.mcpUrl);
    const first = await open(router.mcpUrl, session, { body: slow("call-1", 12, 30) });
    await until(() => first.said.length >= 3);
    first.cut();
    const last = first.events.filter(({ data }) => data !== "").at(-1);
    await new Promise((resolve) => setTimeout(resolve, 100));
    const second = await open(router.mcpUrl, session, { lastEventId: last?.id ?? "" });
    await until(() => second.ended);
    assert.deepEqual(progressOf([...first.said, ...second.said]), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    assert.deepEqual(
      answersOf([...first.said, ...second.said]).map(({ id }) => id),
      ["call-1"],
    );
    assert.equal(a.seen.started.length, 1, "the call ran once");
    assert.ok(
      a.seen.headers.every((headers) => headers["last-event-id"] === undefined),
      "the upstream was not asked",
    );
    const third = await open(router.mcpUrl, session, { lastEventId: last?.id ?? "" });
    await until(() => third.ended);
    assert.deepEqual(third.said, second.said, "the answer waits for a client that breaks off again");
  });

  for (const isOver of [true, false]) {
    test(`R9, L3: that was away for more than is kept gets the rest of its call and its answer, ${isOver ? "after it has ended" : "while it goes on"}`, async () => {
      const server = await startScriptedServer("s");
      const own = fakeControl([server]);
      const other = await startTestRouter(own);
      others.push(
        () => server.kill(),
        () => other.close(0),
      );
      let [isCut, isBack] = [false, isOver];
      server.answer = async (asked) => {
        if (asked.method !== "tools/call") return false;
        const tell = (from: number, to: number): void => {
          for (let progress = from; progress <= to; progress++)
            stream(asked, { method: "notifications/progress", params: { progressToken: "p", progress } });
        };
        tell(1, 3);
        await until(() => isCut);
        tell(4, 700);
        await until(() => isBack);
        stream(asked, { id: asked.message.id, result: { content: [] } });
        asked.response.end();
        return true;
      };
      const session = await openSession(other.mcpUrl);
      const first = await open(other.mcpUrl, session, { body: toolCall("call-1", "chatty") });
      await until(() => first.said.length === 3);
      first.cut();
      isCut = true;
      if (isOver) await until(() => own.told.some(({ tool }) => tool === "chatty"));
      else await new Promise((resolve) => setTimeout(resolve, 300));
      const second = await open(other.mcpUrl, session, { lastEventId: first.events.at(-1)?.id ?? "" });
      isBack = true;
      await until(() => second.ended);
      assert.deepEqual(answersOf(second.said), [{ jsonrpc: "2.0", id: "call-1", result: { content: [] } }]);
      assert.equal(progressOf(second.said).at(-1), 700);
      assert.ok(progressOf(second.said).length < 697, "more than is kept");
    });
  }

  test("R9: has an id to come back with before a silent upstream says anything, if it knows what that means", async () => {
    const session = await openSession(router.mcpUrl);
    const call = await open(router.mcpUrl, session, { body: toolCall(1, "slow", { steps: 4, ms: 100 }) });
    await until(() => call.events.length === 1);
    assert.deepEqual([call.events[0]?.data, call.events[0]?.retry], ["", "500"]);
    call.cut();
    const back = await open(router.mcpUrl, session, { lastEventId: call.events[0]?.id ?? "" });
    await until(() => back.ended);
    assert.deepEqual(
      answersOf(back.said).map(({ id }) => id),
      [1],
    );

    const older = { ...initializeBody, params: { ...initializeBody.params, protocolVersion: "2025-06-18" } };
    const oldSession = (await post(router.mcpUrl, older)).headers.get("mcp-session-id") ?? "";
    const oldCall = await open(router.mcpUrl, oldSession, { body: toolCall(2, "slow", { steps: 3, ms: 100 }) });
    await until(() => oldCall.ended);
    assert.ok(
      oldCall.events.every(({ data }) => data !== ""),
      "an older client would take an event without data for a message",
    );
  });

  test("R9: gets nothing of another stream, and the upstream's own ids reach nobody", async () => {
    const stored = await startMcpServer("stored", { eventStore: true });
    others.push(() => stored.kill());
    const second = await startTestRouter(fakeControl([stored, b]));
    others.push(() => second.close(0));
    const session = await openSession(second.mcpUrl);
    const one = await open(second.mcpUrl, session, { body: slow("one", 6, 30) });
    const two = await open(second.mcpUrl, session, { body: slow("two", 6, 30) });
    await until(() => one.said.length >= 1 && two.said.length >= 1);
    one.cut();
    const back = await open(second.mcpUrl, session, { lastEventId: one.events.at(-1)?.id ?? "" });
    await until(() => back.ended && two.ended);
    assert.deepEqual(
      answersOf([...one.said, ...back.said]).map(({ id }) => id),
      ["one"],
    );
    assert.deepEqual(
      answersOf(two.said).map(({ id }) => id),
      ["two"],
    );
    const ids = [...one.events, ...two.events, ...back.events].map(({ id }) => id ?? "");
    assert.ok(
      ids.every((id) => /^([\w-]{8})?\.[\w-]+\.\w+\./.test(id)),
      ids.join(" "),
    );
    const stranger = await openSession(second.mcpUrl);
    const stolen = await open(second.mcpUrl, stranger, { lastEventId: ids[0] ?? "" });
    await until(() => stolen.ended);
    assert.deepEqual(
      answersOf(stolen.said).map(({ error }) => error?.code),
      [1001],
      "another session's events are not there for it",
    );
  });

  test("R9: goes on at the upstream when its router is another one, and else gets an answer that says what is known", async () => {
    const stored = await startMcpServer("stored", { eventStore: true });
    others.push(() => stored.kill());
    for (const [server, answered] of [
      [stored, "result"],
      [a, "error"],
    ] as const) {
      const before = await startTestRouter(fakeControl([server, b]));
      const session = await openSession(before.mcpUrl);
      const call = await open(before.mcpUrl, session, { body: slow("call", 15, 30) });
      await until(() => call.said.length >= 2);
      const last = call.events.at(-1)?.id ?? "";
      call.cut();
      await before.close(0);
      const after = await startTestRouter(fakeControl([server, b]));
      others.push(() => after.close(0));
      // As a client does: as often as the stream ends without its answer, with the last id that it has.
      const said: string[] = [];
      for (let tries = 0, from = last; tries < 5 && answersOf(said).length === 0; tries++) {
        const back = await open(after.mcpUrl, session, { lastEventId: from });
        await until(() => back.ended);
        said.push(...back.said);
        from = back.events.findLast(({ id }) => id !== null)?.id ?? from;
      }
      const [answer] = answersOf(said);
      assert.equal(answer?.id, "call");
      assert.ok(answer !== undefined && answered in answer, `${server.name}: ${JSON.stringify(answer)}`);
      if (answered === "error") assert.equal(answer?.error?.code, 1001);
    }
  });

  test("R9: gets its answer through another router process too where the upstream gave its own id late, and then ended the stream", async () => {
    const asked: string[] = [];
    const late = createServer((request, response) => {
      let body = "";
      request.setEncoding("utf8").on("data", (chunk: string) => (body += chunk));
      request.on("end", async () => {
        const events = { "content-type": "text/event-stream" };
        if (request.method === "GET" && request.headers["last-event-id"] === undefined) response.writeHead(405).end();
        else if (request.method === "GET") {
          asked.push(String(request.headers["last-event-id"]));
          response.writeHead(200, events).end('id: up-2\ndata: {"jsonrpc":"2.0","id":7,"result":{"content":[]}}\n\n');
        } else if (body.includes('"initialize"')) {
          const result = { protocolVersion: "2025-11-25", capabilities: { tools: {} }, serverInfo: { name: "late", version: "1" } };
          response.writeHead(200, { "content-type": "application/json", "mcp-session-id": "late-1" });
          response.end(JSON.stringify({ jsonrpc: "2.0", id: 1, result }));
        } else if (body.includes('"notifications/')) response.writeHead(202).end();
        else {
          response.writeHead(200, events).flushHeaders();
          await new Promise((resolve) => setTimeout(resolve, 400));
          response.end("id: up-1\nretry: 100\ndata: \n\n");
        }
      });
    });
    await new Promise<void>((resolve) => late.listen(0, "127.0.0.1", resolve));
    others.push(() => new Promise((resolve) => late.close(() => resolve(undefined)).closeAllConnections()));
    const endpoint = { name: "late", url: `http://127.0.0.1:${(late.address() as AddressInfo).port}/mcp` };
    const [first, second] = [await startTestRouter(fakeControl([endpoint])), await startTestRouter(fakeControl([endpoint]))];
    others.push(
      () => first.close(0),
      () => second.close(0),
    );
    const session = await openSession(first.mcpUrl);
    const call = await open(first.mcpUrl, session, { body: toolCall(7, "poll") });
    await until(() => call.ended);
    assert.deepEqual(call.said, []);
    const back = await open(second.mcpUrl, session, { lastEventId: call.events.at(-1)?.id ?? "" });
    await until(() => back.ended);
    assert.deepEqual(asked, ["up-1"]);
    assert.deepEqual(
      answersOf(back.said).map(({ id, result }) => [id, result !== undefined]),
      [[7, true]],
    );
  });

  test("S3: is waited for by a router that stops, as every call is, where it came back for its answer", async () => {
    let asked = 0;
    let answer: () => void = () => undefined;
    const held = createServer((request, response) => {
      let body = "";
      request.setEncoding("utf8").on("data", (chunk: string) => (body += chunk));
      request.on("end", () => {
        const events = { "content-type": "text/event-stream" };
        const isBack = request.headers["last-event-id"] !== undefined;
        if (request.method === "GET" && !isBack) response.writeHead(405).end();
        else if (body.includes('"initialize"')) {
          const result = { protocolVersion: "2025-11-25", capabilities: { tools: {} }, serverInfo: { name: "held", version: "1" } };
          response.writeHead(200, { "content-type": "application/json", "mcp-session-id": "held-1" });
          response.end(JSON.stringify({ jsonrpc: "2.0", id: 1, result }));
        } else if (body.includes('"notifications/')) response.writeHead(202).end();
        else if (body.includes('"poll"')) response.writeHead(200, events).end("id: up-1\nretry: 100\ndata: \n\n");
        else {
          asked += 1;
          response.writeHead(200, events).write(isBack ? ": here\n\n" : "id: up-1\ndata: \n\n");
          answer = () => response.end('id: up-2\ndata: {"jsonrpc":"2.0","id":7,"result":{"content":[]}}\n\n');
        }
      });
    });
    await new Promise<void>((resolve) => held.listen(0, "127.0.0.1", resolve));
    others.push(() => new Promise((resolve) => held.close(() => resolve(undefined)).closeAllConnections()));
    const endpoint = { name: "held", url: `http://127.0.0.1:${(held.address() as AddressInfo).port}/mcp` };
    for (const tool of ["run", "poll"]) {
      asked = 0;
      const stopping = await startTestRouter(fakeControl([endpoint]));
      others.push(() => stopping.close(0));
      const session = await openSession(stopping.mcpUrl);
      const call = await open(stopping.mcpUrl, session, { body: toolCall(7, tool) });
      await until(() => call.events.length > 0);
      call.cut();
      const back = await open(stopping.mcpUrl, session, { lastEventId: call.events.at(-1)?.id ?? "" });
      await until(() => asked === 1);
      const stopped = stopping.close(patientMs(20_000));
      // A stop that waited for nobody would be over by now.
      await new Promise((resolve) => setTimeout(resolve, 200));
      answer();
      await until(() => back.ended);
      await stopped;
      assert.deepEqual(
        answersOf(back.said).map(({ id, result }) => [id, result !== undefined]),
        [[7, true]],
        tool,
      );
    }
  });

  test("R9: gets the rest of its call, and the answer, while its old connection hangs with what it was being told", async () => {
    const streams: ServerResponse[] = [];
    const talker = createServer((request, response) => {
      let body = "";
      request.setEncoding("utf8").on("data", (chunk: string) => (body += chunk));
      request.on("end", () => {
        if (request.method === "GET") response.writeHead(405).end();
        else if (body.includes('"initialize"')) {
          const result = { protocolVersion: "2025-11-25", capabilities: { tools: {} }, serverInfo: { name: "talker", version: "1" } };
          response.writeHead(200, { "content-type": "application/json", "mcp-session-id": "talker-1" });
          response.end(JSON.stringify({ jsonrpc: "2.0", id: 1, result }));
        } else if (body.includes('"notifications/')) response.writeHead(202).end();
        else {
          response.writeHead(200, { "content-type": "text/event-stream" }).flushHeaders();
          streams.push(response);
        }
      });
    });
    await new Promise<void>((resolve) => talker.listen(0, "127.0.0.1", resolve));
    others.push(() => new Promise((resolve) => talker.close(() => resolve(undefined)).closeAllConnections()));
    const control = fakeControl([{ name: "talker", url: `http://127.0.0.1:${(talker.address() as AddressInfo).port}/mcp` }]);
    const hearing = await startTestRouter(control, { front: false });
    others.push(() => hearing.close(0));
    const taken: Socket[] = [];
    const take = (message: unknown): void => void taken.push((message as { socket: Socket }).socket);
    subscribe("net.server.socket", take);
    others.push(async () => unsubscribe("net.server.socket", take));

    const session = await openSession(hearing.mcpUrl);
    const client = connect(hearing.port, "127.0.0.1");
    others.push(async () => client.destroy());
    let came = "";
    client.setEncoding("utf8").on("data", (part: string) => {
      came += part;
    });
    const body = JSON.stringify(toolCall(7, "run"));
    const head = `host: 127.0.0.1\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\nmcp-session-id: ${session}`;
    client.write(`POST /mcp/fake HTTP/1.1\r\n${head}\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
    await until(() => streams.length === 1);
    const say = (message: object): unknown => streams[0]?.write(`data: ${JSON.stringify({ jsonrpc: "2.0", ...message })}\n\n`);
    const log = (data: string): unknown => say({ method: "notifications/message", params: { level: "info", data } });
    log("a");
    await until(() => came.includes('"a"}'));
    const id = /^id: (.*)\ndata: .*"a"/m.exec(came)?.[1] ?? "";
    // From now on as with a network that is away: nothing is taken, and nobody says so.
    const hung = taken.find(({ remotePort }) => remotePort === client.localPort) as Socket;
    hung._write = () => undefined;
    hung._writev = () => undefined;
    // Each is more than a connection is given before it has to say that it took it.
    for (const letter of ["b", "c", "d"]) log(letter.repeat(2 * hung.writableHighWaterMark));
    say({ id: 7, result: { content: [] } });
    await until(() => hung.writableNeedDrain);
    const back = await open(hearing.mcpUrl, session, { lastEventId: id });
    await until(() => back.ended);
    assert.deepEqual(
      back.said.map((data) => JSON.parse(data)).map(({ id: answered, params }) => answered ?? params.data[0]),
      ["b", "c", "d", 7],
    );
    assert.equal(hung.destroyed, false);
    assert.deepEqual(hearing.problems, []);
  });

  test("R9: gets its answer from a server that has parked it, though an earlier connection on which it came for it hangs", async () => {
    const server = await startScriptedServer("s");
    let reader: Scripted | null = null;
    server.answer = (asked) => {
      const { method, request, response } = asked;
      if (method === "tools/call") {
        response.writeHead(200, { "content-type": "text/event-stream" }).end("id: e1\nretry: 10\ndata: \n\n");
        return true;
      }
      if (method !== "GET" || request.headers["last-event-id"] === undefined) return false;
      if (reader !== null && !reader.response.destroyed) response.writeHead(409).end();
      else {
        reader = asked;
        stream(asked);
      }
      return true;
    };
    const other = await startTestRouter(fakeControl([server]));
    others.push(
      () => server.kill(),
      () => other.close(0),
    );
    const session = await openSession(other.mcpUrl);
    const call = await open(other.mcpUrl, session, { body: toolCall("call-1", "write") });
    await until(() => call.ended);
    const lastEventId = call.events.at(-1)?.id ?? "";
    const hanging = await open(other.mcpUrl, session, { lastEventId });
    const first = reader;
    const live = await open(other.mcpUrl, session, { lastEventId });
    assert.notEqual(reader, first);
    stream(reader as unknown as Scripted, { id: "call-1", result: { content: [] } });
    await until(() => live.said.length === 1);
    assert.deepEqual(answersOf(live.said), [{ jsonrpc: "2.0", id: "call-1", result: { content: [] } }]);
    await until(() => hanging.ended);
    assert.deepEqual(hanging.said, []);
  });

  test("R9: takes a running call from nobody when it has left again before its router knows who it is", async () => {
    const known = Promise.withResolvers<void>();
    let identified = 0;
    const identify = async (headers: IncomingHttpHeaders) => {
      if (headers["last-event-id"] !== undefined) {
        identified += 1;
        await known.promise;
      }
      return anybody;
    };
    const late = await startTestRouter(control, { guard: { identify, metadata: () => null } });
    others.push(() => late.close(0));
    const session = await openSession(late.mcpUrl);
    const call = await open(late.mcpUrl, session, { body: slow("call", 8, 100) });
    await until(() => call.events.length > 0);
    const leave = new AbortController();
    const lastEventId = call.events.at(-1)?.id ?? "";
    const headers = { accept: "text/event-stream", "mcp-session-id": session, "last-event-id": lastEventId };
    const gone = fetch(late.mcpUrl, { headers, signal: leave.signal }).catch(() => undefined);
    await until(() => identified === 1);
    leave.abort();
    await gone;
    // What the router reads after the end of that connection: it knows of it then.
    for (let turns = 0; turns < 5; turns += 1) await fetch(`${late.url}/healthz`);
    known.resolve();
    await until(() => call.ended);
    assert.deepEqual(
      answersOf(call.said).map(({ id }) => id),
      ["call"],
    );
  });

  test("R10: has one answer, a result or an error: who comes back with its id gets none again, from no router process, and need not come any more", async () => {
    for (const steps of [2, 200]) {
      const server = await startMcpServer("once");
      const first = await startTestRouter(fakeControl([server]));
      const session = await openSession(first.mcpUrl);
      const call = await open(first.mcpUrl, session, { body: slow("call", steps, 20) });
      await until(() => call.said.length >= 2);
      if (steps > 2) await server.kill();
      await until(() => call.ended);
      assert.equal(answersOf(call.said).length, 1);
      const lastEventId = call.events.at(-1)?.id ?? "";
      const second = await startTestRouter(fakeControl([server, b]));
      others.push(
        () => second.close(0),
        () => first.close(0),
        () => server.kill(),
      );
      for (const one of [first, second]) {
        const back = await open(one.mcpUrl, session, { lastEventId });
        await until(() => back.ended);
        assert.deepEqual([back.status, back.said], [204, []]);
      }
    }
  });

  test("R9: comes back to its session's own stream at another router, and is told of all that may have changed meanwhile", async () => {
    const directory = createMemoryDirectory();
    const before = await startTestRouter(control, { directory });
    const session = await openSession(before.mcpUrl);
    const subscribe = { jsonrpc: "2.0", id: 2, method: "resources/subscribe", params: { uri: "note://one" } };
    assert.equal((await post(before.mcpUrl, subscribe, { "mcp-session-id": session })).status, 200);
    const first = await open(before.mcpUrl, session, {});
    // A server says nothing to a stream that is still being opened.
    const shoutUntil = async (said: () => boolean): Promise<void> => {
      for (const endMs = Date.now() + 30_000; !said() && Date.now() < endMs; ) {
        await a.shout("here");
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      assert.ok(said());
    };
    await shoutUntil(() => first.said.length > 0);
    await before.close(0);
    const after = await startTestRouter(control, { directory });
    others.push(() => after.close(0));
    const second = await open(after.mcpUrl, session, { lastEventId: first.events.at(-1)?.id ?? "" });
    await until(() => second.said.length >= 3, 30_000);
    const heard = second.said.slice(0, 3).map((data) => JSON.parse(data) as { method: string; params?: object });
    assert.deepEqual(heard, [
      { jsonrpc: "2.0", method: "notifications/tools/list_changed" },
      { jsonrpc: "2.0", method: "notifications/resources/list_changed" },
      { jsonrpc: "2.0", method: "notifications/resources/updated", params: { uri: "note://one" } },
    ]);
    await shoutUntil(() => second.said.length > 3);
    const third = await open(after.mcpUrl, session, {});
    assert.equal(third.status, 200);
    await until(() => second.ended);
  });

  test("R9: comes back to its session's own stream and gets what the server said meanwhile", async () => {
    const session = await openSession(router.mcpUrl);
    const first = await open(router.mcpUrl, session, {});
    await a.shout("one");
    await until(() => first.said.length === 1);
    const last = first.events.at(-1)?.id ?? "";
    await a.shout("two");
    await until(() => first.said.length === 2);
    first.cut();
    await new Promise((resolve) => setTimeout(resolve, 50));
    await a.shout("three");
    const second = await open(router.mcpUrl, session, { lastEventId: last });
    await until(() => second.said.length === 2);
    await a.shout("four");
    await until(() => second.said.length === 3);
    assert.deepEqual(
      second.said.map((data) => (JSON.parse(data) as { params: { data: string } }).params.data),
      ["two", "three", "four"],
    );
  });

  test("R9: comes back to its session's own stream while its old connection hangs unseen, and gets what it was told there", async () => {
    const session = await openSession(router.mcpUrl);
    const first = await open(router.mcpUrl, session, {});
    await a.shout("one");
    await until(() => first.said.length === 1);
    const from = first.events.at(-1)?.id ?? "";
    await a.shout("two");
    await until(() => first.said.length === 2);
    const second = await open(router.mcpUrl, session, { lastEventId: from });
    assert.equal(second.status, 200);
    await a.shout("three");
    await until(() => second.said.length === 2 && first.ended);
    assert.deepEqual(
      second.said.map((data) => (JSON.parse(data) as { params: { data: string } }).params.data),
      ["two", "three"],
    );
    // The end of the old connection takes nothing from the new one.
    first.cut();
    await new Promise((resolve) => setTimeout(resolve, 100));
    await a.shout("four");
    await until(() => second.said.length === 3);
  });

  test("R9: comes back late to its session's own stream, hears what is still known of it, that all may have changed, and what comes then", async () => {
    const session = await openSession(router.mcpUrl);
    const first = await open(router.mcpUrl, session, {});
    await a.shout("one");
    await until(() => first.said.length === 1);
    const last = first.events.at(-1)?.id ?? "";
    await a.shout("two");
    await until(() => first.said.length === 2);
    first.cut();
    await untilLeft();
    const second = await open(router.mcpUrl, session, { lastEventId: last });
    await until(() => second.said.length >= 3, 30_000);
    assert.equal((JSON.parse(second.said[0] ?? "{}") as { params?: { data?: string } }).params?.data, "two");
    assert.deepEqual(
      second.said.slice(1, 3).map((data) => (JSON.parse(data) as { method: string }).method),
      ["notifications/tools/list_changed", "notifications/resources/list_changed"],
    );
    await eventually(async () => {
      await a.shout("here");
      return second.said.some((data) => data.includes('"here"'));
    });
    assert.equal(second.ended, false);
  });

  test("R10: that never comes back costs the upstream nothing: its call ends, and the stream of its session is closed", async () => {
    const session = await openSession(router.mcpUrl);
    const stream = await open(router.mcpUrl, session, {});
    const call = await open(router.mcpUrl, session, { body: slow("left", 5, 20) });
    await until(() => call.said.length >= 1);
    call.cut();
    stream.cut();
    await until(() => control.told.some(({ tool, result }) => tool === "slow" && result.outcome === "ok"));
    await untilLeft();
  });
});
