import assert from "node:assert/strict";
import { test } from "node:test";
import { patientMs } from "@mcp-failover/testkit";
import { attemptOf, describe, type Fixture, ok, play, refused, reset, settled, start, until } from "./fixture.ts";

/** The README's smallest case: one endpoint, nowhere else to go. */
const alone = `
upstreams:
  warehouse:
    kind: mcp
    endpoints: [{ name: primary, url: "http://127.0.0.1:1/mcp", tier: 0 }]
    tools:
      get_inventory: { read_only: true }
`;
const write = { tool: "ship_order" } as const;
const half = (fixture: Fixture, generation: number, calls: number, router = "router-1") =>
  fixture.breaker("warehouse", "primary", {
    status: "half_open",
    generation,
    permits: [{ router, calls, expiresAtMs: fixture.clock.nowMs + 30_000 }],
  });
const begin = (fixture: Fixture, given: object = {}) => fixture.control.begin(describe(fixture, given));

test("with nowhere else to go, a call beyond the permit waits, and goes on at once when the fleet has closed the breaker", async (t) => {
  const fixture = await start(t, { yaml: alone });
  await half(fixture, 2, 2);
  const first = [await attemptOf(begin(fixture)), await attemptOf(begin(fixture, write))];
  const surplus = [begin(fixture), begin(fixture, write)].map((call) => ({ call, next: Promise.resolve(call.next()) }));
  let went = 0;
  for (const { next } of surplus) next.then(() => (went += 1)).catch(() => undefined);
  await settled(60);
  assert.equal(went, 0, "the permit is used");
  for (const attempt of first) attempt.done(ok);
  await settled(60);
  assert.equal(went, 0, "answers do not give permits back: the fleet decides");
  await fixture.breaker("warehouse", "primary", { status: "closed", generation: 3 });
  for (const { call, next } of surplus) {
    assert.equal((await next)?.endpoint.name, "primary");
    call.end("ok");
  }
});

test("C3: no more calls wait for a verdict than may: the next one is told at once", async (t) => {
  const fixture = await start(t, { yaml: alone });
  await half(fixture, 2, 1);
  await attemptOf(begin(fixture));
  const waiting = Array.from({ length: 1000 }, () => begin(fixture).next());
  assert.ok(waiting.every((next) => next instanceof Promise));
  assert.ok(!(begin(fixture).next() instanceof Promise));
  await fixture.breaker("warehouse", "primary", { status: "closed", generation: 3 });
  for (const next of waiting) assert.equal((await next)?.endpoint.name, "primary");
});

test("where no verdict comes, it ends after the wait with a reason that says so; after a failed trial it is panic again", async (t) => {
  const fixture = await start(t, { yaml: alone });
  await half(fixture, 2, 1);
  (await attemptOf(begin(fixture))).done(reset);
  const beganMs = Date.now();
  const call = begin(fixture);
  assert.equal(await call.next(), null);
  const tookMs = Date.now() - beganMs;
  assert.ok(tookMs >= 1400 && tookMs < patientMs(5000), `${tookMs} ms`);
  assert.deepEqual([call.problem().code, call.problem().retriable], ["no_endpoint", true]);
  assert.match(call.problem().message, /half open, without a permit for this router/);
  await fixture.breaker("warehouse", "primary", { status: "open", generation: 3, openUntilMs: fixture.clock.nowMs + 5000 });
  assert.deepEqual(await play(begin(fixture), () => ok), ["primary"], "the last endpoint is never put out of reach");
});

for (const aheadMs of [60_000, -60_000]) {
  test(`a router whose clock is ${aheadMs} ms ahead tries an open breaker when the store's time for that has come, not by its own`, async (t) => {
    const fixture = await start(t, { aheadMs, frozen: true });
    await fixture.breaker("warehouse", "primary", { status: "open", generation: 2, openUntilMs: fixture.clock.nowMs + 20_000 });
    const goesTo = () => play(begin(fixture, { startedAtMs: fixture.clock.nowMs + aheadMs }), () => ok);
    assert.deepEqual(await goesTo(), ["secondary"]);
    fixture.clock.nowMs += 19_000;
    assert.deepEqual(await goesTo(), ["secondary"]);
    // Nobody moved it on for some seconds after its time: its keepers are gone.
    fixture.clock.nowMs += 8000;
    assert.deepEqual(await goesTo(), ["primary"]);
  });
}

