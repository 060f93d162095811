import {
  type Actor,
  channelsMax,
  contactLimits,
  contactText,
  type Event,
  endpointKey,
  type FailoverReleased,
  type HealthStatus,
  type IncidentChanged,
  type RollbackNotice,
  type Severity,
  type Topology,
} from "@mcp-failover/contracts";
import { olderGenerationRule } from "./failover-ahead.ts";
import { type Maintenance, maintenanceAt } from "./maintenance.ts";
import { routersAheadRule } from "./rollback.ts";
import { legacyOwner } from "./rollback-input.ts";
import { initialActive, own, type Placed, type ReadModel } from "./status.ts";
import { isOfAnotherClock, timeOfThisClock } from "./store-time.ts";

/**
 * Incidents: what happened to one upstream (or one rolled-back scope), grouped, so that people are told once.
 *
 * Invariants:
 * I1  At most one incident that is not resolved exists for a key; what belongs to it is added as a cause, not told again.
 * I2  An event is taken in at most once: one at or below the newest cause changes nothing.
 * I3  `opened` is told at most once, and first. `escalated` follows when a notification became a page, when a dead end is still in force
 *     `againMs` after the last message, and for an outage by I8; each once. `resolved` is told at most once, to every channel that was told
 *     before and is still configured. An incident that was over before anybody was told is told in one message, or not at all where it only
 *     waited.
 * I4  A failover or a dead end is told at once; a sick endpoint waits, so that what follows from it comes in the same message.
 * I5  An incident of an upstream is resolved only when every endpoint of it is healthy, no breaker is open and nothing is failing, or when it
 *     is not configured any more.
 * I6  What is decided to be told stays in `telling` until it is known to be in the outbox; meanwhile nothing else is told.
 * I7  What happens to an endpoint or upstream in maintenance opens an incident, but nobody is told before the maintenance ends, of the first
 *     of several that are sick, and nobody at all when all is well by then. It makes no page of what was told before. A maintenance that is made longer or shorter counts as it is.
 *     So it is with what is rolled back by itself in the maintenance of a tool's upstream, or for agents and the system in one of everything.
 * I8  Every outage is told, also while the incident stays open because a standby never became well: what agents feel is another
 *     outage when nothing of the kind was heard for `outageMs`. One that is over before it was due is told nobody.
 * I9  Of a rollback all is told once, whatever the time: one that a rule forbids (no event says when that is over, so it is at once), a
 *     ramp that is rolled back again, and one that stands for `againMs`. Who hears of it is by its own severity: a ramp that stands wakes nobody.
 * I10 That routers hold rollbacks of a log that was lost is one page for all scopes, over when no more of it was heard for `quietMs`.
 * I11 Where the store's clock was set back nothing is waited for by the old one (ST2): what waited to be told is told, and what agents feel
 *     then is another outage, as nobody knows how long it was quiet before. Only the end of maintenance is by the clock that is.
 */

export type Incident = IncidentChanged;
export type NotificationKind = "opened" | "escalated" | "resolved";

/** How long the first message waits for what belongs to it. Alertmanager waits 30 s; a page may not. */
export const pageWaitMs = 2000;
export const notifyWaitMs = 10_000;
/** An incident that got worse is told again this long after the last message. Alertmanager's group interval, shortened from 5 min. */
export const againMs = 60_000;
/** Well for so long without an event that says so, an incident is over: a failover may heal what health never saw. */
export const quietMs = 60_000;
/** What agents feel after so long without a word of it is another outage; above the 5 min that health which flaps is held down. */
export const outageMs = 600_000;
const causesMax = 100;
const textCharsMax = 500;

