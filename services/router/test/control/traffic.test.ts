import assert from "node:assert/strict";
import { test } from "node:test";
import { BusError } from "@mcp-failover/bus";
import { encodeBody, memorySeams } from "@mcp-failover/bus/internal";
import {
  type Event,
  latencyBucketsMs,
  makeEvent,
  type OutcomeClass,
  parseEvent,
  type TrafficEndpoint,
  type TrafficObserved,
  type TrafficTool,
} from "@mcp-failover/contracts";
import { defaultPolicy } from "@mcp-failover/domain";
import fc from "fast-check";
import type { AttemptResult } from "../../src/control/port.ts";
import { TrafficReport } from "../../src/control/traffic-report.ts";
import {
  type ClosedWindow,
  countCall,
  countTool,
  type EndedCall,
  emptyWindow,
  endpointsOf,
  entriesMax,
  InFlight,
  InFlightCalls,
  mergeWindows,
} from "../../src/control/traffic-window.ts";
import { attemptOf, describe, type Fixture, ok, play, refused, reset, settled, start, until } from "./fixture.ts";

const anyCall: fc.Arbitrary<EndedCall> = fc.record({
  outcome: fc.constantFrom<OutcomeClass>("ok", "hard", "hard", "soft", "auth", "caller"),
  code: fc.constant(null),
  latencyMs: fc.nat(12_000),
  atMs: fc.nat(1000),
});
function windowOf(calls: readonly EndedCall[]): ClosedWindow {
  const window = emptyWindow(0);
  for (const call of calls) countCall(window, { upstream: "u", endpoint: "e", generation: 0 }, call);
  return window;
}
const only = (window: ClosedWindow): TrafficEndpoint | undefined => endpointsOf(window, new InFlightCalls().at(0))[0];

test("W2: counts, runs and latencies are exact", () => {
  fc.assert(
    fc.property(fc.array(anyCall, { minLength: 1 }), (calls) => {
      const counted = only(windowOf(calls));
      assert.ok(counted);
      for (const outcome of ["ok", "hard", "soft", "auth", "caller"] as const) {
        assert.equal(counted[outcome], calls.filter((call) => call.outcome === outcome).length);
      }
      const notHard = (call: EndedCall) => call.outcome !== "hard";
      const head = calls.findIndex(notHard);
      assert.equal(counted.hardRunHead, head === -1 ? calls.length : head);
      assert.equal(counted.hardRunTail, calls.length - 1 - calls.findLastIndex(notHard));
      assert.equal(
        counted.latency.reduce((sum, count) => sum + count, 0),
        calls.length,
      );
      counted.latency.forEach((count, index) => {
        const [over, upTo] = [latencyBucketsMs[index - 1] ?? -1, latencyBucketsMs[index] ?? Number.POSITIVE_INFINITY];
        assert.equal(count, calls.filter(({ latencyMs }) => latencyMs > over && latencyMs <= upTo).length);
      });
      assert.equal(counted.latencyMsMax, Math.max(...calls.map(({ latencyMs }) => latencyMs)));
    }),
  );
});

test("W2: windows that were merged, in any grouping, are the window of all their calls", () => {
  fc.assert(
    fc.property(fc.array(fc.array(anyCall, { maxLength: 6 }), { minLength: 1, maxLength: 6 }), (windows) => {
      const [first, ...others] = windows.map(windowOf);
      assert.ok(first);
      const fromLeft = others.reduce(mergeWindows, first);
      const all = windows.map(windowOf);
      const last = all.pop() ?? emptyWindow(0);
      const fromRight = all.reduceRight((later, earlier) => mergeWindows(earlier, later), last);
      const whole = only(windowOf(windows.flat()));
      assert.deepEqual(only(fromLeft), whole);
      assert.deepEqual(only(fromRight), whole);
    }),
  );
});