test("a permit of a call that was never made goes to the next one; one of an older generation is worth nothing", async (t) => {
  const fixture = await start(t);
  await half(fixture, 2, 1);
  (await attemptOf(begin(fixture))).done({ outcome: "ineligible", message: "other era" });
  const taken = await attemptOf(begin(fixture));
  assert.equal(taken.endpoint.name, "primary");
  assert.equal((await attemptOf(begin(fixture))).endpoint.name, "secondary");
  await half(fixture, 3, 1);
  taken.done({ outcome: "aborted" });
  assert.equal((await attemptOf(begin(fixture))).endpoint.name, "primary");
  assert.equal((await attemptOf(begin(fixture))).endpoint.name, "secondary", "the old permit was not given back to the new generation");
});

test("two routers together send no more calls through a half-open breaker than the fleet gave out", async (t) => {
  const fixture = await start(t);
  const second = await fixture.again({ instance: "router-2" });
  await fixture.breaker("warehouse", "primary", {
    status: "half_open",
    generation: 2,
    permits: [
      { router: "router-1", calls: 2, expiresAtMs: fixture.clock.nowMs + 30_000 },
      { router: "router-2", calls: 1, expiresAtMs: fixture.clock.nowMs + 30_000 },
    ],
  });
  const went = { primary: 0, secondary: 0 } as Record<string, number>;
  for (let call = 0; call < 40; call += 1) {
    const [name] = await play((call % 2 === 0 ? fixture.control : second).begin(describe(fixture)), () => ok);
    if (name !== undefined) went[name] = (went[name] ?? 0) + 1;
  }
  assert.deepEqual(went, { primary: 3, secondary: 37 });
});

test("a read whose own time is short waits half of it for a verdict, and is tried where there is a last resort", async (t) => {
  const fixture = await start(t);
  await fixture.breaker("warehouse", "primary", {
    status: "half_open",
    generation: 2,
    permits: [{ router: "router-1", calls: 1, expiresAtMs: fixture.clock.nowMs + 30_000 }],
  });
  await fixture.breaker("warehouse", "secondary", { status: "open", generation: 2, openUntilMs: fixture.clock.nowMs + 60_000 });
  const used = await attemptOf(begin(fixture));
  assert.equal(used.endpoint.name, "primary");
  const hurried = begin(fixture, { deadlineMs: fixture.clock.nowMs + patientMs(1000) });
  assert.equal((await attemptOf(hurried)).endpoint.name, "secondary");
});

test("a router that came after the permits were given has one call out at a time: with nowhere else to go it would refuse everything for 30 s", async (t) => {
  const fixture = await start(t, { yaml: alone });
  await half(fixture, 2, 10, "router-2");
  const first = await attemptOf(begin(fixture));
  assert.equal(first.endpoint.name, "primary");
  const second = begin(fixture);
  assert.equal(await second.next(), null, "not beside it");
  assert.match(second.problem().message, /half open, without a permit for this router/);
  first.done(ok);
  assert.deepEqual(await play(begin(fixture), () => ok), ["primary"]);
});

test("without the log the permits go on as local ones: one trial at a time, and three answers close it for this router", async (t) => {
  const fixture = await start(t);
  await half(fixture, 2, 1);
  fixture.cut();
  const next = async () => attemptOf(begin(fixture));
  (await next()).done(ok);
  const trial = await next();
  assert.equal(trial.endpoint.name, "primary");
  assert.equal((await next()).endpoint.name, "secondary", "no second trial beside it");
  trial.done(ok);
  (await next()).done(ok);
  const many = await Promise.all([1, 2, 3, 4].map(next));
  assert.deepEqual([...new Set(many.map(({ endpoint }) => endpoint.name))], ["primary"]);
  for (const [index, attempt] of many.entries()) attempt.done(index < 3 ? ok : reset);
  assert.equal((await next()).endpoint.name, "primary", "a failure asks for trials again");
  assert.equal((await next()).endpoint.name, "secondary");
});

