import type { ScopeName } from "@mcp-failover/domain";
import type { FencedDecider } from "@mcp-failover/service-kit";
import type { Knowledge } from "./knowledge.ts";
import type { Performer } from "./perform.ts";

/** After so many lost races the next second decides. */
const attemptsMax = 5;

/** Looks at one scope by itself: rolls a failing tool back, and moves ramps on. */
export async function decideByItself(
  of: ScopeName,
  { decider, knowledge, performer }: { decider: FencedDecider; knowledge: Knowledge; performer: Performer },
): Promise<void> {
  for (let attempt = 0; attempt < attemptsMax && decider.settled; attempt += 1) {
    const { tilted, freshAfterSeq } = decider.clock;
    const expectedSeq = decider.foldedSeq("rollback.decided", [of.scope, of.name]);
    const evidenceFromMs = knowledge.evidenceFromMs(freshAfterSeq);
    const { input, decision } = knowledge.decide(of, { command: null, clock: { tilted }, evidenceFromMs, nowMs: decider.decisionMs() });
    if (decision.kind === "none") return;
    if (decision.kind === "rejected") return performer.rejected(input, decision);
    const published = await performer.decided(input, decision, { expectedSeq });
    if (published.outcome === "won") return;
  }
}
