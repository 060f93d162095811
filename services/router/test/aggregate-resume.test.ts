import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { createMemoryDirectory, type SessionDirectory } from "../src/mcp/directory.ts";
import { initializeBody, post, toolCall, until } from "./support/clients.ts";
import { fakeControl } from "./support/fake-control.ts";
import { startTestFleet, type TestFleet } from "./support/fleet.ts";
import type { TestRouter } from "./support/router.ts";
import { type Scripted, type ScriptedServer, startScriptedServer, stream } from "./support/scripted-server.ts";
import { controlOf } from "./support/several.ts";

interface Heard {
  readonly status: number;
  text: string;
  ended: boolean;
  cut(): void;
  readonly messages: { readonly id?: unknown; readonly method?: string; readonly params?: { readonly progress?: number } }[];
  readonly lastId: string;
}

describe("a client of /mcp whose connection breaks", () => {
  let a: ScriptedServer;
  let fleet: TestFleet;
  /** Of the directory. */
  let reads = 0;
  let one: TestRouter;
  let two: TestRouter;
  let session: Record<string, string>;
  const open: Heard[] = [];

  beforeEach(async () => {
    a = await startScriptedServer("a");
    const control = () => controlOf({ a: fakeControl([{ name: "only", url: a.url }]) });
    reads = 0;
    const directory = createMemoryDirectory();
    const counting: SessionDirectory = {
      ...directory,
      read: (key) => {
        reads += 1;
        return directory.read(key);
      },
    };
    fleet = await startTestFleet(control, counting);
    ({ one, two } = fleet);
    session = { "mcp-session-id": (await post(`${one.url}/mcp`, initializeBody)).headers.get("mcp-session-id") ?? "" };
  });
  afterEach(async () => {
    for (const stream of open.splice(0)) stream.cut();
    await fleet.close();
    await a.kill();
    assert.deepEqual([...one.problems, ...two.problems], []);
  });

  /** A call where there is a body, else a GET. */
  const begin = async (
    router: TestRouter,
    { body, from, headers }: { body?: object; from?: string; headers?: Record<string, string> },
  ): Promise<Heard> => {
    const abort = new AbortController();
    const response = await fetch(`${router.url}/mcp`, {
      method: body === undefined ? "GET" : "POST",
      headers: {
        accept: "application/json, text/event-stream",
        ...session,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...(from === undefined ? {} : { "last-event-id": from }),
        ...headers,
      },
      signal: abort.signal,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const heard: Heard = {
      status: response.status,
      text: "",
      ended: false,
      cut: () => abort.abort(),
      get messages() {
        return [...heard.text.matchAll(/^data: (\{.*)$/gm)].map(([, text]) => JSON.parse(text as string));
      },
      get lastId() {
        return [...heard.text.matchAll(/^id: (.*)$/gm)].at(-1)?.[1] ?? "";
      },
    };
    open.push(heard);
    const decoder = new TextDecoder();
    (async () => {
      for await (const chunk of response.body ?? []) heard.text += decoder.decode(chunk, { stream: true });
    })().then(
      () => {
        heard.ended = true;
      },
      () => undefined,
    );
    return heard;
  };
  const progress = (asked: Scripted, value: number): void =>
    stream(asked, { method: "notifications/progress", params: { progressToken: "p", progress: value } });
  /** Calls are told progress 1 to 3, and after the gate 4 to 6 and their answer. */
  const gated = (): { go: () => void; calls: () => number } => {
    let go = (): void => undefined;
    const gate = new Promise<void>((resolve) => {
      go = resolve;
    });
    let calls = 0;
    a.answer = async (asked) => {
      if (asked.method !== "tools/call") return false;
      calls += 1;
      for (const value of [1, 2, 3]) progress(asked, value);
      await gate;
      for (const value of [4, 5, 6]) progress(asked, value);
      stream(asked, { id: asked.message.id, result: { content: [] } });
      asked.response.end();
      return true;
    };
    return { go, calls: () => calls };
  };

  test("R9: gets the rest of its call, and its answer, by its last event id, while it goes on and after its end", async () => {
    const { go, calls } = gated();
    const first = await begin(one, { body: toolCall("call-1", "a__x") });
    await until(() => first.messages.length === 3);
    first.cut();
    const second = await begin(one, { from: first.lastId });
    go();
    await until(() => second.ended);
    const third = await begin(one, { from: first.lastId });
    await until(() => third.ended);
    for (const { messages } of [second, third]) {
      assert.deepEqual(
        messages.map(({ id, params }) => id ?? params?.progress),
        [4, 5, 6, "call-1"],
      );
    }
    assert.equal(calls(), 1);
    assert.equal((await begin(one, { from: third.lastId })).status, 204, "nothing follows an answer");
  });

  test("R9: has an id to come back with before its upstream says anything, and at another router process one answer that says what is known", async () => {
    let go = (): void => undefined;
    const gate = new Promise<void>((resolve) => {
      go = resolve;
    });
    a.answer = async ({ method }) => {
      if (method === "tools/call") await gate;
      return false;
    };
    const first = await begin(one, { body: toolCall("call-1", "a__x") });
    await until(() => first.lastId !== "");
    first.cut();
    const elsewhere = await begin(two, { from: first.lastId });
    await until(() => elsewhere.ended);
    assert.match(elsewhere.text, /"id":"call-1","error":\{"code":1001/);
    const second = await begin(one, { from: first.lastId });
    go();
    await until(() => second.ended);
    assert.match(second.text, /"id":"call-1","result"/);
  });

  /** The session's streams at the upstream, which takes one at a time, as servers do; and what it says on the one that is open. */
  const upstreamStreams = () => {
    const streams: Scripted[] = [];
    const open = (): Scripted | undefined => streams.find(({ response }) => !response.destroyed);
    a.answer = (asked) => {
      if (asked.method !== "GET") return false;
      if (open() !== undefined) {
        asked.response.writeHead(409).end();
        return true;
      }
      stream(asked);
      streams.push(asked);
      return true;
    };
    const say = (data: string): void => {
      const asked = open();
      if (asked !== undefined) stream(asked, { method: "notifications/message", params: { level: "error", data } });
    };
    return { streams, say };
  };

  test("R9: comes back to its own stream while the old connection hangs, and gets what it was told there; elsewhere it hears that all may have changed", async () => {
    await post(`${one.url}/mcp`, toolCall(2, "a__x"), session);
    const { streams, say } = upstreamStreams();
    const first = await begin(one, {});
    await until(() => streams.length > 0);
    say("one");
    await until(() => first.text.includes("one"));
    const from = first.lastId;
    say("two");
    await until(() => first.text.includes("two"));
    const second = await begin(one, { from });
    assert.equal(second.status, 200);
    await until(() => second.messages.length === 1);
    assert.ok(second.text.includes("two") && !second.text.includes("one"), second.text);
    say("three");
    await until(() => second.text.includes("three") && first.ended);
    assert.equal(second.messages.length, 2, second.text);
    second.cut();
    const elsewhere = await begin(two, { from: second.lastId });
    await until(() => elsewhere.messages.length >= 3);
    const said = elsewhere.messages.map(({ method }) => method?.split("/").slice(1).join("/"));
    assert.deepEqual(said.sort(), ["prompts/list_changed", "resources/list_changed", "tools/list_changed"]);
  });

  test("G5: comes back to its own stream at another router process while the old connection hangs at the first one, and hears its upstreams there", async () => {
    await post(`${one.url}/mcp`, toolCall(2, "a__x"), session);
    const { streams, say } = upstreamStreams();
    const first = await begin(one, {});
    await until(() => streams.length === 1);
    say("one");
    await until(() => first.text.includes("one"));
    const second = await begin(two, { from: first.lastId });
    await until(() => first.ended && streams.length === 2);
    say("two");
    await until(() => second.text.includes("two"));
    assert.ok(second.text.includes("tools/list_changed"), "what was said meanwhile is not known");
    const other = (await post(`${one.url}/mcp`, initializeBody)).headers.get("mcp-session-id") ?? "";
    const thief = await begin(one, { from: first.lastId, headers: { "mcp-session-id": other } });
    await until(() => thief.messages.length >= 3);
    say("three");
    await until(() => second.text.includes("three"));
    assert.ok(!second.ended && !thief.text.includes("three"), "the id of another session takes nothing");
  });

  test("G5: hears of what is begun elsewhere at once, and the directory is not read again and again for its stream", async () => {
    const { streams, say } = upstreamStreams();
    const own = await begin(one, {});
    await post(`${two.url}/mcp`, toolCall(2, "a__x"), session);
    await until(() => streams.length === 1, 1500);
    say("one");
    await until(() => own.text.includes("one"));
    const before = reads;
    await new Promise((resolve) => setTimeout(resolve, 5000));
    assert.equal(reads, before);
  });

  test("an upstream that has no stream of its own is not asked for one again and again", async () => {
    await post(`${one.url}/mcp`, toolCall(2, "a__x"), session);
    await begin(one, {});
    const gets = (): number => a.heard.filter((one) => one.startsWith("GET ")).length;
    // Once ahead of the client, and once for it.
    await until(() => gets() === 2);
    await new Promise((resolve) => setTimeout(resolve, 5000));
    assert.equal(gets(), 2);
  });

  test("G4: that was away for longer than the streams of its upstreams were kept hears that all may have changed", async () => {
    await post(`${one.url}/mcp`, toolCall(2, "a__x"), session);
    const { streams, say } = upstreamStreams();
    const first = await begin(one, {});
    await until(() => streams.length > 0);
    const [upstream] = streams as [Scripted];
    say("one");
    await until(() => first.text.includes("one"));
    first.cut();
    // What it says from now on is heard by nobody.
    await until(() => upstream.response.destroyed);
    const second = await begin(one, { from: first.lastId });
    await until(() => second.messages.length >= 3);
    assert.deepEqual(second.messages.map(({ method }) => method?.split("/")[1]).sort(), ["prompts", "resources", "tools"]);
  });
});
