import type { CallRecord, Check } from "../world-types.ts";

const runsOf = (call: CallRecord): number => call.legacyRuns + call.attempts.reduce((all, { executed }) => all + executed, 0);

export const neverTwice: Check = {
  guarantee: "unknown_outcomes_are_never_repeated",
  says: "a call that is neither read-only nor idempotent runs at most once, and is sent again only after proof that it did not run",
  start(world) {
    const look = (call: CallRecord): void => {
      if (call.safety === "unsafe" && runsOf(call) > 1) {
        world.fail("unknown_outcomes_are_never_repeated", `call ${call.id} (${call.tool}) ran ${runsOf(call)} times`, { call });
      }
    };
    return {
      onAttempt(call) {
        const before = call.attempts.slice(0, -1);
        if (call.safety !== "unsafe" || before.every(({ claimed, executed }) => claimed === "no" && executed === 0)) return;
        world.fail("unknown_outcomes_are_never_repeated", `call ${call.id} (${call.tool}) was sent again after an unknown outcome`, {
          call,
        });
      },
      onExecuted: look,
      onCallEnd(call) {
        look(call);
        const fellBack = call.legacyRuns > 0 || call.legacyClaimed !== null;
        if (call.safety !== "unsafe" || !fellBack || call.attempts.every(({ claimed, told }) => claimed === "no" || told === "ineligible"))
          return;
        world.fail("unknown_outcomes_are_never_repeated", `call ${call.id} (${call.tool}) fell back after an unknown outcome`, { call });
      },
    };
  },
};

export const honestOutcomes: Check = {
  guarantee: "callers_are_told_the_truth",
  says: "a call that ended well ran, and one whose outcome is unknown is told so by a typed error",
  start(world) {
    return {
      onCallEnd(call) {
        if ((call.outcome === "ok" || call.outcome === "legacy") && runsOf(call) === 0) {
          world.fail("callers_are_told_the_truth", `call ${call.id} ended ${call.outcome} and never ran`, { call });
        }
        const isUnknown = call.legacyClaimed === "unknown" || call.attempts.some(({ claimed }) => claimed === "unknown");
        if (call.outcome === "error" && call.safety === "unsafe" && isUnknown && call.problem !== "outcome_unknown") {
          if (call.problem === "client_gone") return;
          world.fail("callers_are_told_the_truth", `call ${call.id} may have run, and its caller was told ${call.problem}`, { call });
        }
      },
      onEnd() {
        for (const call of world.calls) {
          if (call.outcome !== null || call.beganAtMs > world.nowAtMs - 120_000) continue;
          world.fail("callers_are_told_the_truth", `call ${call.id} never ended`, { call });
        }
      },
    };
  },
};

/** A router that is cut off from the log for as long as a schedule cuts anything hears of a reset then. */
const hearsWithinMs = 10 * 60_000;

export const neverTheLast: Check = {
  guarantee: "the_last_endpoint_is_never_ejected",
  says: "however many endpoints look dead, a read is sent to one of them: a router never refuses it without a try, but where an operator has forced every breaker open",
  start(world) {
    /** Until when an endpoint is forced open, as far as a router may know. */
    const forcedUntilMs = new Map<string, number>();
    return {
      onAudit({ event, atMs }) {
        if (event.type !== "breaker.changed") return;
        const { service, endpoint, state } = event.data;
        const key = `${service}/${endpoint}`;
        if (state.status === "forced_open") forcedUntilMs.set(key, Number.POSITIVE_INFINITY);
        else if (forcedUntilMs.get(key) === Number.POSITIVE_INFINITY) forcedUntilMs.set(key, atMs + hearsWithinMs);
      },
      onCallEnd(call) {
        if (call.safety !== "read_only" || call.outcome !== "error" || call.attempts.length > 0 || call.problem === "client_gone") return;
        if (call.implementation === "legacy") return;
        // A router that has just begun and never saw the log knows no upstream.
        if (call.epoch < 0) return;
        const { endpoints } = world.topology.upstreams[call.upstream] ?? { endpoints: [] };
        if (endpoints.every(({ name }) => (forcedUntilMs.get(`${call.upstream}/${name}`) ?? 0) >= world.nowAtMs)) return;
        world.fail("the_last_endpoint_is_never_ejected", `call ${call.id} was refused (${call.problem}) and no endpoint was tried`, {
          call,
        });
      },
    };
  },
};
