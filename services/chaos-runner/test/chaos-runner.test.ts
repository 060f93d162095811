import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { memorySeams } from "@mcp-failover/bus/internal";
import { type ChaosFinished, chaosFinished } from "@mcp-failover/contracts";
import { until } from "./stack-double.ts";
import { codeOf, failedChecks, startRunner, world } from "./world.ts";

describe("experiments", { concurrency: 5 }, () => {
  test("the active process is killed, the upstream moves, calls go on: every check passes, and all of it is on record in order", async (t) => {
    const { stack, run } = await world(t);
    const result = await run({});
    assert.deepEqual(failedChecks(result), []);
    assert.equal(result.success, true);
    assert.equal(result.error, null);
    assert.ok(
      result.recoveryTime !== null && result.recoveryTime >= 150 && result.recoveryTime < 8000,
      `recovered in ${result.recoveryTime} ms`,
    );
    assert.deepEqual(stack.asked, ["kill shop-primary 22000", "start shop-primary"], "the supervisor's restart is the lease");
    const said = await stack.said();
    assert.deepEqual(
      said.map(({ type }) => type),
      ["command.accepted", "chaos.started", "chaos.injected", "chaos.reverted", "chaos.finished"],
    );
    const started = said[1]!;
    assert.ok(started.type === "chaos.started");
    assert.equal(started.data.plan.revert, "start the process shop-primary");
    assert.equal(result.baseline?.failed, 0);
    assert.equal(result.baseline?.calls, 20);
    assert.equal(result.baseline?.services["shop"]?.active, "primary");
    assert.equal(result.finalState?.services["shop"]?.active, "secondary");
    assert.equal(result.finalState?.services["shop"]?.epoch, 1);
    assert.equal(result.duration, result.endTime - result.startTime);
  });

  test("an upstream that is held does not recover: the fault ends after its duration, and the verdict names the check recovered", async (t) => {
    const { stack, run } = await world(t);
    stack.held = true;
    const result = await run({ options: { durationMs: 1500 } });
    assert.equal(result.success, false);
    assert.match(result.error ?? "", /^the check recovered failed: without primary/);
    assert.equal(result.recoveryTime, null);
    assert.equal(result.validation.noDataLoss, true, "reads went to the other endpoint");
    assert.deepEqual(failedChecks(result), ["recovered", "recoveredBeforeRevert", "performanceWithinThreshold"]);
    assert.deepEqual(stack.asked, ["kill shop-primary 3500", "start shop-primary"]);
    assert.equal(stack.down.size, 0);
  });

  test("an upstream that the failover-controller would not move is told with its rule and its words, and not with those of an earlier time", async (t) => {
    const { stack, run } = await world(t);
    await stack.refuse("moves_per_hour", "an earlier one");
    stack.held = true;
    const before = await run({ options: { durationMs: 1000 } });
    assert.doesNotMatch(before.error ?? "", /refused/);
    stack.refusal = { rule: "cooldown", reason: "it was moved already, and the cool-down lasts until noon" };
    const result = await run({ options: { durationMs: 1000 } });
    assert.match(
      result.error ?? "",
      /^the check recovered failed: .*; the failover-controller refused to move it \(cooldown\): it was moved already, and the cool-down lasts until noon$/,
    );
  });

  test("slow answers that nobody shields the callers from are over after the revert, and the verdict says that", async (t) => {
    const { stack, run } = await world(t);
    const result = await run({ scenario: "slowResponse", options: { delayMs: 1000, durationMs: 1500 } });
    assert.deepEqual(stack.asked, ["slow shop-primary 1000 3500", "clear shop-primary"]);
    assert.match(result.error ?? "", /^the check recoveredBeforeRevert failed/);
    assert.deepEqual(failedChecks(result), ["recoveredBeforeRevert"]);
    assert.ok((result.recoveryTime ?? 0) > 1500);
    const during = result["during"] as NonNullable<ChaosFinished["baseline"]>;
    assert.ok(during.latencyMsP95! >= 1000, "the calls during the fault were slow");
    assert.ok(result.finalState!.latencyMsP95! < during.latencyMsP95!, "the calls after it were not");
  });

  test("slow answers of a standby disturb nobody: recovered at once", async (t) => {
    const { stack, run } = await world(t);
    const result = await run({ scenario: "slowResponse", options: { delayMs: 1000, endpoint: "secondary" } });
    assert.deepEqual(failedChecks(result), []);
    assert.deepEqual(stack.asked, ["slow shop-secondary 1000 22000", "clear shop-secondary"]);
  });

  test("one call that fails is noDataLoss failed, one answer that differs is dataIntegrity failed, a gap in the epochs too", async (t) => {
    const { stack, run } = await world(t);
    let served = 0;
    stack.answer = (endpoint) => {
      if (endpoint === "secondary") served += 1;
      if (served === 3 && endpoint === "secondary") throw new Error("lost it");
      return endpoint === "secondary" && served === 5 ? "stock: 8" : "stock: 7";
    };
    stack.noticeMs = 400;
    const result = await run({});
    assert.deepEqual(failedChecks(result), ["noDataLoss", "dataIntegrity"]);
    assert.match(result.error ?? "", /^the check noDataLoss failed: 1 of \d+ calls failed .*isError/);
    assert.match(result.validation.checks.find(({ name }) => name === "dataIntegrity")!.detail, /1 answers differ/);
    stack.answer = () => "stock: 7";
    stack.active = "primary";
    await until(
      () => stack.status().upstreams[0]!.endpoints[0]!.health,
      (health) => health === "healthy",
    );
    const gap = run({});
    await until(
      () => stack.down.size,
      (size) => size === 1,
    );
    await stack.decide(stack.epoch + 2);
    assert.deepEqual(failedChecks(await gap), ["dataIntegrity"]);
  });

  test("SIGTERM in the middle takes the fault back, and the experiment ends as failed, with the reason", async (t) => {
    const { stack, runner, ask } = await world(t);
    stack.held = true;
    const reply = ask({});
    await until(
      () => stack.down.size,
      (size) => size === 1,
    );
    await runner.stop();
    const result = await reply;
    assert.ok(result.ok);
    assert.match(chaosFinished.parse(result.result).error ?? "", /^the check completed failed: the chaos-runner was stopped/);
    assert.equal(stack.down.size, 0);
    assert.deepEqual(stack.asked, ["kill shop-primary 22000", "start shop-primary"]);
    assert.equal((await stack.said("chaos.finished")).length, 1);
  });

  test("a revert that the launcher refuses at first is tried until it is done", async (t) => {
    const { stack, run } = await world(t);
    stack.launcherRefuses = 2;
    const result = await run({});
    assert.deepEqual(failedChecks(result), []);
    assert.deepEqual(stack.asked.slice(1), ["start shop-primary", "start shop-primary", "start shop-primary"]);
  });

  test("a runner that comes back after a crash takes back what it had done, and finishes the experiment as failed, once", async (t) => {
    const { broker, stack, runner, ask } = await world(t);
    stack.held = true;
    const lost = ask({}).catch(() => null);
    await until(
      () => stack.said("chaos.injected"),
      ({ length }) => length === 1,
    );
    memorySeams(runner.bus).cut("the process is gone");
    await startRunner(t, broker, stack.routerUrl);
    const [finished] = await until(
      () => stack.said("chaos.finished"),
      ({ length }) => length === 1,
    );
    assert.ok(finished?.type === "chaos.finished");
    assert.equal(finished.data.success, false);
    assert.match(finished.data.error ?? "", /its chaos-runner ended before the experiment did/);
    assert.deepEqual(stack.asked, ["kill shop-primary 22000", "start shop-primary"]);
    assert.equal(stack.down.size, 0);
    await runner.stop();
    await lost;
    assert.equal((await stack.said("chaos.finished")).length, 1);
  });

  test("one experiment at a time: another command is refused by either runner, and a repeat gets the first answer", async (t) => {
    const { broker, stack, ask, run } = await world(t);
    await startRunner(t, broker, stack.routerUrl, "chaos-runner-2");
    const first = run({}, "command-1");
    await until(
      () => stack.said("chaos.injected"),
      ({ length }) => length === 1,
    );
    const refused = await Promise.all([ask({}), ask({}), ask({})]);
    assert.deepEqual(refused.map(codeOf), ["experiment_running", "experiment_running", "experiment_running"]);
    const result = await first;
    assert.deepEqual(await run({}, "command-1"), result);
    assert.deepEqual(await run({}, "command-1"), result, "from the log, whichever runner is asked");
    assert.equal(stack.asked.filter((what) => what.startsWith("kill")).length, 1);
    assert.equal((await stack.said("command.accepted")).length, 1);
  });
});

