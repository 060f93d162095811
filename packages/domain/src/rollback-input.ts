import { type Event, type Implementation, type RollbackScope, type RollbackState, type Topology, topology } from "@mcp-failover/contracts";
import { type DecisionPlace, seenRollback } from "./evidence-routers.ts";
import { initialFailoverState } from "./failover.ts";
import { type Maintenance, maintenanceAt, maintenanceEndedMs } from "./maintenance.ts";
import { defaultPolicy, policyFor } from "./policy.ts";
import { initialRollbackState, lessOf, type RollbackInput, shareOf, slowShareMax } from "./rollback.ts";
import { timeOfThisClock } from "./store-time.ts";
import type { CallCounts, CountWindow } from "./tool-buckets.ts";
import { callsBy } from "./tool-callers.ts";
import { countByTens, countCalls, lastBadMs, type ToolTraffic, tenMs, tensKeptMs } from "./tool-traffic.ts";
import { wilsonLowerBound } from "./wilson.ts";

/** What a rollback decision reads of AUDIT, folded. Each subject's last event is all that is kept. */
export interface RollbackAudit {
  readonly config: { readonly environment: "development" | "production"; readonly topology: Topology } | null;
  /** By `scope/name`. */
  readonly states: ReadonlyMap<string, RollbackState>;
  /** The newest decision of each, likewise. */
  readonly newest: ReadonlyMap<string, DecisionPlace>;
  /** Which endpoint serves, and since when, by upstream; nothing before the first decision on its route. */
  readonly routes: ReadonlyMap<string, { readonly active: string; readonly sinceMs: number }>;
}
export const noRollbackAudit: RollbackAudit = { config: null, states: new Map(), newest: new Map(), routes: new Map() };

/** Takes in one event of AUDIT; events that no rollback decision reads change nothing. */
export function foldRollbackAudit(audit: RollbackAudit, event: Event): RollbackAudit {
  if (event.type === "config.applied") {
    const parsed = topology.safeParse(event.data.topology);
    return parsed.success ? { ...audit, config: { environment: event.data.environment, topology: parsed.data } } : audit;
  }
  if (event.type === "failover.decided") {
    const { service, state } = event.data;
    const { active, sinceMs } = state;
    const known = audit.routes.get(service);
    if (known?.active === active && known.sinceMs === sinceMs) return audit;
    return { ...audit, routes: new Map(audit.routes).set(service, { active, sinceMs }) };
  }
  if (event.type === "log.started") {
    // The first one has nothing before it.
    const newest = new Map([...audit.newest].map(([key, place]) => [key, { ...place, adopted: true }]));
    return newest.size === 0 ? audit : { ...audit, newest };
  }
  if (event.type !== "rollback.decided") return audit;
  const { scope, name, state } = event.data;
  const key = `${scope}/${name}`;
  const newest = new Map(audit.newest).set(key, { epoch: state.epoch, id: event.id });
  return { ...audit, states: new Map(audit.states).set(key, state), newest };
}

export interface ScopeName {
  readonly scope: RollbackScope;
  readonly name: string;
}

/** Every scope that can be rolled back: tools with a legacy implementation or in a ramp that began with one, agents, the system. */
export function rollbackScopes(config: Topology, states: RollbackAudit["states"] = new Map()): ScopeName[] {
  const inRamp = (name: string): boolean => states.get(`tool/${name}`)?.ramp != null;
  const names = Object.values(config.upstreams).flatMap(({ tools: all }) =>
    Object.entries(all).flatMap(([name, tool]) => (tool.legacy === undefined && !inRamp(name) ? [] : [name])),
  );
  const tools = [...new Set(names)].map((name) => ({ scope: "tool" as const, name }));
  const agents = Object.keys(config.agents).map((name) => ({ scope: "agent" as const, name }));
  return [...tools, ...agents, { scope: "system", name: "system" }];
}

