import type { BreakerStatus, HealthStatus } from "@mcp-failover/contracts";
import type { BreakerRule, HealthRule } from "@mcp-failover/domain";
import type { EndpointMode, Fault, FaultKind } from "./world-types.ts";

/**
 * What all runs together have to have met: every kind of fault in every shape, every transition, every rule that decides, every refusal.
 * The lists are typed by the product's own unions, or, where its rules are strings, closed: a name that is counted and not listed here
 * fails the run as an empty cell does. So a new rule cannot go without a cell.
 */

/** From so many runs on an empty cell fails. */
export const cellsRequiredFromRuns = 200;

/** `required`, or why it is not: what this world cannot reach, or reaches only by luck. */
type Need = "required" | { readonly not: string };
const required = "required";
const rare = { not: "met in some runs, and too seldom to be asked of each set of 200" };
const notPublished = { not: "ends in no event" };

const modes: Readonly<Record<EndpointMode, Need>> = {
  healthy: { not: "no fault" },
  refused: required,
  killed: required,
  hung: required,
  blackhole: required,
  reset: required,
  http_503: required,
  slow: required,
  rate_limited: required,
  auth: required,
  tool_errors: required,
};

type Of<K extends FaultKind> = Extract<Fault, { kind: K }>;
const services = ["breaker-state", "failover-controller", "rollback-controller", "prober", "router"];
const directions: readonly Of<"partition">["direction"][] = ["both", "out", "in"];
const messages: Readonly<Record<Of<"messages">["what"], Need>> = {
  lose_acks: required,
  lose_publishes: required,
  lose_core: required,
  duplicate_core: required,
  reorder_core: required,
  delay: required,
};
const liars: Readonly<Record<Of<"liar">["says"], Need>> = { healthy: required, unhealthy: required, opposite: required };
const commands: Readonly<Record<Of<"command">["command"], Need>> = {
  failover: required,
  failback: required,
  hold: required,
  release: required,
  breaker: required,
  rollback: required,
  recover: required,
};

const faultCells: Readonly<Record<FaultKind, readonly string[]>> = {
  endpoint: needed(modes).flatMap((mode) =>
    [mode, `${mode}:probes`, `${mode}:calls`, `${mode}:flapping`].map((cell) => `endpoint:${cell}`),
  ),
  partition: ["nats", "everything", "endpoint"].flatMap((peer) => directions.map((direction) => `partition:${peer}:${direction}`)),
  crash: services.flatMap((service) => ["killed", "orderly"].map((how) => `crash:${service}:${how}`)),
  pause: services.map((service) => `pause:${service}`),
  clock_jump: ["clock_jump"],
  clock_drift: ["clock_drift"],
  prober_clocks: ["prober_clocks:ahead", "prober_clocks:behind"],
  nats_restart: ["nats_restart"],
  messages: needed(messages).map((what) => `messages:${what}`),
  liar: needed(liars).map((says) => `liar:${says}`),
  command: needed(commands).map((command) => `command:${command}`),
};

const statuses: Readonly<Record<HealthStatus, Readonly<Partial<Record<HealthStatus, Need>>>>> = {
  unknown: { healthy: required, unhealthy: required, degraded: rare },
  healthy: { healthy: required, degraded: required, unhealthy: required, unknown: rare },
  degraded: { healthy: required, unhealthy: required, degraded: required, unknown: rare },
  unhealthy: { healthy: required, degraded: required, unhealthy: rare, unknown: rare },
};
const breakerStatuses: Readonly<Record<BreakerStatus, Readonly<Partial<Record<BreakerStatus, Need>>>>> = {
  closed: { open: required, half_open: rare, forced_open: required, closed: rare },
  open: { half_open: required, closed: rare, forced_open: rare },
  half_open: { open: required, closed: required, forced_open: rare, half_open: rare },
  forced_open: { closed: required, open: rare, forced_open: rare },
  disabled: {},
  metrics_only: {},
};

const healthRules: Readonly<Record<HealthRule, Need>> = {
  rise: required,
  fall: required,
  flap_hold: required,
  silence: { not: "needs every prober to be silent for an endpoint, and one left to say so" },
  credentials_refused: required,
  rate_limited: required,
  answers_degraded: { not: "the simulated endpoints answer no assertion of content" },
  zone_only: { not: "the world has one zone" },
  cleared: required,
  score: required,
  suspect: notPublished,
  no_majority: notPublished,
  grace: notPublished,
  held_down: notPublished,
  keep: notPublished,
};
const breakerRules: Readonly<Record<BreakerRule, Need>> = {
  consecutive_failures: required,
  hung: required,
  failure_ratio: required,
  slow_ratio: rare,
  open_time_over: required,
  half_open_failed: required,
  half_open_succeeded: required,
  permits_expired: rare,
  operator: required,
  none: notPublished,
};

