import assert from "node:assert/strict";
import { test } from "node:test";
import { patientMs } from "@mcp-failover/testkit";
import type { AttemptResult } from "../../src/control/port.ts";
import { attemptOf, describe, ok, play, refused, settled, start, warehouse } from "./fixture.ts";

const limited = (admission: string) => `${warehouse}    admission: ${admission}\n`;
const answered503: AttemptResult = { outcome: "hard", code: "http_5xx", executed: "unknown", message: "503", httpStatus: 503 };

test("Q1, Q2, Q5: calls beyond the upstream's limit wait, the critical ones in front; when one ends, one more runs", async (t) => {
  const fixture = await start(t, { yaml: limited("{ concurrency_max: 1, queue_max: 2, critical_tools: [set_stock] }") });
  const first = fixture.control.begin(describe(fixture));
  const attempt = await attemptOf(first);
  const order: string[] = [];
  const waiting = ["get_inventory", "set_stock"].map(async (tool) => {
    const call = fixture.control.begin(describe(fixture, { tool }));
    const next = await attemptOf(call);
    order.push(tool);
    next.done(ok);
    call.end("ok");
  });
  const list = fixture.control.begin(describe(fixture, { method: "tools/list", tool: null }));
  (await attemptOf(list)).done(ok);
  list.end("ok");
  await settled();
  assert.deepEqual(order, [], "both wait, while lists pass");
  attempt.done(ok);
  await settled();
  assert.deepEqual(order, [], "the call takes its room until it has ended");
  first.end("ok");
  await Promise.all(waiting);
  assert.deepEqual(order, ["set_stock", "get_inventory"]);
});

test("Q3: a full queue refuses with a typed error and a time; a critical call takes the place of another one", async (t) => {
  const fixture = await start(t, { yaml: limited("{ concurrency_max: 1, queue_max: 1, queue_ms_max: 60000, critical_agents: [pager] }") });
  const running = fixture.control.begin(describe(fixture));
  await attemptOf(running);
  const waits = fixture.control.begin(describe(fixture));
  const first = waits.next();
  const shed = fixture.control.begin(describe(fixture));
  assert.equal(await shed.next(), null);
  const { message, ...problem } = shed.problem();
  assert.deepEqual(problem, { code: "overloaded", retriable: true, retryAfterMs: 60_000, httpStatus: 503 });
  assert.match(message, /warehouse .* the call was not sent/);
  assert.equal(shed.legacy, null);
  const critical = fixture.control.begin(describe(fixture, { agent: "pager" }));
  const second = critical.next();
  assert.equal(await first, null, "it gave its place");
  assert.equal(waits.problem().code, "overloaded");
  running.end("ok");
  assert.notEqual(await second, null);
  for (const call of [waits, shed, critical]) call.end("error");
});

test("Q1: calls that wait run at once when the limit is raised or taken away, and no more of them than the new one allows", async (t) => {
  const fixture = await start(t, { yaml: limited("{ concurrency_max: 1, queue_max: 5, queue_ms_max: 60000 }") });
  const calls = Array.from({ length: 5 }, () => fixture.control.begin(describe(fixture)));
  let begun = 0;
  const turns = calls.map(async (call) => {
    if ((await call.next()) !== null) begun += 1;
  });
  await settled();
  assert.equal(begun, 1);
  await fixture.configure(limited("{ concurrency_max: 3, queue_max: 5, queue_ms_max: 60000 }"));
  assert.equal(begun, 3);
  await fixture.configure(warehouse);
  await Promise.all(turns);
  assert.equal(begun, 5);
  for (const call of calls) call.end("ok");
});

