import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { type RunningStack, startStack } from "../harness/stack.ts";
import { until } from "../harness/wait.ts";

describe("rehearsals", { concurrency: false }, () => {
  let stack: RunningStack;
  before(async () => {
    stack = await startStack({
      // Rehearsed several times in a minute, which the default cool-down and limit rightly forbid.
      edit: (config) => {
        config.failover = { cooldown_ms: 0, moves_per_hour: 100 };
      },
    });
  });
  after(async () => {
    await stack?.stop();
  });

  const allHealthy = () =>
    until(
      async () => (await stack.status()).upstreams.every(({ endpoints }) => endpoints.every(({ health }) => health === "healthy")),
      40_000,
      "all endpoints are healthy",
    );
  const run = async (...args: string[]) =>
    stack.mcpf(["chaos", "run", ...args, "--reason", "rehearsal", "--yes", "-o", "json"], { timeoutMs: 120_000 });

  test("killService reports baseline, recovery time and the three validations, and puts back what it killed", async () => {
    const ran = await run("killService", "everything", "--duration-ms", "8000", "--max-wait-ms", "15000");
    const result = ran.json();
    assert.equal(ran.code, 0, ran.stdout + ran.stderr);
    assert.ok(result.baseline.calls > 0 && result.baseline.failed === 0);
    assert.ok(result.recoveryTime > 0 && result.recoveryTime < 8000, `recovery took ${result.recoveryTime} ms`);
    assert.deepEqual(
      [result.validation.dataIntegrity, result.validation.performanceWithinThreshold, result.validation.noDataLoss, result.success],
      [true, true, true, true],
    );
    await allHealthy();
  });

  test("slowResponse does the same, and no delay is left", async () => {
    const ran = await run("slowResponse", "warehouse", "--delay-ms", "1500", "--duration-ms", "8000", "--max-wait-ms", "20000");
    const result = ran.json();
    assert.ok(result.baseline.calls > 0, ran.stdout);
    assert.ok(result.recoveryTime !== null, ran.stdout);
    const { checks, ...validation } = result.validation;
    assert.deepEqual(Object.keys(validation).toSorted(), ["dataIntegrity", "noDataLoss", "performanceWithinThreshold"]);
    // How fast it is afterwards, and whether it moved before the fault was gone, is the machine's to say; no noise loses a call.
    const passed = (name: string): boolean =>
      checks.some((check: { name: string; passed: boolean }) => check.name === name && check.passed);
    for (const name of ["recovered", "noDataLoss", "dataIntegrity", "reverted"]) assert.ok(passed(name), `${name}: ${ran.stdout}`);
    assert.deepEqual([validation.noDataLoss, validation.dataIntegrity], [true, true]);
    const allPassed = checks.every((check: { passed: boolean }) => check.passed);
    assert.deepEqual([result.success, result.error === null, ran.code], [allPassed, allPassed, allPassed ? 0 : 1], ran.stdout);
    const faults = await stack.bus.request("fault.list", {}, { timeoutMs: 2000 });
    assert.ok(faults.ok, JSON.stringify(faults));
    const { proxies } = faults.result as { proxies: { proxy: string; fault: unknown }[] };
    const left = proxies.filter(({ proxy }) => proxy.startsWith("warehouse-")).map(({ proxy, fault }) => [proxy, fault]);
    assert.deepEqual(left.toSorted(), [
      ["warehouse-primary", null],
      ["warehouse-secondary", null],
    ]);
    await allHealthy();
  });

  test("with the upstream held it is refused; with force it is run, on record, and the verdict is failed, and names the check", async () => {
    assert.equal((await stack.mcpf(["hold", "everything", "--reason", "to see the rehearsal fail", "--yes"])).code, 0);
    const refused = await run("killService", "everything");
    assert.notEqual(refused.code, 0);
    assert.match(
      refused.stdout + refused.stderr,
      /everything is held .* \(to see the rehearsal fail\); release it first, or order it with `force`/,
    );
    const ran = await run("killService", "everything", "--duration-ms", "6000", "--max-wait-ms", "5000", "--force");
    const result = ran.json();
    assert.equal(ran.code, 1, ran.stdout);
    assert.equal(result.success, false);
    assert.ok(
      result.validation.checks.some((check: { name: string; passed: boolean }) => check.name === "recovered" && !check.passed),
      ran.stdout,
    );
    assert.match(result.error, /recovered/);
    let started = "";
    for await (const { content } of stack.bus.read("AUDIT", { filter: `chaos.started.${result.experiment}` }))
      started = content.kind === "event" ? JSON.stringify(content.event.data) : "";
    assert.deepEqual(JSON.parse(started).overrode, ["hold"]);
    assert.equal((await stack.mcpf(["release", "everything", "--reason", "seen", "--yes"])).code, 0);
  });
});
