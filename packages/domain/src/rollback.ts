import type { Actor, Implementation, RollbackScope, RollbackState } from "@mcp-failover/contracts";
import type { RollbackPolicy } from "./policy.ts";
import { isOfAnotherClock, timeOfThisClock } from "./store-time.ts";
import type { CallCounts } from "./tool-buckets.ts";
import { wilsonLowerBound, wilsonUpperBound } from "./wilson.ts";

/**
 * Which implementation serves a tool, an agent or the system: `mcp`, or the `legacy` one that was there before it.
 *
 * R1  A decision raises the epoch by one, or to one above what was seen (R8); nothing else changes the state.
 * R2  By itself only a tool is rolled back, and only when over `errorRate` of its MCP calls in the window fail (or over 5 % take longer than
 *     `responseMsMax`) with 95 % confidence, at `minimumCalls` calls or more, and that many do in `samplesOver` of the window's `samples`, the
 *     newest among them (design, "3 of 5 samples"). Samples share no call, so that one outage is not found ill three times, and what ended
 *     is not condemned. In a ramp, agents and the system too.
 * R3  No data pauses, never condemns.
 * R4  Nothing is rolled back to a legacy implementation that does not exist, or by itself to one that is no better.
 * R5  A recovery goes through `rampPercent`, `rampStepMs` a step; each step needs MCP to be no worse than legacy since the step began, or since
 *     evidence on it begins: a step of which nothing is known has not lasted. No worse: by what fails, and by what takes longer than
 *     `responseMsMax`, of which 5 % are no fault, as the limit is a p95.
 *     Where R2 would roll a ramp back and rollbacks are switched off, it is paused instead, at once.
 * R6  An operator decides for any scope, and at once; what refuses them names the rule, and `force` overrides the judgement of data only.
 * R7  Equal inputs give equal decisions; the input is not altered.
 * R8  What a router holds of a log that was lost, at the log's epoch or above it, is decided again at once above that, as the log has it: no
 *     later order would be obeyed. So is what a router holds at any epoch and the log does not, once, where the log was adopted. At most once in
 *     ten seconds.
 * R9  Evidence on a tool begins with the newest move of its upstream: how calls ended elsewhere says nothing of the endpoint that serves
 *     now, and what a failover has healed needs no rollback.
 * R10 In maintenance of its upstream (of any that it falls back from, for agents and the system), or of the endpoint that serves there, nothing
 *     is rolled back, paused or advanced by itself: planned work is no failure (as F15). Evidence begins again with its end.
 * R11 Where more than one router called the scope, a majority of those with calls enough to say something, and at least two, see it over the
 *     limit too (design, principle 5: "One observer's word moves nothing where there are others"). One that was not heard of since another's
 *     calls began is no second one against MCP: a router that restarts has another name (as ADR 7). A fleet of one router is believed.
 * R12 Where more than one agent called a tool, it is over the limit without the calls of any one of them as well: how one uses it is not
 *     how it is. Not a majority as of routers, because agents are not alike (ADR 12). Calls of nobody known are nobody's to leave out.
 *
 * R13 A scope without a legacy implementation is served by MCP alone, whatever was decided before it was taken out of the configuration. Its
 *     recovery is whole at once, and a ramp of it ends by itself: one that waits for ever would be found again where a legacy comes back.
 *
 * Widening (tool to agent to system) and the memory threshold are not decided here: no signal carries memory, and no reference says
 * which parent a rolled-back tool belongs to when agents share it.
 */