test("W3: a window holds a bounded number of endpoints and tools, also when merged, and counts what it leaves out", () => {
  const filled = (prefix: string) => {
    const window = emptyWindow(0);
    for (let index = 0; index < entriesMax + 10; index += 1) {
      countCall(window, { upstream: prefix, endpoint: `e${index}`, generation: 0 }, { outcome: "ok", code: null, latencyMs: 1, atMs: 0 });
      countTool(window, { upstream: prefix, tool: `t${index}`, agent: null, implementation: "mcp", error: false, latencyMs: 1 });
    }
    return window;
  };
  const one = filled("a");
  assert.deepEqual([one.endpoints.size, one.tools.size, one.leftOut], [entriesMax, entriesMax, 20]);
  const merged = mergeWindows(one, filled("b"));
  assert.deepEqual([merged.endpoints.size, merged.tools.size, merged.leftOut], [entriesMax, entriesMax, 40 + 2 * entriesMax]);
});

test("in flight: the count and the age of the oldest, whatever ends first", () => {
  const calls = new InFlightCalls();
  const started = [0, 10, 20].map((startedAtMs) => new InFlight({ upstream: "u", endpoint: "e", generation: 3 }, startedAtMs));
  for (const call of started) calls.begin(call);
  const [first, second] = started;
  assert.ok(first && second);
  calls.end(second);
  const flying = (nowMs: number) => [...calls.at(nowMs).values()].map(({ count, oldestMs, slow }) => ({ count, oldestMs, slow }));
  assert.deepEqual(flying(100), [{ count: 2, oldestMs: 100, slow: 0 }]);
  assert.deepEqual(flying(5010), [{ count: 2, oldestMs: 5010, slow: 1 }], "the second is not 5 s old yet");
  calls.end(first);
  calls.end(first);
  assert.deepEqual(flying(100), [{ count: 1, oldestMs: 80, slow: 0 }]);
});

test("calls of two generations of the breaker are told apart, the older first", () => {
  const window = emptyWindow(0);
  const place = (generation: number) => ({ upstream: "u", endpoint: "e", generation });
  const ended = { outcome: "ok", code: null, latencyMs: 1, atMs: 0 } as const;
  for (const generation of [4, 3, 4]) countCall(window, place(generation), ended);
  const calls = new InFlightCalls();
  calls.begin(new InFlight(place(2), 0));
  const told = endpointsOf(window, calls.at(50), () => ({ hung: true, restMs: 700 }));
  assert.deepEqual(
    told.map((one) => [one.breakerGeneration, one.ok, one.inFlight, one.hung, one.retryAfterMs]),
    [
      [2, 0, 1, true, 700],
      [3, 1, 0, undefined, 700],
      [4, 2, 0, undefined, 700],
    ],
    "nothing hangs where nothing is out",
  );
});