test("what cannot be done is refused by name, before anything is touched or written", async (t) => {
  const { stack, ask } = await world(t);
  const refusal = async (body: object): Promise<string> => {
    const reply = await ask(body);
    return reply.ok ? "ok" : `${reply.error.code}: ${reply.error.message}`;
  };
  assert.match(await refusal({ target: "shpo" }), /^unknown_upstream: no upstream "shpo" is configured; known: shop$/);
  assert.match(await refusal({ target: "constructor" }), /^unknown_upstream/);
  assert.match(await refusal({ scenario: "killAll" }), /^unknown_scenario: no scenario "killAll"; known: killService, slowResponse$/);
  assert.match(await refusal({ options: { endpoint: "third" } }), /^unknown_endpoint: .*known: primary, secondary$/);
  assert.match(await refusal({ options: { tool: "nope" } }), /^unknown_tool: shop has no tool "nope"; known: write, stock, objects$/);
  assert.match(await refusal({ options: { tool: "write" } }), /^no_canary_tool: write is not known to be read-only.*known: stock$/);
  assert.match(await refusal({ options: { tool: "objects" } }), /^no_canary_tool: the required arguments of objects cannot be made up/);
  assert.match(await refusal({ reason: " " }), /^bad_request: .*say why/);
  stack.down.add("primary").add("secondary");
  assert.match(await refusal({ options: { endpoint: "secondary" } }), /^no_process: the process shop-secondary is backing_off/);
  await until(
    () => stack.status().upstreams[0]!.endpoints[0]!.health,
    (health) => health === "unhealthy",
  );
  assert.match(await refusal({}), /^not_steady: .*its active endpoint primary is unhealthy/);
  stack.down.clear();
  await until(
    () => stack.status().upstreams[0]!.endpoints[0]!.health,
    (health) => health === "healthy",
  );
  stack.answer = () => {
    throw new Error("broken");
  };
  assert.match(await refusal({}), /^not_steady: .*a call of stock failed/);
  let count = 0;
  stack.answer = () => {
    count += 1;
    return `stock: ${count}`;
  };
  assert.match(await refusal({}), /^no_canary_tool: the answers of stock differ/);
  assert.deepEqual(stack.asked, []);
  assert.deepEqual(await stack.said(), []);
});
