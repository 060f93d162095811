import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { AttemptResult, CallControl } from "../../src/control/port.ts";
import { attemptOf, describe, type Fixture, ok, play, refused, reset, settled, start, until, warehouse } from "./fixture.ts";

const write = { tool: "ship_order" };
const legacyToo = warehouse.replace(
  "set_stock:",
  'ship_order: { legacy: { url: "http://127.0.0.1:3/ship", method: POST } }\n      set_stock:',
);
const busyPool = (count: number) =>
  `upstreams:\n  pool:\n    kind: http\n    mode: pool\n    endpoints:\n${Array.from({ length: count }, (_, index) => `      - { name: e${index}, url: "http://127.0.0.1:${index + 1}", tier: 0 }\n`).join("")}`;

test("a read goes on to the standby when the active endpoint refuses, and the next one does not pay for the dead endpoint again", async (t) => {
  const fixture = await start(t);
  assert.deepEqual(await play(fixture.control.begin(describe(fixture)), (name) => (name === "primary" ? refused : ok)), [
    "primary",
    "secondary",
  ]);
  for (let call = 0; call < 20; call += 1) assert.deepEqual(await play(fixture.control.begin(describe(fixture)), () => ok), ["secondary"]);
  fixture.clock.nowMs += 1000;
  const trial = await attemptOf(fixture.control.begin(describe(fixture)));
  assert.equal(trial.endpoint.name, "primary", "after a second one call tries it");
  assert.equal(trial.connectMs, 450, "and does not wait long for the connect");
  assert.equal((await attemptOf(fixture.control.begin(describe(fixture)))).endpoint.name, "secondary", "while the others go elsewhere");
});

test("both endpoints dead: a typed error at once; one back: the very next call reaches it", async (t) => {
  const fixture = await start(t);
  const call = fixture.control.begin(describe(fixture));
  const begunAt = performance.now();
  assert.deepEqual(await play(call, () => refused), ["primary", "secondary"]);
  assert.ok(performance.now() - begunAt < 1200);
  const { code, message, retriable } = call.problem();
  assert.deepEqual([code, retriable], ["no_endpoint", true]);
  assert.match(message, /primary: refused; secondary: refused/);
  // Panic: both are remembered as dead, and both are tried all the same, each with a short connect.
  for (const alive of ["secondary", "primary"]) {
    const attempts: string[] = [];
    const next = fixture.control.begin(describe(fixture));
    for (let attempt = await next.next(); attempt; attempt = await next.next()) {
      attempts.push(attempt.endpoint.name);
      assert.ok(attempt.connectMs <= 450 || attempt.endpoint.name === alive);
      if (!attempt.done(attempt.endpoint.name === alive ? ok : refused).retry) break;
    }
    assert.equal(attempts.at(-1), alive);
    assert.deepEqual(await play(fixture.control.begin(describe(fixture)), (name) => (name === alive ? ok : refused)), [alive]);
    // Dead again before the next round.
    await play(fixture.control.begin(describe(fixture)), () => refused);
  }
});

test("what the router's own machine has run out of counts against no endpoint, and is told to the client", async (t) => {
  const fixture = await start(t);
  const lacking: AttemptResult = {
    outcome: "hard",
    code: "exhausted",
    executed: "no",
    message: "primary: this router has run out of files",
  };
  for (let time = 0; time < 20; time += 1) {
    const call = fixture.control.begin(describe(fixture, write));
    const went = await play(call, () => lacking);
    if (time === 0) assert.deepEqual(went, ["primary", "primary"], "nothing was sent, so a write is tried again");
    assert.match(call.problem().message, /this router has run out of files/);
  }
  assert.deepEqual(await play(fixture.control.begin(describe(fixture)), () => ok), ["primary"], "its local breaker is closed");
  fixture.clock.nowMs += 1000;
  await until("the good call is told", () => fixture.traffic.some(({ endpoints }) => endpoints.some((one) => one.ok > 0)));
  const hard = fixture.traffic.flatMap(({ endpoints }) => endpoints).reduce((sum, one) => sum + one.hard, 0);
  assert.equal(hard, 0, "and the fleet hears nothing against it");
});

