import { BusError, RefusedError, type Stored } from "@mcp-failover/bus";
import type {
  AcknowledgeCommand,
  ChannelConfig,
  Event,
  Notification,
  SilenceCommand,
  Topology,
  UnsilenceCommand,
} from "@mcp-failover/contracts";
import {
  acknowledgeIncident,
  confirmTold,
  contactsOf,
  emptyReadModel,
  foldIncident,
  foldReadModel,
  type Incident,
  type IncidentContext,
  incidentContextOf,
  incidentKeyOf,
  inhibitIncident,
  isClosed,
  leftWhileMuted,
  type Placed,
  type ReadModel,
  settleIncident,
  tellIncident,
  timeOfThisClock,
} from "@mcp-failover/domain";
import type { Kit } from "@mcp-failover/service-kit";
import { accept } from "./accept.ts";
import { giveUpMs } from "./outbox.ts";
import { type SilenceAnswer, SilenceDesk } from "./silence-desk.ts";
import type { StoreTime } from "./store-time.ts";

/** Events that wait to be taken in while the log cannot be written. */
const pendingMax = 50_000;
/** Upstreams and scopes whose last incident is kept in memory; the log has them all. */
const keysMax = 10_000;
const racesMax = 10;
/** What another notifier decided to tell, and did not put into the outbox for so long, is put there by this one. */
const takeOverMs = 2000;
/** What the log or the outbox will not take is tried again this often, should its reason go away. */
const refusedMs = 60_000;
const textCharsMax = 4000;

interface Known {
  readonly incident: Incident;
  /** Sequence of its last `incident.changed`: what the next one is fenced with. */
  readonly seq: number;
  /** It was refused for good: until then, by the clock that nobody sets, it is left alone, unless it changes. */
  readonly restsUntilMs?: number;
}

/** Folds AUDIT into incidents, and puts what is due into OUTBOX. Every step is fenced in the log, so that several instances tell once. */
export class IncidentDesk {
  readonly #kit: Kit;
  #model: ReadModel = emptyReadModel;
  /** Incidents by id: the last of each key, and older ones of which something is left to be told. */
  readonly #incidents = new Map<string, Known>();
  /** Id of the last incident of each key. */
  readonly #latest = new Map<string, string>();
  /** Events in the log's order, until they are taken in. */
  #pending: Placed[] = [];
  /** Incidents whose telling this instance has decided. */
  readonly #mine = new Set<string>();
  /** Waits are counted from times of the store: a machine with a slow clock would page late, one with a fast clock end incidents at once. */
  readonly #time: StoreTime;
  readonly #silences: SilenceDesk;
  #settling: Promise<void> | null = null;

  constructor(kit: Kit, time: StoreTime) {
    this.#kit = kit;
    this.#time = time;
    this.#silences = new SilenceDesk(kit, time);
  }

  /** Null until a configuration was read. */
  get channels(): readonly ChannelConfig[] | null {
    return this.#model.topology?.notifications.channels ?? null;
  }

