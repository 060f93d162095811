import { setTimeout as sleep } from "node:timers/promises";
import { BusError, RefusedError, type Stored } from "@mcp-failover/bus";
import {
  type ChaosCommand,
  type ChaosFinished,
  type ChaosMetrics,
  type ChaosScenario,
  type ChaosStarted,
  type Event,
  sha256,
  subjectFor,
} from "@mcp-failover/contracts";
import type { Kit } from "@mcp-failover/service-kit";
import { z } from "zod";
import { type Fault, sayFault } from "./stack.ts";

/** How long one try to record the end may take, and how long after a failed one comes the next. */
const finishMs = 2000;
const finishAgainMs = 500;

/** One id a command: a repeat of the command finds the experiment that it began. */
export function experimentOf(commandId: string): string {
  return `chaos-${sha256(commandId).slice(0, 12)}`;
}

const faultOnRecord = z.discriminatedUnion("kind", [
  z.looseObject({ kind: z.literal("kill"), process: z.string() }),
  z.looseObject({ kind: z.literal("slow"), process: z.string(), proxy: z.string(), delayMs: z.number() }),
]);

/** How the fault of an experiment on record is undone; null when the record does not say it. */
export function faultOf(started: ChaosStarted): Fault | null {
  const parsed = faultOnRecord.safeParse(started.plan["fault"]);
  return parsed.success ? parsed.data : null;
}

interface PlannedExperiment {
  readonly scenario: ChaosScenario;
  /** The upstream. */
  readonly target: string;
  readonly fault: Fault;
  /** When the fault ends by itself. */
  readonly expiresAtMs: number;
  readonly baseline: ChaosMetrics;
  /** What `force` overrode. */
  readonly overrode: readonly string[];
}

/** What is written of one experiment. Each is fenced on its own subject with the expectation 0: whoever writes it, it is there once. */
export interface Journal {
  /** Throws {@link RefusedError} `experiment_running` when somebody else began it. */
  started(command: ChaosCommand, plan: PlannedExperiment): Promise<void>;
  step(type: "chaos.injected" | "chaos.reverted", target: string, what: string): Promise<void>;
  /** The result as it is on record: our own, or that of whoever finished it before. */
  finished(result: ChaosFinished): Promise<ChaosFinished>;
}

export function openJournal(kit: Kit<unknown>, experiment: string): Journal {
  const timestamp = (): string => new Date(kit.nowMs()).toISOString();
  return {
    async started(command, { scenario, target, fault, expiresAtMs, baseline, overrode }) {
      const { commandId, by, reason, options } = command;
      await kit.bus.append(
        kit.event(
          "command.accepted",
          ["chaos-run"],
          { commandId, command: "chaos-run", by, reason, timestamp: timestamp(), parameters: { scenario, target, options } },
          { id: `command-${commandId}` },
        ),
      );
      const { inject, revert } = sayFault(fault);
      const plan = { process: fault.process, inject, revert, expiresAtMs, fault };
      const data = { experiment, scenario, target, options, by, reason, timestamp: timestamp(), overrode: [...overrode], plan, baseline };
      const event = kit.event("chaos.started", [experiment], data);
      const fenced = await kit.bus.appendFenced(event, 0);
      if (fenced.outcome === "lost") throw new RefusedError("experiment_running", `the experiment ${experiment} was begun already`, true);
    },
    async step(type, target, what) {
      await kit.bus.appendFenced(kit.event(type, [experiment], { experiment, target, what, timestamp: timestamp() }), 0);
    },
    async finished(result) {
      const fenced = await kit.bus.appendFenced(kit.event("chaos.finished", [experiment], result), 0, { timeoutMs: finishMs });
      return fenced.outcome === "won" ? result : (finishedIn(fenced.last) ?? result);
    },
  };
}

/**
 * Records a result until it is there, so that nobody has to judge anew what was judged. Gives back what is on record; null when this process
 * had to stop before, or the log will never take it: then a later runner finishes the experiment as failed.
 */
export async function recordFinished(
  kit: Pick<Kit, "log">,
  journal: Pick<Journal, "finished">,
  result: ChaosFinished,
  stop: AbortSignal,
): Promise<ChaosFinished | null> {
  for (;;) {
    try {
      return await journal.finished(result);
    } catch (error) {
      if (!(error instanceof BusError)) throw error;
      const { experiment, success } = result;
      kit.log.warn({ err: error, experiment, success }, "the experiment is over, but its result could not be recorded yet");
      if (stop.aborted || !error.retriable) return null;
    }
    await sleep(finishAgainMs, undefined, { signal: stop }).catch(() => undefined);
  }
}

/** The result of an experiment that is over, or null. */
export async function readFinished(kit: Kit<unknown>, experiment: string): Promise<ChaosFinished | null> {
  return finishedIn(await kit.bus.lastOf("AUDIT", subjectFor("chaos.finished", experiment)));
}

function finishedIn(stored: Stored | null): ChaosFinished | null {
  const event: Event | null = stored?.content.kind === "event" ? stored.content.event : null;
  return event?.type === "chaos.finished" ? event.data : null;
}

/** Experiments that were begun and not finished, as AUDIT has them. */
export interface Unfinished {
  readonly started: ChaosStarted;
  readonly startedAtMs: number;
  reverted: boolean;
}

export function foldUnfinished(unfinished: Map<string, Unfinished>, event: Event, timeMs: number): void {
  switch (event.type) {
    case "chaos.started":
      unfinished.set(event.data.experiment, { started: event.data, startedAtMs: timeMs, reverted: false });
      return;
    case "chaos.reverted": {
      const known = unfinished.get(event.data.experiment);
      if (known !== undefined) known.reverted = true;
      return;
    }
    case "chaos.finished":
      unfinished.delete(event.data.experiment);
      return;
    default:
  }
}
