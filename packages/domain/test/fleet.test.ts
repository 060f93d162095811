import assert from "node:assert/strict";
import { test } from "node:test";
import {
  decideReservation,
  type Reservation,
  type ReservationAnswer,
  type ReservationDecision,
  type ReservationInput,
  settledWithinMs,
  type Want,
} from "@mcp-failover/domain";
import fc from "fast-check";

const policy = { fleetMoves: 2, fleetWindowMs: 60_000, fleetCriticalShare: 0, reservationMs: 5000 };
const nowMs = 1_000_000_000;
const want = (upstream: string, more: Partial<Want> = {}): Want => ({
  upstream,
  epoch: 1,
  critical: true,
  sinceMs: nowMs - 100,
  from: "primary",
  to: "secondary",
  toBackup: true,
  failback: false,
  operator: false,
  force: false,
  ...more,
});
const ask = (upstream: string | readonly Want[], more: Partial<ReservationInput> = {}): ReservationInput => ({
  wants: typeof upstream === "string" ? [want(upstream)] : [...upstream],
  state: { reservations: [] },
  moved: [],
  rules: [],
  policy,
  nowMs,
  ...more,
});
const place = (upstream: string, more: Partial<Reservation> = {}): Reservation => ({
  upstream,
  epoch: 1,
  atMs: nowMs - 1000,
  expiresAtMs: nowMs + 4000,
  used: false,
  ...more,
});

test("L1: a place is granted until the limit, and refused over it with the moves that took the others", () => {
  const first = decideReservation(ask("a"));
  assert.deepEqual([first.kind, first.publish, first.answers[0]?.expiresAtMs], ["granted", true, nowMs + 5000]);
  const second = decideReservation(ask("b", { state: first.state }));
  assert.equal(second.kind, "granted");
  const third = decideReservation(ask("c", { state: second.state }));
  assert.deepEqual([third.kind, third.publish], ["refused", false]);
  assert.match(third.reason, /a \(epoch 1\), b \(epoch 1\)/);
});

test("L2: an unused place ends by itself, a used one counts for the whole window", () => {
  const two = { reservations: [place("a"), place("b")] };
  const later = { nowMs: nowMs + 4000 };
  assert.equal(decideReservation(ask("c", { state: two, ...later })).kind, "granted");
  const moved = ["a", "b"].map((upstream) => ({ upstream, epoch: 1 }));
  assert.equal(decideReservation(ask("c", { state: two, moved, ...later })).kind, "refused");
  assert.equal(decideReservation(ask("c", { state: two, moved, nowMs: nowMs + 59_000 })).kind, "granted");
  const wrongEpoch = moved.map((move) => ({ ...move, epoch: 2 }));
  assert.equal(decideReservation(ask("c", { state: two, moved: wrongEpoch, ...later })).kind, "granted");
});

test("L3: nobody but an operator goes on with an operator's place, and without force nobody with one that overrides a rule", () => {
  const rules: ReservationInput["rules"] = [
    {
      kind: "never_both_on_backup",
      name: "not-both",
      reason: "",
      upstreams: [
        { name: "a", onBackup: false },
        { name: "b", onBackup: true },
      ],
    },
  ];
  const forced = want("a", { operator: true, force: true });
  const both = decideReservation(ask([want("a"), forced], { rules }));
  assert.deepEqual(
    both.answers.map(({ granted, rule, overrode }) => [granted, rule, overrode]),
    [
      [true, "reserved", ["safety_rule:not-both"]],
      [false, "safety_rule", []],
    ],
  );
  const later = (one: Want): unknown => decideReservation(ask([one], { rules, state: both.state })).answers[0]?.rule;
  assert.deepEqual([want("a"), want("a", { operator: true }), forced].map(later), ["safety_rule", "safety_rule", "reserved_already"]);
  // Also when it was used: a decider that has not heard of the move yet takes no place for it.
  const reservations = [place("a", { operator: true, to: "secondary", used: true })];
  const behind = decideReservation(ask([want("a"), want("a", { to: "third" })], { state: { reservations } }));
  assert.deepEqual([behind.kind, behind.publish, behind.rule], ["refused", false, "fleet_limit"]);
});

