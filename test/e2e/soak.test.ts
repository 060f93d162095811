import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { cases } from "../soak/cases.ts";
import { problemsOf, soak, stillMoves } from "../soak/soak.ts";
import { type SoakWorld, startWorld } from "../soak/world.ts";

/** The short version of `npm run soak`, which gives each case a stack of its own, 10 minutes and 300 calls a second. */
const durationMs = 12_000;
const callsPerSecond = 100;

describe("what must move nothing moves nothing", { concurrency: false }, () => {
  let world: SoakWorld;
  before(async () => {
    world = await startWorld(callsPerSecond);
  });
  after(() => world?.stop());

  for (const one of cases) {
    test(`no failover while ${one.what}`, async (t) => {
      const result = await soak(world, one, durationMs, (line) => t.diagnostic(line));
      assert.deepEqual(problemsOf(one, result, callsPerSecond), []);
    });
  }

  test("and when the active endpoint is killed after all that, the upstream moves, once the clocks have been right for 30 s", async () => {
    await stillMoves(world, 60_000);
  });
});
