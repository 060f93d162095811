import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { getEventListeners } from "node:events";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import {
  type BreakerEvent,
  BreakerOpenError,
  BulkheadFullError,
  CallTimeoutError,
  createBreaker,
  type Fallback,
  type FallbackContext,
  failureOf,
  OutcomeUnknownError,
} from "@mcp-failover/client";
import { patientMs } from "@mcp-failover/testkit";
import fc from "fast-check";

const boom = new Error("boom");
const fails = () => Promise.reject(boom);
const never = () => new Promise<never>(() => undefined);
/** Timers and the monotonic clock in the test's hand; `pass` lets both go on, and whatever then is due. */
function mockedTime(t: TestContext) {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  let nowMs = 1000;
  const now = (): number => nowMs;
  t.mock.method(performance, "now", now);
  return {
    now,
    pass: async (ms: number): Promise<void> => {
      nowMs += ms;
      t.mock.timers.tick(ms);
      await new Promise((resolve) => setImmediate(resolve));
    },
  };
}
const rejection = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => assert.fail("it did not fail"),
    (error: unknown) => error,
  );

test("a call gives what its function gives, at once or later, and throws what it throws", async () => {
  for (const timeoutMs of [null, 5000]) {
    const breaker = createBreaker({ timeoutMs });
    assert.equal(await breaker.execute(() => 1), 1);
    assert.equal(await breaker.execute(async () => 2), 2);
    assert.equal(await rejection(breaker.execute(fails)), boom);
    assert.equal(
      await rejection(
        breaker.execute(() => {
          throw boom;
        }),
      ),
      boom,
    );
    // A thenable that answers at once is no promise, and may be given all the same.
    // biome-ignore lint/suspicious/noThenProperty: it is what is tested
    assert.equal(await breaker.execute(() => ({ then: (resolve: (value: number) => void) => resolve(3) }) as PromiseLike<number>), 3);
    const { successes, failures, calls, running } = breaker.stats();
    assert.deepEqual({ successes, failures, calls, running }, { successes: 3, failures: 2, calls: 5, running: 0 });
  }
});

/** A promise that begins its work when somebody waits for it, as query builders do. */
class LazyPromise<T> extends Promise<T> {
  // biome-ignore lint/suspicious/noThenProperty: it is what is tested
  override then(): never {
    throw boom;
  }
}
const lazyOnes: Readonly<Record<string, () => PromiseLike<unknown>>> = {
  // biome-ignore lint/suspicious/noThenProperty: it is what is tested
  "throws from then": () => ({ then: () => assert.fail(boom) }),
  // biome-ignore lint/suspicious/noThenProperty: it is what is tested
  "throws when then is read": () => Object.defineProperty({}, "then", { get: () => assert.fail(boom) }) as PromiseLike<unknown>,
  "is a promise and throws from then": () => new LazyPromise(() => undefined),
};

for (const [what, lazy] of Object.entries(lazyOnes)) {
  test(`S3, S4: a thenable that ${what} is a failure like any other, with and without a time-out and a signal`, async () => {
    const { signal } = new AbortController();
    for (const [timeoutMs, own] of [
      [null, {}],
      [null, { signal }],
      [20, {}],
      [20, { signal }],
      [5000, { timeoutMs: 20 }],
    ] as const) {
      const breaker = createBreaker({ timeoutMs, concurrencyMax: 1 });
      for (let count = 0; count < 3; count += 1) assert.equal(await rejection(breaker.execute(lazy, own)), boom);
      assert.equal(await breaker.execute(lazy, { ...own, fallback: () => "kept" }), "kept");
      // A call that nobody waits for any more would end in the process's unhandled rejections.
      await sleep(40);
      const { running, calls, failures } = breaker.stats();
      assert.deepEqual([running, calls, failures], [0, 4, 4]);
      assert.equal(getEventListeners(signal, "abort").length, 0);
    }
  });
}

test("wrap keeps the arguments and their types; wrapWithContext adds the signal before them", async () => {
  const breaker = createBreaker();
  const add = breaker.wrap((a: number, b: number) => a + b);
  assert.equal(await add(1, 2), 3);
  const read = breaker.wrapWithContext(({ signal, attempt }, id: string) => `${id} ${signal.aborted} ${attempt}`);
  assert.equal(await read("17"), "17 false 1");
});

test("S2: a time-out ends the call, aborts the signal, read before or after, and says whether it may have run", async () => {
  const breaker = createBreaker({ name: "orders", timeoutMs: 30 });
  let context: { readonly signal: AbortSignal } | undefined;
  const error = await rejection(
    breaker.execute((given) => {
      context = given;
      return never();
    }),
  );
  assert.ok(error instanceof CallTimeoutError);
  assert.deepEqual([error.outcomeUnknown, context?.signal.aborted, context?.signal.reason], [true, true, error]);
  const safe = await rejection(breaker.execute(never, { idempotent: true, timeoutMs: 20 }));
  assert.ok(safe instanceof CallTimeoutError);
  assert.deepEqual([safe.outcomeUnknown, breaker.stats().timeouts], [false, 2]);
});

test("S2: a call that began after one that has ended meanwhile, within one tick, ends in time", async (t) => {
  const { pass } = mockedTime(t);
  const breaker = createBreaker({ timeoutMs: 1000 });
  const first = rejection(breaker.execute(never));
  const gate = Promise.withResolvers<void>();
  const between = breaker.execute(() => gate.promise);
  const last = rejection(breaker.execute(never));
  gate.resolve();
  await between;
  for (let ms = 0; ms < 1100; ms += 10) await pass(10);
  assert.equal(breaker.stats().timeouts, 2);
  assert.ok((await first) instanceof CallTimeoutError);
  assert.ok((await last) instanceof CallTimeoutError);
});

