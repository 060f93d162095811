import assert from "node:assert/strict";
import { test } from "node:test";
import { type BreakerState, type Event, topology } from "@mcp-failover/contracts";
import {
  breakerGate,
  decideBreaker,
  decideFailover,
  defaultPolicy,
  EvidenceStart,
  evidenceOf,
  failbackDueMs,
  failoverInput,
  foldBreakerSignal,
  foldFailoverAudit,
  isBreakerDue,
  liveRouters,
  noFailoverAudit,
  openBreakerSignals,
  openEvidence,
  openWindow,
  takeSignal,
  testimonyOn,
} from "@mcp-failover/domain";
import { halfOpen, open, policy } from "./breaker-fixture.ts";
import { allSay, dead, policy as failoverPolicy, nowMs, ruleOf, stateWith, three, world } from "./failover-world.ts";
import { calls, probeOf, trafficOf } from "./signals.ts";

const hourMs = 3_600_000;
const t0 = 1_800_000_000_000;

const probed = (observer: string, outcome: "ok" | "hard") =>
  ({ type: "probe.observed", data: { observer, observations: [probeOf(observer, outcome)] } }) as unknown as Event<"probe.observed">;
const told = (outcome: "ok" | "hard") =>
  ({
    type: "traffic.observed",
    data: { router: "r1", fromMs: t0, toMs: t0 + 250, endpoints: [trafficOf(calls(outcome, 5))], tools: [], routes: {}, rollbacks: {} },
  }) as unknown as Event<"traffic.observed">;

/** What the deciders hold after an hour that was taken back: an hour's end of good answers, then `count` of these. */
function afterSetBack(outcome: "ok" | "hard", count: number) {
  const signals = openBreakerSignals();
  for (let index = 0; index < 20; index += 1) foldBreakerSignal(signals, told("ok"), t0 + hourMs + index * 250);
  for (let index = 0; index < count; index += 1) {
    foldBreakerSignal(signals, told(outcome), t0 + index * 250);
    foldBreakerSignal(signals, probed("p1", outcome), t0 + index * 250);
  }
  return { signals, atMs: t0 + count * 250 };
}

function decided(state: BreakerState, outcome: "ok" | "hard") {
  const { signals, atMs } = afterSetBack(outcome, 20);
  const evidence = evidenceOf(signals.windows.get("pinecone/primary") ?? openWindow(), state, policy, atMs);
  const routers = liveRouters(signals, atMs, policy.routerLiveMs);
  return { atMs, ...decideBreaker({ upstream: "pinecone", endpoint: "primary", policy, nowMs: atMs, state, evidence, routers }) };
}

test("ST1, ST2: with the store's clock set back by an hour a closed breaker still opens for failures", () => {
  const closed: BreakerState = { ...open, status: "closed", sinceMs: t0 + hourMs - 1000, openUntilMs: null };
  const { state } = decided(closed, "hard");
  assert.equal(state.status, "open");
  assert.ok((state.openUntilMs ?? 0) < t0 + policy.openMsMax + 60_000);
});

test("C6, C7: nothing open or half-open outlasts a clock that was set back: an open one tries again at once, a half-open one is decided", () => {
  const opened: BreakerState = { ...open, sinceMs: t0 + hourMs - 5000, openUntilMs: t0 + hourMs + 5000 };
  assert.ok(isBreakerDue(opened, policy, t0));
  assert.equal(decided(opened, "ok").state.status, "half_open");
  const trying: BreakerState = {
    ...halfOpen,
    sinceMs: t0 + hourMs,
    permits: [{ router: "r1", calls: 5, expiresAtMs: t0 + hourMs + 30_000 }],
  };
  assert.equal(decided(trying, "ok").state.status, "closed");
  const failed = decided(trying, "hard");
  assert.equal(failed.state.status, "open");
  const quiet = decideBreaker({
    upstream: "u",
    endpoint: "e",
    policy,
    nowMs: t0,
    state: { ...trying, renewed: { times: 1, atMs: t0 + hourMs, successes: 0 } },
    evidence: [],
    routers: ["r1"],
  });
  assert.deepEqual([quiet.rule, quiet.state.sinceMs, quiet.state.renewed?.atMs], ["permits_expired", t0, t0]);
});

