import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { makeEvent } from "@mcp-failover/contracts";
import { type StackDouble, until } from "./stack-double.ts";
import { codeOf, failedChecks, world } from "./world.ts";

const hasAsked = (stack: StackDouble, first: string) =>
  until(
    () => stack.asked,
    (asked) => asked.some((one) => one.startsWith(first)),
  );

/** What a runner left that was killed right after its injection. */
async function leaveExperiment(stack: StackDouble, forMs: number, kind = "slow"): Promise<void> {
  const fault = { kind, process: "shop-secondary", proxy: "shop-secondary", delayMs: 400 };
  const by = { kind: "operator", id: "bob" } as const;
  const plan = { process: "shop-secondary", inject: "-", revert: "-", expiresAtMs: Date.now() + forMs, fault };
  const timestamp = new Date().toISOString();
  const data = { experiment: "left", scenario: "slowResponse", target: "shop", options: {}, by, reason: "-", timestamp, plan } as const;
  stack.delayMs.set("secondary", fault.delayMs);
  const event = { type: "chaos.started", keys: ["left"], data, id: randomUUID(), service: "chaos-runner", instance: "gone" } as const;
  await stack.bus.append(makeEvent({ ...event, timeMs: Date.now() }));
}

describe("how long a fault lasts", { concurrency: 3 }, () => {
  test("a fault that ended before anybody took it back has shown nothing: no success, whatever recovered then", async (t) => {
    const slow = await world(t);
    const slowed = slow.run({ scenario: "slowResponse", options: { delayMs: 400, durationMs: 8000 } });
    await hasAsked(slow.stack, "slow ");
    // The fault proxy was started anew.
    slow.stack.delayMs.clear();
    const shown = await slowed;
    assert.equal(shown.success, false);
    assert.ok(failedChecks(shown).includes("faultLasted"), String(shown.error));

    const kill = await world(t);
    kill.stack.held = true;
    const killed = kill.run({ options: { durationMs: 8000 } });
    await until(
      () => kill.stack.status().upstreams[0]!.endpoints[0]!.health,
      (health) => health === "unhealthy",
    );
    // Seen by the runner too, ten times a second. Then somebody started it again.
    await sleep(1000);
    kill.stack.down.clear();
    const { success, validation } = await killed;
    assert.equal(success, false);
    const { detail } = validation.checks.find(({ name }) => name === "faultLasted")!;
    assert.match(detail, /^the fault on primary was gone before it was taken back: what was seen then is no recovery$/);
  });

  test("a fault's lease is not longer than anybody watches: so long it would outlive a runner that dies, and the longest is no lease at all", async (t) => {
    const { stack, run } = await world(t);
    const { error } = await run({ scenario: "slowResponse", options: { delayMs: 300, durationMs: 900_000, maxWaitMs: 2000 } });
    assert.doesNotMatch(error ?? "", /could not be injected/);
    assert.deepEqual(stack.asked, ["slow shop-primary 300 4000", "clear shop-primary"]);
  });

  test("what another runner left is taken back before anything else is broken", async (t) => {
    const { stack, ask } = await world(t);
    await leaveExperiment(stack, 60_000);
    const reply = await until(
      () => ask({ options: { durationMs: 1000 } }),
      (answer) => codeOf(answer) !== "experiment_running",
      30_000,
    );
    assert.equal(codeOf(reply), "ok");
    assert.deepEqual(stack.asked.slice(0, 2), ["clear shop-secondary", "kill shop-primary 3000"]);
    const ended = await stack.said("chaos.finished");
    assert.equal(ended[0]?.type === "chaos.finished" && ended[0].data.experiment, "left");
  });

  test("what a runner left and nobody knows how to take back is waited for until its lease is over, and never said to be reverted", async (t) => {
    const { stack, ask } = await world(t);
    await leaveExperiment(stack, 4000, "of a later version");
    const reply = await until(
      () => ask({}),
      (answer) => !answer.ok && answer.error.message.includes("is not seen to be gone yet"),
      3500,
    );
    assert.equal(codeOf(reply), "experiment_running");
    assert.deepEqual([stack.asked, await stack.said("chaos.finished")], [[], []]);
    const [ended] = await until(
      () => stack.said("chaos.finished"),
      ({ length }) => length === 1,
    );
    assert.ok(ended?.type === "chaos.finished");
    assert.ok(failedChecks(ended.data).includes("reverted"), String(ended.data.error));
    assert.deepEqual(await stack.said("chaos.reverted"), []);
  });

  test("a fault whose answer is lost may have begun: it is taken back", async (t) => {
    const { stack, run } = await world(t);
    stack.losesKill = true;
    const { error } = await run({});
    assert.match(error ?? "", /the fault could not be injected/);
    assert.deepEqual([stack.asked, stack.down.size], [["kill shop-primary 22000", "start shop-primary"], 0]);
  });
});