test("S2: of many calls with one time-out none ends early, and none later than a tick beside what the event loop is late", async (t) => {
  const { now, pass } = mockedTime(t);
  for (const stallMs of [1, 50]) {
    const breaker = createBreaker({ timeoutMs: 200, concurrencyMax: 1000, consecutiveFailures: null, failureRatio: null });
    const tookMs: number[] = [];
    for (let count = 0; count < 300; count += 1) {
      const startedMs = now();
      void rejection(breaker.execute(never)).then(() => tookMs.push(now() - startedMs));
      await pass(count % 100 === 99 ? stallMs : 1);
    }
    for (let left = 300; left > 0; left -= 1) await pass(1);
    assert.equal(tookMs.length, 300);
    assert.ok(Math.min(...tookMs) >= 200, `early: ${Math.min(...tookMs)}`);
    assert.ok(Math.max(...tookMs) <= 200 + 10 + stallMs, `late: ${Math.max(...tookMs)}`);
  }
});

for (const options of ["timeoutMs: 60_000", "timeoutMs: null, slowMs: 60_000", "timeoutMs: 60_000, slowMs: 150"]) {
  test(`a breaker that is not called any more holds no process up (${options})`, async () => {
    // Longer than a tick, so that the timer is for the call's own end when it comes.
    const script = `
      import { createBreaker } from "@mcp-failover/client";
      import { setTimeout as sleep } from "node:timers/promises";
      const breaker = createBreaker({ ${options} });
      await Promise.all([breaker.execute(() => sleep(250)), breaker.execute(() => sleep(300))]);
      const endedMs = performance.now();
      process.on("exit", () => console.log(performance.now() - endedMs));
    `;
    const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module-typescript", "-e", script], {
      cwd: import.meta.dirname,
      timeout: patientMs(30_000),
    });
    assert.ok(stdout !== "" && Number(stdout) < 10_000, `it lived ${stdout.trim()} ms after its last call`);
  });
}

test("a function that ignores its signal holds no process up once its call has ended, though its place is kept for it", async () => {
  // Its fallback goes on, too: both would be given up after 30 s.
  const script = `
    import { createBreaker } from "@mcp-failover/client";
    const never = () => new Promise(() => undefined);
    const breaker = createBreaker({ timeoutMs: 20, fallback: never });
    await breaker.execute(never).catch(() => undefined);
    const endedMs = performance.now();
    process.on("exit", () => console.log(breaker.stats().running, performance.now() - endedMs));
  `;
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module-typescript", "-e", script], {
    cwd: import.meta.dirname,
    timeout: patientMs(30_000),
  });
  const [running, livedMs] = stdout.trim().split(" ").map(Number);
  assert.equal(running, 1);
  assert.ok((livedMs ?? Number.NaN) < 10_000, `it lived ${livedMs} ms after its last call`);
});

test("S2: waiting for a place takes nothing of the fallback's time, and the error tells the whole time", async (t) => {
  const { pass } = mockedTime(t);
  const breaker = createBreaker({ timeoutMs: 400, concurrencyMax: 1, queueMax: 1 });
  const gate = Promise.withResolvers<void>();
  const first = breaker.execute(() => gate.promise);
  const told: unknown[] = [];
  const waited = breaker.execute(never, {
    fallback: (error) => {
      told.push((error as Error).message);
      return new Promise<string>((resolve) => setTimeout(resolve, 350, "kept"));
    },
  });
  await pass(390);
  gate.resolve();
  await first;
  await pass(1);
  await pass(19);
  assert.match(String(told), /took longer than 400 ms/);
  assert.equal(told.length, 1);
  await pass(350);
  assert.equal(await waited, "kept");
});
test("S2: the caller's signal ends the call with the caller's reason, blames nobody, and leaves no listener behind", async () => {
  const breaker = createBreaker({ consecutiveFailures: 1 });
  const controller = new AbortController();
  let inner: AbortSignal | undefined;
  const running = rejection(
    breaker.execute(
      ({ signal }) => {
        inner = signal;
        return never();
      },
      { signal: controller.signal },
    ),
  );
  await breaker.execute(async () => 1, { signal: controller.signal });
  assert.equal(getEventListeners(controller.signal, "abort").length, 1);
  const gone = new Error("the user left");
  controller.abort(gone);
  assert.equal(await running, gone);
  assert.equal(inner?.reason, gone);
  assert.equal(await rejection(breaker.execute(() => 1, { signal: controller.signal })), gone, "not begun at all");
  assert.equal(getEventListeners(controller.signal, "abort").length, 0);
  assert.deepEqual([breaker.state, breaker.stats().cancelled], ["closed", 2]);
});

test("S2 a caller that cancels while its function begins is told at once, and so is the function", async () => {
  for (const timeoutMs of [null, 60_000]) {
    const breaker = createBreaker({ timeoutMs, halfOpenCalls: 1 });
    const controller = new AbortController();
    let inner: AbortSignal | null = null;
    const call = breaker.execute(
      ({ signal }) => {
        inner = signal;
        controller.abort(boom);
        return never();
      },
      { signal: controller.signal },
    );
    assert.equal(await Promise.race([rejection(call), sleep(patientMs(1000))]), boom);
    assert.equal((inner as AbortSignal | null)?.reason, boom);
    const { cancelled, failures } = breaker.stats();
    assert.deepEqual([cancelled, failures, getEventListeners(controller.signal, "abort").length], [1, 0, 0]);
  }
});

