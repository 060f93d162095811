import assert from "node:assert/strict";
import { test } from "node:test";
import { PipeSession } from "../src/bridge/pipe-session.ts";
import { AbortedByRouter, type UpstreamRequest } from "../src/upstream-client.ts";

/** A session on a line that only counts, with one call that its server tells progress of. */
async function begun() {
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
  const say = (value: Record<string, unknown>): void => session.message(value, JSON.stringify(value));
  const progress = { jsonrpc: "2.0", method: "notifications/progress", params: { progressToken: 1, progress: 1 } };
  say(progress);
  const response = await asked;
  const told: string[] = [];
  response.read({ data: () => false, end: () => told.push("end"), error: () => told.push("error") });
  say(progress);
  return { response, say, told, deadline, isPaused: () => paused, large: { jsonrpc: "2.0", id: 1, result: { x: "x".repeat(2_000_000) } } };
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
