import assert from "node:assert/strict";
import { test } from "node:test";
import type { HealthState, Vote } from "@mcp-failover/contracts";
import { healthState } from "@mcp-failover/contracts";
import {
  decideHealth,
  defaultPolicy,
  evidenceMax,
  type HealthDecision,
  type HealthEvidence,
  type HealthInput,
  type HealthPolicy,
} from "@mcp-failover/domain";
import fc from "fast-check";

const policy = defaultPolicy.health;
const startMs = 1_800_000_000_000;
type Outcome = HealthEvidence["outcome"];

function vote(observer: string, verdict: Vote["verdict"], atMs: number): Vote {
  return {
    observer,
    kind: "prober",
    verdict,
    outcome: verdict === "unhealthy" ? "hard" : "ok",
    code: null,
    atMs,
    responseTimeMs: 1,
    ref: null,
  };
}

/** A prober in small: keeps evidence, asks when it has to, says what is to be said. Everything said is recorded for the checks. */
class Prober {
  state: HealthState | null = null;
  evidence: HealthEvidence[] = [];
  nowMs = startMs;
  graceUntilMs = startMs;
  said: { decision: HealthDecision; input: HealthInput; before: HealthState | null }[] = [];
  readonly policy: HealthPolicy;
  /** Verdicts of all observers, this one first; asked when a fall has to be confirmed. */
  observers: readonly Vote["verdict"][] = ["unhealthy"];
  constructor(own: Partial<HealthPolicy> = {}) {
    this.policy = { ...policy, ...own };
  }
  get status(): string {
    return this.state?.status ?? "unknown";
  }
  sees(outcome: Outcome, responseTimeMs = 5): HealthDecision {
    this.nowMs += responseTimeMs;
    this.evidence.push({ startedAtMs: this.nowMs - responseTimeMs, responseTimeMs, outcome, code: null, purpose: "scheduled" });
    this.evidence = this.evidence.slice(-evidenceMax(this.policy));
    return this.decides();
  }
  waits(ms: number): this {
    this.nowMs += ms;
    return this;
  }
  decides(): HealthDecision {
    let input = this.input(0, []);
    let decision = decideHealth(input);
    if (decision.ask) {
      const votes = this.observers.map((verdict, index) => vote(`prober-${index}`, verdict, this.nowMs));
      input = this.input(this.observers.length, votes);
      decision = decideHealth(input);
    }
    if (decision.publish) {
      this.said.push({ decision, input, before: this.state });
      this.state = decision.state;
      this.evidence = [];
    }
    return decision;
  }
  private input(asked: number, votes: readonly Vote[]): HealthInput {
    const { policy: own, state, evidence, graceUntilMs, nowMs } = this;
    return { policy: own, state, evidence: [...evidence], asked, votes, graceUntilMs, nowMs };
  }
}

function healthyProber(own: Partial<HealthPolicy> = {}): Prober {
  const prober = new Prober(own);
  prober.sees("ok");
  prober.waits(250).sees("ok");
  assert.equal(prober.status, "healthy");
  return prober;
}

test("rise and fall: two answers make healthy, three failures in a row unhealthy, two answers healthy again", () => {
  const prober = new Prober();
  assert.equal(prober.sees("ok").publish, false);
  assert.deepEqual([prober.waits(250).sees("ok").rule, prober.status], ["rise", "healthy"]);
  prober.waits(5000).sees("hard");
  prober.waits(250).sees("hard");
  assert.equal(prober.status, "healthy");
  assert.deepEqual([prober.waits(250).sees("hard").rule, prober.status], ["fall", "unhealthy"]);
  prober.waits(1000).sees("ok");
  assert.equal(prober.status, "unhealthy");
  assert.deepEqual([prober.waits(250).sees("ok").rule, prober.status], ["rise", "healthy"]);
  assert.ok((prober.state?.score ?? 0) > 0.3 && (prober.state?.score ?? 1) < 0.6, "it comes back with half a score");
});

test("H2: two of three observers carry a fall, one of three does not, and two of two are needed where there are two", () => {
  const fall = (observers: Vote["verdict"][]) => {
    const prober = healthyProber();
    prober.observers = observers;
    for (let n = 0; n < 3; n += 1) prober.waits(250).sees("hard");
    return prober.status;
  };
  assert.equal(fall(["unhealthy"]), "unhealthy");
  assert.equal(fall(["unhealthy", "unhealthy", "healthy"]), "unhealthy");
  assert.equal(fall(["unhealthy", "unhealthy", "unknown"]), "unhealthy");
  assert.equal(fall(["unhealthy", "unknown", "unknown"]), "healthy");
  assert.equal(fall(["unhealthy", "healthy", "healthy"]), "healthy");
  assert.equal(fall(["unhealthy", "unknown"]), "healthy");
  assert.equal(fall(["unhealthy", "unhealthy"]), "unhealthy");
});

