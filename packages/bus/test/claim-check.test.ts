import assert from "node:assert/strict";
import { test } from "node:test";
import { type Event, makeEvent } from "@mcp-failover/contracts";
import { claimCheck } from "../src/claim-check.ts";
import { BusError, type Stored } from "../src/index.ts";

const name = "a".repeat(64);
const event: Event<"config.applied"> = makeEvent({
  type: "config.applied",
  keys: [],
  data: {
    version: 1,
    hash: "hash",
    fileHash: null,
    timestamp: "2026-01-01T00:00:00.000Z",
    by: { kind: "service", id: "test" },
    reason: "a test",
    environment: "development",
    topology: null,
    topologyObject: { bucket: "configurations", name, sha256: name, bytes: 600_000 },
  },
  id: "config-1",
  service: "cli",
  instance: "test",
  timeMs: 0,
});
const stored: Stored = {
  stream: "AUDIT",
  subject: "config.applied",
  seq: 1,
  timeMs: 0,
  headers: {},
  bytes: new Uint8Array(),
  content: { kind: "event", event },
};

test("O3: an object that cannot be read whole holds up nobody for ever; one that is out of reach is waited for", async () => {
  for (const [code, retriable, ends] of [
    ["rejected", false, "malformed"],
    ["timeout", true, "malformed"],
    ["unreachable", true, "throws"],
  ] as const) {
    let tries = 0;
    const objects = {
      get: async () => {
        tries += 1;
        throw new BusError(code, "its pieces are not what they were", { retriable });
      },
      put: async () => undefined,
      sleep: async () => undefined,
    };
    const claims = claimCheck(objects, (one, reason) => ({ ...one, content: { kind: "malformed", reason } }));
    const collected = await Promise.resolve(claims.collect(stored)).then(
      ({ content }) => (content.kind === "malformed" ? `malformed: ${content.reason}` : content.kind),
      () => "throws",
    );
    assert.match(collected, new RegExp(`^${ends}`), code);
    assert.equal(tries, ends === "throws" ? 1 : code === "timeout" ? 2 : 5, code);
  }
});
