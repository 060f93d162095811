import { registerHooks } from "node:module";

/** A change of production source that a guarantee has to catch. */
export interface Mutant {
  readonly name: string;
  readonly guarantee: string;
  readonly what: string;
  /** From the repository's root. */
  readonly file: string;
  /** Stands there exactly once. */
  readonly find: string;
  readonly put: string;
}

const domain = (name: string): string => `packages/domain/src/${name}.ts`;

export const mutants: readonly Mutant[] = [
  {
    name: "router-stays-where-it-is",
    guarantee: "one_active_endpoint_an_epoch",
    what: "a router takes the epoch of a decision, and stays at the endpoint that it has",
    file: "services/router/src/control/route-table.ts",
    find: "    this.#routes.set(upstream, { state, eventId });",
    put: "    const { active } = this.#routes.get(upstream)?.state ?? state;\n    this.#routes.set(upstream, { state: { ...state, active }, eventId });",
  },
  {
    name: "epoch-without-its-endpoint",
    guarantee: "one_active_endpoint_an_epoch",
    what: "a decision says the next epoch and leaves the endpoint as it was",
    file: domain("failover-outcome"),
    find: "active: to.name,",
    put: "active: epoch % 2 === 0 ? state.active : to.name,",
  },
  {
    name: "epoch-skips-one",
    guarantee: "epochs_without_gap",
    what: "the next epoch is two above the last after a move",
    file: domain("failover-outcome"),
    find: "  const epoch = nextEpoch(input);\n  const to",
    put: '  const epoch = nextEpoch(input) + (action === "held" || action === "released" ? 1 : 0);\n  const to',
  },
  {
    name: "epoch-stands-still",
    guarantee: "epochs_without_gap",
    what: "a rollback decision does not raise the epoch",
    file: domain("rollback"),
    find: "  const epoch = Math.max(state.epoch, input.seenEpoch ?? 0) + 1;",
    put: "  const epoch = Math.max(1, state.epoch);",
  },
  {
    name: "lost-race-decided-again-blindly",
    guarantee: "every_decision_is_fenced",
    what: "a fenced publish that lost is published again behind whatever came first",
    file: "packages/bus/src/append.ts",
    find: "      if ((there?.seq ?? 0) !== expectedSeq) return lost(there, look);",
    put: "      if ((there?.seq ?? 0) !== expectedSeq) {\n        message = { ...message, headers: { ...message.headers, [headerNames.expectedSeq]: String(there?.seq ?? 0) } };\n        continue;\n      }",
  },
  {
    name: "fence-left-out",
    guarantee: "every_decision_is_fenced",
    what: "decisions are appended without a fence",
    file: "packages/service-kit/src/decider/fenced-decider.ts",
    find: "const result = await kit.bus.appendFenced(event, expectedSeq, timeoutMs === undefined ? {} : { timeoutMs });",
    put: 'const result = { outcome: "won" as const, seq: (await kit.bus.append(event)).seq, expectedSeq, timeoutMs, last: null };',
  },
  {
    name: "candidate-needs-no-proof",
    guarantee: "moves_need_fresh_proof",
    what: "an endpoint that nobody speaks against is good enough to be moved to",
    file: domain("failover-proof"),
    find: "if (proofs.length > 0 && healthy.length > against.length) {",
    put: "if (against.length === 0) {",
  },
  {
    name: "proof-never-ages",
    guarantee: "moves_need_fresh_proof",
    what: "any proof of an endpoint counts, however old, and any probe is one",
    file: domain("failover-proof"),
    find: "const proofs = healthy.filter(({ proof }) => isProof(proof, fromMs, Math.max(afterSeq, context.clock.freshAfterSeq)));",
    put: 'const proofs = votes.filter(({ verdict }) => verdict === "healthy" || fromMs < 0);',
  },
  {
    name: "no-panic-for-reads",
    guarantee: "the_last_endpoint_is_never_ejected",
    what: "a read is refused when every endpoint is out",
    file: domain("routing"),
    find: '  return out === null ? plan(null, "none_left") : plan(out.name, "panic");',
    put: '  return plan(null, "none_left");',
  },
  {
    name: "unhealthy-is-barred",
    guarantee: "the_last_endpoint_is_never_ejected",
    what: "an endpoint that is said to be unhealthy gets nothing, not even in panic",
    file: domain("routing"),
    find: '  if (endpoint.health === "unhealthy" || !endpoint.breakerAllows) return "out";',
    put: '  if (endpoint.health === "unhealthy" || !endpoint.breakerAllows) return "barred";',
  },
  {
    name: "no-cooldown",
    guarantee: "no_more_moves_than_the_limit",
    what: "an upstream is moved again within its cool-down",
    file: domain("failover-move"),
    find: "nowMs - last.atMs >= policy.cooldownMs ? null : last;",
    put: "nowMs - last.atMs >= 0 ? null : last;",
  },
  {
    name: "one-move-too-many",
    guarantee: "no_more_moves_than_the_limit",
    what: "the limit an hour is off by one",
    file: domain("failover-move"),
    find: "if (inHour >= policy.movesPerHour && policy.movesPerHour <= movesKeptMax && activeExists) {",
    put: "if (inHour > policy.movesPerHour && policy.movesPerHour <= movesKeptMax && activeExists) {",
  },
  {
    name: "one-vote-is-a-majority",
    guarantee: "no_move_on_one_word",
    what: "the word of any one observer moves an upstream",
    file: domain("failover-proof"),
    find: "if (observers.length >= 2 && against.length * 2 > observers.length) {",
    put: "if (observers.length >= 2 && against.length >= 1) {",
  },
  {
    name: "silent-observers-do-not-count",
    guarantee: "no_move_on_one_word",
    what: "the majority is taken of those that speak, and who is silent does not count",
    file: domain("failover-proof"),
    find: "if (observers.length >= 2 && against.length * 2 > observers.length) {",
    put: "if (observers.length >= 2 && against.length * 2 > usable.length) {",
  },
  {
    name: "one-router-says-calls-fail",
    guarantee: "no_move_on_one_word",
    what: "an upstream is moved because calls of one router fail",
    file: domain("failover-calls"),
    find: "  if (against.length < 2 || against.length * 2 <= speaking.length) return null;",
    put: "  if (against.length < 1) return null;",
  },
  {
    name: "one-failed-call-says-calls-fail",
    guarantee: "no_move_on_one_word",
    what: "one failed call of each router, and not many, are failing calls",
    file: domain("failover-calls"),
    find: "sinceMs.has(router.router) && isFailing(router, policy)",
    put: "sinceMs.has(router.router)",
  },
  {
    name: "unknown-outcome-is-retried",
    guarantee: "unknown_outcomes_are_never_repeated",
    what: "a write whose outcome is unknown is sent again",
    file: domain("retry"),
    find: '  if (safety === "unsafe" && executed !== "no") return { retry: false, rule: "outcome_unknown" };\n',
    put: "",
  },
  {
    name: "fallback-after-an-unknown-outcome",
    guarantee: "unknown_outcomes_are_never_repeated",
    what: "an unsafe call whose outcome is unknown falls back to its legacy implementation",
    file: "services/router/src/control/call.ts",
    find: '    if (this.implementation === "mcp" && !this.#mayFallBack()) return null;\n',
    put: "",
  },
  {
    name: "unknown-outcome-is-told-as-an-error",
    guarantee: "callers_are_told_the_truth",
    what: "a caller whose write may have run is told that there was no endpoint",
    file: "services/router/src/control/call-problems.ts",
    find: '  if (rule === "outcome_unknown") {\n    const message',
    put: '  if (rule === "outcome_unknown" && last === "") {\n    const message',
  },
  {
    name: "unknown-legacy-outcome-is-told-as-an-error",
    guarantee: "callers_are_told_the_truth",
    what: "a caller whose write may have been done by the legacy API is told to try again",
    file: "services/router/src/control/call.ts",
    find: '    if (error.executed === "unknown" && this.safety === "unsafe") {',
    put: '    if (error.executed === "no" && this.safety === "unsafe") {',
  },
  {
    name: "waits-for-another-clock",
    guarantee: "everything_recovers",
    what: "times that the store's clock said before it was set back are waited for",
    file: domain("store-time"),
    find: "  return atMs - nowMs > setBackMsMin;",
    put: "  return atMs - nowMs > 1000 * setBackMsMin;",
  },
  {
    name: "half-open-never-closes",
    guarantee: "everything_recovers",
    what: "successes do not close a half-open breaker",
    file: domain("breaker"),
    find: "if (successes >= policy.halfOpenSuccesses && working.length > failing.length) {",
    put: "if (successes >= policy.halfOpenSuccesses && failing.length > 0 && working.length > failing.length) {",
  },
  {
    name: "health-never-rises",
    guarantee: "everything_recovers",
    what: "an endpoint that was down stays down",
    file: domain("health"),
    find: 'if (seen.okRun >= policy.successesUp && (before.status === "unhealthy" || before.status === "unknown")) {',
    put: 'if (seen.okRun >= policy.successesUp && before.status === "unknown") {',
  },
  {
    name: "certificate-without-its-evidence",
    guarantee: "every_decision_replays",
    what: "a certificate holds an input that is not the one decided on",
    file: "services/failover-controller/src/perform.ts",
    find: "folded: this.#decider.folded(), input, rejected };",
    put: "folded: this.#decider.folded(), input: { ...input, evidence: {} } as never, rejected };",
  },
  {
    name: "decider-remembers",
    guarantee: "every_decision_replays",
    what: "a decision depends on something outside of its input",
    file: domain("breaker"),
    find: "function change(input: BreakerInput, rule: BreakerRule, reason: string, next: Next): BreakerDecision {\n  const { sinceMs = input.nowMs, ...rest } = next;",
    put: "let decisions = 0;\nfunction change(input: BreakerInput, rule: BreakerRule, reason: string, next: Next): BreakerDecision {\n  decisions += 1;\n  const { sinceMs = input.nowMs + decisions, ...rest } = next;",
  },
  {
    name: "fleet-limit-is-not-asked",
    guarantee: "fleet_limits_hold",
    what: "an upstream is moved without a place in the fleet's limit",
    file: domain("failover-move"),
    find: "  if (!isReservedFor(input, to.name)) return reserveFor(input, since.sinceMs, intent);\n  if (fleet?.granted !== true)",
    put: '  if (fleet === null) return decided(input, "moved", { ...intent, rejected });\n  if (!fleet.granted)',
  },
  {
    name: "fleet-forgets-its-moves",
    guarantee: "fleet_limits_hold",
    what: "a used place is free again as soon as an unused one",
    file: domain("fleet"),
    find: ".filter((one) => !isOfAnotherClock(one.atMs, nowMs) && (one.used ? nowMs - one.atMs < policy.fleetWindowMs : nowMs < one.expiresAtMs));",
    put: ".filter((one) => nowMs < one.expiresAtMs);",
  },
  {
    name: "holds-do-not-hold",
    guarantee: "holds_are_kept",
    what: "an upstream that is held is moved all the same",
    file: domain("failover-move"),
    find: '    if (activeExists) return { ...refuse(input, "held", held, failed), targets: [] };\n',
    put: '    if (held === "") return { ...refuse(input, "held", held, failed), targets: [] };\n',
  },
  {
    name: "commands-are-obeyed-twice",
    guarantee: "holds_are_kept",
    what: "a repeated command is run again",
    file: "packages/service-kit/src/decider/command-desk.ts",
    find: "    if (!repeated) return actions.act(done);",
    put: "    if (!repeated || seq > 0) return actions.act(() => null);",
  },
];

/** Changes the source while it is loaded. Throws a `RangeError` for a name that is not known, and where the text to change is not there once. */
export function installMutant(name: string): void {
  const mutant = mutants.find((one) => one.name === name);
  if (mutant === undefined) throw new RangeError(`no mutant ${name}: see --list-mutants`);
  const url = new URL(`../../${mutant.file}`, import.meta.url).href;
  registerHooks({
    load(loaded, context, nextLoad) {
      const result = nextLoad(loaded, context);
      if (loaded !== url) return result;
      return { ...result, source: mutated(mutant, String(result.source)) };
    },
  });
}

/** The source with the mutant in it. */
export function mutated({ name, file, find, put }: Mutant, source: string): string {
  const pieces = source.split(find);
  if (pieces.length !== 2)
    throw new RangeError(`the mutant ${name} does not fit ${file} any more: its text is there ${pieces.length - 1} times`);
  return pieces.join(put);
}
