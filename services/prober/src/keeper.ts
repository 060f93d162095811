import type { Fenced } from "@mcp-failover/bus";
import type { Observation, Vote } from "@mcp-failover/contracts";
import {
  decideHealth,
  evidenceMax,
  type HealthDecision,
  type HealthEvidence,
  type HealthInput,
  isAlive,
  type Maintenance,
} from "@mcp-failover/domain";
import type { HealthLog, LastSaid } from "./health-log.ts";
import type { Target } from "./targets.ts";

/** What observers answered: how many were asked, this prober included, and their words. */
export interface Word {
  readonly asked: number;
  readonly votes: readonly Vote[];
}

export interface KeeperOptions {
  readonly log: HealthLog;
  readonly nowMs: () => number;
  readonly graceUntilMs: () => number;
  readonly maintenanceOf: (target: Target, nowMs: number) => Maintenance | null;
  /** False while the log is out of reach: then evidence is kept, and nothing is decided. */
  readonly canDecide: () => boolean;
  /** Null: too many questions are under way. */
  readonly ask: (target: Target) => Promise<Word | null>;
  readonly say: (
    target: Target,
    input: HealthInput,
    decision: HealthDecision,
    last: Observation | null,
    before: LastSaid | null,
  ) => Promise<Fenced>;
  readonly onDecision: (target: Target, decision: HealthDecision) => void;
  readonly onLost: (target: Target) => void;
  readonly onError: (error: unknown, target: Target) => void;
}

/**
 * Keeps the health of the endpoints that this prober owns: gathers evidence since the last word in the log, decides on it, asks the
 * observers where the decision needs them, and says the result behind the fence. One decision an endpoint at a time.
 */
export interface Keeper {
  own(target: Target): void;
  disown(key: string): void;
  owns(key: string): boolean;
  keys(): Iterable<string>;
  /** Takes in a result; returns what it amounts to, which the schedule goes by. Null for an endpoint of others. */
  observe(key: string, observation: Observation, options?: { decide: boolean }): HealthDecision | null;
  /** The log tells of a change that this prober did not say. */
  other(key: string, said: LastSaid): void;
  /** Looks for endpoints without fresh results. */
  lookForSilence(): void;
  /** This process could not have heard or probed anything before now. */
  resetSilence(): void;
  /** Usual response time of an owned endpoint. */
  usualMs(key: string): number | null;
  /** Whether every owned endpoint has answered here and is known to be up. */
  allProven(): boolean;
}

interface Owned {
  /** The policy in it may be replaced; the endpoint that it means may not. */
  target: Target;
  sinceMs: number;
  evidence: HealthEvidence[];
  last: Observation | null;
  answered: boolean;
  usualMs: number | null;
  deciding: boolean;
  again: boolean;
}

/** Decisions in a row on one endpoint; another prober that says the opposite all the time must not keep this one busy. */
const decisionsInRowMax = 5;

