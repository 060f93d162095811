import assert from "node:assert/strict";
import { test } from "node:test";
import { ConfigError, parseTopology } from "../src/index.ts";

const upstreams = `
upstreams:
  pinecone:
    kind: http
    endpoints: [{ name: primary, tier: 0, url: "https://a.example" }]
`;
const windows = (text: string) => parseTopology(`${upstreams}maintenance:\n  - { ${text} }\n`, { file: "f", env: {} }).topology.maintenance;

test("a maintenance window is one span of time, or begins daily or weekly at a UTC time for so long", () => {
  for (const text of [
    'name: once, upstreams: [pinecone], from: "2026-03-01T02:00:00Z", until: "2026-03-01T03:00:00.000Z", reason: disks',
    'name: nightly, endpoints: [pinecone/primary], daily: { at: "02:30", for_ms: 1800000 }, reason: backup',
    'name: weekly, weekly: { days: [sat, sun], at: "00:00", for_ms: 604800000 }, reason: nobody works',
  ]) {
    assert.equal(windows(text)?.length, 1);
  }
});

test("a maintenance window that would protect nothing, or never hold, is refused with its place", () => {
  const refused: [string, string, RegExp][] = [
    ["name: w, reason: r", "maintenance.0", /exactly one of/],
    ['name: w, reason: r, from: "2026-03-01T02:00:00Z"', "maintenance.0", /both from and until/],
    ['name: w, reason: r, from: "2026-03-01T02:00:00Z", until: "2026-03-01T02:00:00Z"', "maintenance.0.until", /after from/],
    ['name: w, reason: r, from: "2026-03-01T02:00:00Z", until: "2026-03-01T03:00:00+01:00"', "maintenance.0.until", /after from/],
    ['name: w, reason: r, daily: { at: "24:00", for_ms: 1000 }', "maintenance.0.daily.at", /time of the day/],
    ['name: w, reason: r, daily: { at: "10:00", for_ms: 86400001 }', "maintenance.0.daily.for_ms", /86400000/],
    [
      'name: w, reason: r, upstreams: [pinecon], daily: { at: "10:00", for_ms: 1000 }',
      "maintenance.0.upstreams.0",
      /no upstream "pinecon"/,
    ],
    [
      'name: w, reason: r, endpoints: [pinecone/second], daily: { at: "10:00", for_ms: 1000 }',
      "maintenance.0.endpoints.0",
      /no endpoint "pinecone\/second"/,
    ],
    ['name: w, reason: r, upstreams: [], daily: { at: "10:00", for_ms: 1000 }', "maintenance.0.upstreams", /at least one upstream/],
    [
      'name: w, reason: r, upstream: [pinecone], daily: { at: "10:00", for_ms: 1000 }',
      "maintenance.0.upstream",
      /did you mean "upstreams"/,
    ],
  ];
  for (const [text, path, message] of refused) {
    assert.throws(
      () => windows(text),
      (error: unknown) => {
        assert.ok(error instanceof ConfigError);
        assert.deepEqual([error.problems[0]?.path, message.test(error.problems[0]?.message ?? "")], [path, true], error.message);
        return true;
      },
    );
  }
});

test("a configuration without maintenance keeps the hash that it had before there was any", () => {
  assert.equal("maintenance" in parseTopology(upstreams, { file: "f", env: {} }).topology, false);
});