test("G3: who calls does not wait for an open time of another clock either, but tries one call at a time", () => {
  const ask = (state: BreakerState) => breakerGate({ state, router: "r1", permitsUsed: 0, logReachable: true, nowMs: t0 });
  assert.equal(ask({ ...open, sinceMs: t0 + hourMs, openUntilMs: t0 + hourMs + 5000 }), "trial");
  assert.equal(ask({ ...open, sinceMs: t0 - 1000, openUntilMs: t0 + 5000 }), "deny");
  assert.equal(ask({ ...halfOpen, sinceMs: t0 + hourMs, permits: [{ router: "r2", calls: 5, expiresAtMs: t0 + hourMs }] }), "trial");
});

test("ST1: a word that was said before the clock was set back is fresh for nobody; who has spoken since is heard at once", () => {
  const evidence = openEvidence();
  takeSignal(evidence, { seq: 1, timeMs: t0 + hourMs, event: probed("p1", "ok") });
  takeSignal(evidence, { seq: 2, timeMs: t0 + hourMs, event: probed("p2", "ok") });
  takeSignal(evidence, { seq: 3, timeMs: t0, event: probed("p1", "hard") });
  const { observers, votes } = testimonyOn(evidence, "pinecone", "primary", defaultPolicy.failover, t0 + 100);
  assert.deepEqual(observers, ["prober:p1"]);
  assert.deepEqual(
    votes.map(({ observer, verdict }) => [observer, verdict]),
    [["p1", "unhealthy"]],
  );
});

test("ST2: a cool-down, an hour's moves and a verification of another clock forbid no move", () => {
  const move = { atMs: nowMs + hourMs, epoch: 1, from: "secondary", to: "primary", automatic: true };
  const state = { ...world().state, epoch: 3, moves: [move, { ...move, epoch: 2 }, { ...move, epoch: 3 }] };
  const decide = (more: Partial<typeof state>) => decideFailover(world({ state: { ...state, ...more } as never }));
  assert.equal(decide({}).kind, "decided");
  const cooling = decide({ moves: [{ ...move, atMs: nowMs - 1000 }] });
  assert.deepEqual([cooling.kind, "rule" in cooling ? cooling.rule : ""], ["rejected", "cooldown"]);
});

test("ST2: what is said of an endpoint that became active by another clock counts, and so do the moves since a release by another clock", () => {
  const decide = (more: object) => decideFailover(world({ state: { ...world().state, epoch: 9, ...more } as never }));
  assert.equal(decide({ sinceMs: nowMs + hourMs }).kind, "decided");
  const routers = ["router:r1", "router:r2"];
  const byCalls = decideFailover(
    world({
      state: { ...world().state, sinceMs: nowMs + hourMs },
      evidence: {
        primary: { observers: [...three, ...routers], votes: [...allSay().votes, ...dead({}, routers).votes] },
        secondary: allSay(),
      },
      calls: { primary: ["r1", "r2"].map((router) => ({ router, ok: 0, hard: 9, run: 9 })) },
    }),
  );
  assert.deepEqual([byCalls.kind, byCalls.rule], ["decided", "calls_failing"]);
  const moves = [6, 7, 8, 9].map((epoch) => ({
    atMs: nowMs - (10 - epoch) * 100_000,
    epoch,
    from: "secondary",
    to: "primary",
    automatic: true,
  }));
  const limited = decide({ moves, countedFromMs: nowMs + hourMs });
  assert.deepEqual([limited.kind, limited.rule], ["decided", "moves_per_hour"]);
});

test("evidence begins with the first signal of a clock that was set back, and behind a gap with the first one after it", () => {
  const start = new EvidenceStart();
  start.hear({ seq: 1, timeMs: t0 + hourMs }, 0);
  assert.equal(start.fromMs(0), 0);
  start.hear({ seq: 2, timeMs: t0 + hourMs }, 1);
  assert.equal(start.fromMs(1), t0 + hourMs + 1);
  start.hear({ seq: 3, timeMs: t0 }, 1);
  assert.deepEqual([start.fromMs(1), start.last.seq], [t0, 3]);
  start.hear({ seq: 4, timeMs: t0 + 250 }, 5);
  start.hear({ seq: 6, timeMs: t0 + 500 }, 5);
  assert.equal(start.fromMs(5), t0 + 251);
});