test("S1: whoever waits for a place is told at once when an operator lets nothing through any more", async () => {
  const breaker = createBreaker({ concurrencyMax: 1, queueMax: 5, timeoutMs: 60_000 });
  const gate = Promise.withResolvers<string>();
  const running = breaker.execute(() => gate.promise);
  let called = 0;
  const waiting = Array.from({ length: 3 }, () => rejection(breaker.execute(() => ++called)));
  assert.equal(breaker.stats().waiting, 3);
  breaker.forceOpen("maintenance");
  const told = await Promise.race([Promise.all(waiting), sleep(patientMs(1000))]);
  assert.ok(Array.isArray(told) && told.every((error) => error instanceof BreakerOpenError), String(told));
  gate.resolve("done");
  assert.equal(await running, "done");
  assert.deepEqual([called, breaker.stats().waiting, breaker.stats().rejected], [0, 0, 3]);
});

test("S3: a trial whose caller goes away gives its permit back: the next caller tries at once", async () => {
  let nowMs = 0;
  const breaker = createBreaker({ timeoutMs: 60_000, openMs: 1000, openMsMax: 1000, trialMs: 60_000, nowMs: () => nowMs });
  breaker.open();
  nowMs += 1000;
  const controller = new AbortController();
  const leaving = rejection(breaker.execute(never, { signal: controller.signal }));
  assert.ok((await rejection(breaker.execute(() => 1))) instanceof BreakerOpenError, "one trial at a time");
  controller.abort(boom);
  assert.equal(await leaving, boom);
  assert.equal(await breaker.execute(() => 2), 2);
  assert.equal(breaker.state, "closed");
});

test("S1: with the bulkhead full calls wait in turn, one over the queue is told at once, and waiting counts against the time", async () => {
  const breaker = createBreaker({ concurrencyMax: 1, queueMax: 2, timeoutMs: 5000 });
  const gate = Promise.withResolvers<string>();
  const order: string[] = [];
  const first = breaker.execute(() => gate.promise);
  const second = breaker.execute(() => order.push("second"));
  const controller = new AbortController();
  const leaver = rejection(breaker.execute(() => order.push("leaver"), { signal: controller.signal }));
  assert.equal(breaker.stats().waiting, 2);
  const full = await rejection(breaker.execute(() => 1));
  assert.ok(full instanceof BulkheadFullError);
  assert.match(full.message, /1 calls to function are running already and 2 wait/);
  controller.abort(boom);
  assert.equal(await leaver, boom);
  const late = await rejection(breaker.execute(() => order.push("late"), { timeoutMs: 20 }));
  assert.ok(late instanceof CallTimeoutError && !late.outcomeUnknown, "it was never called");
  const third = breaker.execute(() => order.push("third"));
  gate.resolve("first");
  assert.equal(await first, "first");
  await Promise.all([second, third]);
  assert.deepEqual(order, ["second", "third"]);
  const { successes, full: refused, cancelled, timeouts, waiting, running } = breaker.stats();
  assert.deepEqual([successes, refused, cancelled, timeouts, waiting, running], [3, 1, 1, 1, 0, 0]);
});

test("S1: a function that ignores its signal keeps its place until it ends", async () => {
  const breaker = createBreaker({ concurrencyMax: 1, timeoutMs: 20 });
  const deaf = Promise.withResolvers<string>();
  assert.ok((await rejection(breaker.execute(() => deaf.promise))) instanceof CallTimeoutError);
  assert.ok((await rejection(breaker.execute(() => 1))) instanceof BulkheadFullError);
  deaf.resolve("at last");
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(await breaker.execute(() => 1), 1);
});

test("S1: a function that never ends is given up after 30 s, and gives back its place only once", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const breaker = createBreaker({ concurrencyMax: 1, timeoutMs: null });
  const deaf = Promise.withResolvers<string>();
  const ended = rejection(breaker.execute(() => deaf.promise, { timeoutMs: 20 }));
  t.mock.timers.tick(20);
  assert.ok((await ended) instanceof CallTimeoutError);
  t.mock.timers.tick(29_999);
  assert.equal(breaker.stats().running, 1);
  t.mock.timers.tick(1);
  assert.equal(breaker.stats().running, 0);
  deaf.resolve("after all");
  await deaf.promise;
  assert.equal(breaker.stats().running, 0);
});

test("S1: those that wait are told at once when the breaker opens", async () => {
  const breaker = createBreaker({ concurrencyMax: 1, queueMax: 5, consecutiveFailures: 1 });
  const gate = Promise.withResolvers<string>();
  const running = breaker.execute(() => gate.promise);
  const waiting = [1, 2].map(() => rejection(breaker.execute(() => assert.fail("called"))));
  gate.reject(boom);
  assert.equal(await rejection(running), boom);
  for (const error of await Promise.all(waiting)) assert.ok(error instanceof BreakerOpenError);
});

