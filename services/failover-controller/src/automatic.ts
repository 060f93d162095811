import type { FailoverMoment } from "@mcp-failover/domain";
import type { FencedDecider } from "@mcp-failover/service-kit";
import type { Gatherer } from "./gatherer.ts";
import type { Knowledge } from "./knowledge.ts";
import type { Performer } from "./perform.ts";

/** After so many lost races the next event or second decides. */
const attemptsMax = 10;

/** Decides about one upstream by itself, and performs what was decided: one pass, until it has won or there is nothing to do. */
export async function decideByItself(
  upstream: string,
  parts: { decider: FencedDecider; knowledge: Knowledge; gatherer: Gatherer; performer: Performer },
): Promise<void> {
  const { decider, knowledge, gatherer, performer } = parts;
  let fleet: FailoverMoment["fleet"] = null;
  for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
    if (!decider.settled || !knowledge.upstreams.includes(upstream)) return;
    const { input, decision } = knowledge.decide(upstream, {
      command: null,
      fleet,
      clock: decider.clock,
      gatherSinceMs: gatherer.sinceMs(upstream),
      nowMs: decider.decisionMs(),
    });
    switch (decision.kind) {
      case "none":
        gatherer.over(upstream);
        if (decision.rule !== "active_healthy") return;
        return performer.failing(input, { kind: "over", rule: decision.rule, reason: decision.reason });
      case "gather":
        return gatherer.ask(input, decision.targets);
      case "failing":
        gatherer.ask(input, decision.targets);
        return performer.failing(input, decision);
      case "rejected":
        if (decision.targets.length === 0) gatherer.over(upstream);
        else gatherer.ask(input, decision.targets);
        return performer.rejected(input, decision);
      case "reserve":
        fleet = await performer.reserve(upstream, decision.epoch);
        break;
      case "decided": {
        const published = await performer.decided(input, decision);
        fleet = null;
        if (published.outcome === "lost") break;
        gatherer.over(upstream);
        if (decision.action !== "moved") return;
        return performer.failing(input, { kind: "over", rule: decision.rule, reason: `moved to ${decision.currentEndpoint}` });
      }
    }
  }
}
