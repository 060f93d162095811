import assert from "node:assert/strict";
import { test } from "node:test";
import { type StreamDefinition, streams } from "@mcp-failover/contracts";
import { startNats } from "@mcp-failover/testkit";
import { connectBus } from "../src/index.ts";
import { jetStreamApi } from "../src/internal.ts";
import { widened } from "../src/widened.ts";
import { connected, until } from "./behaviour/world.ts";

const [wanted] = streams.filter(({ name }) => name === "AUDIT") as [StreamDefinition];

test("a stream becomes only ever wider, and what has no limit (0, or -1 as NATS says it) keeps none", () => {
  const limits = (of: Partial<StreamDefinition>): StreamDefinition => ({
    ...wanted,
    maxAgeMs: 1000,
    maxBytes: 1000,
    maxMessages: 1000,
    maxMsgBytes: 1000,
    ...of,
  });
  const sizesOf = ({ maxAgeMs, maxBytes, maxMessages, maxMsgBytes }: StreamDefinition): number[] => [
    maxAgeMs,
    maxBytes,
    maxMessages,
    maxMsgBytes,
  ];
  assert.deepEqual(sizesOf(widened(limits({ maxBytes: 2000 }), limits({ maxAgeMs: 3000 }))), [3000, 2000, 1000, 1000]);
  for (const none of [0, -1]) {
    const unlimited = limits({ maxAgeMs: none, maxBytes: none, maxMessages: none, maxMsgBytes: none });
    assert.ok(sizesOf(widened(unlimited, limits({}))).every((size) => size <= 0));
    assert.ok(sizesOf(widened(limits({}), unlimited)).every((size) => size <= 0));
  }
});

test("on NATS: limits that an operator took away from a stream are not put back by the next bootstrap", async () => {
  const server = await startNats();
  const bus = connectBus({ servers: server.url, name: "suite", instance: "suite" });
  try {
    await until(() => connected(bus), "it is connected");
    await bus.ensureStreams(streams, { replicas: 1 });
    const configOf = async () => (await jetStreamApi<{ config: Record<string, unknown> }>(bus, "STREAM.INFO.AUDIT")).config;
    await jetStreamApi(bus, "STREAM.UPDATE.AUDIT", { ...(await configOf()), max_bytes: -1, max_msgs: -1, max_msg_size: -1 });
    // Something else is to be widened, so that the stream is updated.
    await bus.ensureStreams([{ ...wanted, duplicateWindowMs: wanted.duplicateWindowMs * 2 }], { replicas: 1 });
    const config = await configOf();
    assert.deepEqual([config["max_bytes"], config["max_msgs"], config["max_msg_size"]], [-1, -1, -1]);
    assert.equal(config["duplicate_window"], wanted.duplicateWindowMs * 2 * 1e6);
  } finally {
    await bus.close();
    await server.stop();
  }
});
