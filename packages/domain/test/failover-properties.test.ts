import assert from "node:assert/strict";
import { test } from "node:test";
import { canonicalJson } from "@mcp-failover/contracts";
import { decideFailover, type FailoverDecision, type FailoverInput } from "@mcp-failover/domain";
import fc from "fast-check";
import { ann, moved, nowMs, order, policy, type Said, three, vote, world } from "./failover-world.ts";

const observers = [...three, "prober:p4", "router:r1", "router:r2"];
const aTime = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: 0, max: 2000 }) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 30_000 }) },
);
const saidArb = (hardWeight: number): fc.Arbitrary<Said> =>
  fc.record({
    outcome: fc.oneof(
      { weight: hardWeight, arbitrary: fc.constant("hard" as const) },
      { weight: 10 - hardWeight, arbitrary: fc.constant("ok" as const) },
      { weight: 1, arbitrary: fc.constantFrom("soft", "auth", "caller" as const) },
    ),
    ageMs: aTime,
    sinceMs: aTime,
    run: fc.integer({ min: 1, max: 5 }),
    purpose: fc.constantFrom("confirm", "confirm", "confirm", "scheduled"),
    proofAgeMs: fc.oneof({ weight: 8, arbitrary: aTime }, { weight: 1, arbitrary: fc.constant(null) }),
  });
const testimonyArb = (hardWeight: number) =>
  fc
    .tuple(
      fc.subarray(observers, { minLength: 1 }),
      fc.array(saidArb(hardWeight), { minLength: 6, maxLength: 6 }),
      fc.integer({ min: 1, max: 63 }),
    )
    .map(([present, said, spoken]) => ({
      observers: [...present].sort(),
      votes: present.filter((_, index) => (spoken >> index) % 2 === 1 || index < 3).map((observer, index) => vote(observer, said[index])),
    }));
const rarely = <T>(usual: T, ...other: T[]) =>
  fc.oneof({ weight: 8, arbitrary: fc.constant(usual) }, { weight: 2, arbitrary: fc.constantFrom(...other) });