export type RollbackInput = {
  scope: RollbackScope;
  name: string;
  /** `evaluations`: in logs from before there were samples, which were decided by so many windows. */
  policy: RollbackPolicy & { readonly evaluations?: number };
  /** Whether any tool of the scope has a legacy implementation. */
  hasLegacy: boolean;
  /** There is none to recover from (R13). Not in logs from before this was asked. */
  legacyGone?: true;
  state: RollbackState;
  /** The window of `windowMs`, cut where evidence begins; in logs from before there were samples several, newest first, a second apart. */
  evaluations: { mcp: CallCounts; legacy: CallCounts }[];
  /** The MCP calls of that window in stretches of equal length, newest first. */
  samples?: CallCounts[];
  /**
   * Since when what speaks against MCP has lasted, in the store's time; 0: for longer than is known. Absent: nothing does, or the log is of a time
   * that did not ask.
   */
  overSinceMs?: Record<Kind, number>;
  /** Who made the MCP calls of that window, from which second on, and heard last when: those with the most, and how many more there are. */
  routers?: { named: RouterCalls[]; more: number };
  /** Without whose calls the least is left of what speaks against MCP; null: no agent is known by name. */
  agents?: Record<Kind, ({ agent: string } & CallCounts) | null>;
  /** Since the step of a ramp began, or evidence on it (`fromMs`; not in logs from before there were samples). */
  step: { mcp: CallCounts; legacy: CallCounts; fromMs?: number };
  /** The planned work that is under way. */
  maintenance?: { name: string; untilMs: number };
  command: RollbackOrder | null;
  clock: { tilted: boolean };
  /** The highest epoch that a router holds of a decision that the log does not know; null: there is none. Not in logs from before this was asked. */
  seenEpoch?: number | null;
  nowMs: number;
};
export type RollbackOrder = { commandId: string; by: Actor; reason: string } & (
  | { kind: "rollback"; force: boolean }
  | { kind: "recover"; percent: number | null }
);

type Kind = "errors" | "slow";
type RouterCalls = { router: string; fromMs: number; heardMs: number } & CallCounts;
type Action = "rolled_back" | "advanced" | "paused" | "recovered";
export type RollbackDecision =
  | { kind: "none"; rule: string; reason: string }
  | {
      kind: "decided";
      rule: string;
      reason: string;
      action: Action;
      automatic: boolean;
      by: Actor;
      implementation: Implementation;
      previousImplementation: Implementation;
      rejected: { option: string; why: string }[];
      state: RollbackState;
    }
  /** `sinceMs`: of what it is about, in the store's time; 0: for longer than is known. */
  | { kind: "rejected"; rule: string; reason: string; automatic: boolean; sinceMs: number; rejected: { option: string; why: string }[] };

const service: Actor = { kind: "service", id: "rollback-controller" };
/** R8: so long after a decision at the earliest. */
const sayAgainMs = 10_000;

/** Rule of a decision by R8. */
export const routersAheadRule = "routers_ahead";
const legacyGone = "no legacy implementation is configured any more, so MCP serves every call already";
/** A p95 over the limit is a share of slow calls over this. */
export const slowShareMax = 0.05;
const secondMs = 1000;

/** Every scope before its first decision: whole on MCP. */
export const initialRollbackState: RollbackState = {
  epoch: 0,
  implementation: "mcp",
  mcpPercent: 100,
  sinceMs: 0,
  lastGoodEpoch: 0,
  ramp: null,
};

/** Decides about one scope (R1 to R13). Pure. */
export function decideRollback(input: RollbackInput): RollbackDecision {
  const { command, state, policy, scope } = input;
  if (command?.kind === "rollback") return obeyRollback(input, command.force);
  if (command?.kind === "recover") return obeyRecover(input, command.percent);
  if (input.seenEpoch != null && mayBeSaidAgain(input)) return sayAgain(input, input.seenEpoch);
  if (input.clock.tilted) return { kind: "none", rule: "clock_gap", reason: "the clock jumped" };
  if (state.mcpPercent === 0) return { kind: "none", rule: "rolled_back", reason: "rolled back until an operator recovers it" };
  if (input.maintenance !== undefined) {
    return { kind: "none", rule: "maintenance", reason: `in maintenance (${input.maintenance.name}): nothing is decided because of it` };
  }
  if (input.legacyGone === true && state.ramp != null) return advance(input, 100, "legacy_gone", legacyGone);
  const condemned = condemn(input);
  if (condemned !== null) return rollBackByItself(input, condemned);
  if (state.ramp != null) return stepRamp(input, state.ramp);
  if (scope !== "tool" || !policy.automatic || !policy.enabled) return { kind: "none", rule: "automatic_off", reason: "only by command" };
  return { kind: "none", rule: "sound", reason: "nothing speaks against MCP" };
}

type Condemned = { rule: "error_rate" | "response_time"; why: string; kind: Kind };

