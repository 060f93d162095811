import assert from "node:assert/strict";
import { test } from "node:test";
import { type Event, makeEvent, type Observation, type OutcomeClass, type Topology, topology } from "@mcp-failover/contracts";
import { Backtest, type BacktestMessage, type BacktestResult } from "@mcp-failover/domain";
import { GroundTruth, ProbeRecord } from "../src/backtest-record.ts";
import { configApplied, logStarted, startMs } from "./audit-events.ts";
import { calls, probeOf, trafficOf } from "./signals.ts";

const second = 1000;
const minute = 60 * second;
const probers = ["p1", "p2", "p3"];

function configured(more: object = {}, upstream: object = {}): Topology {
  const endpoints = [
    { name: "primary", url: "http://127.0.0.1:9001", tier: 0 },
    { name: "backup", url: "http://127.0.0.1:9002", tier: 1 },
  ];
  return topology.parse({ upstreams: { pinecone: { kind: "http", endpoints, ...upstream } }, ...more });
}

/** What happened at the endpoints, by the second since the start. */
interface Happened {
  /** Seconds in which nobody has an answer from an endpoint. */
  readonly down?: Readonly<Record<string, readonly [number, number]>>;
  /** Seconds in which nothing at all was recorded. */
  readonly silent?: readonly [number, number];
  readonly seconds?: number;
  /** The second after which nobody looks at the backup. */
  readonly backupProbedTo?: number;
  readonly extra?: readonly BacktestMessage[];
}

/** Probes as a fleet of three makes them, the owner every 5 s and, while there is a failure, all three each second; and 20 calls a second at the active endpoint. */
function recordOf({ down = {}, silent = [0, 0], seconds = 240, backupProbedTo = seconds, extra = [] }: Happened): BacktestMessage[] {
  const audit = [logStarted(1), configApplied(2, 1, configured())];
  const messages: BacktestMessage[] = audit.map(({ seq, event }) => ({ stream: "AUDIT", seq, timeMs: startMs - 3000 + seq, event }));
  let seq = 0;
  const signal = (event: unknown, timeMs: number): void => {
    seq += 1;
    messages.push({ stream: "SIGNALS", seq, timeMs, event: event as Event });
  };
  for (let at = 0; at < seconds; at += 1) {
    if (at >= silent[0] && at < silent[1]) continue;
    const timeMs = startMs + at * second;
    for (const endpoint of at < backupProbedTo ? ["primary", "backup"] : ["primary"]) {
      const [from, to] = down[endpoint] ?? [0, 0];
      const isDown = at >= from && at < to;
      for (const [index, observer] of probers.entries()) {
        if (!isDown && (index > 0 || at % 5 > 0)) continue;
        signal(probe(observer, endpoint, isDown ? "hard" : "ok", timeMs), timeMs);
      }
    }
    const [from, to] = down["primary"] ?? [0, 0];
    const outcome = at >= from && at < to ? "hard" : "ok";
    const routes = { pinecone: { generation: 1, epoch: 0, eventId: null, active: "primary" } };
    const data = {
      router: "r1",
      fromMs: timeMs - second,
      toMs: timeMs,
      endpoints: [trafficOf(calls(outcome, 20))],
      tools: [],
      routes,
      rollbacks: {},
    };
    signal({ type: "traffic.observed", data }, timeMs);
  }
  return [...messages, ...extra].sort((a, b) => a.timeMs - b.timeMs);
}

function probe(observer: string, endpoint: string, outcome: OutcomeClass, timeMs: number): object {
  const observation: Observation = { ...probeOf(observer, outcome), endpoint, startedAtMs: timeMs - 10 };
  return { type: "probe.observed", data: { observer, observations: [observation] } };
}

function run(messages: readonly BacktestMessage[], wanted: Topology, more: { fromMs?: number; toMs?: number } = {}): BacktestResult {
  const backtest = new Backtest({ wanted: { topology: wanted, environment: null }, fromMs: 0, ...more });
  for (const message of messages) backtest.take(message);
  return backtest.end();
}

/** Down for a minute, and known to be up by the next probe of the one who looks every 5 s. */
const assertNear = (downMs: number): void => assert.ok(downMs >= 60 * second && downMs <= 65 * second, `${downMs} ms of 60 s`);

const outage: Happened = { down: { primary: [100, 160] } };

