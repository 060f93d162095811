import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { memoryBroker } from "@mcp-failover/bus";
import { testKit } from "@mcp-failover/service-kit/testing";
import { revertUntilGone } from "../src/stack.ts";

test("a kill that takes effect after the first start is taken back by the next, and not left to its lease", async (t: TestContext) => {
  const broker = memoryBroker();
  const launcher = broker.connect();
  const bus = broker.connect();
  let state: "running" | "backing_off" = "running";
  let starts = 0;
  const info = () => ({
    name: "shop-primary",
    kind: "upstream" as const,
    pid: state === "running" ? 1 : null,
    state,
    restarts: 0,
    endpoint: "shop/primary",
    faultProxy: null,
  });
  await launcher.serve({
    name: "launcher",
    instance: "launcher-1",
    version: "0.1.0",
    description: "double",
    handlers: {
      "launcher.start": async () => {
        starts += 1;
        state = starts === 1 ? "backing_off" : "running";
        return info();
      },
      // Another one that runs proves nothing.
      "launcher.processes": async () => ({
        processes: [{ ...info(), name: "shop-secondary", state: "running" as const, pid: 2 }, info()],
      }),
    },
  });
  t.after(() => Promise.all([launcher.close(), bus.close()]));
  const kit = testKit({ service: "chaos-runner", bus, instance: "chaos-runner-1", config: {} });
  const startedMs = performance.now();
  assert.equal(await revertUntilGone(kit, { kind: "kill", process: "shop-primary" }, new AbortController().signal), true);
  assert.equal(starts, 2);
  assert.ok(performance.now() - startedMs < 5000);
});