/** What the data says against MCP (R2, R3, R11, R12); null: nothing. */
function condemn(input: RollbackInput): Condemned | null {
  const { policy, evaluations, routers } = input;
  const window = evaluations[0]?.mcp;
  if (window === undefined) return null;
  const more = routers === undefined || routers.more === 0 ? "" : `; ${routers.more} routers with fewer calls were not asked`;
  if (isOver(input, "errors", policy.errorRate)) {
    const why = `${window.errors} of ${window.calls} MCP calls failed, over ${percent(policy.errorRate)} allowed${more}`;
    return { rule: "error_rate", why, kind: "errors" };
  }
  if (isOver(input, "slow", slowShareMax)) {
    const why = `${window.slow} of ${window.calls} MCP calls took over ${policy.responseMsMax} ms, so the p95 does${more}`;
    return { rule: "response_time", why, kind: "slow" };
  }
  return null;
}

/** Whether what is counted is over a limit, surely and lastingly (R2), and not to one observer alone. */
function isOver(input: RollbackInput, kind: Kind, limit: number): boolean {
  const { policy, evaluations, samples } = input;
  const surely = ({ mcp }: { mcp: CallCounts }): boolean =>
    mcp.calls >= policy.minimumCalls && wilsonLowerBound(mcp[kind], mcp.calls) > limit;
  if (samples === undefined) {
    const { evaluations: times = 3 } = policy;
    return evaluations.length >= times && evaluations.slice(0, times).every(surely);
  }
  // Few calls make a sample: the confidence is the window's.
  const over = samples.map((sample) => shareOf(sample, kind) > limit);
  const lasts = over[0] === true && over.filter(Boolean).length >= policy.samplesOver;
  return lasts && evaluations.slice(0, 1).every(surely) && routersAgree(input, kind, limit) && isNotOneAgents(input, kind, limit);
}

/** R11. What is sure of all calls together need not be of each router's. */
function routersAgree({ policy, routers }: RollbackInput, kind: Kind, limit: number): boolean {
  if (routers === undefined) return true;
  const isAgainst = (calls: CallCounts): boolean => shareOf(calls, kind) > limit;
  const ill = routers.named.filter(isAgainst);
  const known = routers.named.filter((router) => !ill.includes(router) || !ill.some((other) => mayBeNow(router, other)));
  const count = known.length + routers.more;
  const voters = known.filter(({ calls }) => calls >= policy.minimumCalls / count);
  const against = known.filter(isAgainst);
  return against.length >= Math.min(2, count) && 2 * voters.filter(isAgainst).length > voters.length;
}

/** Whether a router may go on as another one, which it was not heard beside. */
function mayBeNow(router: RouterCalls, other: RouterCalls): boolean {
  return other !== router && router.fromMs <= other.fromMs && router.heardMs < other.fromMs + secondMs;
}

/** R12. */
function isNotOneAgents({ evaluations, agents }: RollbackInput, kind: Kind, limit: number): boolean {
  const [window, weightiest] = [evaluations[0]?.mcp, agents?.[kind]];
  if (window === undefined || weightiest == null) return true;
  const others = lessOf(window, weightiest);
  return others.calls === 0 || shareOf(others, kind) > limit;
}

/** Of how many calls something is true; 0 without calls. */
export function shareOf(counts: CallCounts, kind: Kind): number {
  return counts.calls === 0 ? 0 : counts[kind] / counts.calls;
}

/** All calls but some of them; never less than none, where fewer were kept of all than of some. */
export function lessOf(all: CallCounts, some: CallCounts): CallCounts {
  const less = (kind: keyof CallCounts): number => Math.max(0, all[kind] - some[kind]);
  return { calls: less("calls"), errors: less("errors"), slow: less("slow") };
}

