import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { defaultPolicy } from "@mcp-failover/domain";
import { eventually } from "@mcp-failover/testkit";
import type { Attempt, CallControl } from "../../src/control/port.ts";
import { attemptOf, describe, type Fixture, ok, play, refused, reset, settled, start, warehouse } from "./fixture.ts";

const { burst } = defaultPolicy.router.hedge;
const until = (what: string, holds: () => boolean | Promise<boolean>) => eventually(holds, { what, withinMs: 30_000, everyMs: 5 });
const cancelled = { outcome: "cancelled" } as const;

/** A control that knows what is usual at the primary, with a second endpoint that is well. */
async function usual(t: TestContext, yaml = warehouse): Promise<Fixture> {
  const fixture = await start(t, { yaml, answers: async () => "answers" });
  await fixture.health("warehouse", "primary", { status: "healthy" });
  await fixture.health("warehouse", "secondary", { status: "healthy" });
  for (let call = 0; call < 25; call += 1) await play(fixture.control.begin(describe(fixture)), () => ok);
  return fixture;
}

interface Out {
  readonly call: CallControl;
  readonly first: Attempt;
  readonly isLate: () => boolean;
}

async function begin(fixture: Fixture, given: Parameters<typeof describe>[1] = {}): Promise<Out> {
  const call = fixture.control.begin(describe(fixture, given));
  const first = await attemptOf(call);
  let late = false;
  first.whenLate?.(() => {
    late = true;
  });
  return { call, first, isLate: () => late };
}

async function lateRead(fixture: Fixture): Promise<Out> {
  const out = await begin(fixture);
  fixture.clock.nowMs += 3000;
  await until("the read is late", out.isLate);
  return out;
}

test("R19: a read that takes longer than usual gets a second attempt at another endpoint, and either may answer it", async (t) => {
  const fixture = await usual(t);
  const { call, first } = await lateRead(fixture);
  const second = call.hedge?.();
  assert.equal(second?.endpoint.name, "secondary");
  assert.equal(call.hedge?.(), null, "one is enough");
  first.done(cancelled);
  assert.deepEqual(second?.done(ok), { retry: false });
  call.end("ok");

  const other = await lateRead(fixture);
  const loser = other.call.hedge?.();
  assert.deepEqual(other.first.done(ok), { retry: false });
  assert.deepEqual(loser?.done(reset), { retry: false }, "what is told too late is ignored");
  other.call.end("ok");

  const hedged = () =>
    fixture.traffic.flatMap(({ endpoints }) =>
      endpoints.map(({ endpoint, hedged: some = 0, hedgeWon: won = 0 }) => ({ endpoint, some, won })),
    );
  const at = (name: string) => hedged().filter(({ endpoint }) => endpoint === name);
  await until("both are counted at the endpoint that was late", () => at("primary").reduce((sum, { some }) => sum + some, 0) === 2);
  assert.equal(
    at("primary").reduce((sum, { won }) => sum + won, 0),
    1,
  );
  assert.equal(
    at("secondary").reduce((sum, { some }) => sum + some, 0),
    0,
  );
  const windows = fixture.traffic.flatMap(({ endpoints }) => endpoints);
  assert.equal(
    windows.reduce((sum, { hard }) => sum + hard, 0),
    0,
    "the attempt that lost is no failure",
  );
  assert.equal(
    windows.filter(({ endpoint }) => endpoint === "secondary").reduce((sum, seen) => sum + seen.ok, 0),
    1,
    "nor a success",
  );
});

test("A2: where one of two attempts fails the call waits for the other; where both do it is sent again as any read", async (t) => {
  const fixture = await usual(t);
  const { call, first } = await lateRead(fixture);
  const second = call.hedge?.() as Attempt;
  assert.deepEqual(second.done(refused), { retry: false });
  assert.equal(call.legacy, null, "it is not over");
  assert.deepEqual(first.done(ok), { retry: false });
  call.end("ok");
  const both = await lateRead(fixture);
  const beside = both.call.hedge?.();
  if (beside == null) assert.fail("no hedge");
  both.first.done(reset);
  assert.deepEqual(beside.done(reset), { retry: true });
  assert.ok(await both.call.next());
  both.call.end("error");
});

