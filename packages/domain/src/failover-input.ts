import {
  type BreakerStatus,
  type Event,
  endpointKey,
  type FailoverState,
  type HealthChanged,
  type Topology,
  topology,
} from "@mcp-failover/contracts";
import { type Evidence, type Testimony, testimonyOn } from "./evidence.ts";
import { seenEpoch } from "./evidence-routers.ts";
import { suspectObservers } from "./evidence-suspects.ts";
import { trafficOn } from "./evidence-traffic.ts";
import { initialFailoverState } from "./failover.ts";
import { routeAhead } from "./failover-ahead.ts";
import { type CallsHeard, callsOn } from "./failover-calls.ts";
import type { FailoverInput } from "./failover-outcome.ts";
import type { EndpointSlice, HealthSlice } from "./failover-proof.ts";
import { trialInForce } from "./failover-verify.ts";
import type { Reservation } from "./fleet.ts";
import { maintenanceAt } from "./maintenance.ts";
import { policyFor } from "./policy.ts";
import { isRuled } from "./safety-rules.ts";
import { emptyMap, type ShardedMap } from "./sharded-map.ts";
import { isOfAnotherClock } from "./store-time.ts";

/** `toldAtMs`: when the store took it. */
type KnownHealth = HealthSlice & { readonly changesAtMs: readonly number[]; readonly toldAtMs: number };

/**
 * What a failover decision reads of AUDIT, folded; and the join of both streams into the input of `decideFailover`.
 *
 * J1  Each subject's last event is all that is kept: folding from the last event of each subject gives the same as folding everything.
 * J2  The input holds what the decision needs and no more: at most 50 endpoints, of which the active one, the one that an operator names and
 *     those that look best are kept, so that leaving the others out makes no group look worse than it is; and 250 votes, thinned evenly, so
 *     that majorities stay majorities.
 */
export interface FailoverAudit {
  readonly config: { readonly version: number; readonly environment: "development" | "production"; readonly topology: Topology } | null;
  /** Of the log; 0 before `log.started`. */
  readonly generation: number;
  readonly states: ShardedMap<FailoverState>;
  /** Id of the event that each of these states is of. */
  readonly decisionIds: ShardedMap<string>;
  readonly health: ShardedMap<KnownHealth>;
  readonly breakers: ShardedMap<BreakerStatus>;
  /** When each breaker changed last. */
  readonly breakersSinceMs: ShardedMap<number>;
  readonly reservations: readonly Reservation[];
  /** Rehearsals under way, by the upstream that they are on, with the time after which they are over in any case. */
  readonly rehearsals: ReadonlyMap<string, { readonly experiment: string; readonly untilMs: number }>;
}

export const noFailoverAudit: FailoverAudit = {
  config: null,
  generation: 0,
  states: emptyMap(),
  decisionIds: emptyMap(),
  health: emptyMap(),
  breakers: emptyMap(),
  breakersSinceMs: emptyMap(),
  reservations: [],
  rehearsals: new Map(),
};

/** A rehearsal waits for recovery for so long at most after its fault has ended (`chaosCommand.maxWaitMs`). */
const rehearsalRestMs = 300_000;

/** Takes in one event of AUDIT, stored at `timeMs`; events that no failover decision reads change nothing. */
export function foldFailoverAudit(audit: FailoverAudit, event: Event, timeMs: number): FailoverAudit {
  switch (event.type) {
    case "log.started":
      return { ...audit, generation: Math.max(audit.generation, event.data.generation) };
    case "config.applied": {
      const parsed = topology.safeParse(event.data.topology);
      if (!parsed.success) return audit;
      return { ...audit, config: { version: event.data.version, environment: event.data.environment, topology: parsed.data } };
    }
    case "failover.decided":
      return {
        ...audit,
        states: audit.states.with(event.data.service, event.data.state),
        decisionIds: audit.decisionIds.with(event.data.service, event.id),
      };
    case "health.changed": {
      const key = endpointKey(event.data.service, event.data.endpoint);
      return { ...audit, health: audit.health.with(key, knownHealth(event.data, timeMs)) };
    }
    case "breaker.changed": {
      const key = endpointKey(event.data.service, event.data.endpoint);
      const breakers = audit.breakers.with(key, event.data.status);
      return { ...audit, breakers, breakersSinceMs: audit.breakersSinceMs.with(key, event.data.state.sinceMs) };
    }
    case "chaos.started": {
      const { experiment, target, plan } = event.data;
      const [upstream = target] = target.split("/");
      const untilMs = plan.expiresAtMs + rehearsalRestMs;
      return { ...audit, rehearsals: new Map(audit.rehearsals).set(upstream, { experiment, untilMs }) };
    }
    case "chaos.finished": {
      const over = [...audit.rehearsals].filter(([, { experiment }]) => experiment !== event.data.experiment);
      return { ...audit, rehearsals: new Map(over) };
    }
    case "fleet.reserved":
      return { ...audit, reservations: event.data.reservations };
    default:
      return audit;
  }
}

