import assert from "node:assert/strict";
import { rm } from "node:fs/promises";
import { test } from "node:test";
import { connectBus } from "@mcp-failover/bus";
import { makeEvent, parseTopology, streams, type TrafficObserved } from "@mcp-failover/contracts";
import { testKit } from "@mcp-failover/service-kit/testing";
import { patientMs, startNats, tempDir } from "@mcp-failover/testkit";
import { createRouterControl } from "../../src/control/control.ts";
import { describe, ok, play, settled, until, warehouse } from "./fixture.ts";

test("C1, C2: nats-server is killed under calls and comes back: no call waits or fails, a later decision is applied, every call is in the log once", async (t) => {
  const server = await startNats();
  const writer = connectBus({ servers: server.url, name: "test", instance: "test" });
  const bus = connectBus({ servers: server.url, name: "router", instance: "router-1" });
  const dir = await tempDir("mcpf-control-nats-");
  const clock = { nowMs: 0 };
  const kit = testKit({ service: "router", instance: "router-1", bus, dataDir: dir.path });
  await until("the connection", () => writer.status.kind === "connected" && bus.status.kind === "connected", 5000);
  await writer.ensureStreams(streams, { replicas: 1 });
  const { topology, hash } = parseTopology(warehouse, { file: "test.yaml", env: {} });
  const by = { kind: "operator", id: "test" } as const;
  const timestamp = new Date().toISOString();
  const base = { service: "cli", instance: "test", timeMs: Date.now() } as const;
  const config = { version: 1, hash, fileHash: null, timestamp, by, reason: "test", environment: "development", topology } as const;
  await writer.append(makeEvent({ ...base, type: "config.applied", keys: [], id: "config-1", data: config }));
  const seen: TrafficObserved[] = [];
  const following = writer.follow("SIGNALS", { from: { seq: 1 } }, ({ content }) => {
    if (content.kind === "event" && content.event.type === "traffic.observed") seen.push(content.event.data);
  });
  const control = await createRouterControl(kit, { startWaitMs: 5000 });
  t.after(async () => {
    await control.stop();
    await following.stop();
    await Promise.all([bus.close(), writer.close()]);
    await server.stop();
    await rm(dir.path, { recursive: true, force: true });
  });
  assert.equal(control.ready().ok, true);

  let calls = 0;
  let slowestMs = 0;
  const callFor = async (forMs: number) => {
    const endMs = Date.now() + forMs;
    while (Date.now() < endMs) {
      const begunAt = performance.now();
      clock.nowMs = Date.now();
      assert.deepEqual((await play(control.begin(describe({ clock })), () => ok)).length, 1);
      slowestMs = Math.max(slowestMs, performance.now() - begunAt);
      calls += 1;
      await settled(5);
    }
  };
  await callFor(500);
  await server.kill();
  await callFor(2500);
  assert.match(control.ready().reason, /out of reach/);
  await server.restart();
  await callFor(500);
  await until("the bus is back", () => bus.status.kind === "connected" && writer.status.kind === "connected", 10_000);
  await writer.append(
    makeEvent({
      ...base,
      type: "failover.decided",
      keys: ["warehouse"],
      id: "decision-1",
      data: {
        service: "warehouse",
        action: "moved",
        previousEndpoint: "primary",
        currentEndpoint: "secondary",
        timestamp,
        automatic: true,
        by,
        reason: "test",
        commandId: null,
        overrode: [],
        state: { generation: 1, epoch: 1, active: "secondary", tier: 1, sinceMs: 0, held: null, moves: [] },
        certificate: { decider: "", rule: "", policyHash: "", nowMs: 0, folded: { AUDIT: null, SIGNALS: null }, input: null, rejected: [] },
      },
    }),
  );
  await until("the decision is applied", () => control.upstream("warehouse")?.active === "secondary", 5000);
  await callFor(300);
  const counted = () => seen.reduce((sum, { endpoints }) => sum + endpoints.reduce((inner, { ok: count }) => inner + count, 0), 0);
  await until("every call is in the log", () => counted() >= calls, 10_000);
  await settled(600);
  assert.equal(counted(), calls, "and none twice");
  assert.ok(seen.some(({ routes }) => routes["warehouse"]?.epoch === 1 && routes["warehouse"].eventId === "decision-1"));
  assert.ok(slowestMs < patientMs(1000), `the slowest decision of a call took ${slowestMs} ms`);
});
