import assert from "node:assert/strict";
import { test } from "node:test";
import { anybody } from "../src/identity/principal.ts";
import { createMemoryDirectory } from "../src/mcp/directory.ts";
import type { McpContext } from "../src/mcp/inbound.ts";
import { createSealer } from "../src/mcp/seal.ts";
import { newHold } from "../src/mcp/session.ts";
import { createSessionTable } from "../src/mcp/session-table.ts";
import { holdIdleMs, leaveOldHolds } from "../src/mcp/sweep.ts";
import { fakeControl } from "./support/fake-control.ts";

const sealed = {
  upstream: "fake",
  version: "2025-11-25",
  clientParams: {},
  capabilities: [],
  endpoint: "a",
  upstreamSession: "at-a",
  issuedAtMs: 0,
};
const sealer = createSealer("a key of at least sixteen characters");

test("R5: a server that a session has left is told, once it is surely idle and not before", async () => {
  let nowMs = 0;
  const control = fakeControl([
    { name: "a", url: "http://127.0.0.1:1" },
    { name: "b", url: "http://127.0.0.1:2" },
  ]);
  const sessions = createSessionTable({ sealer, sessionsMax: 10, agentSessionsMax: 10, idleMs: 1e9, nowMs: () => nowMs });
  const directory = createMemoryDirectory();
  const told: string[] = [];
  const context = {
    control,
    sessions,
    directory,
    nowMs: () => nowMs,
    replay: { forget: (_s: unknown, endpoint: { name: string }) => told.push(endpoint.name) },
  } as unknown as McpContext;
  const session = sessions.start({ ...sealed, key: "k" }, "");
  session.holds.set("b", newHold("b", "at-b", 0));
  await directory.change("k", (record) => ({ ...record, holds: { a: "at-a", b: "at-b" } }));
  session.home = "b";

  nowMs = holdIdleMs + 1;
  control.active = "a";
  leaveOldHolds(context);
  assert.deepEqual(told, [], "neither the active endpoint nor the session's home");
  control.active = "b";
  const old = session.holds.get("a");
  assert.ok(old);
  old.inFlight = 1;
  leaveOldHolds(context);
  assert.deepEqual(told, [], "a call still runs there");
  old.inFlight = 0;
  old.usedAtMs = nowMs;
  leaveOldHolds(context);
  assert.deepEqual(told, [], "a call has just ended there");
  old.usedAtMs = 0;
  control.view = { ...control.view, sessions: "sticky" };
  leaveOldHolds(context);
  assert.deepEqual(told, [], "a sticky session is never left");
  control.view = { ...control.view, sessions: "replayable" };
  leaveOldHolds(context);
  assert.deepEqual(told, ["a"]);
  assert.deepEqual([...session.holds.keys()], ["b"]);
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual((await directory.read("k"))?.holds, { b: "at-b" });
});

test("sessions leave the memory by age and by number, but never busy ones, and come back by their id", () => {
  let nowMs = 0;
  const sessions = createSessionTable({ sealer, sessionsMax: 3, agentSessionsMax: 3, idleMs: 1000, nowMs: () => nowMs });
  const busy = sessions.start({ ...sealed, key: "busy" }, "");
  busy.running.set(1, newHold("a", "at-a", 0));
  const ids = ["1", "2", "3"].map((key) => sessions.start({ ...sealed, key }, "").id);
  assert.equal(sessions.size, 3);
  assert.ok([...sessions.all()].includes(busy));
  nowMs = 2000;
  sessions.sweep();
  assert.deepEqual([...sessions.all()], [busy]);
  for (const id of ids) assert.notEqual(sessions.open(id, "fake", anybody), null);
  assert.ok([...sessions.all()].some(({ id }) => id === ids[2]));
  assert.equal(sessions.open(ids[2] as string, "other", anybody), null, "an id in memory is good for its own upstream alone");
  assert.equal(sessions.open(ids[0] as string, "other", anybody), null, "an id is good for its own upstream alone");
  const ended = sessions.open(ids[0] as string, "fake", anybody);
  assert.ok(ended);
  sessions.end(ended);
  assert.equal(sessions.open(ids[0] as string, "fake", anybody), null);
});