export function createKeeper(options: KeeperOptions): Keeper {
  const { log, nowMs } = options;
  const owned = new Map<string, Owned>();

  function inputOf(entry: Owned, word: Word | null): HealthInput {
    const now = Math.floor(nowMs());
    const maintenance = options.maintenanceOf(entry.target, now);
    return {
      policy: entry.target.policy,
      state: log.last(entry.target.key)?.state ?? null,
      evidence: entry.evidence,
      asked: word?.asked ?? 0,
      votes: word?.votes ?? [],
      graceUntilMs: options.graceUntilMs(),
      nowMs: now,
      ...(maintenance === null ? {} : { maintenance }),
    };
  }

  async function settle(entry: Owned): Promise<void> {
    if (entry.deciding) {
      entry.again = true;
      return;
    }
    entry.deciding = true;
    try {
      let left = decisionsInRowMax;
      do {
        entry.again = false;
        left -= 1;
        await decideOnce(entry);
      } while (entry.again && left > 0 && owned.get(entry.target.key) === entry);
    } catch (error) {
      options.onError(error, entry.target);
    } finally {
      entry.deciding = false;
    }
  }

  async function decideOnce(entry: Owned): Promise<void> {
    const { target } = entry;
    const mayDecide = (): boolean => options.canDecide() && owned.get(target.key) === entry;
    if (!mayDecide()) return;
    let input = inputOf(entry, null);
    let decision = decideHealth(input);
    if (!decision.ask && !decision.publish) return;
    // What is said goes into the log as it was decided on, whatever comes in while it is being said.
    input = { ...input, evidence: entry.evidence.slice() };
    if (decision.ask) {
      const word = await options.ask(target);
      if (word === null || !mayDecide()) return;
      input = { ...inputOf(entry, word), evidence: entry.evidence.slice() };
      decision = decideHealth(input);
      if (!decision.publish) options.onDecision(target, decision);
    }
    if (!decision.publish) return;
    const folded = new Set(entry.evidence);
    const before = log.last(target.key);
    // A silence is nobody's answer.
    const last = decision.rule === "silence" ? null : entry.last;
    const outcome = await options.say(target, input, decision, last, before);
    if (outcome.outcome === "won") {
      log.won(target.key, { seq: outcome.seq, state: decision.state, timeMs: nowMs() });
      entry.evidence = entry.evidence.filter((observation) => !folded.has(observation));
      options.onDecision(target, decision);
      return;
    }
    options.onLost(target);
    log.lost(target.key, before, outcome.last);
    entry.again = true;
  }

  return {
    own(target) {
      const known = owned.get(target.key);
      if (known !== undefined && known.target.identity === target.identity) {
        // By the longer interval before, nothing was due yet.
        if (target.policy.freshMs < known.target.policy.freshMs) known.sinceMs = nowMs();
        known.target = target;
        return;
      }
      owned.set(target.key, {
        target,
        sinceMs: nowMs(),
        evidence: [],
        last: null,
        answered: false,
        usualMs: null,
        deciding: false,
        again: false,
      });
    },
    disown(key) {
      owned.delete(key);
    },
    owns: (key) => owned.has(key),
    keys: () => owned.keys(),
    observe(key, observation, { decide } = { decide: true }) {
      const entry = owned.get(key);
      if (entry === undefined) return null;
      const { startedAtMs, responseTimeMs, outcome, code, purpose, degraded } = observation;
      entry.evidence.push({ startedAtMs, responseTimeMs, outcome, code, purpose, ...(degraded == null ? {} : { degraded }) });
      if (entry.evidence.length > evidenceMax(entry.target.policy)) entry.evidence.shift();
      entry.last = observation;
      entry.answered ||= isAlive(observation.outcome);
      const decision = decideHealth(inputOf(entry, null));
      entry.usualMs = decision.state.usualMs ?? null;
      if (decide && (decision.publish || decision.ask)) void settle(entry);
      return decision;
    },
    other(key, said) {
      const entry = owned.get(key);
      if (entry === undefined) return;
      // What another has just said stands on newer evidence than ours from before it.
      entry.evidence = entry.evidence.filter(({ startedAtMs, responseTimeMs }) => startedAtMs + responseTimeMs > said.timeMs);
    },
    lookForSilence() {
      const now = nowMs();
      for (const entry of owned.values()) {
        const lastMs = entry.last === null ? entry.sinceMs : Math.max(entry.sinceMs, entry.last.startedAtMs + entry.last.responseTimeMs);
        if (now - lastMs > entry.target.policy.freshMs) void settle(entry);
      }
    },
    resetSilence() {
      const now = nowMs();
      for (const entry of owned.values()) entry.sinceMs = now;
    },
    usualMs: (key) => owned.get(key)?.usualMs ?? null,
    allProven() {
      for (const { target, answered } of owned.values()) {
        const status = log.last(target.key)?.state?.status;
        if (!answered || (status !== "healthy" && status !== "degraded")) return false;
      }
      return true;
    },
  };
}