test("both endpoints unhealthy by the fleet's word, and their breakers open: all are tried all the same", async (t) => {
  const fixture = await start(t);
  for (const endpoint of ["primary", "secondary"]) {
    await fixture.health("warehouse", endpoint, { status: "unhealthy", score: 0 });
    await fixture.breaker("warehouse", endpoint, { status: "open", openUntilMs: fixture.clock.nowMs + 60_000 });
  }
  assert.deepEqual(
    (await play(fixture.control.begin(describe(fixture)), (name) => (name === "secondary" ? ok : refused))).at(-1),
    "secondary",
  );
  assert.deepEqual(await play(fixture.control.begin(describe(fixture, write)), () => ok), ["primary"], "a write only at the active one");
});

test("the fleet's word moves reads: an unhealthy active endpoint, or an open breaker, sends them to the standby", async (t) => {
  const fixture = await start(t);
  await fixture.health("warehouse", "primary", { status: "unhealthy", score: 0 });
  assert.deepEqual(await play(fixture.control.begin(describe(fixture)), () => ok), ["secondary"]);
  await fixture.health("warehouse", "primary", { status: "healthy" });
  assert.deepEqual(await play(fixture.control.begin(describe(fixture)), () => ok), ["primary"]);
  await fixture.breaker("warehouse", "primary", { status: "open", openUntilMs: fixture.clock.nowMs + 60_000 });
  assert.deepEqual(await play(fixture.control.begin(describe(fixture)), () => ok), ["secondary"]);
});

test("a half-open breaker lets through exactly the permits of this router, and those of the next generation anew", async (t) => {
  const fixture = await start(t);
  const half = (generation: number) =>
    fixture.breaker("warehouse", "primary", {
      status: "half_open",
      generation,
      permits: [{ router: "router-1", calls: 3, expiresAtMs: fixture.clock.nowMs + 30_000 }],
    });
  const toPrimary = async (calls: number) => {
    let count = 0;
    for (let call = 0; call < calls; call += 1) {
      const went = await play(fixture.control.begin(describe(fixture)), () => ok);
      if (went[0] === "primary") count += 1;
    }
    return count;
  };
  await half(2);
  assert.equal(await toPrimary(10), 3);
  await half(3);
  assert.equal(await toPrimary(10), 3);
});

const anyResult: fc.Arbitrary<AttemptResult> = fc.constantFrom<AttemptResult>(
  ok,
  refused,
  refused,
  reset,
  { outcome: "hard", code: "timeout", executed: "unknown", message: "" },
  { outcome: "hard", code: "http_5xx", executed: "unknown", message: "" },
  { outcome: "hard", code: "other", executed: "no", message: "" },
  { outcome: "caller", httpStatus: 200, toolError: true },
  { outcome: "soft", httpStatus: 429, toolError: false },
  { outcome: "auth", httpStatus: 401, toolError: false },
  { outcome: "ineligible", message: "other era" },
  { outcome: "aborted" },
);
const anyRun = [
  fc.array(anyResult, { minLength: 6, maxLength: 6 }),
  fc.constantFrom("ship_order", "set_stock", "get_inventory"),
  fc.nat(30_000),
] as const;

