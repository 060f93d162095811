import assert from "node:assert/strict";
import { request as httpRequest } from "node:http";
import { test } from "node:test";
import { LocalResponse } from "../src/bridge/local-exchange.ts";
import { PipeSession } from "../src/bridge/pipe-session.ts";
import { SharedPipe } from "../src/bridge/shared-pipe.ts";
import { AbortedByRouter, UpstreamError, type UpstreamRequest } from "../src/upstream-client.ts";
import { initializeBody, post, toolCall, until } from "./support/clients.ts";
import { fakeControl } from "./support/fake-control.ts";
import { startTestRouter } from "./support/router.ts";

/** A session on a line that only counts. */
function line() {
  let paused = false;
  const pipe = {
    send: async () => undefined,
    pause: () => {
      paused = true;
    },
    resume: () => {
      paused = false;
    },
    close: () => undefined,
  };
  const limits = { pendingMax: 9, waitingMax: 9, waitingCharsMax: 9999, nowMs: () => 0, onEnd: () => undefined };
  const session = new PipeSession("s", limits);
  session.attach(pipe);
  const say = (value: Record<string, unknown>): void => session.message(value, JSON.stringify(value));
  return { session, say, isPaused: () => paused };
}

/** The same with one call that its server tells progress of. */
async function begun() {
  const { session, say, isPaused } = line();
  const deadline = new AbortController();
  const call = { jsonrpc: "2.0", id: 1, method: "tools/call", params: { name: "x", _meta: { progressToken: 1 } } };
  const request = {
    method: "POST",
    headers: {},
    body: Buffer.from(JSON.stringify(call)),
    signal: deadline.signal,
  } as never as UpstreamRequest;
  const asked = session.handle(request);
  await Promise.resolve();
  const progress = { jsonrpc: "2.0", method: "notifications/progress", params: { progressToken: 1, progress: 1 } };
  say(progress);
  const response = await asked;
  const told: string[] = [];
  response.read({ data: () => false, end: () => told.push("end"), error: () => told.push("error") });
  say(progress);
  return { response, say, told, deadline, isPaused, large: { jsonrpc: "2.0", id: 1, result: { x: "x".repeat(2_000_000) } } };
}

test("R25: a line that waits for a slow reader is read on when its call is over, at the deadline as after the answer", async () => {
  const late = await begun();
  late.say({ ...late.large, id: 2, method: "roots/list" });
  assert.equal(late.isPaused(), true);
  late.deadline.abort(new AbortedByRouter("deadline"));
  assert.deepEqual(late.told, ["error"]);
  assert.equal(late.isPaused(), false);

  const answered = await begun();
  answered.say(answered.large);
  for (let turns = 0; turns < 5; turns += 1) answered.response.resume();
  assert.deepEqual(answered.told, ["end"]);
  assert.equal(answered.isPaused(), false);
});

test("B3: a client that does not read its own stream has its answers all the same, and of what is said there no more is kept than may be", async () => {
  const { session, say, isPaused } = line();
  const stream = await session.handle({ method: "GET", headers: {} } as never as UpstreamRequest);
  let read = 0;
  let isSlow = true;
  stream.read({
    data: (chunk) => {
      read += chunk.length;
      return !isSlow;
    },
    end: () => undefined,
    error: () => undefined,
  });
  const shout = { jsonrpc: "2.0", method: "notifications/resources/updated", params: { uri: "x".repeat(100_000) } };
  say(shout);
  assert.equal(isPaused(), true);
  const asked = session.handle({
    method: "POST",
    headers: {},
    body: Buffer.from(JSON.stringify(toolCall(1, "x"))),
  } as never as UpstreamRequest);
  await Promise.resolve();
  assert.equal(isPaused(), false);
  for (let count = 0; count < 30; count += 1) say(shout);
  assert.equal(isPaused(), false);
  assert.ok(session.dropped >= 18, `${session.dropped} were dropped`);
  say({ jsonrpc: "2.0", id: 1, result: {} });
  assert.match((await (await asked).collect(1000)).toString(), /"result"/);
  say(shout);
  assert.equal(isPaused(), true, "nobody waits for anything else of the line");
  isSlow = false;
  stream.resume();
  assert.equal(isPaused(), false);
  assert.ok(read > 1_000_000 && read < 2_000_000, `${read}`);
});

test("M4: a call on a shared line is given up for a client that reads slowly only once as much waits for it as may", async () => {
  const sent: string[] = [];
  const shared = new SharedPipe(9, () => undefined);
  shared.attach({
    send: async (text: string) => void sent.push(text),
    pause: () => undefined,
    resume: () => undefined,
    close: () => undefined,
  });
  const call = { jsonrpc: "2.0", id: 1, method: "tools/call", params: { name: "x", _meta: { progressToken: "mine" } } };
  const asked = shared.handle({ method: "POST", headers: {}, body: Buffer.from(JSON.stringify(call)) } as never as UpstreamRequest);
  await Promise.resolve();
  const { id } = JSON.parse(sent[0] ?? "") as { id: string };
  const tell = (): void =>
    shared.message({
      jsonrpc: "2.0",
      method: "notifications/progress",
      params: { progressToken: id, progress: 1, message: "x".repeat(100_000) },
    });
  tell();
  const response = await asked;
  let error: string | null = null;
  response.read({ data: () => false, end: () => undefined, error: ({ message }) => (error = message) });
  for (let count = 0; count < 8; count += 1) tell();
  assert.equal(error, null);
  for (let count = 0; count < 8; count += 1) tell();
  assert.match(error ?? "", /not read fast enough/);
  assert.match(sent.at(-1) ?? "", /notifications\/cancelled/);
});