test("S1, S2, S3: however many wait, and though each ends at once, all have their answer and all places come back", async () => {
  const count = 10_000;
  const breaker = createBreaker({ concurrencyMax: 1, queueMax: count, timeoutMs: null, consecutiveFailures: null, failureRatio: null });
  const gate = Promise.withResolvers<string>();
  const first = breaker.execute(() => gate.promise);
  const waiting = Promise.allSettled(
    Array.from({ length: count }, (_, index) =>
      breaker.execute(() => {
        if (index % 2 === 1) throw boom;
        return index;
      }),
    ),
  );
  assert.equal(breaker.stats().waiting, count);
  gate.resolve("first");
  assert.equal(await first, "first");
  const ends = await waiting;
  assert.deepEqual(
    ends.slice(-2).map((end) => (end.status === "fulfilled" ? end.value : end.reason)),
    [count - 2, boom],
  );
  const { calls, successes, failures, running, waiting: left } = breaker.stats();
  assert.deepEqual([calls, successes, failures, running, left], [count + 1, count / 2 + 1, count / 2, 0, 0]);
});

test("calls that take too long open the breaker while they are still out", async () => {
  const breaker = createBreaker({ timeoutMs: 60_000, slowMs: 20, slowRatio: 0.5, minimumCalls: 5 });
  const controller = new AbortController();
  const out = Array.from({ length: 10 }, () => rejection(breaker.execute(never, { signal: controller.signal, timeoutMs: 60_000 })));
  for (const endMs = performance.now() + 5000; breaker.state !== "open" && performance.now() < endMs; ) await sleep(5);
  assert.equal(breaker.state, "open");
  assert.match(breaker.stats().reason, /calls were slow/);
  controller.abort(boom);
  await Promise.all(out);
  assert.equal(breaker.stats().cancelled, 10);
});

for (const timeoutMs of [30_000, null]) {
  test(`slow calls in flight are judged too where each has a time of its own (${timeoutMs})`, async () => {
    const breaker = createBreaker({ timeoutMs: 60_000, slowMs: 20, slowRatio: 0.5, minimumCalls: 5 });
    const gate = Promise.withResolvers<void>();
    const calls = Array.from({ length: 6 }, () => breaker.execute(() => gate.promise, { timeoutMs }));
    for (const endMs = performance.now() + 5000; breaker.state !== "open" && performance.now() < endMs; ) await sleep(5);
    assert.equal(breaker.state, "open");
    assert.match(breaker.stats().reason, /calls were slow/);
    gate.resolve();
    await Promise.all(calls);
  });
}

test("a call that was slow while it was out, and then succeeds, is one slow call", async (t) => {
  const { pass } = mockedTime(t);
  const breaker = createBreaker({ slowMs: 100, slowRatio: 0.5, ratioRule: "plain", minimumCalls: 4, timeoutMs: 1000 });
  const gate = Promise.withResolvers<void>();
  const slow = breaker.execute(() => gate.promise);
  for (let ms = 0; ms < 200; ms += 10) await pass(10);
  gate.resolve();
  await slow;
  assert.equal(breaker.stats().slow, 1);
  for (let count = 0; count < 2; count += 1) await breaker.execute(async () => count);
  assert.equal(breaker.state, "closed", "one of three, and not two of four");
});

test("calls that are slow and then time out, one after the other, open it as failures in a row, and each is one call of the ratios", async () => {
  const timeouts = { timeoutMs: 12, slowMs: 3 };
  const breaker = createBreaker(timeouts);
  for (let count = 0; count < 5; count += 1) assert.ok((await rejection(breaker.execute(never))) instanceof CallTimeoutError);
  assert.deepEqual([breaker.state, breaker.stats().reason], ["open", "5 failures in a row"]);
  for (const window of [{}, { windowCalls: 50 }]) {
    const byRatio = createBreaker({ ...timeouts, ...window, consecutiveFailures: null, slowRatio: null, minimumCalls: 6 });
    for (let count = 0; count < 6; count += 1) assert.ok((await rejection(byRatio.execute(never))) instanceof CallTimeoutError);
    assert.deepEqual([byRatio.state, byRatio.stats().reason], ["open", "6 of 6 calls failed"]);
  }
});

test("the fallback answers for failures, time-outs and refusals, and is told whether the call may have run; not for a caller's own mistake", async () => {
  const told: [string, boolean][] = [];
  const breaker = createBreaker({
    timeoutMs: 30,
    consecutiveFailures: 2,
    fallback: (error: unknown, { outcomeUnknown }: FallbackContext) => {
      told.push([(error as Error).name, outcomeUnknown]);
      return "kept";
    },
  });
  assert.equal(await breaker.execute(() => Promise.reject(Object.assign(new Error("no"), { code: "ECONNREFUSED" }))), "kept");
  assert.equal(await breaker.execute(never), "kept");
  assert.equal(await breaker.execute(() => 1), "kept");
  assert.equal(await breaker.execute(() => 1, { fallback: () => "its own" }), "its own");
  assert.deepEqual(told, [
    ["Error", false],
    ["CallTimeoutError", true],
    ["BreakerOpenError", false],
  ]);
  breaker.close();
  const mine = Object.assign(new Error("no such order"), { status: 404 });
  assert.equal(await rejection(breaker.execute(() => Promise.reject(mine))), mine);
});