// The rules below are strings in the product. Whatever is counted under these families and is not a key here fails the run.
const failoverRules: Readonly<Record<string, Need>> = {
  majority_unhealthy: required,
  calls_failing: rare,
  verify_failed: rare,
  failback: required,
  breaker_forced_open: rare,
  hold_expired: required,
  moves_per_hour: required,
  operator: required,
  operator_forced: required,
  operator_failback: required,
  lone_observer_confirmed: { not: "the world has three probers" },
  active_vanished: { not: "the configuration of a world does not change" },
};
const failoverRejections: Readonly<Record<string, Need>> = {
  held: required,
  cooldown: required,
  fleet_limit: required,
  safety_rule: required,
  dry_run: required,
  clock_gap: rare,
  automatic_off: required,
  not_held: required,
  already_active: required,
  moved_meanwhile: rare,
  not_failed_over: required,
  read_only: required,
  unknown_endpoint: required,
  candidate_unhealthy: rare,
  candidate_held_down: rare,
  candidate_breaker_open: rare,
  candidate_unknown: rare,
  candidate_maintenance: rare,
  no_candidate: { not: "every upstream has another endpoint that takes writes" },
};
const failings: Readonly<Record<string, Need>> = { no_candidate: required, verify_failed: rare, over: required, panic: required };
const fleetRules: Readonly<Record<string, Need>> = { reserved: required };
const rollbackRules: Readonly<Record<string, Need>> = {
  error_rate: required,
  response_time: rare,
  operator: required,
  operator_forced: required,
  ramp_step: required,
  no_data: required,
  mcp_worse: rare,
  routers_ahead: { not: "a world does not lose its log" },
};
const rollbackRejections: Readonly<Record<string, Need>> = {
  already_rolled_back: required,
  not_rolled_back: required,
  already_recovering: rare,
  legacy_no_better: rare,
  no_legacy: { not: "each scope that is asked for has a legacy implementation" },
  disabled: { not: "rollbacks are switched on" },
};

/** What is counted under a prefix, and whether it has to be. */
const families: Readonly<Record<string, Readonly<Record<string, Need>>>> = {
  "rule:health:": healthRules,
  "rule:breaker:": breakerRules,
  "rule:failover:": failoverRules,
  "rejected:failover:": failoverRejections,
  "failing:": failings,
  "rule:fleet:": fleetRules,
  "rule:rollback:": rollbackRules,
  "rejected:rollback:": rollbackRejections,
  "health:": pairs(statuses),
  "breaker:": pairs(breakerStatuses),
};

export const requiredCells: readonly string[] = [
  ...Object.values(faultCells).flatMap((cells) => cells.map((cell) => `fault:${cell}`)),
  ...Object.entries(families).flatMap(([prefix, cells]) => needed(cells).map((cell) => `${prefix}${cell}`)),
];

/** Cells that are required and empty, and cells that are counted and not listed. */
export function judgeCoverage(sums: ReadonlyMap<string, number>): {
  readonly empty: readonly string[];
  readonly unlisted: readonly string[];
  readonly required: number;
} {
  const unlisted = [...sums.keys()].filter((cell) => {
    const family = Object.entries(families).find(([prefix]) => cell.startsWith(prefix));
    return family !== undefined && !Object.hasOwn(family[1], cell.slice(family[0].length));
  });
  return { empty: requiredCells.filter((cell) => !sums.has(cell)), unlisted, required: requiredCells.length };
}

/** The tables of many runs as one. A flapping fault fills its mode's cell for flapping, whoever meets it. */
export function sumCoverage(tables: readonly Readonly<Record<string, number>>[]): Map<string, number> {
  const sums = new Map<string, number>();
  const add = (name: string, count: number): void => {
    sums.set(name, (sums.get(name) ?? 0) + count);
  };
  for (const table of tables) {
    for (const [name, count] of Object.entries(table)) {
      const flapping = /^(fault:endpoint:[a-z0-9_]+):(?:probes|calls):flapping$/.exec(name)?.[1];
      add(name, count);
      if (flapping !== undefined) add(`${flapping}:flapping`, count);
    }
  }
  return sums;
}

function needed(cells: Readonly<Record<string, Need>>): string[] {
  return Object.entries(cells)
    .filter(([, need]) => need === "required")
    .map(([cell]) => cell);
}

function pairs(matrix: Readonly<Record<string, Readonly<Partial<Record<string, Need>>>>>): Record<string, Need> {
  return Object.fromEntries(
    Object.entries(matrix).flatMap(([from, row]) => Object.entries(row).map(([to, need]) => [`${from}>${to}`, need ?? rare] as const)),
  );
}
