import { RefusedError } from "@mcp-failover/bus";
import type { Event, FailbackCommand, FailoverCommand, HoldCommand, ReleaseCommand } from "@mcp-failover/contracts";
import { subjectFor } from "@mcp-failover/contracts";
import { type FailoverDecision, type FailoverInput, type FailoverOrder, failoverPolicyOf, wantOf } from "@mcp-failover/domain";
import type { Command, CommandDesk, FencedDecider, NoticeDesk } from "@mcp-failover/service-kit";
import type { Gatherer } from "./gatherer.ts";
import type { Knowledge } from "./knowledge.ts";
import type { Performer } from "./perform.ts";
import type { Reserver } from "./reserver.ts";

type AnyCommand = FailoverCommand | FailbackCommand | HoldCommand | ReleaseCommand;
/** What an operator's command answers. */
export interface Answer {
  readonly upstream: string;
  readonly action: "moved" | "held" | "released";
  readonly epoch: number;
  readonly from: string;
  readonly to: string;
  readonly rule: string;
  readonly overrode: readonly string[];
  readonly rejected: readonly { option: string; why: string }[];
  /** Null for a dry run. */
  readonly decisionId: string | null;
  readonly dryRun: boolean;
  /** Whether the decision was told already, and which live routers had applied it. */
  readonly executed: boolean;
  readonly appliedBy: readonly string[];
  readonly notAppliedBy: readonly string[];
}

const attemptsMax = 20;
/** Whoever gave an order has given it up before long (mcpf after 40 s): it is not carried out after this. */
const actMsMax = 30_000;
/** How much longer than `applyWaitMs` an answer waits for its notice. */
const noticeGraceMs = 1000;
const waitStepMs = 100;

/** Serves `command.failover`, `command.failback`, `command.hold` and `command.release`. */
export class Commands {
  readonly #decider: FencedDecider;
  readonly #knowledge: Knowledge;
  readonly #desk: CommandDesk;
  readonly #gatherer: Gatherer;
  readonly #performer: Performer;
  readonly #reserver: Reserver;
  readonly #notices: NoticeDesk;

  constructor(parts: {
    decider: FencedDecider;
    knowledge: Knowledge;
    desk: CommandDesk;
    gatherer: Gatherer;
    performer: Performer;
    reserver: Reserver;
    notices: NoticeDesk;
  }) {
    this.#decider = parts.decider;
    this.#knowledge = parts.knowledge;
    this.#desk = parts.desk;
    this.#gatherer = parts.gatherer;
    this.#performer = parts.performer;
    this.#reserver = parts.reserver;
    this.#notices = parts.notices;
  }

  failover(body: FailoverCommand): Promise<Answer> {
    const afterSeq = this.#knowledge.evidence.lastSeq;
    const from = this.#knowledge.activeOf(body.upstream);
    const order = (gatherOver: boolean): FailoverOrder => ({
      kind: "failover",
      commandId: body.commandId,
      by: body.by,
      reason: body.reason,
      to: body.to,
      force: body.force,
      afterSeq,
      gatherOver,
      ...(from === null ? {} : { from }),
    });
    if (!body.dryRun) return this.#once("failover", body, { to: body.to, force: body.force }, order);
    this.#requireKnown(body.upstream);
    return this.#act(body.upstream, order, { dryRun: true, done: () => null });
  }

  failback(body: FailbackCommand): Promise<Answer> {
    const afterSeq = this.#knowledge.evidence.lastSeq;
    const { commandId, by, reason, force } = body;
    const order = (gatherOver: boolean): FailoverOrder => ({ kind: "failback", commandId, by, reason, force, afterSeq, gatherOver });
    if (!body.dryRun) return this.#once("failback", body, { force }, order);
    this.#requireKnown(body.upstream);
    return this.#act(body.upstream, order, { dryRun: true, done: () => null });
  }

  hold(body: HoldCommand): Promise<Answer> {
    const { commandId, by, reason, forMs, untilMs } = body;
    // What was counted by the asker's clock is no part of the order where the order says when it ends.
    const end = untilMs === undefined ? { forMs } : { forMs: null, untilMs };
    return this.#once("hold", body, end, () => ({ kind: "hold", commandId, by, reason, ...end }));
  }

  release(body: ReleaseCommand): Promise<Answer> {
    const { commandId, by, reason } = body;
    return this.#once("release", body, {}, () => ({ kind: "release", commandId, by, reason }));
  }