for (const retry of [undefined, { delayMs: 1 }]) {
  const how = retry === undefined ? "once" : "with retries";
  test(`the refusal of a breaker within the function is no proof that the function was not called (${how})`, async () => {
    const closed = createBreaker({ name: "mail", concurrencyMax: 1, queueMax: 1 });
    closed.forceOpen();
    const full = createBreaker({ name: "disk", concurrencyMax: 1, queueMax: 1, timeoutMs: null });
    const gate = Promise.withResolvers<void>();
    const held = full.execute(() => gate.promise);
    const waits = full.execute(() => 1);
    const late = createBreaker({ name: "cache", timeoutMs: 10, idempotent: true });
    const told: [string, boolean][] = [];
    const outer = createBreaker({
      ...(retry === undefined ? {} : { retry }),
      concurrencyMax: 1,
      fallback: (error: unknown, { outcomeUnknown }: FallbackContext) => void told.push([(error as Error).name, outcomeUnknown]),
    });
    let charged = 0;
    for (const inner of [() => closed.execute(() => 1), () => full.execute(() => 1), () => late.execute(never)]) {
      await outer.execute(() => {
        charged += 1;
        return inner();
      });
    }
    assert.equal(charged, 3, "none is called again");
    assert.deepEqual(told, [
      ["BreakerOpenError", true],
      ["BulkheadFullError", true],
      ["CallTimeoutError", true],
    ]);
    gate.resolve();
    await Promise.all([held, waits]);
    const busy = Promise.withResolvers<void>();
    const running = outer.execute(() => busy.promise);
    await outer.execute(() => assert.fail("called"));
    outer.forceOpen();
    await outer.execute(() => assert.fail("called"));
    assert.deepEqual(told.slice(3), [
      ["BulkheadFullError", false],
      ["BreakerOpenError", false],
    ]);
    busy.resolve();
    await running;
  });
}

test("`classify` says what an error proves: to retries, and to the fallback", async () => {
  const proof = { class: "hard", code: "refused", executed: "no" } as const;
  const told: boolean[] = [];
  const fallback = (_: unknown, { outcomeUnknown }: FallbackContext) => void told.push(outcomeUnknown);
  for (const retry of [undefined, { delayMs: 1 }]) {
    let calls = 0;
    const breaker = createBreaker({
      ...(retry === undefined ? {} : { retry }),
      classify: (error) => (error === boom ? proof : null),
      fallback,
    });
    await breaker.execute(() => {
      calls += 1;
      return fails();
    });
    assert.equal(calls, retry === undefined ? 1 : 3);
  }
  assert.deepEqual(told, [false, false]);
});

test("S4: a fallback that hangs ends with the time-out, one that throws with its error", async () => {
  const breaker = createBreaker({ timeoutMs: 20 });
  let signal: AbortSignal | undefined;
  const late = await rejection(
    breaker.execute(fails, {
      fallback: (_, context) => {
        signal = context.signal;
        return never();
      },
    }),
  );
  assert.ok(late instanceof CallTimeoutError);
  assert.equal(signal?.aborted, true);
  const worse = new Error("worse");
  const fallback = () => Promise.reject(worse);
  assert.equal(await rejection(breaker.execute(fails, { fallback, idempotent: true })), worse);
  breaker.forceOpen();
  assert.equal(await rejection(breaker.execute(fails, { fallback })), worse);
});

for (const retry of [undefined, { delayMs: 1 }]) {
  const how = retry === undefined ? "once" : "with retries";
  test(`S4: a fallback that is late, or fails, does not make a call that may have run one that may be repeated (${how})`, async () => {
    const backup = createBreaker({ name: "backup" });
    backup.forceOpen();
    const fallbacks: Readonly<Record<string, Fallback<unknown>>> = {
      "is late": never,
      throws: () => assert.fail("the cache is empty"),
      "is refused by a breaker of its own": () => backup.execute(() => 1),
      // Of the fallback this proves that nothing ran, not of the call.
      "is refused by its host": () => Promise.reject(Object.assign(new Error("no"), { code: "ECONNREFUSED" })),
    };
    for (const [what, fallback] of Object.entries(fallbacks)) {
      for (const work of [never, fails]) {
        let writes = 0;
        const write = () => {
          writes += 1;
          return work();
        };
        const breaker = createBreaker({ name: "pay", timeoutMs: 20, fallback, ...(retry === undefined ? {} : { retry }) });
        const outer = createBreaker({ retry: { delayMs: 1 } });
        const error = await rejection(outer.execute(() => breaker.execute(write)));
        assert.equal(writes, 1, what);
        assert.ok(error instanceof OutcomeUnknownError || error instanceof CallTimeoutError, what);
        assert.deepEqual([error.retriable, error.outcomeUnknown], [false, true], what);
        assert.match(error.message, /pay.*may have run/, what);
        assert.equal(failureOf(error).executed, "unknown", what);
        if (work === fails) assert.equal(error.cause, boom, what);
        else assert.ok(error.cause instanceof CallTimeoutError && error.cause.outcomeUnknown, what);
        if (error instanceof OutcomeUnknownError) assert.ok(error.fallbackError instanceof Error, what);
      }
    }
    const breaker = createBreaker({ timeoutMs: 20, ...(retry === undefined ? {} : { retry }) });
    const itself: Fallback<unknown> = (error) => {
      throw error;
    };
    assert.equal(await rejection(breaker.execute(fails, { fallback: itself })), boom);
  });
}

test("S4: a fallback that is late may have run in the call's place: only where a repeat does no harm is it to be called again", async () => {
  const breaker = createBreaker({ timeoutMs: 20, fallback: never });
  const refused = Object.assign(new Error("no"), { code: "ECONNREFUSED" });
  for (const idempotent of [false, true]) {
    const late = await rejection(breaker.execute(() => Promise.reject(refused), { idempotent }));
    assert.ok(late instanceof CallTimeoutError);
    assert.deepEqual([late.outcomeUnknown, late.retriable, late.cause], [!idempotent, idempotent, refused]);
    if (!idempotent) assert.equal(failureOf(late).executed, "unknown");
  }
});