/** No such tool, agent or system; the message lists what there is. */
export class UnknownScopeError extends Error {
  override readonly name = "UnknownScopeError";
  readonly code: string;
  readonly retriable = false;
  constructor({ scope, name }: ScopeName, known: readonly string[]) {
    super(`no ${scope} ${JSON.stringify(name)} is configured; known: ${known.join(", ") || "none"}`);
    this.code = `unknown_${scope}`;
  }
}

/** Throws {@link UnknownScopeError}. A tool that is configured without a legacy implementation is known, and refused by its rule. */
export function requireScope(config: Topology, { scope, name }: ScopeName): void {
  const known =
    scope === "system"
      ? ["system"]
      : scope === "agent"
        ? Object.keys(config.agents)
        : [...new Set(Object.values(config.upstreams).flatMap(({ tools }) => Object.keys(tools)))];
  if (!known.includes(name)) throw new UnknownScopeError({ scope, name }, known);
}

export interface RollbackMoment {
  readonly command: RollbackInput["command"];
  readonly clock: RollbackInput["clock"];
  /** What was said before this, in store time, is no evidence (the decider did not listen then). */
  readonly evidenceFromMs: number;
  readonly nowMs: number;
}

const secondMs = 1000;
/** The longest that a step of a ramp looks back. */
const stepBackMs = 600 * secondMs;
/** All of SIGNALS that a decision looks at: who has read so much decides as who was there all the time. A step is counted in tens of seconds. */
export const rollbackBackMs = stepBackMs + defaultPolicy.rollback.windowMs;

/** Joins the two streams for one scope at one moment. Throws {@link UnknownScopeError}. */
export function rollbackInput(audit: RollbackAudit, traffic: ToolTraffic, of: ScopeName, moment: RollbackMoment): RollbackInput {
  if (audit.config === null) throw new RangeError("no configuration has been applied yet");
  const { topology: config, environment } = audit.config;
  requireScope(config, of);
  const { scope, name } = of;
  const { nowMs, command, clock, evidenceFromMs } = moment;
  const owner = scope === "tool" ? legacyOwner(config, name) : null;
  const policy = policyFor(config, owner ?? (Object.keys(config.upstreams)[0] as string), environment).rollback;
  const state = audit.states.get(`${scope}/${name}`) ?? initialRollbackState;
  const key = scope === "tool" ? `tool/${owner}/${name}` : `${scope}/${name}`;
  // R9. Agents and the system call several upstreams, whose calls are not told apart: the samples alone keep one's outage from them.
  const movedMs = owner === null ? 0 : (audit.routes.get(owner)?.sinceMs ?? 0);
  const work = plannedWork(audit, config, of, nowMs);
  // What happened by another clock bounds nothing (ST2); all traffic that is known came after it.
  const ofThisClock = (atMs: number): number => timeOfThisClock(atMs, nowMs);
  const knownFromMs = Math.max(evidenceFromMs, ofThisClock(state.sinceMs), ofThisClock(movedMs), work.endedMs);
  const known = (fromMs: number, toMs: number): CountWindow => ({
    fromMs: Math.max(fromMs, knownFromMs),
    toMs,
    slowMs: policy.responseMsMax,
  });
  const count = (implementation: Implementation, fromMs: number, toMs: number): CallCounts =>
    countCalls(traffic, key, implementation, known(fromMs, toMs));
  const between = (fromMs: number, toMs: number) => ({ mcp: count("mcp", fromMs, toMs), legacy: count("legacy", fromMs, toMs) });
  const endMs = (Math.floor(nowMs / secondMs) + 1) * secondMs;
  const sampleMs = policy.windowMs / policy.samples;
  const samples = Array.from({ length: policy.samples }, (_, index) =>
    count("mcp", endMs - (index + 1) * sampleMs, endMs - index * sampleMs),
  );
  const window = between(endMs - policy.windowMs, endMs);
  const told = known(endMs - policy.windowMs, endMs);
  const stepFromMs = Math.max(ofThisClock(state.ramp?.stepSinceMs ?? 0), nowMs - stepBackMs, knownFromMs);
  return {
    scope,
    name,
    policy,
    ...legacySaid(hasLegacy(config, of)),
    state,
    evaluations: [window],
    samples,
    ...overSince(traffic, key, window.mcp, policy, nowMs),
    routers: routersThatCalled(traffic, key, told),
    agents: weightiestAgents(traffic, key, window.mcp, told),
    step: { ...between(stepFromMs, endMs), fromMs: stepFromMs },
    ...(work.now === null ? {} : { maintenance: { name: work.now.name, untilMs: work.now.untilMs } }),
    command,
    clock,
    seenEpoch: seenRollback(traffic, `${scope}/${name}`, audit.newest.get(`${scope}/${name}`) ?? null),
    nowMs,
  };
}