  #requireKnown(upstream: string): void {
    if (!this.#decider.settled) throw new RefusedError("not_ready", "the failover-controller is still reading the log: ask again", true);
    const { upstreams } = this.#knowledge;
    if (this.#knowledge.isConfigured(upstream)) return;
    const known = upstreams.length === 0 ? "no configuration has been applied yet" : `known: ${upstreams.join(", ")}`;
    throw new RefusedError("unknown_upstream", `no upstream ${JSON.stringify(upstream)} is configured; ${known}`);
  }

  async #once(name: string, body: AnyCommand, more: object, order: (gatherOver: boolean) => FailoverOrder): Promise<Answer> {
    const { upstream, commandId, by, reason } = body;
    this.#requireKnown(upstream);
    const command: Command = { name, commandId, by, reason, parameters: { upstream, ...more }, givenAtSeq: body.givenAtSeq };
    const subject = subjectFor("failover.decided", upstream);
    const requireLast = (): Promise<void> => this.#desk.requireLast(command, subject);
    return this.#desk.run(command, {
      act: (done) => this.#act(upstream, order, { dryRun: false, done, requireLast }),
      answerOf: (outcome) => this.#answerOf(upstream, outcome),
      outcomeSubjects: [subject, subjectFor("failover.rejected", upstream)],
    });
  }

  /** Gathers proof, decides and publishes; after a lost race decides anew on what won. */
  async #act(
    upstream: string,
    order: (gatherOver: boolean) => FailoverOrder,
    { dryRun, done, requireLast }: { dryRun: boolean; done: () => Event | null; requireLast?: () => Promise<void> },
  ): Promise<Answer> {
    // By the clock that cannot be set: whoever asked does not wait longer because ours was.
    const sinceMs = performance.now();
    let fleet: FailoverInput["fleet"] = null;
    let fleetSeq = 0;
    for (let attempt = 0; attempt < attemptsMax && performance.now() - sinceMs < actMsMax; ) {
      const outcome = done();
      if (outcome !== null) return this.#answerOf(upstream, outcome);
      const proofWaitMs = this.#proofWaitMs(upstream);
      const expectedSeq = this.#decider.foldedSeq("failover.decided", [upstream]);
      // A place is for the next epoch of the route that it was asked for (L3).
      if (expectedSeq !== fleetSeq) fleet = null;
      fleetSeq = expectedSeq;
      const { input, decision } = this.#knowledge.decide(upstream, {
        command: order(performance.now() - sinceMs >= proofWaitMs),
        fleet,
        clock: this.#decider.clock,
        gatherSinceMs: null,
        nowMs: this.#decider.decisionMs(),
      });
      if (decision.kind === "gather") {
        this.#gatherer.askForOrder(input, decision.targets);
        await this.#decider.changed(waitStepMs);
        continue;
      }
      if (decision.kind === "reserve") {
        const want = wantOf(input, decision, this.#knowledge.isCritical(upstream));
        const { retryAtMs: _, ...answered } = dryRun ? this.#reserver.look(want) : await this.#reserver.reserve(want);
        fleet = answered;
        attempt += 1;
        continue;
      }
      if (decision.kind === "rejected") {
        if (!dryRun) await this.#performer.rejected(input, decision);
        throw new RefusedError(decision.rule, decision.reason);
      }
      if (decision.kind !== "decided") break;
      if (dryRun) return answer(upstream, decision, null);
      const published = await this.#performer.decided(input, decision, { expectedSeq, requireLast });
      if (published.outcome === "won") return this.#withNotice(input, answer(upstream, decision, published.id));
      attempt += 1;
      fleet = null;
    }
    throw new RefusedError("contended", `${upstream} is being decided on by others just now: ask again`, true);
  }

  #proofWaitMs(upstream: string): number {
    const { config } = this.#knowledge.audit;
    if (config === null || !this.#knowledge.isConfigured(upstream)) {
      throw new RefusedError("unknown_upstream", `${upstream} is not configured any more`);
    }
    return failoverPolicyOf(config.topology, upstream, config.environment).proofWaitMs;
  }

  /** Waits, for a bounded time, until the decision was told, so that the answer says who has applied it. */
  async #withNotice(input: FailoverInput, said: Answer): Promise<Answer> {
    const applied = await this.#notices.waitTold(said.upstream, said.epoch, input.policy.applyWaitMs + noticeGraceMs);
    return applied === null ? said : { ...said, executed: true, ...applied };
  }

  async #answerOf(upstream: string, outcome: Event): Promise<Answer> {
    if (outcome.type === "failover.rejected") throw new RefusedError(outcome.data.rule, outcome.data.reason);
    if (outcome.type !== "failover.decided") throw new RefusedError("internal", `${outcome.type} is no outcome of a failover command`);
    const { action, previousEndpoint, currentEndpoint, overrode, state, certificate } = outcome.data;
    const told = this.#notices.toldOf(upstream, state.epoch);
    return {
      upstream,
      action,
      epoch: state.epoch,
      from: previousEndpoint,
      to: currentEndpoint,
      rule: certificate.rule,
      overrode,
      rejected: certificate.rejected,
      decisionId: outcome.id,
      dryRun: false,
      executed: told !== null,
      appliedBy: told?.appliedBy ?? [],
      notAppliedBy: told?.notAppliedBy ?? [],
    };
  }
}

function answer(upstream: string, decision: Extract<FailoverDecision, { kind: "decided" }>, decisionId: string | null): Answer {
  return {
    upstream,
    action: decision.action,
    epoch: decision.state.epoch,
    from: decision.previousEndpoint,
    to: decision.currentEndpoint,
    rule: decision.rule,
    overrode: decision.overrode,
    rejected: decision.rejected,
    decisionId,
    dryRun: decisionId === null,
    executed: false,
    appliedBy: [],
    notAppliedBy: [],
  };
}