/** What is known of an upstream besides the event. */
export interface IncidentContext {
  /** Of a rolled-back tool the one that it belongs to; "" of agents and the system. */
  readonly upstream: string;
  readonly configured: boolean;
  readonly critical: boolean;
  readonly active: string;
  /** Last known health by configured endpoint, the event included. */
  readonly health: Readonly<Record<string, HealthStatus>>;
  /** Configured endpoints whose breaker is not closed. */
  readonly broken: readonly string[];
  /** `failover.failed` is in force. */
  readonly failing: boolean;
  /** Planned work, as configured. */
  readonly windows: Topology["maintenance"];
}

/** The context of an upstream, out of AUDIT as far as it is folded. */
export function incidentContext(model: ReadModel, upstream: string): IncidentContext {
  const config = own(model.topology?.upstreams ?? {}, upstream);
  const names = config?.endpoints.map(({ name }) => name) ?? [];
  const tripped = ["open", "half_open", "forced_open"];
  return {
    upstream,
    configured: config !== undefined,
    critical: config?.critical ?? true,
    active: own(model.routes, upstream)?.state.active ?? (config === undefined ? "" : initialActive(config)),
    health: Object.fromEntries(names.map((name) => [name, own(model.health, endpointKey(upstream, name))?.status ?? "unknown"])),
    broken: names.filter((name) => tripped.includes(own(model.breakers, endpointKey(upstream, name))?.status ?? "closed")),
    failing: own(model.failing, upstream)?.failing ?? false,
    windows: model.topology?.maintenance,
  };
}

/** The context of what an incident of this key is about. */
export function incidentContextOf(model: ReadModel, key: string): IncidentContext {
  const upstream = after("upstream/", key);
  const tool = after("rollback/tool/", key);
  return incidentContext(model, upstream ?? (tool === null || model.topology === null ? null : legacyOwner(model.topology, tool)) ?? "");
}

const after = (prefix: string, key: string): string | null => (key.startsWith(prefix) ? key.slice(prefix.length) : null);

/** Keys of what was found out about the log itself: that routers hold rollbacks, and routes, which it does not know. */
const rollbacksKey = "log/rollbacks";
const routesKey = "log/routes";
export const logKeys: readonly string[] = [rollbacksKey, routesKey];

/** Whom the configuration names for an upstream, each with how to reach them where it says so; bounded as `parseTopology` is, for a log of before that. */
export function contactsOf(topology: Topology | null, upstream: string | null): string[] {
  const named = upstream === null ? undefined : own(topology?.upstreams ?? {}, upstream)?.contacts;
  return (named ?? [])
    .slice(0, contactLimits.countMax)
    .map((contact) => contactText(contact, own(topology?.contacts ?? {}, contact)).slice(0, contactLimits.charsMax));
}

interface Finding {
  readonly severity: Severity;
  readonly title: string;
  readonly text: string;
  readonly waitMs: number;
  /** Over as it happens: told once, and nothing has to heal. */
  readonly passing?: true;
  readonly deadEnd?: true;
  /** Told whatever was told before (I9). */
  readonly anew?: true;
  readonly maintenance?: Maintenance;
}

/** Key of the incident that an event belongs to, or null when incidents do not care for it. */
export function incidentKeyOf(event: Event): string | null {
  switch (event.type) {
    case "health.changed":
    case "breaker.changed":
    case "failover.executed":
      return event.data.rule === routersAheadRule ? routesKey : `upstream/${event.data.service}`;
    case "failover.failed":
    case "failover.rejected":
      return `upstream/${event.data.service}`;
    case "failover.held":
    case "failover.released":
      return event.data.rule === routersAheadRule ? routesKey : null;
    case "rollback.executed":
    case "rollback.advanced":
    case "rollback.paused":
    case "rollback.recovered":
      // One for all scopes: a log that was lost leaves routers ahead of it in many.
      if (event.data.rule === routersAheadRule) return rollbacksKey;
      return `rollback/${event.data.scope}/${event.data.name}`;
    case "rollback.rejected":
      return `rollback/${event.data.scope}/${event.data.name}`;
    default:
      return null;
  }
}