test("U2: a request whose asker has left before it was written is not written at all, which is proof, and takes no place", async () => {
  const sent: string[] = [];
  const pipe = {
    send: async (text: string) => void sent.push(text),
    pause: () => undefined,
    resume: () => undefined,
    close: () => undefined,
  };
  const limits = { pendingMax: 2, waitingMax: 9, waitingCharsMax: 9999, nowMs: () => 0, onEnd: () => undefined };
  const shared = new SharedPipe(2, () => undefined);
  const session = new PipeSession("s", limits);
  for (const line of [shared, session]) {
    line.attach(pipe);
    for (let number = 1; number <= 3; number += 1) {
      const left = AbortSignal.abort(new AbortedByRouter("client_gone"));
      const body = Buffer.from(JSON.stringify(toolCall(number, "write")));
      await assert.rejects(
        line.handle({ method: "POST", headers: {}, body, signal: left } as never as UpstreamRequest),
        (error) => error instanceof UpstreamError && !error.written,
      );
    }
    assert.equal(line.inFlight, 0);
  }
  assert.deepEqual(sent, []);
});

test("B5: an answer that comes after its client has left is not taken for that of a later request with the same id", async () => {
  const { session, say } = line();
  const ask = (signal?: AbortSignal) => {
    const body = Buffer.from(JSON.stringify(toolCall(7, "write")));
    return session.handle({ method: "POST", headers: {}, body, signal } as never as UpstreamRequest);
  };
  const left = new AbortController();
  const first = assert.rejects(ask(left.signal), UpstreamError);
  await Promise.resolve();
  left.abort(new AbortedByRouter("client_gone"));
  await first;
  assert.equal((await ask()).status, 400);
  say({ jsonrpc: "2.0", id: 7, result: { of: "the first" } });
  const second = ask();
  await Promise.resolve();
  say({ jsonrpc: "2.0", id: 7, result: { of: "the second" } });
  assert.match((await (await second).collect(1000)).toString(), /the second/);
  // One that the router gave up may come again: it is the same request.
  const again = new AbortController();
  const given = assert.rejects(ask(again.signal), UpstreamError);
  await Promise.resolve();
  again.abort(new AbortedByRouter("given_up"));
  await given;
  const last = ask();
  await Promise.resolve();
  say({ jsonrpc: "2.0", id: 7, result: { of: "the last" } });
  assert.match((await (await last).collect(1000)).toString(), /the last/);
});

test("R13: a call of the modern era whose client leaves while it waits for its turn is sent nowhere", async (t) => {
  const methods: string[] = [];
  const answer = (body: Buffer | null) => {
    const { id, method } = JSON.parse(String(body)) as { id: unknown; method: string };
    methods.push(method);
    return LocalResponse.whole(200, { "content-type": "application/json" }, JSON.stringify({ jsonrpc: "2.0", id, result: {} }));
  };
  const stdio = { send: async ({ body }: UpstreamRequest) => answer(body), configure: () => undefined, close: async () => undefined };
  const control = fakeControl([
    { name: "one", url: "stdio://one/x", via: { kind: "stdio", command: "x", args: [], env: {}, cwd: undefined, sessionsMax: undefined } },
  ]);
  const { begin } = control;
  const turn = Promise.withResolvers<void>();
  let waits = 0;
  control.begin = (call) => {
    const begun = begin(call);
    if (call.tool !== "write") return begun;
    waits += 1;
    return { ...begun, next: () => turn.promise.then(() => begun.next()) };
  };
  const router = await startTestRouter(control, { bridges: { stdio } });
  t.after(() => router.close(0));
  const headers = {
    "content-type": "application/json",
    accept: "application/json, text/event-stream",
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "tools/call",
    "mcp-name": "write",
  };
  const call = toolCall(1, "write") as { params: Record<string, unknown> };
  call.params["_meta"] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": { name: "raw", version: "1" },
    "io.modelcontextprotocol/clientCapabilities": {},
  };
  const client = httpRequest(router.mcpUrl, { method: "POST", headers });
  client.on("error", () => undefined);
  client.end(JSON.stringify(call));
  await until(() => waits === 1);
  const left = new Promise((resolve) => client.once("close", resolve));
  client.destroy();
  await left;
  // The control hears of it at once, not when its turn has come.
  await until(() => control.ended.includes("given_up"));
  turn.resolve();
  for (let turns = 0; turns < 5; turns += 1) await post(router.mcpUrl, initializeBody);
  assert.deepEqual(
    control.told.filter(({ tool }) => tool === "write"),
    [],
  );
  assert.ok(!methods.includes("tools/call"), methods.join(" "));
  assert.deepEqual(router.problems, []);
});
