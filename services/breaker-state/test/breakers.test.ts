import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryBroker } from "@mcp-failover/bus";
import { type DataOf, type EventType, makeEvent, parseTopology } from "@mcp-failover/contracts";
import { initialBreakerState } from "@mcp-failover/domain";
import { testKit } from "@mcp-failover/service-kit/testing";
import { Breakers } from "../src/breakers.ts";

const by = { kind: "service", id: "test" } as const;
const timestamp = "2026-01-01T00:00:00.000Z";
const certificate = {
  decider: "d",
  rule: "r",
  policyHash: "",
  nowMs: 0,
  folded: { AUDIT: null, SIGNALS: null },
  input: null,
  rejected: [],
};

test("of breakers that no configuration names the newest 1,000 are kept, and every configured one", async (t) => {
  const bus = memoryBroker().connect();
  t.after(() => bus.close());
  const breakers = new Breakers(testKit({ service: "breaker-state", bus }).log);
  let seq = 0;
  const say = <T extends EventType>(type: T, keys: readonly string[], data: DataOf<T>): void => {
    seq += 1;
    const event = makeEvent({ type, keys, data, id: `e-${seq}`, service: "cli", instance: "t", timeMs: seq });
    breakers.foldAudit(event as never, { seq, timeMs: seq } as never);
  };
  const opened = (endpoint: string): void =>
    say("breaker.changed", ["docs", endpoint], {
      service: "docs",
      endpoint,
      status: "open",
      previousStatus: "closed",
      timestamp,
      reason: "test",
      by,
      state: { ...initialBreakerState, status: "open", generation: 7, sinceMs: 0, openUntilMs: 1 },
      certificate,
    });
  opened("primary");
  const yaml = 'upstreams: { docs: { kind: http, endpoints: [{ name: primary, url: "http://127.0.0.1:1", tier: 0 }] } }';
  const { topology, hash } = parseTopology(yaml, { file: "failover.yaml", env: {} });
  say("config.applied", [], { version: 1, hash, fileHash: null, timestamp, by, reason: "test", environment: "development", topology });
  for (let index = 0; index < 1500; index += 1) opened(`gone-${index}`);
  const isKnown = (endpoint: string): boolean => breakers.known(`docs/${endpoint}`).state.generation === 7;
  const gone = Array.from({ length: 1500 }, (_, index) => isKnown(`gone-${index}`));
  assert.ok(isKnown("primary"));
  assert.deepEqual([gone.filter(Boolean).length, gone[499], gone[500], gone[1499]], [1000, false, true, true]);
});

test("a decision on later evidence is waited for, unless SIGNALS began again: its low numbers are newer than that then", async (t) => {
  const bus = memoryBroker().connect();
  t.after(() => bus.close());
  const breakers = new Breakers(testKit({ service: "breaker-state", bus }).log);
  const endpoint = "primary";
  const data: DataOf<"breaker.changed"> = {
    service: "docs",
    endpoint,
    status: "open",
    previousStatus: "closed",
    timestamp,
    reason: "test",
    by,
    state: { ...initialBreakerState, status: "open", generation: 1, sinceMs: 0, openUntilMs: 1 },
    certificate: { ...certificate, nowMs: 5000, folded: { AUDIT: null, SIGNALS: { first: 1, last: 900 } } },
  };
  const changed = makeEvent({
    type: "breaker.changed",
    keys: ["docs", endpoint],
    data,
    id: "e-1",
    service: "cli",
    instance: "t",
    timeMs: 5000,
  });
  breakers.foldAudit(changed as never, { seq: 1, timeMs: 5000 });
  const hear = (seq: number, timeMs: number): void => {
    const probed = { observer: "p", zone: null, observations: [] };
    const event = makeEvent({
      type: "probe.observed",
      keys: ["p"],
      data: probed,
      id: `s-${seq}`,
      service: "prober",
      instance: "p",
      timeMs,
    });
    breakers.foldSignal(event as never, { seq, timeMs }, 0);
  };
  hear(899, 4990);
  assert.ok(breakers.isBehind("docs/primary"));
  hear(900, 5000);
  assert.ok(!breakers.isBehind("docs/primary"));
  hear(3, 5010);
  assert.ok(!breakers.isBehind("docs/primary"), "the stream was lost and made again");
});