/** Plays a call as a careless caller would, who asks again whatever was said, and checks every attempt. */
async function checkRun(
  fixture: Fixture,
  results: readonly AttemptResult[],
  tool: string,
  afterAttempt: () => Promise<void>,
): Promise<void> {
  const call = fixture.control.begin(describe(fixture, { tool }));
  let mayHaveRun = false;
  let attempts = 0;
  const next = async () => {
    const pending = call.next();
    if (pending instanceof Promise) await afterAttempt();
    return pending;
  };
  for (let attempt = await next(); attempt !== null; attempt = await next()) {
    assert.equal(mayHaveRun && call.safety === "unsafe", false, "sent again though it may have run");
    assert.ok(attempts < 3, "more attempts than allowed");
    const active = fixture.control.upstream("warehouse")?.active;
    if (call.safety !== "read_only") assert.equal(attempt.endpoint.name, active, "a write left the active endpoint");
    const result = results[attempts] ?? ok;
    attempts += 1;
    mayHaveRun ||= !((result.outcome === "hard" && result.executed === "no") || result.outcome === "ineligible");
    const { retry } = attempt.done(result);
    assert.deepEqual(attempt.done(ok), { retry: false }, "told twice");
    if (retry && call.safety === "unsafe") assert.equal(mayHaveRun, false);
    await afterAttempt();
  }
  if (call.safety === "unsafe" && mayHaveRun) assert.equal(call.legacy, null);
  call.end("ok");
}

test("A1: over any run of results an unsafe call is never sent after an attempt that may have run, and no call is sent more than three times", async (t) => {
  const fixture = await start(t, { yaml: `${legacyToo}failover: { automatic: false }\n` });
  await fc.assert(
    fc.asyncProperty(...anyRun, async (results, tool, laterMs) => {
      fixture.clock.nowMs += laterMs;
      await checkRun(fixture, results, tool, async () => undefined);
    }),
    { numRuns: 1000 },
  );
});

test("A1: the same holds when the fleet moves the upstream after each attempt", async (t) => {
  const fixture = await start(t, { yaml: legacyToo });
  let epoch = 0;
  await fc.assert(
    fc.asyncProperty(...anyRun, async (results, tool, laterMs) => {
      fixture.clock.nowMs += laterMs;
      await checkRun(fixture, results, tool, async () => {
        epoch += 1;
        await fixture.move("warehouse", epoch % 2 === 0 ? "primary" : "secondary", epoch);
      });
    }),
    { numRuns: 60 },
  );
});

test("A1: an attempt that was never told counts as one that may have run", async (t) => {
  const fixture = await start(t);
  const call = fixture.control.begin(describe(fixture, write));
  await attemptOf(call);
  assert.equal(await call.next(), null);
  assert.deepEqual([call.problem().code, call.problem().retriable], ["outcome_unknown", false]);
});

test("a write whose outcome is unknown says so; an idempotent one is sent again to the same endpoint, then says so and may be retried", async (t) => {
  const fixture = await start(t);
  const unsafe = fixture.control.begin(describe(fixture, write));
  assert.deepEqual(await play(unsafe, () => reset), ["primary"]);
  assert.deepEqual([unsafe.problem().code, unsafe.problem().retriable], ["outcome_unknown", false]);
  await play(fixture.control.begin(describe(fixture)), () => ok);
  const idempotent = fixture.control.begin(describe(fixture, { tool: "set_stock" }));
  assert.deepEqual(await play(idempotent, () => reset), ["primary", "primary"]);
  assert.deepEqual([idempotent.problem().code, idempotent.problem().retriable], ["outcome_unknown", true]);
});

test("an idempotent write survives a failover though its first attempt was reset", async (t) => {
  const fixture = await start(t);
  const call = fixture.control.begin(describe(fixture, { tool: "set_stock" }));
  assert.deepEqual((await attemptOf(call)).done(reset), { retry: true });
  assert.deepEqual((await attemptOf(call)).done(refused), { retry: true });
  const waiting = call.next();
  await fixture.move("warehouse", "secondary", 1);
  assert.equal((await waiting)?.endpoint.name, "secondary");
});

test("a write survives a failover: refused by the active endpoint, it waits for the next epoch and runs once, on the new one", async (t) => {
  const fixture = await start(t);
  const call = fixture.control.begin(describe(fixture, write));
  assert.deepEqual((await attemptOf(call)).done(refused), { retry: true });
  const waiting = call.next();
  assert.ok(waiting instanceof Promise);
  await settled(30);
  await fixture.move("warehouse", "secondary", 1);
  const attempt = await waiting;
  assert.equal(attempt?.endpoint.name, "secondary");
  assert.deepEqual(attempt?.done(ok), { retry: false });
});

