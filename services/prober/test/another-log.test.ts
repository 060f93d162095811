import assert from "node:assert/strict";
import { test } from "node:test";
import { connectBus, memoryBroker } from "@mcp-failover/bus";
import { jetStreamApi } from "@mcp-failover/bus/internal";
import { streams } from "@mcp-failover/contracts";
import { startNats } from "@mcp-failover/testkit";
import { fleetFor, http, server, statusOf, until } from "./fleet-of-memory.ts";

test("when the log is lost and made again, each endpoint's health is said anew, and so is what changes then", async (t) => {
  const nats = await startNats();
  const connect = (instance: string) => connectBus({ servers: nats.url, name: instance, instance });
  const fleet = await fleetFor(t, connect);
  t.after(() => nats.stop());
  const fake = await server(t);
  await fleet.configure({ api: http({ one: fake.url }), other: http({ one: `${fake.url}/other` }) });
  await fleet.start("p1");
  const healthy = async () => (await statusOf(fleet, "api", "one")) === "healthy" && (await statusOf(fleet, "other", "one")) === "healthy";
  await until("healthy", healthy, 10_000);

  await jetStreamApi(fleet.bus, "STREAM.DELETE.AUDIT");
  await fleet.bus.ensureStreams(streams, { replicas: 1 });
  await fleet.configure({ api: http({ one: fake.url }), other: http({ one: `${fake.url}/other` }) });
  await until("healthy in the new log", healthy, 15_000);
  assert.equal((await fleet.health("api", "one")).at(-1)?.data.previousStatus, null, "nothing of the old log is known to the new one");
  await fake.kill();
  await until("unhealthy", async () => (await statusOf(fleet, "api", "one")) === "unhealthy", 15_000);
});

test("a word that loses to an older sequence than was known is decided anew behind that, before another log is heard of", async (t) => {
  const broker = memoryBroker();
  const restored = memoryBroker().connect();
  let replaced = false;
  const fleet = await fleetFor(t, (instance) => {
    const bus = broker.connect({ instance });
    if (instance === "test") return bus;
    const appendFenced: typeof bus.appendFenced = (...told) => (replaced ? restored : bus).appendFenced(...told);
    return Object.create(bus, { appendFenced: { value: appendFenced } });
  });
  const fake = await server(t);
  await fleet.configure({ api: http({ one: fake.url }) });
  await fleet.start("p1");
  await until("healthy", async () => (await statusOf(fleet, "api", "one")) === "healthy", 10_000);
  replaced = true;
  await fake.kill();
  await until("unhealthy in the other log", async () => {
    const { content } = (await restored.lastOf("AUDIT", "health.changed.api.one")) ?? {};
    return content?.kind === "event" && content.event.type === "health.changed" && content.event.data.status === "unhealthy";
  });
});
