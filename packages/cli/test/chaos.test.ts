import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { RefusedError } from "@mcp-failover/bus";
import { type ChaosFinished, chaosFinished } from "@mcp-failover/contracts";
import { configured, runMcpf } from "./support.ts";

const fixture = new URL("../../contracts/fixtures/v1/chaos.finished.json", import.meta.url);

test("the report of a rehearsal says where it left the upstream, and how it is moved back, only where that is not where it was before", async (t) => {
  const { bus } = await configured();
  const sample = chaosFinished.parse(JSON.parse(await readFile(fixture, "utf8")).data);
  const metrics = (active: string, epoch: number): ChaosFinished["baseline"] => {
    return { ...(sample.baseline as NonNullable<typeof sample.baseline>), services: { api: { active, epoch, endpoints: {} } } };
  };
  let finalState: ChaosFinished["finalState"] = metrics("two", 1);
  const handlers = { "command.chaos.run": async () => ({ ...sample, target: "api", baseline: metrics("one", 0), finalState }) };
  const served = await bus.serve({ name: "chaos-runner", instance: "c", version: "0.1.0", description: "rehearses", handlers });
  t.after(async () => {
    await served.stop();
    await bus.close();
  });
  const run = () => runMcpf(bus, ["chaos", "run", "killService", "api", "--yes"]);
  const moved = await run();
  assert.equal(moved.code, 0, moved.stderr);
  assert.match(moved.stdout, /^left at +two \(epoch 1\), not at one as before: `mcpf failback api --reason TEXT`/m);
  for (const other of [metrics("one", 2), null]) {
    finalState = other;
    assert.doesNotMatch((await run()).stdout, /left at/);
  }
});

test("a tool that the upstream does not have is wrong usage (2), and those that it has are named", async (t) => {
  const { bus } = await configured();
  const refuse = async () => {
    throw new RefusedError("unknown_tool", 'api has no tool "nope"; known: echo, add');
  };
  const handlers = { "command.chaos.run": refuse };
  const served = await bus.serve({ name: "chaos-runner", instance: "c", version: "0.1.0", description: "rehearses", handlers });
  t.after(async () => {
    await served.stop();
    await bus.close();
  });
  const ran = await runMcpf(bus, ["chaos", "run", "killService", "api", "--tool", "nope", "--yes"]);
  assert.deepEqual([ran.code, ran.stderr], [2, 'mcpf: api has no tool "nope"; known: echo, add\n']);
});