/** Two stretches that are over a limit are two outages where the windows between, by tens of seconds, are not for so long. */
const outagesApartMs = 60 * secondMs;

/** Since when each kind has been over its limit, as far back as traffic is kept, whatever was decided meanwhile. */
function overSince(
  traffic: ToolTraffic,
  key: string,
  window: CallCounts,
  policy: RollbackInput["policy"],
  nowMs: number,
): Pick<RollbackInput, "overSinceMs"> {
  const limits = { errors: policy.errorRate, slow: slowShareMax };
  const isOver = (counts: CallCounts, kind: "errors" | "slow"): boolean => shareOf(counts, kind) > limits[kind];
  if (!isOver(window, "errors") && !isOver(window, "slow")) return {};
  const sinceMs = (kind: "errors" | "slow"): number => {
    const nowEndMs = (Math.floor(nowMs / tenMs) + 1) * tenMs;
    const knownFromMs = nowEndMs - tensKeptMs;
    let firstMs: number | null = null;
    for (let endMs = nowEndMs; endMs - policy.windowMs >= knownFromMs && (firstMs ?? nowEndMs) - endMs <= outagesApartMs; endMs -= tenMs) {
      const counts = countByTens(traffic, key, "mcp", { fromMs: endMs - policy.windowMs, toMs: endMs, slowMs: policy.responseMsMax });
      if (counts.calls >= policy.minimumCalls && wilsonLowerBound(counts[kind], counts.calls) > limits[kind]) firstMs = endMs;
    }
    // Where no such window says so for certain, nothing says that it is another one.
    const fromMs = firstMs === null ? 0 : firstMs - policy.windowMs;
    return fromMs - outagesApartMs < knownFromMs ? 0 : fromMs;
  };
  return { overSinceMs: { errors: sinceMs("errors"), slow: sinceMs("slow") } };
}

function legacySaid(has: boolean): Pick<RollbackInput, "hasLegacy" | "legacyGone"> {
  return has ? { hasLegacy: true } : { hasLegacy: false, legacyGone: true };
}

/** The maintenance that a scope is in, and when the last one ended (R10). */
function plannedWork(audit: RollbackAudit, config: Topology, of: ScopeName, nowMs: number): { now: Maintenance | null; endedMs: number } {
  let now: Maintenance | null = null;
  let endedMs = 0;
  if (config.maintenance === undefined) return { now, endedMs };
  for (const upstream of legacyUpstreams(config, of)) {
    // In a pool an endpoint's work is done while others serve.
    const inPool = config.upstreams[upstream]?.mode === "pool";
    const active = inPool ? null : (audit.routes.get(upstream)?.active ?? initialFailoverState(config, upstream, 0).active);
    const here = maintenanceAt(config, upstream, active, nowMs);
    if (here !== null && here.untilMs > (now?.untilMs ?? 0)) now = here;
    endedMs = Math.max(endedMs, maintenanceEndedMs(config, upstream, active, nowMs) ?? 0);
  }
  return { now, endedMs };
}