test("a write does not wait in vain: nobody listens at the standby, the controller says it is failing, the upstream is held, or NATS is away", async (t) => {
  const timed = async (call: CallControl) => {
    (await attemptOf(call)).done(refused);
    const begunAt = performance.now();
    assert.equal(await call.next(), null);
    assert.equal(call.problem().code, "no_endpoint");
    return performance.now() - begunAt;
  };
  const dead = await start(t, { reaches: async () => "refused" });
  assert.ok((await timed(dead.control.begin(describe(dead, write)))) < 1200, "the standby refuses too");
  const silent = await start(t, { reaches: async () => "silent" });
  assert.ok((await timed(silent.control.begin(describe(silent, write)))) < 1200, "the standby is silent");

  const held = await start(t);
  await held.move("warehouse", "primary", 1, { held: true });
  assert.ok((await timed(held.control.begin(describe(held, write)))) < 1200, "held");

  const manual = await start(t, { yaml: `${warehouse}failover: { automatic: false }\n` });
  assert.ok((await timed(manual.control.begin(describe(manual, write)))) < 1200, "only moved by hand");

  const failing = await start(t);
  const call = failing.control.begin(describe(failing, write));
  (await attemptOf(call)).done(refused);
  const waiting = Promise.resolve(call.next());
  await failing.say("failover.failed", ["warehouse"], {
    service: "warehouse",
    timestamp: "2026-01-01T00:00:00.000Z",
    rule: "no_candidate",
    reason: "test",
    failing: true,
    certificate: { decider: "", rule: "", policyHash: "", nowMs: 0, folded: { AUDIT: null, SIGNALS: null }, input: null, rejected: [] },
  });
  assert.equal(await waiting, null);

  const cut = await start(t);
  const late = cut.control.begin(describe(cut, write));
  (await attemptOf(late)).done(refused);
  const alone = Promise.resolve(late.next());
  cut.cut();
  assert.equal(await alone, null);
});

test("C3: no more calls wait for the fleet than may: the next one is told at once", async (t) => {
  const fixture = await start(t);
  await play(fixture.control.begin(describe(fixture)), (name) => (name === "primary" ? refused : ok));
  const begin = () => fixture.control.begin(describe(fixture, write)).next();
  const waiting = Array.from({ length: 1000 }, begin);
  assert.ok(waiting.every((next) => next instanceof Promise));
  assert.ok(!(begin() instanceof Promise));
  await fixture.move("warehouse", "secondary", 1);
  for (const next of waiting) assert.equal((await next)?.endpoint.name, "secondary");
  assert.equal((await begin())?.endpoint.name, "secondary");
});

test("a write that waited in vain tries the active endpoint once more, so that a quick restart is survived", async (t) => {
  const fixture = await start(t);
  (await attemptOf(fixture.control.begin(describe(fixture)))).done(refused);
  const call = fixture.control.begin(describe(fixture, write));
  const waiting = call.next();
  assert.ok(waiting instanceof Promise, "the active endpoint is remembered as dead, so the write waits without trying it");
  fixture.clock.nowMs += 1500;
  await fixture.health("warehouse", "secondary", {});
  const attempt = await waiting;
  assert.equal(attempt?.endpoint.name, "primary");
  attempt?.done(ok);
});

test("A3: a client that goes away ends the wait, and gives back what the call held", async (t) => {
  const fixture = await start(t);
  const call = fixture.control.begin(describe(fixture, write));
  (await attemptOf(call)).done(refused);
  const waiting = Promise.resolve(call.next());
  await settled();
  const begunAt = performance.now();
  call.end("error");
  assert.equal(await waiting, null);
  assert.ok(performance.now() - begunAt < 1200);

  const open = fixture.control.begin(describe(fixture));
  await attemptOf(open);
  open.end("error");
  await until("no call is in flight", () => fixture.traffic.at(-1)?.endpoints.every(({ inFlight }) => inFlight === 0) ?? false);
  assert.equal(await open.next(), null);
});