  /** Notes one event of AUDIT; {@link settle} takes it in. */
  note(stored: Stored): void {
    if (stored.content.kind !== "event") return;
    const { event } = stored.content;
    if (event.type === "incident.changed") this.#learn(event.data, stored.seq);
    else if (event.type === "notify.silenced") this.#silences.learn(event.data, stored.seq);
    else if (matters(event)) this.#pending.push({ seq: stored.seq, subject: stored.subject, timeMs: stored.timeMs, event });
    if (this.#pending.length > pendingMax) {
      this.#pending.shift();
      this.#kit.log.error(
        { pendingMax },
        "more events wait for incidents than are kept; the oldest was dropped, see that the log can be written",
      );
    }
  }

  /** Takes in what waits, in the log's order, then tells what is due. One run at a time; what the log does not take now waits for the next. */
  async settle(): Promise<void> {
    if (this.#settling !== null) return this.#settling;
    this.#settling = this.#run().finally(() => {
      this.#settling = null;
    });
    return this.#settling;
  }

  /** Throws {@link RefusedError}. */
  async acknowledge(command: AcknowledgeCommand): Promise<{ incident: string; status: Incident["status"] }> {
    const { commandId, by, reason, incidentId } = command;
    const find = (): Known | undefined => this.#incidents.get(incidentId);
    const unknown = `no incident ${JSON.stringify(incidentId.slice(0, 100))}; \`mcpf events tail\` shows incident.changed with the ids`;
    if (find() === undefined) throw new RefusedError("unknown_incident", unknown);
    await accept(this.#kit, "acknowledge", { commandId, by, reason }, { incidentId });
    const nowMs = await this.#time.known();
    for (let race = 0; race < racesMax; race += 1) {
      const known = find();
      if (known === undefined) throw new RefusedError("unknown_incident", unknown);
      const after = acknowledgeIncident(known.incident, by, nowMs);
      if (after === null || (await this.#publish(after))) return { incident: incidentId, status: (after ?? known.incident).status };
    }
    throw new RefusedError("conflict", `${incidentId} changes too fast; ask again`, true);
  }

  /** Throws {@link RefusedError} and {@link BusError}. */
  async silence(command: SilenceCommand): Promise<SilenceAnswer> {
    return this.#silences.silence(command, await this.#topology(), (key) => this.#latest.has(key));
  }

  /** Throws {@link RefusedError} and {@link BusError}. */
  async unsilence(command: UnsilenceCommand): Promise<SilenceAnswer> {
    return this.#silences.unsilence(command, await this.#topology());
  }

  async #topology(): Promise<Topology> {
    // Right after a start it is heard of, and not taken in yet.
    if (this.#model.topology === null) await this.settle();
    const { topology } = this.#model;
    if (topology !== null) return topology;
    throw new RefusedError("not_ready", "no configuration has been applied yet, or it is not read yet: ask again", true);
  }

  async #run(): Promise<void> {
    if (this.#kit.bus.status.kind !== "connected") return;
    try {
      await this.#time.known();
      do {
        this.#configure();
        for (let next = this.#pending[0]; next !== undefined; next = this.#pending[0]) {
          await this.#takeIn(next);
          if (this.#pending[0] === next) this.#pending.shift();
        }
        if (this.channels !== null) await this.#silences.settle(this.channels, await this.#time.known());
        for (const id of [...this.#incidents.keys()]) await this.#tryTelling(id);
      } while (this.#pending.length > 0);
    } catch (error) {
      if (!(error instanceof BusError)) throw error;
      this.#kit.log.warn({ err: error }, "the log does not take incidents now; they wait");
    }
  }

  /** What is older than every configuration that the log handed over is judged by the oldest of these, not by none. */
  #configure(): void {
    if (this.#model.topology !== null) return;
    for (const placed of this.#pending) {
      if (placed.event.type === "config.applied") this.#model = foldReadModel(this.#model, placed);
      if (this.#model.topology !== null) return;
    }
  }

  async #takeIn(placed: Placed): Promise<void> {
    this.#model = foldReadModel(this.#model, placed);
    const key = incidentKeyOf(placed.event);
    if (key === null) return;
    try {
      for (let race = 0; race < racesMax; race += 1) {
        const incident = this.#latestOf(key);
        // Nobody is told of a day-old event, as after the first start on an old log.
        const old = (await this.#time.known()) - placed.timeMs > giveUpMs;
        if (old && (incident === null || incident.status === "resolved")) return;
        const after = foldIncident(incident, placed, this.#contextOf(key));
        if (after === null || (await this.#publish(after))) return;
      }
      throw new Error(`the incident ${key} was lost to other notifiers ${racesMax} times in a row`);
    } catch (error) {
      if (error instanceof BusError && error.retriable) throw error;
      // One event that cannot be taken in must not keep all that follow from being told.
      this.#kit.log.error(
        { err: error, seq: placed.seq, subject: placed.subject },
        "an event could not be taken into its incident; it is skipped",
      );
    }
  }

  /** One incident that is refused for good must not keep the others from being told. Throws what a retry can help. */
  async #tryTelling(id: string): Promise<void> {
    if (performance.now() < (this.#incidents.get(id)?.restsUntilMs ?? 0)) return;
    try {
      await this.#tell(id);
    } catch (error) {
      if (error instanceof BusError && error.retriable) throw error;
      const known = this.#incidents.get(id);
      if (known !== undefined) this.#incidents.set(id, { ...known, restsUntilMs: performance.now() + refusedMs });
      this.#kit.log.error({ err: error, incident: id }, `an incident could not be told; it is tried again in ${refusedMs / 1000} s`);
    }
  }

  async #tell(id: string): Promise<void> {
    const { channels } = this;
    if (channels === null) return;
    const nowMs = await this.#time.known();
    const before = this.#incidents.get(id)?.incident;
    if (before === undefined) return;
    const context = this.#contextOf(before.dedupKey);
    const settled = settleIncident(before, context, nowMs);
    if (settled !== null && !(await this.#publish(settled))) return;
    const incident = this.#incidents.get(id)?.incident;
    if (incident === undefined) return;
    const { telling } = incident;
    if (telling != null) {
      if (this.#mine.has(incident.id) || nowMs - timeOfThisClock(telling.sinceMs, nowMs) >= takeOverMs)
        await this.#enqueue(incident, telling);
      return;
    }
    const left = this.#silences.isMuted(incident.dedupKey, context.upstream, nowMs)
      ? leftWhileMuted(incident)
      : inhibitIncident(incident, this.#latestOf(`upstream/${context.upstream}`));
    if (left !== null && left !== incident) await this.#publish(left);
    if (left !== incident) return;
    const due = tellIncident(incident, channels, nowMs);
    if (due === null || !(await this.#publish(due)) || due.telling == null) return;
    this.#mine.add(due.id);
    await this.#enqueue(due, due.telling);
  }

  /** Puts what is told into the outbox, then says so. A crash between repeats the same message ids, which the outbox drops for two minutes. */
  async #enqueue(incident: Incident, telling: NonNullable<Incident["telling"]>): Promise<void> {
    const seqs: Record<string, number> = {};
    for (const channel of telling.channels) {
      const data = notificationOf(incident, telling, channel, contactsOf(this.#model.topology, incident.upstream));
      seqs[channel] = (await this.#kit.bus.append(this.#kit.event("outbox", [channel], data, { id: data.id }))).seq;
    }
    const current = this.#incidents.get(incident.id)?.incident;
    if (current?.telling?.name !== telling.name) return;
    await this.#publish(confirmTold(current, seqs));
    this.#mine.delete(incident.id);
  }

  /** True when the log took it; false when another notifier was first, whose incident is then the known one. */
  async #publish(after: Incident): Promise<boolean> {
    const expected = this.#incidents.get(after.id)?.seq ?? 0;
    const fenced = await this.#kit.bus.appendFenced(this.#kit.event("incident.changed", [after.id], after), expected);
    if (fenced.outcome === "won") {
      this.#learn(after, fenced.seq);
      return true;
    }
    const last = fenced.last;
    if (last?.content.kind === "event" && last.content.event.type === "incident.changed") this.#learn(last.content.event.data, last.seq);
    return false;
  }

  /** The log hands over again what is known already, and what was before it. */
  #learn(incident: Incident, seq: number): void {
    const { id, dedupKey } = incident;
    const latestId = this.#latest.get(dedupKey);
    const latest = latestId === undefined ? undefined : this.#incidents.get(latestId);
    // An incident ends before the next of its key begins, so the newest cause tells which is the later one.
    const isLatest = latest === undefined || latestId === id || newestOf(latest.incident) <= newestOf(incident);
    if ((this.#incidents.get(id)?.seq ?? 0) >= seq) return;
    this.#incidents.set(id, { incident, seq });
    if (incident.telling == null) this.#mine.delete(id);
    if (isLatest) this.#latest.set(dedupKey, id);
    for (const old of isLatest && latestId !== id ? [latestId] : [id]) {
      const known = old === undefined ? undefined : this.#incidents.get(old);
      if (old !== undefined && known !== undefined && this.#latest.get(dedupKey) !== old && isClosed(known.incident))
        this.#incidents.delete(old);
    }
    if (this.#latest.size > keysMax) this.#forgetOldest();
  }

  #forgetOldest(): void {
    for (const [key, id] of this.#latest) {
      const known = this.#incidents.get(id);
      if (known !== undefined && !isClosed(known.incident)) continue;
      this.#latest.delete(key);
      this.#incidents.delete(id);
      if (this.#latest.size <= keysMax) return;
    }
  }

  /** The last incident of a key. */
  #latestOf(key: string): Incident | null {
    return this.#incidents.get(this.#latest.get(key) ?? "")?.incident ?? null;
  }

  #contextOf(key: string): IncidentContext {
    return incidentContextOf(this.#model, key);
  }

  /** The log is another one than before. */
  forgetLog(): void {
    this.#kit.log.warn({}, "this is another log than before; incidents and silences begin anew");
    this.#silences.forgetLog();
    this.#model = emptyReadModel;
    this.#incidents.clear();
    this.#latest.clear();
    this.#mine.clear();
    this.#pending = [];
  }
}

function newestOf({ causes }: Incident): number {
  return causes.at(-1)?.seq ?? 0;
}

function matters(event: Event): boolean {
  return incidentKeyOf(event) !== null || event.type === "config.applied" || event.type === "failover.decided";
}

function notificationOf(
  incident: Incident,
  telling: NonNullable<Incident["telling"]>,
  channel: string,
  contacts: readonly string[],
): Notification {
  const over = incident.status === "resolved";
  const whom = telling.kind === "resolved" || contacts.length === 0 ? "" : `\ncontacts: ${contacts.join("; ")}`;
  const lines = incident.causes.map(({ atMs, text }) => `${new Date(atMs).toISOString()} ${text}`).join("\n");
  return {
    id: `${incident.id}/${telling.name}/${channel}`,
    channel,
    incidentId: incident.id,
    kind: telling.kind,
    severity: telling.severity ?? incident.severity,
    title:
      telling.kind === "resolved"
        ? `Resolved: ${incident.title}`
        : over && incident.causes.length > 1
          ? `${incident.title} (over)`
          : incident.title,
    // The newest lines say how it stands.
    text: `${lines.slice(-(textCharsMax - whom.length))}${whom}`,
    upstream: incident.upstream,
    atMs: incident.changedAtMs,
    afterSeq: incident.told?.outbox[channel] ?? null,
  };
}
