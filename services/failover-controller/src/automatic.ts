import { BusError } from "@mcp-failover/bus";
import type { FailoverMoment } from "@mcp-failover/domain";
import type { FencedDecider, Kit } from "@mcp-failover/service-kit";
import type { Gatherer } from "./gatherer.ts";
import type { Knowledge } from "./knowledge.ts";
import type { Performer } from "./perform.ts";

/** One evaluation decides at most this often anew after lost races; the next event or second brings another. */
const attemptsMax = 10;

/** Decides about upstreams by themselves: one evaluation at a time each, and one more where something came in meanwhile. */
export class AutomaticFailover {
  readonly #kit: Pick<Kit, "log">;
  readonly #decider: FencedDecider;
  readonly #knowledge: Knowledge;
  readonly #gatherer: Gatherer;
  readonly #performer: Performer;
  readonly #running = new Set<string>();
  readonly #again = new Set<string>();

  constructor(kit: Pick<Kit, "log">, decider: FencedDecider, knowledge: Knowledge, gatherer: Gatherer, performer: Performer) {
    this.#kit = kit;
    this.#decider = decider;
    this.#knowledge = knowledge;
    this.#gatherer = gatherer;
    this.#performer = performer;
  }

  /** Evaluates an upstream now, or right after the evaluation that is under way. Never throws. */
  evaluate(upstream: string): void {
    if (this.#running.has(upstream)) {
      this.#again.add(upstream);
      return;
    }
    this.#running.add(upstream);
    this.#run(upstream)
      .catch((error: unknown) => {
        const level = error instanceof BusError && error.retriable ? "warn" : "error";
        this.#kit.log[level]({ err: error, upstream }, "a decision could not be taken; it is tried again within a second");
      })
      .finally(() => {
        this.#running.delete(upstream);
        if (this.#again.delete(upstream)) this.evaluate(upstream);
      });
  }

  async #run(upstream: string): Promise<void> {
    let fleet: FailoverMoment["fleet"] = null;
    for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
      if (!this.#decider.settled || !this.#knowledge.upstreams.includes(upstream)) return;
      const { input, decision } = this.#knowledge.decide(upstream, {
        command: null,
        fleet,
        clock: this.#decider.clock,
        gatherSinceMs: this.#gatherer.sinceMs(upstream),
        nowMs: this.#decider.decisionMs(),
      });
      switch (decision.kind) {
        case "none":
          this.#gatherer.over(upstream);
          if (decision.rule === "active_healthy") {
            await this.#performer.failing(input, { rule: "recovered", reason: decision.reason });
          }
          return;
        case "gather":
          return this.#gatherer.ask(input, decision.targets);
        case "failing":
          this.#gatherer.ask(input, decision.targets);
          return this.#performer.failing(input, decision);
        case "rejected":
          if (decision.targets.length === 0) this.#gatherer.over(upstream);
          else this.#gatherer.ask(input, decision.targets);
          return this.#performer.rejected(input, decision);
        case "reserve":
          fleet = await this.#performer.reserve(upstream, decision.epoch);
          break;
        case "decided": {
          const published = await this.#performer.decided(input, decision);
          fleet = null;
          if (published.outcome === "lost") break;
          this.#gatherer.over(upstream);
          if (decision.action === "moved") {
            await this.#performer.failing(input, { rule: "recovered", reason: `moved to ${decision.currentEndpoint}` });
          }
          return;
        }
      }
    }
  }
}
