import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { AttemptResult } from "../../src/control/port.ts";
import { attemptOf, describe, type Fixture, ok, play, refused, start } from "./fixture.ts";

/** The pure choices are tested where they are made (`packages/domain/test/balancing.test.ts`); here, that a router asks for them by what it knows. */
const poolOf = (tiers: readonly number[], balancing = "") =>
  `upstreams:\n  pool:\n    kind: http\n    mode: pool\n    ${balancing === "" ? "" : `balancing: ${balancing}\n    `}endpoints:\n${tiers
    .map((tier, index) => `      - { name: e${index}, url: "http://127.0.0.1:${index + 1}", tier: ${tier} }\n`)
    .join("")}`;
const get = { upstream: "pool", kind: "http", method: "GET", tool: null } as const;

/** Numbers that spread over [0, 1) as evenly as any. */
function evenly(): () => number {
  let last = 0;
  return () => {
    last = (last + 0.618_033_988_75) % 1;
    return last;
  };
}
async function poolFixture(t: TestContext, tiers: readonly number[], balancing?: string): Promise<Fixture> {
  const fixture = await start(t, { yaml: poolOf(tiers, balancing), random: evenly(), frozen: true });
  for (let index = 0; index < tiers.length; index += 1) await fixture.health("pool", `e${index}`, {});
  return fixture;
}
/** How many of so many calls each endpoint got. */
async function shares(fixture: Fixture, calls = 300): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (let call = 0; call < calls; call += 1) {
    const [went = "nobody"] = await play(fixture.control.begin(describe(fixture, get)), () => ok);
    counts[went] = (counts[went] ?? 0) + 1;
  }
  return counts;
}

test("balancing: round_robin gives each endpoint every third call, in turn", async (t) => {
  const fixture = await poolFixture(t, [0, 0, 0], "round_robin");
  const went: string[] = [];
  for (let call = 0; call < 9; call += 1) went.push(...(await play(fixture.control.begin(describe(fixture, get)), () => ok)));
  assert.equal(new Set(went.slice(0, 3)).size, 3);
  assert.deepEqual(went.slice(3), went.slice(0, 6), "and so on");
});

test("balancing: least_connections fills up the endpoint that has the fewest calls of this router out", async (t) => {
  const fixture = await poolFixture(t, [0, 0, 0], "least_connections");
  const out = new Map<string, Awaited<ReturnType<typeof attemptOf>>[]>();
  const begin = async (): Promise<string> => {
    const attempt = await attemptOf(fixture.control.begin(describe(fixture, get)));
    out.set(attempt.endpoint.name, [...(out.get(attempt.endpoint.name) ?? []), attempt]);
    return attempt.endpoint.name;
  };
  for (let call = 0; call < 9; call += 1) await begin();
  assert.deepEqual(
    [...out.values()].map(({ length }) => length),
    [3, 3, 3],
  );
  for (const attempt of out.get("e1") ?? []) attempt.done(ok);
  for (let call = 0; call < 3; call += 1) assert.equal(await begin(), "e1", "what has ended is not counted any more");
  const next = [await begin(), await begin(), await begin()];
  assert.equal(new Set(next).size, 3, "and what has begun is");
});

test("balancing: peak_ewma turns away from an endpoint as soon as it answers slowly, and comes back once it is quick again", async (t) => {
  const fixture = await poolFixture(t, [0, 0], "peak_ewma");
  const answerAfter = async (name: string, ms: number, result: AttemptResult = ok): Promise<void> => {
    for (let tries = 0; tries < 100; tries += 1) {
      const attempt = await attemptOf(fixture.control.begin(describe(fixture, get)));
      if (attempt.endpoint.name === name) fixture.clock.nowMs += ms;
      attempt.done(attempt.endpoint.name === name ? result : ok);
      if (attempt.endpoint.name === name) return;
    }
    assert.fail(`${name} gets no call any more`);
  };
  await answerAfter("e0", 20);
  await answerAfter("e1", 25);
  await answerAfter("e0", 400);
  assert.deepEqual(await shares(fixture, 20), { e1: 20 });
  fixture.clock.nowMs += 60_000;
  await fixture.health("pool", "e1", { status: "unhealthy", score: 0 });
  await answerAfter("e0", 5);
  await fixture.health("pool", "e1", { sinceMs: fixture.clock.nowMs - 3_600_000 });
  assert.deepEqual(await shares(fixture, 20), { e0: 20 });
});

test("balancing: an endpoint whose score is under 0.3 gets nothing, and its share again when it is fair", async (t) => {
  const fixture = await poolFixture(t, [0, 0, 0, 0]);
  await fixture.health("pool", "e1", { status: "degraded", score: 0.29 });
  assert.equal((await shares(fixture))["e1"], undefined);
  await fixture.health("pool", "e1", { status: "degraded", score: 0.3 });
  const fair = (await shares(fixture))["e1"] ?? 0;
  assert.ok(fair > 0 && fair < 60, `${fair} of 300: less than those with a score of 1`);
});

test("balancing: slow start gives an endpoint that comes back a small share, which grows for a minute", async (t) => {
  const fixture = await poolFixture(t, [0, 0]);
  await fixture.health("pool", "e1", { status: "unhealthy", score: 0 });
  await shares(fixture, 10);
  await fixture.health("pool", "e1", {});
  const got: number[] = [];
  for (const waitMs of [0, 30_000, 30_000]) {
    fixture.clock.nowMs += waitMs;
    got.push((await shares(fixture))["e1"] ?? 0);
  }
  const [first = 0, half = 0, whole = 0] = got;
  assert.ok(first > 0 && first < 60, `at once ${first} of 300`);
  assert.ok(half > first && half < 130, `after 30 s ${half}`);
  assert.ok(whole > 130, `after a minute ${whole}`);
});

test("balancing: the next tier takes what the active one cannot carry, and nothing as long as it can", async (t) => {
  const fixture = await poolFixture(t, [0, 0, 0, 0, 0, 1]);
  assert.equal((await shares(fixture))["e5"], undefined);
  await fixture.health("pool", "e0", { status: "unhealthy", score: 0 });
  assert.equal((await shares(fixture))["e5"], undefined, "four of five carry all: 1.4 x 80 %");
  for (const name of ["e1", "e2"]) await fixture.health("pool", name, { status: "unhealthy", score: 0 });
  const spilled = (await shares(fixture))["e5"] ?? 0;
  assert.ok(Math.abs(spilled - 132) < 25, `two of five carry 56 %: ${spilled} of 300 went on`);
});

test("balancing: with less than half of a pool well, all of it is used, but what this router was refused by", async (t) => {
  const fixture = await poolFixture(t, [0, 0, 0, 0]);
  await play(fixture.control.begin(describe(fixture, { ...get, sessionEndpoint: "e3" })), (name) => (name === "e3" ? refused : ok));
  for (const name of ["e0", "e1", "e2"]) await fixture.health("pool", name, { status: "unhealthy", score: 0 });
  const got = await shares(fixture);
  assert.deepEqual(Object.keys(got).sort(), ["e0", "e1", "e2"]);
  for (const count of Object.values(got)) assert.ok(count > 50, JSON.stringify(got));
});
