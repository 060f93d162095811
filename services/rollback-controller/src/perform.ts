import type { Certificate, RollbackRejected } from "@mcp-failover/contracts";
import { policyHash, type RollbackDecision, type RollbackInput, timeOfThisClock } from "@mcp-failover/domain";
import type { FencedDecider, Kit, Published } from "@mcp-failover/service-kit";
import { type Knowledge, keyOf } from "./knowledge.ts";

type Decided = Extract<RollbackDecision, { kind: "decided" }>;
type Refused = Extract<RollbackDecision, { kind: "rejected" }>;

const attemptsMax = 5;

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
   * `rollback.decided`: which implementation serves the scope. Call it in the turn in which was decided, which is what the certificate says
   * was folded. `requireLast`: looked at before it is published; what is folded meanwhile has won (D1).
   */
  async decided(
    input: RollbackInput,
    decision: Decided,
    { expectedSeq, requireLast }: { expectedSeq: number; requireLast?: () => Promise<void> },
  ): Promise<Published> {
    const { scope, name, command } = input;
    const { action, implementation, previousImplementation, automatic, by, reason, rule, rejected, state } = decision;
    const data = {
      scope,
      name,
      action,
      implementation,
      previousImplementation,
      timestamp: this.#timestamp(),
      automatic,
      by,
      reason,
      commandId: command?.commandId ?? null,
      state,
      certificate: this.#certificate(input, rule, rejected),
    };
    await requireLast?.();
    const published = await this.#decider.publish("rollback.decided", [scope, name], data, { expectedSeq });
    if (published.outcome === "won") {
      this.#kit.log.info({ scope, name, action, epoch: state.epoch, mcpPercent: state.mcpPercent, rule, reason }, "decided");
    }
    return published;
  }

  /** `rollback.rejected`; an automatic one once an outage, rule and epoch. */
  async rejected(input: RollbackInput, decision: Refused): Promise<void> {
    const { scope, name, command, state, nowMs } = input;
    const isNews = (): boolean => {
      const last = this.#knowledge.rejected.get(keyOf(input));
      if (!decision.automatic || last?.rule !== decision.rule || last.epoch !== state.epoch) return true;
      return timeOfThisClock(last.timeMs, nowMs) < decision.sinceMs;
    };
    for (let attempt = 0; attempt < attemptsMax && isNews(); attempt += 1) {
      const expectedSeq = this.#decider.foldedSeq("rollback.rejected", [scope, name]);
      const data: RollbackRejected = {
        scope,
        name,
        timestamp: this.#timestamp(),
        epoch: state.epoch,
        rule: decision.rule,
        reason: decision.reason,
        automatic: decision.automatic,
        by: command?.by ?? { kind: "service", id: this.#kit.instance },
        commandId: command?.commandId ?? null,
        certificate: this.#certificate(input, decision.rule, decision.rejected),
      };
      const published = await this.#decider.publish("rollback.rejected", [scope, name], data, { expectedSeq });
      if (published.outcome === "won") return;
    }
  }

  #certificate(input: RollbackInput, rule: string, rejected: Certificate["rejected"]): Certificate {
    const folded = this.#decider.folded();
    return { decider: "decideRollback", rule, policyHash: policyHash(input.policy), nowMs: input.nowMs, folded, input, rejected };
  }

  #timestamp(): string {
    return new Date(this.#kit.nowMs()).toISOString();
  }
}
