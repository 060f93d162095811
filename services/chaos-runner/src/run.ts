import { setTimeout as sleep } from "node:timers/promises";
import { BusError } from "@mcp-failover/bus";
import type { StatusView } from "@mcp-failover/contracts";
import { type CanaryCall, type ExperimentFacts, findAbort, findRecovery, type StatusSight, servedUpstreams } from "@mcp-failover/domain";
import { type Pace, startPace } from "./canary.ts";
import { callTimeoutMs, type ExperimentParts } from "./experiment.ts";
import { lookAgain } from "./plan.ts";
import { askStatus, inject, isThereYet, isTransient, reasonOf, revertUntilGone, sayFault } from "./stack.ts";

/** The part of an experiment between injection and revert. */
export class Run {
  readonly #parts: ExperimentParts;
  readonly #baseline: readonly CanaryCall[];
  readonly #nowMs: () => number;
  readonly #sights: StatusSight[] = [];
  #servedBefore: ReadonlySet<string> = new Set();
  readonly #pace: Pace;
  #injectedAtMs: number | null = null;
  #seenAtMs: number | null = null;
  #revertedAtMs: number | null = null;
  #lasted: boolean | null = null;
  #gone = false;

  constructor(parts: ExperimentParts, baseline: readonly CanaryCall[]) {
    this.#parts = parts;
    this.#baseline = baseline;
    this.#nowMs = parts.nowMs;
    const { canary, tool } = parts;
    this.#pace = startPace(canary, tool.name, tool.args, {
      timeoutMs: callTimeoutMs(parts),
      everyMs: parts.pace.callEveryMs,
      callsMax: Number.POSITIVE_INFINITY,
      nowMs: parts.nowMs,
    });
  }

  get skipped(): number {
    return this.#pace.skipped;
  }

  /** Why it cannot go on, or null. */
  async inject(leaseMs: number): Promise<string | null> {
    const { kit, command, target, seqBefore, journal, lease, stop } = this.#parts;
    try {
      this.#servedBefore = servedUpstreams((await lookAgain(kit, target, seqBefore, command.options.force)).status);
    } catch (error) {
      if (!isTransient(error)) throw error;
      return `nothing was injected: ${error instanceof Error ? error.message : String(error)}`;
    }
    if (!(await lease.renew()) || stop.aborted) return "the runner is stopping, or lost its lease, before anything was injected";
    // Written first: a fault that began counts from its beginning, and one whose answer is lost may have begun.
    this.#injectedAtMs = this.#nowMs();
    try {
      await inject(kit.bus, target.fault, leaseMs);
    } catch (error) {
      if (!isTransient(error)) throw error;
      return `the fault could not be injected: ${error instanceof Error ? error.message : String(error)}`;
    }
    await journal.step("chaos.injected", target.upstream, sayFault(target.fault).inject);
    return null;
  }

  /** Watches until it has recovered and settled, or its time is over; takes the fault back when its time is over. Why it was given up, or null. */
  async watch(): Promise<string | null> {
    const { command, target, lease, stop, pace } = this.#parts;
    const { durationMs, maxWaitMs } = command.options;
    const { settleMs, statusEveryMs } = pace;
    const injectedAtMs = this.#injectedAtMs ?? this.#nowMs();
    for (;;) {
      const status = await this.#look();
      if (stop.aborted) return reasonOf(stop);
      if (!lease.held) return "the lease of the chaos-runner was lost: another one may begin an experiment";
      const nowMs = this.#nowMs();
      if (this.#revertedAtMs === null) {
        const blindMs = nowMs - (this.#seenAtMs ?? injectedAtMs);
        const abort = findAbort({ target: target.upstream, calls: this.facts().calls, servedBefore: this.#servedBefore, status, blindMs });
        if (abort !== null) return abort;
      }
      if (this.#revertedAtMs === null && nowMs >= injectedAtMs + durationMs) {
        await this.takeBack({ looks: true });
        continue;
      }
      const recoveredAtMs = findRecovery({ ...this.facts(), baseline: this.#baseline });
      if (recoveredAtMs !== null && nowMs >= recoveredAtMs + settleMs) return null;
      if (nowMs >= injectedAtMs + maxWaitMs) return null;
      // What the runner itself brought back does not count as recovered: a while to see it well, then it is over.
      const revertedAtMs = this.#revertedAtMs;
      if (target.scenario === "killService" && recoveredAtMs === null && revertedAtMs !== null && nowMs >= revertedAtMs + settleMs)
        return null;
      await sleep(statusEveryMs, undefined, { signal: stop }).catch(() => undefined);
    }
  }

  /**
   * Takes the fault back, again and again until it is seen to be gone or the time for it is over. May be called twice.
   *
   * @param looks whether it is still there is asked before; not where it has to go at once
   */
  async takeBack({ looks }: { readonly looks: boolean }): Promise<void> {
    if (this.#gone || this.#injectedAtMs === null) return;
    const { kit, target, journal, stop } = this.#parts;
    if (looks && this.#revertedAtMs === null) this.#lasted = await isThereYet(kit.bus, target.fault);
    this.#revertedAtMs ??= this.#nowMs();
    this.#gone = await revertUntilGone(kit, target.fault, stop);
    if (!this.#gone) return;
    const tookMs = Math.round(this.#nowMs() - this.#revertedAtMs);
    await journal
      .step("chaos.reverted", target.upstream, `${sayFault(target.fault).revert}: seen to be gone after ${tookMs} ms`)
      .catch((error: unknown) => {
        if (!(error instanceof BusError)) throw error;
        kit.log.warn({ err: error }, "the revert is done, but could not be recorded");
      });
  }

  stopCanary(drain: boolean): Promise<void> {
    return this.#pace.stop({ drain });
  }

  facts(): Omit<ExperimentFacts, "baseline" | "epochBefore" | "epochs" | "refused" | "interrupted"> {
    const { scenario, endpoint, wasActive } = this.#parts.target;
    const injectedAtMs = this.#injectedAtMs;
    return {
      scenario,
      endpoint,
      wasActive,
      calls: this.#pace.calls().filter(({ startedAtMs }) => injectedAtMs !== null && startedAtMs >= injectedAtMs),
      sights: this.#sights,
      injectedAtMs,
      revertedAtMs: this.#revertedAtMs,
      revertConfirmed: this.#gone,
      lasted: this.#lasted,
    };
  }

  async #look(): Promise<StatusView | null> {
    try {
      const status = await askStatus(this.#parts.kit.bus, 1000);
      // Of a state-store that cannot read the log: what it shows was so before.
      if (status.backupUpToSeq !== undefined) return null;
      this.#seenAtMs = this.#nowMs();
      const view = status.upstreams.find(({ name }) => name === this.#parts.target.upstream);
      if (view === undefined) return status;
      const endpoints = Object.fromEntries(view.endpoints.map(({ name, health }) => [name, health]));
      this.#sights.push({ atMs: this.#nowMs(), active: view.active, epoch: view.epoch, endpoints });
      return status;
    } catch (error) {
      if (!isTransient(error)) throw error;
      return null; // Unseen is not recovered: it only waits longer.
    }
  }
}
