import { atLeast, atMost, type Benchmark, type Bound, quantile, wholeNumber } from "./benchmark.ts";
import { type DetectionRun, type FaultName, faults, runDetection } from "./detection/run.ts";
import { table } from "./table.ts";

/** Issue "Detect in a second": what a fault that is seen at once, and one that has to be noticed by silence, may take. */
const executedMsAtOnce = 1000;
const executedMsBySilence = 5000;
const normalMsMax: Partial<Record<FaultName, number>> = { hang: 2000, blackhole: 2000, slow: 4000 };
/** CI's machine does much else meanwhile. */
const quickFactor = 3;

export const bench: Benchmark = {
  what: "From a fault of the active endpoint to failover.executed and to normal traffic: real processes, a fresh stack a run, the default policy, 300 calls a second through two routers.",
  notMeasured: "a network between the machines: everything runs on this one, and shares its cores with the load and the servers.",
  options: {
    runs: "runs a fault (default 20; quick 1)",
    fault: `one of ${Object.keys(faults).join(", ")} (default all; quick: kill and hang)`,
    kind: "http or mcp: what the upstream speaks (default http)",
    rate: "calls a second (default 300)",
    warm: "milliseconds of traffic before the fault (default 4000)",
  },
  async run({ args, say, quick }) {
    const names = faultNames(args["fault"], quick);
    const runs = wholeNumber(args, "runs", quick ? 1 : 20);
    const kind = args["kind"] ?? "http";
    if (kind !== "http" && kind !== "mcp") throw new RangeError(`--kind ${kind}: it is http or mcp`);
    const options = { kind, callsPerSecond: wholeNumber(args, "rate", 300), warmMs: wholeNumber(args, "warm", 4000) } as const;
    const done: DetectionRun[] = [];
    // Round by round, so that a change of the machine's load meets every fault.
    for (let run = 1; run <= runs; run += 1) {
      for (const fault of names) {
        const result = await runDetection(fault, run, options).catch((error: unknown) => {
          // The others still say something; that this one did not is a bound of its own.
          say(`${fault} ${run}: BROKEN OFF: ${error instanceof Error ? error.message : String(error)}`);
          return null;
        });
        if (result === null) continue;
        done.push(result);
        const { executedMs, normalMs, failed, unknown, unanswered, duplicates, slowestMs, calls, phases, busy, beforeP95Ms } = result;
        const went = Object.entries(phases).map(([name, ms]) => `${name} ${ms ?? "-"}`);
        say(
          `${fault} ${run}: executed ${executedMs ?? "never"} ms (${went.join(", ")}), normal ${normalMs} ms; of ${calls} calls ${failed} failed, ${unknown} unknown, ${unanswered} unanswered, ${duplicates} twice, slowest ${slowestMs} ms`,
        );
        if (busy) say(`  the machine was too busy for this rate: before the fault already p95 was ${beforeP95Ms} ms`);
        for (const [reason, count] of Object.entries(result.reasons)) say(`  ${count} x ${reason}`);
      }
    }
    say(`\n${summary(names, done)}`);
    const bounds = names.flatMap((fault) => boundsOf(fault, of(done, fault), quick ? quickFactor : 1));
    const whole = atLeast("runs that were measured", done.length, runs * names.length, "runs");
    return { ratios: {}, runs: done, bounds: [...bounds, whole] };
  },
};

function faultNames(wanted: string | undefined, quick: boolean): readonly FaultName[] {
  // Numeric keys come first in an object; this order is that of the issue.
  const all: readonly FaultName[] = ["kill", "refused", "hang", 503, "reset", "slow", "blackhole"];
  if (wanted === undefined) return quick ? ["kill", "hang"] : all;
  const found = wanted.split(",").map((name) => all.find((fault) => String(fault) === name));
  if (found.includes(undefined)) throw new RangeError(`--fault ${wanted}: it is one of ${all.join(", ")}`);
  return found as FaultName[];
}

const of = (runs: readonly DetectionRun[], fault: FaultName): readonly DetectionRun[] => runs.filter((run) => run.fault === String(fault));
const executedOf = (runs: readonly DetectionRun[]): number[] => runs.map(({ executedMs }) => executedMs ?? Number.POSITIVE_INFINITY);

function boundsOf(fault: FaultName, runs: readonly DetectionRun[], factor: number): Bound[] {
  const normal = normalMsMax[fault];
  const executed = (normal === undefined ? executedMsAtOnce : executedMsBySilence) * factor;
  const bounds = [
    atMost(`${fault}: worst until failover.executed`, Math.max(...executedOf(runs)), executed, "ms"),
    atMost(`${fault}: writes that ran twice`, Math.max(...runs.map(({ duplicates }) => duplicates)), 0, "calls"),
  ];
  if (normal !== undefined)
    bounds.push(
      atMost(`${fault}: worst until traffic is normal`, Math.max(...runs.map(({ normalMs }) => normalMs)), normal * factor, "ms"),
    );
  return bounds;
}

function summary(names: readonly FaultName[], done: readonly DetectionRun[]): string {
  const rows = names.map((fault) => {
    const runs = of(done, fault);
    const executed = executedOf(runs);
    const normal = runs.map(({ normalMs }) => normalMs);
    const sum = (pick: (run: DetectionRun) => number): string => String(runs.reduce((total, run) => total + pick(run), 0));
    return [
      String(fault),
      String(runs.length),
      String(quantile(executed, 0.5)),
      String(Math.max(...executed)),
      String(quantile(normal, 0.5)),
      String(Math.max(...normal)),
      sum(({ calls }) => calls),
      sum(({ failed }) => failed),
      sum(({ unknown }) => unknown),
      sum(({ duplicates }) => duplicates),
    ];
  });
  const headings = ["fault", "runs", "executed ms: median", "worst", "normal ms: median", "worst", "calls", "failed", "unknown", "twice"];
  return table(headings, rows);
}
