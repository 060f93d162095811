// The fleet's half-open through the SDK: permits are the routers', so a client sends one trial at a time.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { BreakerOpenError, type CallContext, type Client } from "@mcp-failover/client";
import { defaultPolicy } from "@mcp-failover/domain";
import { Fleet, fetchError, until } from "./fleet.ts";

const policy = defaultPolicy.localBreaker;
let fleet: Fleet;
let client: Client;
let nowMs: number;
beforeEach(async () => {
  nowMs = 1_700_000_000_000;
  fleet = await Fleet.start();
  ({ client } = await fleet.client({ nowMs: () => nowMs }));
});
afterEach(() => fleet.stop());

const where = ({ endpoint }: CallContext): string => endpoint.name;
const outcome = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    (value) => String(value),
    (error: unknown) => (error instanceof BreakerOpenError ? "breaker_open" : "failed"),
  );
/** Half-open, with its permits in the hands of a router. */
async function halfOpen(upstream: string, endpoint: string, generation: number): Promise<void> {
  const permits = [{ router: "router-1", calls: 10, expiresAtMs: nowMs + 30_000 }];
  await fleet.breaker(upstream, endpoint, { status: "half_open", generation, sinceMs: nowMs, permits });
  const breakers = () =>
    client
      .status()
      .upstreams.find(({ name }) => name === upstream)
      ?.endpoints.find(({ name }) => name === endpoint);
  await until("half-open is known", () => breakers()?.breaker === "half_open");
}

test("A6: the only endpoint is half-open just now: a call goes through at once, and the next after it", async () => {
  await halfOpen("solo", "only", 2);
  assert.equal(await client.execute("solo", where), "only");
  assert.equal(await client.execute("solo", where), "only");
});

test("A6: one trial at a time: 50 other callers are told at once, and the next is let through when the trial has ended", async () => {
  await halfOpen("solo", "only", 2);
  const gate = Promise.withResolvers<string>();
  const trial = outcome(client.execute("solo", () => gate.promise));
  const others = await Promise.all(Array.from({ length: 50 }, () => outcome(client.execute("solo", where))));
  assert.deepEqual(new Set(others), new Set(["breaker_open"]));
  gate.resolve("done");
  assert.equal(await trial, "done");
  assert.equal(await outcome(client.execute("solo", where)), "only");
});

test("A6: surplus reads go to the standby", async () => {
  await halfOpen("docs", "primary", 2);
  const gate = Promise.withResolvers<string>();
  const trial = outcome(client.execute("docs", () => gate.promise, { readOnly: true }));
  assert.equal(await client.execute("docs", where, { readOnly: true }), "secondary");
  gate.resolve("done");
  await trial;
});

test("A6: calls that hang since before the breaker opened do not use up the trial, and a trial that hangs makes way after its time", async () => {
  const old = Promise.withResolvers<string>();
  const before = outcome(client.execute("solo", () => old.promise));
  await halfOpen("solo", "only", 2);
  const hung = Promise.withResolvers<string>();
  const trial = outcome(client.execute("solo", () => hung.promise));
  assert.equal(await outcome(client.execute("solo", where)), "breaker_open");
  nowMs += policy.trialMs;
  assert.equal(await outcome(client.execute("solo", where)), "only");
  old.resolve("old");
  hung.resolve("late");
  assert.deepEqual([await before, await trial], ["old", "late"]);
});

test("A6: a trial is not over because a call that began before it has ended, and one that hangs makes way also where reads have a standby", async () => {
  const old = Promise.withResolvers<string>();
  const before = outcome(client.execute("docs", () => old.promise, { readOnly: true }));
  await halfOpen("docs", "primary", 2);
  const hung = Promise.withResolvers<string>();
  const trial = outcome(client.execute("docs", () => hung.promise, { readOnly: true }));
  old.resolve("old");
  assert.equal(await before, "old");
  assert.equal(await client.execute("docs", where, { readOnly: true }), "secondary");
  nowMs += policy.trialMs;
  assert.equal(await client.execute("docs", where, { readOnly: true }), "primary");
  hung.resolve("late");
  assert.equal(await trial, "late");
});

test("A6: a trial whose caller goes away makes way for the next call at once", async () => {
  await halfOpen("solo", "only", 2);
  const controller = new AbortController();
  const leaving = outcome(client.execute("solo", () => new Promise(() => undefined), { signal: controller.signal }));
  controller.abort(new Error("the user left"));
  assert.equal(await leaving, "failed");
  assert.equal(await outcome(client.execute("solo", where)), "only");
});

test("A6: a trial whose error cannot be classified, because `classify` throws, makes way for the next call at once", async () => {
  await halfOpen("solo", "only", 2);
  const classify = () => {
    throw new TypeError("the rule is broken");
  };
  await assert.rejects(
    client.execute("solo", () => Promise.reject(new Error("x")), { classify }),
    /the rule is broken/,
  );
  assert.equal(await outcome(client.execute("solo", where)), "only");
});

test("A5: failures of calls that began before the fleet's breaker moved on do not eject the endpoint here", async () => {
  const gates = Array.from({ length: policy.failures }, () => Promise.withResolvers<string>());
  const slow = gates.map(({ promise }) => outcome(client.execute("solo", () => promise)));
  await halfOpen("solo", "only", 2);
  assert.equal(await outcome(client.execute("solo", where)), "only");
  for (const gate of gates) gate.reject(fetchError("ECONNRESET"));
  await Promise.all(slow);
  assert.equal(await outcome(client.execute("solo", where)), "only");
});

test("a client whose clock is a minute ahead of the store's does not try an open breaker before its time", async () => {
  const ahead = await fleet.client({ nowMs: () => Date.now() + 60_000 });
  await fleet.breaker("docs", "primary", { status: "open", generation: 2, openUntilMs: Date.now() + 20_000 });
  const known = () => ahead.client.status().upstreams.find(({ name }) => name === "docs")?.endpoints[0]?.breaker;
  await until("open is known", () => known() === "open");
  assert.equal(await ahead.client.execute("docs", where, { readOnly: true }), "secondary");
});

test("an operator's word: forced_open blocks, disabled and metrics_only never do", async () => {
  const said = async (status: "forced_open" | "disabled" | "metrics_only", generation: number): Promise<void> => {
    await fleet.breaker("solo", "only", { status, generation, sinceMs: nowMs });
    await until(status, () => client.status().upstreams.find(({ name }) => name === "solo")?.endpoints[0]?.breaker === status);
  };
  const refuse = () =>
    outcome(
      client.execute("solo", () => {
        throw fetchError("ECONNREFUSED");
      }),
    );
  await said("forced_open", 1);
  assert.equal(await outcome(client.execute("solo", where)), "breaker_open");
  for (const [index, status] of (["disabled", "metrics_only"] as const).entries()) {
    await said(status, 2 + index);
    await refuse();
    assert.equal(await outcome(client.execute("solo", where)), "only", status);
  }
});