const waitMs = failoverPolicy.failbackAfterMs;
/** Away from the primary, which was well, by these times. `wellMs`, `movedMs` and `failedMs`: when, by the clock that gave them. */
function awayFrom({ wellMs, movedMs, failedMs, setBack }: { wellMs: number; movedMs: number; failedMs?: number; setBack?: object }) {
  const moves = [{ atMs: movedMs, epoch: 1, from: "primary", to: "secondary", automatic: true }];
  const failed = failedMs === undefined ? {} : { failbackFailedAtMs: failedMs };
  return world({
    state: stateWith({ active: "secondary", tier: 1, epoch: 1, moves, ...failed }),
    evidence: { primary: allSay(), secondary: allSay() },
    health: { primary: { status: "healthy", sinceMs: wellMs, heldDownUntilMs: null } },
    policy: { ...failoverPolicy, failback: "automatic" },
    gatherSinceMs: nowMs - 200,
    ...(setBack === undefined ? {} : { setBack: setBack as never }),
  });
}

test("ST3, F12: a failback waits from when the store's clock was set back, and not for as long as it was, whichever time is of the clock before", () => {
  const setBack = (agoMs: number) => ({ fromMs: nowMs - agoMs + hourMs, toMs: nowMs - agoMs });
  const before = (agoMs: number) => nowMs - agoMs + hourMs - 60_000;
  const asks = (agoMs: number) => [
    { wellMs: before(agoMs), movedMs: before(agoMs), setBack: setBack(agoMs) },
    { wellMs: nowMs - hourMs, movedMs: before(agoMs), setBack: setBack(agoMs) },
    { wellMs: before(agoMs), movedMs: nowMs - hourMs, setBack: setBack(agoMs) },
    { wellMs: 0, movedMs: 0, failedMs: before(agoMs), setBack: setBack(agoMs) },
  ];
  for (const times of asks(waitMs)) assert.equal(ruleOf(decideFailover(awayFrom(times))), "decided failback");
  for (const times of asks(waitMs - 1)) {
    const input = awayFrom(times);
    assert.equal(ruleOf(decideFailover(input)), "none active_healthy");
    assert.equal(failbackDueMs(input), nowMs + 1);
  }
});

test("ST3: what was stamped after the set-back by a clock that runs ahead, or where nobody knows of a set-back, is waited for as it is", () => {
  const wellMs = nowMs + hourMs;
  const none = "none active_healthy";
  assert.equal(ruleOf(decideFailover(awayFrom({ wellMs, movedMs: 0 }))), none, "as decisions of before were taken, and are recomputed");
  const setBack = { fromMs: nowMs + hourMs - 20_000, toMs: nowMs - 2 * hourMs };
  assert.equal(ruleOf(decideFailover(awayFrom({ wellMs, movedMs: 0, setBack }))), none);
  assert.equal(
    ruleOf(decideFailover(awayFrom({ wellMs: nowMs + 5000, movedMs: 0, setBack }))),
    none,
    "leaders of two streams differ by so much",
  );
});

test("ST3: the input of a decision says since when the store's clock runs as it does, where it was set back as this was folded", () => {
  const shop = { kind: "mcp", endpoints: [{ name: "primary", url: "http://127.0.0.1:1/a", tier: 0 }] };
  const config = { version: 1, environment: "development", topology: topology.parse({ upstreams: { shop } }) };
  const audit = foldFailoverAudit(noFailoverAudit, { type: "config.applied", data: config } as unknown as Event, t0);
  const evidence = openEvidence();
  const moment = { command: null, fleet: null, clock: { tilted: false, freshAfterSeq: 0 }, gatherSinceMs: null };
  const said = (atMs: number) => failoverInput(audit, evidence, "shop", { ...moment, nowMs: atMs }).setBack;
  let seq = 0;
  const hear = (timeMs: number): void => {
    seq += 1;
    takeSignal(evidence, { seq, timeMs, event: probed("p1", "ok") });
  };
  hear(t0 + hourMs);
  hear(t0 + hourMs - 1000);
  assert.equal(said(t0 + hourMs), undefined, "what leaders differ by is no set-back");
  hear(t0);
  hear(t0 + 1000);
  assert.deepEqual(said(t0 + 1000), { fromMs: t0 + hourMs - 1000, toMs: t0 });
  hear(t0 - hourMs);
  assert.deepEqual(
    said(t0),
    { fromMs: t0 + hourMs - 1000, toMs: t0 - hourMs },
    "set back twice: what was stamped before the first was too",
  );
});
