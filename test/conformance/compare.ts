import type { Outcome } from "./suites.ts";

/** One scenario whose checks through the router are none that it gave directly. */
export interface Difference {
  readonly scenario: string;
  /** Checks that only one side has, as `id: STATUS`. */
  readonly onlyDirect: readonly string[];
  readonly onlyRouted: readonly string[];
}

/**
 * Compares the multisets of checks scenario by scenario. A scenario that differs between direct runs is flaky by itself: what it gave in any of
 * them counts as right, and {@link flakyOf} names it.
 */
export function differencesOf(direct: readonly Outcome[], routed: Outcome): Difference[] {
  const scenarios = new Set([...direct.flatMap((outcome) => [...outcome.keys()]), ...routed.keys()]);
  return [...scenarios].sort().flatMap((scenario) => {
    const given = routed.get(scenario) ?? ["the scenario: DID NOT RUN"];
    const wanted = direct.map((outcome) => outcome.get(scenario) ?? ["the scenario: DID NOT RUN"]);
    if (wanted.some((checks) => checks.join("\n") === given.join("\n"))) return [];
    const nearest = wanted.at(-1) ?? [];
    return [{ scenario, onlyDirect: without(nearest, given), onlyRouted: without(given, nearest) }];
  });
}

/** Scenarios that gave different checks in different direct runs. */
export function flakyOf(direct: readonly Outcome[]): string[] {
  const scenarios = new Set(direct.flatMap((outcome) => [...outcome.keys()]));
  return [...scenarios].filter((scenario) => new Set(direct.map((outcome) => (outcome.get(scenario) ?? []).join("\n"))).size > 1).sort();
}

export function countsOf(outcome: Outcome): { scenarios: number; checks: number; failed: number } {
  const checks = [...outcome.values()].flat();
  return { scenarios: outcome.size, checks: checks.length, failed: checks.filter((check) => check.endsWith(": FAILURE")).length };
}

/** What is in `some` more often than in `others`. */
function without(some: readonly string[], others: readonly string[]): string[] {
  const left = [...others];
  return some.filter((check) => {
    const at = left.indexOf(check);
    if (at >= 0) left.splice(at, 1);
    return at < 0;
  });
}
