import { endpointKey, type SafetyRule, type TimeWindow, type Topology } from "@mcp-failover/contracts";
import { maintenanceAt } from "./maintenance.ts";

/**
 * What no move may break, as an operator wrote it in `safety_rules:`; looked at where a move is reserved, so that two deciders that move two
 * upstreams at once cannot break one together.
 *
 * S1  A rule is about what is so after the move, with every other move that was reserved and is not known to be over counted as made.
 * S2  `at_least`: an endpoint is on when nothing speaks against it (unhealthy, held down, breaker open, maintenance) and no move is leaving it.
 *     A move off one of the rule's endpoints leaves at least `count` of the others on, or as many on as there were: one that is off already
 *     takes nothing away, and the rule would only keep calls where nothing answers. In a pool it leaves, and comes to, a whole tier.
 * S3  `never_both_on_backup`: no upstream goes behind its first tier while another of the rule is there.
 * S4  `no_moves`: none of these upstreams is moved while the window holds.
 * S5  A move that does not touch a rule's upstreams or endpoints is never refused by it.
 */
export type SafetyFacts =
  | {
      kind: "at_least";
      name: string;
      reason: string;
      count: number;
      endpoints: { key: string; off: string | null }[];
      /** Endpoints that are left and come to together: tiers of pools; absent where there are none. */
      together?: string[][];
    }
  | { kind: "never_both_on_backup"; name: string; reason: string; upstreams: { name: string; onBackup: boolean }[] }
  | { kind: "no_moves"; name: string; reason: string; upstreams: string[]; window: TimeWindow };

/** A move, as far as rules care: of one upstream, between two of its endpoints. */
export type SafetyChange = { upstream: string; from: string; to: string; toBackup: boolean };

/** The first rule that a move would break; null: none. `others` in the order in which they were reserved. Pure. */
export function breachOf(
  rules: readonly SafetyFacts[],
  change: SafetyChange,
  others: readonly (SafetyChange & { made: boolean })[],
  nowMs: number,
): { name: string; why: string } | null {
  for (const rule of rules) {
    const why = breach(rule, change, others, nowMs);
    if (why !== null) return { name: rule.name, why: rule.reason === "" ? why : `${why} (${rule.reason})` };
  }
  return null;
}

function breach(
  rule: SafetyFacts,
  change: SafetyChange,
  others: readonly (SafetyChange & { made: boolean })[],
  nowMs: number,
): string | null {
  switch (rule.kind) {
    case "at_least": {
      const short = shortOf(rule, change, others);
      return short?.byMove ? `${short.why} (${short.off})` : null;
    }
    case "never_both_on_backup": {
      const own = rule.upstreams.find(({ name }) => name === change.upstream);
      if (own === undefined || own.onBackup || !change.toBackup) return null;
      const there = rule.upstreams.filter(
        ({ name, onBackup }) =>
          name !== change.upstream && (onBackup || others.some((other) => other.upstream === name && other.toBackup && !other.made)),
      );
      return there.length === 0 ? null : `never on their backups together, and ${there.map(({ name }) => name).join(", ")} is on one`;
    }
    case "no_moves": {
      if (!rule.upstreams.includes(change.upstream)) return null;
      const window = maintenanceAt({ maintenance: [{ name: rule.name, reason: "-", ...rule.window }] }, change.upstream, null, nowMs);
      return window === null ? null : `no moves until ${new Date(window.untilMs).toISOString()}`;
    }
  }
}

/** Rules of `at_least` that are broken before the move already, and that it makes no worse (S2): said with the place that it gets. Pure. */
export function brokenAlready(
  rules: readonly SafetyFacts[],
  change: SafetyChange,
  others: readonly SafetyChange[],
): { name: string; why: string }[] {
  return rules.flatMap((rule) => {
    const short = rule.kind === "at_least" ? shortOf(rule, change, others) : null;
    return short === null || short.byMove ? [] : [{ name: rule.name, why: `${short.why} without it too (${short.off})` }];
  });
}

