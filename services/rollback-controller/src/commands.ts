import { RefusedError } from "@mcp-failover/bus";
import { type Event, type Implementation, type RecoverCommand, type RollbackCommand, subjectFor } from "@mcp-failover/contracts";
import { defaultPolicy, type RollbackOrder, requireScope, type ScopeName, UnknownScopeError } from "@mcp-failover/domain";
import type { Command, CommandDesk, FencedDecider, NoticeDesk } from "@mcp-failover/service-kit";
import { type Knowledge, keyOf } from "./knowledge.ts";
import type { Performer } from "./perform.ts";

/** What an operator's command answers. */
export interface Answer extends ScopeName {
  readonly action: string;
  readonly epoch: number;
  readonly implementation: Implementation;
  readonly mcpPercent: number;
  readonly rule: string;
  readonly decisionId: string;
  /** Whether the decision was told already, and which live routers had applied it. */
  readonly executed: boolean;
  readonly appliedBy: readonly string[];
  readonly notAppliedBy: readonly string[];
}

const attemptsMax = 20;
/** How much longer than `applyWaitMs` an answer waits for its notice. */
const noticeGraceMs = 1000;

/** Serves `command.rollback` and `command.recover`. */
export class Commands {
  readonly #decider: FencedDecider;
  readonly #knowledge: Knowledge;
  readonly #desk: CommandDesk;
  readonly #performer: Performer;
  readonly #notices: NoticeDesk;

  constructor(parts: {
    decider: FencedDecider;
    knowledge: Knowledge;
    desk: CommandDesk;
    performer: Performer;
    notices: NoticeDesk;
  }) {
    this.#decider = parts.decider;
    this.#knowledge = parts.knowledge;
    this.#desk = parts.desk;
    this.#performer = parts.performer;
    this.#notices = parts.notices;
  }

  rollback(body: RollbackCommand): Promise<Answer> {
    const { commandId, by, reason, force } = body;
    return this.#once("rollback", body, { force }, { kind: "rollback", commandId, by, reason, force });
  }

  recover(body: RecoverCommand): Promise<Answer> {
    const { commandId, by, reason, percent } = body;
    return this.#once("recover", body, { percent }, { kind: "recover", commandId, by, reason, percent });
  }

  async #once(name: string, body: RollbackCommand | RecoverCommand, more: object, order: RollbackOrder): Promise<Answer> {
    const { commandId, by, reason } = body;
    const of: ScopeName = { scope: body.scope, name: body.name };
    this.#requireKnown(of);
    const command: Command = { name, commandId, by, reason, parameters: { ...of, ...more }, givenAtSeq: body.givenAtSeq };
    const subject = subjectFor("rollback.decided", of.scope, of.name);
    return this.#desk.run(command, {
      act: (done) => this.#act(of, order, { done, requireLast: () => this.#desk.requireLast(command, subject) }),
      answerOf: (outcome) => this.#answerOf(of, outcome),
      outcomeSubjects: [subject, subjectFor("rollback.rejected", of.scope, of.name)],
    });
  }

  #requireKnown(of: ScopeName): void {
    if (!this.#decider.settled) throw new RefusedError("not_ready", "the rollback-controller is still reading the log: ask again", true);
    const { config } = this.#knowledge.audit;
    if (config === null) throw new RefusedError("not_ready", "no configuration has been applied yet: run `mcpf config apply`", true);
    try {
      requireScope(config.topology, of);
    } catch (error) {
      if (error instanceof UnknownScopeError) throw new RefusedError(error.code, error.message);
      throw error;
    }
  }

  async #act(
    of: ScopeName,
    order: RollbackOrder,
    { done, requireLast }: { done: () => Event | null; requireLast: () => Promise<void> },
  ): Promise<Answer> {
    for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
      const outcome = done();
      if (outcome !== null) return this.#answerOf(of, outcome);
      const { tilted, freshAfterSeq } = this.#decider.clock;
      const expectedSeq = this.#decider.foldedSeq("rollback.decided", [of.scope, of.name]);
      const { input, decision } = this.#knowledge.decide(of, {
        command: order,
        clock: { tilted },
        evidenceFromMs: this.#knowledge.evidenceFromMs(freshAfterSeq),
        nowMs: this.#decider.decisionMs(),
      });
      if (decision.kind === "rejected") {
        await this.#performer.rejected(input, decision);
        throw new RefusedError(decision.rule, decision.reason);
      }
      if (decision.kind === "none") break;
      const published = await this.#performer.decided(input, decision, { expectedSeq, requireLast });
      if (published.outcome === "lost") continue;
      const { action, implementation, rule, state } = decision;
      return this.#withNotice({
        ...of,
        action,
        epoch: state.epoch,
        implementation,
        mcpPercent: state.mcpPercent,
        rule,
        decisionId: published.id,
        executed: false,
        appliedBy: [],
        notAppliedBy: [],
      });
    }
    throw new RefusedError("contended", `${of.scope} ${of.name} is being decided on by others just now: ask again`, true);
  }

  /** Waits, for a bounded time, until the decision was told, so that the answer says who has applied it. */
  async #withNotice(said: Answer): Promise<Answer> {
    const applied = await this.#notices.waitTold(keyOf(said), said.epoch, defaultPolicy.failover.applyWaitMs + noticeGraceMs);
    return applied === null ? said : { ...said, executed: true, ...applied };
  }

  async #answerOf(of: ScopeName, outcome: Event): Promise<Answer> {
    if (outcome.type === "rollback.rejected") throw new RefusedError(outcome.data.rule, outcome.data.reason);
    if (outcome.type !== "rollback.decided") throw new RefusedError("internal", `${outcome.type} is no outcome of a rollback command`);
    const { action, implementation, state, certificate } = outcome.data;
    const told = this.#notices.toldOf(keyOf(of), state.epoch);
    return {
      ...of,
      action,
      epoch: state.epoch,
      implementation,
      mcpPercent: state.mcpPercent,
      rule: certificate.rule,
      decisionId: outcome.id,
      executed: told !== null,
      appliedBy: told?.appliedBy ?? [],
      notAppliedBy: told?.notAppliedBy ?? [],
    };
  }
}