test("states, events and an operator's word: opened, half-open after its time, closed, forced open, disabled, metrics only", async () => {
  let nowMs = 0;
  const breaker = createBreaker({ consecutiveFailures: 1, openMs: 1000, openJitter: 0, nowMs: () => nowMs });
  const seen: string[] = [];
  for (const event of ["success", "failure", "ignored", "reject", "open", "half_open", "close", "change"] satisfies BreakerEvent[]) {
    breaker.on(event, (value) => seen.push("to" in value && event === "change" ? `${value.from}>${value.to}` : event));
  }
  await rejection(breaker.execute(fails));
  assert.deepEqual([breaker.isOpened, breaker.isClosed, breaker.allows], [true, false, false]);
  assert.match(String(await rejection(breaker.execute(() => 1))), /1 failures in a row, for 1000 ms more/);
  nowMs = 1000;
  assert.equal(breaker.allows, true);
  await breaker.execute(() => 1);
  assert.equal(breaker.isClosed, true);
  assert.deepEqual(seen, [
    "closed>open",
    "open",
    "failure",
    "reject",
    "open>half_open",
    "half_open",
    "half_open>closed",
    "close",
    "success",
  ]);
  breaker.forceOpen("a drill");
  nowMs += 3_600_000;
  assert.match(String(await rejection(breaker.execute(() => 1))), /forced open: a drill/);
  breaker.disable();
  for (let count = 0; count < 10; count += 1) await rejection(breaker.execute(fails));
  assert.equal(breaker.state, "disabled");
  breaker.metricsOnly();
  for (let count = 0; count < 10; count += 1) await rejection(breaker.execute(fails));
  assert.deepEqual([breaker.state, breaker.stats().withheld], ["metrics_only", 10]);
  breaker.open();
  assert.equal(breaker.isOpened, true);
  nowMs += breaker.stats().openForMs ?? 0;
  await breaker.execute(() => 1);
  assert.equal(breaker.state, "closed");
});

test("S4: a listener that throws harms no call and is reported; one that was ended hears nothing", async () => {
  const reported: unknown[] = [];
  const breaker = createBreaker({ onError: (error) => reported.push(error) });
  breaker.on("success", () => {
    throw boom;
  });
  let heard = 0;
  const stop = breaker.on("success", () => {
    heard += 1;
  });
  assert.equal(await breaker.execute(() => 1), 1);
  stop();
  assert.equal(await breaker.execute(() => 1), 1);
  assert.deepEqual([reported, heard], [[boom, boom], 1]);
});

test("S4: what judges by a rule that throws has its answer all the same, its place back, and the rule's error reported", async () => {
  const broken = () => {
    throw new TypeError("the rule is broken");
  };
  for (const [timeoutMs, retry, rules] of [
    [null, {}, 3],
    [5000, {}, 3],
    // What the error proves is asked for too: whether there may be another attempt.
    [null, { retry: { delayMs: 1 }, classify: broken }, 4],
    [5000, { retry: { delayMs: 1 }, classify: broken }, 4],
  ] as const) {
    const reported: unknown[] = [];
    const onError = (error: unknown) => void reported.push(error);
    const breaker = createBreaker({ timeoutMs, ...retry, isFailure: broken, isFailureResult: broken, onError });
    assert.equal(await breaker.execute(() => 1), 1);
    assert.equal(await breaker.execute(async () => 2), 2);
    assert.equal(await rejection(breaker.execute(fails)), boom);
    const { running, successes, failures } = breaker.stats();
    assert.deepEqual([running, successes, failures, reported.length], [0, 2, 1, rules]);
    const refused = Object.assign(new Error("no"), { code: "ECONNREFUSED" });
    let calls = 0;
    const answer = breaker.execute(
      () => {
        calls += 1;
        return Promise.reject(refused);
      },
      { fallback: (error, { outcomeUnknown }) => [error, outcomeUnknown] },
    );
    assert.deepEqual([await answer, calls], [[refused, false], "retry" in retry ? 3 : 1]);
  }
});

test("values can count as failures and are returned all the same; errors can be let off", async () => {
  const breaker = createBreaker({ consecutiveFailures: 2, isFailure: (error) => error !== boom });
  for (let count = 0; count < 5; count += 1) await rejection(breaker.execute(fails));
  assert.equal(breaker.state, "closed");
  for (let count = 0; count < 2; count += 1) assert.equal((await breaker.execute(() => new Response(null, { status: 503 }))).status, 503);
  assert.equal(breaker.state, "open");
});

test("in half-open an answer that does not count closes it, by the default rule and by one of the caller's", async () => {
  for (const [rule, answer] of [
    [{}, { status: 404 }],
    [{}, { response: { status: 409 } }],
    [{}, { code: -32_602 }],
    [{ isFailure: (error: unknown) => error === boom }, {}],
  ] as const) {
    let nowMs = 0;
    const breaker = createBreaker({ ...rule, consecutiveFailures: 1, openMs: 1000, openJitter: 0, nowMs: () => nowMs });
    const said: string[] = [];
    for (const event of ["close", "ignored"] satisfies BreakerEvent[]) breaker.on(event, () => said.push(event));
    const mine = Object.assign(new Error("no such order"), answer);
    await rejection(breaker.execute(fails));
    assert.equal(breaker.state, "open");
    nowMs = 1000;
    assert.equal(await rejection(breaker.execute(() => Promise.reject(mine))), mine);
    assert.deepEqual([breaker.state, breaker.stats().ignored, said], ["closed", 1, ["close", "ignored"]]);
    const others = Array.from({ length: 10 }, () => rejection(breaker.execute(() => Promise.reject(mine))));
    assert.deepEqual(new Set(await Promise.all(others)), new Set([mine]));
  }
});

