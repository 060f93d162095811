import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { memorySeams } from "@mcp-failover/bus/internal";
import {
  BreakerOpenError,
  BulkheadFullError,
  type CallContext,
  CallTimeoutError,
  type Client,
  ClientClosedError,
  createBreaker,
  NoEndpointError,
  OutcomeUnknownError,
} from "@mcp-failover/client";
import { defaultPolicy } from "@mcp-failover/domain";
import { becomes, patientMs } from "@mcp-failover/testkit";
import { Fleet, fetchError, systemError, until, yaml } from "./fleet.ts";

let fleet: Fleet;
beforeEach(async () => {
  fleet = await Fleet.start();
});
afterEach(() => fleet.stop());

const where = ({ endpoint }: CallContext): string => endpoint.name;
const fails = (error: unknown) => (): never => {
  throw error;
};
/** Waits until its signal is aborted, and fails with the reason, as `fetch` does. */
const hang = ({ signal }: CallContext): Promise<never> =>
  new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
async function rejection(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => assert.fail("it did not fail"),
    (error: unknown) => error,
  );
}
const eject = (client: Client, upstream: string) =>
  rejection(client.execute(upstream, fails(systemError("ECONNREFUSED")), { readOnly: true }));

test("a call runs on the active endpoint, and the next one after a failover on the new one", async () => {
  const { client } = await fleet.client();
  const seen = await client.execute("docs", ({ endpoint, epoch, generation, attempt }) => ({ ...endpoint, epoch, generation, attempt }));
  assert.deepEqual(seen, { name: "primary", url: "http://127.0.0.1:1001", epoch: 0, generation: 0, attempt: 1 });
  await fleet.moveTo("docs", "secondary", 1);
  await until("the route is known", () => client.route("docs").epoch === 1);
  assert.equal(await client.execute("docs", where), "secondary");
});

test("a time-out aborts the function's signal, and the call ends then", async () => {
  const { client } = await fleet.client();
  let signal: AbortSignal | undefined;
  const startedMs = Date.now();
  const error = await rejection(
    client.execute(
      "docs",
      (context) => {
        signal = context.signal;
        return hang(context);
      },
      { timeoutMs: 60, readOnly: true },
    ),
  );
  assert.ok(error instanceof CallTimeoutError);
  assert.deepEqual([error.code, error.retriable, error.outcomeUnknown], ["call_timeout", true, false]);
  assert.equal(signal?.aborted, true);
  assert.ok(signal.reason instanceof CallTimeoutError);
  assert.ok(Date.now() - startedMs < patientMs(1000));
});

test("a time-out of a call that may have written says so, and the fallback is not run over it", async () => {
  const { client } = await fleet.client();
  const error = await rejection(client.execute<string>("docs", hang, { timeoutMs: 30, fallback: () => "a second write" }));
  assert.ok(error instanceof CallTimeoutError);
  assert.deepEqual([error.outcomeUnknown, error.retriable], [true, false]);
});

test("a function that ignores its signal cannot hold up its caller, and keeps its place in the bulkhead", async () => {
  const { client } = await fleet.client({ concurrencyMax: 1 });
  const deaf = Promise.withResolvers<string>();
  assert.ok((await rejection(client.execute("docs", () => deaf.promise, { timeoutMs: 20, readOnly: true }))) instanceof CallTimeoutError);
  assert.ok((await rejection(client.execute("docs", where))) instanceof BulkheadFullError);
  deaf.resolve("at last");
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(await client.execute("docs", where, { readOnly: true }), "primary");
});

test("the caller's own signal ends the call with the caller's reason, and blames nobody", async () => {
  const { client } = await fleet.client();
  const controller = new AbortController();
  const running = rejection(
    client.execute("solo", hang, { signal: controller.signal, fallback: fails(new Error("not for a cancelled call")) }),
  );
  controller.abort(new Error("the user left"));
  assert.match(String(await running), /the user left/);
  const gone = AbortSignal.abort(Object.assign(new Error("the user left"), { status: 429 }));
  assert.match(
    String(await rejection(client.execute("solo", where, { signal: gone, fallback: () => "not asked either" }))),
    /the user left/,
  );
  assert.equal(await client.execute("solo", where), "only");
});