test("A2: an attempt that is told twice is counted once, and gives back once", async (t) => {
  const fixture = await start(t);
  const call = fixture.control.begin(describe(fixture));
  const attempt = await attemptOf(call);
  assert.deepEqual(attempt.done(ok), { retry: false });
  assert.deepEqual(attempt.done(refused), { retry: false });
  call.end("ok");
  await until("the call is reported", () => fixture.traffic.some(({ endpoints }) => endpoints.length > 0));
  await settled(300);
  const seen = fixture.traffic.flatMap(({ endpoints }) => endpoints);
  assert.deepEqual([seen.reduce((sum, one) => sum + one.ok, 0), seen.reduce((sum, one) => sum + one.hard, 0)], [1, 0]);
  assert.deepEqual(await play(fixture.control.begin(describe(fixture)), () => ok), ["primary"], "the second word ejected nothing");
});

test("retries after results that prove nothing stay within the budget, however many calls fail", async (t) => {
  const fixture = await start(t, {
    frozen: true,
    yaml: `${warehouse}\n    breaker: { failure_threshold: 10000 }\n`.replace(/\n\n {4}breaker/, "\n    breaker"),
  });
  let attempts = 0;
  let overBudget = 0;
  const calls = 2000;
  for (let count = 0; count < calls; count += 1) {
    const call = fixture.control.begin(describe(fixture));
    attempts += (await play(call, () => reset)).length;
    if (call.problem().code === "budget") overBudget += 1;
  }
  const retries = attempts - calls;
  assert.ok(retries <= 0.2 * calls + 101, `${retries} retries of ${calls} calls`);
  assert.ok(retries >= 0.2 * calls, `${retries}: the budget is used`);
  assert.ok(overBudget > 0);
});

test("retries after 429 are within the budget, too: who sheds load is not the reason for more of it elsewhere", async (t) => {
  const fixture = await start(t, { frozen: true });
  let attempts = 0;
  const calls = 1000;
  const shed: AttemptResult = { outcome: "soft", httpStatus: 429, toolError: false };
  for (let count = 0; count < calls; count += 1)
    attempts += (await play(fixture.control.begin(describe(fixture)), (name) => (name === "primary" ? shed : ok))).length;
  const retries = attempts - calls;
  assert.ok(retries > 0.1 * calls && retries <= 0.2 * calls + 101, `${retries} retries of ${calls} calls`);
});

test("retries after a refusal are not charged: with a dead primary every one of many calls at once reaches the standby", async (t) => {
  const fixture = await start(t);
  const calls = Array.from({ length: 500 }, () => fixture.control.begin(describe(fixture)));
  const first = await Promise.all(calls.map(attemptOf));
  assert.ok(first.every(({ endpoint }) => endpoint.name === "primary"));
  assert.ok(first.every((attempt) => attempt.done(refused).retry));
  const second = await Promise.all(calls.map(attemptOf));
  assert.ok(second.every((attempt) => attempt.endpoint.name === "secondary" && !attempt.done(ok).retry));
});

test("R26: the deadline is the client's less a margin, or the policy's, and nothing is begun after it", async (t) => {
  const fixture = await start(t, { frozen: true });
  const begun = fixture.clock.nowMs;
  assert.equal(fixture.control.begin(describe(fixture)).deadlineMs, begun + 55_000);
  assert.equal(fixture.control.begin(describe(fixture, { deadlineMs: begun + 10_000 })).deadlineMs, begun + 9500);
  assert.equal(fixture.control.begin(describe(fixture, { deadlineMs: begun + 500 })).deadlineMs, begun + 400);
  const call = fixture.control.begin(describe(fixture, { deadlineMs: begun + 500 }));
  fixture.clock.nowMs += 400;
  assert.equal(await call.next(), null);
  assert.equal(call.problem().code, "deadline");
  const late = fixture.control.begin(describe(fixture));
  const attempt = await attemptOf(late);
  fixture.clock.nowMs += 60_000;
  assert.deepEqual(attempt.done(reset), { retry: false });
  assert.equal(late.problem().code, "deadline");
});