const healthArb = rarely<FailoverInput["health"][string]>(
  { status: "healthy", sinceMs: 0, heldDownUntilMs: null },
  { status: "unhealthy", sinceMs: nowMs, heldDownUntilMs: null },
  { status: "unknown", sinceMs: 0, heldDownUntilMs: nowMs + 1 },
);
const names = ["primary", "second", "third"];
const window = { name: "w", untilMs: nowMs + 1 };
/** `badly`: how often the active endpoint fails, of ten; `verified`: how often a move is being verified. */
const inputArb = (badly: number, verified: number): fc.Arbitrary<FailoverInput> =>
  fc
    .record({
      mode: rarely<FailoverInput["mode"]>("active_standby", "pool"),
      tiers: fc.tuple(...names.map(() => fc.integer({ min: 0, max: 2 }))),
      roles: fc.tuple(...names.map(() => rarely<"write" | "read">("write", "read"))),
      evidence: fc.tuple(testimonyArb(badly), testimonyArb(3), testimonyArb(3)),
      health: fc.tuple(healthArb, healthArb, healthArb),
      breakers: fc.tuple(...names.map(() => rarely<FailoverInput["breakers"][string]>("closed", "open", "forced_open", "half_open"))),
      suspects: rarely<string[]>([], ["prober:p1"], ["prober:p1", "prober:p2", "router:r1"]),
      fleet: rarely<FailoverInput["fleet"]>({ granted: true, reason: "", expiresAtMs: nowMs + 1 }, null, {
        granted: false,
        reason: "full",
        expiresAtMs: 0,
      }),
      active: rarely("primary", "second", "gone"),
      epoch: fc.integer({ min: 0, max: 5 }),
      seenEpoch: fc.integer({ min: 0, max: 8 }),
      stateAgeMs: rarely(nowMs, 1000),
      held: rarely<FailoverInput["state"]["held"]>(
        null,
        { by: ann, reason: "h", sinceMs: 1, untilMs: null },
        { by: ann, reason: "h", sinceMs: 1, untilMs: nowMs - 1 },
      ),
      movesAgoMs: rarely<number[]>([], [30_000], [100_000], [3_000_000, 2_000_000, 1_000_000]),
      failback: rarely<"manual" | "automatic">("manual", "automatic"),
      tilted: rarely(false, true),
      freshAfterSeq: rarely(0, 1_000_000),
      dryRun: rarely(false, true),
      graceUntilMs: rarely<number | null>(null, nowMs + 1, nowMs),
      maintained: rarely<FailoverInput["maintained"] & object>({}, { second: window }, { primary: window }),
      trial: fc.oneof(
        { weight: 10 - verified, arbitrary: fc.constant(null) },
        {
          weight: verified,
          arbitrary: fc
            .record({
              epoch: fc.constant(1),
              kind: fc.constantFrom("failover" as const, "failback" as const),
              atMs: fc.constant(nowMs - 1000),
              untilMs: fc.constantFrom(nowMs + 1000, nowMs + 1000, nowMs),
              round: fc.integer({ min: 0, max: 3 }),
              tried: fc.subarray(names, { maxLength: 2 }),
              before: fc.tuple(fc.integer({ min: 0, max: 40 }), fc.integer({ min: 0, max: 40 })).map(([ok, hard]) => ({ ok, hard })),
              failed: fc.constant(false),
            })
            .map((trial) => ({ ...trial })),
        },
      ),
      calls: fc.array(fc.record({ ok: rarely(0, 1, 30), hard: fc.integer({ min: 0, max: 30 }), run: fc.integer({ min: 0, max: 9 }) }), {
        maxLength: 3,
      }),
      gatherSinceMs: rarely<number | null>(nowMs - 5000, null, nowMs - 10),
      command: fc.oneof(
        { weight: 8, arbitrary: fc.constant(null) },
        {
          weight: 2,
          arbitrary: fc
            .record({ to: fc.constantFrom(null, ...names, "nowhere"), force: fc.boolean(), gatherOver: fc.boolean() })
            .map((more) => order(more)),
        },
      ),
    })
    .map((drawn) => {
      const byName = <V>(values: readonly V[]): Record<string, V> =>
        Object.fromEntries(names.map((name, index) => [name, values[index] as V]));
      return world({
        mode: drawn.mode,
        endpoints: names.map((name, index) => ({ name, tier: drawn.tiers[index] as number, role: drawn.roles[index] as "write" | "read" })),
        policy: { ...policy, failback: drawn.failback, dryRun: drawn.dryRun },
        graceUntilMs: drawn.graceUntilMs,
        maintained: drawn.maintained,
        traffic: {
          after: drawn.calls.map(({ ok, hard, run }, index) => ({ router: `r${index + 1}`, ok, hard, run: Math.min(run, hard) })),
          before: { ok: 1, hard: 1 },
        },
        evidence: byName(drawn.evidence),
        health: byName(drawn.health),
        breakers: byName(drawn.breakers),
        suspects: drawn.suspects,
        fleet: drawn.fleet,
        seenEpoch: drawn.seenEpoch,
        clock: { tilted: drawn.tilted, freshAfterSeq: drawn.freshAfterSeq },
        gatherSinceMs: drawn.gatherSinceMs,
        command: drawn.command,
        state: {
          generation: 1,
          epoch: drawn.epoch,
          active: drawn.active,
          tier: 0,
          sinceMs: nowMs - drawn.stateAgeMs,
          held: drawn.held,
          moves: drawn.movesAgoMs.map((ago) => moved(nowMs - ago)),
          ...(drawn.trial === null ? {} : { trial: drawn.trial }),
        },
      });
    });

for (const { badly, verified, runs, least } of [
  { badly: 9, verified: 3, runs: 3000, least: { automatic: 100, operator: 30, chained: 0 } },
  { badly: 1, verified: 10, runs: 3000, least: { automatic: 60, operator: 40, chained: 10 } },
])
  test(`F1 to F17 hold for whatever is known, with the active endpoint failing in ${badly} of 10 and verified in ${verified}`, () => {
    let chained = 0;
    let automaticMoves = 0;
    let operatorMoves = 0;
    fc.assert(
      fc.property(inputArb(badly, verified), (input) => {
        const before = canonicalJson(input);
        const decision = decideFailover(input);
        assert.equal(canonicalJson(input), before, "F10: the input was altered");
        assert.deepEqual(decideFailover(JSON.parse(before) as FailoverInput), decision, "F10: not the same again");
        if (decision.kind !== "decided") return;
        const { state } = decision;
        assert.ok(!(input.policy.dryRun && decision.automatic && decision.action !== "released"), "F17");
        assert.equal(state.epoch, Math.max(input.state.epoch, input.seenEpoch) + 1, "F1");
        if (decision.action !== "moved") {
          assert.equal(state.active, input.state.active, "F1: only a move changes what is active");
          return;
        }
        const target = input.endpoints.find(({ name }) => name === state.active);
        assert.ok(target !== undefined && target.role === "write" && target.name !== input.state.active, "F5");
        if (!decision.automatic && decision.overrode.some((name) => ["proof", "unhealthy", "breaker", "maintenance"].includes(name))) {
          assert.ok(input.command?.kind === "failover" && input.command.force && input.command.to === target.name, "F5, F8");
        } else {
          checkProven(input, target.name, decision.overrode);
        }
        if (!decision.automatic) {
          operatorMoves += 1;
          assert.ok(input.state.held === null || decision.overrode.includes("hold"), "F8");
          return;
        }
        automaticMoves += 1;
        if (decision.rule === "verify_failed") chained += 1;
        checkAutomatic(input, decision);
      }),
      { numRuns: runs },
    );
    const counted = { automatic: automaticMoves, operator: operatorMoves, chained };
    for (const [kind, count] of Object.entries(counted))
      assert.ok(count >= least[kind as keyof typeof least], `too few to mean anything: ${JSON.stringify(counted)}`);
  });

