import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { type ConformanceOptions, compareConformance } from "../conformance/conformance.ts";
import { type ConformanceWorld, startConformanceWorld } from "../conformance/world.ts";

describe("the official conformance suites", () => {
  let world: ConformanceWorld;
  const options: ConformanceOptions = { times: 1, isSwitched: false, scenario: null, sdks: ["v1"], suite: null, say: () => undefined };
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

  test("give the same while the active endpoint is killed and the route moves before each scenario", async () => {
    const reports = await compareConformance(world, { ...options, isSwitched: true, suite: "0.1.16" });
    assert.deepEqual(
      reports.map(({ scenarios, differences }) => [scenarios, differences]),
      [[32, []]],
    );
  });
});