/** The incident after one event, or null when nothing changes. `incident` is the last one of the key, resolved or not. */
export function foldIncident(incident: Incident | null, placed: Placed, context: IncidentContext): Incident | null {
  const key = incidentKeyOf(placed.event);
  if (key === null) return null;
  if (placed.seq <= (incident?.causes.at(-1)?.seq ?? 0)) return null;
  const finding = duringMaintenance(findingOf(placed.event, context), placed, context);
  const open = incident !== null && incident.status !== "resolved" ? incident : null;
  if (open === null) return finding === null ? null : openIncident(key, placed, finding, context);
  const healed = isHealing(placed.event) && (isWell(context) || !key.startsWith("upstream/"));
  if (finding === null && !healed) return easeIncident(open, placed, context);
  const cause = causeOf(placed, finding?.text ?? healedText(placed.event));
  const dueAtMs = finding === null ? null : placed.timeMs + finding.waitMs;
  const wanted = minOf(open.notifyAtMs, open.notified.includes("opened") ? null : dueAtMs);
  const outage = outageAfter(open, placed, finding);
  // What maintenance explains makes a page of nothing but of what waits for its end as well.
  const pages = finding?.severity === "page" && (finding.maintenance === undefined || waitsForMaintenance(open));
  const raised = pages && open.severity === "notify" && finding.maintenance !== undefined;
  return {
    ...open,
    severity: pages ? "page" : open.severity,
    // The weightiest finding gives the title: a failover says more than the sick endpoint that led to it.
    title: finding !== null && (finding.waitMs === 0 || outage?.seq === placed.seq || raised) ? finding.title : open.title,
    status: healed ? "resolved" : open.status,
    causes: [...open.causes.slice(-(causesMax - 1)), cause],
    changedAtMs: placed.timeMs,
    notifyAtMs: healed ? stillDue({ ...open, notifyAtMs: wanted }, placed.timeMs) : wanted,
    outage,
    deadEnd: !healed && ((finding?.maintenance === undefined ? finding?.deadEnd : undefined) ?? open.deadEnd ?? false),
    ...(finding === null || finding.maintenance !== undefined ? {} : { maintenance: null }),
  };
}

/** The incident when nothing was said of it for a while, or null: well and quiet, or not configured any more (I5). */
export function settleIncident(incident: Incident, context: IncidentContext, nowMs: number): Incident | null {
  if (incident.status === "resolved") return null;
  const moved = followMaintenance(incident, context, nowMs);
  if (moved !== null) return moved;
  // Only its recovery says that a rollback is over.
  if (incident.upstream === null && !logKeys.includes(incident.dedupKey)) return null;
  const last = incident.causes.at(-1);
  const heardMs = Math.max(timeOfThisClock(last?.atMs ?? 0, nowMs), timeOfThisClock(incident.openedAtMs, nowMs));
  const quiet = (isWell(context) || incident.upstream === null) && nowMs - heardMs >= quietMs;
  const gone = incident.upstream !== null && !context.configured;
  if (!gone && !quiet) return null;
  const well = heardMs === 0 ? "well, and quiet since the store's clock was set back" : `well for ${quietMs / 1000} s`;
  const text = gone ? `${incident.upstream} is not configured any more` : well;
  return {
    ...incident,
    status: "resolved",
    causes: [...incident.causes.slice(-(causesMax - 1)), { atMs: nowMs, subject: last?.subject ?? "", seq: last?.seq ?? 0, text }],
    changedAtMs: nowMs,
    notifyAtMs: stillDue(incident, nowMs),
    deadEnd: false,
  };
}

/**
 * The incident once it is decided to tell now (I3), or null. Nothing is told twice, because the decision is fenced in the log.
 * `channels`: as configured; the first 100 count, and a channel that is none of them any more is forgotten.
 */
