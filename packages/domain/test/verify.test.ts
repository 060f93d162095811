import assert from "node:assert/strict";
import { test } from "node:test";
import { type DataOf, type Event, type EventType, integrityHeader, makeEvent, sha256, subjectFor } from "@mcp-failover/contracts";
import fc from "fast-check";
import {
  decideFailover,
  decideHealth,
  evidenceRefs,
  type FailoverInput,
  type LogMessage,
  nothingVerified,
  problemsMax,
  type Recompute,
  type SignalAt,
  type VerifyState,
  verifyEnd,
  verifyNext,
} from "../src/index.ts";
import { defaultPolicy } from "../src/policy.ts";

const atMs = 1_800_000_000_000;
const deciders: Record<string, Recompute> = {
  decideFailover: (input) => decideFailover(input as FailoverInput),
  decideHealth: (input) => decideHealth(input as Parameters<typeof decideHealth>[0]),
};

function message<T extends EventType>(seq: number, type: T, keys: string[], data: DataOf<T>, expected: number | null): LogMessage {
  const event = makeEvent({ type, keys, data, id: `e${seq}`, service: "prober", instance: "p1", timeMs: atMs + seq });
  const bytes = new TextEncoder().encode(JSON.stringify(event));
  const headers: Record<string, string> = { [integrityHeader]: sha256(bytes) };
  if (expected !== null) headers["Nats-Expected-Last-Subject-Sequence"] = String(expected);
  return { seq, subject: subjectFor(type, ...keys), timeMs: atMs + seq, headers, bytes };
}

type Probe = Parameters<typeof decideHealth>[0]["evidence"][number];
const ok = (startedAtMs: number): Probe => ({ startedAtMs, responseTimeMs: 3, outcome: "ok", code: null, purpose: "scheduled" });

/** Two changes of health as a prober would say them: really decided, so that deciding again gives the same. */
function healthLog(): LogMessage[] {
  const log: LogMessage[] = [];
  let state: Parameters<typeof decideHealth>[0]["state"] = null;
  let last = 0;
  const rounds: Probe[][] = [
    [ok(atMs), ok(atMs + 10)],
    [
      { ...ok(atMs + 20), outcome: "auth" },
      { ...ok(atMs + 30), outcome: "auth" },
    ],
  ];
  for (const [index, evidence] of rounds.entries()) {
    const input = { policy: defaultPolicy.health, state, evidence, asked: 0, votes: [], graceUntilMs: 0, nowMs: atMs + 100 * (index + 1) };
    const decision = decideHealth(input);
    assert.ok(decision.publish, `the fixture has to publish; it says ${decision.rule}`);
    const seq = index + 1;
    const certificate = {
      decider: "decideHealth",
      rule: decision.rule,
      policyHash: "p",
      nowMs: input.nowMs,
      folded: { AUDIT: null, SIGNALS: null },
      input,
      rejected: [...decision.rejected],
    };
    log.push(
      message(
        seq,
        "health.changed",
        ["a", "p"],
        {
          service: "a",
          endpoint: "p",
          status: decision.state.status,
          responseTime: 3,
          error: null,
          timestamp: new Date(atMs).toISOString(),
          critical: true,
          previousStatus: null,
          reason: decision.reason,
          prober: "p1",
          votes: [],
          state: decision.state,
          certificate,
        },
        last,
      ),
    );
    state = decision.state;
    last = seq;
  }
  return log;
}

function verifyAll(log: readonly LogMessage[], signalAt: SignalAt = () => null): VerifyState {
  return log.reduce((state, one) => verifyNext(state, one, { deciders, signalAt, complete: true }), nothingVerified);
}

test("a log that its deciders wrote verifies, and every decision was recomputed", () => {
  const state = verifyAll(healthLog());
  assert.deepEqual(state.problems, []);
  assert.equal(state.decisions, 2);
});

test("V1: any one altered byte is found, and the event is named", () => {
  const log = healthLog();
  fc.assert(
    fc.property(fc.nat(log.length - 1), fc.nat(), fc.integer({ min: 1, max: 255 }), (which, where, by) => {
      const altered = log.map((one, index) => {
        if (index !== which) return one;
        const bytes = Uint8Array.from(one.bytes);
        const at = where % bytes.length;
        bytes[at] = ((bytes[at] ?? 0) + by) % 256;
        return { ...one, bytes };
      });
      const { problems } = verifyAll(altered);
      assert.ok(problems.some(({ seq, check }) => check === "bytes" && seq === which + 1));
    }),
  );
});