test("Q4: a call waits no longer than its own deadline or the queue's, and a client that goes away leaves the queue", async (t) => {
  const fixture = await start(t, { yaml: limited("{ concurrency_max: 1, queue_max: 1, queue_ms_max: 30 }") });
  const running = fixture.control.begin(describe(fixture));
  await attemptOf(running);
  const late = fixture.control.begin(describe(fixture));
  assert.equal(await late.next(), null);
  assert.equal(late.problem().code, "overloaded");
  const gone = fixture.control.begin(describe(fixture));
  const waits = gone.next();
  gone.end("error");
  assert.equal(await waits, null);
  const last = fixture.control.begin(describe(fixture));
  const turn = last.next();
  running.end("ok");
  assert.notEqual(await turn, null, "the place of the one that went away was free");
  const left = fixture.control.begin(describe(fixture));
  const came = left.next();
  last.end("ok");
  left.end("given_up");
  assert.equal(await came, null, "nothing is sent for a client that went away as its turn came");
  assert.notEqual(await fixture.control.begin(describe(fixture)).next(), null, "and its place is free");
});

test("Q6: an agent that calls too often is refused with 429 and told when; the others are not", async (t) => {
  const rates =
    "\nrouter: { agent_rates: { default: { calls_per_second: 1000 }, agents: { crawler: { calls_per_second: 2, burst: 3 } } } }\n";
  const fixture = await start(t, { yaml: warehouse + rates, frozen: true });
  const call = async (agent: string | null) => {
    const one = fixture.control.begin(describe(fixture, { agent }));
    const went = await play(one, () => ok);
    one.end("ok");
    return went.length === 1 ? "sent" : one.problem();
  };
  for (let index = 0; index < 3; index += 1) assert.equal(await call("crawler"), "sent");
  const problem = await call("crawler");
  assert.ok(typeof problem !== "string");
  assert.deepEqual([problem.code, problem.retryAfterMs, problem.httpStatus], ["overloaded", 500, 429]);
  assert.match(problem.message, /crawler calls too often/);
  assert.equal(await call("planner"), "sent");
  assert.equal(await call(null), "sent");
  fixture.clock.nowMs += 500;
  assert.equal(await call("crawler"), "sent");
});

const withLegacy = (more: string) =>
  `${warehouse.replace("get_inventory: { read_only: true }", 'get_inventory: { read_only: true, legacy: { url: "http://127.0.0.1:9/x" } }')}${more}`;

test("Q7: a tool that is rolled back is under the limits of its upstream and its agent, as it is at MCP", async (t) => {
  const limits = "    admission: { concurrency_max: 2, queue_max: 1, queue_ms_max: 60000 }\n";
  const rates = "router: { agent_rates: { default: { calls_per_second: 1000 }, agents: { loop: { calls_per_second: 1, burst: 2 } } } }\n";
  let running = 0;
  let most = 0;
  let open = Promise.withResolvers<void>();
  const fixture = await start(t, {
    yaml: withLegacy(limits + rates),
    frozen: true,
    callLegacy: async () => {
      running += 1;
      most = Math.max(most, running);
      await open.promise;
      running -= 1;
      return { content: [] };
    },
  });
  await fixture.rollback("tool", "get_inventory", 0, 1);
  const never = new AbortController().signal;
  const legacy = async (agent: string, signal = never) => {
    const call = fixture.control.begin(describe(fixture, { agent }));
    try {
      await call.legacy?.({}, signal, "op");
      return "served";
    } catch {
      assert.equal(call.legacy, null, "it is not offered again");
      return call.problem();
    } finally {
      call.end("ok");
    }
  };
  const served = [legacy("a"), legacy("b"), legacy("c")];
  await settled();
  assert.equal(running, 2, "the third one waits");
  const tooMuch = await legacy("d");
  assert.ok(typeof tooMuch !== "string");
  const { message, ...problem } = tooMuch;
  assert.deepEqual(problem, { code: "overloaded", retriable: true, retryAfterMs: 60_000, httpStatus: 503 });
  assert.match(message, /warehouse .* the call was not sent/);
  open.resolve();
  assert.deepEqual(await Promise.all(served), ["served", "served", "served"]);
  assert.equal(most, 2);

  const bursts = [await legacy("loop"), await legacy("loop"), await legacy("loop")];
  assert.deepEqual(
    bursts.map((one) => (typeof one === "string" ? one : one.httpStatus)),
    ["served", "served", 429],
  );

  open = Promise.withResolvers<void>();
  const inside = [legacy("a"), legacy("b")];
  const gone = new AbortController();
  const leaves = legacy("c", gone.signal);
  await settled();
  gone.abort();
  const left = await Promise.race([leaves, settled(patientMs(2000))]);
  assert.equal(typeof left, "object", "a client that goes away leaves the queue");
  const last = legacy("d");
  open.resolve();
  assert.deepEqual(await Promise.all([...inside, last]), ["served", "served", "served"]);
});

