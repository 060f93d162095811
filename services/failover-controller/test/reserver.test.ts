import assert from "node:assert/strict";
import { test } from "node:test";
import { topology } from "@mcp-failover/contracts";
import type { Want } from "@mcp-failover/domain";
import { Knowledge } from "../src/knowledge.ts";
import { Reserver } from "../src/reserver.ts";
import { upstreamOf } from "./fleet-double.ts";

test("an upstream that is taken out of the configuration while it asks for a place keeps none of those that ask with it from theirs", async () => {
  const knowledge = new Knowledge();
  const configure = (...names: string[]): void => {
    const upstreams = Object.fromEntries(names.map((name) => [name, upstreamOf(["primary", "secondary"])]));
    knowledge.audit = { ...knowledge.audit, config: { version: 1, environment: "development", topology: topology.parse({ upstreams }) } };
  };
  configure("a", "b", "c", "d");
  const stored = Promise.withResolvers<void>();
  const reserver = new Reserver({
    knowledge,
    decider: { decisionMs: () => 1_000_000, foldedSeq: () => 0 },
    publish: async () => {
      await stored.promise;
      return { outcome: "won" };
    },
  });
  const route = { epoch: 1, from: "primary", to: "secondary", toBackup: true };
  const want = (upstream: string): Want => ({
    upstream,
    ...route,
    critical: true,
    sinceMs: 0,
    failback: false,
    operator: false,
    force: false,
  });
  const first = reserver.reserve(want("a"));
  // In the same turn it would be in the same decision.
  await new Promise((resolve) => setImmediate(resolve));
  const others = Promise.all(["b", "c", "d"].map((upstream) => reserver.reserve(want(upstream))));
  configure("a", "b", "d");
  stored.resolve();
  assert.equal((await first).granted, true);
  assert.deepEqual(
    (await others).map(({ granted, reason }) => [granted, reason.includes(" of 10 automatic moves")]),
    [
      [true, true],
      [false, false],
      [true, true],
    ],
  );
});
