/**
 * One benchmark: a file `test/bench/<name>.bench.ts` that exports `bench`. It compares things side by side in one run, because a
 * figure by itself says more about the machine than about us.
 */
export interface Benchmark {
  /** One sentence: what is measured, and against what. */
  readonly what: string;
  /** One sentence: what a reader may not conclude from it. */
  readonly notMeasured: string;
  /** Its own options beside `--quick` and `--json`, by name, each with what it does. */
  readonly options?: Readonly<Record<string, string>>;
  run(context: BenchmarkContext): Promise<Measured>;
}

interface BenchmarkContext {
  /** What was said on the command line, by the names of {@link Benchmark.options}; an option without a value is "true". */
  readonly args: Readonly<Record<string, string>>;
  /** Shows progress. */
  say(line: string): void;
  /** The short version that CI runs: seconds, and bounds that a busy machine keeps. */
  readonly quick: boolean;
}

export interface Measured {
  /** Figures of two things that ran side by side, one divided by the other. */
  readonly ratios: Readonly<Record<string, number>>;
  /** What was measured, one entry a repetition. */
  readonly runs: readonly object[];
  readonly bounds: readonly Bound[];
}

/** What has to hold. */
export interface Bound {
  readonly name: string;
  readonly value: number;
  readonly limit: number;
  readonly unit: string;
  readonly held: boolean;
}

/** A bound that holds while the value is at most the limit. Never holds for a value that is no number. */
export function atMost(name: string, value: number, limit: number, unit: string): Bound {
  return { name: `${name} <=`, value, limit, unit, held: value <= limit };
}

/** A bound that holds while the value is at least the limit. */
export function atLeast(name: string, value: number, limit: number, unit: string): Bound {
  return { name: `${name} >=`, value, limit, unit, held: value >= limit };
}

/** A positive whole number among the arguments. Throws {@link RangeError} on anything else. */
export function wholeNumber(args: Readonly<Record<string, string>>, name: string, otherwise: number): number {
  const text = args[name];
  if (text === undefined) return otherwise;
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) throw new RangeError(`--${name} ${text}: it is a whole number above 0`);
  return value;
}

/** The value below which `share` (0 to 1) of the values lie (nearest rank); NaN for none. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(share * sorted.length) - 1))] ?? Number.NaN;
}
