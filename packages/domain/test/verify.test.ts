import assert from "node:assert/strict";
import { test } from "node:test";
import { type DataOf, type Event, type EventType, integrityHeader, makeEvent, sha256, subjectFor } from "@mcp-failover/contracts";
import fc from "fast-check";
import {
  decideHealth,
  evidenceRefs,
  type LogMessage,
  nothingVerified,
  type Recompute,
  type VerifyState,
  verifyNext,
} from "../src/index.ts";
import { defaultPolicy } from "../src/policy.ts";

const atMs = 1_800_000_000_000;
const deciders: Record<string, Recompute> = { decideHealth: (input) => decideHealth(input as Parameters<typeof decideHealth>[0]) };

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

function verifyAll(log: readonly LogMessage[], signalAt: (seq: number) => Event | null = () => null): VerifyState {
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