test("V1: an event that was rewritten with a fitting hash is found by its decision", () => {
  const [first, second] = healthLog() as [LogMessage, LogMessage];
  const event = JSON.parse(new TextDecoder().decode(second.bytes)) as { data: { state: { status: string } } };
  event.data.state.status = "healthy";
  const bytes = new TextEncoder().encode(JSON.stringify(event));
  const forged = { ...second, bytes, headers: { ...second.headers, [integrityHeader]: sha256(bytes) } };
  assert.ok(verifyAll([first, forged]).problems.some(({ seq, check }) => seq === 2 && check === "decision"));
});

test("V3: an event that was taken out of the log is found at the next one of its subject", () => {
  const [, second] = healthLog() as [LogMessage, LogMessage];
  const { problems } = verifyAll([second]);
  assert.ok(problems.some(({ seq, check }) => seq === 2 && check === "fence"));
});

test("V5: a decision from a state that the event before it did not leave is found", () => {
  const [first, second] = healthLog() as [LogMessage, LogMessage];
  const event = JSON.parse(new TextDecoder().decode(first.bytes)) as { data: { state: { okRun: number } } };
  event.data.state.okRun += 1;
  const bytes = new TextEncoder().encode(JSON.stringify(event));
  const forged = { ...first, bytes, headers: { ...first.headers, [integrityHeader]: sha256(bytes) } };
  assert.ok(verifyAll([forged, second]).problems.some(({ seq, check }) => seq === 2 && check === "state"));
});

test("V5: a decider that this version does not know is a problem, not a pass", () => {
  const [first] = healthLog() as [LogMessage];
  const state = verifyNext(nothingVerified, first, { deciders: {}, signalAt: () => null, complete: true });
  assert.ok(state.problems.some(({ check }) => check === "decision"));
});

test("V5: a decider by the name of something that every object has is none, though it would repeat whatever it is given", () => {
  const [first] = healthLog() as [LogMessage];
  for (const decider of ["constructor", "valueOf", "__proto__"]) {
    const forged = forge(first, ({ data }) => {
      const certificate = data["certificate"] as { decider: string; rule: string; nowMs: number; input: object };
      certificate.decider = decider;
      certificate.input = { rule: certificate.rule, nowMs: certificate.nowMs, state: data["state"] };
    });
    const { problems } = verifyAll([forged]);
    assert.ok(
      problems.some(({ check, message: text }) => check === "decision" && text.startsWith("no decider")),
      decider,
    );
  }
});

const vote = {
  observer: "p2",
  kind: "prober" as const,
  verdict: "unhealthy" as const,
  outcome: "hard" as const,
  code: "refused" as const,
  atMs,
  responseTimeMs: null,
  ref: { stream: "SIGNALS", seq: 7 },
};

/** One change of health that rests on a vote. */
function votedLog(): LogMessage[] {
  const input = {
    policy: defaultPolicy.health,
    state: null,
    evidence: [ok(atMs), ok(atMs + 10)],
    asked: 0,
    votes: [vote],
    graceUntilMs: 0,
    nowMs: atMs + 100,
  };
  const decision = decideHealth(input);
  const certificate = {
    decider: "decideHealth",
    rule: decision.rule,
    policyHash: "p",
    nowMs: input.nowMs,
    folded: { AUDIT: null, SIGNALS: null },
    input,
    rejected: [...decision.rejected],
  };
  return [
    message(
      1,
      "health.changed",
      ["a", "p"],
      {
        service: "a",
        endpoint: "p",
        status: decision.state.status,
        responseTime: 3,
        error: null,
        timestamp: new Date(atMs).toISOString(),
        critical: true,
        previousStatus: null,
        reason: decision.reason,
        prober: "p1",
        votes: [vote],
        state: decision.state,
        certificate,
      },
      0,
    ),
  ];
}

const observed = (outcome: "hard" | "ok"): Event =>
  makeEvent({
    type: "probe.observed",
    keys: ["p2"],
    data: {
      observer: "p2",
      observations: [
        {
          upstream: "a",
          endpoint: "p",
          observer: "p2",
          purpose: "confirm",
          requestId: null,
          startedAtMs: atMs,
          responseTimeMs: 1,
          outcome,
          code: outcome === "hard" ? "refused" : null,
          error: null,
          httpStatus: null,
          era: null,
        },
      ],
    },
    id: "s7",
    service: "prober",
    instance: "p2",
    timeMs: atMs,
  });

