import { setTimeout as sleep } from "node:timers/promises";
import { RefusedError } from "@mcp-failover/bus";
import { type ChaosCommand, type ChaosFinished, type ChaosMetrics, type StatusView, subjectFor } from "@mcp-failover/contracts";
import {
  type CanaryCall,
  type ExperimentFacts,
  type ExperimentPace,
  experimentPolicy,
  findRecovery,
  judgeExperiment,
  measureCalls,
} from "@mcp-failover/domain";
import type { Kit } from "@mcp-failover/service-kit";
import { type Canary, startPace } from "./canary.ts";
import type { Journal } from "./journal.ts";
import type { Lease } from "./lease.ts";
import { lookAgain, type Target } from "./plan.ts";
import { Run } from "./run.ts";
import { askStatus, reasonOf } from "./stack.ts";

export interface ExperimentParts {
  readonly kit: Kit<unknown>;
  readonly experiment: string;
  readonly command: ChaosCommand;
  readonly target: Target;
  /** Last sequence of AUDIT before the target was chosen. */
  readonly seqBefore: number;
  readonly canary: Canary;
  readonly tool: { readonly name: string; readonly args: Record<string, unknown> };
  readonly lease: Lease;
  readonly journal: Journal;
  /** Wall-clock milliseconds that a clock set anew meanwhile does not move; the canary's too. */
  readonly nowMs: () => number;
  readonly pace: ExperimentPace;
  /** Aborted when this process has to stop; its reason is a sentence. */
  readonly stop: AbortSignal;
}

/**
 * Runs one experiment to its end. Throws {@link RefusedError} before the injection; after it, the result is what the verdict says, and not on
 * record yet.
 */
export async function runExperiment(parts: ExperimentParts): Promise<ChaosFinished> {
  const { kit, experiment, command, target, seqBefore, journal, lease, stop, nowMs } = parts;
  const { options } = command;
  const startTime = Math.round(nowMs());
  const baseline = await measureBaseline(parts);
  const { status: statusBefore, overrode } = await lookAgain(kit, target, seqBefore, options.force);
  const baselineMetrics = metricsOf(baseline, statusBefore, nowMs());
  const leaseMs = Math.min(options.durationMs, options.maxWaitMs) + experimentPolicy.faultSlackMs;
  if (!lease.held || stop.aborted)
    throw new RefusedError("not_steady", "the runner is stopping, or lost its lease: nothing was injected", true);
  await journal.started(command, {
    scenario: target.scenario,
    target: target.upstream,
    fault: target.fault,
    expiresAtMs: Math.round(nowMs()) + leaseMs,
    baseline: baselineMetrics,
    overrode,
  });

  // From here on something may have been injected: every way out leads through the revert.
  const run = new Run(parts, baseline);
  let interrupted: string | null = null;
  try {
    interrupted = await run.inject(leaseMs);
    if (interrupted === null) interrupted = await run.watch();
  } catch (error) {
    kit.log.error({ err: error, experiment }, "the experiment failed; its fault is taken back");
    interrupted = `the runner failed: ${error instanceof Error ? error.message : String(error)}`;
  }
  await run.takeBack({ looks: interrupted === null && !stop.aborted });
  if (interrupted === null) await sleep(parts.pace.afterRevertMs, undefined, { signal: stop }).catch(() => undefined);
  await run.stopCanary(interrupted === null && !stop.aborted);
  // While this process is stopped and NATS is away, waiting for answers would only use up the time for the stop.
  const mute = stop.aborted && kit.bus.status.kind !== "connected";
  const finalStatus = mute ? null : await askStatus(kit.bus).catch(orNull);
  const facts: ExperimentFacts = {
    ...run.facts(),
    baseline,
    epochBefore: target.epoch,
    epochs: mute ? null : await epochsSince(kit, target.upstream, seqBefore).catch(orNull),
    refused: mute ? null : await refusedSince(kit, target.upstream, seqBefore).catch(orNull),
    interrupted: interrupted ?? (stop.aborted ? reasonOf(stop) : null),
  };
  const verdict = judgeExperiment(facts);
  const recoveredAtMs = findRecovery(facts);
  const endTime = Math.max(startTime, Math.round(nowMs()));
  return {
    experiment,
    scenario: target.scenario,
    target: target.upstream,
    options,
    endpoint: target.endpoint,
    tool: parts.tool.name,
    baseline: baselineMetrics,
    recoveryTime: verdict.recoveryTime === null ? null : Math.round(verdict.recoveryTime),
    /** All calls since the injection; `finalState` has those after the recovery, else after the revert. */
    during: metricsOf(facts.calls, finalStatus, nowMs()),
    finalState:
      finalStatus === null
        ? null
        : metricsOf(
            facts.calls.filter(({ startedAtMs }) => startedAtMs >= (recoveredAtMs ?? facts.revertedAtMs ?? 0)),
            finalStatus,
            nowMs(),
          ),
    callsSkipped: run.skipped,
    validation: verdict.validation,
    success: verdict.success,
    error: verdict.error,
    startTime,
    endTime,
    duration: endTime - startTime,
  };
}