function rollBackByItself(input: RollbackInput, { rule, why, kind }: Condemned): RollbackDecision {
  const { policy, state, scope, evaluations, hasLegacy } = input;
  const inRamp = state.ramp != null;
  if (!policy.enabled && state.ramp != null && !state.ramp.paused) {
    // A step of its own, so that nothing goes on before these calls could be judged again.
    const ramp = { stepSinceMs: input.nowMs, paused: true };
    return decided(input, "paused", rule, `${why}; but rollbacks are switched off (\`rollback.enabled\`)`, { ramp });
  }
  if (!policy.enabled || (!inRamp && (!policy.automatic || scope !== "tool"))) {
    return { kind: "none", rule: "automatic_off", reason: `${why}; but ${scope}s are rolled back by command only` };
  }
  const no = (code: string, reason: string): RollbackDecision => ({
    kind: "rejected",
    rule: code,
    reason: `${why}; but ${reason}`,
    automatic: true,
    sinceMs: input.overSinceMs?.[kind] ?? 0,
    rejected: [{ option: "legacy", why: reason }],
  });
  if (!hasLegacy) return no("no_legacy", "there is no legacy implementation");
  const [newest] = evaluations;
  const legacy = newest?.legacy;
  if (newest !== undefined && legacy !== undefined && legacy.calls >= policy.minimumCalls) {
    const [ofLegacy, ofMcp] = [shareOf(legacy, kind), shareOf(newest.mcp, kind)];
    if (ofLegacy >= ofMcp) return no("legacy_no_better", `legacy is no better (${percent(ofLegacy)} against ${percent(ofMcp)})`);
  }
  return decided(input, "rolled_back", rule, why, { mcpPercent: 0, ramp: null });
}

/** One look at a ramp (R3, R5). */
function stepRamp(input: RollbackInput, ramp: NonNullable<RollbackState["ramp"]>): RollbackDecision {
  const { policy, state, step, nowMs } = input;
  if (nowMs - Math.max(timeOfThisClock(ramp.stepSinceMs, nowMs), step.fromMs ?? 0) < policy.rampStepMs)
    return { kind: "none", rule: "ramp_step", reason: "the step has not lasted long enough" };
  const pause = (rule: string, reason: string): RollbackDecision =>
    ramp.paused ? { kind: "none", rule, reason } : decided(input, "paused", rule, reason, { ramp: { ...ramp, paused: true } });
  const { mcp, legacy } = step;
  // What others know of the step's beginning this decider does not: it says so.
  const judged = (step.fromMs ?? 0) > ramp.stepSinceMs ? ` in the last ${Math.round((nowMs - (step.fromMs ?? 0)) / secondMs)} s` : "";
  if (mcp.calls < policy.minimumCalls) {
    return pause("no_data", `${mcp.calls} MCP calls${judged || " since the step began"}; ${policy.minimumCalls} are needed to judge by`);
  }
  const worse = worseAt(input, mcp, legacy);
  if (worse !== null) return pause("mcp_worse", `${worse}${judged}`);
  const next = policy.rampPercent.find((share) => share > state.mcpPercent) ?? 100;
  return advance(
    input,
    next,
    "ramp_step",
    `MCP was no worse at ${state.mcpPercent} % (${mcp.errors} of ${mcp.calls} calls failed${judged})`,
  );
}

/** What MCP does worse than legacy, or than is allowed where there are too few calls of that (R5); null: nothing. */
function worseAt({ policy, samples }: RollbackInput, mcp: CallCounts, legacy: CallCounts): string | null {
  const known = legacy.calls >= policy.minimumCalls;
  const said = (kind: Kind, what: string, allowed: number): string => {
    const beside = known ? `, and ${legacy[kind]} of ${legacy.calls} of legacy` : "";
    return `${mcp[kind]} of ${mcp.calls} MCP calls ${what}${beside}; allowed are ${percent(allowed)}`;
  };
  // Legacy's ratio is as uncertain as MCP's; but few calls of it excuse no more than the threshold does.
  const errors = known
    ? Math.min(wilsonUpperBound(legacy.errors, legacy.calls), Math.max(policy.errorRate, shareOf(legacy, "errors")))
    : policy.errorRate;
  if (wilsonLowerBound(mcp.errors, mcp.calls) > errors) return said("errors", "failed", errors);
  // Logs from before there were samples: by what failed alone.
  if (samples === undefined) return null;
  const slow = known ? Math.max(slowShareMax, shareOf(legacy, "slow")) : slowShareMax;
  return wilsonLowerBound(mcp.slow, mcp.calls) > slow ? said("slow", `took over ${policy.responseMsMax} ms`, slow) : null;
}

function advance(input: RollbackInput, mcpPercent: number, rule: string, reason: string): RollbackDecision {
  if (mcpPercent >= 100) return decided(input, "recovered", rule, reason, { mcpPercent: 100, ramp: null });
  return decided(input, "advanced", rule, reason, { mcpPercent, ramp: { stepSinceMs: input.nowMs, paused: false } });
}

