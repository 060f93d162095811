import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type Event,
  farewellOf,
  makeEvent,
  type NewEvent,
  type OutcomeClass,
  type ProbeObserved,
  parseEvent,
  type RouteHeld,
} from "@mcp-failover/contracts";
import {
  defaultPolicy,
  type Evidence,
  foldSignal,
  noEvidence,
  openEvidence,
  routersApplying,
  routersHolding,
  type Signal,
  seenEpoch,
  suspectObservers,
  takeSignal,
  testimonyOn,
} from "@mcp-failover/domain";
import fc from "fast-check";
import { calls, probeOf as observationOf, trafficOf } from "./signals.ts";

const times = defaultPolicy.failover;
const startMs = 1_000_000_000;
let seqs = 0;

interface Probe {
  readonly outcome?: OutcomeClass;
  readonly endpoint?: string;
  readonly startedAtMs?: number;
  readonly responseTimeMs?: number;
  readonly purpose?: "scheduled" | "confirm";
}
function probe(observer: string, timeMs: number, ...probes: Probe[]): Signal {
  const observations = probes.map(
    ({ outcome = "ok", endpoint = "primary", startedAtMs = timeMs, responseTimeMs = 1, purpose = "scheduled" }) => ({
      upstream: "pinecone",
      endpoint,
      observer,
      purpose,
      requestId: null,
      startedAtMs,
      responseTimeMs,
      outcome,
      code: outcome === "hard" ? ("timeout" as const) : null,
      error: null,
      httpStatus: null,
      era: null,
    }),
  );
  return batch(timeMs, { observer, observations });
}
function batch(timeMs: number, data: ProbeObserved): Signal {
  seqs += 1;
  const from = { type: "probe.observed", keys: [data.observer], data, id: `e${seqs}`, service: "prober", instance: "t", timeMs };
  return { seq: seqs, timeMs, event: makeEvent(from as NewEvent<"probe.observed">) as Event<"probe.observed"> };
}
/** A word of the process that began then. */
function probeOf(observer: string, startedAtMs: number, timeMs: number): Signal {
  const { event } = probe(observer, timeMs, {});
  return batch(timeMs, { ...(event.data as ProbeObserved), startedAtMs });
}
const farewell = (observer: string, startedAtMs: number, timeMs: number): Signal =>
  batch(timeMs, farewellOf(observer, startedAtMs, timeMs));
function traffic(
  router: string,
  timeMs: number,
  windows: readonly ReturnType<typeof trafficOf>[],
  routes: Record<string, RouteHeld> = {},
  rollbacks: Record<string, number> = {},
): Signal {
  seqs += 1;
  const data = { router, fromMs: timeMs - 250, toMs: timeMs, endpoints: [...windows], tools: [], routes, rollbacks };
  const from = { type: "traffic.observed", keys: [router], data, id: `e${seqs}`, service: "router", instance: "t", timeMs };
  return { seq: seqs, timeMs, event: makeEvent(from as NewEvent<"traffic.observed">) as Event<"traffic.observed"> };
}
const fold = (...signals: Signal[]): Evidence => signals.reduce(foldSignal, noEvidence);
const observersOf = (evidence: Evidence, nowMs: number): string[] => testimonyOn(evidence, "pinecone", "primary", times, nowMs).observers;
const say = (evidence: Evidence, nowMs: number, endpoint = "primary"): Record<string, string> =>
  Object.fromEntries(testimonyOn(evidence, "pinecone", endpoint, times, nowMs).votes.map(({ observer, verdict }) => [observer, verdict]));

