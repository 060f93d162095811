import type { FailureCode } from "@mcp-failover/contracts";
import { isWithoutAnswer, judgeIsolation, judgeOverload, type LoadSample, type ProberPolicy } from "@mcp-failover/domain";

/** Watches this process itself: whether it keeps up, and whether it reaches anything at all (prober-condition.ts decides). */
export interface SelfCheck {
  readonly isolated: boolean;
  /** No reference can be reached; that may be their own trouble. */
  readonly referencesFail: boolean;
  readonly overloaded: boolean;
  readonly lagMs: number;
  /** A target answered a probe that began then: one from before the references failed may have been on its way already. */
  answered(startedMs: number): void;
  /** A probe was due, and found a place or not. */
  due(refused: boolean): void;
  /** A probe is under way, and is not any more: as long as any is, a stall of this process is looked for. */
  began(): void;
  ended(): void;
  /** Whether a failure that began then could as well be our own; tries the references where it has to. */
  blames(code: FailureCode | null, startedMs: number): Promise<"late" | "isolated" | null>;
  stop(): void;
}

export interface SelfCheckOptions {
  readonly policy: ProberPolicy;
  /** Empty: isolation is not looked for. */
  readonly references: () => readonly string[];
  /** Where targets take connections, this prober's own and those of others. */
  readonly targets: () => readonly string[];
  readonly reach: (url: string, timeoutMs: number) => Promise<boolean>;
  /** Monotonic milliseconds. */
  readonly clockMs: () => number;
  readonly onChange: () => void;
}

/** While probes are under way; without any, nothing can be late but the end of the second. */
const tickMs = 100;
const sampleMs = 1000;
/** Timers come a little early, too. */
const earlyMs = 50;
const stallsMax = 50;
/** Failures so close together share one try of the references. */
const shareMs = 50;
/** Targets that are tried at once. */
const triedMax = 2;

export function openSelfCheck(options: SelfCheckOptions): SelfCheck {
  const { policy, clockMs } = options;
  let isolated = false;
  let overloaded = false;
  let samples: LoadSample[] = [];
  /** When the last stalls ended. */
  let stalls: number[] = [];
  let underWay = 0;
  let timer: NodeJS.Timeout;
  let armed = { atMs: 0, waitMs: 0 };
  let second = secondFrom(clockMs());
  let lastAnswerMs: number | null = null;
  let lastSilenceMs: number | null = null;
  let triedFrom = 0;
  let failingSinceMs: number | null = null;
  let checkedMs = Number.NEGATIVE_INFINITY;
  let checking: Promise<void> | null = null;

  function judge(): void {
    const now = judgeIsolation({ failingSinceMs, lastAnswerMs, lastSilenceMs, nowMs: clockMs() }, policy);
    if (now === isolated) return;
    isolated = now;
    options.onChange();
  }

  /** Tries every reference at once. One check at a time; whoever asks in between waits for it. */
  function check(): Promise<void> {
    if (checking !== null) return checking;
    const startedMs = clockMs();
    const references = options.references();
    const done = anyReached(references).then(async (reached) => {
      if (references.length === 0 || reached) failingSinceMs = null;
      else {
        failingSinceMs ??= startedMs;
        await tryTargets(failingSinceMs);
      }
      checking = null;
      checkedMs = startedMs;
      judge();
    });
    checking = done;
    return done;
  }

  async function anyReached(urls: readonly string[]): Promise<boolean> {
    const reached = await Promise.all(urls.map((url) => options.reach(url, policy.referenceTimeoutMs)));
    return reached.some(Boolean);
  }

  /** Who probes nothing, or seldom, would hear of no answer: it tries targets, others until one answers, and then stays with that. */
  async function tryTargets(sinceMs: number): Promise<void> {
    if (lastAnswerMs !== null && lastAnswerMs > sinceMs && clockMs() - lastAnswerMs < policy.referenceFailingMs) return;
    const targets = options.targets();
    if (targets.length === 0) return;
    const from = triedFrom % targets.length;
    const urls = [...targets.slice(from), ...targets.slice(0, from)].slice(0, triedMax);
    const startedMs = clockMs();
    if (await anyReached(urls)) lastAnswerMs = startedMs;
    else {
      triedFrom = from + urls.length;
      lastSilenceMs = clockMs();
    }
  }

  function arm(nowMs: number): void {
    const leftMs = Math.max(1, Math.ceil(second.fromMs + sampleMs - nowMs));
    const waitMs = underWay > 0 ? Math.min(tickMs, leftMs) : leftMs;
    armed = { atMs: nowMs, waitMs };
    timer = setTimeout(tick, waitMs);
  }

  function tick(): void {
    const nowMs = clockMs();
    const lagMs = Math.max(0, nowMs - armed.atMs - armed.waitMs);
    if (lagMs >= policy.stallMs) stalls = [...stalls.slice(1 - stallsMax), nowMs];
    second.lagMs += lagMs;
    // A long wait stands for as many short ones, of which this is the one that came late.
    second.ticks += armed.waitMs / tickMs;
    if (nowMs - second.fromMs >= sampleMs - earlyMs) endSecond(nowMs);
    const waitMs = failingSinceMs === null ? policy.referenceEveryMs : policy.referenceFailingMs;
    if (nowMs - checkedMs >= waitMs - earlyMs && (failingSinceMs !== null || options.references().length > 0)) void check();
    judge();
    arm(nowMs);
  }

  function endSecond(nowMs: number): void {
    const { ticks, lagMs, due, refused } = second;
    samples = [...samples.slice(1 - policy.conditionSamples), { lagMs: lagMs / ticks, due, refused }];
    second = secondFrom(nowMs);
    const now = judgeOverload(samples, overloaded, policy);
    if (now === overloaded) return;
    overloaded = now;
    options.onChange();
  }

  arm(clockMs());
  return {
    get isolated() {
      return isolated;
    },
    get referencesFail() {
      return failingSinceMs !== null;
    },
    get overloaded() {
      return overloaded;
    },
    get lagMs() {
      return samples.at(-1)?.lagMs ?? 0;
    },
    answered(startedMs) {
      lastAnswerMs = Math.max(lastAnswerMs ?? startedMs, startedMs);
      if (isolated) judge();
    },
    due(refused) {
      second.due += 1;
      if (refused) second.refused += 1;
    },
    began() {
      underWay += 1;
      const nowMs = clockMs();
      if (armed.atMs + armed.waitMs <= nowMs + tickMs) return;
      clearTimeout(timer);
      second.ticks += (nowMs - armed.atMs) / tickMs;
      arm(nowMs);
    },
    ended() {
      underWay -= 1;
    },
    async blames(code, startedMs) {
      if (!isWithoutAnswer(code)) return null;
      const nowMs = clockMs();
      if (code === "timeout") {
        // A stall that goes on has not been ticked yet: time-outs may come before the tick does.
        const stalled = nowMs - armed.atMs - armed.waitMs >= policy.stallMs || stalls.some((endedMs) => endedMs >= startedMs);
        if (stalled) return "late";
      }
      if (options.references().length === 0) return null;
      // Only a try from after the probe began, and about when it failed, tells what was so at the time of it.
      const sinceMs = Math.max(startedMs, nowMs - shareMs);
      if (checking !== null) await checking;
      if (checkedMs < sinceMs) await check();
      lastSilenceMs = clockMs();
      judge();
      return isolated ? "isolated" : null;
    },
    stop() {
      clearTimeout(timer);
    },
  };
}

const secondFrom = (fromMs: number) => ({ fromMs, ticks: 0, lagMs: 0, due: 0, refused: 0 });