function obeyRollback(input: RollbackInput, force: boolean): RollbackDecision {
  const { policy, scope, name, state, hasLegacy, evaluations, command } = input;
  if (!hasLegacy) return refuse("no_legacy", `${scope} ${name} has no tool with a legacy implementation (\`tools.<tool>.legacy\`)`);
  if (state.mcpPercent === 0) return refuse("already_rolled_back", `${scope} ${name} is rolled back already (epoch ${state.epoch})`);
  if (!policy.enabled && !force) return refuse("disabled", "rollbacks are switched off (`rollback.enabled`); use --force");
  const legacy = evaluations[0]?.legacy;
  const mcp = evaluations[0]?.mcp;
  if (!force && legacy !== undefined && mcp !== undefined && legacy.calls >= policy.minimumCalls) {
    const failing = wilsonLowerBound(legacy.errors, legacy.calls) > policy.errorRate;
    const noBetter = mcp.calls === 0 || legacy.errors / legacy.calls >= mcp.errors / mcp.calls;
    if (failing && noBetter) {
      return refuse("legacy_no_better", `${legacy.errors} of ${legacy.calls} legacy calls failed, which is no better; use --force`);
    }
  }
  return decided(input, "rolled_back", force ? "operator_forced" : "operator", command?.reason ?? "", { mcpPercent: 0, ramp: null });
}

function obeyRecover(input: RollbackInput, to: number | null): RollbackDecision {
  const { scope, name, state, policy, command } = input;
  if (state.mcpPercent >= 100) return refuse("not_rolled_back", `${scope} ${name} is whole on MCP`);
  const reason = command?.reason ?? "";
  if (input.legacyGone === true) return advance(input, 100, "operator", `${reason} (${legacyGone})`);
  if (to !== null) return advance(input, to, "operator", reason);
  if (state.ramp != null && !state.ramp.paused)
    return refuse("already_recovering", `${scope} ${name} recovers already (${state.mcpPercent} %)`);
  return advance(input, Math.max(state.mcpPercent, policy.rampPercent[0] ?? 100), "operator", reason);
}

/** A router that makes up its epochs would fill the log otherwise, which has no limit. */
function mayBeSaidAgain({ state, nowMs }: RollbackInput): boolean {
  return nowMs - state.sinceMs >= sayAgainMs || isOfAnotherClock(state.sinceMs, nowMs);
}

/** R8. A ramp begins its step anew: how calls ended while routers held something else says nothing. */
function sayAgain(input: RollbackInput, seenEpoch: number): RollbackDecision {
  const { ramp, mcpPercent } = input.state;
  const between = ramp?.paused === true ? "paused" : "advanced";
  const action = mcpPercent >= 100 ? "recovered" : mcpPercent === 0 ? "rolled_back" : between;
  const reason = `routers hold decision ${seenEpoch}, which is not of this log: what this log has (${mcpPercent} % on MCP) is in force`;
  return decided(input, action, routersAheadRule, reason, ramp == null ? {} : { ramp: { ...ramp, stepSinceMs: input.nowMs } });
}

function refuse(rule: string, reason: string): RollbackDecision {
  return { kind: "rejected", rule, reason, automatic: false, sinceMs: 0, rejected: [] };
}

function decided(input: RollbackInput, action: Action, rule: string, reason: string, change: Partial<RollbackState>): RollbackDecision {
  const { state, command, nowMs } = input;
  const epoch = Math.max(state.epoch, input.seenEpoch ?? 0) + 1;
  const mcpPercent = change.mcpPercent ?? state.mcpPercent;
  const implementation: Implementation = mcpPercent >= 100 ? "mcp" : "legacy";
  const wasWhole = state.mcpPercent >= 100;
  return {
    kind: "decided",
    rule,
    reason,
    action,
    automatic: command === null,
    by: command?.by ?? service,
    implementation,
    previousImplementation: state.implementation,
    rejected: [],
    state: {
      ...state,
      ...change,
      epoch,
      implementation,
      sinceMs: nowMs,
      lastGoodEpoch: mcpPercent >= 100 ? epoch : wasWhole ? state.epoch : state.lastGoodEpoch,
    },
  };
}

const percent = (share: number): string => `${Math.round(share * 1000) / 10} %`;
