import assert from "node:assert/strict";
import { test } from "node:test";
import { topology as topologySchema } from "@mcp-failover/contracts";
import { LegacyError } from "../../services/router/src/control/legacy.ts";
import type { CallControl, RouterControl } from "../../services/router/src/control/port.ts";
import { type CallHooks, serveCall } from "./calls.ts";
import { callsOfMany, noSingleWord } from "./checks/moves.ts";
import { recovers } from "./checks/recovery.ts";
import type { SimProcess } from "./clock.ts";
import type { Upstreams } from "./upstreams.ts";
import { type CallRecord, type Entry, Violation, type World } from "./world-types.ts";

const nowMs = Date.UTC(2026, 6, 1, 12);
const isoAt = (atMs: number): string => new Date(atMs).toISOString();

/** What the check says of a move off `gamma/a` on the words of three probers that `failing` are dead; null: nothing. `others`: said before that nothing is. */
function judgeMove(
  mode: "pool" | "active_standby",
  failing: readonly string[],
  maintained: readonly string[],
  untilMs: number,
  others: readonly { readonly observer: string; readonly startedAtMs: number; readonly leaving?: boolean }[] = [],
): string | null {
  const endpoints = ["a", "b", "c"].map((name) => ({
    name,
    tier: mode === "pool" || name === "a" ? 0 : 1,
    url: `http://${name}.test/mcp`,
  }));
  const window = { name: "patches", reason: "planned", from: isoAt(nowMs - 60_000), until: isoAt(untilMs), endpoints: [...maintained] };
  const topology = topologySchema.parse({
    version: 1,
    upstreams: { gamma: { kind: "mcp", mode, endpoints: [...endpoints, { name: "d", tier: 1, url: "http://d.test/mcp" }] } },
    maintenance: [window],
  });
  const word = (endpoint: string, observer: string, outcome: string) => ({
    upstream: "gamma",
    endpoint,
    observer,
    outcome,
    purpose: "confirm",
  });
  const batches = [
    ...others.map((other) => ({ ...other, observations: [word("a", other.observer, "caller")] })),
    ...["one", "two", "three"].map((observer) => ({ observer, observations: failing.map((name) => word(name, observer, "hard")) })),
  ];
  const signals = batches.map((data, index) => ({
    seq: index + 1,
    atMs: index,
    timeMs: nowMs + index,
    event: { type: "probe.observed", data },
  }));
  const world = {
    topology,
    environment: "production",
    signal: (seq: number) => signals[seq - 1] ?? null,
    fail(guarantee: string, message: string): never {
      throw new Violation(guarantee, 0, message);
    },
  };
  const certificate = { rule: "majority_unhealthy", nowMs, folded: { SIGNALS: { first: 1, last: signals.length } } };
  const data = { action: "moved", automatic: true, service: "gamma", previousEndpoint: "a", currentEndpoint: "d", certificate };
  const { onAudit } = noSingleWord.start(world as unknown as World);
  assert.ok(onAudit);
  try {
    onAudit({ seq: 1, atMs: 5, event: { type: "failover.decided", data } } as unknown as Entry);
    return null;
  } catch (error) {
    if (error instanceof Violation) return error.message;
    throw error;
  }
}

