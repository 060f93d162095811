import { type FailoverDecision, type FailoverMoment, wantOf } from "@mcp-failover/domain";
import type { FencedDecider } from "@mcp-failover/service-kit";
import type { Attention } from "./attention.ts";
import type { Gatherer } from "./gatherer.ts";
import type { Knowledge } from "./knowledge.ts";
import type { Performer } from "./perform.ts";
import type { Reserver } from "./reserver.ts";
import type { WaitingRoom } from "./waiting-room.ts";

/** After so many lost races the next event or second decides. */
const attemptsMax = 10;

export interface Parts {
  readonly decider: FencedDecider;
  readonly knowledge: Knowledge;
  readonly gatherer: Gatherer;
  readonly performer: Performer;
  readonly reserver: Reserver;
  readonly waiting: WaitingRoom;
  readonly attention: Attention;
}

/** Decides about one upstream by itself, and performs what was decided: one pass, until it has won or there is nothing to do. */
export async function decideByItself(upstream: string, parts: Parts): Promise<void> {
  const { decider, knowledge, gatherer, performer, reserver, waiting, attention } = parts;
  const critical = knowledge.isCritical(upstream);
  let fleet: FailoverMoment["fleet"] = null;
  let fleetSeq = 0;
  for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
    if (!decider.settled || !knowledge.isConfigured(upstream)) return;
    const nowMs = decider.decisionMs();
    const expectedSeq = decider.foldedSeq("failover.decided", [upstream]);
    // A place is for the next epoch of the route that it was asked for (L3), and rules were looked at for a move off its active endpoint.
    if (expectedSeq !== fleetSeq) fleet = null;
    fleetSeq = expectedSeq;
    const { input, decision } = knowledge.decide(upstream, {
      command: null,
      fleet,
      clock: decider.clock,
      gatherSinceMs: gatherer.sinceMs(upstream),
      graceUntilMs: knowledge.graceUntilMs(upstream, nowMs),
      nowMs,
    });
    attention.evaluated(input, decision, knowledge.grace.isOver(upstream));
    const mustWait = waiting.mustWait(upstream, input.policy.fleetMoves, nowMs);
    if (!mayWait(decision)) waiting.leave(upstream);
    switch (decision.kind) {
      case "none":
        gatherer.over(upstream);
        if (decision.rule !== "active_healthy") return;
        return performer.failing(input, { kind: "over", rule: decision.rule, reason: decision.reason });
      case "gather":
        return mustWait ? gatherer.over(upstream) : gatherer.ask(input, decision.targets, critical);
      case "failing":
        if (decision.targets.length === 0) gatherer.over(upstream);
        else gatherer.ask(input, decision.targets, critical);
        return performer.failing(input, decision);
      case "rejected":
        if (decision.targets.length === 0 || mustWait || isFull(decision)) gatherer.over(upstream);
        else gatherer.ask(input, decision.targets, critical);
        return performer.rejected(input, decision);
      case "reserve": {
        const want = wantOf(input, decision, critical);
        if (input.ruled === true) {
          // What a rule forbids takes no place, and so no turn from those that wait for one.
          const { retryAtMs: _, ...looked } = reserver.look(want);
          if (looked.rule === "safety_rule") {
            fleet = looked;
            break;
          }
        }
        waiting.enter(want);
        if (waiting.mustWait(upstream, input.policy.fleetMoves, nowMs)) {
          fleet = {
            granted: false,
            rule: "fleet_limit",
            to: want.to,
            expiresAtMs: 0,
            reason: "others that are more urgent wait for a place",
          };
          break;
        }
        const reserved = await reserver.reserve(want);
        if (reserved.retryAtMs !== null) waiting.refused(want, reserved.retryAtMs, nowMs);
        const { retryAtMs: _, ...answer } = reserved;
        fleet = answer;
        break;
      }
      case "decided": {
        const published = await performer.decided(input, decision, { expectedSeq });
        fleet = null;
        if (published.outcome === "lost") break;
        gatherer.over(upstream);
        if (decision.action !== "moved") return;
        return performer.failing(input, { kind: "over", rule: decision.rule, reason: `moved to ${decision.currentEndpoint}` });
      }
    }
  }
}

const isFull = (decision: FailoverDecision): boolean => decision.kind === "rejected" && decision.rule === "fleet_limit";

/** Whether an upstream keeps its place in the waiting room after this. */
function mayWait(decision: FailoverDecision): boolean {
  return decision.kind === "gather" || decision.kind === "reserve" || isFull(decision);
}