function checkProven(input: FailoverInput, name: string, overrode: readonly string[]): void {
  const { votes } = input.evidence[name] ?? { votes: [] };
  const heard = votes.filter(
    ({ ref, kind, observer }) => (ref?.seq ?? 0) > input.clock.freshAfterSeq && !input.suspects.includes(`${kind}:${observer}`),
  );
  const proofs = heard.filter(
    ({ verdict, proof }) => verdict === "healthy" && proof !== null && input.nowMs - proof.atMs <= policy.evidenceFreshMs,
  );
  assert.ok(proofs.length > 0, "F5: nobody has proven it");
  const count = (verdict: string): number => heard.filter((one) => one.verdict === verdict).length;
  assert.ok(count("healthy") > count("unhealthy"), "F5: contradicted");
  const health = input.health[name];
  if (!overrode.includes("hold_down")) {
    assert.notEqual(health?.status, "unhealthy", "F5");
    assert.ok((health?.heldDownUntilMs ?? 0) <= input.nowMs, "F5");
  }
  const breaker = input.breakers[name];
  assert.notEqual(breaker, "forced_open", "F5");
  assert.equal(breaker === "open", overrode.includes("breaker"), "F5");
  const proven = new Set([...proofs, ...heard.filter(({ kind, verdict }) => kind === "router" && verdict === "healthy")]);
  if (breaker === "open") assert.ok(proven.size * 2 > (input.evidence[name]?.observers.length ?? 0), "F5: not most observers");
}

function checkAutomatic(input: FailoverInput, decision: Extract<FailoverDecision, { kind: "decided" }>): void {
  assert.equal(input.clock.tilted, false, "F6");
  assert.ok(input.fleet?.granted && input.fleet.expiresAtMs > input.nowMs, "F6");
  const vanished = decision.rule === "active_vanished";
  const { trial } = input.state;
  const inForce = trial != null && input.nowMs < trial.untilMs ? trial : null;
  const follows = inForce !== null && !inForce.tried.includes(decision.currentEndpoint) && inForce.round < policy.verifyMovesMax;
  if (decision.rule === "verify_failed") assert.ok(follows, "F11: not verified, tried already, or too often");
  if (decision.rule === "failback") assert.ok(inForce === null && input.maintained?.[decision.currentEndpoint] === undefined, "F12");
  assert.equal(input.maintained?.[decision.currentEndpoint], undefined, "F15");
  assert.ok(vanished || (input.graceUntilMs ?? 0) <= input.nowMs, "F16");
  assert.deepEqual([decision.state.trial?.epoch, decision.state.trial?.atMs], [decision.state.epoch, input.nowMs], "F11: not verified");
  assert.equal(decision.state.trial?.round, inForce !== null && decision.rule !== "failback" ? inForce.round + 1 : 0, "F11");
  if (!vanished) {
    assert.equal(input.state.held, null, "F6");
    const last = Math.max(0, ...input.state.moves.map(({ atMs }) => atMs));
    assert.ok(follows || input.nowMs - last >= policy.cooldownMs, "F6");
    assert.ok(input.state.moves.filter(({ atMs }) => input.nowMs - atMs < 3_600_000).length < policy.movesPerHour, "F7");
  }
  if (vanished || decision.rule === "failback" || decision.rule === "verify_failed") return;
  const active = input.endpoints.find(({ name }) => name === input.state.active);
  const group = input.mode === "pool" ? input.endpoints.filter(({ tier, role }) => role === "write" && tier === active?.tier) : [active];
  for (const member of group) {
    if (input.maintained?.[member?.name ?? ""] !== undefined) continue;
    const { observers: all, votes } = input.evidence[member?.name ?? ""] ?? { observers: [], votes: [] };
    const against = votes.filter(
      ({ verdict, atMs, ref, kind, observer }) =>
        verdict === "unhealthy" &&
        atMs > input.state.sinceMs &&
        (ref?.seq ?? 0) > input.clock.freshAfterSeq &&
        !input.suspects.includes(`${kind}:${observer}`),
    );
    if (input.breakers[member?.name ?? ""] === "forced_open") continue; // F18
    if (all.length === 1) assert.ok(against[0]?.purpose === "confirm" && against[0].hardRun >= 2, "F3");
    else assert.ok(against.length >= 2 && against.length * 2 > all.length, "F2");
  }
}
