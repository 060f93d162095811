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
  /** Scenarios that differ between direct runs. */
  readonly flaky: readonly string[];
}

export interface ConformanceOptions {
  readonly times: number;
  /** The active endpoint is killed and the route moved before each scenario. */
  readonly isSwitched: boolean;
  readonly scenario: string | null;
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

async function compareOne(world: ConformanceWorld, sdk: Sdk, suite: Suite, options: ConformanceOptions): Promise<Report> {
  const direct: Outcome[] = [];
  const differences: (Difference & { run: number })[] = [];
  for (let run = 1; run <= options.times; run++) {
    direct.push(await runSuite(suite, world.directUrl(sdk), options.scenario));
    const scenarios = [...(direct[0]?.keys() ?? [])];
    const routed = options.isSwitched
      ? await runSwitched(world, sdk, suite, scenarios)
      : await runSuite(suite, world.routedUrl(sdk), options.scenario);
    const found = differencesOf(direct, routed);
    differences.push(...found.map((difference) => ({ ...difference, run })));
    options.say(
      `${sdk}, ${suite.name}, run ${run} of ${options.times}: ${found.length === 0 ? "no difference" : `${found.length} differ`}`,
    );
  }
  const { scenarios, checks, failed } = countsOf(direct[0] ?? new Map());
  return { sdk, suite: suite.name, runs: options.times, scenarios, checks, failedDirectly: failed, differences, flaky: flakyOf(direct) };
}

async function runSwitched(world: ConformanceWorld, sdk: Sdk, suite: Suite, scenarios: readonly string[]): Promise<Outcome> {
  const outcome = new Map<string, readonly string[]>();
  for (const scenario of scenarios) {
    await world.killAndSwitch(sdk);
    for (const [name, checks] of await runSuite(suite, world.routedUrl(sdk), scenario)) outcome.set(name, checks);
  }
  return outcome;
}