test("V6: a vote that SIGNALS bears out passes, one that it contradicts is named, and an expired one is counted apart", () => {
  const log = votedLog();
  assert.deepEqual(evidenceRefs(log[0] as LogMessage), [7]);
  assert.deepEqual(verifyAll(log, () => observed("hard")).problems, []);
  assert.ok(verifyAll(log, () => observed("ok")).problems.some(({ check }) => check === "evidence"));
  const expired = verifyAll(log);
  assert.deepEqual([expired.problems.length, expired.inputsExpired], [0, 1]);
});

test("V6: what points at a place of SIGNALS where nothing can have stood is named, and is not expired", () => {
  const never = verifyAll(votedLog(), (seq, at) => (seq === 7 && at === atMs ? "never" : null));
  assert.deepEqual([named(never), never.inputsExpired], [[[1, "evidence"]], 0]);
  const proof = verifyAll(failoverLog(), (seq, at) => (seq === 9 && at === atMs ? "never" : seq === 8 ? probed("old", "hard") : null));
  assert.deepEqual([...new Set(named(proof).map(([, check]) => check))], ["evidence"]);
  for (const told of [/^SIGNALS 9 is no proof by p1/, /vote of p1 on a\/new is not what SIGNALS 9 says/])
    assert.ok(
      proof.problems.some(({ message: text }) => told.test(text)),
      String(told),
    );
});

/** A message with another event in it, and the hash and headers of one that was published so. */
function forge(
  one: LogMessage,
  change: (event: { data: Record<string, unknown> }) => void,
  headers: Record<string, string> = one.headers,
): LogMessage {
  const event = JSON.parse(new TextDecoder().decode(one.bytes)) as { data: Record<string, unknown> };
  change(event);
  const bytes = new TextEncoder().encode(JSON.stringify(event));
  return { ...one, bytes, headers: { ...headers, [integrityHeader]: sha256(bytes) } };
}
const named = (state: VerifyState): [number, string][] => state.problems.map(({ seq, check }) => [seq, check]);

test("V3: an event taken out from between others is found, though nothing of its subject follows", () => {
  const [first, second] = healthLog() as [LogMessage, LogMessage];
  const log = [first, { ...second, seq: 3 }];
  assert.deepEqual(named(verifyAll(log)), [[3, "gap"]]);
  assert.deepEqual(named(verifyAll([first, { ...second, seq: 2 }, { ...first, seq: 2 }])).slice(0, 1), [[2, "gap"]]);
});

test("V3: a log whose first events are gone is found, once, though nothing can be said of what its subjects held before", () => {
  const [, second] = healthLog() as [LogMessage, LogMessage];
  const state = verifyNext(nothingVerified, { ...second, seq: 4 }, { deciders, signalAt: () => null, complete: false });
  assert.deepEqual(named(state), [[4, "gap"]]);
  assert.match(state.problems[0]?.message ?? "", /^3 events before it are gone/);
  assert.equal(state.missing, 3);
});

