import { BusError, type Delivery, type QueueVerdict, RefusedError, type Stored } from "@mcp-failover/bus";
import {
  type ChannelConfig,
  type HealthStatus,
  type Notification,
  notification as notificationSchema,
  type Topology,
} from "@mcp-failover/contracts";
import {
  acknowledgeIncident,
  dueNotification,
  foldIncident,
  type Incident,
  type IncidentContext,
  incidentKeyOf,
  initialActive,
  type NotificationKind,
  type Placed,
} from "@mcp-failover/domain";
import { type AppliedTopology, type Kit, type Running, readTopology } from "@mcp-failover/service-kit";
import { deliver } from "./deliver.ts";

const tickMs = 250;
/** 1 s doubling to 5 min; after a day a message is given up, and that is said in the log. */
const retryMsMin = 1000;
const retryMsMax = 300_000;
const giveUpMs = 24 * 3_600_000;
/** Resolved incidents kept in memory, newest first; the log has them all. */
const resolvedMax = 1000;

/** AUDIT -> incidents (fenced, one winner) -> OUTBOX -> channels. The outbox is what makes a refused message wait instead of getting lost. */
export async function startNotifier(kit: Kit): Promise<Running> {
  const state: State = {
    topology: null,
    active: {},
    health: {},
    failing: new Set(),
    incidents: new Map(),
    seqs: new Map(),
    pending: [],
    caughtUp: false,
  };
  const following = kit.bus.follow("AUDIT", { from: "last_per_subject", onCaughtUp: () => onCaughtUp(kit, state) }, (stored) =>
    onStored(kit, state, stored),
  );
  kit.ready("audit", false, "the log has not been read yet");
  const queue = kit.bus.consumeQueue("notifier", { filter: "outbox.>", ackWaitMs: 30_000, concurrency: 4 }, (delivery) =>
    onDelivery(kit, state, delivery),
  );
  let ticking = Promise.resolve();
  const timer = setInterval(() => {
    ticking = ticking
      .then(() => settle(kit, state))
      .catch((error: unknown) => kit.log.error({ err: error }, "incidents could not be settled; tried again"));
  }, tickMs);
  return {
    handlers: {
      "command.acknowledge": async ({ incidentId, by }) => {
        const incident = [...state.incidents.values()].find(({ id }) => id === incidentId);
        if (!incident)
          throw new RefusedError(
            "unknown_incident",
            `no incident ${JSON.stringify(incidentId)}; \`mcpf events tail\` shows incident.changed with the ids`,
          );
        const after = acknowledgeIncident(incident, by, kit.nowMs());
        if (after) await publish(kit, state, after);
        return { incident: incidentId, status: after?.status ?? incident.status };
      },
    },
    async stop() {
      clearInterval(timer);
      await ticking;
      await queue.stop();
      await following.stop();
    },
  };
}

interface State {
  topology: AppliedTopology | null;
  active: Record<string, string>;
  health: Record<string, Record<string, HealthStatus>>;
  readonly failing: Set<string>;
  /** Last incident of each key. */
  readonly incidents: Map<string, Incident>;
  /** Last sequence of each incident's subject. */
  readonly seqs: Map<string, number>;
  /** Events that may open or change an incident, until they are settled in the log. */
  pending: Placed[];
  caughtUp: boolean;
}

const pendingMax = 10_000;

async function onStored(kit: Kit, state: State, stored: Stored): Promise<void> {
  if (stored.content.kind !== "event") return;
  const { event } = stored.content;
  const placed: Placed = { seq: stored.seq, subject: stored.subject, timeMs: stored.timeMs, event };
  switch (event.type) {
    case "config.applied":
      state.topology = readTopology(stored, kit.log) ?? state.topology;
      return;
    case "incident.changed": {
      state.seqs.set(event.data.id, stored.seq);
      const known = state.incidents.get(event.data.dedupKey);
      if (known === undefined || known.openedAtMs <= event.data.openedAtMs) remember(state, event.data);
      return;
    }
    case "failover.decided":
      state.active[event.data.service] = event.data.state.active;
      return;
    default:
  }
  if (incidentKeyOf(event) === null) return;
  state.pending.push(placed);
  if (state.pending.length > pendingMax) {
    state.pending.shift();
    kit.log.error({ pendingMax }, "more events wait for incidents than are kept; the oldest was dropped, see that the log can be written");
  }
  if (state.caughtUp) await settle(kit, state);
}

function onCaughtUp(kit: Kit, state: State): void {
  state.caughtUp = true;
  kit.ready("audit", true);
}

/** Takes in what waits, in the log's order, then tells what is due. Stops at the first thing that the log does not take; the tick goes on. */
async function settle(kit: Kit, state: State): Promise<void> {
  if (!state.caughtUp || kit.bus.status.kind !== "connected") return;
  try {
    while (state.pending[0] !== undefined) {
      await takeIn(kit, state, state.pending[0]);
      state.pending.shift();
    }
    for (const incident of [...state.incidents.values()]) await tell(kit, state, incident);
  } catch (error) {
    if (!(error instanceof BusError)) throw error;
    kit.log.warn({ err: error }, "the log does not take incidents now; they wait");
  }
}

async function takeIn(kit: Kit, state: State, placed: Placed): Promise<void> {
  const { event } = placed;
  const key = incidentKeyOf(event);
  if (key === null) return;
  learn(state, event);
  for (let lost = 0; lost < 10; lost += 1) {
    const after = foldIncident(state.incidents.get(key) ?? null, placed, contextOf(state, event));
    if (after === null || (await publish(kit, state, after))) return;
  }
  throw new Error(`the incident ${key} was lost to other notifiers ten times in a row`);
}