test("no more than concurrencyMax calls run at once; the next is refused at once", async () => {
  const { client } = await fleet.client({ concurrencyMax: 3 });
  const gate = Promise.withResolvers<string>();
  const running = [1, 2, 3].map(() => client.execute("docs", () => gate.promise));
  const error = await rejection(client.execute("docs", where));
  assert.ok(error instanceof BulkheadFullError);
  assert.equal(error.code, "bulkhead_full");
  assert.equal(await client.execute("solo", where), "only", "each upstream has its own");
  gate.resolve("done");
  assert.deepEqual(await Promise.all(running), ["done", "done", "done"]);
  assert.equal(await client.execute("docs", where), "primary");
});

test("A1: with queueMax calls wait in turn and within their time, and one more is told at once", async () => {
  const { client } = await fleet.client({ concurrencyMax: 1, queueMax: 2 });
  const gate = Promise.withResolvers<string>();
  const order: string[] = [];
  const first = client.execute("docs", () => gate.promise);
  const second = client.execute("docs", () => order.push("second"));
  const controller = new AbortController();
  const leaver = rejection(client.execute("docs", () => order.push("leaver"), { signal: controller.signal }));
  const full = await rejection(client.execute("docs", where));
  assert.ok(full instanceof BulkheadFullError);
  assert.match(full.message, /1 calls to docs are running already and 2 wait/);
  controller.abort(new Error("the user left"));
  assert.match(String(await leaver), /the user left/);
  const late = await rejection(client.execute("docs", () => order.push("late"), { timeoutMs: 20 }));
  assert.ok(late instanceof CallTimeoutError && !late.outcomeUnknown, "it was never called");
  const third = client.execute("docs", () => order.push("third"));
  gate.resolve("first");
  assert.deepEqual([await first, await second, await third], ["first", 1, 2]);
  assert.deepEqual(order, ["second", "third"]);
  assert.equal(await client.execute("docs", where), "primary");
});

test("a read-only call whose endpoint fails goes to the next one within the same call", async () => {
  const { client } = await fleet.client();
  const tried: string[] = [];
  const answer = await client.execute(
    "docs",
    ({ endpoint }) => {
      tried.push(endpoint.name);
      if (endpoint.name === "primary") throw fetchError("ECONNRESET");
      return endpoint.name;
    },
    { readOnly: true },
  );
  assert.equal(answer, "secondary");
  assert.deepEqual(tried, ["primary", "secondary"]);
});

test("A3: a call whose time is over when it gets its place is not begun", async () => {
  let nowMs = Date.now();
  const { client } = await fleet.client({ concurrencyMax: 1, queueMax: 1, nowMs: () => nowMs });
  const gate = Promise.withResolvers<void>();
  const first = client.execute("docs", () => gate.promise);
  const second = rejection(client.execute("docs", () => assert.fail("called"), { timeoutMs: 20_000 }));
  nowMs += 20_000;
  gate.resolve();
  await first;
  assert.ok((await second) instanceof CallTimeoutError);
});

test("attemptTimeoutMs is not for a write, which has one attempt after which nothing may follow", async () => {
  const { client } = await fleet.client();
  assert.equal(await client.execute("docs", () => sleep(50, "written"), { attemptTimeoutMs: 1, timeoutMs: 20_000 }), "written");
});

test("with attemptTimeoutMs a read that hangs on one endpoint is answered by the next, and the first is aborted", async () => {
  const { client } = await fleet.client();
  const answer = await client.execute("docs", (context) => (where(context) === "primary" ? hang(context) : where(context)), {
    readOnly: true,
    attemptTimeoutMs: 30,
    timeoutMs: 2000,
  });
  assert.equal(answer, "secondary");
});