test("Q7: a call that falls back keeps the place that it has, and legacy takes nobody more in", async (t) => {
  const open = Promise.withResolvers<void>();
  const fixture = await start(t, {
    yaml: withLegacy("    admission: { concurrency_max: 1, queue_max: 1, queue_ms_max: 60000 }\n"),
    callLegacy: async () => {
      await open.promise;
      return { content: [] };
    },
  });
  const first = fixture.control.begin(describe(fixture));
  await play(first, () => refused);
  const fallsBack = first.legacy?.({}, new AbortController().signal, "op");
  const second = fixture.control.begin(describe(fixture));
  let isIn = false;
  const next = Promise.resolve(second.next()).then(() => {
    isIn = true;
  });
  await settled();
  assert.equal(isIn, false);
  open.resolve();
  await fallsBack;
  first.end("ok");
  await next;
  second.end("ok");
});

test("R19: a 503 to a write is no proof of anything, unless the operator says that this upstream means it so", async (t) => {
  const write = { tool: "ship_order" };
  const fixture = await start(t);
  const call = fixture.control.begin(describe(fixture, write));
  assert.deepEqual(await play(call, () => answered503), ["primary"]);
  assert.equal(call.problem().code, "outcome_unknown");
  call.end("error");
  await fixture.configure(`${warehouse}    retry: { not_executed_statuses: [503, 429] }\n`);
  let answers = 0;
  const marked = fixture.control.begin(describe(fixture, write));
  assert.deepEqual(await play(marked, () => (answers++ === 0 ? answered503 : ok)), ["primary", "primary"]);
  marked.end("ok");
  const never = fixture.control.begin(describe(fixture, write));
  const stillNo: AttemptResult = { outcome: "hard", code: "http_5xx", executed: "unknown", message: "502", httpStatus: 502 };
  assert.deepEqual(await play(never, () => stillNo), ["primary"]);
  assert.equal(never.problem().code, "outcome_unknown", "only the statuses that were named");
  never.end("error");
});

test("R19: a write that was refused with a status that means so runs once at the new active endpoint", async (t) => {
  const fixture = await start(t, { yaml: `${warehouse}    retry: { not_executed_statuses: [503] }\n` });
  for (let index = 0; index < 3; index += 1)
    await play(fixture.control.begin(describe(fixture)), (name) => (name === "primary" ? answered503 : ok));
  const call = fixture.control.begin(describe(fixture, { tool: "ship_order" }));
  const played = play(call, (name) => (name === "primary" ? answered503 : ok));
  await settled();
  await fixture.move("warehouse", "secondary", 1);
  const went = await played;
  assert.equal(went.at(-1), "secondary");
  assert.equal(went.filter((name) => name === "secondary").length, 1);
  call.end("ok");
});

test("C3, Q5: whatever order calls come, wait, end and go away in, nobody is left inside", async (t) => {
  const fixture = await start(t, { yaml: limited("{ concurrency_max: 2, queue_max: 3, queue_ms_max: 20 }") });
  for (let round = 0; round < 30; round += 1) {
    const calls = Array.from({ length: 8 }, () => fixture.control.begin(describe(fixture)));
    const turns = calls.map((call) => call.next());
    for (const [index, call] of calls.entries()) if ((index * 7 + round) % 3 !== 0) call.end("error");
    await settled();
    for (const call of calls) call.end("error");
    await Promise.all(turns);
  }
  const last = [0, 1].map(() => fixture.control.begin(describe(fixture)));
  for (const call of last) assert.ok(!(call.next() instanceof Promise), "at once");
  for (const call of last) call.end("ok");
});
