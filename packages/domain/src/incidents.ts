import type { Actor, Event, HealthStatus, IncidentChanged, Severity } from "@mcp-failover/contracts";
import type { Placed } from "./status.ts";

/**
 * Incidents: what happened to one upstream (or one rolled-back scope), grouped, so that people are told once.
 *
 * Invariants:
 * I1  At most one incident that is not resolved exists for a key; what belongs to it is added as a cause, not told again.
 * I2  An event is taken in at most once: one at or below the newest cause changes nothing.
 * I3  `opened` is told at most once an incident; `escalated` only when `notify` became `page` after `opened`; `resolved` only after `opened`.
 * I4  A failover or a dead end is told at once; a sick endpoint waits, so that what follows from it comes in the same message.
 * I5  An incident is resolved only when every endpoint of its upstream is healthy and nothing is failing.
 */

export type Incident = IncidentChanged;
export type NotificationKind = "opened" | "escalated" | "resolved";

/** How long the first message waits for what belongs to it. Alertmanager waits 30 s; a page may not. */
export const pageWaitMs = 2000;
export const notifyWaitMs = 10_000;
const causesMax = 100;

/** What the notifier knows of an upstream besides the event. */
export interface IncidentContext {
  readonly critical: boolean;
  readonly active: string;
  /** Last known health by endpoint, the event included. */
  readonly health: Readonly<Record<string, HealthStatus>>;
  /** `failover.failed` is in force. */
  readonly failing: boolean;
}

interface Finding {
  readonly severity: Severity;
  readonly title: string;
  readonly text: string;
  readonly waitMs: number;
  /** False: only recorded in an incident that is already open. */
  readonly opens: boolean;
}

/** Key of the incident that an event belongs to, or null when incidents do not care for it. */
export function incidentKeyOf(event: Event): string | null {
  switch (event.type) {
    case "health.changed":
    case "breaker.changed":
    case "failover.executed":
    case "failover.failed":
    case "failover.rejected":
      return `upstream/${event.data.service}`;
    case "rollback.executed":
    case "rollback.recovered":
      return `rollback/${event.data.scope}/${event.data.name}`;
    default:
      return null;
  }
}

/** The incident after one event, or null when nothing changes. `incident` is the last one of the key, resolved or not. */
export function foldIncident(incident: Incident | null, placed: Placed, context: IncidentContext): Incident | null {
  const key = incidentKeyOf(placed.event);
  if (key === null) return null;
  const newest = incident?.causes.at(-1)?.seq ?? 0;
  if (placed.seq <= newest) return null;
  const open = incident !== null && incident.status !== "resolved" ? incident : null;
  const finding = findingOf(placed.event, context);
  const healed = isHealed(placed.event, context);
  if (finding === null && !healed) return null;
  if (open === null) {
    if (finding === null || !finding.opens) return null;
    return {
      id: `${key.replaceAll("/", "-")}-${placed.seq}`,
      dedupKey: key,
      upstream: key.startsWith("upstream/") ? key.slice("upstream/".length) : null,
      severity: finding.severity,
      status: "open",
      title: finding.title,
      causes: [{ atMs: placed.timeMs, subject: placed.subject, seq: placed.seq, text: finding.text }],
      openedAtMs: placed.timeMs,
      changedAtMs: placed.timeMs,
      notifyAtMs: placed.timeMs + finding.waitMs,
      notified: [],
      acknowledgedBy: null,
    };
  }
  const cause = { atMs: placed.timeMs, subject: placed.subject, seq: placed.seq, text: finding?.text ?? healedText(placed.event) };
  const severity: Severity = open.severity === "page" || (finding?.opens === true && finding.severity === "page") ? "page" : open.severity;
  const told = open.notified.includes("opened");
  return {
    ...open,
    severity,
    // The weightiest finding gives the title: a failover says more than the sick endpoint that led to it.
    title: finding?.opens && finding.waitMs === 0 ? finding.title : open.title,
    status: healed ? "resolved" : open.status,
    causes: [...open.causes.slice(-(causesMax - 1)), cause],
    changedAtMs: placed.timeMs,
    notifyAtMs:
      told || finding === null ? open.notifyAtMs : Math.min(open.notifyAtMs ?? Number.MAX_SAFE_INTEGER, placed.timeMs + finding.waitMs),
  };
}

