import assert from "node:assert/strict";
import { test } from "node:test";
import { type Event, latencyBucketsMs, topology } from "@mcp-failover/contracts";
import {
  callerPairsMax,
  decideRollback,
  foldRollbackAudit,
  foldToolTraffic,
  initialRollbackState,
  isQuietScope,
  noToolTraffic,
  openToolTraffic,
  type RollbackAudit,
  rollbackBackMs,
  rollbackScopes,
  type ScopeName,
} from "@mcp-failover/domain";
import fc from "fast-check";
import {
  applied,
  audit,
  config,
  counts,
  heard,
  join,
  moved,
  nowMs,
  type Rows,
  type Second,
  takeSecond,
  window,
} from "./rollback-fixture.ts";

test("calls are counted for the tool of the upstream that has the legacy implementation, for the agent and for the system", () => {
  const traffic = foldToolTraffic(
    noToolTraffic,
    window(nowMs - 500, [
      { agent: "buyer", calls: 10, errors: 2, ms: 6000 },
      { calls: 5, errors: 1, ms: 5000 },
      { upstream: "bank", calls: 100, errors: 100 },
      { implementation: "legacy", calls: 7, errors: 0 },
    ]),
  );
  assert.deepEqual(join(traffic, "tool", "buy").evaluations[0], { mcp: counts(15, 3, 10), legacy: counts(7) });
  assert.deepEqual(join(traffic, "agent", "buyer").evaluations[0]?.mcp, counts(10, 2, 10));
  assert.deepEqual(join(traffic, "system", "system").evaluations[0]?.mcp, counts(115, 103, 10));
  assert.deepEqual(
    ["all", "looker", "buyer"].map((name) => join(traffic, "agent", name).hasLegacy),
    [true, false, true],
  );
  assert.deepEqual(
    rollbackScopes(config).map(({ scope, name }) => `${scope}/${name}`),
    ["tool/buy", "agent/all", "agent/looker", "agent/buyer", "system/system"],
  );
});

test("the samples share no call and make up the window, which begins with the last decision, the end of a gap or the upstream's last move", () => {
  let traffic = noToolTraffic;
  for (const agoMs of [40_000, 29_000, 17_000, 10_000, 4999, 0])
    traffic = foldToolTraffic(traffic, window(nowMs - agoMs, [{ calls: 1, errors: 0 }]));
  const seen = (more: object = {}, of = audit): [number | undefined, ...number[]] => {
    const { evaluations, samples } = join(traffic, "tool", "buy", more, of);
    return [evaluations[0]?.mcp.calls, ...(samples ?? []).map(({ calls }) => calls)];
  };
  assert.deepEqual(seen(), [5, 2, 1, 1, 0, 1]);
  assert.deepEqual(seen({ evidenceFromMs: nowMs - 10_000 }), [3, 2, 1, 0, 0, 0]);
  const state = { ...initialRollbackState, epoch: 2, sinceMs: nowMs - 4000 };
  const decided = { type: "rollback.decided", data: { scope: "tool", name: "buy", state } } as unknown as Event;
  assert.deepEqual(seen({}, foldRollbackAudit(audit, decided)), [1, 1, 0, 0, 0, 0]);
  assert.deepEqual(seen({}, moved("shop", nowMs - 10_000)), [3, 2, 1, 0, 0, 0]);
  assert.deepEqual(seen({}, moved("bank", nowMs - 10_000)), [5, 2, 1, 1, 0, 1], "another upstream's move says nothing");
});