function learn(state: State, event: Placed["event"]): void {
  if (event.type === "health.changed") {
    const { service, endpoint, status } = event.data;
    state.health[service] = { ...state.health[service], [endpoint]: status };
  }
  if (event.type === "failover.failed") {
    if (event.data.failing) state.failing.add(event.data.service);
    else state.failing.delete(event.data.service);
  }
}

function contextOf(state: State, event: Placed["event"]): IncidentContext {
  const service = "service" in event.data ? String(event.data.service) : "";
  const upstream: Topology["upstreams"][string] | undefined = state.topology?.topology.upstreams[service];
  const names = upstream?.endpoints.map(({ name }) => name) ?? [];
  return {
    critical: upstream?.critical ?? true,
    active: state.active[service] ?? (upstream ? initialActive(upstream) : ""),
    health: Object.fromEntries(names.map((name) => [name, state.health[service]?.[name] ?? "unknown"])),
    failing: state.failing.has(service),
  };
}

/** Puts what is due into the outbox, then on record. A crash between repeats the same message ids, which the outbox drops. */
async function tell(kit: Kit, state: State, incident: Incident): Promise<void> {
  const due = dueNotification(incident, kit.nowMs());
  if (due === null) return;
  for (const channel of channelsFor(state, incident)) {
    const data = notificationOf(incident, due.kind, channel);
    await kit.bus.append(kit.event("outbox", [channel.name], data, { id: data.id }));
  }
  await publish(kit, state, due.after);
}

function channelsFor(state: State, incident: Incident): readonly ChannelConfig[] {
  return (state.topology?.topology.notifications.channels ?? []).filter((channel) => channel.severities.includes(incident.severity));
}

function notificationOf(incident: Incident, kind: NotificationKind, channel: ChannelConfig): Notification {
  return {
    id: `${incident.id}/${kind}/${channel.name}`,
    channel: channel.name,
    incidentId: incident.id,
    kind,
    severity: incident.severity,
    title: kind === "resolved" ? `Resolved: ${incident.title}` : incident.title,
    text: incident.causes
      .map(({ atMs, text }) => `${new Date(atMs).toISOString()} ${text}`)
      .join("\n")
      .slice(0, 4000),
    upstream: incident.upstream,
    atMs: incident.changedAtMs,
  };
}

/** True when the log took it; false when another notifier was first, whose incident is then the known one. */
async function publish(kit: Kit, state: State, after: Incident): Promise<boolean> {
  const fenced = await kit.bus.appendFenced(kit.event("incident.changed", [after.id], after), state.seqs.get(after.id) ?? 0);
  if (fenced.outcome === "won") {
    state.seqs.set(after.id, fenced.seq);
    remember(state, after);
    return true;
  }
  if (fenced.last?.content.kind === "event" && fenced.last.content.event.type === "incident.changed") {
    state.seqs.set(after.id, fenced.last.seq);
    remember(state, fenced.last.content.event.data);
  }
  return false;
}

function remember(state: State, incident: Incident): void {
  state.incidents.delete(incident.dedupKey);
  state.incidents.set(incident.dedupKey, incident);
  const resolved = [...state.incidents.values()].filter(({ status, notified }) => status === "resolved" && notified.includes("resolved"));
  for (const old of resolved.slice(0, Math.max(0, resolved.length - resolvedMax))) {
    state.incidents.delete(old.dedupKey);
    state.seqs.delete(old.id);
  }
}

/** One attempt at one message. Whatever the receiver does, the message is gone only once it was sent, or after a day with the reason on record. */
async function onDelivery(kit: Kit, state: State, { stored, attempt }: Delivery): Promise<QueueVerdict> {
  if (stored.content.kind !== "event") return { kind: "done" };
  const message = notificationSchema.parse(stored.content.event.data);
  if (state.topology === null) return { kind: "later", delayMs: retryMsMin };
  const channel = state.topology.topology.notifications.channels.find(({ name }) => name === message.channel);
  const outcome = channel
    ? await deliver(kit, channel, message)
    : ({ kind: "refused", error: `no channel ${message.channel} is configured any more`, retryAfterMs: null } as const);
  const record = (type: "notify.sent" | "notify.failed", error: string | null, willRetry: boolean) =>
    kit.bus.append(
      kit.event(
        type,
        [message.channel],
        {
          notificationId: message.id,
          channel: message.channel,
          incidentId: message.incidentId,
          kind: message.kind,
          attempt,
          timestamp: new Date(kit.nowMs()).toISOString(),
          error,
          willRetry,
        },
        { id: `${message.id}/${type}/${willRetry}` },
      ),
    );
  if (outcome.kind === "sent") {
    await record("notify.sent", null, false);
    return { kind: "done" };
  }
  const old = kit.nowMs() - stored.timeMs > giveUpMs || channel === undefined;
  kit.log.warn({ notification: message.id, attempt, error: outcome.error, givenUp: old }, "a notification was not taken");
  // First refusal and giving up are on record; what is between would only fill the log.
  if (old || attempt === 1) await record("notify.failed", outcome.error, !old);
  if (old) return { kind: "done" };
  return { kind: "later", delayMs: Math.max(outcome.retryAfterMs ?? 0, Math.min(retryMsMin * 2 ** Math.min(attempt - 1, 20), retryMsMax)) };
}