test("429 and 401 send a read to another good endpoint, never a write, and never into panic", async (t) => {
  const fixture = await start(t);
  const shed: AttemptResult = { outcome: "soft", httpStatus: 429, toolError: false, retryAfterMs: 1000 };
  const credential: AttemptResult = { outcome: "auth", httpStatus: 401, toolError: false };
  for (const result of [shed, credential]) {
    assert.deepEqual(await play(fixture.control.begin(describe(fixture)), (name) => (name === "primary" ? result : ok)), [
      "primary",
      "secondary",
    ]);
    assert.deepEqual(await play(fixture.control.begin(describe(fixture, write)), () => result), ["primary"]);
    fixture.clock.nowMs += 1001;
  }
  await fixture.health("warehouse", "secondary", { status: "unhealthy", score: 0 });
  assert.deepEqual(await play(fixture.control.begin(describe(fixture)), () => shed), ["primary"]);
  assert.deepEqual(await play(fixture.control.begin(describe(fixture)), () => ok), ["primary"], "an answer never ejects");
});

test("429 and 401 to what has to come before a call send a write on too, which was not sent, to another endpoint that may take it", async (t) => {
  const pool = warehouse.replace("kind: mcp\n", "kind: mcp\n    mode: pool\n").replace("tier: 1", "tier: 0");
  const fixture = await start(t, { yaml: pool });
  for (const endpoint of ["primary", "secondary"]) await fixture.health("warehouse", endpoint, {});
  const before = { executed: "no", toolError: false } as const;
  for (const result of [
    { outcome: "soft", httpStatus: 429, ...before },
    { outcome: "auth", httpStatus: 401, ...before },
  ] as const) {
    const { executed: _sent, ...sent } = result;
    let refusals = 0;
    const once = (refusal: AttemptResult) => (): AttemptResult => (refusals++ === 0 ? refusal : ok);
    assert.equal((await play(fixture.control.begin(describe(fixture, write)), once(result))).length, 2);
    refusals = 0;
    assert.equal((await play(fixture.control.begin(describe(fixture, write)), once(sent))).length, 1, "one that was sent may have run");
  }
});

test("an endpoint that cannot serve a call costs nothing: another is tried, and its health is not touched", async (t) => {
  const fixture = await start(t);
  const went = await play(fixture.control.begin(describe(fixture, write)), () => ({ outcome: "ineligible", message: "other era" }));
  assert.deepEqual(went, ["primary"]);
  assert.deepEqual(
    await play(fixture.control.begin(describe(fixture)), (name) => (name === "primary" ? { outcome: "ineligible", message: "" } : ok)),
    ["primary", "secondary"],
  );
  assert.deepEqual(await play(fixture.control.begin(describe(fixture)), () => ok), ["primary"]);
});

test("annotations are believed of a trusted upstream alone, and forgotten when the tool loses them", async (t) => {
  const fixture = await start(t);
  const safety = () => fixture.control.begin(describe(fixture, { tool: "count" })).safety;
  assert.equal(safety(), "unsafe");
  fixture.control.learnTools("warehouse", [
    { name: "count", annotations: { readOnlyHint: true } },
    { name: "get_inventory", annotations: {} },
  ]);
  assert.equal(safety(), "read_only");
  assert.equal(fixture.control.begin(describe(fixture)).safety, "read_only", "the operator's word stands");
  fixture.control.learnTools("warehouse", [{ name: "count" }]);
  assert.equal(safety(), "unsafe");
  fixture.control.learnTools("warehouse", [{ name: "count", annotations: { readOnlyHint: true } }]);
  await fixture.configure(warehouse.replace("trusted: true", "trusted: false"));
  assert.equal(safety(), "unsafe");
  await fixture.configure(warehouse);
  assert.equal(safety(), "unsafe", "what was said in trust before is not believed again");
  await fixture.configure(warehouse.replace("trusted: true", "trusted: false"));
  fixture.control.learnTools("warehouse", [{ name: "count", annotations: { readOnlyHint: true } }]);
  assert.equal(safety(), "unsafe");
});