export function tellIncident(
  incident: Incident,
  channels: readonly { readonly name: string; readonly severities: readonly Severity[] }[],
  nowMs: number,
): Incident | null {
  if ((incident.telling ?? null) !== null) return null;
  const kind = dueKind(incident, nowMs);
  if (kind === null) return null;
  const { told, notified } = incident;
  const severity = severityOf(incident, kind);
  const able = channels.slice(0, channelsMax);
  const fitting = able.filter((channel) => channel.severities.includes(severity)).map(({ name }) => name);
  const before = (told?.channels ?? []).filter((name) => able.some((channel) => channel.name === name));
  const reached = [...new Set([...before, ...(kind === "resolved" ? [] : fitting)])];
  const to = kind === "resolved" ? before : fitting;
  const again = notified.filter((one) => one === kind).length;
  // What is over when it is first told needs no second message.
  const said: NotificationKind[] = kind === "opened" && incident.status === "resolved" ? ["opened", "resolved"] : [kind];
  return {
    ...incident,
    notified: [...notified, ...said],
    changedAtMs: nowMs,
    told: {
      severity: incident.severity,
      deadEnd: incident.deadEnd === true,
      atMs: nowMs,
      seq: incident.causes.at(-1)?.seq ?? 0,
      channels: reached,
      outbox: Object.fromEntries(Object.entries(told?.outbox ?? {}).filter(([name]) => reached.includes(name))),
    },
    telling: to.length === 0 ? null : { name: again === 0 ? kind : `${kind}-${again + 1}`, kind, channels: to, severity, sinceMs: nowMs },
  };
}

/** The incident once what is told is in the outbox, at these sequences by channel (I6). */
export function confirmTold(incident: Incident, outbox: Readonly<Record<string, number>>): Incident {
  const { told } = incident;
  return { ...incident, telling: null, ...(told == null ? {} : { told: { ...told, outbox: { ...told.outbox, ...outbox } } }) };
}

/** Whether an incident is resolved, and nothing of it is left to be told. */
export function isClosed({ status, telling, notified, notifyAtMs }: Incident): boolean {
  if (status !== "resolved" || (telling ?? null) !== null) return false;
  return notified.includes("opened") ? notified.includes("resolved") : notifyAtMs === null;
}

/** The incident after someone said that they have it; null when it is not open. */
export function acknowledgeIncident(incident: Incident, by: Actor, nowMs: number): Incident | null {
  return incident.status === "open" ? { ...incident, status: "acknowledged", acknowledgedBy: by, changedAtMs: nowMs } : null;
}

function dueKind(incident: Incident, nowMs: number): NotificationKind | null {
  const { notified, status, severity, told } = incident;
  if (!notified.includes("opened")) return stillDue(incident, nowMs) === null ? null : "opened";
  if (status === "resolved") return notified.includes("resolved") ? null : "resolved";
  if (told == null) return null;
  if (severity === "page" && told.severity === "notify") return "escalated";
  if (isUntold(incident) && isOutageDue(incident, nowMs)) return "escalated";
  return incident.deadEnd === true && !told.deadEnd && nowMs >= timeOfThisClock(told.atMs, nowMs) + againMs ? "escalated" : null;
}

/** What became a page is told as one; other news may be less than the incident (I9). */
function severityOf({ severity, told, outage }: Incident, kind: NotificationKind): Severity {
  return kind === "escalated" && told?.severity === severity ? (outage?.severity ?? severity) : severity;
}

function openIncident(key: string, placed: Placed, finding: Finding, context: IncidentContext): Incident {
  const over = finding.passing === true && (isWell(context) || !key.startsWith("upstream/"));
  return {
    // The time, because places of a log come again in the next one where it was lost.
    id: `${key.replaceAll("/", "-")}-${placed.seq}-${placed.timeMs.toString(36)}`,
    dedupKey: key,
    upstream: after("upstream/", key),
    severity: finding.severity,
    status: over ? "resolved" : "open",
    title: finding.title,
    causes: [causeOf(placed, finding.text)],
    openedAtMs: placed.timeMs,
    changedAtMs: placed.timeMs,
    notifyAtMs: placed.timeMs + finding.waitMs,
    notified: [],
    acknowledgedBy: null,
    deadEnd: finding.deadEnd ?? false,
    outage: outageAfter(null, placed, finding),
    ...(finding.maintenance === undefined ? {} : { maintenance: { name: finding.maintenance.name, untilMs: finding.maintenance.untilMs } }),
    told: null,
    telling: null,
  };
}