test("whatever is counted is told in messages that every reader takes: nobody looks at them before they are sent", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const name = fc.oneof(fc.constantFrom("u", "v"), fc.string({ minLength: 1, maxLength: 300, unit: "binary" }));
  const latencyMs = fc.double({ min: 0, max: 1e7, noNaN: true });
  const code = fc.constantFrom(null, "timeout" as const, "reset" as const, "http_5xx" as const);
  const outcome = fc.constantFrom<OutcomeClass>("ok", "hard", "soft", "auth", "caller");
  const atMs = fc.nat(1e12);
  const happening = fc.oneof(
    fc.record({ kind: fc.constant("call" as const), upstream: name, endpoint: name, outcome, code, latencyMs, atMs, ends: fc.boolean() }),
    fc.record({
      kind: fc.constant("tool" as const),
      upstream: name,
      tool: name,
      agent: fc.option(name),
      implementation: fc.constantFrom("mcp" as const, "legacy" as const),
      error: fc.boolean(),
      latencyMs,
    }),
    fc.record({
      kind: fc.constant("unknown" as const),
      operationId: fc.uuid(),
      upstream: name,
      endpoint: fc.option(name),
      method: name,
      tool: fc.option(name),
      agent: fc.option(name),
      code,
      atMs,
    }),
    // Also clocks that are set back.
    fc.record({ kind: fc.constant("later" as const), byMs: fc.integer({ min: -100_000, max: 100_000 }) }),
  );
  let checked = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(happening, { maxLength: 30 }), fc.double({ min: 0, max: 1e6, noNaN: true }), async (happenings, restMs) => {
      let nowMs = 1_700_000_000_000;
      const sent: Event<"traffic.observed">[] = [];
      const report = new TrafficReport({
        bus: {
          status: { kind: "connected", server: "test", serverVersion: "0" },
          append: async (event) => {
            sent.push(event as Event<"traffic.observed">);
            return { seq: sent.length, duplicate: false };
          },
        },
        router: "router-1",
        nowMs: () => nowMs,
        makeEvent: (data) =>
          makeEvent({
            type: "traffic.observed",
            keys: ["router-1"],
            service: "router",
            instance: "router-1",
            id: `m${sent.length}`,
            timeMs: 1,
            data,
          }),
        held: () => ({ routes: { u: { generation: 1, epoch: 2, eventId: null, active: "e" } }, rollbacks: {}, rollbackIds: {} }),
        remarksOn: () => ({ hung: true, restMs }),
        windowMs: 250,
        onProblem: (error) => assert.fail(String(error)),
      });
      for (const one of happenings) {
        if (one.kind === "call") {
          const call = report.begin(one.upstream, one.endpoint, 3);
          report.hedge(call, one.ends);
          if (one.ends) report.end(call, one);
        } else if (one.kind === "tool") report.tool(one);
        else if (one.kind === "unknown") {
          const { kind: _, ...unknown } = one;
          report.unknown(unknown);
        } else {
          nowMs += one.byMs;
          t.mock.timers.tick(250);
          await Promise.resolve();
        }
      }
      await report.stop();
      for (const event of sent) {
        const { subject, bytes } = encodeBody(event);
        const read = parseEvent(subject, bytes);
        assert.ok(read.ok, read.ok ? "" : read.reason);
        checked += 1;
      }
    }),
    { numRuns: 200 },
  );
  assert.ok(checked > 200);
});

/** What all messages together say of one endpoint. */
function sum(traffic: readonly TrafficObserved[], endpoint: string): Record<OutcomeClass, number> {
  const all = traffic.flatMap(({ endpoints }) => endpoints.filter((one) => one.endpoint === endpoint));
  const of = (outcome: OutcomeClass) => all.reduce((total, one) => total + one[outcome], 0);
  return { ok: of("ok"), hard: of("hard"), soft: of("soft"), auth: of("auth"), caller: of("caller") };
}

test("W1: every call is in the log exactly once, also when acknowledgements are lost and the log is away for a while", async (t) => {
  const fixture = await start(t);
  const results: AttemptResult[] = [
    ok,
    { outcome: "caller", httpStatus: 200, toolError: true },
    { outcome: "soft", httpStatus: 429, toolError: false },
    { outcome: "auth", httpStatus: 403, toolError: false },
  ];
  const wanted = { ok: 0, hard: 0, soft: 0, auth: 0, caller: 0 };
  for (let round = 0; round < 40; round += 1) {
    if (round === 10) memorySeams(fixture.bus).losePublishes(1, { stored: true });
    if (round === 15) memorySeams(fixture.bus).losePublishes(1, { stored: false });
    if (round === 20) fixture.cut();
    if (round === 30) fixture.restore();
    const result = results[round % results.length] ?? ok;
    (await attemptOf(fixture.control.begin(describe(fixture, { tool: "ship_order" })))).done(result);
    wanted[result.outcome as OutcomeClass] += 1;
    await settled(25);
  }
  await until("everything is in the log", () => JSON.stringify(sum(fixture.traffic, "primary")) === JSON.stringify(wanted), 6000);
  assert.deepEqual(fixture.control.backlog(), { windows: 0, messages: 0, dropped: 0 });
});

