import { spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { tempDir } from "@mcp-failover/testkit";
import { ROOT } from "../../scripts/lib/repo.mjs";

/** A set of scenarios of one version of the official conformance suite. */
export interface Suite {
  readonly name: string;
  /** Arguments that choose it. */
  readonly chosenBy: readonly string[];
  readonly program: string;
  /** Fixtures that it is run against. */
  readonly fixtures: readonly ("v1" | "v2")[];
}

const first = join(ROOT, "node_modules", "@modelcontextprotocol", "conformance", "dist", "index.js");
const second = join(ROOT, "node_modules", "conformance-02", "dist", "index.js");

export const suites: readonly Suite[] = [
  { name: "0.1.16", program: first, chosenBy: ["--suite", "all"], fixtures: ["v1", "v2"] },
  { name: "0.2 2025-11-25", program: second, chosenBy: ["--requirements", "2025-11-25", "--timeout", "15000"], fixtures: ["v1", "v2"] },
  { name: "0.2 2026-07-28", program: second, chosenBy: ["--requirements", "2026-07-28", "--timeout", "15000"], fixtures: ["v2"] },
];

/** Scenario -> its checks as `id: STATUS`, sorted; a check that was made twice is there twice. */
export type Outcome = ReadonlyMap<string, readonly string[]>;

const runMsMax = 180_000;

/** Runs a suite, or one scenario of it, and reads what it wrote: its exit code says less (unscored scenarios do not count there). */
export async function runSuite(suite: Suite, url: string, scenario: string | null = null): Promise<Outcome> {
  const dir = await tempDir("mcpf-conformance-");
  try {
    const chosenBy = scenario === null ? suite.chosenBy : [...oneScenario(suite), "--scenario", scenario];
    const said = await run(suite.program, ["server", "--url", url, ...chosenBy, "-o", dir.path]);
    const outcome = new Map<string, readonly string[]>();
    for (const name of readdirSync(dir.path)) {
      const scenarioOf = /^server-(.+)-\d{4}-\d\d-\d\dT/.exec(name)?.[1];
      if (scenarioOf === undefined) continue;
      const checks = JSON.parse(readFileSync(join(dir.path, name, "checks.json"), "utf8")) as { id: string; status: string }[];
      outcome.set(scenarioOf, checks.map(({ id, status }) => `${id}: ${status}`).sort());
    }
    if (outcome.size === 0) throw new Error(`the conformance suite ${suite.name} wrote no result:\n${said.slice(-2000)}`);
    return outcome;
  } finally {
    await dir.remove();
  }
}

/** With `--scenario` the wire version has to be said where `--requirements` said it. */
function oneScenario({ chosenBy }: Suite): readonly string[] {
  const at = chosenBy.indexOf("--requirements");
  return at < 0 ? [] : ["--spec-version", chosenBy[at + 1] as string, "--force", ...chosenBy.slice(at + 2)];
}

function run(program: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [program, ...args], { stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text: string) => (output += text));
    const late = setTimeout(() => child.kill("SIGKILL"), runMsMax);
    child.once("error", reject);
    child.once("close", () => {
      clearTimeout(late);
      resolve(output);
    });
  });
}