test("E1: the late end of a probe that hung does not undo an answer that began after it", () => {
  const evidence = fold(
    probe("p1", startMs + 100, { startedAtMs: startMs + 90 }),
    probe("p1", startMs + 5000, { startedAtMs: startMs, responseTimeMs: 5000, outcome: "hard" }),
  );
  assert.deepEqual(say(evidence, startMs + 5000), { p1: "healthy" });
  const long = fold(
    probe("p1", startMs + 55_000, {}),
    probe("p1", startMs + 60_000, { startedAtMs: startMs, responseTimeMs: 60_000, outcome: "hard" }),
  );
  assert.deepEqual(say(long, startMs + 60_000), { p1: "healthy" }, "a probe may have a minute");
  const sentAgain = fold(probe("p1", startMs + 4000, {}), probe("p1", startMs + 4100, { startedAtMs: startMs, outcome: "hard" }));
  assert.deepEqual(say(sentAgain, startMs + 4100), { p1: "healthy" }, "its batch was sent again, after the next one");
});

test("E1: after the clock of a prober was set back, by however much, what it says counts within seconds, and so do its proofs", () => {
  for (const backMs of [500, 4000, 8000, 9500, 50_000, 70_000, 3_600_000]) {
    const signals = [probe("p1", startMs, {})];
    for (let atMs = startMs + 1000; atMs <= startMs + 9000; atMs += 1000)
      signals.push(probe("p1", atMs, { startedAtMs: atMs - backMs, outcome: "hard" }));
    const dead = fold(...signals);
    assert.deepEqual(say(dead, startMs + 9000), { p1: "unhealthy" }, `${backMs}`);
    const proven = fold(...signals, probe("p1", startMs + 10_000, { startedAtMs: startMs + 10_000 - backMs, purpose: "confirm" }));
    assert.equal(testimonyOn(proven, "pinecone", "primary", times, startMs + 10_000).votes[0]?.proof?.atMs, startMs + 10_000, `${backMs}`);
  }
});

test("E2: a word that is not fresh any more is unknown", () => {
  const evidence = fold(probe("p1", startMs, { outcome: "hard" }));
  assert.deepEqual(say(evidence, startMs + times.evidenceFreshMs), { p1: "unhealthy" });
  assert.deepEqual(say(evidence, startMs + times.evidenceFreshMs + 1), { p1: "unknown" });
});

test("E3: rate limits, refused credentials and the caller's errors are no word for or against", () => {
  for (const outcome of ["soft", "auth", "caller"] as const) {
    assert.deepEqual(say(fold(probe("p1", startMs, { outcome })), startMs), { p1: "unknown" });
    assert.deepEqual(say(fold(traffic("r1", startMs, [trafficOf(calls(outcome, 3))])), startMs), { r1: "unknown" });
  }
});

test("a router's word is the end of its last window: failures after the last answer, or an answer after the last failure", () => {
  const said = (...ended: ReturnType<typeof calls>): Record<string, string> =>
    say(fold(traffic("r1", startMs, [trafficOf(ended)])), startMs);
  assert.deepEqual(said(...calls("ok", 2), ...calls("hard", 1)), { r1: "unhealthy" });
  assert.deepEqual(said(...calls("hard", 9), ...calls("ok", 1)), { r1: "healthy" });
});

test("a run of failures is carried over windows and begins where the first of it was stored", () => {
  const evidence = fold(
    traffic("r1", startMs, [trafficOf([...calls("ok", 1), ...calls("hard", 2)])]),
    traffic("r1", startMs + 250, [trafficOf(calls("hard", 3))]),
  );
  const [vote] = testimonyOn(evidence, "pinecone", "primary", times, startMs + 250).votes;
  assert.deepEqual([vote?.hardRun, vote?.hardSinceMs], [5, startMs]);
});

