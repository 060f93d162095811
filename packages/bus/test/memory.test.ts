import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { streams } from "@mcp-failover/contracts";
import { type Bus, BusError, memoryBroker } from "../src/index.ts";
import { clearMemoryObjects, memorySeams, publishRawToMemory, putMemoryObject } from "../src/internal.ts";
import { largeConfigurations } from "./behaviour/large.ts";
import type { MakeWorld, WorldWithObjects } from "./behaviour/world.ts";
import { behaviour } from "./behaviour.ts";

const makeWorld: MakeWorld<WorldWithObjects> = async (options = {}) => {
  const broker = memoryBroker(options.streams === undefined ? {} : { streams: options.streams });
  const buses: Bus[] = [];
  return {
    async connect(name = "one") {
      const bus = broker.connect({ name, instance: name });
      buses.push(bus);
      return bus;
    },
    cut: async (bus) => memorySeams(bus).cut(),
    restore: async (bus) => memorySeams(bus).restore(),
    async restartServer(downMs) {
      for (const bus of buses) memorySeams(bus).cut("the server was restarted");
      await sleep(downMs);
      for (const bus of buses) memorySeams(bus).restore();
    },
    loseNextPublish: (bus, { stored }) => memorySeams(bus).losePublishes(1, { stored }),
    publishRaw: async (subject, bytes) => publishRawToMemory(broker, subject, bytes),
    loseObjects: async () => clearMemoryObjects(broker),
    putObject: async (name, text) => putMemoryObject(broker, name, text),
    async close() {
      await Promise.all(buses.map((bus) => bus.close()));
    },
  };
};

describe("the memory twin", { concurrency: 8 }, () => {
  behaviour(makeWorld);
  largeConfigurations(makeWorld);
});

test("B8: the memory twin refuses replicas as a server older than 2.11 has to", async () => {
  for (const [serverVersion, refused] of [
    ["2.9.10", true],
    ["2.10.29", true],
    ["2.11.0", false],
    ["2.12.1-beta.2", false],
    ["3.0.0", false],
  ] as const) {
    const bus = memoryBroker({ serverVersion, streams: [] }).connect();
    const made = bus.ensureStreams(streams, { replicas: 3 });
    if (refused) await assert.rejects(made, (error) => error instanceof BusError && error.code === "replicas_unsafe" && !error.retriable);
    else await made;
    await bus.close();
  }
});