test("where nobody decided anything, the policy moves off what died, to what is proven, and what served was down for seconds, not for a minute", () => {
  const { sides, fidelity } = run(recordOf(outage), configured());
  const [move, ...others] = sides.wanted.moves;
  assert.deepEqual(others, []);
  assert.deepEqual([move?.from, move?.to, move?.automatic, move?.rule], ["primary", "backup", true, "majority_unhealthy"]);
  const lateMs = (move?.atMs ?? 0) - startMs - 100 * second;
  assert.ok(lateMs >= 0 && lateMs <= 5 * second, `moved after ${lateMs} ms`);
  assert.ok(Math.abs((move?.stillDownMs ?? 0) - (60 * second - lateMs)) <= 5 * second, `${move?.stillDownMs} ms of 60 s`);
  assert.equal(sides.recorded.total.moves, 0);
  assertNear(sides.recorded.total.downMs);
  assert.ok(sides.wanted.total.downMs <= 5 * second, `${sides.wanted.total.downMs} ms`);
  assert.deepEqual(sides.wanted.moves, sides.replayed.moves, "the policy in force is the same one");
  assert.deepEqual(fidelity, { recorded: 0, again: 0, added: 1, medianLagMs: null }, "and that it does otherwise than the record is told");
});

test("what a policy forbids it does not do: no automatic move where they are off, and it says what stopped it", () => {
  const { sides } = run(recordOf(outage), configured({ failover: { automatic: false } }));
  assert.deepEqual(sides.wanted.moves, []);
  assertNear(sides.wanted.total.downMs);
  assert.ok(sides.wanted.deadEnds.length > 0, "a move was needed, and it is told that there was none");
  assert.equal(sides.replayed.moves.length, 1, "the other policy goes on moving");
});

test("a call counts for what would have served it: answered where that was up, failed where it was down, apart where nobody knows", () => {
  const up = run(recordOf(outage), configured()).sides;
  assert.equal(up.recorded.total.failed, 60 * 20);
  assert.ok(up.wanted.total.failed > 0 && up.wanted.total.failed <= 5 * 20, `${up.wanted.total.failed} failed before the move`);
  assert.equal(up.wanted.total.failedUnknown, 0);
  assert.equal(up.wanted.total.calls, up.recorded.total.calls);
  const late = run(recordOf({ down: { primary: [100, 160], backup: [110, 160] } }), configured()).sides;
  assert.ok(late.wanted.total.failed >= 45 * 20, `${late.wanted.total.failed}: the backup died too`);
  const blind = run(recordOf({ down: { primary: [100, 200] }, backupProbedTo: 130 }), configured()).sides;
  assert.equal(blind.recorded.total.failedUnknown, 0, "what was recorded is known");
  const unknown = blind.wanted.total.failedUnknown / 20;
  assert.ok(unknown >= 50 && unknown <= 110, `of ${unknown} s nobody knows what the backup was like`);
});

/** An operator's order, as the log has it, `at` seconds after the start. */
function operatorMoves(at: number): BacktestMessage {
  const timeMs = startMs + at * second;
  const by = { kind: "operator", id: "ann" } as const;
  const state = { generation: 1, epoch: 1, active: "backup", tier: 1, sinceMs: timeMs, held: null, moves: [] };
  const command = {
    kind: "failover",
    commandId: "c1",
    by,
    reason: "maintenance",
    to: "backup",
    force: true,
    afterSeq: 0,
    gatherOver: true,
  };
  const event = makeEvent({
    ...{ type: "failover.decided", keys: ["pinecone"], id: "op", service: "failover-controller", instance: "t", timeMs },
    data: {
      ...{ service: "pinecone", action: "moved", previousEndpoint: "primary", currentEndpoint: "backup" },
      ...{ timestamp: new Date(timeMs).toISOString(), automatic: false, by, reason: "maintenance", commandId: "c1", overrode: [], state },
      certificate: {
        ...{ decider: "decideFailover", rule: "operator_forced", policyHash: "p", nowMs: timeMs, rejected: [] },
        ...{ folded: { AUDIT: null, SIGNALS: null }, input: { command } },
      },
    },
  } as Parameters<typeof makeEvent>[0]);
  return { stream: "AUDIT", seq: 3, timeMs, event: event as Event };
}

test("what operators did is not decided anew: their move is made at their time, to where it went", () => {
  const { sides } = run(recordOf({ extra: [operatorMoves(90)] }), configured());
  for (const side of [sides.recorded, sides.replayed, sides.wanted]) {
    assert.deepEqual(
      side.moves.map(({ atMs, to, automatic }) => [atMs, to, automatic]),
      [[startMs + 90 * second, "backup", false]],
    );
  }
});

test("where nothing was recorded nothing is judged, and the time is told", () => {
  const { sides, silentMs } = run(recordOf({ silent: [100, 160], seconds: 240 }), configured());
  assert.ok(Math.abs(silentMs - 61 * second) <= second, `${silentMs} ms`);
  const { upMs, downMs, unknownMs } = sides.wanted.total;
  assert.ok(upMs + downMs + unknownMs <= 240 * second - silentMs);
  assert.deepEqual(sides.wanted.moves, []);
});

