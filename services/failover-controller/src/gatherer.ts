import { randomUUID } from "node:crypto";
import { type FailoverInput, isOfAnotherClock } from "@mcp-failover/domain";
import type { Kit } from "@mcp-failover/service-kit";

interface Round {
  /** Time of the automatic decision that first missed evidence; null: none misses any. */
  sinceMs: number | null;
  /** When it was asked last, also for what is over: the rate holds for all rounds of an upstream. */
  lastMs: number;
  timer: NodeJS.Timeout | null;
}
interface Target {
  readonly upstream: string;
  readonly endpoint: string;
}
interface Pending {
  /** Asked about first: of critical upstreams. */
  readonly urgent: Target[];
  readonly other: Target[];
}

/** A suspicion this young is followed up as fast as the policy allows; after it the rounds come further apart. */
const urgentMs = 3000;
/** The contract's limit on one `probe.requested`. */
const targetsMax = 100;

/**
 * Asks every prober at once for what a decision misses: in rounds, at a bounded rate an upstream (`gatherEveryMs`). Upstreams that ask at the
 * same time are asked about in one request.
 */
export class Gatherer {
  readonly #kit: Pick<Kit, "bus" | "event" | "instance" | "nowMs">;
  readonly #rounds = new Map<string, Round>();
  /** Targets by the time-out of their probes, to be sent at the end of this turn. */
  readonly #pending = new Map<number, Pending>();

  constructor(kit: Pick<Kit, "bus" | "event" | "instance" | "nowMs">) {
    this.#kit = kit;
  }

  /** Since when evidence is missing for an automatic decision; null: it is not. */
  sinceMs(upstream: string): number | null {
    return this.#rounds.get(upstream)?.sinceMs ?? null;
  }

  /** Asks now, or as soon as the rate allows. The answers come in SIGNALS. */
  ask(input: FailoverInput, targets: readonly string[], urgent = true): void {
    const { policy, nowMs } = input;
    const round = this.#roundOf(input.upstream);
    if (round.sinceMs === null || isOfAnotherClock(round.sinceMs, nowMs)) round.sinceMs = nowMs;
    const everyMs = nowMs - round.sinceMs < urgentMs ? policy.gatherEveryMs : policy.gatherEveryMsMax;
    this.#askAt(round, everyMs, input, targets, urgent);
  }

  /** Asks for an operator's order, which counts its own time: what an automatic decision misses later, nobody has waited for yet. */
  askForOrder(input: FailoverInput, targets: readonly string[]): void {
    this.#askAt(this.#roundOf(input.upstream), input.policy.gatherEveryMs, input, targets, true);
  }

  #roundOf(upstream: string): Round {
    const round = this.#rounds.get(upstream) ?? { sinceMs: null, lastMs: 0, timer: null };
    this.#rounds.set(upstream, round);
    return round;
  }

  #askAt(round: Round, everyMs: number, { upstream, policy }: FailoverInput, targets: readonly string[], urgent: boolean): void {
    if (round.timer !== null) return;
    const waitMs = round.lastMs + everyMs - this.#kit.nowMs();
    const send = (): void => {
      round.timer = null;
      round.lastMs = this.#kit.nowMs();
      this.#request(upstream, targets, policy.confirmTimeoutMs, urgent);
    };
    if (waitMs <= 0 || waitMs > everyMs) send();
    else round.timer = setTimeout(send, waitMs);
  }

  /** Nothing is missing any more. */
  over(upstream: string): void {
    const round = this.#rounds.get(upstream);
    if (round === undefined) return;
    if (round.timer !== null) clearTimeout(round.timer);
    round.timer = null;
    round.sinceMs = null;
  }

  /** Ends the rounds of all that is not among `known`: nobody looks at them any more, and one that comes back later begins anew. */
  forget(known: readonly string[]): void {
    const configured = new Set(known);
    for (const upstream of [...this.#rounds.keys()]) {
      if (configured.has(upstream)) continue;
      this.over(upstream);
      this.#rounds.delete(upstream);
    }
  }

  stop(): void {
    for (const upstream of [...this.#rounds.keys()]) this.over(upstream);
    this.#pending.clear();
  }

  #request(upstream: string, targets: readonly string[], timeoutMs: number, urgent: boolean): void {
    if (targets.length === 0) return;
    if (this.#pending.size === 0) queueMicrotask(() => this.#send());
    const pending = this.#pending.get(timeoutMs) ?? { urgent: [], other: [] };
    for (const endpoint of targets) pending[urgent ? "urgent" : "other"].push({ upstream, endpoint });
    this.#pending.set(timeoutMs, pending);
  }

  #send(): void {
    const { bus, event, instance } = this.#kit;
    const all = [...this.#pending];
    this.#pending.clear();
    if (bus.status.kind !== "connected") return;
    for (const [timeoutMs, { urgent, other }] of all) {
      const targets = [...urgent, ...other];
      for (let from = 0; from < targets.length; from += targetsMax) {
        const requestId = `${instance}-${randomUUID()}`;
        const some = targets.slice(from, from + targetsMax);
        bus.publish(event("probe.requested", [], { requestId, targets: some, purpose: "confirm", timeoutMs, requestedBy: instance }));
      }
    }
  }
}