test("E9: calls in flight for too long, with no answer since they began, are a word against the endpoint; one alone may be a slow tool", () => {
  const stuck = trafficOf([], { inFlight: 2, oldestInFlightMs: times.slowInFlightMs + 1 });
  assert.deepEqual(say(fold(traffic("r1", startMs, [stuck])), startMs), { r1: "unhealthy" });
  const answeredSince = fold(traffic("r1", startMs - 1000, [trafficOf(calls("ok", 1))]), traffic("r1", startMs, [stuck]));
  assert.deepEqual(say(answeredSince, startMs), { r1: "healthy" });
  const slowOnly = trafficOf([], { inFlight: 2, oldestInFlightMs: times.slowInFlightMs });
  assert.deepEqual(say(fold(traffic("r1", startMs, [slowOnly])), startMs), {});
  const alone = { ...stuck, inFlight: 1 };
  assert.deepEqual(say(fold(traffic("r1", startMs, [alone])), startMs), {}, "one call may be a slow tool");
  assert.deepEqual(say(fold(traffic("r1", startMs, [{ ...stuck, inFlight: 9, slowInFlight: 1 }])), startMs), {}, "eight of nine are young");
  const hung = { ...alone, oldestInFlightMs: 1500, hung: true };
  assert.deepEqual(say(fold(traffic("r1", startMs, [hung])), startMs), { r1: "unhealthy" }, "a look at it had no answer either");
  const overlapped = fold(traffic("r1", startMs - 500, [trafficOf(calls("ok", 1))]), traffic("r1", startMs, [hung]));
  assert.deepEqual(say(overlapped, startMs), { r1: "unhealthy" }, "the last answer was for a call that overlapped with the one that hangs");
});

test("E8: of a window with calls of two generations of the breaker the newer one is the word, in whatever order they come", () => {
  const old = trafficOf(calls("hard", 4), { breakerGeneration: 3 });
  const now = trafficOf(calls("ok", 2), { breakerGeneration: 4 });
  for (const windows of [
    [old, now],
    [now, old],
  ])
    assert.deepEqual(say(fold(traffic("r1", startMs, windows)), startMs), { r1: "healthy" });
  const nothingEnded = trafficOf([], { breakerGeneration: 4 });
  assert.deepEqual(say(fold(traffic("r1", startMs, [nothingEnded, old])), startMs), { r1: "unhealthy" });
  const halfStuck = (breakerGeneration: number) => trafficOf([], { inFlight: 1, oldestInFlightMs: 6000, breakerGeneration });
  assert.deepEqual(say(fold(traffic("r1", startMs, [halfStuck(3), halfStuck(4)])), startMs), { r1: "unhealthy" }, "they are two together");
});

test("E4: every prober of the last ten minutes observes every endpoint, also one that is gone", () => {
  const evidence = fold(probe("gone", startMs, { endpoint: "other" }), probe("p1", startMs + 300_000, {}));
  assert.deepEqual(observersOf(evidence, startMs + times.observerWindowMs), ["prober:gone", "prober:p1"]);
  assert.deepEqual(observersOf(evidence, startMs + times.observerWindowMs + 1), ["prober:p1"]);
});

test("E10: who leaves in good order observes nothing any more, and what it said before and comes after changes nothing; who ends without a word is silent", () => {
  const [old, other] = [startMs - 5000, startMs - 4000];
  const heard = fold(probeOf("p1", old, startMs), probeOf("p2", other, startMs));
  assert.deepEqual(observersOf(heard, startMs + 60_000), ["prober:p1", "prober:p2"]);
  const left = foldSignal(heard, farewell("p1", old, startMs + 100));
  assert.deepEqual(observersOf(left, startMs + 100), ["prober:p2"]);
  const late = foldSignal(left, probeOf("p1", old, startMs + 200));
  assert.deepEqual(observersOf(late, startMs + 200), ["prober:p2"], "its last words were overtaken");
  assert.deepEqual(observersOf(foldSignal(late, farewell("p1", old, startMs + 300)), startMs + 300), ["prober:p2"], "twice is once");
  const unknown = fold(farewell("p3", old, startMs), probeOf("p3", old, startMs + 1));
  assert.deepEqual(observersOf(unknown, startMs + 1), [], "nothing else of it was in what is read");
});

