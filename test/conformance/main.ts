// npm run conformance -- [--times 10] [--switch] [--scenario NAME] [--sdk v1|v2] [--suite PART]: the official suites, directly and through the router.
import { parseArgs } from "node:util";
import { closingLine } from "../../scripts/lib/test-count.mjs";
import { table } from "../bench/table.ts";
import { compareConformance } from "./conformance.ts";
import { type Sdk, startConformanceWorld } from "./world.ts";

const say = (line: string): void => void process.stdout.write(`${line}\n`);
const total = { passed: 0, failed: 0, skipped: 0 };
try {
  const { values } = parseArgs({
    options: {
      times: { type: "string", default: "1" },
      switch: { type: "boolean", default: false },
      scenario: { type: "string" },
      sdk: { type: "string" },
      suite: { type: "string" },
    },
  });
  const times = Number(values.times);
  if (!Number.isInteger(times) || times < 1) throw new RangeError(`--times ${values.times}: it is a whole number above 0`);
  const sdks = (["v1", "v2"] as const).filter((sdk): sdk is Sdk => values.sdk === undefined || values.sdk === sdk);
  if (sdks.length === 0) throw new RangeError(`--sdk ${values.sdk}: it is v1 or v2`);
  const world = await startConformanceWorld(sdks);
  try {
    const reports = await compareConformance(world, {
      times,
      sdks,
      say,
      isSwitched: values.switch,
      scenarios: values.scenario === undefined ? null : [values.scenario],
      suite: values.suite ?? null,
    });
    const rows = reports.map((report) => {
      const { sdk, suite, runs, scenarios, checks, failedDirectly, differences, moves, unsteady, flaky } = report;
      return [
        sdk,
        suite,
        ...[runs, scenarios, checks, failedDirectly, differences.length, moves].map(String),
        unsteady.join(" ") || "-",
        flaky.join(" ") || "-",
      ];
    });
    say(
      `\n${table(["fixture", "suite", "runs", "scenarios", "checks", "fail directly too", "differences", "moves", "differed once", "flaky directly"], rows)}`,
    );
    for (const { sdk, suite, differences } of reports) {
      for (const { run, scenario, onlyDirect, onlyRouted } of differences) {
        say(`DIFFERS: ${sdk}, ${suite}, run ${run}, ${scenario}`);
        for (const check of onlyDirect) say(`  directly: ${check}`);
        for (const check of onlyRouted) say(`  through the router: ${check}`);
      }
      if (differences.length > 0) total.failed += 1;
      else total.passed += 1;
    }
    if (reports.length === 0) throw new RangeError("no suite was chosen");
  } finally {
    await world.stop();
  }
} catch (error) {
  process.stderr.write(`npm run conformance: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  total.failed += 1;
}
say(closingLine(total));
process.exitCode = total.failed > 0 ? 1 : 0;
