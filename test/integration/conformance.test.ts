import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { promisify } from "node:util";
import { ROOT } from "../../scripts/lib/repo.mjs";
import { type ConformanceOptions, compareConformance } from "../conformance/conformance.ts";
import { type ConformanceWorld, startConformanceWorld } from "../conformance/world.ts";

describe("the official conformance suites", () => {
  let world: ConformanceWorld;
  const options: ConformanceOptions = { times: 1, isSwitched: false, scenarios: null, sdks: ["v1"], suite: null, say: () => undefined };
  before(async () => {
    world = await startConformanceWorld();
  });
  after(() => world.stop());

  for (const sdk of ["v1", "v2"] as const) {
    test(`give through the router what they give directly, check by check, for a server of SDK ${sdk}`, async () => {
      const reports = await compareConformance(world, { ...options, sdks: [sdk] });
      assert.deepEqual(
        reports.map(({ suite, scenarios, checks, differences }) => [suite, scenarios, checks, differences]),
        [["0.1.16", 32, 52, []], ["0.2 2025-11-25", 33, 91, []], ...(sdk === "v2" ? [["0.2 2026-07-28", 50, 196, []]] : [])],
      );
      // What a fixture fails directly is the tasks extension alone, which no revision scores.
      assert.deepEqual(
        reports.map(({ failedDirectly }) => failedDirectly),
        sdk === "v1" ? [0, 0] : [0, 0, 32],
      );
    });
  }

  test("give the same while the active endpoint is killed before each scenario and the failover-controller moves the route by itself", async () => {
    // Those that see most of sessions, streams and state; all of them: npm run conformance -- --switch.
    for (const [sdk, suite, scenarios] of [
      ["v1", "0.1.16", ["tools-call-sampling", "resources-subscribe"]],
      ["v2", "0.2 2026-07-28", ["tools-call-with-progress", "input-required-result-multi-round"]],
    ] as const) {
      const reports = await compareConformance(world, { ...options, isSwitched: true, sdks: [sdk], suite, scenarios });
      assert.deepEqual(
        reports.map(({ scenarios: ran, moves, differences }) => [ran, moves >= scenarios.length, differences]),
        [[scenarios.length, true, []]],
      );
    }
  });

  test("have company: the inspector's command line lists, calls and reads through the router what it does directly", async () => {
    // What `mcp-inspector --cli` runs; the rest of that package is a web page.
    const inspector = join(ROOT, "node_modules", "@modelcontextprotocol", "inspector-cli", "build", "index.js");
    const run = async (url: string, method: string, ...more: readonly string[]): Promise<unknown> => {
      const args = [inspector, url, "--transport", "http", "--method", method, ...more];
      const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 30_000 });
      return JSON.parse(stdout);
    };
    for (const args of [
      ["tools/list"],
      ["tools/call", "--tool-name", "test_multiple_content_types"],
      ["resources/read", "--uri", "test://static-text"],
      ["prompts/get", "--prompt-name", "test_prompt_with_arguments", "--prompt-args", "arg1=hello", "arg2=world"],
    ] as const) {
      const [method, ...more] = args;
      assert.deepEqual(await run(world.inspectorUrl, method, ...more), await run(world.directUrl("v1"), method, ...more));
    }
  });
});
