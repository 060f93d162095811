import { RefusedError } from "@mcp-failover/bus";
import type { ChannelConfig, Notification, SilenceCommand, Topology, UnsilenceCommand } from "@mcp-failover/contracts";
import {
  confirmSilenceTold,
  endSilence,
  isAbout,
  isMuting,
  type Silence,
  type SilenceOrder,
  type SilenceVerdict,
  silence,
  silenceProblem,
  timeOfThisClock,
  unsilence,
} from "@mcp-failover/domain";
import type { Kit } from "@mcp-failover/service-kit";
import { accept } from "./accept.ts";
import type { StoreTime } from "./store-time.ts";

/** Silences in force at a time; an order for more is refused. */
const activeMax = 1000;
/** Silences in memory, those that are over included; the log has them all. */
const knownMax = 2 * activeMax;
const racesMax = 10;
/** What another notifier decided to tell, and did not put into the outbox for so long, is put there by this one. */
const takeOverMs = 2000;

interface Known {
  readonly silence: Silence;
  /** Sequence of its last `notify.silenced`: what the next one is fenced with. */
  readonly seq: number;
}
/** What an order to silence, or to end that, answers. Times are ISO 8601. */
export interface SilenceAnswer {
  readonly id: string;
  readonly target: string;
  readonly status: Silence["status"];
  readonly since: string;
  readonly until: string;
}

/** Carries out orders to silence, tells of them, and ends them in time. Every step is fenced in the log, so that several instances do it once. */
export class SilenceDesk {
  readonly #kit: Kit;
  readonly #time: StoreTime;
  /** The last silence of each target, in the order in which they changed. */
  readonly #silences = new Map<string, Known>();
  /** Ids of those whose telling this instance has decided. */
  readonly #mine = new Set<string>();

  constructor(kit: Kit, time: StoreTime) {
    this.#kit = kit;
    this.#time = time;
  }