test("E10: another process under the name observes, whatever is heard late of the one before, and whichever way its clock was set", () => {
  for (const startedAtMs of [startMs + 1000, startMs - 3_600_000]) {
    const before = startMs - 5000;
    const back = fold(probeOf("p1", before, startMs), farewell("p1", before, startMs + 100), probeOf("p1", startedAtMs, startMs + 2000));
    assert.deepEqual(observersOf(back, startMs + 2000), ["prober:p1"]);
    const late = [farewell("p1", before, startMs + 2100), probeOf("p1", before, startMs + 2200), farewell("p1", before, startMs + 2300)];
    const struck = late.reduce(foldSignal, back);
    assert.deepEqual(observersOf(struck, startMs + 2300), ["prober:p1"], "its own old word strikes nobody out");
    assert.deepEqual(observersOf(foldSignal(struck, farewell("p1", startedAtMs, startMs + 2400)), startMs + 2400), []);
  }
});

test("E10: one of an earlier version, which does not say when it began, is struck out by no word, and counts where it follows one that left", () => {
  const mute = fold(probe("p1", startMs, {}), farewell("p1", startMs - 5000, startMs + 100));
  assert.deepEqual(observersOf(mute, startMs + 100), ["prober:p1"]);
  const without = farewell("p1", startMs, startMs + 100).event.data as ProbeObserved;
  const { startedAtMs: _, ...said } = without;
  assert.deepEqual(observersOf(fold(probe("p1", startMs, {}), batch(startMs + 100, said)), startMs + 100), ["prober:p1"]);
  const followed = fold(
    probeOf("p1", startMs - 5000, startMs),
    farewell("p1", startMs - 5000, startMs + 100),
    probe("p1", startMs + 200, {}),
  );
  assert.deepEqual(observersOf(followed, startMs + 200), ["prober:p1"]);
});

test("the word of one that leaves is none to who does not know it: no vote, no suspicion, and an event that is read", () => {
  const seen = [probe("p2", startMs, { outcome: "hard" }, { outcome: "hard", endpoint: "secondary" }), probeOf("p1", 1, startMs + 50)];
  const { event, timeMs } = farewell("p2", 1, startMs + 100);
  const { leaving: _, startedAtMs: __, ...data } = event.data as ProbeObserved;
  const parsed = parseEvent("probe.observed.p2", Buffer.from(JSON.stringify({ ...event, data })));
  assert.deepEqual(parsed.ok && parsed.event.data, data);
  const [before, after] = [fold(...seen), fold(...seen, batch(timeMs, data))];
  for (const endpoint of ["primary", "secondary"]) assert.deepEqual(say(after, timeMs, endpoint), say(before, timeMs, endpoint));
  assert.deepEqual(suspectObservers(after, times, timeMs), suspectObservers(before, times, timeMs));
  assert.deepEqual(suspectObservers(after, times, timeMs), ["prober:p2"]);
});

test("E4: a live router that sends the endpoint nothing abstains; one that went silent still counts", () => {
  const before = fold(traffic("r1", startMs, [trafficOf(calls("ok", 1))]));
  const laterMs = startMs + 60_000;
  assert.deepEqual(testimonyOn(before, "pinecone", "primary", times, laterMs).observers, ["router:r1"]);
  const alive = foldSignal(before, traffic("r1", laterMs, []));
  assert.deepEqual(testimonyOn(alive, "pinecone", "primary", times, laterMs).observers, []);
  assert.deepEqual(testimonyOn(alive, "pinecone", "other", times, laterMs).observers, [], "never had traffic there");
});

test("E5: who fails everywhere is suspect once another has reached one of those endpoints after it", () => {
  const both = (outcome: OutcomeClass): Probe[] => [
    { outcome, endpoint: "primary" },
    { outcome, endpoint: "secondary" },
  ];
  const blind = fold(probe("p2", startMs - 100, ...both("ok")), probe("p1", startMs, ...both("hard")));
  assert.deepEqual(suspectObservers(blind, times, startMs), [], "nobody has looked since");
  assert.deepEqual(suspectObservers(foldSignal(blind, probe("p2", startMs + 100, ...both("ok"))), times, startMs + 100), ["prober:p1"]);
  assert.deepEqual(suspectObservers(foldSignal(blind, probe("p2", startMs + 100, ...both("hard"))), times, startMs + 100), []);
  const oneOnly = fold(probe("p1", startMs, { outcome: "hard" }), probe("p2", startMs + 100, {}));
  assert.deepEqual(suspectObservers(oneOnly, times, startMs + 100), [], "one endpoint is not everywhere");
  const reachesOne = foldSignal(blind, probe("p1", startMs + 50, { endpoint: "secondary" }));
  assert.deepEqual(suspectObservers(foldSignal(reachesOne, probe("p2", startMs + 100, ...both("ok"))), times, startMs + 100), []);
});