test("V3: a log whose last events are gone, or that holds another number of them than was said, is found; a whole one passes", () => {
  const state = verifyAll(healthLog());
  assert.deepEqual(verifyEnd(state, { lastSeq: 2, count: 2 }), state);
  assert.deepEqual(verifyEnd(state, { lastSeq: 1 }), state, "more has come while it was read");
  const cut = verifyEnd(state, { lastSeq: 5 });
  assert.deepEqual([named(cut), cut.wrong, cut.missing], [[[3, "gap"]], 1, 3]);
  assert.match(cut.problems[0]?.message ?? "", /goes to #5.*3 events.*gone/);
  assert.deepEqual(named(verifyEnd(state, { lastSeq: 2, count: 3 })), [[2, "gap"]]);
  assert.deepEqual(named(verifyEnd(state, { lastSeq: 1, count: 1 })), [[2, "gap"]]);
});

test("what is wrong is counted to the end, though only the first thousand are kept", () => {
  const [first] = healthLog() as [LogMessage];
  const bytes = new TextEncoder().encode("{ torn");
  let state = nothingVerified;
  for (let seq = 1; seq <= 1200; seq += 1) {
    const torn = { ...first, seq, bytes, headers: { [integrityHeader]: sha256(bytes) } };
    state = verifyNext(state, torn, { deciders, signalAt: () => null, complete: true });
  }
  assert.deepEqual([state.wrong, state.problems.length, state.problems.at(-1)?.seq], [1200, problemsMax, problemsMax]);
  assert.equal(verifyEnd(state, { lastSeq: 1201 }).wrong, 1201);
});

test("a message costs little however many subjects the log has: the state before it stays as it was, and is not copied", (t) => {
  const bytes = new TextEncoder().encode("{ torn");
  const context = { deciders: {}, signalAt: () => null, complete: true };
  const torn = (seq: number): LogMessage => ({ seq, subject: `health.changed.u${seq}.p`, timeMs: atMs, headers: {}, bytes });
  const subjects = 2000;
  let before = nothingVerified;
  for (let seq = 1; seq <= subjects; seq += 1) before = verifyNext(before, torn(seq), context);
  const sets = t.mock.method(Map.prototype, "set").mock;
  const state = verifyNext(before, torn(subjects + 1), context);
  const copied = sets.callCount();
  sets.restore();
  assert.ok(copied > 0 && copied < subjects / 20, `${copied} entries were written for one message`);
  assert.deepEqual([[...state.last.entries()].length, [...before.last.entries()].length], [subjects + 1, subjects]);
});

test("V3: a decision that was put into the log without a fence is found", () => {
  const [first] = healthLog() as [LogMessage];
  assert.deepEqual(named(verifyAll([forge(first, () => undefined, {})])), [[1, "fence"]]);
});

test("V5: an event that says something else of its decision than the decider, or names another time, is found", () => {
  const [first] = healthLog() as [LogMessage];
  assert.deepEqual(named(verifyAll([forge(first, ({ data }) => (data["reason"] = "because"))])), [[1, "decision"]]);
  const later = forge(first, ({ data }) => ((data["certificate"] as { nowMs: number }).nowMs += 1));
  assert.deepEqual(named(verifyAll([later])), [[1, "decision"]]);
});

const probers = ["p1", "p2", "p3"];
/** A failover from `old` to `new` as the controller decides it: p1 to p3 say that `old` fails, and p1 proved `new` at #9. */
function failoverLog(change: (input: FailoverInput) => void = () => undefined): LogMessage[] {
  const word = (observer: string, outcome: "ok" | "hard", seq: number) => ({
    ...{ observer, kind: "prober" as const, verdict: outcome === "ok" ? ("healthy" as const) : ("unhealthy" as const), outcome },
    ...{ code: outcome === "ok" ? null : ("refused" as const), atMs, responseTimeMs: 1, ref: { stream: "SIGNALS" as const, seq } },
    ...{ purpose: "confirm", hardRun: outcome === "ok" ? 0 : 1, hardSinceMs: outcome === "ok" ? null : atMs - 1 },
    proof: outcome === "ok" ? { atMs, seq } : null,
  });
  const observers = probers.map((prober) => `prober:${prober}`);
  const input: FailoverInput = {
    upstream: "a",
    mode: "active_standby",
    endpoints: [
      { name: "old", tier: 0, role: "write" },
      { name: "new", tier: 1, role: "write" },
    ],
    policy: { ...defaultPolicy.failover, confirmTimeoutMs: 500 },
    generation: 1,
    seenEpoch: 0,
    state: { generation: 1, epoch: 0, active: "old", tier: 0, sinceMs: 0, held: null, moves: [] },
    evidence: {
      old: { observers, votes: probers.map((prober) => word(prober, "hard", 8)) },
      new: { observers, votes: [word("p1", "ok", 9)] },
    },
    health: {},
    breakers: {},
    suspects: [],
    clock: { tilted: false, freshAfterSeq: 0 },
    fleet: { granted: true, reason: "", expiresAtMs: atMs + 1000 },
    command: null,
    signals: { seq: 9, atMs },
    gatherSinceMs: null,
    nowMs: atMs,
  };
  change(input);
  const decision = decideFailover(input);
  assert.ok(decision.kind === "decided", `the fixture has to move; it says ${decision.kind} ${decision.rule}`);
  const { kind: _, rule, state, rejected, ...said } = decision;
  const folded = { AUDIT: null, SIGNALS: { first: 1, last: 9 } };
  const certificate = { decider: "decideFailover", rule, policyHash: "p", nowMs: input.nowMs, folded, input, rejected };
  const data = { service: "a", timestamp: new Date(atMs).toISOString(), commandId: null, ...said, state, certificate };
  return [message(1, "failover.decided", ["a"], data, 0)];
}
const probed = (endpoint: string, outcome: "hard" | "ok", purpose: "confirm" | "scheduled" = "confirm"): Event => {
  const [one] = (observed(outcome) as Event<"probe.observed">).data.observations;
  const observations = probers.map((observer) => ({ ...one!, observer, endpoint, purpose }));
  return { ...observed(outcome), data: { observer: "p1", observations } } as Event<"probe.observed">;
};
const signals = (proof: Event) => (seq: number) => (seq === 8 ? probed("old", "hard") : proof);

test("V6: a failover whose proof is in SIGNALS passes; one whose proof was another probe, or lies behind what was read, does not", () => {
  assert.deepEqual(evidenceRefs(failoverLog()[0]!), [8, 8, 8, 9, 9]);
  const sound = verifyAll(failoverLog(), signals(probed("new", "ok")));
  assert.deepEqual([sound.problems, sound.decisions, sound.inputsExpired], [[], 1, 0]);
  for (const other of [probed("new", "ok", "scheduled"), probed("old", "ok"), probed("new", "hard")]) {
    assert.ok(
      verifyAll(failoverLog(), signals(other)).problems.some(({ check, message: text }) => check === "evidence" && /no proof/.test(text)),
    );
  }
  const forged = failoverLog(({ evidence }) => {
    evidence["new"]!.votes[0]!.proof = { atMs, seq: 99 };
  });
  assert.ok(verifyAll(forged).problems.some(({ check, message: text }) => check === "evidence" && /SIGNALS 99/.test(text)));
});

test("V4: a log that begins with a later epoch than the first is found", () => {
  const log = failoverLog(({ state }) => {
    state.epoch = 16;
  });
  assert.deepEqual(named(verifyAll(log)), [[1, "epoch"]]);
  const restored = failoverLog((input) => {
    input.seenEpoch = 16;
  });
  assert.deepEqual(named(verifyAll(restored)), [], "routers held epoch 16 of a log that was lost");
});

test("V5: a decision about one upstream on the subject of another is found", () => {
  const log = failoverLog((input) => {
    input.upstream = "b";
  });
  assert.deepEqual(named(verifyAll(log)), [[1, "decision"]]);
});

test("V4: an epoch that is left out, or told again, between two decisions is found; one above all that routers hold is none", () => {
  const hold = { kind: "hold", commandId: "c-1", by: { kind: "operator", id: "ann" }, reason: "work", forMs: null } as const;
  /** A move at epoch 1, and a hold that was decided at this epoch, while routers held that one. */
  const holdAfter = (epoch: number, seenEpoch = 0): LogMessage[] => {
    const [first] = failoverLog() as [LogMessage];
    const { state } = (JSON.parse(new TextDecoder().decode(first.bytes)) as { data: { state: FailoverInput["state"] } }).data;
    const [second] = failoverLog((input) => {
      Object.assign(input, { state: { ...state, epoch }, command: hold, seenEpoch });
    }) as [LogMessage];
    return [first, forge({ ...second, seq: 2 }, () => undefined, { ...second.headers, "Nats-Expected-Last-Subject-Sequence": "1" })];
  };
  const epochs = (log: LogMessage[]) =>
    verifyAll(log).problems.flatMap(({ seq, check, message: text }) => (check === "epoch" ? [[seq, text]] : []));
  assert.deepEqual(named(verifyAll(holdAfter(1))), []);
  assert.deepEqual(epochs(holdAfter(4)), [[2, "epoch 5 follows epoch 1"]]);
  assert.deepEqual(epochs(holdAfter(0)), [[2, "epoch 1 follows epoch 1"]]);
  assert.deepEqual(named(verifyAll(holdAfter(1, 16))), [], "routers held epoch 16 of a log that was lost");
});

test("V5: a decision that names another rule than the one by which it is taken is found", () => {
  const [first] = healthLog() as [LogMessage];
  const other = forge(first, ({ data }) => ((data["certificate"] as { rule: string }).rule = "silence"));
  assert.deepEqual(named(verifyAll([other])), [[1, "decision"]]);
});
