import { countsOf, type Difference, differencesOf, flakyOf } from "./compare.ts";
import { type Outcome, runSuite, type Suite, suites } from "./suites.ts";
import type { ConformanceWorld, Sdk } from "./world.ts";

/** What one suite gave for one fixture, directly and through the router. */
export interface Report {
  readonly sdk: Sdk;
  readonly suite: string;
  readonly runs: number;
  readonly scenarios: number;
  readonly checks: number;
  /** Checks that fail directly too. */
  readonly failedDirectly: number;
  readonly differences: readonly (Difference & { readonly run: number })[];
  /** Moves that the failover-controller decided by itself, each after its active endpoint was killed. */
  readonly moves: number;
  /** Scenarios that differed once, and not when they were run again. */
  readonly unsteady: readonly string[];
  /** Scenarios that differ between direct runs. */
  readonly flaky: readonly string[];
}

export interface ConformanceOptions {
  readonly times: number;
  /** The active endpoint is killed and the route moved before each scenario. */
  readonly isSwitched: boolean;
  /** Null: all of them. */
  readonly scenarios: readonly string[] | null;
  readonly sdks: readonly Sdk[];
  /** Part of a suite's name. */
  readonly suite: string | null;
  readonly say: (line: string) => void;
}

/** Runs the suites directly and through the router, `times` times, and compares them check by check. */
export async function compareConformance(world: ConformanceWorld, options: ConformanceOptions): Promise<Report[]> {
  const reports: Report[] = [];
  for (const sdk of options.sdks) {
    for (const suite of suites) {
      if (!suite.fixtures.includes(sdk) || (options.suite !== null && !suite.name.includes(options.suite))) continue;
      const report = await compareOne(world, sdk, suite, options);
      if (report.scenarios > 0) reports.push(report);
    }
  }
  return reports;
}

const againMax = 2;

async function compareOne(world: ConformanceWorld, sdk: Sdk, suite: Suite, options: ConformanceOptions): Promise<Report> {
  const direct: Outcome[] = [];
  const differences: (Difference & { run: number })[] = [];
  let moves = 0;
  const unsteady = new Set<string>();
  const routedOnce = async (scenarios: readonly string[] | null): Promise<Outcome> => {
    if (!options.isSwitched) return runSome(suite, world.routedUrl(sdk), scenarios);
    const switched = await runSwitched(world, sdk, suite, scenarios ?? [...(direct[0]?.keys() ?? [])]);
    moves += switched.moves;
    return switched.outcome;
  };
  for (let run = 1; run <= options.times; run++) {
    direct.push(await runSome(suite, world.directUrl(sdk), options.scenarios));
    let found = differencesOf(direct, await routedOnce(options.scenarios));
    // Some scenarios wait for less than a second: on a busy machine that is no word about the router. One that differs every time is.
    for (let again = 1; again <= againMax && found.length > 0; again++) {
      const names = found.map(({ scenario }) => scenario);
      const routed = await routedOnce(names);
      const still = new Set(differencesOf(direct, routed).map(({ scenario }) => scenario));
      found = found.filter(({ scenario }) => still.has(scenario));
      for (const name of names) if (!found.some(({ scenario }) => scenario === name)) unsteady.add(name);
    }
    differences.push(...found.map((difference) => ({ ...difference, run })));
    options.say(
      `${sdk}, ${suite.name}, run ${run} of ${options.times}: ${found.length === 0 ? "no difference" : `${found.length} differ`}`,
    );
  }
  const { scenarios, checks, failed } = countsOf(direct[0] ?? new Map());
  return {
    sdk,
    suite: suite.name,
    runs: options.times,
    scenarios,
    checks,
    failedDirectly: failed,
    differences,
    moves,
    unsteady: [...unsteady].sort(),
    flaky: flakyOf(direct),
  };
}

async function runSome(suite: Suite, url: string, scenarios: readonly string[] | null): Promise<Outcome> {
  if (scenarios === null) return runSuite(suite, url);
  const outcome = new Map<string, readonly string[]>();
  for (const scenario of scenarios) for (const [name, checks] of await runSuite(suite, url, scenario)) outcome.set(name, checks);
  return outcome;
}

/** Before each scenario the active endpoint is killed, and the fleet moves to the other one. */
async function runSwitched(
  world: ConformanceWorld,
  sdk: Sdk,
  suite: Suite,
  scenarios: readonly string[],
): Promise<{ outcome: Outcome; moves: number }> {
  const outcome = new Map<string, readonly string[]>();
  let moves = 0;
  for (const scenario of scenarios) {
    const { automatic } = await world.killAndSwitch(sdk);
    if (automatic) moves += 1;
    for (const [name, checks] of await runSuite(suite, world.routedUrl(sdk), scenario)) outcome.set(name, checks);
  }
  return { outcome, moves };
}
