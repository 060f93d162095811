import assert from "node:assert/strict";
import { test } from "node:test";
import { decideReservation, type Reservation, type ReservationInput } from "@mcp-failover/domain";
import fc from "fast-check";

const policy = { fleetMoves: 2, fleetWindowMs: 60_000, reservationMs: 5000 };
const nowMs = 1_000_000_000;
const ask = (upstream: string, more: Partial<ReservationInput> = {}): ReservationInput => ({
  upstream,
  epoch: 1,
  state: { reservations: [] },
  moved: [],
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
  assert.deepEqual([first.kind, first.publish, first.expiresAtMs], ["granted", true, nowMs + 5000]);
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

test("L3: whoever finds the place of the same move goes on with it and reserves nothing", () => {
  const state = { reservations: [place("a"), place("b")] };
  const again = decideReservation(ask("a", { state }));
  assert.deepEqual([again.kind, again.rule, again.publish, again.expiresAtMs], ["granted", "reserved_already", false, nowMs + 4000]);
  assert.equal(decideReservation(ask("a", { state, epoch: 2 })).kind, "refused");
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
    fc.property(fc.array(stepArb, { maxLength: 60 }), fc.integer({ min: 1, max: 3 }), (steps, fleetMoves) => {
      let timeMs = nowMs;
      let state: ReservationInput["state"] = { reservations: [] };
      const epochs = new Map<string, number>();
      const moved: { upstream: string; epoch: number; atMs: number }[] = [];
      for (const step of steps) {
        timeMs += step.waitMs;
        const epoch = (epochs.get(step.upstream) ?? 0) + 1;
        const input: ReservationInput = {
          upstream: step.upstream,
          epoch,
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
        if (!step.moves || atMs >= decision.expiresAtMs) continue;
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
