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

const dataOf = ({ data }: Event) => data;

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
});
