import { judgeExperiment } from "@mcp-failover/domain";
import type { Kit } from "@mcp-failover/service-kit";
import { faultOf, openJournal, readFinished, type Unfinished } from "./journal.ts";
import { revertUntilGone, sayFault } from "./stack.ts";

/**
 * Takes back what a runner left that ended before its experiment, and puts that on record: failed, because nobody watched. False where the
 * fault may still be there, and somebody has to look again.
 */
export async function recoverUnfinished(
  kit: Kit<unknown>,
  { started, startedAtMs, reverted }: Unfinished,
  stop: AbortSignal,
): Promise<boolean> {
  const { experiment, scenario, target, options } = started;
  if ((await readFinished(kit, experiment)) !== null) return true; // Its end is in the log, and only not read yet.
  const journal = openJournal(kit, experiment);
  const fault = faultOf(started);
  let gone = reverted;
  if (!gone && fault !== null) {
    gone = await revertUntilGone(kit, fault, stop);
    if (gone)
      await journal.step("chaos.reverted", target, `${sayFault(fault).revert}: done for a runner that ended before the experiment did`);
  }
  // Not seen to be gone, and its lease still runs.
  if (!gone && kit.nowMs() < started.plan.expiresAtMs) return false;
  const endTime = Math.max(startedAtMs, Math.round(kit.nowMs()));
  const { validation, error } = judgeExperiment({
    scenario,
    endpoint: started.plan.process,
    wasActive: true,
    baseline: [],
    calls: [],
    sights: [],
    injectedAtMs: startedAtMs,
    revertedAtMs: gone ? endTime : null,
    revertConfirmed: gone,
    lasted: null,
    epochBefore: 0,
    epochs: null,
    refused: null,
    interrupted: "its chaos-runner ended before the experiment did; the fault was taken back afterwards",
  });
  await journal.finished({
    experiment,
    scenario,
    target,
    options,
    baseline: null,
    recoveryTime: null,
    finalState: null,
    validation,
    success: false,
    error,
    startTime: startedAtMs,
    endTime,
    duration: endTime - startedAtMs,
  });
  kit.log.warn({ experiment, gone }, "finished an experiment that its runner had left");
  return true;
}