test("a sticky session whose endpoint is not the active one any more is said to be lost for writes", async (t) => {
  const fixture = await start(t, { yaml: legacyToo.replace("trusted: true", "sessions: sticky") });
  await fixture.move("warehouse", "secondary", 1);
  const call = fixture.control.begin(describe(fixture, { ...write, sessionEndpoint: "primary" }));
  assert.equal(await call.next(), null);
  assert.deepEqual([call.problem().code, call.problem().retriable], ["session_lost", false]);
  assert.equal(call.legacy, null, "nor does its legacy API stand in for the session");
  assert.deepEqual(await play(fixture.control.begin(describe(fixture, { sessionEndpoint: "primary" })), () => ok), ["primary"]);
});

test("a pool spreads calls, and a session stays where it is", async (t) => {
  let random = 0;
  const fixture = await start(t, { yaml: busyPool(4), random: () => (random = (random + 0.618) % 1) });
  for (let index = 0; index < 4; index += 1) await fixture.health("pool", `e${index}`, {});
  const counts = new Map<string, number>();
  const get = { upstream: "pool", kind: "http", method: "GET", tool: null } as const;
  for (let call = 0; call < 400; call += 1) {
    const [went = ""] = await play(fixture.control.begin(describe(fixture, get)), () => ok);
    counts.set(went, (counts.get(went) ?? 0) + 1);
  }
  assert.equal(counts.size, 4);
  for (const [name, count] of counts) assert.ok(count > 60 && count < 140, `${name} got ${count} of 400`);
  assert.deepEqual(await play(fixture.control.begin(describe(fixture, { ...get, sessionEndpoint: "e2" })), () => ok), ["e2"]);
});

test("a call that was out at an endpoint's old address says nothing about the new one, however it ends", async (t) => {
  const fixture = await start(t);
  const old = await attemptOf(fixture.control.begin(describe(fixture)));
  await fixture.configure(warehouse.replace("127.0.0.1:1/", "127.0.0.1:9/"));
  old.done(refused);
  assert.deepEqual(await play(fixture.control.begin(describe(fixture)), () => ok), ["primary"]);
});

test("a deadline is kept by the clock that does not jump: one that is set takes no attempt away, and gives a fallback no more time", async (t) => {
  const hourMs = 3_600_000;
  const yaml = warehouse.replace(
    "get_inventory: { read_only: true }",
    'get_inventory: { read_only: true, legacy: { url: "http://127.0.0.1:9/legacy", method: GET } }',
  );
  const options = { yaml, aheadMs: 0, callLegacy: async ({ timeoutMs }: { timeoutMs: number }) => ({ content: [timeoutMs] }) };
  const fixture = await start(t, options);
  const forward = fixture.control.begin(describe(fixture));
  (await attemptOf(forward)).done(refused);
  options.aheadMs = hourMs;
  assert.equal((await attemptOf(forward)).endpoint.name, "secondary");
  forward.end("error");
  const back = fixture.control.begin(describe(fixture, { startedAtMs: fixture.clock.nowMs + hourMs }));
  const { fallbackDeadlineMs } = back;
  assert.equal((await play(back, () => refused)).length, 2);
  options.aheadMs = 0;
  const leftMs = fallbackDeadlineMs - fixture.clock.nowMs - hourMs;
  const served = await back.legacy?.({}, new AbortController().signal, "op-1");
  assert.ok(Number(served?.content[0]) <= leftMs + 1, `${served?.content[0]} of ${leftMs} ms`);
});
