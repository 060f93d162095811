import assert from "node:assert/strict";
import { test } from "node:test";
import { RefusedError } from "@mcp-failover/bus";
import type { StatusView } from "@mcp-failover/contracts";
import { configured, runMcpf, serveStatus } from "./support.ts";

/** What a state-store shows of the configuration of `configured`, and of these upstreams beside it. */
function shown(more: readonly string[] = [], active = "one"): StatusView {
  const upstream = (name: string, at: string) => ({
    ...{ name, critical: true, active: at, epoch: 0, since: new Date(0).toISOString(), mode: "active_standby" as const, held: null },
    endpoints: [],
  });
  return {
    upstreams: [upstream("api", active), ...more.map((name) => upstream(name, "one"))],
    rollback: { system: "mcp", agents: {}, tools: {} },
    services: [],
  };
}

test("a replay equals what the state-store shows, or differs: in a route, in an upstream that is not shown, and in one that the log does not have", async (t) => {
  const { bus } = await configured();
  let answer: object = shown();
  await serveStatus(t, bus, () => answer);
  const replay = async () => {
    const { code, stdout } = await runMcpf(bus, ["events", "replay", "-o", "json"]);
    const { equalsReadModel, notCompared, differences } = JSON.parse(stdout);
    return [code, equalsReadModel, notCompared, differences];
  };
  assert.deepEqual(await replay(), [0, true, null, []]);
  answer = shown([], "two");
  assert.deepEqual(await replay(), [1, false, null, ["api: log one epoch 0, shown two epoch 0"]]);
  answer = { ...shown(), upstreams: [] };
  assert.deepEqual(await replay(), [1, false, null, ["api is missing"]]);
  answer = shown(["ghost"]);
  assert.deepEqual(await replay(), [1, false, null, ["ghost is shown, and is not in the log"]]);
});

test("a replay with nobody to compare with says so and is not 0: no state-store, one that is not ready, one that shows its backup", async (t) => {
  const { bus } = await configured();
  const replay = async (...more: string[]) => {
    const { code, stdout } = await runMcpf(bus, ["events", "replay", "-o", "json", ...more]);
    const { equalsReadModel, notCompared } = JSON.parse(stdout);
    return { code, equalsReadModel, notCompared };
  };
  const alone = await replay();
  assert.deepEqual([alone.code, alone.equalsReadModel], [1, null]);
  assert.match(alone.notCompared, /no instance of state-store answers/);
  assert.match((await runMcpf(bus, ["events", "replay"])).stdout, /there is nobody to compare with/);
  assert.deepEqual(await replay("--to", "1"), { code: 0, equalsReadModel: null, notCompared: null }, "the past is not compared");
  let answer = (): object => {
    throw new RefusedError("not_ready", "the state-store is still reading the log", true);
  };
  await serveStatus(t, bus, () => answer());
  const early = await replay();
  assert.deepEqual([early.code, early.equalsReadModel], [1, null]);
  assert.match(early.notCompared, /still reading the log/);
  answer = () => ({ ...shown(), backupUpToSeq: 1 });
  const backup = await replay();
  assert.deepEqual([backup.code, backup.equalsReadModel], [1, null]);
  assert.match(backup.notCompared, /its backup up to event #1/);
});