test("a write is never repeated after a reset: the outcome is unknown, and that is what the caller gets", async () => {
  const { client } = await fleet.client();
  let calls = 0;
  const error = await rejection(
    client.execute<string>(
      "docs",
      () => {
        calls += 1;
        throw fetchError("ECONNRESET");
      },
      { fallback: () => "a second write" },
    ),
  );
  assert.ok(error instanceof OutcomeUnknownError);
  assert.deepEqual([error.code, error.retriable, calls], ["outcome_unknown", false, 1]);
  assert.match(String((error.cause as Error).cause), /ECONNRESET/);
});

test("a write that was refused did not run: it waits for the fleet to move, and runs once on the new endpoint", async () => {
  const { client } = await fleet.client();
  await fleet.health("docs", "secondary", "healthy");
  const tried: string[] = [];
  const running = client.execute("docs", ({ endpoint, epoch }) => {
    tried.push(endpoint.name);
    if (endpoint.name === "primary") throw systemError("ECONNREFUSED");
    return epoch;
  });
  await until("refused once", () => tried.length === 1);
  await fleet.moveTo("docs", "secondary", 1);
  assert.equal(await running, 1);
  assert.deepEqual(tried, ["primary", "secondary"]);
});

test("a write that was refused and that nobody moves ends with a typed error that has the cause, in less than 2 s", async () => {
  const { client } = await fleet.client();
  const waitMs = defaultPolicy.router.epochWaitMs;
  const startedMs = Date.now();
  const sinceMs = (): number => Date.now() - startedMs;
  const plain = sleep(waitMs).then(sinceMs);
  const error = await rejection(client.execute("docs", fails(systemError("ECONNREFUSED"))));
  const tookMs = sinceMs();
  assert.ok(error instanceof NoEndpointError);
  assert.deepEqual([error.code, error.retriable, (error.cause as { code: string }).code], ["no_endpoint", true, "ECONNREFUSED"]);
  assert.ok(tookMs < (await plain) + 500, "no longer than the wait, beside what the event loop is late");
  const solo = Date.now();
  assert.ok((await rejection(client.execute("solo", fails(systemError("ECONNREFUSED"))))) instanceof NoEndpointError);
  assert.ok(Date.now() - solo < waitMs - 300, "where there is nowhere to go it does not wait");
});

test("a refused write does not wait where the fleet has nowhere to move it", async () => {
  const { client } = await fleet.client();
  await fleet.breaker("docs", "secondary", { status: "open", generation: 1, openUntilMs: Date.now() + 60_000 });
  await until("known", () => client.status().upstreams[0]?.endpoints[1]?.breaker === "open");
  const startedMs = Date.now();
  assert.ok((await rejection(client.execute("docs", fails(systemError("ECONNREFUSED"))))) instanceof NoEndpointError);
  assert.ok(Date.now() - startedMs < patientMs(1200));
});

test("a refused write waits neither while an operator holds the upstream, nor while the controller has nowhere to move it, and does once it was moved", async () => {
  // A client for each, because one that has met refusals makes no call any more.
  const refused = async (): Promise<number> => {
    const { client } = await fleet.client();
    const startedMs = Date.now();
    assert.ok((await rejection(client.execute("docs", fails(systemError("ECONNREFUSED"))))) instanceof NoEndpointError);
    return Date.now() - startedMs;
  };
  const waitMs = defaultPolicy.router.epochWaitMs;
  const by = { kind: "operator", id: "ann" } as const;
  await fleet.moveTo("docs", "primary", 1, 0, { by, reason: "test", sinceMs: Date.now(), untilMs: null });
  assert.ok((await refused()) < waitMs - 300, "held");
  await fleet.moveTo("docs", "primary", 2);
  await fleet.failing("docs");
  assert.ok((await refused()) < waitMs - 300, "nowhere to go");
  await fleet.moveTo("docs", "primary", 3);
  assert.ok((await refused()) >= waitMs - 10, "moved since");
});

