import assert from "node:assert/strict";
import { test } from "node:test";
import type { Listener } from "../src/aggregate/inner-answer.ts";
import type { InnerSession } from "../src/aggregate/inner-session.ts";
import { Link, Links } from "../src/aggregate/links.ts";
import { SessionCall, SessionCalls } from "../src/aggregate/session-call.ts";
import { anybody, type Principal } from "../src/identity/principal.ts";

/** A link whose one upstream has begun its session and takes or refuses what it is asked. */
function played() {
  const asked: string[] = [];
  const state = { fails: false };
  const inner = {
    begun: true,
    request: ({ method, params }: { method: string; params: { uri: string } }) => {
      asked.push(`${method} ${params.uri}`);
      return state.fails ? Promise.reject(new Error("connection reset")) : Promise.resolve();
    },
  } as unknown as InnerSession;
  class PlayedLink extends Link {
    override with(): InnerSession {
      return inner;
    }
  }
  const unused = undefined as never;
  return { link: new PlayedLink(unused, {}, unused, "k"), asked, state, inner: inner as unknown as { begun: boolean } };
}

test("a subscription that could not be asked for is asked for again, by whoever listens next", async () => {
  const { link, asked, state } = played();
  state.fails = true;
  await assert.rejects(link.subscribe("u", "note://one", 1), /reset/);
  state.fails = false;
  await link.subscribe("u", "note://one", 1);
  assert.deepEqual(asked, ["resources/subscribe note://one", "resources/subscribe note://one"]);
});

test("the first listener of a resource subscribes to it, the last one ends that", async () => {
  const { link, asked } = played();
  for (const by of [1, 1, -1, -1, 1] as const) await link.subscribe("u", "note://one", by);
  assert.deepEqual(asked, ["resources/subscribe note://one", "resources/unsubscribe note://one", "resources/subscribe note://one"]);
});

const agent = (name: string): Principal => ({ ...anybody, id: `agent:${name}` });
const silent = { tell: () => Promise.resolve() } as unknown as InnerSession;

test("a resource whose last listener left while the session was lost is subscribed to again in the next one", async () => {
  const { link, asked, inner } = played();
  await link.subscribe("u", "note://one", 1);
  inner.begun = false;
  await link.subscribe("u", "note://one", -1);
  inner.begun = true;
  await link.subscribe("u", "note://one", 1);
  assert.deepEqual(asked, ["resources/subscribe note://one", "resources/subscribe note://one"]);
});

test("K3: an agent that begins many sessions pushes out its own, and none of another agent", () => {
  const links = new Links({ nowMs: () => 0 } as never, undefined as never);
  const [one, other] = [agent("one"), agent("other")];
  const link = links.of(one, {}, {});
  const pushed = links.of(other, { name: "0" }, {});
  for (let number = 1; number <= 1100; number += 1) links.of(other, { name: `${number}` }, {});
  assert.equal(links.of(one, {}, {}), link);
  assert.notEqual(links.of(other, { name: "0" }, {}), pushed);
});

test("K2, Q1: a session is kept for as long as a call in it waits for its client, and for no longer", () => {
  let nowMs = 0;
  const links = new Links({ nowMs: () => nowMs } as never, undefined as never);
  const calls = new SessionCalls();
  const link = links.of(anybody, {}, {});
  const handle = calls.hold(new SessionCall(link, "a tool", silent, calls));
  nowMs = 11 * 60_000;
  links.sweep();
  for (let number = 0; number < 1100; number += 1) links.of(anybody, { name: `${number}` }, {});
  assert.equal(links.of(anybody, {}, {}), link);
  assert.ok(calls.take(handle, link.key, "a tool"));
  nowMs = 22 * 60_000;
  links.sweep();
  assert.notEqual(links.of(anybody, {}, {}), link);
});

test("Q5: a server that asks and asks while its client is away is told that it asks too much, and the call goes on", () => {
  const refused: unknown[] = [];
  let hear: Listener = () => undefined;
  const inner = {
    upstream: "u",
    tell: async (message: { error?: unknown }) => void (message.error !== undefined && refused.push(message)),
    request: (_message: object, _headers: object, listen: Listener) => {
      hear = listen;
      return new Promise<void>(() => undefined);
    },
  } as unknown as InnerSession;
  const links = new Links({ nowMs: () => 0 } as never, undefined as never);
  const calls = new SessionCalls();
  const call = new SessionCall(links.of(anybody, {}, {}), "a tool", inner, calls);
  const answers: { result?: { inputRequests?: object; requestState?: string; content?: string } }[] = [];
  const listener = { notify: () => true, finish: (answer: object) => void answers.push(answer) };
  call.begin("tools/call", {}, undefined, {}, listener);
  for (let id = 0; id < 100; id += 1) {
    const value = { jsonrpc: "2.0", id, method: "elicitation/create", params: {} };
    hear({ kind: "request", id, method: "elicitation/create", value } as never, value, () => undefined);
  }
  assert.equal(refused.length, 100 - 32);
  assert.match(JSON.stringify(refused[0]), /"id":32,"error":\{"code":-32000,"message":"[^"]*32/);
  const handle = answers[0]?.result?.requestState ?? "";
  const back = calls.take(handle, call.link.key, "a tool");
  back?.goOn({ "question-1": { action: "accept" } }, listener);
  assert.equal(Object.keys(answers[1]?.result?.inputRequests ?? {}).length, 31, "those that were taken");
  hear({ kind: "answer", id: "x" } as never, { result: { content: "done" } }, () => undefined);
  calls.take(answers[1]?.result?.requestState ?? "", call.link.key, "a tool")?.goOn({}, listener);
  assert.equal(answers[2]?.result?.content, "done");
});

test("Q4: an agent with many questions open loses the oldest of its own, and another agent none", () => {
  const links = new Links({ nowMs: () => 0 } as never, undefined as never);
  const calls = new SessionCalls();
  const holdOne = (link: Link): string => calls.hold(new SessionCall(link, "a tool", silent, calls));
  const [one, other] = [links.of(agent("one"), {}, {}), links.of(agent("other"), {}, {})];
  const kept = holdOne(one);
  const [first = "", ...rest] = Array.from({ length: 1100 }, () => holdOne(other));
  assert.ok(calls.take(kept, one.key, "a tool"));
  assert.equal(calls.take(first, other.key, "a tool"), null);
  assert.ok(calls.take(rest.at(-1) ?? "", other.key, "a tool"));
  calls.close();
  assert.equal(other.busy, false);
});