/** What the check says of a move off `gamma/a` because calls fail: of each router, how many of its calls of the last second failed. */
function judgeCalls(routers: Readonly<Record<string, { readonly ok: number; readonly hard: number }>>): string | null {
  const endpoints = ["a", "b"].map((name, tier) => ({ name, tier, url: `http://${name}.test/mcp` }));
  const topology = topologySchema.parse({ version: 1, upstreams: { gamma: { kind: "mcp", endpoints } } });
  const signals = Object.entries(routers).map(([router, { ok, hard }], index) => {
    const seen = { upstream: "gamma", endpoint: "a", ok, hard, soft: 0, auth: 0, caller: 0 };
    return {
      seq: index + 1,
      atMs: index,
      timeMs: nowMs + index,
      event: { type: "traffic.observed", data: { router, endpoints: [seen], routes: { gamma: { epoch: 0 } } } },
    };
  });
  const world = {
    topology,
    environment: "production",
    signal: (seq: number) => signals[seq - 1] ?? null,
    fail(guarantee: string, message: string): never {
      throw new Violation(guarantee, 0, message);
    },
  };
  const certificate = { rule: "calls_failing", nowMs, folded: { SIGNALS: { first: 1, last: signals.length } } };
  const data = {
    action: "moved",
    automatic: true,
    service: "gamma",
    previousEndpoint: "a",
    currentEndpoint: "b",
    certificate,
    state: { epoch: 1 },
  };
  try {
    callsOfMany
      .start(world as unknown as World)
      .onAudit?.({ seq: 1, atMs: 5, event: { type: "failover.decided", data } } as unknown as Entry);
    return null;
  } catch (error) {
    if (error instanceof Violation) return error.message;
    throw error;
  }
}

test("no_move_on_one_word: that calls fail is for most of the routers that call to say, and for two at least", () => {
  assert.equal(judgeCalls({ one: { ok: 0, hard: 9 }, two: { ok: 0, hard: 9 } }), null);
  assert.equal(judgeCalls({ one: { ok: 0, hard: 9 }, two: { ok: 0, hard: 9 }, three: { ok: 9, hard: 0 } }), null);
  assert.match(judgeCalls({ one: { ok: 0, hard: 9000 } }) ?? "", /1 of 1 routers/);
  assert.match(judgeCalls({ one: { ok: 0, hard: 9 }, two: { ok: 9, hard: 0 } }) ?? "", /1 of 2 routers/);
  assert.match(judgeCalls({ one: { ok: 0, hard: 9 }, two: { ok: 9, hard: 1 } }) ?? "", /1 of 2 routers/);
});

test("no_move_on_one_word: a pool's tier is judged by its members that are not in maintenance, and by each of those", () => {
  const later = nowMs + 1;
  assert.equal(judgeMove("pool", ["b", "c"], ["gamma/a"], later), null);
  assert.match(judgeMove("pool", ["b"], ["gamma/a"], later) ?? "", /moved off c by 0 of 3/);
  assert.match(judgeMove("pool", ["b", "c"], ["gamma/a"], nowMs) ?? "", /moved off a by 0 of 3/, "the window is over");
  assert.match(judgeMove("pool", ["b", "c"], ["other/a"], later) ?? "", /moved off a by 0 of 3/, "the window is another's");
});

test("no_move_on_one_word: who has left is no observer, and nobody else takes another for one that left", () => {
  const three = ["four", "five", "six"].map((observer) => ({ observer, startedAtMs: 1 }));
  const judge = (others: Parameters<typeof judgeMove>[4]) => judgeMove("active_standby", ["a"], ["gamma/b"], nowMs + 1, others);
  const left = (observer: string, startedAtMs = 1) => ({ observer, startedAtMs, leaving: true });
  assert.match(judge(three) ?? "", /moved off a by 3 of 6/);
  assert.equal(judge([...three, left("six")]), null);
  assert.match(judge([...three, left("six"), { observer: "six", startedAtMs: 2 }]) ?? "", /3 of 6/, "another has the name");
  assert.match(judge([...three, { observer: "six", startedAtMs: 2 }, left("six")]) ?? "", /3 of 6/, "the word of the one before it");
  assert.match(judge([...three, left("one"), left("two")]) ?? "", /3 of 6/, "those came back");
});

test("no_move_on_one_word: what is in maintenance is moved off on no observer's word", () => {
  assert.equal(judgeMove("active_standby", ["a"], ["gamma/b"], nowMs + 1), null);
  assert.match(judgeMove("active_standby", ["a"], ["gamma/a"], nowMs + 1) ?? "", /which was in maintenance/);
  assert.match(judgeMove("pool", ["a", "b", "c"], ["gamma/a", "gamma/b", "gamma/c"], nowMs + 1) ?? "", /which was in maintenance/);
});

