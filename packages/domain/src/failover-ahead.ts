import type { FailoverState, RouteHeld } from "@mcp-failover/contracts";
import type { RouterSeen } from "./evidence.ts";
import { type FailoverDecision, type FailoverInput, nextEpoch } from "./failover-outcome.ts";
import { routersAheadRule } from "./rollback.ts";
import { isNewerRoute } from "./routing.ts";
import { isOfAnotherClock } from "./store-time.ts";

/**
 * F20: routers hold a route that the log does not know, because the log was lost or restored from a backup, or because an operator adopted it
 * as it is (design, "When the log is lost or restored"). Without a decision above it the log and the traffic would stay apart: the endpoint
 * that is watched is not the one that is used.
 */
export type RouteAhead = {
  /** The newest of the routes that the log does not know. */
  generation: number;
  epoch: number;
  /** Where most live routers send their calls; of equally many, where the newest route leads. */
  active: string;
  /** Live routers that hold such a route, by name, and where each of them sends its calls. */
  heldBy: { router: string; active: string }[];
  /** Live routers that hold one of the log's. */
  others: number;
};

/** Rule of the dead end where routers hold routes of a later generation than the log's. */
export const olderGenerationRule = "log_of_older_generation";

/** Routers that are named; all are counted. */
const namedMax = 20;

/** What live routers hold of an upstream and the log does not know; null: nothing. `log`: its newest decision, `id` null where there is none. */
export function routeAhead(
  routers: ReadonlyMap<string, RouterSeen>,
  upstream: string,
  log: { readonly generation: number; readonly epoch: number; readonly id: string | null },
  { liveMs, nowMs }: { readonly liveMs: number; readonly nowMs: number },
): RouteAhead | null {
  let newest: RouteHeld | null = null;
  const heldBy: RouteAhead["heldBy"] = [];
  const counts = new Map<string, number>();
  let live = 0;
  for (const [router, { atMs, routes }] of routers) {
    const held = routes[upstream];
    if (held === undefined || nowMs - atMs > liveMs) continue;
    live += 1;
    counts.set(held.active, (counts.get(held.active) ?? 0) + 1);
    if (isKnown(held, log)) continue;
    heldBy.push({ router, active: held.active });
    if (newest === null || isNewerRoute(held, newest)) newest = held;
  }
  if (newest === null) return null;
  const most = Math.max(...counts.values());
  const inMostUse = [...counts].filter(([, count]) => count === most).map(([active]) => active);
  const active = inMostUse.includes(newest.active) ? newest.active : (inMostUse.sort()[0] ?? newest.active);
  heldBy.sort((a, b) => (a.router < b.router ? -1 : 1));
  const { generation, epoch } = newest;
  return { generation, epoch, active, heldBy: heldBy.slice(0, namedMax), others: live - heldBy.length };
}

function isKnown(held: RouteHeld, log: { readonly generation: number; readonly epoch: number; readonly id: string | null }): boolean {
  // No decision: what every process begins with.
  if (held.epoch === 0) return true;
  // Whatever the log's generation: it has no decision that the router could still be given.
  if (log.epoch === 0) return false;
  if (isNewerRoute(held, log)) return false;
  const isSamePlace = held.generation === log.generation && held.epoch === log.epoch;
  return !isSamePlace || held.eventId === null || log.id === null || held.eventId === log.id;
}

/**
 * F20. The next epoch above what routers hold. The log takes over where most of them send their calls, so that no call is moved to an endpoint
 * that nobody has proven; where the log was adopted, and where most routers hold the log's own route, the log's endpoint stays, and the others
 * follow. No limit counts it. At most one in a cool-down, so that a router which makes up its routes cannot raise epochs without end.
 */
export function decideAhead(input: FailoverInput): FailoverDecision | null {
  const { ahead, state, generation, endpoints, policy, nowMs } = input;
  if (ahead === undefined) return null;
  if (ahead.generation > generation) {
    return {
      kind: "failing",
      rule: olderGenerationRule,
      reason: `${names(ahead)} of generation ${ahead.generation} of the log, and this is generation ${generation}: what is decided here reaches no router; if this log is the right one, say so with \`mcpf log adopt --reason TEXT\``,
      sinceMs: nowMs,
      rejected: [],
      targets: [],
    };
  }
  const { decidedAtMs = 0, graceUntilMs = null } = { ...state, ...input };
  const isAdopted = generation > ahead.generation;
  const isTooSoon = nowMs - decidedAtMs < policy.cooldownMs && !isOfAnotherClock(decidedAtMs, nowMs);
  // An adoption is an operator's word, and comes once a generation.
  if (!isAdopted && (isTooSoon || (graceUntilMs !== null && nowMs < graceUntilMs))) return null;
  const wanted = endpoints.find(({ name, role }) => name === ahead.active && role === "write");
  const to = isAdopted || wanted === undefined ? { name: state.active, tier: state.tier } : wanted;
  const from = to.name === state.active ? (ahead.heldBy.find(({ active }) => active !== to.name)?.active ?? state.active) : state.active;
  const isMove = from !== to.name;
  return {
    kind: "decided",
    action: isMove ? "moved" : state.held === null ? "released" : "held",
    rule: routersAheadRule,
    reason: `${names(ahead)} (decision ${ahead.epoch} of generation ${ahead.generation}), which is not of this log: ${whyTo(input, ahead, to.name)}`,
    automatic: true,
    by: { kind: "service", id: "failover-controller" },
    previousEndpoint: from,
    currentEndpoint: to.name,
    overrode: [],
    rejected: isMove ? [{ option: from, why: `${to.name} is in force` }] : [],
    state: stateAfter(input, to),
  };
}

function stateAfter(input: FailoverInput, to: { name: string; tier: number }): FailoverState {
  const { state, generation, nowMs, signals } = input;
  return {
    ...state,
    generation,
    epoch: nextEpoch(input),
    active: to.name,
    tier: to.tier,
    sinceMs: to.name === state.active ? state.sinceMs : nowMs,
    decidedAtMs: nowMs,
    signalsSeq: signals.seq,
    // It would be judged by calls at another endpoint.
    ...(state.trial == null || to.name === state.active ? {} : { trial: null }),
  };
}

function names({ heldBy }: RouteAhead): string {
  const [first] = heldBy;
  const more = heldBy.length > 1 ? ` and ${heldBy.length - 1} more hold` : " holds";
  return `router ${first?.router ?? "?"}${more} a route to ${first?.active ?? "?"}`;
}

function whyTo({ state, generation, endpoints }: FailoverInput, ahead: RouteAhead, to: string): string {
  if (generation > ahead.generation) return `this log was adopted as it is, so ${to} is in force`;
  if (to === ahead.active && to !== state.active) return `the log had ${state.active}, and most calls go to ${to}, so that is in force`;
  if (!endpoints.some(({ name, role }) => name === ahead.active && role === "write"))
    return `${ahead.active} is not configured here to take writes, so ${to} is in force, as the log has it`;
  return `${to} stays in force; decisions of between, holds among them, are gone: look whether one has to be given again`;
}