/** I7: a finding that maintenance explains waits until that ends; an operator's own move in it, and what is over at once, is nothing to tell. */
function duringMaintenance(finding: Finding | null, { event, timeMs }: Placed, { windows, upstream }: IncidentContext): Finding | null {
  if (finding === null) return null;
  const ofEndpoint = event.type === "health.changed" || event.type === "breaker.changed";
  const maintenance = maintenanceAt({ maintenance: windows }, upstream, ofEndpoint ? event.data.endpoint : null, timeMs);
  if (maintenance === null) return finding;
  if (finding.passing === true) return null;
  if (event.type === "failover.executed") return finding;
  // An operator's rollback lasts beyond the work until one takes it back.
  if (event.type === "rollback.executed" && event.data.by.kind !== "service") return finding;
  const text = `${finding.text}; in maintenance ${maintenance.name}`;
  return { ...finding, text, waitMs: Math.max(finding.waitMs, maintenance.untilMs - timeMs), maintenance };
}

function waitsForMaintenance({ maintenance, notifyAtMs, notified }: Incident): boolean {
  return maintenance != null && notifyAtMs !== null && !notified.includes("opened");
}

/** I7: an incident that waits for the end of maintenance, when that end has moved. What is sick outside of it ends the wait. */
function followMaintenance(incident: Incident, context: IncidentContext, nowMs: number): Incident | null {
  const { upstream, windows, health, broken } = context;
  const { maintenance: known } = incident;
  if (known == null || incident.notifyAtMs === null || !waitsForMaintenance(incident)) return null;
  const endpoints = Object.keys(health);
  const sick = endpoints.filter((endpoint) => health[endpoint] === "unhealthy" || broken.includes(endpoint));
  const asked = incident.upstream === null ? [null] : sick.length === 0 ? endpoints : sick;
  const ends = asked.map((endpoint) => maintenanceAt({ maintenance: windows }, upstream, endpoint, nowMs)?.untilMs ?? 0);
  const untilMs = sick.length > 0 && incident.upstream !== null && ends.includes(0) ? 0 : Math.max(0, ...ends);
  const dueAtMs = untilMs === 0 ? Math.min(incident.notifyAtMs, nowMs) : untilMs;
  if (dueAtMs === incident.notifyAtMs) return null;
  return { ...incident, notifyAtMs: dueAtMs, changedAtMs: nowMs, maintenance: { ...known, untilMs: Math.max(dueAtMs, nowMs) } };
}

/** The outage after a finding (I8), of which the first cause and the earliest message count. */
function outageAfter(open: Incident | null, { seq, timeMs }: Placed, finding: Finding | null): NonNullable<Incident["outage"]> | null {
  const known = open?.outage ?? null;
  if (finding?.anew === true) return newsAfter(open, { seq, atMs: timeMs, dueAtMs: timeMs + finding.waitMs, severity: finding.severity });
  // Agents feel neither a sick standby, nor what an operator moves, nor what maintenance explains.
  if (finding === null || finding.waitMs > pageWaitMs || finding.passing === true || finding.maintenance !== undefined) return known;
  const dueAtMs = timeMs + finding.waitMs;
  const sameDeadEnd = finding.deadEnd === true && open?.deadEnd === true;
  const another = known === null || timeMs - timeOfThisClock(known.atMs, timeMs) >= outageMs;
  if (known === null || (another && !sameDeadEnd)) return { seq, atMs: timeMs, dueAtMs };
  return { ...known, atMs: timeMs, dueAtMs: Math.min(known.dueAtMs, dueAtMs) };
}