test("W1: a message whose fate is unknown is sent again with the same id, and what the log will never take holds nothing up", async () => {
  const sent: string[] = [];
  const failures: BusError[] = [
    new BusError("timeout", "no acknowledgement", { retriable: true }),
    new BusError("too_large", "over the limit", { retriable: false }),
  ];
  let serial = 0;
  const report = new TrafficReport({
    bus: {
      status: { kind: "connected", server: "test", serverVersion: "0" },
      append: async (event) => {
        sent.push(event.id);
        const failure = failures.shift();
        if (failure !== undefined) throw failure;
        return { seq: sent.length, duplicate: false };
      },
    },
    router: "router-1",
    nowMs: () => Date.now(),
    makeEvent: (data) => {
      serial += 1;
      return { id: `m${serial}`, type: "traffic.observed", data } as Event<"traffic.observed">;
    },
    held: () => ({ routes: {}, rollbacks: {}, rollbackIds: {} }),
    windowMs: 10,
    onProblem: () => undefined,
  });
  report.end(report.begin("u", "e", 0), { outcome: "ok", code: null, latencyMs: 1, atMs: 1 });
  await until("the refused message is given up", () => report.dropped === 1);
  assert.deepEqual(sent.slice(0, 2), ["m1", "m1"]);
  report.end(report.begin("u", "e", 0), { outcome: "ok", code: null, latencyMs: 1, atMs: 1 });
  await until("the next message goes out", () => sent.length >= 3);
  assert.equal(sent[2], "m2");
  await report.stop();
});

test("the tool's window: one call for MCP whatever its attempts, errors by tool, agent and implementation", async (t) => {
  const fixture = await start(t);
  const call = (tool: string, agent: string | null, answer: (endpoint: string) => AttemptResult) =>
    play(fixture.control.begin(describe(fixture, { tool, agent })), answer);
  await call("get_inventory", null, (name) => (name === "primary" ? refused : ok));
  await call("get_inventory", null, () => ok);
  await call("get_inventory", "picker", () => ({ outcome: "caller", httpStatus: 200, toolError: true }));
  await call("get_inventory", null, () => refused);
  await call("get_inventory", null, () => ({ outcome: "caller", httpStatus: 200, toolError: false }));
  const late = fixture.control.begin(describe(fixture, { deadlineMs: fixture.clock.nowMs - 1 }));
  assert.deepEqual([await late.next(), late.problem().code], [null, "deadline"], "which says nothing of the tool");
  const tools = () => fixture.traffic.flatMap((one) => one.tools);
  await until("both windows came", () => tools().reduce((total, { calls }) => total + calls, 0) === 5);
  const total = (agent: string | null, pick: (one: TrafficTool) => number) =>
    tools()
      .filter((one) => one.agent === agent && one.implementation === "mcp")
      .reduce((sum, one) => sum + pick(one), 0);
  assert.deepEqual([total(null, ({ calls }) => calls), total(null, ({ errors }) => errors)], [4, 1]);
  assert.deepEqual([total("picker", ({ calls }) => calls), total("picker", ({ errors }) => errors)], [1, 1]);
});

