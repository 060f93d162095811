import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { BusError } from "@mcp-failover/bus";
import { type ChaosFinished, chaosFinished, type Event } from "@mcp-failover/contracts";
import { until } from "./stack-double.ts";
import { codeOf, startRunner, world } from "./world.ts";

/** A log that does not take the end of an experiment while `away` says so. */
const withoutEnds = (away: () => boolean) => ({
  onFence: ({ type }: { type: string }) => {
    if (type === "chaos.finished" && away())
      throw new BusError("timeout", "no answer from AUDIT within 2000 ms; it may have been stored all the same", { retriable: true });
  },
});

const dataOf = ({ data }: Event): Record<string, unknown> => data;

/** Whoever judges anew has seen nothing. How fast it was afterwards is the machine's to say. */
const hasRecovered = ({ validation }: ChaosFinished): boolean =>
  validation.checks.some(({ name, passed }) => name === "recovered" && passed) &&
  !validation.checks.some(({ name }) => name === "completed");

describe("the record of an end", { concurrency: 2 }, () => {
  test("an end that could not be recorded at once is recorded later, with its own verdict, once", async (t) => {
    let failures = 1;
    const { stack, run } = await world(
      t,
      withoutEnds(() => failures-- > 0),
    );
    const result = await run({});
    assert.equal(hasRecovered(result), true, result.error ?? "");
    assert.deepEqual((await stack.said("chaos.finished")).map(dataOf), [result]);
  });

  test("while the log takes no end the asker gets the verdict with a note, nothing else begins, and no runner judges anew", async (t) => {
    let away = true;
    const { broker, stack, ask } = await world(
      t,
      withoutEnds(() => away),
    );
    const reply = await ask({}, "command-1");
    assert.ok(reply.ok, JSON.stringify(reply));
    const result: ChaosFinished = chaosFinished.parse(reply.result);
    assert.equal(hasRecovered(result), true, result.error ?? "");
    assert.match(result.unrecorded ?? "", /^the log does not take the result/);
    await startRunner(t, broker, stack.routerUrl, "chaos-runner-2");
    const others = await Promise.all([ask({}), ask({}), ask({})]);
    assert.deepEqual(others.map(codeOf), ["experiment_running", "experiment_running", "experiment_running"]);
    // Longer than the sweep for experiments without an end takes to come round.
    await new Promise((resolve) => setTimeout(resolve, 2500));
    assert.deepEqual(await stack.said("chaos.finished"), []);
    away = false;
    const said = await until(
      () => stack.said("chaos.finished"),
      ({ length }) => length === 1,
    );
    const { unrecorded: _, ...judged } = result;
    assert.deepEqual(said.map(dataOf), [judged]);
    assert.equal(stack.asked.filter((what) => what.startsWith("kill")).length, 1);
  });

  test("an experiment that fails at a step of its record is taken back all the same, and a revert that cannot be recorded changes no verdict", async (t) => {
    const { stack, run } = await world(t, {
      onFence: ({ type }) => {
        if (type === "chaos.injected") throw new TypeError("a fault of the runner's own");
        if (type === "chaos.reverted") throw new BusError("timeout", "no answer from AUDIT", { retriable: true });
      },
    });
    const { success, error, validation } = await run({});
    assert.equal(success, false);
    assert.match(error ?? "", /the runner failed: a fault of the runner's own/);
    assert.equal(validation.checks.find(({ name }) => name === "reverted")?.passed, true);
    assert.deepEqual(stack.asked, ["kill shop-primary 22000", "start shop-primary"]);
  });

  test("an experiment that somebody else began meanwhile is not begun again, and one that somebody else ended is answered as it is on record", async (t) => {
    let first: string | null = "chaos.started";
    const { stack, ask, run } = await world(t, {
      onFence: async (event, bus) => {
        if (event.type !== first) return;
        first = null;
        const other = event as Event;
        const data = event.type === "chaos.finished" ? { ...dataOf(other), success: false, error: "as the other saw it" } : dataOf(other);
        await bus.appendFenced({ ...other, id: `${other.id}-other`, data } as Event, 0);
      },
    });
    assert.equal(codeOf(await ask({})), "experiment_running");
    assert.deepEqual(stack.asked, [], "nothing was broken twice");
    first = "chaos.finished";
    const again = () => ask({ options: { durationMs: 1000 } });
    // What the other began is recovered first: its end is the one that the other writes before.
    const reply = await until(again, (answer) => codeOf(answer) !== "experiment_running", 30_000);
    assert.equal(codeOf(reply), "ok");
    assert.equal((await stack.said("chaos.finished")).filter((event) => dataOf(event)["error"] === "as the other saw it").length, 1);
    first = "chaos.finished";
    assert.equal(
      (await run({ scenario: "slowResponse", options: { durationMs: 1000, delayMs: 100, endpoint: "secondary" } })).error,
      "as the other saw it",
    );
  });
});