/** The news of a rollback (I9), with what was to be told before it and was not yet. */
function newsAfter(open: Incident | null, news: NonNullable<Incident["outage"]>): NonNullable<Incident["outage"]> {
  if (open?.outage == null || !isUntold(open)) return news;
  const { dueAtMs, severity = "page" } = open.outage;
  return { ...news, dueAtMs: Math.min(dueAtMs, news.dueAtMs), ...(severity === "page" ? { severity } : {}) };
}

/** Whether people were told of the incident, but not of its last outage. */
function isUntold({ told, outage }: Incident): boolean {
  return told != null && outage != null && outage.seq > (told.seq ?? 0);
}

/** A dead end, or an outage that nobody had to be told of yet, that is over while other things are still wrong. */
function easeIncident(open: Incident, placed: Placed, context: IncidentContext): Incident | null {
  const { active, failing, broken, health } = context;
  const leads = open.deadEnd === true && !failing;
  const goesOn = placed.event.type === "rollback.advanced";
  const isServed = open.upstream !== null && !failing && own(health, active) === "healthy" && !broken.includes(active);
  const isOver = (isServed || goesOn) && isUntold(open) && !isOutageDue(open, placed.timeMs);
  if (!leads && !isOver) return null;
  const text = leads ? "there is an endpoint to go to again" : goesOn ? "the recovery goes on" : `${active} is healthy again`;
  return {
    ...open,
    deadEnd: open.deadEnd === true && !leads,
    ...(isOver ? { outage: null } : {}),
    causes: [...open.causes.slice(-(causesMax - 1)), causeOf(placed, text)],
    changedAtMs: placed.timeMs,
  };
}

function causeOf({ timeMs, subject, seq }: Placed, text: string): Incident["causes"][number] {
  return { atMs: timeMs, subject, seq, text: text.slice(0, textCharsMax) };
}

/** When it was to be told, if that was before now or before it was over; else nobody has to be woken for it (yet). */
function stillDue({ notifyAtMs, maintenance }: Pick<Incident, "notifyAtMs" | "maintenance">, atMs: number): number | null {
  if (notifyAtMs === null || notifyAtMs <= atMs) return notifyAtMs;
  // Nothing but maintenance makes a message wait for longer than `againMs` (I11).
  return maintenance == null && isOfAnotherClock(notifyAtMs - againMs, atMs) ? notifyAtMs : null;
}

function isOutageDue({ outage }: Incident, nowMs: number): boolean {
  return outage == null || nowMs >= outage.dueAtMs || isOfAnotherClock(outage.atMs, nowMs);
}

function minOf(a: number | null, b: number | null): number | null {
  if (a === null || b === null) return a ?? b;
  return Math.min(a, b);
}