test("an endpoint with another address is called there, and what the old one had earned is forgotten", async () => {
  const { client } = await fleet.client();
  const url = ({ endpoint }: CallContext): string => endpoint.url;
  for (let count = 0; count < defaultPolicy.localBreaker.failures; count += 1)
    await rejection(client.execute("solo", fails(fetchError("ECONNRESET"))));
  assert.ok((await rejection(client.execute("solo", url))) instanceof BreakerOpenError);
  await fleet.configure(yaml.replace("http://127.0.0.1:2001", "http://127.0.0.1:2002"));
  await until("the new address is known", () => client.configuration("solo").endpoints[0]?.url.endsWith(":2002") === true);
  assert.equal(await client.execute("solo", url), "http://127.0.0.1:2002");
});

test("no fallback for a caller that left, also with a reason that looks like a refusal, as that of a breaker around the call does", async () => {
  const { client } = await fleet.client();
  const user = new AbortController();
  const running = client.execute("docs", hang, { readOnly: true, signal: user.signal, fallback: () => assert.fail("called") });
  const reason = new CallTimeoutError("around it", 1, false);
  user.abort(reason);
  assert.equal(await rejection(running), reason);
});

test("only a part of the calls is repeated, so that what is overloaded is not called twice as often", async () => {
  const startMs = Date.now();
  const { client } = await fleet.client({ nowMs: () => startMs });
  let called = 0;
  const busy = () => {
    called += 1;
    throw Object.assign(new Error("busy"), { status: 429 });
  };
  for (let call = 0; call < 200; call += 1) await rejection(client.execute("docs", busy, { readOnly: true }));
  // A fifth of them, and what ten a second have saved up in ten seconds at most.
  assert.ok(called > 200 && called <= 200 + 40 + 100, `${called} for 200 calls`);
});

test("a write never goes to the standby of active_standby, not even an idempotent one", async () => {
  const { client } = await fleet.client();
  const tried: string[] = [];
  const error = await rejection(
    client.execute(
      "docs",
      ({ endpoint }) => {
        tried.push(endpoint.name);
        throw fetchError("ECONNRESET");
      },
      { idempotent: true, timeoutMs: 400 },
    ),
  );
  assert.ok(error instanceof NoEndpointError || error instanceof CallTimeoutError);
  assert.deepEqual(tried, ["primary", "primary"]);
});

test("what the endpoint answered on purpose is the caller's: no repeat, no breaker, no fallback", async () => {
  const { client } = await fleet.client();
  for (const [index, answer] of [
    Object.assign(new Error("no such document"), { status: 404 }),
    Object.assign(new Error("who are you"), { response: { status: 401 } }),
    Object.assign(new Error("method not found"), { code: -32601 }),
    new Error("a mistake in the function"),
  ].entries()) {
    for (let round = 0; round < 5; round += 1) {
      let calls = 0;
      const call = (): never => {
        calls += 1;
        throw answer;
      };
      assert.equal(
        await rejection(client.execute("solo", call, { readOnly: true, fallback: fails(new Error("not asked")) })),
        answer,
        `case ${index}`,
      );
      assert.equal(calls, 1);
    }
  }
  assert.equal(await client.execute("solo", where), "only");
});

test("5xx answers count against the endpoint, thrown or returned as a Response, and `classify` has the last word", async () => {
  const { client } = await fleet.client();
  for (let round = 0; round < defaultPolicy.localBreaker.failures; round += 1) {
    assert.equal((await client.execute("solo", () => new Response(null, { status: 503 }))).status, 503);
  }
  assert.ok((await rejection(client.execute("solo", where))) instanceof BreakerOpenError);
  const mine = new Error("mine");
  await rejection(
    client.execute("docs", fails(mine), { readOnly: true, classify: () => ({ class: "hard", code: "refused", executed: "no" }) }),
  );
  assert.ok((await rejection(client.execute("docs", where, { readOnly: true }))) instanceof BreakerOpenError, "both were ejected");
});

