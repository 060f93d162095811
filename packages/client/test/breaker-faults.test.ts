// One test for each fault of cockatiel and opossum that the research measured, through the public face of the SDK.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { BreakerOpenError, type CallContext, CallTimeoutError, type Client } from "@mcp-failover/client";
import { defaultPolicy } from "@mcp-failover/domain";
import { patientMs } from "@mcp-failover/testkit";
import { Fleet, fetchError, systemError, until } from "./fleet.ts";

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
    () => "ok",
    (error: unknown) => (error instanceof BreakerOpenError ? "breaker_open" : "failed"),
  );
const failing = (code = "ECONNRESET") =>
  outcome(
    client.execute("solo", () => {
      throw fetchError(code);
    }),
  );
/** A call that ends when the test says so. */
function pending() {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const ended = outcome(client.execute("solo", () => promise));
  return {
    succeed: () => resolve("done"),
    fail: () => reject(systemError("ECONNRESET")),
    ended,
  };
}
async function open(): Promise<void> {
  assert.equal(await failing("ECONNREFUSED"), "failed");
  assert.equal(await outcome(client.execute("solo", where)), "breaker_open");
}

test("opossum's defaults open on the first failure: one lost connection or time-out does not stop the next call", async () => {
  assert.equal(await failing(), "failed");
  assert.equal(await outcome(client.execute("solo", where)), "ok");
  await assert.rejects(
    client.execute("solo", () => new Promise(() => undefined), { timeoutMs: 5 }),
    CallTimeoutError,
  );
  assert.equal(await outcome(client.execute("solo", where)), "ok");
});

test("cockatiel counts failures that are long over: old ones, idle, and a new one do not open", async () => {
  for (let count = 1; count < policy.failures; count += 1) await failing();
  nowMs += policy.runMs;
  await failing();
  assert.equal(await outcome(client.execute("solo", where)), "ok");
});

test("cockatiel's hung half-open probe holds up all others: here one call is the trial, and 50 others are told at once", async () => {
  await open();
  nowMs += policy.ejectMs;
  const trial = pending();
  const startedMs = Date.now();
  const others = await Promise.all(Array.from({ length: 50 }, () => outcome(client.execute("solo", where))));
  assert.deepEqual(
    others,
    others.map(() => "breaker_open"),
  );
  assert.ok(Date.now() - startedMs < patientMs(500));
  trial.succeed();
  assert.equal(await trial.ended, "ok");
  assert.equal(await outcome(client.execute("solo", where)), "ok");
});

test("cockatiel reopens on a failure from before the trip: here it does not, and the trial's success closes", async () => {
  const slow = pending();
  await open();
  nowMs += policy.ejectMs;
  const trial = pending();
  slow.fail();
  assert.equal(await slow.ended, "failed");
  trial.succeed();
  await trial.ended;
  assert.equal(await outcome(client.execute("solo", where)), "ok");
});

test("A4: a panic trial that hangs holds up nobody for longer than trialMs, whatever time its call has", async () => {
  await fleet.breaker("solo", "only", { status: "open", generation: 2, sinceMs: nowMs, openUntilMs: Date.now() + 600_000 });
  await until("the fleet's breaker is known", () => client.status().upstreams.some(({ endpoints }) => endpoints[0]?.breaker === "open"));
  nowMs += policy.panicTrialMs;
  const hung = pending();
  nowMs += policy.trialMs - 1;
  assert.equal(await outcome(client.execute("solo", where)), "breaker_open");
  nowMs += 1;
  assert.equal(await outcome(client.execute("solo", where)), "ok");
  hung.succeed();
  await hung.ended;
});

test("opossum closes on a success from before the trip: here only the trial closes", async () => {
  const slow = pending();
  await open();
  nowMs += policy.ejectMs;
  const trial = pending();
  slow.succeed();
  assert.equal(await slow.ended, "ok");
  assert.equal(await outcome(client.execute("solo", where)), "breaker_open", "the trial is still out");
  trial.succeed();
  await trial.ended;
  assert.equal(await outcome(client.execute("solo", where)), "ok");
});

test("opossum without a time-out is stuck in half-open: here every call has one, and a trial that hangs makes way for the next", async () => {
  await open();
  nowMs += policy.ejectMs;
  await assert.rejects(
    client.execute("solo", ({ signal }) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason))), {
      timeoutMs: 20,
    }),
    CallTimeoutError,
  );
  assert.equal(await outcome(client.execute("solo", where)), "breaker_open");
  nowMs += 2 * policy.ejectMs;
  assert.equal(await outcome(client.execute("solo", where)), "ok");
});

test("a trial whose caller goes away makes way for the next call at once", async () => {
  await open();
  nowMs += policy.ejectMs;
  const controller = new AbortController();
  const leaving = outcome(
    client.execute("solo", ({ signal }) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason))), {
      signal: controller.signal,
    }),
  );
  controller.abort(new Error("the user left"));
  assert.equal(await leaving, "failed");
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(await outcome(client.execute("solo", where)), "ok");
});