test("a probe made for the purpose that ended ok is the proof, until the next word against", () => {
  const proven = fold(probe("p1", startMs, { purpose: "confirm" }), probe("p1", startMs + 100, {}));
  const [vote] = testimonyOn(proven, "pinecone", "primary", times, startMs + 100).votes;
  assert.deepEqual([vote?.verdict, vote?.proof?.atMs], ["healthy", startMs]);
  assert.equal(testimonyOn(fold(probe("p1", startMs, {})), "pinecone", "primary", times, startMs).votes[0]?.proof, null);
  const failed = foldSignal(proven, probe("p1", startMs + 200, { outcome: "hard" }));
  assert.equal(testimonyOn(failed, "pinecone", "primary", times, startMs + 200).votes[0]?.verdict, "unhealthy");
});

test("live routers that hold a route at least as new have applied it; the highest epoch seen is that of the same log", () => {
  const route = (generation: number, epoch: number): Record<string, RouteHeld> => ({
    pinecone: { generation, epoch, eventId: null, active: "a" },
  });
  const evidence = fold(
    traffic("old", startMs - 60_000, [], route(1, 9)),
    traffic("behind", startMs, [], route(1, 3)),
    traffic("with", startMs, [], route(1, 4)),
    traffic("ahead", startMs, [], route(2, 1)),
    traffic("none", startMs, [], {}, { "tool/x": 2 }),
  );
  assert.deepEqual(routersHolding(evidence, "pinecone", { generation: 1, epoch: 4 }, times.routerLiveMs, startMs), {
    appliedBy: ["ahead", "with"],
    notAppliedBy: ["behind", "none"],
  });
  assert.equal(seenEpoch(evidence, "pinecone", 1), 9);
  assert.equal(seenEpoch(evidence, "pinecone", 3), 0);
  const appliedBy = (epoch: number): string[] =>
    routersApplying(evidence, "tool/x", { decision: { epoch, id: "d" }, newest: null }, times.routerLiveMs, startMs).appliedBy;
  assert.deepEqual([appliedBy(2), appliedBy(3)], [["none"], []]);
});

const signalArb = fc.oneof(
  fc.record({
    kind: fc.constant("probe" as const),
    who: fc.integer({ min: 0, max: 3 }),
    afterMs: fc.integer({ min: 0, max: 8000 }),
    lateMs: fc.integer({ min: 0, max: 6000 }),
    outcome: fc.constantFrom<OutcomeClass>("ok", "hard", "soft", "auth"),
    endpoint: fc.constantFrom("primary", "secondary"),
    purpose: fc.constantFrom("scheduled" as const, "confirm" as const),
  }),
  fc.record({
    kind: fc.constant("traffic" as const),
    who: fc.integer({ min: 0, max: 2 }),
    afterMs: fc.integer({ min: 0, max: 8000 }),
    ended: fc.array(fc.constantFrom<OutcomeClass>("ok", "hard", "soft"), { maxLength: 5 }),
    inFlightMs: fc.integer({ min: 0, max: 9000 }),
  }),
);