/** The route of an upstream as it is now: the last decision's, or the one before the first. Throws `UnknownUpstreamError`. */
export function failoverStateOf(audit: FailoverAudit, upstream: string): FailoverState {
  if (audit.config === null) throw new RangeError("no configuration has been applied yet");
  return audit.states.get(upstream) ?? initialFailoverState(audit.config.topology, upstream, audit.generation);
}

export interface FailoverMoment {
  readonly command: FailoverInput["command"];
  readonly fleet: FailoverInput["fleet"];
  readonly clock: FailoverInput["clock"];
  readonly gatherSinceMs: number | null;
  /** Of the start, or of the configuration of this upstream's endpoints; null: over. */
  readonly graceUntilMs?: number | null;
  readonly nowMs: number;
}

const groupMax = 25;
const candidatesMax = 25;
/** So few endpoints are all kept, however they are split. */
const keptAllMax = Math.min(groupMax, candidatesMax);
const groupVotesMax = 125;
const candidateVotesMax = 125;

/** Joins the two streams for one upstream at one moment (J2). Throws when the upstream is not configured. */
export function failoverInput(audit: FailoverAudit, evidence: Evidence, upstream: string, moment: FailoverMoment): FailoverInput {
  const state = failoverStateOf(audit, upstream);
  const { topology: config, environment } = audit.config as NonNullable<FailoverAudit["config"]>;
  const policy = failoverPolicyOf(config, upstream, environment);
  const { mode } = config.upstreams[upstream] as Topology["upstreams"][string];
  const configured = configuredOf(config, upstream);
  const { nowMs } = moment;

  const spoken = new Map<string, Testimony>();
  for (const { slice } of configured) spoken.set(slice.name, testimonyOn(evidence, upstream, slice.name, policy, nowMs));
  const active = configured.find(({ slice }) => slice.name === state.active)?.slice;
  const inGroup = ({ slice }: ConfiguredEndpoint): boolean =>
    slice.name === state.active || (mode === "pool" && slice.role === "write" && slice.tier === active?.tier);
  const group = configured.filter(inGroup);
  if (group.length > 1) group.sort((a, b) => countAgainst(spoken.get(a.slice.name)) - countAgainst(spoken.get(b.slice.name)));
  const groupKept = group.slice(0, groupMax);
  const own = group.find(({ slice }) => slice.name === state.active);
  // Whatever is said of it: one that is left out would be taken for one that is not configured.
  if (own !== undefined && !groupKept.includes(own)) groupKept[groupMax - 1] = own;
  const named = moment.command?.kind === "failover" ? moment.command.to : null;
  const kept = configured.length <= keptAllMax ? configured : keptOf(configured, { group, groupKept, named }, audit);
  const groupNames = groupKept.map(({ slice }) => slice.name);
  const groupShare = Math.max(3, Math.floor(groupVotesMax / Math.max(1, groupNames.length)));
  const candidateShare = Math.max(3, Math.floor(candidateVotesMax / Math.max(1, kept.length - groupNames.length)));

  const endpoints: EndpointSlice[] = [];
  const testimonies: Record<string, Testimony> = {};
  const health: Record<string, HealthSlice> = {};
  const breakers: Record<string, BreakerStatus> = {};
  const opened: Record<string, number> = {};
  const maintained: Record<string, { name: string; untilMs: number }> = {};
  let doubted = false;
  for (const { slice, key } of kept) {
    const { name } = slice;
    endpoints.push(slice);
    const testimony = cut(spoken.get(name), groupNames.includes(name) ? groupShare : candidateShare);
    testimonies[name] = testimony;
    doubted ||= countAgainst(testimony) > 0;
    const known = audit.health.get(key);
    if (known !== undefined) health[name] = healthSliceOf(known, policy.flapWindowMs, nowMs);
    const breaker = audit.breakers.get(key);
    if (breaker !== undefined) breakers[name] = breaker;
    if (breaker === "open") {
      const sinceMs = audit.breakersSinceMs.get(key);
      if (sinceMs !== undefined) opened[name] = sinceMs;
    }
    const window = config.maintenance === undefined ? null : maintenanceAt(config, upstream, name, nowMs);
    if (window !== null) maintained[name] = { name: window.name, untilMs: window.untilMs };
  }
  const isHeard = (observer: string): boolean => Object.values(testimonies).some(({ observers }) => observers.includes(observer));
  const verified = doubted || moment.command !== null || policy.failback === "automatic" || trialInForce({ state, nowMs }) !== null;
  const since = { generation: audit.generation, epoch: state.trial?.epoch ?? state.epoch, windowMs: policy.verifyMs };
  const rehearsal = audit.rehearsals.get(upstream);
  const newest = { generation: state.generation, epoch: state.epoch, id: audit.decisionIds.get(upstream) ?? null };
  const ahead = routeAhead(evidence.routers, upstream, newest, { liveMs: policy.routerLiveMs, nowMs });
  return {
    upstream,
    mode,
    endpoints,
    policy,
    generation: audit.generation,
    seenEpoch: seenEpoch(evidence, upstream, audit.generation),
    ...(ahead === null ? {} : { ahead }),
    state,
    evidence: testimonies,
    health,
    breakers,
    ...(isEmpty(opened) ? {} : { opened }),
    ...(isEmpty(maintained) ? {} : { maintained }),
    ...(doubted ? callsSlice(evidence, upstream, endpoints, { generation: audit.generation, epoch: state.epoch }, nowMs) : {}),
    ...(verified ? { traffic: trafficOn(evidence, upstream, groupNames, since, nowMs) } : {}),
    ...(rehearsal !== undefined && nowMs < rehearsal.untilMs ? { rehearsal: rehearsal.experiment } : {}),
    ...(isRuled(config, upstream) ? { ruled: true } : {}),
    ...(evidence.setBack === null ? {} : { setBack: evidence.setBack }),
    suspects: doubted ? suspectObservers(evidence, policy, nowMs).filter(isHeard) : [],
    signals: { seq: evidence.lastSeq, atMs: evidence.lastTimeMs },
    ...moment,
  };
}