/** What is off of a rule's endpoints once a move off one of them is made, where too few are on then; `byMove`: more were on without it. */
function shortOf(
  rule: Extract<SafetyFacts, { kind: "at_least" }>,
  change: SafetyChange,
  others: readonly SafetyChange[],
): { why: string; off: string; byMove: boolean } | null {
  const allOf = (upstream: string, endpoint: string): readonly string[] => {
    const key = endpointKey(upstream, endpoint);
    return rule.together?.find((keys) => keys.includes(key)) ?? [key];
  };
  const leaves = allOf(change.upstream, change.from);
  if (!rule.endpoints.some(({ key }) => leaves.includes(key))) return null;
  const offAfter = (moves: readonly SafetyChange[]): string[] => {
    const left = new Set<string>();
    for (const { upstream, from, to } of moves) {
      for (const key of allOf(upstream, from)) left.add(key);
      for (const key of allOf(upstream, to)) left.delete(key);
    }
    return rule.endpoints.flatMap(({ key, off }) => (off !== null ? [`${key}: ${off}`] : left.has(key) ? [`${key}: left`] : []));
  };
  const off = offAfter([...others, change]);
  const on = rule.endpoints.length - off.length;
  if (on >= rule.count) return null;
  const why = `at least ${rule.count} of its endpoints have to stay on, and ${on} would be`;
  return { why, off: off.join(", "), byMove: off.length > offAfter(others).length };
}

const ruledOf = new WeakMap<Topology, ReadonlySet<string>>();

/** Whether a rule names an upstream or one of its endpoints. */
export function isRuled(topology: Topology, upstream: string): boolean {
  if (topology.safety_rules === undefined) return false;
  const known = ruledOf.get(topology) ?? new Set(topology.safety_rules.flatMap(upstreamsOf));
  ruledOf.set(topology, known);
  return known.has(upstream);
}

function upstreamsOf({ at_least: atLeast, never_both_on_backup: both, no_moves: noMoves }: SafetyRule): string[] {
  return [...(atLeast?.endpoints.map((key) => key.split("/")[0] as string) ?? []), ...(both ?? []), ...(noMoves?.upstreams ?? [])];
}

/** The tiers of pools that some of these endpoints are of. */
function tiersOfPools({ upstreams }: Topology, keys: readonly string[]): string[][] {
  return [...new Set(keys.map((key) => key.split("/")[0] as string))].flatMap((name) => {
    const pool = upstreams[name];
    if (pool?.mode !== "pool") return [];
    const writing = pool.endpoints.filter(({ role }) => role === "write");
    return [...new Set(writing.map(({ tier }) => tier))]
      .map((tier) => writing.filter((endpoint) => endpoint.tier === tier).map((endpoint) => endpointKey(name, endpoint.name)))
      .filter((tier) => tier.length > 1 && tier.some((key) => keys.includes(key)));
  });
}

/** The rules that name one of these upstreams, with what is known of everything that they name. */
export function safetyFacts(
  topology: Topology,
  upstreams: ReadonlySet<string>,
  known: { readonly offBecause: (upstream: string, endpoint: string) => string | null; readonly onBackup: (upstream: string) => boolean },
): SafetyFacts[] {
  const touched = (topology.safety_rules ?? []).filter((rule) => upstreamsOf(rule).some((upstream) => upstreams.has(upstream)));
  return touched.flatMap(({ name, reason, at_least: atLeast, never_both_on_backup: both, no_moves: noMoves }): SafetyFacts[] => {
    if (atLeast !== undefined) {
      // One that is named twice is on once.
      const endpoints = [...new Set(atLeast.endpoints)].map((key) => {
        const [upstream = "", endpoint = ""] = key.split("/");
        return { key: endpointKey(upstream, endpoint), off: known.offBecause(upstream, endpoint) };
      });
      const together = tiersOfPools(topology, atLeast.endpoints);
      return [{ kind: "at_least", name, reason, count: atLeast.count, endpoints, ...(together.length === 0 ? {} : { together }) }];
    }
    if (both !== undefined) {
      return [{ kind: "never_both_on_backup", name, reason, upstreams: both.map((one) => ({ name: one, onBackup: known.onBackup(one) })) }];
    }
    if (noMoves === undefined) return [];
    const { upstreams: named, ...window } = noMoves;
    return [{ kind: "no_moves", name, reason, upstreams: named, window }];
  });
}