test("a refusal says since when its outage lasts, whatever was well for less than a minute in it; 0 for longer than is known", () => {
  const well: Second = [{ calls: 20, errors: 0 }];
  const ill: Second = [
    { calls: 20, errors: 20 },
    { implementation: "legacy", calls: 20, errors: 20 },
  ];
  const times = (count: number, second: Second): Second[] => Array.from({ length: count }, () => second);
  const since = (...seconds: Second[]): number | null => {
    const decision = decideRollback(join(heard(seconds), "tool", "buy"));
    assert.deepEqual([decision.kind, decision.rule], ["rejected", "legacy_no_better"]);
    return decision.kind === "rejected" ? (nowMs - decision.sinceMs) / 1000 : null;
  };
  const longAgo = nowMs / 1000;
  // By tens of seconds, from the first window of thirty that was over the limit.
  assert.equal(since(...times(200, well), ...times(40, ill)), 60);
  assert.equal(since(...times(200, well), ...times(40, ill), ...times(50, well), ...times(40, ill)), 150, "one outage");
  assert.equal(since(...times(100, well), ...times(40, ill), ...times(120, well), ...times(40, ill)), 60, "another one");
  assert.equal(since(...times(590, ill)), longAgo);
  assert.equal(since(...times(520, ill)), longAgo, "what was before the first minute of what is known?");
  assert.equal(join(heard(times(60, well)), "tool", "buy").overSinceMs, undefined);
  const few = heard([...times(100, [{ calls: 1000, errors: 0 }]), ...times(24, [])]);
  for (const [agoMs, calls] of [
    [23_000, 12],
    [12_000, 4],
    [1000, 4],
  ] as const)
    takeSecond(few, nowMs + 24_000 - agoMs, [{ calls, errors: calls }]);
  assert.deepEqual(
    join(few, "tool", "buy", { nowMs: nowMs + 5000 }).overSinceMs,
    { errors: 0, slow: 0 },
    "no stretch of thirty seconds says so",
  );
});

/** Rolled back after so many seconds of what was heard; null: not. Asked at each second, as the service does. */
function rolledBackAfter(seconds: readonly Second[], of = audit): number | null {
  const traffic = openToolTraffic();
  for (const [index, second] of seconds.entries()) {
    const atMs = nowMs + index * 1000;
    takeSecond(traffic, atMs + 500, second);
    const decision = decideRollback(join(traffic, "tool", "buy", { nowMs: atMs + 1000 }, of));
    if (decision.kind === "decided") return index + 1;
  }
  return null;
}
const repeated = <V>(times: number, value: V): V[] => new Array<V>(times).fill(value);

test("R2: an outage that was over within seven seconds condemns nothing, however many called", () => {
  const rate = fc.integer({ min: 1, max: 50 });
  const phase = fc.integer({ min: 30, max: 36 });
  fc.assert(
    fc.property(rate, rate, fc.integer({ min: 0, max: 7 }), phase, (calls, callsWhenDown, downS, beforeS) => {
      const well = [{ calls, errors: 0 }];
      const down = [{ calls: callsWhenDown, errors: callsWhenDown }];
      assert.equal(rolledBackAfter([...repeated(beforeS, well), ...repeated(downS, down), ...repeated(40, well)]), null);
    }),
  );
});

test("R2: failures that ended before the newest sample condemn nothing", () => {
  const second = fc.record({ calls: fc.integer({ min: 0, max: 30 }), share: fc.double({ min: 0, max: 1, noNaN: true }) });
  fc.assert(
    fc.property(fc.array(second, { minLength: 24, maxLength: 60, size: "max" }), fc.integer({ min: 0, max: 30 }), (before, calls) => {
      const rows = before.map(({ calls, share }) => [{ calls, errors: Math.round(calls * share), ms: share > 0.5 ? 8000 : 1 }]);
      const decision = decideRollback(join(heard([...rows, ...repeated(6, [{ calls, errors: 0 }])]), "tool", "buy"));
      assert.equal(decision.rule, "sound");
    }),
  );
});

test("R2: a tool all of whose calls fail is rolled back within 14 s, one of which a third fail within 19 s", () => {
  fc.assert(
    fc.property(fc.integer({ min: 2, max: 50 }), fc.integer({ min: 0, max: 60 }), (calls, beforeS) => {
      const after = (errors: number): number =>
        (rolledBackAfter([...repeated(beforeS, [{ calls, errors: 0 }]), ...repeated(60, [{ calls, errors }])]) ?? Number.NaN) - beforeS;
      assert.ok(after(calls) <= 14, `${after(calls)} s`);
      if (calls >= 9) assert.ok(after(Math.ceil(calls / 3)) <= 19, `${after(Math.ceil(calls / 3))} s`);
    }),
  );
});