test("H2: an observer that votes twice counts once", () => {
  const input: HealthInput = {
    policy,
    state: null,
    evidence: [1, 2, 3].map((n) => ({ startedAtMs: startMs + n, responseTimeMs: 1, outcome: "hard", code: null, purpose: "retry" })),
    asked: 3,
    votes: [vote("a", "unhealthy", startMs), vote("a", "unhealthy", startMs), vote("a", "unhealthy", startMs)],
    graceUntilMs: 0,
    nowMs: startMs + 10,
  };
  assert.equal(decideHealth(input).rule, "no_majority");
  assert.equal(decideHealth({ ...input, votes: [vote("a", "unhealthy", startMs), vote("b", "unhealthy", startMs)] }).rule, "fall");
});

test("H3: silence makes unknown, and from there it takes the whole count again", () => {
  const prober = healthyProber();
  prober.waits(5000).sees("hard");
  prober.sees("hard");
  assert.deepEqual([prober.waits(policy.freshMs + 1).decides().rule, prober.status], ["silence", "unknown"]);
  assert.deepEqual([prober.state?.okRun, prober.state?.failRun], [0, 0], "runs end with the silence");
  assert.equal(prober.decides().publish, false, "unknown is said once");
  prober.sees("hard");
  prober.sees("hard");
  assert.equal(prober.status, "unknown");
  prober.sees("hard");
  assert.equal(prober.status, "unhealthy");
});

test("H4: within the grace nothing is called down; after it the next failure is", () => {
  const prober = new Prober();
  prober.graceUntilMs = startMs + 5000;
  for (let n = 0; n < 4; n += 1) assert.notEqual(prober.waits(1000).sees("hard").publish, true);
  assert.equal(prober.waits(1000).sees("hard").rule, "fall");
});

test("H5, H6: the third fall in ten minutes holds down five minutes, also for a prober that takes over", () => {
  const prober = healthyProber();
  const fallAndRise = () => {
    for (let n = 0; n < 3; n += 1) prober.waits(250).sees("hard");
    for (let n = 0; n < 2; n += 1) prober.waits(1000).sees("ok");
  };
  fallAndRise();
  assert.equal(prober.status, "healthy");
  fallAndRise();
  assert.equal(prober.status, "healthy", "two falls do not hold down");
  fallAndRise();
  assert.deepEqual([prober.status, prober.said.at(-1)?.decision.rule], ["unhealthy", "flap_hold"]);
  const heir = new Prober();
  heir.state = prober.state;
  heir.nowMs = prober.nowMs;
  const untilMs = prober.state?.heldDownUntilMs as number;
  while (heir.nowMs < untilMs - 10_000) assert.equal(heir.waits(5000).sees("ok").publish, false);
  assert.equal(heir.decides().rule, "held_down");
  while (heir.nowMs < untilMs) heir.waits(1000).sees("ok");
  assert.equal(heir.sees("ok").rule === "keep" || heir.status === "healthy", true);
  assert.equal(heir.status, "healthy");
  assert.equal(heir.state?.heldDownUntilMs, null);
});

test("H14: a clock that is set back an hour neither holds down for that hour, nor counts what it stamped before", () => {
  const prober = healthyProber();
  const fallAndRise = () => {
    for (let n = 0; n < 3; n += 1) prober.waits(250).sees("hard");
    for (let n = 0; n < 2; n += 1) prober.waits(1000).sees("ok");
  };
  for (let n = 0; n < 3; n += 1) fallAndRise();
  assert.deepEqual([prober.status, prober.said.at(-1)?.decision.rule], ["unhealthy", "flap_hold"]);
  prober.nowMs -= 3_600_000;
  prober.graceUntilMs = prober.nowMs;
  prober.evidence = [];
  for (let n = 0; n < 2; n += 1) prober.waits(1000).sees("ok");
  assert.equal(prober.status, "healthy", "a hold of over an hour is none of this clock's");
  for (let n = 0; n < 3; n += 1) prober.waits(250).sees("hard");
  assert.deepEqual([prober.status, prober.said.at(-1)?.decision.rule], ["unhealthy", "fall"]);
});

