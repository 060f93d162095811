import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryBroker, RefusedError } from "@mcp-failover/bus";
import { makeEvent, streams } from "@mcp-failover/contracts";
import { configured, runMcpf, serveStatus } from "./support.ts";

const empty = { upstreams: [], rollback: { system: "mcp", agents: {}, tools: {} }, services: [] };

test("a state-store that is still reading the log costs no answer: the log is folded here, and it is said", async (t) => {
  const { bus } = await configured();
  await serveStatus(t, bus, () => {
    throw new RefusedError("not_ready", "the state-store is still reading the log", true);
  });
  const ran = await runMcpf(bus, ["status"]);
  assert.equal(ran.code, 3);
  assert.match(ran.stdout, /^api +0 +\* one +unknown/m);
  assert.match(ran.stderr, /still reading the log.*folded from the log/);
});

test("a state that comes from a backup is shown as one, with the event up to which it knows anything", async (t) => {
  const { bus } = await configured();
  await serveStatus(t, bus, () => ({ ...empty, backupUpToSeq: 41 }));
  assert.match((await runMcpf(bus, ["status"])).stderr, /cannot read the log: this is its backup, up to event #41/);
});

test("pages of different moments are one status, as it always is, and on standard error it is said of which events they are", async (t) => {
  const { bus } = await configured();
  const pages = [
    { ...empty, page: { seq: 41, next: "m", places: [] } },
    { ...empty, page: { seq: 43, next: null, places: [] } },
  ];
  await serveStatus(t, bus, () => pages.shift() ?? empty);
  const ran = await runMcpf(bus, ["status", "-o", "json"]);
  assert.deepEqual(JSON.parse(ran.stdout), empty);
  assert.match(ran.stderr, /2 pages of different moments, from event #41 to #43/);
});

test("a state-store that cannot give all of it costs no answer: the log is folded here, and it is said why", async (t) => {
  const { bus } = await configured();
  await serveStatus(t, bus, () => {
    throw new RefusedError("upstream_too_large", "of huge alone there are 999999 bytes");
  });
  const ran = await runMcpf(bus, ["status"]);
  assert.match(ran.stdout, /^api +0 +\* one +unknown/m);
  assert.match(ran.stderr, /of huge alone.*folded from the log/);
});

test("a fleet without any upstream is not well: 3, and what to do is said", async (t) => {
  const bus = memoryBroker().connect();
  t.after(() => bus.close());
  await bus.ensureStreams(streams, { replicas: 1 });
  const ran = await runMcpf(bus, ["status"]);
  assert.equal(ran.code, 3);
  assert.match(ran.stderr, /no upstream is configured: run `mcpf config apply/);
});

test("a configuration that this version does not understand is named, with its place in the log and what to do: what is shown is of the one before", async (t) => {
  const { bus } = await configured();
  t.after(() => bus.close());
  assert.doesNotMatch((await runMcpf(bus, ["status"])).stderr, /not understood/);
  const nowMs = Date.now();
  const data = {
    ...{ version: 2, hash: "h", fileHash: null, timestamp: new Date(nowMs).toISOString(), by: { kind: "operator", id: "ann" } as const },
    ...{
      reason: "a newer one",
      environment: "development" as const,
      topology: { upstreams: { api: { kind: "telepathy", endpoints: [] } } },
    },
  };
  await bus.append(makeEvent({ type: "config.applied", keys: [], data, id: "c2", service: "cli", instance: "t", timeMs: nowMs }));
  const ran = await runMcpf(bus, ["status"]);
  assert.match(
    ran.stderr,
    /the configuration of event #2 is not understood here \(upstreams\.api\.kind: .+\): what is shown is of the one before; use the mcpf/,
  );
  assert.match(ran.stdout, /^api +0 +\* one/m);
});
