import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { clearMemoryObjects } from "@mcp-failover/bus/internal";
import { configured, runMcpf } from "./support.ts";

const endpointsPerUpstream = 20;

/** 10,000 endpoints of 500 upstreams: as YAML about 1 MB, as JSON with its defaults some more. */
function largeYaml(): string {
  const endpoints = (upstream: number) =>
    Array.from({ length: endpointsPerUpstream }, (_, index) => ({
      name: `endpoint-${index}`,
      url: `http://127.0.0.1:${10_000 + upstream}/endpoint/${index}`,
      tier: index,
    }));
  const upstreams = Array.from({ length: 500 }, (_, index) => [`upstream-${index}`, { kind: "http", endpoints: endpoints(index) }]);
  return JSON.stringify({ upstreams: Object.fromEntries(upstreams) }, null, 1);
}

test("mcpf: 10,000 endpoints in one file are applied, shown and verified, and where their object is lost verify and doctor say so", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "mcpf-large-"));
  t.after(() => rm(folder, { recursive: true }));
  const file = join(folder, "failover.yaml");
  await writeFile(file, largeYaml());
  const { broker, bus } = await configured();
  t.after(() => bus.close());
  const applied = await runMcpf(bus, ["config", "apply", file, "--reason", "grown", "--yes", "-o", "json"]);
  assert.deepEqual([applied.code, applied.stderr === "" ? JSON.parse(applied.stdout).version : applied.stderr], [0, 2]);
  const shown = await runMcpf(bus, ["status", "-o", "json"]);
  assert.equal(JSON.parse(shown.stdout).upstreams.length, 500);
  const whole = await runMcpf(bus, ["events", "verify", "-o", "json"]);
  assert.deepEqual([whole.code, JSON.parse(whole.stdout).messages], [0, 2]);

  clearMemoryObjects(broker);
  const reader = broker.connect();
  t.after(() => reader.close());
  const verified = await runMcpf(reader, ["events", "verify", "-o", "json"]);
  const [problem] = JSON.parse(verified.stdout).problems;
  assert.deepEqual([verified.code, problem.seq, problem.check], [1, 2, "event"]);
  assert.match(problem.message, /apply it again/);
  const looked = await runMcpf(reader, ["doctor", "-o", "json"]);
  const finding = JSON.parse(looked.stdout).findings.find(({ check }: { check: string }) => check === "configuration");
  assert.equal(finding.ok, false);
  assert.match(finding.detail, /lies in the object/);
});