test("what a breaker knows goes over a restart: what is left of the open time, and the back-off", () => {
  let nowMs = 0;
  const options = { openMs: 10_000, openJitter: 0, nowMs: () => nowMs };
  const before = createBreaker(options);
  before.open();
  nowMs = 4000;
  const kept = before.toJSON();
  const after = createBreaker({ ...options, initial: JSON.parse(JSON.stringify(kept)) });
  assert.ok(Math.abs((after.stats().openForMs ?? 0) - 6000) < 100);
  const later = createBreaker({ ...options, initial: { ...kept, savedAtMs: kept.savedAtMs - 60_000 } });
  assert.deepEqual([later.state, later.allows], ["open", true]);
});

test("an open time over the longest by default is the longest then", () => {
  const breaker = createBreaker({ openMs: 900_000, openJitter: 0, nowMs: () => 0 });
  breaker.open();
  assert.equal(breaker.stats().openForMs, 900_000);
});

test("options that make no sense are refused with their name", () => {
  for (const [options, name] of [
    [{ timeoutMs: 0 }, /timeoutMs/],
    [{ failureRatio: 1.1 }, /failureRatio/],
    [{ queueMax: -1 }, /queueMax/],
    [{ concurrencyMax: 1.5 }, /concurrencyMax/],
    [{ openFactor: Number.NaN }, /openFactor/],
    [{ slowRatio: 0.5 }, /slowMs/],
    [{ retry: { attemptsMax: Number.NaN } }, /retry\.attemptsMax/],
    [{ retry: { attemptsMax: 0 } }, /retry\.attemptsMax/],
    [{ retry: { delayMs: Number.NaN } }, /retry\.delayMs/],
    [{ retry: { delayMs: -1 } }, /retry\.delayMs/],
    [{ retry: { delayMsMax: Number.NaN } }, /retry\.delayMsMax/],
    [{ retry: { attemptTimeoutMs: 0 } }, /retry\.attemptTimeoutMs/],
    [{ retry: { attemptTimeoutMs: Number.NaN } }, /retry\.attemptTimeoutMs/],
  ] as const) {
    assert.throws(() => createBreaker(options), { name: "RangeError", message: name });
  }
});

test("a call's time that makes no sense is refused before its function is called", async () => {
  for (const retry of [undefined, {}]) {
    const breaker = createBreaker(retry === undefined ? {} : { retry });
    for (const timeoutMs of [Number.NaN, -1, 0]) {
      const error = await rejection(breaker.execute(() => assert.fail("called"), { timeoutMs, fallback: () => "kept" }));
      assert.ok(error instanceof RangeError);
      assert.match(error.message, new RegExp(`timeoutMs is ${timeoutMs}: `));
    }
    assert.deepEqual([breaker.stats().calls, breaker.stats().running], [0, 0]);
  }
});

test("a signal that is none is refused before its function is called, in the queue too, and ends no process later", async () => {
  for (const retry of [undefined, {}]) {
    const breaker = createBreaker({ timeoutMs: 30, concurrencyMax: 1, queueMax: 1, ...(retry === undefined ? {} : { retry }) });
    const refused = () =>
      assert.rejects(
        breaker.execute(() => assert.fail("called"), { signal: {} as AbortSignal }),
        { name: "TypeError", message: /^signal is no AbortSignal/ },
      );
    await refused();
    const gate = Promise.withResolvers<void>();
    const holds = breaker.execute(() => gate.promise, { timeoutMs: null });
    await refused();
    gate.resolve();
    await holds;
    // Longer than its time: what was to end the call would find a signal that it cannot leave.
    await sleep(100);
    assert.deepEqual([breaker.stats().running, breaker.stats().waiting], [0, 0]);
  }
});

test("an attempt's time that is longer than a timer can wait does not end it at once", async () => {
  for (const attemptTimeoutMs of [3e9, Number.POSITIVE_INFINITY]) {
    const breaker = createBreaker({ timeoutMs: null, retry: { attemptTimeoutMs } });
    assert.equal(await breaker.execute(() => sleep(20, "answer")), "answer");
  }
});

test("a memory that makes no sense is told, and forgotten: the breaker begins closed and still comes to a trial", async () => {
  const sound = { status: "open", openings: 1, openForMs: 1000, savedAtMs: Date.now() };
  for (const memory of [
    { ...sound, savedAtMs: undefined },
    { ...sound, openings: undefined },
    { ...sound, status: "closed", openings: undefined },
    { ...sound, openForMs: "soon" },
    { ...sound, status: "OPEN" },
    "open",
    null,
  ]) {
    const told: unknown[] = [];
    let nowMs = 0;
    const breaker = createBreaker({
      initial: memory as never,
      consecutiveFailures: 1,
      nowMs: () => nowMs,
      onError: (error) => told.push(error),
    });
    assert.equal(breaker.state, "closed");
    assert.equal(told.length, 1);
    assert.match(String(told[0]), /^RangeError: restore: /);
    await rejection(breaker.execute(fails));
    nowMs += breaker.stats().openForMs ?? Number.NaN;
    assert.equal(await breaker.execute(() => 1), 1);
  }
});

