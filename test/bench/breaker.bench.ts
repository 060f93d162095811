// What a call through a breaker costs, beside opossum and cockatiel with the same features on.
import { createBreaker } from "@mcp-failover/client";
import { bulkhead, circuitBreaker, fallback, handleAll, SamplingBreaker, TimeoutStrategy, timeout, wrap } from "cockatiel";
import CircuitBreaker from "opossum";
import { atMost, type Benchmark, type Measured, quantile, wholeNumber } from "./benchmark.ts";

/** One set of figures for all three. */
const timeoutMs = 10_000;
const windowMs = 10_000;
const openMs = 30_000;
const share = 0.5;
const minimumCalls = 20;
const concurrencyMax = 100;

type Call = () => Promise<unknown>;
type Work = (signal: () => AbortSignal | undefined) => Promise<number>;
type Subject = (work: Work, withTimeout: boolean) => Call;

const subjects: Readonly<Record<string, Subject>> = {
  bare: (work) => () => work(() => undefined),
  ours(work, withTimeout) {
    const breaker = createBreaker<number>({
      timeoutMs: withTimeout ? timeoutMs : null,
      windowMs,
      buckets: 10,
      minimumCalls,
      failureRatio: share,
      openMs,
      halfOpenCalls: 1,
      concurrencyMax,
      queueMax: 0,
      fallback: () => -1,
    });
    return () => breaker.execute((context) => work(() => context.signal));
  },
  opossum(work, withTimeout) {
    const breaker = new CircuitBreaker(() => work(() => undefined), {
      timeout: withTimeout ? timeoutMs : false,
      rollingCountTimeout: windowMs,
      rollingCountBuckets: 10,
      volumeThreshold: minimumCalls,
      errorThresholdPercentage: share * 100,
      resetTimeout: openMs,
      capacity: concurrencyMax,
      // What it has beyond the others is off.
      rollingPercentilesEnabled: false,
      enableSnapshots: false,
    });
    breaker.fallback(() => -1);
    return () => breaker.fire();
  },
  cockatiel(work, withTimeout) {
    const outer = [
      fallback(handleAll, -1),
      bulkhead(concurrencyMax, 0),
      circuitBreaker(handleAll, {
        halfOpenAfter: openMs,
        breaker: new SamplingBreaker({ threshold: share, duration: windowMs, minimumRps: minimumCalls / (windowMs / 1000) }),
      }),
    ] as const;
    if (!withTimeout) {
      const policy = wrap(...outer);
      return () => policy.execute(() => work(() => undefined));
    }
    const policy = wrap(...outer, timeout(timeoutMs, TimeoutStrategy.Aggressive));
    return () => policy.execute(({ signal }) => work(() => signal));
  },
};

const answer: Work = async () => 1;
const cases: Readonly<Record<string, { withTimeout: boolean; atOnce: number; work: Work; compared: readonly string[] }>> = {
  "time-out on": { withTimeout: true, atOnce: 1, work: answer, compared: ["opossum", "cockatiel"] },
  "time-out off": { withTimeout: false, atOnce: 1, work: answer, compared: ["opossum", "cockatiel"] },
  // A call that waits for its turn of the event loop, 50 side by side.
  "time-out on, 50 at once": {
    withTimeout: true,
    atOnce: 50,
    work: () => new Promise((resolve) => setImmediate(resolve, 1)),
    compared: ["opossum", "cockatiel"],
  },
  // opossum makes no signal for a call, so it is no match here.
  "time-out on, signal read": {
    withTimeout: true,
    atOnce: 1,
    work: async (signal) => (signal()?.aborted ? 0 : 1),
    compared: ["cockatiel"],
  },
};

async function run({ args, quick, say }: Parameters<Benchmark["run"]>[0]): Promise<Measured> {
  const rounds = wholeNumber(args, "rounds", quick ? 11 : 61);
  const calls = wholeNumber(args, "calls", 5000);
  const runs: object[] = [];
  const ratios: Record<string, number> = {};
  const bounds: Measured["bounds"][number][] = [];
  for (const [name, { withTimeout, atOnce, work, compared }] of Object.entries(cases)) {
    const made = Object.entries(subjects).map(([subject, make]) => ({ subject, call: make(work, withTimeout) }));
    const costs = new Map(made.map(({ subject }) => [subject, [] as number[]]));
    // The first rounds are warming up.
    for (let round = -Math.ceil(rounds / 4); round < rounds; round += 1) {
      // Another one begins each round, so that none always follows the same one's garbage.
      for (let turn = 0; turn < made.length; turn += 1) {
        const { subject, call } = made[(turn + round + rounds) % made.length] as (typeof made)[number];
        const cost = await nanosecondsPerCall(call, calls, atOnce);
        if (round >= 0) costs.get(subject)?.push(cost);
      }
    }
    const median = (subject: string): number => quantile(costs.get(subject) ?? [], 0.5);
    runs.push({
      case: name,
      rounds,
      calls,
      nanoseconds: Object.fromEntries(made.map(({ subject }) => [subject, Math.round(median(subject))])),
    });
    say(`${name}: ${made.map(({ subject }) => `${subject} ${median(subject).toFixed(0)} ns`).join(", ")}`);
    const ours = costs.get("ours") ?? [];
    for (const other of compared) {
      // Of the same round, so that a noisy moment of the machine meets both.
      const ratio = quantile(
        ours.map((cost, round) => cost / (costs.get(other)?.[round] ?? Number.NaN)),
        0.5,
      );
      ratios[`${name}: ours / ${other}`] = ratio;
      // The short version holds to what has to be shown; the others need more rounds than it has.
      if (!quick || atOnce === 1) bounds.push(atMost(`${name}: ours / ${other}`, ratio, 1, "x"));
    }
  }
  return { ratios, runs, bounds };
}

async function nanosecondsPerCall(call: Call, calls: number, atOnce: number): Promise<number> {
  const before = process.cpuUsage();
  if (atOnce === 1) for (let count = 0; count < calls; count += 1) await call();
  else for (let count = 0; count < calls; count += atOnce) await Promise.all(Array.from({ length: atOnce }, call));
  // What was left to the event loop is part of the price.
  await new Promise((resolve) => setImmediate(resolve));
  // Processor time of all threads, garbage collection with it: other programs of the machine do not count.
  const { user, system } = process.cpuUsage(before);
  return ((user + system) * 1000) / calls;
}

export const bench: Benchmark = {
  what: "Processor time of a successful call through the SDK's breaker, opossum and cockatiel, each with rolling window, half-open, fallback, a bulkhead of 100, and time-outs on or off; medians of interleaved rounds.",
  notMeasured:
    "Calls that fail or are refused, memory, what a real call costs beside (hundreds of microseconds), and the fleet's `execute`, which does more.",
  options: { rounds: "rounds of each", calls: "calls a round" },
  run,
};