interface ConfiguredEndpoint {
  readonly slice: EndpointSlice;
  /** `upstream/endpoint` */
  readonly key: string;
}
const endpointsOf = new WeakMap<Topology, Map<string, readonly ConfiguredEndpoint[]>>();

/** The endpoints of one upstream as inputs have them; made once a configuration, because each evaluation asks for them. */
function configuredOf(config: Topology, upstream: string): readonly ConfiguredEndpoint[] {
  let known = endpointsOf.get(config);
  if (known === undefined) {
    known = new Map();
    endpointsOf.set(config, known);
  }
  let found = known.get(upstream);
  if (found === undefined) {
    const { endpoints } = config.upstreams[upstream] as Topology["upstreams"][string];
    found = endpoints.map(({ name, tier, role }) => ({ slice: Object.freeze({ name, tier, role }), key: endpointKey(upstream, name) }));
    known.set(upstream, found);
  }
  return found;
}

/** The endpoints that are kept of many (J2), in the order of the configuration. `named`: the one that an operator wants. */
function keptOf(
  configured: readonly ConfiguredEndpoint[],
  { group, groupKept, named }: Record<"group" | "groupKept", readonly ConfiguredEndpoint[]> & { readonly named: string | null },
  audit: FailoverAudit,
): readonly ConfiguredEndpoint[] {
  const writing = configured.filter(({ slice }) => slice.role === "write");
  const firstTier = Math.min(...writing.map(({ slice }) => slice.tier));
  // One of the first tier says that others are backups. Then comes what may be moved to: neither read replicas nor what is down take its place.
  const first = writing.find(({ slice }) => slice.tier === firstTier);
  const rankOf = (endpoint: ConfiguredEndpoint): number => {
    const { slice, key } = endpoint;
    if (slice.name === named || endpoint === first) return 0;
    return slice.role === "read" ? 3 : audit.health.get(key)?.status === "unhealthy" ? 2 : 1;
  };
  const others = configured.filter((endpoint) => !group.includes(endpoint) || endpoint.slice.name === named);
  others.sort((a, b) => rankOf(a) - rankOf(b) || a.slice.tier - b.slice.tier);
  const kept = new Set([...groupKept, ...others.slice(0, candidatesMax)]);
  return configured.filter((endpoint) => kept.has(endpoint));
}