/** Calls at the canary's pace. Throws {@link RefusedError} where one fails, or answers differ: then nothing could be judged by them. */
async function measureBaseline(parts: ExperimentParts): Promise<readonly CanaryCall[]> {
  const { canary, tool, stop, target, pace, nowMs } = parts;
  const { baselineCalls: callsMax, callTimeoutMs } = experimentPolicy;
  const measuring = startPace(canary, tool.name, tool.args, { timeoutMs: callTimeoutMs, everyMs: pace.callEveryMs, callsMax, nowMs });
  while (measuring.calls().length < callsMax && !stop.aborted) await sleep(pace.callEveryMs);
  await measuring.stop({ drain: !stop.aborted });
  const calls = measuring.calls();
  const failed = calls.find(({ ok }) => !ok);
  if (failed !== undefined)
    throw new RefusedError(
      "not_steady",
      `${target.upstream} is not in a steady state: a call of ${tool.name} failed: ${failed.error ?? "no answer"}`,
    );
  if (new Set(calls.map(({ answer }) => answer)).size > 1) {
    throw new RefusedError(
      "no_canary_tool",
      `the answers of ${tool.name} differ from call to call, so that nothing can be compared: name another tool`,
    );
  }
  return calls;
}

/** A delayed answer is late, not lost. */
export function callTimeoutMs({ target: { fault } }: ExperimentParts): number {
  return experimentPolicy.callTimeoutMs + (fault.kind === "slow" ? fault.delayMs : 0);
}

function metricsOf(calls: readonly CanaryCall[], status: StatusView | null, atMs: number): ChaosMetrics {
  const services = Object.fromEntries(
    (status?.upstreams ?? []).map(({ name, active, epoch, endpoints }) => [
      name,
      { active, epoch, endpoints: Object.fromEntries(endpoints.map((endpoint) => [endpoint.name, endpoint.health])) },
    ]),
  );
  return { timestamp: new Date(atMs).toISOString(), ...measureCalls(calls), services };
}

/** Epochs decided after a place in the log, in its order. */
async function epochsSince(kit: Kit<unknown>, upstream: string, seq: number): Promise<number[]> {
  const epochs: number[] = [];
  for await (const { content } of kit.bus.read("AUDIT", { fromSeq: seq + 1, filter: subjectFor("failover.decided", upstream) })) {
    if (content.kind === "event" && content.event.type === "failover.decided") epochs.push(content.event.data.state.epoch);
  }
  return epochs;
}

/** The last automatic move that was refused after a place in the log. */
async function refusedSince(kit: Kit<unknown>, upstream: string, seq: number): Promise<ExperimentFacts["refused"]> {
  const last = await kit.bus.lastOf("AUDIT", subjectFor("failover.rejected", upstream));
  if (last === null || last.seq <= seq || last.content.kind !== "event") return null;
  const { event } = last.content;
  return event.type === "failover.rejected" && event.data.automatic ? { rule: event.data.rule, reason: event.data.reason } : null;
}

function orNull(): null {
  return null;
}