test("H6: the fourth change inside the window holds down, the fourth in all does not", () => {
  const fallWith = (agesMs: number[], own: Partial<HealthPolicy> = {}) => {
    const prober = healthyProber(own);
    prober.state = { ...(prober.state as HealthState), changesAtMs: agesMs.map((ageMs) => prober.nowMs - ageMs) };
    for (let n = 0; n < 3; n += 1) prober.waits(250).sees("hard");
    return prober.said.at(-1)?.decision.rule;
  };
  assert.equal(fallWith([300_000, 200_000, 100_000]), "flap_hold");
  assert.equal(fallWith([200_000, 100_000]), "fall");
  assert.equal(fallWith([600_000, 200_000, 100_000]), "fall");
  assert.equal(fallWith([300_000, 200_000, 100_000], { holdDownMs: 0 }), "fall", "0 is never");
});

test("H7: refused credentials and rate limits are degraded with their own rule, and clear with two good answers", () => {
  for (const [outcome, rule, scoreMax] of [
    ["auth", "credentials_refused", 0.4],
    ["soft", "rate_limited", 0.6],
  ] as const) {
    const prober = healthyProber();
    assert.equal(prober.waits(5000).sees(outcome).publish, false, "one is not enough");
    assert.equal(prober.waits(5000).sees(outcome).rule, rule);
    assert.deepEqual([prober.status, prober.state?.cause], ["degraded", outcome]);
    for (let n = 0; n < 20; n += 1) prober.waits(5000).sees(outcome);
    const { score } = prober.waits(5000).sees(outcome).state;
    assert.equal(prober.status, "degraded");
    assert.ok((prober.state?.score ?? 0) > 0.3, "it stays above what the router takes for dead");
    assert.ok(score > 0.3 && score < scoreMax + 0.01, `it is worth less than a sound one: ${score}`);
    prober.waits(5000).sees("ok");
    assert.equal(prober.waits(5000).sees("ok").rule, "cleared");
    assert.equal(prober.status, "healthy");
  }
});

test("H7: one that refuses credentials from the start rises to degraded, not to healthy", () => {
  const prober = new Prober();
  prober.sees("auth");
  prober.waits(250).sees("auth");
  assert.deepEqual([prober.status, prober.state?.cause, prober.state?.side], ["degraded", "auth", "up"]);
});

test("H9: a hung probe that ends after newer answers changes nothing", () => {
  const prober = healthyProber();
  for (let n = 0; n < 2; n += 1) prober.waits(250).sees("hard");
  const hungAtMs = prober.nowMs - 5000;
  prober.waits(250).sees("ok");
  const late = (): HealthEvidence => ({
    startedAtMs: hungAtMs,
    responseTimeMs: 5300,
    outcome: "hard",
    code: "timeout",
    purpose: "scheduled",
  });
  prober.evidence.push(late(), late(), late());
  assert.deepEqual([prober.decides().state.failRun, prober.status], [0, "healthy"]);
});

test("H9: after a clock was set back, by however much, what is seen counts at once, and is in order again from there", () => {
  for (const backMs of [10_000, 60_000, 3_600_000]) {
    const prober = healthyProber();
    for (let n = 0; n < 8; n += 1) prober.waits(5000).sees("ok");
    prober.nowMs -= backMs;
    prober.graceUntilMs = prober.nowMs;
    const newest = prober.nowMs;
    for (let n = 0; n < 3; n += 1) prober.waits(250).sees("hard");
    assert.deepEqual([prober.status, prober.said.at(-1)?.decision.rule], ["unhealthy", "fall"], `set back by ${backMs} ms`);
    for (let n = 0; n < 2; n += 1) prober.waits(1000).sees("ok");
    assert.equal(prober.status, "healthy");
    prober.waits(250).sees("ok");
    prober.evidence.push({ startedAtMs: newest, responseTimeMs: 5000, outcome: "hard", code: "timeout", purpose: "scheduled" });
    assert.equal(prober.decides().state.failRun, 0, "and a late end of before is one");
  }
});

test("a score that moved a quarter is said once in 30 s, without a change of status", () => {
  const prober = healthyProber();
  for (let n = 0; n < 5; n += 1) prober.waits(5000).sees("ok", 4000);
  assert.equal(prober.status, "healthy");
  const scores = prober.said.filter(({ decision }) => decision.rule === "score");
  assert.equal(scores.length, 1);
  assert.equal(prober.state?.sinceMs, prober.said[0]?.decision.state.sinceMs, "since is when it became healthy");
});

