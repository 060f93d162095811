import { randomUUID } from "node:crypto";
import type { FailoverInput } from "@mcp-failover/domain";
import type { Kit } from "@mcp-failover/service-kit";

interface Round {
  /** Time of the decision that first missed evidence; null: none misses any. */
  sinceMs: number | null;
  /** When it was asked last, also for what is over: the rate holds for all rounds of an upstream. */
  lastMs: number;
  timer: NodeJS.Timeout | null;
}

/** A suspicion this young is followed up as fast as the policy allows; after it the rounds come further apart. */
const urgentMs = 3000;

/** Asks every prober at once for what a decision misses: in rounds, at a bounded rate an upstream (`gatherEveryMs`). */
export class Gatherer {
  readonly #kit: Pick<Kit, "bus" | "event" | "instance" | "nowMs">;
  readonly #rounds = new Map<string, Round>();

  constructor(kit: Pick<Kit, "bus" | "event" | "instance" | "nowMs">) {
    this.#kit = kit;
  }

  /** Since when evidence is missing; null: it is not. */
  sinceMs(upstream: string): number | null {
    return this.#rounds.get(upstream)?.sinceMs ?? null;
  }

  /** Asks now, or as soon as the rate allows. The answers come in SIGNALS. */
  ask(input: FailoverInput, targets: readonly string[]): void {
    const { upstream, policy, nowMs } = input;
    const round = this.#rounds.get(upstream) ?? { sinceMs: null, lastMs: 0, timer: null };
    this.#rounds.set(upstream, round);
    round.sinceMs ??= nowMs;
    if (round.timer !== null) return;
    const everyMs = nowMs - round.sinceMs < urgentMs ? policy.gatherEveryMs : policy.gatherEveryMsMax;
    const waitMs = round.lastMs + everyMs - this.#kit.nowMs();
    const send = (): void => {
      round.timer = null;
      round.lastMs = this.#kit.nowMs();
      this.#request(upstream, targets, policy.confirmTimeoutMs);
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

  stop(): void {
    for (const upstream of [...this.#rounds.keys()]) this.over(upstream);
  }

  #request(upstream: string, targets: readonly string[], timeoutMs: number): void {
    if (targets.length === 0 || this.#kit.bus.status.kind !== "connected") return;
    const { instance } = this.#kit;
    this.#kit.bus.publish(
      this.#kit.event("probe.requested", [], {
        requestId: `${instance}-${randomUUID()}`,
        targets: targets.map((endpoint) => ({ upstream, endpoint })),
        purpose: "confirm",
        timeoutMs,
        requestedBy: instance,
      }),
    );
  }
}