test("R9: what happened before the upstream moved is no evidence", () => {
  const second = fc.record({ calls: fc.integer({ min: 1, max: 30 }), bad: fc.boolean() });
  fc.assert(
    fc.property(fc.array(second, { minLength: 31, maxLength: 31, size: "max" }), fc.integer({ min: 1, max: 30 }), (all, movedAgoS) => {
      const rows = all.map(({ calls, bad }) => [{ calls, errors: bad ? calls : 0 }]);
      const of = moved("shop", nowMs - movedAgoS * 1000);
      // Since when it was ill elsewhere already says only whether people were told.
      const seen = (seconds: Second[]) => ({ ...join(heard(seconds), "tool", "buy", {}, of), overSinceMs: null });
      assert.deepEqual(seen(rows), seen(rows.slice(-movedAgoS)));
    }),
  );
  const down = repeated(60, [{ calls: 10, errors: 10 }]);
  assert.equal(rolledBackAfter(down, moved("shop", nowMs + 10_000)), 10 + (rolledBackAfter(down) ?? 0));
});

test("R9: a hold of the upstream, which leaves it where it was moved to, is no move", () => {
  const state = { active: "a", sinceMs: nowMs - 20_000 };
  const held = { type: "failover.decided", data: { service: "shop", action: "held", state } } as unknown as Event;
  const traffic = heard(repeated(31, [{ calls: 1, errors: 0 }]));
  assert.deepEqual(
    join(traffic, "tool", "buy", {}, foldRollbackAudit(audit, held)),
    join(traffic, "tool", "buy", {}, moved("shop", state.sinceMs)),
  );
});

const callsArb = fc.integer({ min: 1, max: 30 });
const failing = (calls: number): Rows => [{ calls, errors: calls }];
const working = (calls: number): Rows => [{ calls, errors: 0 }];

const planned = (
  from: number,
  until: number,
  what: { upstreams?: string[]; endpoints?: string[] } = { upstreams: ["shop"] },
): RollbackAudit =>
  applied(
    topology.parse({ ...config, maintenance: [{ name: "upgrade", reason: "new disks", from: iso(from), until: iso(until), ...what }] }),
  );
const iso = (ms: number): string => new Date(ms).toISOString();

test("R10: in maintenance of its upstream, or of the endpoint that serves, a tool is not rolled back by itself; in another's it is", () => {
  const down = heard(repeated(31, failing(10)));
  const ruleIn = (what?: { upstreams?: string[]; endpoints?: string[] }): string =>
    decideRollback(join(down, "tool", "buy", {}, planned(nowMs - 60_000, nowMs + 1000, what))).rule;
  assert.deepEqual([ruleIn(), ruleIn({}), ruleIn({ endpoints: ["shop/a"] })], ["maintenance", "maintenance", "maintenance"]);
  assert.deepEqual([ruleIn({ upstreams: ["bank"] }), ruleIn({ endpoints: ["bank/a"] })], ["error_rate", "error_rate"]);
  const command = { kind: "rollback", commandId: "c", by: { kind: "operator", id: "ann" }, reason: "because", force: false };
  assert.equal(decideRollback(join(down, "tool", "buy", { command }, planned(nowMs - 60_000, nowMs + 1000))).rule, "operator");
});

test("R10: what failed in maintenance is no evidence afterwards", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 30 }), callsArb, (endedAgoS, calls) => {
      const of = planned(nowMs - 60_000, nowMs - endedAgoS * 1000);
      const after = repeated(endedAgoS, working(calls));
      const seen = join(heard([...repeated(31 - endedAgoS, failing(calls)), ...after]), "tool", "buy", {}, of);
      assert.deepEqual(seen, join(heard(after), "tool", "buy", {}, of));
    }),
  );
  const ended = planned(nowMs - 60_000, nowMs + 10_000);
  const down = repeated(60, failing(10));
  assert.equal(rolledBackAfter(down, ended), 10 + (rolledBackAfter(down) ?? Number.NaN), "what still fails is found again");
});