  /** Takes in a `notify.silenced` of the log. */
  learn(silence: Silence, seq: number): void {
    const { target } = silence;
    if ((this.#silences.get(target)?.seq ?? 0) >= seq) return;
    this.#silences.delete(target);
    this.#silences.set(target, { silence, seq });
    if (silence.telling === null) this.#mine.delete(silence.id);
    if (this.#silences.size <= knownMax) return;
    for (const [name, { silence }] of this.#silences) {
      if (silence.status === "active" || silence.telling !== null) continue;
      this.#silences.delete(name);
      break;
    }
  }

  forgetLog(): void {
    this.#silences.clear();
    this.#mine.clear();
  }

  /** Whether nothing is told now of what is about this key. `upstream`: the one that it belongs to; "" where there is none. */
  isMuted(key: string, upstream: string, nowMs: number): boolean {
    if (this.#silences.size === 0) return false;
    const muting = (target: string): boolean => {
      const known = this.#silences.get(target);
      return known !== undefined && isAbout(target, key, upstream) && isMuting(known.silence, nowMs);
    };
    return muting(key) || muting(upstream);
  }

  /** Throws {@link RefusedError} and `BusError`. */
  async silence(command: SilenceCommand, topology: Topology, isKnown: (key: string) => boolean): Promise<SilenceAnswer> {
    const { target, forMs, untilMs } = command;
    const problem = silenceProblem(topology, target, isKnown);
    if (problem !== null) throw new RefusedError("unknown_target", problem);
    if (forMs === null && untilMs === undefined)
      throw new RefusedError("bad_request", "say when it ends: forMs or untilMs; none is without an end");
    const parameters = { target, forMs, untilMs: untilMs ?? null };
    return this.#carryOut("silence", command, parameters, (known, order, nowMs) => {
      const active = [...this.#silences.values()].filter((one) => one.silence.target !== target && isMuting(one.silence, nowMs)).length;
      if (active >= activeMax)
        return { kind: "refused", code: "too_many_silences", why: `${activeMax} silences are in force already; end one` };
      return silence(known, { ...order, untilMs: untilMs ?? nowMs + (forMs ?? 0) }, topology.notifications.channels, nowMs);
    });
  }

  /** Throws {@link RefusedError} and `BusError`. */
  async unsilence(command: UnsilenceCommand, topology: Topology): Promise<SilenceAnswer> {
    return this.#carryOut("unsilence", command, { target: command.target }, (known, order, nowMs) =>
      unsilence(known, order, topology.notifications.channels, nowMs),
    );
  }

  /** Ends what is over, and tells what is due. Throws `BusError`. */
  async settle(channels: readonly ChannelConfig[], nowMs: number): Promise<void> {
    for (const { silence } of [...this.#silences.values()]) {
      const over = endSilence(silence, channels, nowMs);
      if (over !== null && !(await this.#publish(over))) continue;
      const { telling } = over ?? silence;
      if (telling === null) continue;
      if (over !== null) this.#mine.add(over.id);
      if (this.#mine.has(silence.id) || nowMs - timeOfThisClock(telling.sinceMs, nowMs) >= takeOverMs) await this.#tell(over ?? silence);
    }
  }

  async #carryOut(
    name: string,
    command: SilenceCommand | UnsilenceCommand,
    parameters: Record<string, unknown>,
    decide: (known: Silence | null, order: SilenceOrder, nowMs: number) => SilenceVerdict,
  ): Promise<SilenceAnswer> {
    const { target, commandId, by, reason, givenAtSeq } = command;
    const acceptedSeq = await accept(this.#kit, name, command, parameters);
    const order = { target, commandId, by, reason, acceptedSeq, givenAtSeq };
    const nowMs = await this.#time.known();
    for (let race = 0; race < racesMax; race += 1) {
      const verdict = decide(this.#silences.get(target)?.silence ?? null, order, nowMs);
      if (verdict.kind === "refused") throw new RefusedError(verdict.code, verdict.why);
      if (verdict.kind === "known" || (await this.#publish(verdict.silence))) {
        if (verdict.kind === "changed") this.#mine.add(verdict.silence.id);
        const { id, status, sinceMs, untilMs } = verdict.silence;
        return { id, target, status, since: new Date(sinceMs).toISOString(), until: new Date(untilMs).toISOString() };
      }
    }
    throw new RefusedError("conflict", `the silence of ${target} changes too fast; ask again`, true);
  }

  /** Puts what is told into the outbox, then says so. A crash between repeats the same message ids, which the outbox drops for two minutes. */
  async #tell(silence: Silence): Promise<void> {
    const { telling } = silence;
    if (telling === null) return;
    const seqs: Record<string, number> = {};
    for (const channel of telling.channels) {
      const data = notificationOf(silence, telling, channel);
      seqs[channel] = (await this.#kit.bus.append(this.#kit.event("outbox", [channel], data, { id: data.id }))).seq;
    }
    const current = this.#silences.get(silence.target)?.silence;
    if (current?.telling?.name === telling.name) await this.#publish(confirmSilenceTold(current, seqs));
  }

  /** True when the log took it; false when another one was first, which is the known one then. */
  async #publish(after: Silence): Promise<boolean> {
    const { target } = after;
    const expected = this.#silences.get(target)?.seq ?? 0;
    const fenced = await this.#kit.bus.appendFenced(this.#kit.event("notify.silenced", [target], after), expected);
    if (fenced.outcome === "won") {
      this.learn(after, fenced.seq);
      return true;
    }
    const { last } = fenced;
    if (last?.content.kind === "event" && last.content.event.type === "notify.silenced") this.learn(last.content.event.data, last.seq);
    return false;
  }
}

function notificationOf(silence: Silence, telling: NonNullable<Silence["telling"]>, channel: string): Notification {
  const { id, target, by, reason, untilMs, endedBy, changedAtMs, outbox } = silence;
  const until = new Date(untilMs).toISOString();
  const given = `silenced by ${by.id} until ${until}: ${reason}`;
  const begins = telling.kind === "silenced";
  const ended = endedBy === null ? "its time is over" : `ended by ${endedBy.by.id}: ${endedBy.reason}`;
  return {
    id: `${id}/${telling.name}/${channel}`,
    channel,
    incidentId: id,
    kind: telling.kind,
    severity: "notify",
    title: begins ? `${target} is silenced until ${until}` : `${target} is not silenced any more`,
    text: begins ? `${given}\nuntil then nothing new of it is told` : `${ended}\n${given}\nwhat is still wrong is told now`,
    upstream: target.includes("/") ? null : target,
    atMs: changedAtMs,
    afterSeq: outbox[channel] ?? null,
  };
}