test("a trial that never comes back stops nobody for longer than 5 s", async (t) => {
  const fixture = await start(t);
  await fixture.breaker("warehouse", "primary", { status: "open", generation: 2, openUntilMs: fixture.clock.nowMs + 100 });
  fixture.cut();
  fixture.clock.nowMs += 101;
  assert.equal((await attemptOf(begin(fixture))).endpoint.name, "primary");
  assert.equal((await attemptOf(begin(fixture))).endpoint.name, "secondary");
  fixture.clock.nowMs += 5001;
  assert.equal((await attemptOf(begin(fixture))).endpoint.name, "primary");
});

test("the log says under which generation each call was let through, so that a late failure does not open the breaker again", async (t) => {
  const fixture = await start(t);
  const late = await attemptOf(begin(fixture));
  await fixture.breaker("warehouse", "primary", { status: "closed", generation: 7 });
  (await attemptOf(begin(fixture))).done(ok);
  late.done(reset);
  const told = () => fixture.traffic.flatMap(({ endpoints }) => endpoints).filter((one) => one.ok + one.hard > 0);
  await until("both are told", () => told().length >= 2);
  assert.deepEqual(
    told().map((one) => [one.breakerGeneration, one.ok, one.hard]),
    [
      [0, 0, 1],
      [7, 1, 0],
    ],
  );
});

test("an operator's states are obeyed: forced open gets nothing, disabled and metrics_only stop nothing, not even this router's own breaker", async (t) => {
  const fixture = await start(t, { yaml: alone });
  for (let call = 0; call < 3; call += 1) await play(begin(fixture, write), () => refused);
  await fixture.breaker("warehouse", "primary", { status: "forced_open", generation: 2 });
  for (const given of [{}, write]) assert.deepEqual(await play(begin(fixture, given), () => ok), []);
  fixture.cut();
  assert.deepEqual(await play(begin(fixture), () => ok), [], "nor without the log");
  fixture.restore();
  for (const status of ["disabled", "metrics_only"] as const) {
    await fixture.breaker("warehouse", "primary", { status, generation: status === "disabled" ? 3 : 4 });
    for (let call = 0; call < 6; call += 1) {
      (await attemptOf(begin(fixture, write))).done(refused);
    }
  }
  await fixture.control.stop();
});

test("Retry-After: an endpoint that shed load, or said 503, is left alone for that time by what may go elsewhere, and the fleet hears of it", async (t) => {
  for (const result of [
    { outcome: "soft", httpStatus: 429, toolError: false, retryAfterMs: 20_000 } as const,
    { outcome: "hard", code: "http_5xx", executed: "unknown", message: "503", retryAfterMs: 20_000 } as const,
  ]) {
    const fixture = await start(t);
    assert.deepEqual(await play(begin(fixture), (name) => (name === "primary" ? result : ok)), ["primary", "secondary"]);
    assert.deepEqual(await play(begin(fixture), () => ok), ["secondary"]);
    assert.deepEqual(await play(begin(fixture, write), () => ok), ["primary"], "a write may go nowhere else");
    const rest = () => fixture.traffic.flatMap(({ endpoints }) => endpoints).find((one) => one.endpoint === "primary")?.retryAfterMs ?? 0;
    await until("it is told", () => rest() > 0);
    assert.ok(rest() > 15_000 && rest() <= 20_000, `${rest()}`);
    fixture.clock.nowMs += 20_001;
    assert.deepEqual(await play(begin(fixture), () => ok), ["primary"]);
  }
});

test("Retry-After is kept to at most five minutes, whatever an endpoint asks for", async (t) => {
  const fixture = await start(t);
  await play(begin(fixture), (name) =>
    name === "primary" ? { outcome: "soft", httpStatus: 429, toolError: false, retryAfterMs: 9e8 } : ok,
  );
  fixture.clock.nowMs += 299_000;
  assert.deepEqual(await play(begin(fixture), () => ok), ["secondary"]);
  fixture.clock.nowMs += 1100;
  assert.deepEqual(await play(begin(fixture), () => ok), ["primary"]);
});