function findingOf(event: Event, context: IncidentContext): Finding | null {
  const severity: Severity = context.critical ? "page" : "notify";
  const key = incidentKeyOf(event);
  if (key === routesKey) {
    const { service, reason } = event.data as FailoverReleased;
    return {
      severity: "page",
      title: "routers hold routes that this log does not know",
      text: `${service}: ${reason}`,
      waitMs: pageWaitMs,
    };
  }
  if (key === rollbacksKey) {
    const { scope, name, reason } = event.data as RollbackNotice;
    return {
      severity: "page",
      title: "routers hold rollbacks that this log does not know",
      text: `${scope} ${name}: ${reason}`,
      waitMs: pageWaitMs,
    };
  }
  switch (event.type) {
    case "health.changed": {
      const { service, endpoint, status, reason } = event.data;
      if (status !== "unhealthy") return null;
      const active = endpoint === context.active;
      return {
        severity: active ? severity : "notify",
        title: active ? `${service}: the active endpoint ${endpoint} is unhealthy` : `${service}: the standby ${endpoint} is unhealthy`,
        text: `${endpoint} is unhealthy: ${reason}`,
        waitMs: active ? pageWaitMs : notifyWaitMs,
      };
    }
    case "breaker.changed": {
      const { service, endpoint, status, reason } = event.data;
      if (status !== "open" && status !== "forced_open") return null;
      return {
        severity: "notify",
        title: `${service}: the breaker of ${endpoint} is ${status}`,
        text: `breaker of ${endpoint} ${status}: ${reason}`,
        waitMs: notifyWaitMs,
      };
    }
    case "failover.executed": {
      const { service, previousEndpoint, currentEndpoint, reason, automatic, by } = event.data;
      return {
        severity: automatic ? severity : "notify",
        title: `${service} failed over from ${previousEndpoint} to ${currentEndpoint}`,
        text: `${automatic ? "automatic" : `by ${by.id}`}: ${previousEndpoint} to ${currentEndpoint}: ${reason}`,
        waitMs: 0,
        // An operator moves what is well, too; an automatic move always has something to heal.
        ...(automatic ? {} : { passing: true }),
      };
    }
    case "failover.failed":
      if (!event.data.failing) return null;
      return {
        severity,
        title:
          event.data.rule === olderGenerationRule
            ? `${event.data.service} cannot be moved: routers follow another log`
            : `${event.data.service} has no healthy endpoint to go to`,
        text: event.data.reason,
        waitMs: 0,
        deadEnd: true,
      };
    case "failover.rejected":
      if (!event.data.automatic) return null;
      return {
        severity,
        title: `${event.data.service} needs a failover that a rule forbids (${event.data.rule})`,
        text: `${event.data.rule}: ${event.data.reason}`,
        waitMs: 0,
      };
    case "rollback.executed": {
      const { scope, name, reason, by } = event.data;
      return {
        severity: by.kind === "service" ? "page" : "notify",
        title: `the ${scope} ${name} was rolled back to its legacy implementation`,
        text: `by ${by.id}: ${reason}`,
        waitMs: 0,
        anew: true,
      };
    }
    case "rollback.paused": {
      const { scope, name, reason } = event.data;
      // Where calls are few it waits for them at each step, and goes on.
      return { severity: "notify", title: `the recovery of the ${scope} ${name} has stopped`, text: reason, waitMs: againMs, anew: true };
    }
    case "rollback.rejected": {
      const { scope, name, rule, reason, automatic } = event.data;
      if (!automatic) return null;
      return {
        severity,
        title: `the ${scope} ${name} needs a rollback that a rule forbids (${rule})`,
        text: `${rule}: ${reason}`,
        waitMs: 0,
        passing: true,
        anew: true,
      };
    }
    default:
      return null;
  }
}

function isWell({ health, broken, failing, configured }: IncidentContext): boolean {
  return configured && !failing && broken.length === 0 && Object.values(health).every((status) => status === "healthy");
}

/** Something became well: only then is it asked whether everything is. A score that moved, or a word about what was well before, heals nothing. */
function isHealing(event: Event): boolean {
  switch (event.type) {
    case "health.changed":
      return event.data.status === "healthy" && event.data.previousStatus !== "healthy";
    case "breaker.changed":
      return event.data.status === "closed";
    case "failover.failed":
      return !event.data.failing;
    case "rollback.recovered":
      return event.data.rule !== routersAheadRule;
    default:
      return false;
  }
}

function healedText(event: Event): string {
  switch (event.type) {
    case "health.changed":
      return `${event.data.endpoint} is ${event.data.status}: all endpoints are healthy`;
    case "breaker.changed":
      return `the breaker of ${event.data.endpoint} is closed: all endpoints are healthy`;
    case "rollback.recovered":
      return `the ${event.data.scope} ${event.data.name} is back on MCP`;
    default:
      return "all endpoints are healthy";
  }
}