/** What the check says of an hour without faults from minute 48 on, of which an endpoint was unhealthy until `healthyAtMs`, and a router behind until `routedAtMs`. */
function judgeRecovery(healthyAtMs: number, routedAtMs: number): string | null {
  const endpoints = [{ name: "a", tier: 0, url: "http://a.test/mcp" }];
  const world = {
    topology: topologySchema.parse({ version: 1, upstreams: { gamma: { kind: "mcp", endpoints } } }),
    schedule: { world: { quietFromMs: 48 * 60_000 } },
    nowAtMs: 0,
    calls: [],
    running: () => ["router-1", "prober-1"],
    routeOf: () => ({ active: "a", epoch: world.nowAtMs < routedAtMs ? 6 : 7 }),
    fail(_guarantee: string, message: string): never {
      throw new Violation("everything_recovers", world.nowAtMs, message);
    },
  };
  const { onAudit, onSecond, onEnd } = recovers.start(world as unknown as World);
  const say = (type: string, data: object): void => onAudit?.({ seq: 1, atMs: world.nowAtMs, event: { type, data } } as unknown as Entry);
  try {
    say("health.changed", { service: "gamma", endpoint: "a", status: "unhealthy" });
    say("failover.decided", { service: "gamma", state: { epoch: 7 } });
    for (; world.nowAtMs <= 60 * 60_000; world.nowAtMs += 1000) {
      if (world.nowAtMs === healthyAtMs) say("health.changed", { service: "gamma", endpoint: "a", status: "healthy" });
      onSecond?.();
    }
    onEnd?.();
    return null;
  } catch (error) {
    if (error instanceof Violation) return error.message;
    throw error;
  }
}

test("everything_recovers: what is well again 9 minutes after the last fault is too late, also where the run goes on for longer", () => {
  const [inTime, late] = [55 * 60_000, 57 * 60_000];
  assert.equal(judgeRecovery(inTime, inTime), null);
  assert.match(judgeRecovery(late, inTime) ?? "", /gamma\/a is still said to be unhealthy \(at 3360\.000 s\)/);
  assert.match(judgeRecovery(inTime, late) ?? "", /router-1 holds epoch 6 of gamma, and the log is at 7 \(at 3360\.000 s\)/);
});

/** How a call of a tool ends whose rolled-back implementation fails after `failsAfterMs`, and whose client leaves after `leavesAfterMs`. */
async function problemOf(failsAfterMs: number, leavesAfterMs: number | null): Promise<CallRecord["problem"]> {
  let problem: CallRecord["problem"] = null;
  const control: Partial<CallControl> = {
    deadlineMs: Date.now() + 10_000,
    implementation: "legacy",
    safety: "read_only",
    legacy: async () => {
      await new Promise((resolve) => setTimeout(resolve, failsAfterMs));
      throw new LegacyError("it failed", { executed: "unknown" });
    },
    problem: () => ({ code: "no_endpoint", message: "no attempt was made", retriable: true }),
    end: () => undefined,
  };
  const router = { upstream: () => null, begin: () => control } as unknown as RouterControl;
  const process = { name: "router-1", host: { rate: 1 } } as unknown as SimProcess;
  const nothing = () => undefined;
  const hooks: CallHooks = {
    nowAtMs: () => 0,
    nextId: () => 1,
    onBegin: nothing,
    onAttempt: nothing,
    onAttemptEnd: nothing,
    onExecuted: nothing,
    onEnd: (call) => {
      problem = call.problem;
    },
  };
  const planned = { atMs: 0, upstream: "alpha", kind: "mcp", method: "tools/call", tool: "look", agent: null } as const;
  await serveCall(process, router, {} as Upstreams, { ...planned, deadlineMs: Number.POSITIVE_INFINITY, leavesAfterMs }, hooks);
  return problem;
}

test("a call of the legacy API that its client left is told as that, and one that failed for its client is not", async () => {
  assert.equal(await problemOf(30, 5), "client_gone");
  assert.equal(await problemOf(5, null), "no_endpoint");
  assert.equal(await problemOf(5, 10_000), "no_endpoint");
});