test("R10: a ramp stands still in maintenance of any upstream that its scope falls back from, and its step counts from the end", () => {
  const ramping = (audit: RollbackAudit, of: ScopeName): RollbackAudit => {
    const sinceMs = nowMs - 300_000;
    const state = { ...initialRollbackState, epoch: 2, mcpPercent: 25, sinceMs, ramp: { stepSinceMs: sinceMs, paused: false } };
    return foldRollbackAudit(audit, { type: "rollback.decided", data: { ...of, state } } as unknown as Event);
  };
  for (const of of rollbackScopes(config)) {
    const ruleAt = (untilMs: number, upstream = "shop"): string => {
      const rows = [{ calls: 10, errors: 0 }, ...["all", "buyer", "looker"].map((agent) => ({ agent, calls: 10, errors: 0 }))];
      const audit = ramping(planned(nowMs - 200_000, untilMs, { upstreams: [upstream] }), of);
      const { kind, rule } = decideRollback(join(heard(repeated(60, rows)), of.scope, of.name, {}, audit));
      return `${kind} ${rule}`;
    };
    const rules = [ruleAt(nowMs + 1000), ruleAt(nowMs - 29_000), ruleAt(nowMs - 31_000), ruleAt(nowMs + 1000, "bank")];
    const expected = ["none maintenance", "none ramp_step", "decided ramp_step", "decided ramp_step"];
    // Nothing of what this one calls has a legacy implementation (R13).
    const gone = rules.map(() => "decided legacy_gone");
    assert.deepEqual(rules, of.name === "looker" ? gone : expected, of.name);
  }
});

test("R11: what fewer than half of the routers see fail condemns nothing, and one of two neither", () => {
  fc.assert(
    fc.property(fc.array(callsArb, { minLength: 2, maxLength: 7 }), fc.nat(), (calls, pick) => {
      const ill = 1 + (pick % Math.max(1, Math.ceil(calls.length / 2) - 1));
      const second = Object.fromEntries(calls.map((each, index) => [`r${index}`, (index < ill ? failing : working)(each)]));
      assert.equal(rolledBackAfter(repeated(60, second)), null);
    }),
    {
      examples: [
        [[30, 1], 0],
        [[20, 20, 20], 0],
      ],
    },
  );
});

test("R11: what most of the routers see fail is condemned, and what all see, however the calls are spread over them", () => {
  fc.assert(
    fc.property(fc.array(callsArb, { minLength: 2, maxLength: 7 }), (calls) => {
      const second = Object.fromEntries(calls.map((each, index) => [`r${index}`, failing(each)]));
      assert.ok((rolledBackAfter(repeated(60, second)) ?? Number.NaN) <= 14);
    }),
  );
  const most = { r1: failing(5), r2: failing(5), r3: working(5) };
  assert.notEqual(rolledBackAfter(repeated(60, most)), null);
  // Those who called too seldom to say something do not outvote it; but they have to be of one mind with somebody.
  const seldom = (index: number, rows: Rows): Second => ({ r1: failing(20), ...(index % 10 === 0 ? { r2: rows, r3: rows } : {}) });
  assert.notEqual(rolledBackAfter(repeated(60, null).map((_, index) => seldom(index, failing(1)))), null);
  assert.equal(rolledBackAfter(repeated(60, null).map((_, index) => seldom(index, working(1)))), null);
});

test("R11: a router that goes on under another name is one router still, where there are others and where there are none", () => {
  const seconds = repeated(60, null).map((_, index): Second => ({ r2: working(5), [index < 10 ? "r1" : "r1-again"]: failing(5) }));
  assert.equal(rolledBackAfter(seconds), null);
  const alone = repeated(60, null).map((_, index): Second => ({ [index < 10 ? "r1" : "r1-again"]: failing(5) }));
  assert.ok((rolledBackAfter(alone) ?? Number.NaN) <= 14);
});