test("R2: a call that its client gave up counts as slow after `response_time`, sooner nowhere, and never as failed; the endpoint is not judged by it", async (t) => {
  const yaml = `
upstreams:
  warehouse:
    kind: mcp
    endpoints: [{ name: primary, url: "http://127.0.0.1:1/mcp", tier: 0 }]
    tools:
      get_inventory: { read_only: true, legacy: { url: "http://127.0.0.1:9/" } }
      count_stock: { legacy: { url: "http://127.0.0.1:9/" } }
rollback: { rollback_thresholds: { response_time: 2.5 } }
`;
  let monotonicMs = 1000;
  const fixture = await start(t, {
    yaml,
    monotonicMs: () => monotonicMs,
    callLegacy: ({ signal }) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(new Error("left")))),
  });
  await fixture.rollback("tool", "count_stock", 0, 1);
  for (const tookMs of [2400, 2600, 60_000]) {
    const call = fixture.control.begin(describe(fixture));
    const attempt = await attemptOf(call);
    monotonicMs += tookMs;
    call.end("given_up");
    assert.equal(await call.next(), null);
    assert.equal(call.legacy, null);
    // What the data plane says of it afterwards is too late.
    assert.deepEqual(attempt.done(reset), { retry: false });
    call.end("error");

    const legacy = fixture.control.begin(describe(fixture, { tool: "count_stock" }));
    const left = new AbortController();
    const runs = legacy.legacy?.({}, left.signal, "op");
    await settled();
    monotonicMs += tookMs;
    legacy.end("given_up");
    left.abort();
    await assert.rejects(async () => runs);
    legacy.end("error");
  }
  // Nothing was ever sent: it says nothing, however long its client waited.
  const unsent = fixture.control.begin(describe(fixture));
  monotonicMs += 60_000;
  unsent.end("given_up");
  const tools = () => fixture.traffic.flatMap((one) => one.tools);
  await until("the windows came", () => tools().reduce((total, { calls }) => total + calls, 0) >= 4);
  await settled(400);
  for (const [tool, implementation] of [
    ["get_inventory", "mcp"],
    ["count_stock", "legacy"],
  ]) {
    const rows = tools().filter((one) => one.tool === tool && one.implementation === implementation);
    const [calls, errors] = [rows.reduce((sum, one) => sum + one.calls, 0), rows.reduce((sum, one) => sum + one.errors, 0)];
    assert.deepEqual([tool, calls, errors], [tool, 2, 0]);
    const slow = rows.reduce((sum, { latency }) => sum + latency.reduce((all, count, at) => all + (latencyOver(at) ? count : 0), 0), 0);
    assert.equal(slow, 2);
  }
  const endpoints = fixture.traffic.flatMap((one) => one.endpoints);
  assert.ok(endpoints.every(({ ok, hard, caller }) => ok + hard + caller === 0));
});
/** Buckets that lie above 2.5 s. */
const latencyOver = (index: number): boolean => (latencyBucketsMs[index - 1] ?? 0) >= 2500;

test("an ejection is told to the fleet at once, with its run of failures and the age of what is in flight", async (t) => {
  const fixture = await start(t, { frozen: true });
  await until("the first word of the router", () => fixture.traffic.length > 0);
  const hanging = await attemptOf(fixture.control.begin(describe(fixture)));
  fixture.clock.nowMs += 700;
  (await attemptOf(fixture.control.begin(describe(fixture)))).done(refused);
  await until("the refusal is in the log", () => sum(fixture.traffic, "primary").hard === 1);
  const seen = fixture.traffic.at(-1)?.endpoints.find(({ endpoint }) => endpoint === "primary");
  assert.deepEqual(
    [seen?.inFlight, seen?.oldestInFlightMs, seen?.hardRunHead, seen?.hardRunTail, seen?.lastCode, seen?.lastHardAtMs],
    [1, 700, 1, 1, "refused", fixture.clock.nowMs],
  );
  hanging.done(reset);
});