/** So many routers are named in a decision's input; beyond them those with the most calls decide. */
const routersMax = 25;

function routersThatCalled({ callers, routers }: ToolTraffic, key: string, window: CountWindow): NonNullable<RollbackInput["routers"]> {
  const all = callsBy(callers.routers, key, window);
  const named = all
    .slice(0, routersMax)
    .map(({ name, ...calls }) => ({ router: name, heardMs: routers.get(name)?.atMs ?? calls.fromMs, ...calls }));
  return { named, more: all.length - named.length };
}

/** Of the agents known by name those without whose calls the least is left of what speaks against a tool. */
function weightiestAgents(
  { callers }: ToolTraffic,
  key: string,
  window: CallCounts,
  within: CountWindow,
): NonNullable<RollbackInput["agents"]> {
  const all = callsBy(callers.agents, key, within).map(({ name, fromMs: _, ...calls }) => ({ agent: name, ...calls }));
  const weightiest = (kind: "errors" | "slow") => {
    const without = (one: CallCounts): number => shareOf(lessOf(window, one), kind);
    return all.reduce<(typeof all)[number] | null>((least, one) => (least === null || without(one) < without(least) ? one : least), null);
  };
  return { errors: weightiest("errors"), slow: weightiest("slow") };
}

/**
 * Whether there is nothing to decide about a scope: it is whole on MCP or wholly rolled back, and no MCP call in any window that a decision
 * looks at has failed or was slow (R2). Cheap, because it is asked of every scope each second.
 */
export function isQuietScope(audit: RollbackAudit, traffic: ToolTraffic, { scope, name }: ScopeName, nowMs: number): boolean {
  const state = audit.states.get(`${scope}/${name}`) ?? initialRollbackState;
  if (state.ramp !== null || (state.mcpPercent !== 0 && state.mcpPercent !== 100)) return false;
  if (state.mcpPercent === 0) return true;
  if (audit.config === null) return true;
  const { topology: config } = audit.config;
  const key = scope === "tool" ? `tool/${legacyOwner(config, name)}/${name}` : `${scope}/${name}`;
  const badMs = lastBadMs(traffic, key, config.rollback.rollback_thresholds.response_time * secondMs);
  return badMs !== null && badMs < nowMs - quietAfterMs;
}
/** The oldest second of the window, and one more. */
const quietAfterMs = defaultPolicy.rollback.windowMs + 2 * secondMs;

const ownersOf = new WeakMap<Topology, Map<string, string>>();

/** The upstream whose tool of this name has a legacy implementation; the configuration allows one. Looked for once a configuration. */
export function legacyOwner(config: Topology, tool: string): string | null {
  let owners = ownersOf.get(config);
  if (owners === undefined) {
    owners = new Map();
    for (const [upstream, { tools }] of Object.entries(config.upstreams)) {
      for (const [name, { legacy }] of Object.entries(tools)) if (legacy !== undefined && !owners.has(name)) owners.set(name, upstream);
    }
    ownersOf.set(config, owners);
  }
  return owners.get(tool) ?? null;
}

function hasLegacy(config: Topology, of: ScopeName): boolean {
  return legacyUpstreams(config, of).length > 0;
}

/** The upstreams whose tools a scope falls back from. */
function legacyUpstreams(config: Topology, { scope, name }: ScopeName): string[] {
  if (scope === "tool") {
    const owner = legacyOwner(config, name);
    return owner === null ? [] : [owner];
  }
  const used = scope === "agent" ? (config.agents[name]?.tools ?? []) : [];
  const found = Object.entries(config.upstreams).filter(([upstream, { tools }]) =>
    Object.entries(tools).some(
      ([tool, { legacy }]) => legacy !== undefined && (used.length === 0 || used.includes(tool) || used.includes(`${upstream}/${tool}`)),
    ),
  );
  return found.map(([upstream]) => upstream);
}