test("R11: of very many routers those with the most calls are asked, and how many were not is said", () => {
  const second = Object.fromEntries(repeated(40, 0).map((_, index) => [`r${index}`, failing(2 + (index % 3))]));
  const input = join(heard(repeated(20, second)), "tool", "buy");
  assert.deepEqual([input.routers?.named.length, input.routers?.more], [25, 15]);
  assert.ok(JSON.stringify(input).length < 5000);
  assert.match(decideRollback(input).reason, /; 15 routers with fewer calls were not asked$/);
});

test("R12: what one agent of several alone gets wrong condemns nothing; what several do, or one who is alone, is condemned", () => {
  const row = (agent: string | undefined, calls: number, share: number) => ({
    ...(agent === undefined ? {} : { agent }),
    calls,
    errors: Math.round(calls * share),
  });
  fc.assert(
    fc.property(
      callsArb,
      fc.array(fc.tuple(callsArb, fc.constantFrom("buyer", "looker", undefined)), { minLength: 1, maxLength: 4 }),
      (calls, others) => {
        const wrong = [row("all", calls, 1), ...others.map(([each, agent]) => row(agent, each, 0))];
        assert.equal(rolledBackAfter(repeated(60, wrong)), null);
        const ill = [row("all", calls, 1), ...others.map(([each, agent]) => row(agent, each, 1))];
        assert.ok((rolledBackAfter(repeated(60, ill)) ?? Number.NaN) <= 14);
        assert.ok((rolledBackAfter(repeated(60, [row("all", 2 + calls, 1)])) ?? Number.NaN) <= 14);
      },
    ),
  );
});

test("R2: each response_time that a configuration takes condemns a tool all of whose calls take twice as long, and none that keeps to it", () => {
  for (const ms of latencyBucketsMs) {
    const of = applied(topology.parse({ ...config, rollback: { rollback_thresholds: { response_time: ms / 1000 } } }));
    const all = (took: number): string =>
      decideRollback(join(heard(repeated(31, [{ calls: 5, errors: 0, ms: took }])), "tool", "buy", {}, of)).rule;
    assert.deepEqual([all(2 * ms), all(ms)], ["response_time", "sound"], `${ms} ms`);
  }
});

test("R5: a step is judged alike by whoever was there from its beginning and whoever has read only what a new process reads", () => {
  const second = fc.record({
    atS: fc.integer({ min: 0, max: 900 }),
    calls: fc.integer({ min: 1, max: 30 }),
    bad: fc.boolean(),
    legacy: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(second, { minLength: 1, maxLength: 40, size: "max" }), fc.integer({ min: 0, max: 900 }), (windows, stepAgeS) => {
      const state = { ...initialRollbackState, epoch: 2, mcpPercent: 5, sinceMs: nowMs - stepAgeS * 1000 };
      const ramp = { stepSinceMs: state.sinceMs, paused: false };
      const decided = { type: "rollback.decided", data: { scope: "tool", name: "buy", state: { ...state, ramp } } } as unknown as Event;
      const of = foldRollbackAudit(audit, decided);
      const [always, lately] = [openToolTraffic(), openToolTraffic()];
      const sorted = windows.toSorted((a, b) => a.atS - b.atS);
      const lastMs = nowMs - 900_000 + (sorted.at(-1)?.atS ?? 0) * 1000;
      for (const { atS, calls, bad, legacy } of sorted) {
        const atMs = nowMs - 900_000 + atS * 1000;
        const rows: Rows = [{ calls, errors: bad ? calls : 0, implementation: legacy ? "legacy" : "mcp" }];
        takeSecond(always, atMs, rows);
        if (atMs >= lastMs - rollbackBackMs) takeSecond(lately, atMs, rows);
      }
      assert.deepEqual(join(lately, "tool", "buy", {}, of), join(always, "tool", "buy", {}, of));
    }),
    { numRuns: 500 },
  );
});