/** Only where some calls failed: without that nobody says that they do. */
function callsSlice(
  evidence: Evidence,
  upstream: string,
  endpoints: readonly EndpointSlice[],
  route: { readonly generation: number; readonly epoch: number },
  nowMs: number,
): { readonly calls?: CallsHeard } {
  const calls: CallsHeard = {};
  for (const { name } of endpoints) {
    const heard = callsOn(evidence, upstream, name, route, nowMs);
    if (heard.some(({ hard }) => hard > 0)) calls[name] = heard;
  }
  return isEmpty(calls) ? {} : { calls };
}

function isEmpty(record: object): boolean {
  for (const _ in record) return false;
  return true;
}

function countAgainst(testimony: Testimony | undefined): number {
  let count = 0;
  for (const { verdict } of testimony?.votes ?? []) if (verdict === "unhealthy") count += 1;
  return count;
}

/** A prober stamps with its own clock, which may be wrong or set; moves are decided by the store's, so all of it is moved there. */
function knownHealth({ timestamp, state }: HealthChanged, timeMs: number): KnownHealth {
  const { status, sinceMs, heldDownUntilMs, changesAtMs = [] } = state;
  const aheadMs = timeMs - Date.parse(timestamp);
  return {
    status,
    sinceMs: sinceMs + aheadMs,
    heldDownUntilMs: heldDownUntilMs === null ? null : heldDownUntilMs + aheadMs,
    changesAtMs: changesAtMs.map((atMs) => atMs + aheadMs),
    toldAtMs: timeMs,
  };
}

/** Until when an endpoint is held down; null: it is not, or another clock said so (ST2). */
export function heldDownUntil({ heldDownUntilMs, toldAtMs }: KnownHealth, nowMs: number): number | null {
  return isOfAnotherClock(toldAtMs, nowMs) ? null : heldDownUntilMs;
}

function healthSliceOf(known: KnownHealth, flapWindowMs: number, nowMs: number): HealthSlice {
  const { status, sinceMs, changesAtMs } = known;
  const heldDownUntilMs = heldDownUntil(known, nowMs);
  let flaps = 0;
  for (const atMs of changesAtMs) if (nowMs - atMs < flapWindowMs && !isOfAnotherClock(atMs, nowMs)) flaps += 1;
  return flaps === 0 ? { status, sinceMs, heldDownUntilMs } : { status, sinceMs, heldDownUntilMs, flaps };
}

const policies = new WeakMap<Topology, Map<string, FailoverInput["policy"]>>();

/** The policy of one upstream's moves; worked out once a configuration, because each evaluation asks for it. */
export function failoverPolicyOf(config: Topology, upstream: string, environment: "development" | "production"): FailoverInput["policy"] {
  const known = policies.get(config) ?? new Map<string, FailoverInput["policy"]>();
  policies.set(config, known);
  const key = `${environment} ${upstream}`;
  const found = known.get(key);
  if (found !== undefined) return found;
  const { failover, health } = policyFor(config, upstream, environment);
  const policy = { ...failover, confirmTimeoutMs: health.confirmTimeoutMs };
  known.set(key, policy);
  return policy;
}

/** At most `max` observers, thinned so that the shares of the verdicts stay; who is left out is left out of the majority too. */
function cut(testimony: Testimony | undefined, max: number): Testimony {
  if (testimony === undefined) return { observers: [], votes: [] };
  const { observers, votes } = testimony;
  if (observers.length <= max) return testimony;
  const verdictOf = new Map(votes.map((vote) => [`${vote.kind}:${vote.observer}`, vote.verdict]));
  const rank = { healthy: 0, unknown: 1, unhealthy: 2 } as const;
  const ranked = [...observers].sort((a, b) => rank[verdictOf.get(a) ?? "unknown"] - rank[verdictOf.get(b) ?? "unknown"]);
  const step = (index: number): number => Math.floor((index * max) / observers.length);
  const kept = ranked.filter((_, index) => step(index + 1) > step(index));
  return { observers: kept.sort(), votes: votes.filter((vote) => kept.includes(`${vote.kind}:${vote.observer}`)) };
}
