import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { createMemoryDirectory } from "../src/mcp/directory.ts";
import { initializeBody, post, toolCall, until } from "./support/clients.ts";
import { fakeControl } from "./support/fake-control.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";
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
  let one: TestRouter;
  let two: TestRouter;
  let session: Record<string, string>;
  const open: Heard[] = [];

  beforeEach(async () => {
    a = await startScriptedServer("a");
    const directory = createMemoryDirectory();
    const control = () => controlOf({ a: fakeControl([{ name: "only", url: a.url }]) });
    one = await startTestRouter(control(), { directory });
    two = await startTestRouter(control(), { directory });
    session = { "mcp-session-id": (await post(`${one.url}/mcp`, initializeBody)).headers.get("mcp-session-id") ?? "" };
  });
  afterEach(async () => {
    for (const stream of open.splice(0)) stream.cut();
    for (const router of [one, two]) await router.close(0);
    await a.kill();
    assert.deepEqual([...one.problems, ...two.problems], []);
  });

  /** A call where there is a body, else a GET. */
  const begin = async (router: TestRouter, { body, from }: { body?: object; from?: string }): Promise<Heard> => {
    const abort = new AbortController();
    const response = await fetch(`${router.url}/mcp`, {
      method: body === undefined ? "GET" : "POST",
      headers: {
        accept: "application/json, text/event-stream",
        ...session,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...(from === undefined ? {} : { "last-event-id": from }),
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

  test("R9: comes back to its own stream while the old connection hangs, and gets what it was told there; elsewhere it hears that all may have changed", async () => {
    await post(`${one.url}/mcp`, toolCall(2, "a__x"), session);
    const streams: Scripted[] = [];
    a.answer = (asked) => {
      if (asked.method !== "GET") return false;
      stream(asked);
      streams.push(asked);
      return true;
    };
    const say = (data: string): void => {
      const asked = streams.find(({ response }) => !response.destroyed);
      if (asked !== undefined) stream(asked, { method: "notifications/message", params: { level: "error", data } });
    };
    const first = await begin(one, {});
    await until(() => streams.length > 0);
    say("one");
    await until(() => first.text.includes("one"));
    const from = first.lastId;
    say("two");
    await until(() => first.text.includes("two"));
    assert.equal((await begin(one, {})).status, 409);
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
});