test("TC2: over so many routers and agents the next is told apart no more, is counted, and takes nobody's place; who is gone makes room", () => {
  const traffic = openToolTraffic();
  const agents = (from: number, count: number): Rows =>
    repeated(count, 0).map((_, index) => ({ agent: `a${from + index}`, calls: 1, errors: 1 }));
  for (let from = 0; from < callerPairsMax; from += 1000) takeSecond(traffic, nowMs - 500, agents(from, 1000));
  assert.deepEqual([traffic.callers.agents.pairs, traffic.callers.agents.leftOut], [callerPairsMax, 0]);
  takeSecond(traffic, nowMs, [...agents(callerPairsMax, 3), { agent: "a0", calls: 100, errors: 100 }]);
  assert.deepEqual([traffic.callers.agents.pairs, traffic.callers.agents.leftOut], [callerPairsMax, 3]);
  assert.equal(join(traffic, "tool", "buy").agents?.errors?.agent, "a0");
  takeSecond(traffic, nowMs + 60_000, agents(0, 1));
  assert.deepEqual([traffic.callers.agents.pairs, traffic.callers.routers.byScope.size], [1, 3]);
});

test("traffic is forgotten after its time, and the input stays small whatever was seen", () => {
  let traffic = noToolTraffic;
  for (let second = 0; second < 2000; second += 1)
    traffic = foldToolTraffic(traffic, window(nowMs + second * 1000, [{ calls: 1, errors: 1 }]));
  const buckets = traffic.scopes.get("system/system")?.mcp;
  assert.ok((buckets?.seconds.length ?? 0) <= 61 && (buckets?.tens.length ?? 0) <= 61);
  assert.ok(JSON.stringify(join(traffic, "tool", "buy", { nowMs: nowMs + 2_000_000 })).length < 3000);
});

test("an unknown tool or agent is named with those that there are", () => {
  assert.throws(() => join(noToolTraffic, "tool", "sell"), { code: "unknown_tool", message: /known: buy, look/ });
  assert.throws(() => join(noToolTraffic, "agent", "nobody"), { code: "unknown_agent", message: /known: all, looker, buyer/ });
  assert.throws(() => join(noToolTraffic, "system", "x"), { code: "unknown_system" });
  const command = { kind: "rollback", commandId: "c", by: { kind: "operator", id: "ann" }, reason: "because", force: false };
  assert.equal(decideRollback(join(noToolTraffic, "tool", "look", { command })).rule, "no_legacy");
});

test("R2, R3: a scope that is quiet has nothing that a decision could be taken on, however its calls went before", () => {
  let quiet = 0;
  const row = fc.record({
    agoMs: fc.integer({ min: 0, max: 80_000 }),
    calls: fc.integer({ min: 1, max: 60 }),
    bad: fc.boolean(),
    slow: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(row, { maxLength: 12, size: "max" }), fc.constantFrom(0, 50, 100), (rows, mcpPercent) => {
      const traffic = rows
        .toSorted((a, b) => b.agoMs - a.agoMs)
        .reduce((sum, { agoMs, calls, bad, slow }) => {
          const rowOf = { agent: "buyer", calls, errors: bad ? calls : 0, ms: slow ? 8000 : 200 };
          return foldToolTraffic(sum, window(nowMs - agoMs, [rowOf]));
        }, noToolTraffic);
      const state = { ...initialRollbackState, mcpPercent };
      for (const of of rollbackScopes(config)) {
        const decided = { type: "rollback.decided", data: { ...of, state } } as unknown as Event;
        const then = mcpPercent === 100 ? audit : foldRollbackAudit(audit, decided);
        if (!isQuietScope(then, traffic, of, nowMs)) continue;
        quiet += 1;
        assert.equal(decideRollback(join(traffic, of.scope, of.name, {}, then)).kind, "none");
      }
    }),
  );
  assert.ok(quiet > 50, `only ${quiet} were quiet`);
});
