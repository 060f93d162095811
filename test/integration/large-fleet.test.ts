import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type Bus, connectBus } from "@mcp-failover/bus";
import { statusView, streams } from "@mcp-failover/contracts";
import { eventually, freePort, type RunningServer, startNats, startRedis, tempDir } from "@mcp-failover/testkit";
import { node24, ROOT } from "../../scripts/lib/repo.mjs";
import { type CommandResult, run } from "../harness/stack.ts";
import { startProcess } from "./prober-world.ts";

const [upstreams, endpointsEach] = [500, 20] as const;
const ends: (() => Promise<unknown>)[] = [];
let nats: RunningServer;
let bus: Bus;
let folder: string;

before(async () => {
  const dir = await tempDir("mcpf-large-fleet-");
  folder = dir.path;
  ends.unshift(() => dir.remove());
  nats = await startNats();
  ends.unshift(() => nats.stop());
  const redis = await startRedis();
  ends.unshift(() => redis.stop());
  bus = connectBus({ servers: nats.url, name: "test", instance: "test" });
  ends.unshift(() => bus.close());
  await eventually(() => bus.status.kind === "connected", { withinMs: 10_000, what: () => "the test's own connection" });
  await bus.ensureStreams(streams, { replicas: 1 });
  const port = await freePort();
  const store = startProcess(node24(), [join(ROOT, "services/state-store/src/main.ts")], {
    NATS_URL: nats.url,
    REDIS_URL: redis.url,
    MCPF_INSTANCE: "state-store-1",
    MCPF_DATA_DIR: folder,
    MCPF_HEALTH_PORT: String(port),
  });
  ends.unshift(() => store.stop());
});
after(async () => {
  for (const end of ends) await end();
});

const mcpf = (...args: string[]): Promise<CommandResult> =>
  run(
    node24(),
    [join(ROOT, "packages/cli/bin/mcpf.mjs"), ...args],
    { PATH: process.env["PATH"], NATS_URL: nats.url, MCPF_DATA_DIR: join(folder, "none") },
    60_000,
  );

test("10,000 endpoints: mcpf status has all of them from the state-store, in the order of the file and the shape that it always has", async () => {
  const endpoints = Array.from({ length: endpointsEach }, (_, index) => ({
    name: `endpoint-${index}`,
    url: `http://127.0.0.1:9/${index}`,
    tier: index,
  }));
  // Names that are not in the order of the file.
  const names = Array.from({ length: upstreams }, (_, index) => `upstream-${upstreams - index}`);
  const file = join(folder, "failover.yaml");
  await writeFile(file, JSON.stringify({ upstreams: Object.fromEntries(names.map((name) => [name, { kind: "http", endpoints }])) }));
  const applied = await mcpf("config", "apply", file, "--reason", "grown", "--yes");
  assert.equal(applied.code, 0, applied.stderr);
  await eventually(
    async () => {
      const reply = await bus.request("state.status", { page: {} });
      return reply.ok && statusView.parse(reply.result).upstreams.length > 0;
    },
    { withinMs: 30_000, what: () => "the state-store shows the configuration" },
  );
  const shown = await mcpf("status", "-o", "json");
  assert.deepEqual([shown.code, shown.stderr], [3, ""], "nothing is healthy yet, and nothing was folded here");
  const view = statusView.parse(shown.json());
  assert.deepEqual(
    view.upstreams.map(({ name }) => name),
    names,
  );
  assert.equal(view.upstreams.flatMap((upstream) => upstream.endpoints).length, upstreams * endpointsEach);
  assert.deepEqual(Object.keys(view).sort(), ["rollback", "services", "upstreams"]);
  const replayed = await mcpf("events", "replay", "-o", "json");
  assert.deepEqual([replayed.code, replayed.json().equalsReadModel], [0, true], replayed.stderr);
});