/** What is to be told now, or null; and the incident after it has been put into the outbox (I3). */
export function dueNotification(incident: Incident, nowMs: number): { kind: NotificationKind; after: Incident } | null {
  const told = (kind: NotificationKind): boolean => incident.notified.includes(kind);
  const after = (kind: NotificationKind): Incident => ({ ...incident, notified: [...incident.notified, kind], changedAtMs: nowMs });
  if (!told("opened")) {
    // Healed while it waited: nobody has to be woken for what is over.
    if (incident.status === "resolved" || incident.notifyAtMs === null || nowMs < incident.notifyAtMs) return null;
    return {
      kind: "opened",
      after: { ...after("opened"), ...(incident.severity === "page" ? { notified: [...incident.notified, "opened", "escalated"] } : {}) },
    };
  }
  if (incident.status === "resolved") return told("resolved") ? null : { kind: "resolved", after: after("resolved") };
  if (incident.severity === "page" && !told("escalated") && incident.status === "open")
    return { kind: "escalated", after: after("escalated") };
  return null;
}

/** The incident after someone said that they have it; null when it is not open. */
export function acknowledgeIncident(incident: Incident, by: Actor, nowMs: number): Incident | null {
  return incident.status === "open" ? { ...incident, status: "acknowledged", acknowledgedBy: by, changedAtMs: nowMs } : null;
}

function findingOf(event: Event, context: IncidentContext): Finding | null {
  const severity: Severity = context.critical ? "page" : "notify";
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
        opens: true,
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
        opens: true,
      };
    }
    case "failover.executed": {
      const { service, previousEndpoint, currentEndpoint, reason, automatic, by } = event.data;
      return {
        severity: automatic ? severity : "notify",
        title: `${service} failed over from ${previousEndpoint} to ${currentEndpoint}`,
        text: `${automatic ? "automatic" : `by ${by.id}`}: ${previousEndpoint} to ${currentEndpoint}: ${reason}`,
        waitMs: 0,
        opens: true,
      };
    }
    case "failover.failed":
      if (!event.data.failing) return null;
      return { severity, title: `${event.data.service} has no healthy endpoint to go to`, text: event.data.reason, waitMs: 0, opens: true };
    case "failover.rejected":
      if (!event.data.automatic) return null;
      return {
        severity,
        title: `${event.data.service} needs a failover that a rule forbids (${event.data.rule})`,
        text: `${event.data.rule}: ${event.data.reason}`,
        waitMs: 0,
        opens: true,
      };
    case "rollback.executed": {
      const { scope, name, reason, by } = event.data;
      const automatic = by.kind === "service";
      return {
        severity: automatic ? "page" : "notify",
        title: `the ${scope} ${name} was rolled back to its legacy implementation`,
        text: `by ${by.id}: ${reason}`,
        waitMs: 0,
        opens: true,
      };
    }
    default:
      return null;
  }
}

function isHealed(event: Event, context: IncidentContext): boolean {
  if (event.type === "rollback.recovered") return true;
  if (event.type !== "health.changed" && event.type !== "failover.failed") return false;
  const states = Object.values(context.health);
  return !context.failing && states.length > 0 && states.every((status) => status === "healthy");
}

function healedText(event: Event): string {
  switch (event.type) {
    case "health.changed":
      return `${event.data.endpoint} is ${event.data.status}: all endpoints are healthy`;
    case "rollback.recovered":
      return `the ${event.data.scope} ${event.data.name} is back on MCP`;
    default:
      return "over";
  }
}
