import { BusError, RefusedError } from "@mcp-failover/bus";
import { type BreakerChanged, endpointKey } from "@mcp-failover/contracts";
import { type BreakerDecision, type BreakerInput, type BreakerOrder, decideBreaker, defaultPolicy, policyHash } from "@mcp-failover/domain";
import { type FencedDecider, type Kit, openCommandDesk, openLeftOut, type Running, startFencedDecider } from "@mcp-failover/service-kit";
import { Counter } from "prom-client";
import { type Breaker, Breakers, forEachItem } from "./breakers.ts";
import { BreakerCommands } from "./commands.ts";
import type { BreakerStateConfig } from "./config.ts";

/** A lost race is decided anew at once, so often; then the next second does. */
const lostRacesMax = 5;
/** An operator's word is not left to the next second. */
const lostOrdersMax = 20;

/**
 * SIGNALS -> windows, AUDIT -> states and configuration, both -> `breaker.changed`; `command.breaker` -> `breaker.changed`.
 * Any number of instances decide the same; the fence of each subject lets one of them say it.
 */
export async function startBreakerState(kit: Kit<BreakerStateConfig>): Promise<Running> {
  const changes = new Counter({
    name: "mcpf_breaker_changes_total",
    help: "Changes of breakers that this instance published",
    labelNames: ["rule"],
    registers: [kit.registry],
  });
  const wouldOpen = new Counter({
    name: "mcpf_breaker_would_open_total",
    help: "Looks at a breaker in metrics_only that would have opened it",
    labelNames: ["upstream", "endpoint"],
    registers: [kit.registry],
  });
  const tellDisplaced = openLeftOut(kit, {
    metric: "mcpf_breaker_windows_displaced_total",
    help: "Endpoints whose windows were forgotten for those of others: more are heard of than are kept",
    line: "more endpoints are heard of than are kept: the breakers of some do not open",
  });
  const breakers = new Breakers(kit.log);
  const deciding = new Set<string>();
  const desk = openCommandDesk(kit, () => decider);
  const decider: FencedDecider = startFencedDecider(kit, {
    foldAudit(event, at) {
      breakers.foldAudit(event, at);
      desk.fold(event, at);
      commands.fold(event, at);
    },
    onAnotherAudit: () => commands.forgetOrder(),
    foldSignal: (event, at) => breakers.foldSignal(event, at, decider.clock.freshAfterSeq),
    prepare: () => desk.load(),
    evaluate(event) {
      if (event === null) {
        tellDisplaced(breakers.takeDisplaced());
        for (const key of breakers.takeDue(decider.decisionMs())) look(key);
      }
      // A failure, and what a half-open breaker waits for, is looked at as it comes; everything else can wait for the next second.
      else {
        forEachItem(event, (upstream, endpoint, bad) => {
          if (!bad && !breakers.anyOnTrial) return;
          const key = endpointKey(upstream, endpoint);
          if (bad || breakers.isOnTrial(key)) look(key);
        });
      }
    },
    signalsBackMs: defaultPolicy.breaker.baselineMs,
    clockGapMs: defaultPolicy.failover.clockGapMs,
    tiltMs: defaultPolicy.failover.tiltMs,
  });
  const commands: BreakerCommands = new BreakerCommands({ kit, decider, desk, breakers, obey });

  const seqOf = ({ upstream, endpoint }: Breaker): number => decider.foldedSeq("breaker.changed", [upstream, endpoint]);
  const inputFor = (key: string, breaker: Breaker): BreakerInput =>
    breakers.inputFor(key, breaker, decider.decisionMs(), decider.clock.freshAfterSeq);

  function look(key: string): void {
    const breaker = breakers.configured.get(key);
    // Of an endpoint that is down every probe is heard, and most of the time there is nothing to decide.
    if (breaker === undefined || deciding.has(key) || breakers.waitsForItsTime(key, decider.decisionMs())) return;
    const decision = decideBreaker(inputFor(key, breaker));
    if (decision.wouldOpen) wouldOpen.inc({ upstream: breaker.upstream, endpoint: breaker.endpoint });
    if (!decision.changed) return;
    deciding.add(key);
    settle(key)
      .catch((error: unknown) => {
        if (!(error instanceof BusError)) throw error;
        kit.log.warn({ err: error, key }, "a change of a breaker could not be published; the next second decides anew");
        breakers.hear(key);
      })
      .catch((error: unknown) => kit.log.error({ err: error, key }, "a breaker could not be decided"))
      .finally(() => deciding.delete(key));
  }

  /** Decides and publishes until it has won or nothing changes any more. */
  async function settle(key: string): Promise<void> {
    for (let race = 0; race < lostRacesMax; race += 1) {
      const breaker = breakers.configured.get(key);
      if (breaker === undefined) return;
      if (!decider.settled || decider.clock.tilted) break;
      const expectedSeq = seqOf(breaker);
      const input = inputFor(key, breaker);
      const decision = decideBreaker(input);
      // Another instance has decided on more than this one has read; what it still has to read will tell.
      if (!decision.changed) return;
      if (breakers.isBehind(key)) break;
      if (await publish(input, decision, expectedSeq)) return;
    }
    breakers.hear(key);
  }

  /** Does what an operator ordered. A jump of the clock stops what is automatic, not this. */
  async function obey(key: string, breaker: Breaker, order: BreakerOrder): Promise<"done" | "overtaken"> {
    for (let race = 0; race < lostOrdersMax; race += 1) {
      if (!decider.settled) throw new RefusedError("log_unreachable", "the log is out of reach: ask again with the same commandId", true);
      // Another instance may have taken the command over; what came after that may be all that a lost race has told.
      if (race > 0 && (await commands.isDone(order.commandId, key, breaker))) return "done";
      if (commands.isOvertaken(order.commandId, key)) return "overtaken";
      const expectedSeq = seqOf(breaker);
      const input = { ...inputFor(key, breaker), evidence: [], command: order };
      if (await publish(input, decideBreaker(input), expectedSeq)) return "done";
    }
    throw new RefusedError("contended", `${key} is being decided on by others just now: ask again with the same commandId`, true);
  }

  /** False: another instance was first. */
  async function publish(input: BreakerInput, decision: BreakerDecision, expectedSeq: number): Promise<boolean> {
    const { upstream, endpoint, command } = input;
    const data: BreakerChanged = {
      service: upstream,
      endpoint,
      status: decision.state.status,
      previousStatus: input.state.status,
      timestamp: new Date(input.nowMs).toISOString(),
      reason: decision.reason,
      by: command?.by ?? { kind: "service", id: kit.instance },
      ...(command === undefined ? {} : { commandId: command.commandId }),
      state: decision.state,
      certificate: {
        decider: "decideBreaker",
        rule: decision.rule,
        policyHash: policyHash(input.policy),
        nowMs: input.nowMs,
        folded: decider.folded(),
        input,
        rejected: [...decision.rejected],
      },
    };
    const result = await decider.publish("breaker.changed", [upstream, endpoint], data, { expectedSeq });
    if (result.outcome === "lost") return false;
    changes.inc({ rule: decision.rule });
    const { status } = decision.state;
    kit.log.info(
      { upstream, endpoint, from: input.state.status, to: status, rule: decision.rule, reason: decision.reason },
      "breaker changed",
    );
    return true;
  }

  return { handlers: { "command.breaker": (body) => commands.run(body) }, stop: () => decider.stop() };
}
