import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { makeEvent } from "@mcp-failover/contracts";
import { jetStreamApi } from "../src/internal.ts";
import { largeConfigurations } from "./behaviour/large.ts";
import { inWorld } from "./behaviour/world.ts";
import { natsWorld } from "./nats-world.ts";

describe("the object store of NATS", { concurrency: 3 }, () => {
  largeConfigurations(natsWorld);

  test(
    "O2: an object of which pieces are gone is whole again once the same configuration is applied",
    inWorld(natsWorld, async (world) => {
      const [writer, other] = await Promise.all([world.connect("writer"), world.connect("other")]);
      const applied = (version: number) =>
        makeEvent({
          type: "config.applied",
          keys: [],
          data: {
            version,
            hash: "hash",
            fileHash: null,
            timestamp: new Date().toISOString(),
            by: { kind: "service", id: "suite" },
            reason: "a test",
            environment: "development",
            topology: { salt: "x".repeat(2 * 1024 * 1024) },
          },
          id: `config-${version}`,
          service: "cli",
          instance: "suite",
          timeMs: Date.now(),
        });
      await writer.appendFenced(applied(1), 0);
      await jetStreamApi(other, "STREAM.PURGE.OBJ_configurations", { filter: "$O.configurations.C.>" });
      assert.deepEqual(await writer.appendFenced(applied(2), 1), { outcome: "won", seq: 2 });
      for (const seq of [1, 2]) assert.equal((await other.at("AUDIT", seq))?.content.kind, "event");
    }),
  );
});
