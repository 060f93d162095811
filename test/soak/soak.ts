import { setTimeout as sleep } from "node:timers/promises";
import { eventually } from "@mcp-failover/testkit";
import { quantile } from "../bench/benchmark.ts";
import { upstream } from "../bench/detection/orders.ts";
import type { SoakCase } from "./cases.ts";
import type { Deeds, SoakWorld } from "./world.ts";

export interface SoakResult {
  readonly name: string;
  readonly seconds: number;
  /** Each with its reason; there must be none. */
  readonly moves: readonly string[];
  readonly breakersOpened: number;
  readonly unhealthy: number;
  readonly rejected: readonly string[];
  /** What really came about, and how often. */
  readonly deeds: Deeds;
  /** That somebody told of: a prober that knows itself to be overloaded tells of none. */
  readonly failedProbes: number;
  readonly calls: number;
  readonly failed: number;
  readonly p99Ms: number;
}

/** One case on a stack that is well; what the stack did meanwhile. */
export async function soak(world: SoakWorld, one: SoakCase, wantedMs: number, say: (line: string) => void): Promise<SoakResult> {
  const durationMs = Math.max(wantedMs, one.durationMsMin ?? 0);
  const { lastSeq } = await world.since(0);
  world.takeCalls();
  const startMs = performance.now();
  const startedAtMs = Date.now();
  const before = await world.deeds();
  for (const { at, what, act } of one.steps(world)) {
    await sleep(Math.max(0, startMs + at * durationMs - performance.now()));
    say(`  ${one.name} ${((performance.now() - startMs) / 1000).toFixed(0)} s: ${what}`);
    await act();
  }
  await sleep(Math.max(0, startMs + durationMs - performance.now()));
  const { moves, breakersOpened, unhealthy, rejected } = await world.since(lastSeq);
  const calls = world.takeCalls();
  return {
    name: one.name,
    seconds: Math.round((performance.now() - startMs) / 1000),
    moves,
    breakersOpened,
    unhealthy,
    rejected,
    deeds: Object.fromEntries(Object.entries(await world.deeds()).map(([deed, times]) => [deed, times - (before[deed] ?? 0)])),
    failedProbes: await world.failedProbesSince(startedAtMs),
    calls: calls.length,
    failed: calls.filter(({ status }) => status !== 200).length,
    p99Ms: quantile(
      calls.map(({ begunMs, endedMs }) => (endedMs ?? Number.POSITIVE_INFINITY) - begunMs),
      0.99,
    ),
  };
}

/** Of the calls that were to be sent, so many must have ended. */
const callsShareMin = 0.25;

/** What speaks against a case: a move, and that nothing was done which could have made one. */
export function problemsOf({ proof }: Pick<SoakCase, "proof">, result: SoakResult, callsPerSecond: number): string[] {
  const { calls, deeds, moves, seconds } = result;
  const problems = moves.map((move) => `moved: ${move}`);
  for (const { deed, times } of proof) {
    const seen = Object.entries(deeds).reduce((sum, [what, count]) => sum + (deed.test(what) ? count : 0), 0);
    if (seen < times) problems.push(`it came about ${seen} times, and should have ${times} times: ${deed.source}`);
  }
  if (calls < callsPerSecond * seconds * callsShareMin) problems.push(`only ${calls} calls ended in ${seconds} s`);
  return problems;
}

/** That nothing moved proves something only where a real failure still does: kills the active endpoint and waits for the move. */
export async function stillMoves(world: SoakWorld, withinMs: number): Promise<number> {
  const { lastSeq } = await world.since(0);
  const killedMs = performance.now();
  const active = await world.activeEndpoint();
  process.kill(await world.stack.pidOf(`${upstream}-${active}`), "SIGKILL");
  let rejected: readonly string[] = [];
  await eventually(
    async () => {
      const seen = await world.since(lastSeq);
      rejected = seen.rejected;
      return seen.moves.length > 0;
    },
    {
      withinMs,
      everyMs: 100,
      what: () =>
        `${upstream} moves when its active endpoint ${active} is killed; moves rejected meanwhile: ${rejected.join(", ") || "none"}`,
    },
  );
  return performance.now() - killedMs;
}