test("L3: whoever finds the place of the same move goes on with it and reserves nothing", () => {
  const state = { reservations: [place("a"), place("b")] };
  const again = decideReservation(ask("a", { state }));
  assert.deepEqual(
    [again.kind, again.rule, again.publish, again.answers[0]?.expiresAtMs],
    ["granted", "reserved_already", false, nowMs + 4000],
  );
  assert.equal(decideReservation(ask([want("a", { epoch: 2 })], { state })).kind, "refused");
});

test("L1, L2, L4: over any course of asking, moving and waiting, never more moves than the limit in any window", () => {
  const stepArb = fc.record({
    waitMs: fc.integer({ min: 0, max: 30_000 }),
    upstream: fc.constantFrom("a", "b", "c", "d"),
    moves: fc.boolean(),
    afterMs: fc.integer({ min: 0, max: 4999 }),
  });
  let granted = 0;
  let refused = 0;
  fc.assert(
    fc.property(fc.array(stepArb, { maxLength: 60, size: "max" }), fc.integer({ min: 1, max: 3 }), (steps, fleetMoves) => {
      let timeMs = nowMs;
      let state: ReservationInput["state"] = { reservations: [] };
      const epochs = new Map<string, number>();
      const moved: { upstream: string; epoch: number; atMs: number }[] = [];
      for (const step of steps) {
        timeMs += step.waitMs;
        const epoch = (epochs.get(step.upstream) ?? 0) + 1;
        const input: ReservationInput = {
          wants: [want(step.upstream, { epoch })],
          rules: [],
          state,
          moved: moved.map(({ upstream, epoch: at }) => ({ upstream, epoch: at })),
          policy: { ...policy, fleetMoves },
          nowMs: timeMs,
        };
        const before = JSON.stringify(input);
        const decision = decideReservation(input);
        assert.equal(JSON.stringify(input), before, "L4");
        assert.deepEqual(decideReservation(JSON.parse(before) as ReservationInput), decision, "L4");
        if (decision.publish) state = decision.state;
        if (decision.kind === "refused") refused += 1;
        if (decision.kind !== "granted") continue;
        granted += 1;
        // A decider moves only before its place has ended.
        const atMs = timeMs + step.afterMs;
        if (!step.moves || atMs >= (decision.answers[0]?.expiresAtMs ?? 0)) continue;
        timeMs = atMs;
        epochs.set(step.upstream, epoch);
        moved.push({ upstream: step.upstream, epoch, atMs });
        // The window begins with the reservation, at most reservationMs before the move.
        const inWindow = moved.filter((move) => atMs - move.atMs < policy.fleetWindowMs - policy.reservationMs);
        assert.ok(inWindow.length <= fleetMoves, `L1: ${inWindow.length} moves in a window of ${fleetMoves}`);
      }
    }),
    { numRuns: 500 },
  );
  assert.ok(granted > 300 && refused > 200, `too little to mean anything: ${granted}, ${refused}`);
});

const answersOf = ({ answers }: ReservationDecision): Record<string, string> =>
  Object.fromEntries(answers.map(({ upstream, rule }: ReservationAnswer) => [upstream, rule]));

test("L1: an operator's move has a place beyond the limit and takes none of the fleet's", () => {
  const state = { reservations: [place("a"), place("b")] };
  const operator = decideReservation(ask([want("c", { operator: true })], { state }));
  assert.deepEqual([operator.kind, operator.publish, operator.state.reservations.at(-1)?.operator], ["granted", true, true]);
  const alone = { reservations: [place("a"), place("c", { operator: true })] };
  assert.equal(decideReservation(ask("b", { state: alone })).kind, "granted");
});

