import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { streams } from "@mcp-failover/contracts";
import { freePort, type RunningServer, startNats, tempDir } from "@mcp-failover/testkit";
import {
  applyConfiguration,
  breakerStateBehaviour,
  changesOf,
  connected,
  nats,
  sleep,
  startInstance,
  traffic,
  until,
} from "./breaker-state.ts";

describe("breaker-state on NATS", () => breakerStateBehaviour(nats));

test("while NATS is gone nothing is decided, and what was seen before the gap is no evidence after it", async () => {
  const dir = await tempDir("mcpf-breaker-");
  const port = await freePort();
  let server: RunningServer = await startNats({ port, storeDir: dir.path });
  const bus = await connected(server.url);
  await bus.ensureStreams(streams, { replicas: 1 });
  await applyConfiguration(bus);
  const instance = await startInstance(await connected(server.url), "breaker-state-gap");
  try {
    await traffic(bus, "router-1", { hard: 4 });
    await sleep(300);
    await server.stop();
    await until("it says that the bus is away", async () => bus.status.kind === "disconnected");
    server = await startNats({ port, storeDir: dir.path });
    await until("connected again", async () => bus.status.kind === "connected");
    await until("it reads on", async () => instance.kit.bus.status.kind === "connected");
    await sleep(1500);
    await traffic(bus, "router-1", { hard: 1 });
    await sleep(1300);
    assert.deepEqual(await changesOf(bus), [], "4 before the gap and 1 after it");
    await traffic(bus, "router-1", { hard: 4 });
    await until("open", async () => (await changesOf(bus)).length === 1);
  } finally {
    await instance.stop();
    await instance.kit.bus.close();
    await bus.close();
    await server.stop();
    await dir.remove();
  }
});
