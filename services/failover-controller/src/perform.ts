import type { Certificate, FailoverRejected } from "@mcp-failover/contracts";
import {
  type FailoverDecision,
  type FailoverInput,
  policyHash,
  type ReservationDecision,
  type ReservationInput,
  timeOfThisClock,
} from "@mcp-failover/domain";
import type { FencedDecider, Kit, Published } from "@mcp-failover/service-kit";
import type { Knowledge } from "./knowledge.ts";

type Decided = Extract<FailoverDecision, { kind: "decided" }>;
type Refused = Extract<FailoverDecision, { kind: "rejected" }>;
type Failing = Extract<FailoverDecision, { kind: "failing" }>;
/** By its own rule, what ended a failing. */
type Over = { readonly kind: "over"; readonly rule: string; readonly reason: string };

/** The same rejection of an upstream is said again only after this long, and only if it is about a new failure. */
const sayAgainMs = 60_000;

/** Before a decision is taken again whose place had ended: ten of these are a second. */
const placeEndedWaitMs = 100;

/** Turns decisions into events: each fenced, each with the certificate that lets anybody take it again. */
export class Performer {
  readonly #kit: Pick<Kit, "nowMs" | "log" | "instance">;
  readonly #decider: FencedDecider;
  readonly #knowledge: Knowledge;

  constructor(kit: Pick<Kit, "nowMs" | "log" | "instance">, decider: FencedDecider, knowledge: Knowledge) {
    this.#kit = kit;
    this.#decider = decider;
    this.#knowledge = knowledge;
  }

  /**
   * `failover.decided`: the route itself. Call it in the turn in which was decided, which is what the certificate says was folded.
   * `requireLast`: looked at before it is published; what is folded meanwhile has won (D1).
   */
  async decided(
    input: FailoverInput,
    decision: Decided,
    { expectedSeq, requireLast }: { expectedSeq: number; requireLast?: (() => Promise<void>) | undefined },
  ): Promise<Published> {
    const { upstream, command, fleet } = input;
    const data = {
      service: upstream,
      action: decision.action,
      previousEndpoint: decision.previousEndpoint,
      currentEndpoint: decision.currentEndpoint,
      timestamp: this.#timestamp(),
      automatic: decision.automatic,
      by: decision.by,
      reason: decision.reason,
      commandId: command?.commandId ?? null,
      overrode: decision.overrode,
      state: decision.state,
      certificate: this.#certificate(input, decision.rule, decision.rejected),
    };
    await requireLast?.();
    // A place among the fleet's moves is not to be used after it has ended: another is reserved, as after a race that was lost.
    const leftMs = decision.action === "moved" && fleet !== null ? Math.floor(fleet.expiresAtMs - this.#decider.nowMs()) : null;
    if (leftMs !== null && leftMs < 1) {
      // Decisions are taken by whole seconds, in which the place may not have ended yet.
      await this.#decider.changed(placeEndedWaitMs);
      return { outcome: "lost" };
    }
    const options = { expectedSeq, ...(leftMs === null ? {} : { timeoutMs: leftMs }) };
    const published = await this.#decider.publish("failover.decided", [upstream], data, options);
    if (published.outcome === "won") {
      const { action, previousEndpoint, currentEndpoint, rule, reason, state } = decision;
      this.#kit.log.info({ upstream, action, epoch: state.epoch, previousEndpoint, currentEndpoint, rule, reason }, "decided");
    }
    return published;
  }

  /** `fleet.reserved`: places among the fleet's automatic moves. */
  reserved(input: ReservationInput, { state, rule, rejected }: ReservationDecision, expectedSeq: number): Promise<Published> {
    const data = {
      reservations: state.reservations,
      timestamp: this.#timestamp(),
      by: { kind: "service", id: this.#kit.instance } as const,
      certificate: this.#certificate(input, rule, rejected, "decideReservation"),
    };
    return this.#decider.publish("fleet.reserved", [], data, { expectedSeq });
  }

  /** `failover.rejected`; an automatic one only when it is news. */
  async rejected(input: FailoverInput, decision: Refused): Promise<void> {
    const { upstream, command, state, nowMs } = input;
    const isNews = (): boolean => {
      if (!decision.automatic) return true;
      const last = this.#knowledge.rejected.get(upstream);
      if (last?.rule !== decision.rule || last.epoch !== state.epoch) return true;
      const lastMs = timeOfThisClock(last.timeMs, nowMs);
      return lastMs < decision.sinceMs && nowMs - lastMs >= sayAgainMs;
    };
    for (let tries = 0; tries < 5 && isNews(); tries += 1) {
      const expectedSeq = this.#decider.foldedSeq("failover.rejected", [upstream]);
      const data: FailoverRejected = {
        service: upstream,
        timestamp: this.#timestamp(),
        epoch: state.epoch,
        rule: decision.rule,
        reason: decision.reason,
        automatic: decision.automatic,
        by: command?.by ?? { kind: "service", id: this.#kit.instance },
        commandId: command?.commandId ?? null,
        certificate: this.#certificate(input, decision.rule, decision.rejected),
      };
      const published = await this.#decider.publish("failover.rejected", [upstream], data, { expectedSeq });
      if (published.outcome === "won") return;
    }
  }

  /** `failover.failed`: once when there is nowhere to go, once when that is over. */
  async failing(input: FailoverInput, decision: Failing | Over): Promise<void> {
    const { upstream } = input;
    const failing = decision.kind === "failing";
    const isNews = (): boolean => {
      const last = this.#knowledge.failed.get(upstream);
      return failing ? last?.failing !== true || last.rule !== decision.rule : last?.failing === true;
    };
    for (let tries = 0; tries < 5 && isNews(); tries += 1) {
      const expectedSeq = this.#decider.foldedSeq("failover.failed", [upstream]);
      const data = {
        service: upstream,
        timestamp: this.#timestamp(),
        rule: failing ? decision.rule : "recovered",
        reason: decision.reason,
        failing,
        certificate: this.#certificate(input, decision.rule, failing ? decision.rejected : []),
      };
      const published = await this.#decider.publish("failover.failed", [upstream], data, { expectedSeq });
      if (published.outcome === "lost") continue;
      if (failing) this.#kit.log.error({ upstream, reason: decision.reason }, "nowhere to go");
      else this.#kit.log.info({ upstream, reason: decision.reason }, "there is somewhere to go again");
    }
  }

  #certificate(
    input: FailoverInput | ReservationInput,
    rule: string,
    rejected: Certificate["rejected"],
    decider = "decideFailover",
  ): Certificate {
    return { decider, rule, policyHash: policyHash(input.policy), nowMs: input.nowMs, folded: this.#decider.folded(), input, rejected };
  }

  #timestamp(): string {
    return new Date(this.#kit.nowMs()).toISOString();
  }
}