test("L1: however many moves operators make, they push no automatic one out of what the limit counts", () => {
  const limit = { policy: { ...policy, fleetMoves: 150 } };
  const used = { used: true, atMs: nowMs - 1000 };
  const automatic = Array.from({ length: 150 }, (_, index) => place(`a${index}`, used));
  const byOperators = Array.from({ length: 250 }, (_, index) => place(`o${index}`, { ...used, operator: true }));
  const { state } = decideReservation(
    ask([want("z", { operator: true })], { ...limit, state: { reservations: [...automatic, ...byOperators] } }),
  );
  assert.deepEqual(state.reservations.slice(0, 150), automatic);
  assert.deepEqual([state.reservations.length, state.reservations.at(-1)?.upstream], [350, "z"]);
  assert.equal(decideReservation(ask("b", { ...limit, state })).kind, "refused");
});

test("L3: a place for another target is asked for anew, and takes the place of the one before", () => {
  const first = decideReservation(ask("a"));
  const other = decideReservation(ask([want("a", { to: "third" })], { state: first.state, nowMs: nowMs + 10 }));
  assert.deepEqual([other.kind, other.publish, other.state.reservations.length], ["granted", true, 1]);
  assert.equal(other.state.reservations[0]?.to, "third");
});

test("L5: of those that ask together critical ones come first, then who has failed for longest; failbacks come last", () => {
  const wants = [
    want("failback", { failback: true, sinceMs: 0 }),
    want("plain-old", { critical: false, sinceMs: nowMs - 500 }),
    want("plain", { critical: false }),
    want("critical"),
    want("critical-old", { sinceMs: nowMs - 400 }),
  ];
  const of = (fleetMoves: number) =>
    decideReservation(ask(wants, { policy: { ...policy, fleetMoves } })).state.reservations.map((one) => one.upstream);
  assert.deepEqual(of(5), ["critical-old", "critical", "plain-old", "plain", "failback"]);
  assert.deepEqual(of(3), ["critical-old", "critical", "plain-old"]);
  const refused = decideReservation(ask(wants, { policy: { ...policy, fleetMoves: 3 } }));
  assert.deepEqual(answersOf(refused), {
    "critical-old": "reserved",
    critical: "reserved",
    "plain-old": "reserved",
    plain: "fleet_limit",
    failback: "fleet_limit",
  });
  assert.ok(refused.answers.every(({ retryAtMs, granted }) => granted || retryAtMs === nowMs + 5000));
});

test("L6: the last places are kept for critical upstreams, though others ask first", () => {
  const shared = { ...policy, fleetMoves: 4, fleetCriticalShare: 0.5 };
  const others = ["a", "b", "c"].map((name) => want(name, { critical: false }));
  const first = decideReservation(ask(others, { policy: shared }));
  assert.deepEqual(answersOf(first), { a: "reserved", b: "reserved", c: "fleet_limit" });
  assert.match(first.answers.find(({ upstream }) => upstream === "c")?.reason ?? "", /the last 2 are kept for critical upstreams/);
  const second = decideReservation(
    ask(
      ["d", "e", "f"].map((name) => want(name)),
      { policy: shared, state: first.state },
    ),
  );
  assert.deepEqual(answersOf(second), { d: "reserved", e: "reserved", f: "fleet_limit" });
  assert.equal(
    decideReservation(ask([want("only", { critical: false })], { policy: { ...shared, fleetMoves: 1 } })).kind,
    "granted",
    "one is for all",
  );
});

