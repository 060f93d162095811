// The plain breaker against each fault of opossum 10.0.0 and cockatiel 4.0.0 that the research measured (docs/breaker-for-opossum-and-cockatiel-users.md has
// the table); the same rows through the fleet's `execute` are in breaker-faults.test.ts.
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { type Breaker, BreakerOpenError, type BreakerOptions, CallTimeoutError, createBreaker } from "@mcp-failover/client";
import { patientMs } from "@mcp-failover/testkit";

let nowMs: number;
beforeEach(() => {
  nowMs = 1_000_000;
});
const make = (options: BreakerOptions<never> = {}): Breaker =>
  createBreaker({ nowMs: () => nowMs, openJitter: 0, openMs: 1000, timeoutMs: null, ...options });
const boom = new Error("boom");
const outcome = (promise: Promise<unknown>): Promise<string> =>
  promise.then(String, (error: unknown) =>
    error instanceof BreakerOpenError ? "open" : error instanceof CallTimeoutError ? "late" : "failed",
  );
const ok = (breaker: Breaker) => outcome(breaker.execute(async () => "ok"));
const fail = (breaker: Breaker) => outcome(breaker.execute(async () => Promise.reject(boom)));
/** A call that ends when the test says so. */
function pending(breaker: Breaker) {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const ended = outcome(breaker.execute(() => promise));
  return {
    succeed: () => {
      resolve("ok");
      return ended;
    },
    fail: () => {
      reject(boom);
      return ended;
    },
  };
}
async function trip(breaker: Breaker): Promise<void> {
  for (let count = 0; count < 5; count += 1) await fail(breaker);
  assert.equal(breaker.state, "open");
}

test("row 1, cockatiel: 4 old failures, 5 s idle on a 500 ms window, 1 new failure: counts 1 and stays closed", async () => {
  for (const rule of [{ consecutiveFailures: 5 }, { consecutiveFailures: null, minimumCalls: 5, ratioRule: "plain" as const }]) {
    const breaker = make({ windowMs: 500, buckets: 5, ...rule });
    for (let count = 0; count < 4; count += 1) await fail(breaker);
    nowMs += 5000;
    await fail(breaker);
    assert.deepEqual([breaker.state, breaker.stats().failures], ["closed", 1]);
  }
});

test("row 2, cockatiel: a hung half-open probe holds up nobody: 50 of 50 other callers are told at once", async () => {
  const breaker = make();
  await trip(breaker);
  nowMs += 1000;
  const hung = pending(breaker);
  assert.equal(breaker.state, "half_open");
  const startedMs = performance.now();
  const others = await Promise.all(Array.from({ length: 50 }, () => ok(breaker)));
  assert.deepEqual(new Set(others), new Set(["open"]));
  assert.ok(performance.now() - startedMs < patientMs(500));
  await hung.succeed();
});

test("row 3, cockatiel: a pre-trip failure that arrives during the probe does not reopen, and the probe's success closes", async () => {
  const breaker = make();
  const slow = pending(breaker);
  await trip(breaker);
  nowMs += 1000;
  const probe = pending(breaker);
  assert.equal(await slow.fail(), "failed");
  assert.equal(breaker.state, "half_open");
  await probe.succeed();
  assert.equal(breaker.state, "closed");
});

test("row 4, opossum: a pre-trip success that arrives in half-open does not close without a probe", async () => {
  const breaker = make();
  const slow = pending(breaker);
  await trip(breaker);
  nowMs += 1000;
  const probe = pending(breaker);
  assert.equal(await slow.succeed(), "ok");
  assert.equal(breaker.state, "half_open");
  await probe.fail();
  assert.equal(breaker.state, "open");
});

test("row 5, opossum: without a time-out a hung probe does not leave it half-open for ever: the next one comes after trialMs", async () => {
  const breaker = make({ trialMs: 5000 });
  await trip(breaker);
  nowMs += 1000;
  const hung = pending(breaker);
  assert.deepEqual(await Promise.all(Array.from({ length: 20 }, () => ok(breaker))), Array(20).fill("open"));
  nowMs += 5000;
  assert.equal(await ok(breaker), "ok");
  assert.equal(breaker.state, "closed");
  await hung.fail();
  assert.equal(breaker.state, "closed", "it began under an older generation");
});

test("row 6, opossum: with the defaults the first failure does not open, nor one of ten", async () => {
  const breaker = createBreaker();
  assert.equal(await fail(breaker), "failed");
  assert.equal(breaker.state, "closed");
  for (let count = 0; count < 9; count += 1) await ok(breaker);
  assert.equal(breaker.state, "closed");
});

test("opossum #613, resilience4j #935: half-open asks for as many successes as are set, and lets that many trials run, no more", async () => {
  const breaker = make({ halfOpenCalls: 3, halfOpenSuccesses: 3 });
  await trip(breaker);
  nowMs += 1000;
  const trials = [pending(breaker), pending(breaker), pending(breaker)];
  assert.equal(await ok(breaker), "open");
  await trials[0]?.succeed();
  await trials[1]?.succeed();
  assert.equal(breaker.state, "half_open");
  await trials[2]?.succeed();
  assert.equal(breaker.state, "closed");
});

test("hermes-agent #11113: answers that are the caller's own mistake trip nothing, however many", async () => {
  const breaker = make({ consecutiveFailures: 1 });
  for (const answer of [{ status: 404 }, { response: { status: 401 } }, { statusCode: 429 }, { code: -32602 }, { code: -32001 }]) {
    await assert.rejects(breaker.execute(() => Promise.reject(Object.assign(new Error("no"), answer))));
  }
  assert.deepEqual([breaker.state, breaker.stats().ignored], ["closed", 5]);
  await assert.rejects(breaker.execute(() => Promise.reject(Object.assign(new Error("no"), { status: 503 }))));
  assert.equal(breaker.state, "open");
});

test("reyn #2600: a retry never runs a function twice that may have run: only after proof, or where it is idempotent", async () => {
  const retrying = make({ retry: { delayMs: 1 }, timeoutMs: 5000 });
  const runs = async (code: string, idempotent: boolean): Promise<number> => {
    let count = 0;
    const work = () => {
      count += 1;
      return Promise.reject(Object.assign(new Error(code), { code }));
    };
    await assert.rejects(retrying.execute(work, { idempotent }));
    return count;
  };
  assert.equal(await runs("ECONNRESET", false), 1);
  assert.equal(await runs("ECONNREFUSED", false), 3);
  retrying.close();
  assert.equal(await runs("ECONNRESET", true), 3);
});

test("opossum: a time-out ends the work too, not only the wait for it", async () => {
  const breaker = make({ timeoutMs: 30 });
  let reason: unknown;
  const work = ({ signal }: { signal: AbortSignal }) =>
    new Promise((_, reject) =>
      signal.addEventListener("abort", () => {
        reason = signal.reason;
        reject(signal.reason);
      }),
    );
  assert.equal(await outcome(breaker.execute(work)), "late");
  assert.ok(reason instanceof CallTimeoutError);
});

test("a time-out of one call that is longer than a timer can wait does not end it at once, and a listener that rejects harms nobody", async () => {
  const errors: unknown[] = [];
  const breaker = make({ onError: (error) => errors.push(error) });
  for (const timeoutMs of [Number.POSITIVE_INFINITY, 2 ** 31])
    assert.equal(await breaker.execute(() => new Promise((resolve) => setTimeout(resolve, 30, "late")), { timeoutMs }), "late");
  breaker.on("open", async () => Promise.reject(boom));
  await trip(breaker);
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(errors, [boom]);
});