interface Step {
  outcome: Outcome;
  responseTimeMs: number;
  waitMs: number;
  observers: Vote["verdict"][];
  silent: boolean;
}
const step: fc.Arbitrary<Step> = fc.record({
  outcome: fc.oneof(
    { weight: 4, arbitrary: fc.constant<Outcome>("hard") },
    { weight: 3, arbitrary: fc.constant<Outcome>("ok") },
    { weight: 1, arbitrary: fc.constantFrom<Outcome>("auth", "soft", "caller") },
  ),
  responseTimeMs: fc.double({ min: 0, max: 6000, noNaN: true }).map((ms) => Math.round(ms)),
  waitMs: fc.oneof(
    { weight: 40, arbitrary: fc.integer({ min: 0, max: 2000 }) },
    { weight: 1, arbitrary: fc.integer({ min: 0, max: 400_000 }) },
  ),
  observers: fc.oneof(
    { weight: 2, arbitrary: fc.constant<Vote["verdict"][]>(["unhealthy", "unhealthy", "healthy"]) },
    { weight: 1, arbitrary: fc.array(fc.constantFrom<Vote["verdict"]>("unhealthy", "healthy", "unknown"), { minLength: 1, maxLength: 5 }) },
  ),
  silent: fc.boolean(),
});

test("H1 to H8, H11 hold over any history of results, silences, votes and take-overs", () => {
  /** How often what only some histories come to was there to be judged. */
  const met = { fell: 0, heldDown: 0, rose: 0, silent: 0 };
  fc.assert(
    fc.property(
      fc.array(step, { maxLength: 120, size: "max" }),
      fc.integer({ min: 1, max: 5 }),
      fc.integer({ min: 1, max: 4 }),
      fc.nat(20_000),
      (steps, failuresDown, successesUp, graceMs) => {
        const prober = new Prober({ failuresDown, successesUp });
        prober.graceUntilMs = startMs + graceMs;
        // An oracle of its own: counts hard results in a row since the last answer or long silence, and remembers falls.
        let hardRun = 0;
        let aliveRun = 0;
        let lastEndMs = startMs;
        for (const s of steps) {
          prober.waits(s.waitMs);
          prober.observers = s.observers;
          const saidBefore = prober.said.length;
          if (s.silent) prober.decides();
          else {
            if (prober.nowMs - lastEndMs > policy.freshMs) [hardRun, aliveRun] = [0, 0];
            hardRun = s.outcome === "hard" ? hardRun + 1 : 0;
            aliveRun = s.outcome === "hard" ? 0 : aliveRun + 1;
            prober.sees(s.outcome, s.responseTimeMs);
            lastEndMs = prober.nowMs;
          }
          for (const { decision, input, before } of prober.said.slice(saidBefore)) {
            assert.ok(healthState.safeParse(decision.state).success, "what is said fits the contract");
            assert.ok(decision.state.score >= 0 && decision.state.score <= 1, "H11");
            const rose = decision.state.status !== "unhealthy" && decision.state.status !== "unknown";
            const wasUp = before?.status === "healthy" || before?.status === "degraded";
            if (decision.state.status === "unhealthy") {
              met.fell += 1;
              assert.equal(decision.state.score, 0, "H11");
              assert.ok(input.nowMs - lastEndMs <= policy.freshMs, "H3: only fresh failures make unhealthy");
              assert.ok(hardRun >= failuresDown, `H1: ${hardRun} in a row`);
              const against = s.observers.filter((verdict) => verdict === "unhealthy").length;
              assert.ok(against * 2 > s.observers.length, "H2");
              assert.ok(input.nowMs >= prober.graceUntilMs, "H4");
              const changes = decision.state.changesAtMs.filter((atMs) => input.nowMs - atMs < policy.flapWindowMs).length;
              if (before?.side === "up" && changes >= policy.flapChanges) {
                met.heldDown += 1;
                assert.ok((decision.state.heldDownUntilMs ?? 0) >= input.nowMs + policy.holdDownMs, "H6");
              }
            }
            if (rose && !wasUp) {
              met.rose += 1;
              assert.ok(aliveRun >= successesUp, `H8: ${aliveRun} in a row`);
              assert.ok((before?.heldDownUntilMs ?? 0) <= input.nowMs, "H5");
            }
            if (decision.rule === "silence") {
              met.silent += 1;
              assert.equal(decision.state.status, "unknown", "H3");
            }
          }
        }
      },
    ),
    { numRuns: 300 },
  );
  for (const [what, times] of Object.entries(met)) assert.ok(times >= 10, `too few to mean anything: ${what} ${times} times`);
});

test("H10: a decision is a function of its input alone: through JSON and again it is the same, and the input is not altered", () => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 3, maxLength: 60, size: "max" }), (steps) => {
      const prober = new Prober();
      for (const s of steps) {
        prober.waits(s.waitMs);
        prober.observers = s.observers;
        prober.sees(s.outcome, s.responseTimeMs);
      }
      for (const { decision, input } of prober.said) {
        const text = JSON.stringify(input);
        assert.deepEqual(decideHealth(JSON.parse(text)), decision);
        assert.equal(JSON.stringify(input), text);
      }
    }),
    { numRuns: 100 },
  );
});