test("a window lasts 250 ms under traffic: of calls that come all the time the fleet hears four times a second, and of each once", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  let nowMs = 0;
  const told: TrafficObserved[] = [];
  const report = new TrafficReport({
    bus: {
      status: { kind: "connected", server: "test", serverVersion: "0" },
      append: async () => ({ seq: told.length, duplicate: false }),
    },
    router: "router-1",
    nowMs: () => nowMs,
    makeEvent: (data) => {
      told.push(data);
      return { id: `m${told.length}`, type: "traffic.observed", data } as Event<"traffic.observed">;
    },
    held: () => ({ routes: {}, rollbacks: {}, rollbackIds: {} }),
    windowMs: defaultPolicy.router.windowMs,
    onProblem: (error) => assert.fail(String(error)),
  });
  for (; nowMs < 1000; nowMs += 10) {
    report.end(report.begin("u", "e", 0), { outcome: "ok", code: null, latencyMs: 7, atMs: nowMs });
    t.mock.timers.tick(10);
    // What was appended is acknowledged.
    for (let turns = 0; turns < 5; turns += 1) await Promise.resolve();
  }
  t.mock.timers.tick(250);
  assert.deepEqual(
    told.slice(0, 4).map(({ toMs, fromMs }) => toMs - fromMs),
    [240, 250, 250, 250],
  );
  assert.equal(sum(told, "e").ok, 100);
  const sketch = told[1]?.endpoints[0]?.latency ?? [];
  assert.equal(
    sketch.reduce((total, count) => total + count, 0),
    25,
    "each of its calls is in the sketch of latencies",
  );
  assert.equal(
    sketch.findIndex((count) => count > 0),
    latencyBucketsMs.findIndex((ms) => ms >= 7),
  );
  const before = told.length;
  report.hurry();
  t.mock.timers.tick(20);
  assert.equal(told.length, before + 1, "what is urgent does not wait for the end of the window");
  await report.stop();
});

test("C3: while the log is away windows are joined and the oldest dropped, and a call never waits for it", async (t) => {
  const fixture = await start(t, { frozen: true });
  fixture.cut();
  const backlogs: number[] = [];
  for (let second = 0; second < 120; second += 1) {
    const begunAt = performance.now();
    await play(fixture.control.begin(describe(fixture)), () => ok);
    assert.ok(performance.now() - begunAt < 1000);
    fixture.clock.nowMs += 1000;
    await ticked(fixture);
    backlogs.push(fixture.control.backlog().windows);
    if (second > 4 && backlogs.at(-1) === backlogs.at(-2) && backlogs.at(-1) === 30) break;
  }
  assert.equal(Math.max(...backlogs), 30);
  assert.ok(fixture.control.backlog().dropped > 0);
});

/** A tick of the report comes every 250 ms of real time; what it does is forced here by an event that is said at once. */
async function ticked(fixture: Fixture): Promise<void> {
  (await attemptOf(fixture.control.begin(describe(fixture)))).done(ok);
  (await attemptOf(fixture.control.begin(describe(fixture)))).done(refused);
  await settled(30);
}

test("without traffic a router still says every two seconds what it holds", async (t) => {
  const fixture = await start(t, { frozen: true });
  await until("a first word", () => fixture.traffic.length > 0);
  const before = fixture.traffic.length;
  await settled(600);
  assert.equal(fixture.traffic.length, before, "nothing to say, nothing said");
  fixture.clock.nowMs += 2000;
  await until("a word of the idle router", () => fixture.traffic.length > before, 3000);
  assert.deepEqual(fixture.traffic.at(-1)?.endpoints, []);
  assert.equal(fixture.traffic.at(-1)?.routes["warehouse"]?.active, "primary");
});

test("W1: calls of one tool are counted apart by upstream, agent and implementation, whichever came before", () => {
  const window = emptyWindow(0);
  const wanted = new Map<string, number>();
  for (let index = 0; index < 60; index += 1) {
    const [upstream, agent, implementation] = [
      index % 2 === 0 ? "u" : "v",
      [null, "a", "b"][index % 3] ?? null,
      index % 5 === 0 ? "legacy" : "mcp",
    ] as const;
    countTool(window, { upstream, tool: "t", agent, implementation, error: false, latencyMs: 1 });
    const key = JSON.stringify([upstream, agent, implementation]);
    wanted.set(key, (wanted.get(key) ?? 0) + 1);
  }
  const counted = [...window.tools.values()].map(({ upstream, agent, implementation, calls }) => [
    JSON.stringify([upstream, agent, implementation]),
    calls,
  ]);
  assert.deepEqual(new Map(counted as [string, number][]), wanted);
});