test("the fleet's open breaker stops calls: reads go to the standby, and where there is none the function is not called", async () => {
  const { client } = await fleet.client();
  await fleet.breaker("docs", "primary", { status: "open", generation: 1, openUntilMs: Date.now() + 60_000 });
  await fleet.breaker("solo", "only", { status: "open", generation: 1, openUntilMs: Date.now() + 60_000 });
  await until("the breakers are known", () => client.status().upstreams.every((one) => one.endpoints[0]?.breaker === "open"));
  assert.equal(await client.execute("docs", where, { readOnly: true }), "secondary");
  const error = await rejection(client.execute("solo", () => assert.fail("called")));
  assert.ok(error instanceof BreakerOpenError);
  assert.deepEqual([error.code, error.retriable], ["breaker_open", true]);
  assert.match(error.message, /only: the fleet's breaker is open/);
  assert.equal(await client.execute("solo", () => assert.fail("called"), { fallback: () => "from the cache" }), "from the cache");
});

test("a forced-open breaker lets nothing through however long it lasts; a disabled one stops nothing", async () => {
  let nowMs = Date.now();
  const { client } = await fleet.client({ nowMs: () => nowMs });
  await fleet.breaker("solo", "only", { status: "forced_open", generation: 1 });
  await until("known", () => client.status().upstreams[1]?.endpoints[0]?.breaker === "forced_open");
  nowMs += 3_600_000;
  assert.ok((await rejection(client.execute("solo", where))) instanceof BreakerOpenError);
  await fleet.breaker("solo", "only", { status: "disabled", generation: 2 });
  await until("known", () => client.status().upstreams[1]?.endpoints[0]?.breaker === "disabled");
  await eject(client, "solo");
  assert.equal(await client.execute("solo", where), "only");
});

test("a wall clock that is set back an hour makes no ejection, and no wait for a trial, longer; set ahead, it ends no call", async (t) => {
  const wallMs = Date.now;
  let aheadMs = 0;
  t.mock.method(Date, "now", () => wallMs() + aheadMs);
  const { client } = await fleet.client();
  await eject(client, "solo");
  aheadMs = -3_600_000;
  const endMs = performance.now() + 10_000;
  let seen = "";
  while (seen !== "only" && performance.now() < endMs) {
    seen = await client.execute("solo", where).catch(() => "out");
    await sleep(50);
  }
  assert.equal(seen, "only");
  const held = client.execute("solo", () => sleep(30).then(() => "done"), { timeoutMs: 60_000, readOnly: true });
  aheadMs = 3_600_000;
  assert.equal(await held, "done");
  assert.equal(await client.execute("solo", where, { timeoutMs: 60_000 }), "only");
});

test("panic: with every endpoint out, each is tried at most once a second, so that a recovery is found", async () => {
  let nowMs = Date.now();
  const { client } = await fleet.client({ nowMs: () => nowMs });
  await fleet.breaker("solo", "only", { status: "open", generation: 1, openUntilMs: nowMs + 300_000 });
  await until("known", () => client.status().upstreams[1]?.endpoints[0]?.breaker === "open");
  assert.ok((await rejection(client.execute("solo", where))) instanceof BreakerOpenError);
  nowMs += 1100;
  assert.equal(await client.execute("solo", where), "only");
  assert.ok((await rejection(client.execute("solo", where))) instanceof BreakerOpenError);
});

test("a fallback serves a call that no endpoint takes; it has a time-out of its own that aborts it", async () => {
  const { client } = await fleet.client();
  const refused = fails(systemError("ECONNREFUSED"));
  assert.equal(await client.execute<string>("solo", refused, { fallback: (error) => (error as NoEndpointError).code }), "no_endpoint");
  for (const [safe, outcomeUnknown] of [
    [{}, true],
    [{ idempotent: true }, false],
    [{ readOnly: true }, false],
  ] as const) {
    let signal: AbortSignal | undefined;
    const late = await rejection(
      client.execute("solo", refused, {
        ...safe,
        timeoutMs: 40,
        fallback: (_, context) => {
          signal = context.signal;
          return new Promise<never>(() => undefined);
        },
      }),
    );
    assert.ok(late instanceof CallTimeoutError);
    assert.equal(signal?.aborted, true);
    assert.deepEqual([late.outcomeUnknown, late.retriable], [outcomeUnknown, !outcomeUnknown], "the fallback may have run");
    assert.ok(late.cause instanceof Error);
  }
});

test("a refusal out of the function is no proof that it did not run: the fallback serves only calls that may run twice", async () => {
  const { client } = await fleet.client();
  const { client: small } = await fleet.client({ concurrencyMax: 1 });
  const gate = Promise.withResolvers<void>();
  const held = small.execute("docs", () => gate.promise);
  const closed = createBreaker({ name: "mail" });
  closed.forceOpen();
  const late = createBreaker({ name: "cache", timeoutMs: 10, idempotent: true });
  const fallback = (): string => "fallback";
  for (const [inner, expected] of [
    [() => closed.execute(() => "mail"), BreakerOpenError],
    [() => late.execute<string>(() => new Promise(() => undefined)), CallTimeoutError],
    [() => small.execute("docs", where), BulkheadFullError],
    [fails(new NoEndpointError("search", "its routes are not known")), NoEndpointError],
  ] as const) {
    let calls = 0;
    const call = (): string | Promise<string> => {
      calls += 1;
      return inner();
    };
    assert.ok((await rejection(client.execute<string>("docs", call, { fallback }))) instanceof expected, expected.name);
    assert.equal(calls, 1);
    for (const safe of [{ readOnly: true }, { idempotent: true }])
      assert.equal(await client.execute<string>("docs", call, { ...safe, fallback }), "fallback");
  }
  gate.resolve();
  await held;
});

test("after a 429, which is no proof that nothing ran, the fallback serves only calls that may run twice", async () => {
  const { client } = await fleet.client();
  const limited = fails(Object.assign(new Error("slow down"), { status: 429 }));
  const fallback = (): string => "fallback";
  assert.equal(((await rejection(client.execute<string>("docs", limited, { fallback }))) as { status?: number }).status, 429);
  for (const safe of [{ readOnly: true }, { idempotent: true }])
    assert.equal(await client.execute<string>("docs", limited, { ...safe, fallback }), "fallback");
  const proven = { classify: () => ({ class: "soft", code: null, executed: "no" }) as const };
  assert.equal(await client.execute<string>("docs", limited, { ...proven, fallback }), "fallback");
});

test("a time-out longer than a timer can wait is none: the call is not ended at once", async () => {
  const { client } = await fleet.client();
  for (const timeoutMs of [Number.POSITIVE_INFINITY, 2 ** 31])
    assert.equal(await client.execute("docs", () => new Promise((resolve) => setTimeout(resolve, 30, "late")), { timeoutMs }), "late");
});

test("when the bus is cut calls go on with the last routes, and when it is back the client learns what it missed", async () => {
  const { client, bus } = await fleet.client();
  await fleet.moveTo("docs", "secondary", 1);
  await until("epoch 1", () => client.route("docs").epoch === 1);
  memorySeams(bus).cut();
  assert.equal(client.status().connected, false);
  for (let call = 0; call < 20; call += 1) assert.equal(await client.execute("docs", where), "secondary");
  const startedMs = Date.now();
  assert.ok((await rejection(client.execute("docs", fails(systemError("ECONNREFUSED"))))) instanceof NoEndpointError);
  assert.ok(Date.now() - startedMs < patientMs(1200), "a write does not wait for a move that it would not hear of");
  await fleet.moveTo("docs", "primary", 2);
  assert.equal(client.route("docs").epoch, 1);
  memorySeams(bus).restore();
  await until("epoch 2", () => client.route("docs").epoch === 2);
  assert.equal(await client.execute("docs", where), "primary");
});

test("a pool is balanced over the tier that its active endpoint has by the configuration, as in the router: the decision may be older", async () => {
  const pool = (tier: number): string => `upstreams:
  docs:
    kind: http
    mode: pool
    balancing: round_robin
    endpoints:
      - { name: primary, url: "http://127.0.0.1:1001", tier: ${tier} }
      - { name: secondary, url: "http://127.0.0.1:1002", tier: 1 }
      - { name: third, url: "http://127.0.0.1:1003", tier: 0 }
`;
  await fleet.configure(pool(0));
  await fleet.moveTo("docs", "primary", 1);
  for (const name of ["primary", "secondary", "third"]) await fleet.health("docs", name, "healthy");
  const { client } = await fleet.client();
  const called = async (): Promise<string[]> => {
    const names = await Promise.all(Array.from({ length: 8 }, () => client.execute("docs", where, { readOnly: true })));
    return [...new Set(names)].sort();
  };
  assert.deepEqual(await called(), ["primary", "third"]);
  await fleet.configure(pool(1));
  await becomes(called, (names) => names.join() === "primary,secondary");
});

test("a route of an older epoch or generation never replaces a newer one", async () => {
  const { client } = await fleet.client();
  await fleet.moveTo("docs", "secondary", 5, 2);
  await until("epoch 5", () => client.route("docs").epoch === 5);
  await fleet.moveTo("docs", "primary", 4, 2);
  await fleet.moveTo("docs", "primary", 9, 1);
  await fleet.moveTo("solo", "only", 1);
  await until("all is read", () => client.route("solo").epoch === 1);
  assert.deepEqual([client.route("docs").endpoint.name, client.route("docs").epoch], ["secondary", 5]);
});

test("closing a client ends the calls that wait, for a place or for the fleet, and lets those run that have begun", async () => {
  const { client } = await fleet.client({ concurrencyMax: 1, queueMax: 1 });
  const gate = Promise.withResolvers<string>();
  const running = client.execute("docs", () => gate.promise);
  const queued = rejection(client.execute("docs", where));
  const { client: second } = await fleet.client();
  // It provably did not run, so the call waits for a move.
  const waiting = rejection(second.execute("docs", fails(systemError("ECONNREFUSED"))));
  await sleep(20);
  await Promise.all([client.close(), second.close()]);
  for (const error of await Promise.all([queued, waiting])) assert.ok(error instanceof ClientClosedError, String(error));
  gate.resolve("done");
  assert.equal(await running, "done");
});

test("times, limits and signals that make no sense are refused by name before anything is called, and count against no endpoint", async () => {
  const { client } = await fleet.client();
  const none = (): never => assert.fail("called");
  for (const [options, told] of [
    [{ timeoutMs: Number.NaN }, { name: "RangeError", message: /^timeoutMs is NaN: / }],
    [{ attemptTimeoutMs: Number.NaN }, { name: "RangeError", message: /^attemptTimeoutMs is NaN: / }],
    [{ attemptTimeoutMs: 0 }, { name: "RangeError", message: /^attemptTimeoutMs is 0: / }],
    [{ signal: {} as AbortSignal }, { name: "TypeError", message: /^signal is no AbortSignal/ }],
  ] as const) {
    // As often as opens a local breaker.
    for (let count = 0; count < 6; count += 1)
      await assert.rejects(client.execute("docs", none, { readOnly: true, fallback: none, ...options }), told);
  }
  assert.equal(await client.execute("docs", where), "primary");
  // A NaN that was let through would be no limit at all.
  for (const name of ["concurrencyMax", "queueMax"] as const) {
    for (const value of [Number.NaN, -1, 1.5]) {
      assert.throws(() => fleet.newClient({ [name]: value }), { name: "RangeError", message: new RegExp(`^${name} is ${value}: `) });
    }
  }
});