test("L1, L8: deciders that are a little behind each other keep the limit too, by the times of the places themselves", () => {
  const aheadMs = fc.integer({ min: -700, max: 700 });
  fc.assert(
    fc.property(
      fc.array(fc.record({ afterMs: fc.integer({ min: 0, max: 900 }), aheadMs }), { minLength: 5, maxLength: 60, size: "max" }),
      (steps) => {
        const short = { ...policy, fleetMoves: 5, fleetWindowMs: 1500 };
        let state: ReservationInput["state"] = { reservations: [] };
        const moved: ReservationInput["moved"] = [];
        const times: number[] = [];
        let timeMs = nowMs;
        for (const [index, step] of steps.entries()) {
          timeMs += step.afterMs;
          const wants = [want(`a${index}`), want(`b${index}`), want(`c${index}`)];
          const decision = decideReservation(ask(wants, { policy: short, state, moved: [...moved], nowMs: timeMs + step.aheadMs }));
          if (!decision.publish) continue;
          const granted = decision.answers.filter((one) => one.granted).map(({ upstream }) => upstream);
          for (const one of decision.state.reservations) if (granted.includes(one.upstream)) times.push(one.atMs);
          moved.push(...granted.map((upstream) => ({ upstream, epoch: 1 })));
          state = decision.state;
        }
        assert.deepEqual(
          times,
          [...times].sort((a, b) => a - b),
          "L8",
        );
        for (const [index, atMs] of times.entries()) {
          assert.ok(times.slice(index).filter((later) => later - atMs < short.fleetWindowMs).length <= short.fleetMoves, "L1");
        }
      },
    ),
  );
  const future = { reservations: [place("a", { atMs: nowMs + 3_600_000, expiresAtMs: nowMs + 3_605_000 })] };
  const [answer] = decideReservation(ask("b", { state: future })).answers;
  assert.equal(answer?.expiresAtMs, nowMs + policy.reservationMs, "a place from far in the future does not take the time along");
});

test("within the bound that the policy promises every upstream of a failed fleet has its place, and no critical one is passed over", () => {
  const shared = { ...policy, fleetMoves: 20, fleetCriticalShare: 0.25 };
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 150 }),
      fc.array(fc.boolean(), { minLength: 150, maxLength: 150, size: "max" }),
      (count, critical) => {
        let left = Array.from({ length: count }, (_, index) => want(`u${index}`, { critical: critical[index] === true }));
        let state: ReservationInput["state"] = { reservations: [] };
        const moved: ReservationInput["moved"] = [];
        let timeMs = nowMs;
        for (; left.length > 0; timeMs += shared.fleetWindowMs) {
          assert.ok(timeMs - nowMs <= settledWithinMs(count, { ...shared, proofWaitMs: 0 }), "later than was promised");
          const decision = decideReservation(ask(left, { policy: shared, state, moved: [...moved], nowMs: timeMs }));
          state = decision.state;
          const granted = new Set(decision.answers.filter((answer) => answer.granted).map(({ upstream }) => upstream));
          const waits = left.filter(({ upstream }) => !granted.has(upstream));
          const passed = waits.some((one) => one.critical) && left.some((one) => granted.has(one.upstream) && !one.critical);
          assert.ok(!passed, "L5: a critical one waits while another was let through");
          for (const upstream of granted) moved.push({ upstream, epoch: 1 });
          left = waits;
        }
      },
    ),
    { numRuns: 200 },
  );
});

test("L1, ST2: who is refused is told when the first place ends that could be theirs; a place of another clock is none", () => {
  const used = (upstream: string, agoMs: number, critical = true) => place(upstream, { atMs: nowMs - agoMs, used: true, critical });
  const retry = (reservations: Reservation[], more: Partial<ReservationInput["policy"]> = {}, critical = true) =>
    decideReservation(ask([want("c", { critical })], { state: { reservations }, policy: { ...policy, ...more } })).answers[0]?.retryAtMs;
  assert.equal(retry([used("a", 50_000), used("b", 10_000)]), nowMs + 10_000);
  // Of four places two are kept for critical ones: an ordinary one waits for an ordinary one's.
  const two = [used("a", 59_000), used("b", 20_000, false), used("d", 30_000, false)];
  assert.equal(retry(two, { fleetMoves: 4, fleetCriticalShare: 0.5 }, false), nowMs + 30_000);
  assert.equal(retry([used("a", -3_600_000), used("b", 10_000)]), null, "granted");
});
