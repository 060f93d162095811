import {
  type Actor,
  channelsMax,
  type NotifySilenced,
  rollbackScope,
  type Severity,
  silenceMsMax,
  type Topology,
} from "@mcp-failover/contracts";
import { logKeys } from "./incidents.ts";
import { legacyOwner } from "./rollback-input.ts";
import { own } from "./status.ts";
import { isOfAnotherClock } from "./store-time.ts";

/**
 * Silences: an operator mutes what is about an upstream, or about one key of incidents, until a time (Alertmanager's silences).
 *
 * Invariants:
 * Q1  A silence mutes its target until its time, by the store's clock, or until an operator ends it. None is without an end, nor longer than
 *     {@link silenceMsMax}. That of an upstream mutes its tools, too.
 * Q2  What is muted happens all the same and is on record. What is still wrong when the silence ends is told then; what was over by then is
 *     told nobody. The end of what was told before is told in any case (`leftWhileMuted`).
 * Q3  That a target is silenced, until when, by whom and why, is told once, and so is its end: to the channels for notifications.
 * Q4  An order that is repeated is carried out once; one that was given before another one was carried out undoes nothing.
 * Q5  Where the store's clock was set back to before a silence began, that is over: a message too many is better than one that never comes.
 */
export type Silence = NotifySilenced;

/** Who orders what, and where the order stands in the log. */
export interface SilenceOrder {
  readonly target: string;
  readonly commandId: string;
  readonly by: Actor;
  readonly reason: string;
  /** Sequence of its `command.accepted`. */
  readonly acceptedSeq: number;
  /** The last sequence of AUDIT when it was given; undefined: not known. */
  readonly givenAtSeq?: number | undefined;
}
type Channels = readonly { readonly name: string; readonly severities: readonly Severity[] }[];
export type SilenceVerdict =
  | { readonly kind: "changed"; readonly silence: Silence }
  /** The order was carried out before. */
  | { readonly kind: "known"; readonly silence: Silence }
  | { readonly kind: "refused"; readonly code: string; readonly why: string };

/** Whether a silence mutes now. `nowMs`: the store's clock. */
export function isMuting({ status, sinceMs, untilMs }: Silence, nowMs: number): boolean {
  return status === "active" && nowMs < untilMs && !isOfAnotherClock(sinceMs, nowMs);
}

/** Why nothing can be silenced under this name; null: it can. `isKnown`: whether there was an incident of a key. */
export function silenceProblem(topology: Topology, target: string, isKnown: (key: string) => boolean): string | null {
  const [kind, first = "", ...more] = target.split("/");
  const isUpstream = (name: string): boolean => own(topology.upstreams, name) !== undefined;
  if (!target.includes("/") ? isUpstream(target) : isKnown(target) || logKeys.includes(target)) return null;
  if (kind === "upstream" && more.length === 0 && isUpstream(first)) return null;
  if (kind === "rollback" && rollbackScope.safeParse(first).success) {
    const name = more.join("/");
    if (first === "system" ? name === "system" : first === "agent" ? own(topology.agents, name) : legacyOwner(topology, name)) return null;
  }
  const known = Object.keys(topology.upstreams).join(", ").slice(0, 500);
  return `nothing is named ${JSON.stringify(target)}; write an upstream (${known}), or a key of incidents: upstream/NAME, rollback/tool/NAME, rollback/agent/NAME, rollback/system/system, ${logKeys.join(" or ")}`;
}

/** The target's silence after an order to silence it. `known`: the last one of the target. Pure. */
export function silence(
  known: Silence | null,
  order: SilenceOrder & { readonly untilMs: number },
  channels: Channels,
  nowMs: number,
): SilenceVerdict {
  const settled = settledBefore(known, order);
  if (settled !== null) return settled;
  const { target, by, reason, commandId, acceptedSeq, untilMs } = order;
  const now = new Date(nowMs).toISOString();
  if (untilMs <= nowMs) return refused("until_over", `it is over: it is ${now} by the store's clock; give a time that is still to come`);
  if (untilMs - nowMs > silenceMsMax)
    return refused(
      "bad_request",
      `that is over ${silenceMsMax / 86_400_000} days from now, ${now} by the store's clock; give a time before`,
    );
  const before = known !== null && isMuting(known, nowMs) ? known : null;
  return {
    kind: "changed",
    silence: {
      // The time, because places of a log come again in the next one where it was lost.
      id: before?.id ?? `silence-${target.replaceAll("/", "-")}-${acceptedSeq}-${nowMs.toString(36)}`,
      target,
      status: "active",
      by,
      reason,
      commandId,
      acceptedSeq,
      sinceMs: before?.sinceMs ?? nowMs,
      untilMs,
      changedAtMs: nowMs,
      endedBy: null,
      outbox: before?.outbox ?? {},
      telling: tellingOf("silenced", acceptedSeq, channels, nowMs),
    },
  };
}

/** The target's silence after an order to end it. Pure. */
export function unsilence(known: Silence | null, order: SilenceOrder, channels: Channels, nowMs: number): SilenceVerdict {
  const settled = settledBefore(known, order);
  if (settled !== null) return settled;
  const { target, by, reason, commandId, acceptedSeq } = order;
  if (known === null || !isMuting(known, nowMs))
    return refused("not_silenced", `${JSON.stringify(target)} is not silenced; \`mcpf silence --list\` shows what is`);
  return { kind: "changed", silence: { ...ended(known, channels, nowMs), commandId, acceptedSeq, endedBy: { by, reason } } };
}

/** The silence once its time is over; null before, and where that is on record. */
export function endSilence(known: Silence, channels: Channels, nowMs: number): Silence | null {
  return known.status === "ended" || isMuting(known, nowMs) ? null : ended(known, channels, nowMs);
}

/** The silence once what is told is in the outbox, at these sequences by channel. */
export function confirmSilenceTold(known: Silence, outbox: Readonly<Record<string, number>>): Silence {
  return { ...known, telling: null, outbox: { ...known.outbox, ...outbox } };
}

/** Whether a silence of this target mutes what is about a key of incidents. `upstream`: the one that the key belongs to; "" where there is none. */
export function isAbout(target: string, key: string, upstream: string): boolean {
  return target === key || (upstream !== "" && target === upstream);
}

/** Q4. */
function settledBefore(known: Silence | null, { commandId, acceptedSeq, givenAtSeq }: SilenceOrder): SilenceVerdict | null {
  if (known === null) return null;
  if (known.commandId === commandId) return { kind: "known", silence: known };
  if (known.acceptedSeq <= (givenAtSeq ?? acceptedSeq)) return null;
  const why = "another order was carried out since this one was given, and stands";
  return refused("overtaken", `${why}: see \`mcpf silence --list\`, and give this one anew to have it all the same`);
}

function ended(known: Silence, channels: Channels, nowMs: number): Silence {
  const telling = tellingOf("unsilenced", known.acceptedSeq, channels, nowMs);
  return { ...known, status: "ended", changedAtMs: nowMs, telling };
}

function tellingOf(kind: "silenced" | "unsilenced", acceptedSeq: number, channels: Channels, nowMs: number): Silence["telling"] {
  const able = channels.slice(0, channelsMax);
  const to = able.filter(({ severities }) => severities.includes("notify")).map(({ name }) => name);
  return to.length === 0 ? null : { name: `${kind}-${acceptedSeq}`, kind, channels: to, sinceMs: nowMs };
}

function refused(code: string, why: string): SilenceVerdict {
  return { kind: "refused", code, why };
}