test("nothing is judged before the time that is asked for, nor after it", () => {
  const fromMs = startMs + 30 * second;
  const toMs = startMs + minute;
  const result = run(recordOf(outage), configured(), { fromMs, toMs });
  assert.deepEqual([result.fromMs, result.toMs], [fromMs, toMs]);
  assert.equal(result.sides.wanted.total.upMs, 30 * second);
  assert.deepEqual(result.sides.wanted.moves, [], "the outage came later");
});

test("what a record cannot tell is named: other intervals, time-outs and probes, endpoints and upstreams that nobody probed", () => {
  const other = configured(
    {},
    {
      probe: { type: "http", interval_ms: 1000, timeout_ms: 700, path: "/health" },
      endpoints: [
        { name: "primary", url: "http://127.0.0.1:9011", tier: 0 },
        { name: "third", url: "http://127.0.0.1:9003", tier: 2 },
      ],
    },
  );
  const all = { ...other, upstreams: { ...other.upstreams, second: other.upstreams["pinecone"] } } as Topology;
  const said = run(recordOf({}), all).untried.join("\n");
  for (const wanted of [
    /pinecone\/third: it was not probed/,
    /pinecone\/primary: .*another address/,
    /interval of 1000 ms; they were made with 5000 ms/,
    /time-out of 700 ms; they were made with 5000 ms/,
    /something else/,
    /second: nothing of it was recorded/,
  ])
    assert.match(said, wanted);
  assert.deepEqual(run(recordOf({}), configured()).untried, []);
});

test("equal records and policies give equal results, and neither is altered", () => {
  const messages = recordOf(outage);
  const before = JSON.stringify(messages);
  const [one, other] = [run(messages, configured()), run(messages, configured())];
  assert.deepEqual(one, other);
  assert.equal(JSON.stringify(messages), before);
});

test("without a signal, or without a configuration, nothing is judged", () => {
  assert.equal(run([], configured()).fromMs, null);
  const signals = recordOf({ seconds: 60 }).filter(({ stream }) => stream === "SIGNALS");
  assert.equal(run(signals, configured()).fromMs, null);
});

test("a probe would have heard what the asker heard nearest to that moment, else what anybody did, and nothing where nobody looked in that time", () => {
  const record = new ProbeRecord(10 * second);
  const at = (observer: string, outcome: OutcomeClass, timeMs: number): void =>
    record.add({ ...probeOf(observer, outcome, 0), endpoint: "primary" }, timeMs);
  at("p1", "ok", 100_000);
  at("p2", "hard", 104_000);
  at("p1", "soft", 108_000);
  const heard = (prober: string, atMs: number) => record.answer("pinecone/primary", prober, atMs)?.outcome ?? null;
  assert.deepEqual([heard("p1", 101_000), heard("p1", 107_000), heard("p2", 100_000)], ["ok", "soft", "hard"]);
  assert.deepEqual([heard("p3", 103_500), heard("p3", 100_500)], ["hard", "ok"]);
  assert.deepEqual([heard("p1", 118_001), heard("p1", 89_999)], [null, null]);
  assert.equal(record.answer("pinecone/backup", "p1", 100_000), null);
});

test("an endpoint is down while most of those who spoke together last had no answer, and not known where nobody spoke lately", () => {
  const truth = new GroundTruth(15 * second);
  const key = "pinecone/primary";
  const say = (observer: string, outcome: OutcomeClass, timeMs: number): void =>
    truth.hear({ ...probeOf(observer, outcome), endpoint: "primary" }, timeMs);
  assert.equal(truth.condition(key, 0), "unknown");
  say("p1", "hard", 1000);
  assert.equal(truth.condition(key, 1000), "down");
  say("p2", "ok", 2000);
  assert.equal(truth.condition(key, 2000), "up", "one of two is no majority");
  say("p3", "hard", 3000);
  assert.equal(truth.condition(key, 3000), "down");
  say("p1", "auth", 4000);
  assert.equal(truth.condition(key, 4000), "up", "who refuses credentials lives");
  say("p1", "hard", 8000);
  assert.equal(truth.condition(key, 8000), "down", "what the others said is overtaken");
  say("p1", "ok", 13_000);
  assert.equal(truth.condition(key, 28_001), "unknown");
  assert.deepEqual(truth.outages(), [
    { endpoint: key, fromMs: 1000, toMs: 2000 },
    { endpoint: key, fromMs: 3000, toMs: 4000 },
    { endpoint: key, fromMs: 8000, toMs: 13_000 },
  ]);
});