test("retries stay within the call's time and their budget, and say so", async () => {
  const breaker = createBreaker({
    idempotent: true,
    timeoutMs: 10_000,
    consecutiveFailures: null,
    failureRatio: null,
    retry: { delayMs: 1, attemptsMax: 5, attemptTimeoutMs: 40 },
  });
  const attempts: number[] = [];
  breaker.on("retry", ({ attempt }) => attempts.push(attempt));
  assert.equal(await breaker.execute(({ attempt }) => (attempt < 3 ? never() : attempt)), 3);
  assert.deepEqual(attempts, [2, 3]);
  const startedMs = performance.now();
  await rejection(breaker.execute(never, { timeoutMs: 60 }));
  assert.ok(performance.now() - startedMs < patientMs(3000));
  let calls = 0;
  for (let count = 0; count < 150; count += 1) {
    await rejection(
      breaker.execute(() => {
        calls += 1;
        return fails();
      }),
    );
  }
  assert.ok(calls < 150 + 150, `the budget holds retries down: ${calls} calls of 150`);
});

test("the waits between attempts double up to the longest, and are spread over their later half", async (t) => {
  for (const [chance, waits] of [
    [0, [100, 200, 250, 250]],
    [1, [50, 100, 125, 125]],
  ] as const) {
    await t.test(`at ${chance}`, async (inner) => {
      const { now, pass } = mockedTime(inner);
      const retry = { attemptsMax: 5, delayMs: 100, delayMsMax: 250 };
      const breaker = createBreaker({ idempotent: true, consecutiveFailures: null, timeoutMs: 60_000, random: () => chance, retry });
      const atMs: number[] = [];
      const ended = rejection(
        breaker.execute(() => {
          atMs.push(now());
          return fails();
        }),
      );
      await pass(0);
      for (let ms = 0; ms < 1000; ms += 1) await pass(1);
      assert.equal(await ended, boom);
      assert.deepEqual(
        atMs.slice(1).map((one, index) => one - (atMs[index] ?? 0)),
        waits,
      );
    });
  }
});

test("a refusal of the breaker itself is told at once, also where the call might be repeated", async () => {
  const breaker = createBreaker({ idempotent: true, retry: { delayMs: 60_000 } });
  breaker.forceOpen();
  assert.ok((await rejection(breaker.execute(() => assert.fail("called")))) instanceof BreakerOpenError);
  assert.equal(breaker.stats().retries, 0);
});

test("for a caller that left while its function failed nothing is done any more: no other attempt, no fallback", async () => {
  const user = new AbortController();
  const breaker = createBreaker({ idempotent: true, retry: { delayMs: 1 }, fallback: () => assert.fail("the fallback was called") });
  breaker.on("failure", () => user.abort());
  assert.equal(await rejection(breaker.execute(fails, { signal: user.signal })), boom);
  const { retries, fallbacks } = breaker.stats();
  assert.deepEqual([retries, fallbacks], [0, 0]);
});

test("an error of a later attempt that does not count ends the call, and retries leave no listener behind", async () => {
  const user = new AbortController();
  const breaker = createBreaker({ idempotent: true, retry: { delayMs: 1 }, fallback: () => assert.fail("the fallback was called") });
  const none = Object.assign(new Error("there is none"), { status: 404 });
  const attempts: number[] = [];
  const work = ({ attempt }: { attempt: number }) => {
    attempts.push(attempt);
    return Promise.reject(attempt === 1 ? boom : none);
  };
  assert.equal(await rejection(breaker.execute(work, { signal: user.signal })), none);
  assert.deepEqual(attempts, [1, 2]);
  assert.equal(getEventListeners(user.signal, "abort").length, 0);
});

test("of several addresses that failed only all together prove that a call did not run", () => {
  const failed = (...codes: string[]): AggregateError =>
    new AggregateError(
      codes.map((code) => Object.assign(new Error(code), { code })),
      "all failed",
    );
  assert.equal(failureOf(failed("ECONNREFUSED", "ECONNREFUSED")).executed, "no");
  assert.equal(failureOf(failed("ECONNREFUSED", "ECONNRESET")).executed, "unknown");
  assert.equal(failureOf(failed("ECONNREFUSED", "its own")).executed, "unknown");
});

test("S1, S3: whatever calls do, each ends in one count and gives back its place", async () => {
  const kind = fc.constantFrom("ok", "fail", "throw", "hang", "cancel", "slow");
  await fc.assert(
    fc.asyncProperty(
      fc.array(kind, { maxLength: 40 }),
      fc.integer({ min: 1, max: 5 }),
      fc.integer({ min: 0, max: 5 }),
      async (kinds, max, queue) => {
        const breaker = createBreaker({
          timeoutMs: 8,
          slowMs: 3,
          concurrencyMax: max,
          queueMax: queue,
          openMs: 1,
          openMsMax: 1,
          minimumCalls: 4,
        });
        let running = 0;
        let most = 0;
        await Promise.allSettled(
          kinds.map((of) => {
            const controller = new AbortController();
            if (of === "cancel") setTimeout(() => controller.abort(boom), 2);
            return breaker.execute(
              async ({ signal }) => {
                running += 1;
                most = Math.max(most, running);
                try {
                  if (of === "throw") throw boom;
                  if (of === "fail") await fails();
                  if (of === "slow") await sleep(5);
                  if (of === "hang" || of === "cancel")
                    await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
                } finally {
                  running -= 1;
                }
              },
              { signal: controller.signal },
            );
          }),
        );
        while (running > 0) await sleep(1);
        const stats = breaker.stats();
        assert.equal(stats.calls, kinds.length, "S3");
        assert.deepEqual([stats.running, stats.waiting, running], [0, 0, 0]);
        assert.ok(most <= max, "S1");
      },
    ),
    { numRuns: 40 },
  );
});