test("E1, E2, E3, E7: each observer's vote is what its own last words amount to, whatever else is folded between", () => {
  fc.assert(
    fc.property(fc.array(signalArb, { maxLength: 40, size: "max" }), (drawn) => {
      let evidence = noEvidence;
      const own = openEvidence();
      let timeMs = startMs;
      const latest = new Map<string, { startedAtMs: number; atMs: number; outcome: OutcomeClass }>();
      for (const one of drawn) {
        timeMs += one.afterMs;
        const before = evidence;
        if (one.kind === "probe") {
          const startedAtMs = timeMs - one.lateMs;
          const signal = probe(`p${one.who}`, timeMs, { ...one, startedAtMs, responseTimeMs: one.lateMs });
          evidence = foldSignal(evidence, signal);
          takeSignal(own, signal);
          const key = `p${one.who} ${one.endpoint}`;
          const known = latest.get(key);
          if (known === undefined || startedAtMs >= known.startedAtMs) latest.set(key, { startedAtMs, atMs: timeMs, outcome: one.outcome });
        } else {
          const window = trafficOf(
            one.ended.map((outcome) => ({ outcome })),
            { inFlight: 1, oldestInFlightMs: one.inFlightMs },
          );
          const signal = traffic(`r${one.who}`, timeMs, [window]);
          evidence = foldSignal(evidence, signal);
          takeSignal(own, signal);
        }
        assert.equal(before.lastSeq < evidence.lastSeq, true, "E7: what was there before was altered");
      }
      assert.deepEqual(own, evidence, "E7: changed in place it is the same");
      for (const endpoint of ["primary", "secondary"]) {
        const { votes } = testimonyOn(evidence, "pinecone", endpoint, times, timeMs);
        for (const vote of votes.filter(({ kind }) => kind === "prober")) {
          const expected = latest.get(`${vote.observer} ${endpoint}`);
          assert.deepEqual([vote.outcome, vote.atMs], [expected?.outcome, expected?.atMs], "E1");
          const fresh = timeMs - vote.atMs <= times.evidenceFreshMs;
          const verdict = !fresh ? "unknown" : vote.outcome === "ok" ? "healthy" : vote.outcome === "hard" ? "unhealthy" : "unknown";
          assert.equal(vote.verdict, verdict, "E2, E3");
          assert.equal(vote.hardRun > 0, vote.outcome === "hard");
        }
        assert.equal(new Set(votes.map(({ kind, observer }) => `${kind}:${observer}`)).size, votes.length, "one vote an observer");
      }
    }),
    { numRuns: 300 },
  );
});

test("E6: the state stays within its limits, and the observers heard longest ago go first", () => {
  let evidence = noEvidence;
  for (let index = 0; index < 520; index += 1) evidence = foldSignal(evidence, probe(`p${index}`, startMs + index, {}));
  assert.equal(evidence.probers.size, 500);
  assert.equal(evidence.words.get("pinecone/primary")?.size, 500);
  assert.equal(evidence.probers.has("p19"), false);
  assert.equal(evidence.probers.has("p20"), true);
});

test("E6: of 20,000 endpoints all have their words; of more those heard of longest ago are forgotten, and it is counted where they are spoken of still", () => {
  const evidence = openEvidence();
  let seq = 0;
  const hear = (from: number, to: number, timeMs: number): void => {
    for (let at = from; at < to; at += 1000) {
      const observations = Array.from({ length: Math.min(1000, to - at) }, (_, index) => ({
        ...observationOf("p1", "ok"),
        endpoint: `e${at + index}`,
      }));
      seq += 1;
      takeSignal(evidence, { seq, timeMs, event: { type: "probe.observed", data: { observer: "p1", observations } } as never });
    }
  };
  hear(0, 20_000, startMs);
  assert.deepEqual([evidence.words.size, evidence.displaced], [20_000, 0]);
  const windowMs = defaultPolicy.failover.observerWindowMs;
  hear(20_000, 20_003, startMs + windowMs);
  assert.deepEqual([evidence.words.size, evidence.words.has("pinecone/e2"), evidence.displaced], [20_000, false, 3]);
  hear(20_003, 20_005, startMs + windowMs + 1);
  assert.equal(evidence.displaced, 3, "of these nobody has spoken for so long that no word of theirs would count");
});