test("R19: a write, and what is not known to be a read, never gets a second attempt", async (t) => {
  const fixture = await usual(t);
  for (const tool of ["ship_order", "set_stock"]) {
    for (let call = 0; call < 25; call += 1) await play(fixture.control.begin(describe(fixture, { tool })), () => ok);
    const { call, first } = await begin(fixture, { tool });
    assert.equal(first.whenLate ?? null, null);
    fixture.clock.nowMs += 5000;
    await settled(100);
    assert.equal(call.hedge?.() ?? null, null);
    first.done(ok);
    call.end("ok");
  }
});

test("R19: no hedge before the usual time is known, where it is turned off, nor to an endpoint that is not well and closed", async (t) => {
  const off = warehouse.replace("    trusted: true\n", "    trusted: true\n    retry: { hedge: { enabled: false } }\n");
  const without = await usual(t, off);
  assert.equal((await begin(without)).first.whenLate ?? null, null);

  const fixture = await usual(t);
  const unknown = await begin(fixture, { method: "resources/read", tool: null });
  fixture.clock.nowMs += 5000;
  await settled(150);
  assert.equal(unknown.isLate(), false, "nobody knows how long that takes");
  unknown.first.done(ok);
  unknown.call.end("ok");

  const { call } = await lateRead(fixture);
  for (const given of [{ status: "unhealthy" as const }, { status: "unknown" as const }, { status: "degraded" as const }]) {
    await fixture.health("warehouse", "secondary", given);
    assert.equal(call.hedge?.() ?? null, null, given.status);
  }
  await fixture.health("warehouse", "secondary", { status: "healthy" });
  await fixture.breaker("warehouse", "secondary", { status: "half_open" });
  assert.equal(call.hedge?.() ?? null, null, "half-open");
  await fixture.breaker("warehouse", "secondary", { status: "closed", generation: 9 });
  assert.equal(call.hedge?.()?.endpoint.name, "secondary");
  call.end("ok");
});

test("R19: hedges are at most a burst and a share of the calls, whatever is late", async (t) => {
  const fixture = await usual(t);
  const outs: Out[] = [];
  for (let call = 0; call < 60; call += 1) outs.push(await begin(fixture));
  fixture.clock.nowMs += 3000;
  await until("all are late", () => outs.every(({ isLate }) => isLate()));
  const seconds = outs.flatMap(({ call }) => call.hedge?.() ?? []);
  assert.equal(seconds.length, burst);
  for (const { call } of outs) call.end("error");
});

test("an endpoint that hangs is found out though every read that waits for it is answered elsewhere", async (t) => {
  const looks = { silent: false };
  const fixture = await start(t, { answers: async () => (looks.silent ? "silent" : "answers") });
  await fixture.health("warehouse", "primary", { status: "healthy" });
  await fixture.health("warehouse", "secondary", { status: "healthy" });
  for (let call = 0; call < 25; call += 1) await play(fixture.control.begin(describe(fixture)), () => ok);
  looks.silent = true;
  const out = await begin(fixture);
  fixture.clock.nowMs += 300;
  await until("the read is late", out.isLate);
  const second = out.call.hedge?.();
  out.first.done(cancelled);
  second?.done(ok);
  out.call.end("ok");
  fixture.clock.nowMs += 1500;
  await until("the next reads do not go there any more", async () => {
    const call = fixture.control.begin(describe(fixture));
    const attempt = await attemptOf(call);
    attempt.done({ outcome: "aborted" });
    call.end("error");
    return attempt.endpoint.name === "secondary";
  });
});
