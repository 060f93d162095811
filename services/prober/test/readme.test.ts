import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { parseTopology, probeChecks, probePresetNames, probeType } from "@mcp-failover/contracts";

const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");

function checksOf(probe: string, kind: string) {
  const yaml = `
upstreams:
  warehouse:
    kind: ${kind}
    tools: { get_stock: { read_only: true } }
    endpoints: [{ name: one, url: "https://warehouse.example/api", tier: 0 }]
    ${probe}
`;
  const { topology } = parseTopology(yaml, { file: "README.md", env: {} });
  const upstream = topology.upstreams["warehouse"];
  const [endpoint] = upstream?.endpoints ?? [];
  assert.ok(upstream !== undefined && endpoint !== undefined);
  return probeChecks(upstream, endpoint);
}

test("the README has one example of every type, and each is a configuration that loads and means that type", () => {
  const rows = [...readme.matchAll(/^\| `([a-z_]+)` \| .+ \| `(probe: \{ type: .+ \})` \|$/gm)];
  assert.deepEqual(
    rows.map(([, type]) => type),
    probeType.options,
  );
  for (const [, type = "", probe = ""] of rows) {
    const [check] = checksOf(probe, type.startsWith("mcp") ? "mcp" : "http");
    assert.equal(check?.type, type, probe);
  }
});

test("every preset and every other example in its text loads too", () => {
  for (const preset of probePresetNames) {
    assert.ok(readme.includes(`\`${preset}\``), preset);
    assert.ok(checksOf(`probe: { preset: ${preset} }`, "http").length > 0);
  }
  assert.equal(checksOf("probe: { preset: pinecone, timeout_ms: 3000 }", "http").length, 1);
  const further = /`checks: (\[\{ type: tls.+?\}\])`/.exec(readme)?.[1]?.replace("[...]", "[{ of: certificate_days, min: 14 }]");
  assert.deepEqual(
    checksOf(`probe: { checks: ${further} }`, "http").map(({ type, severity, everyMs }) => [type, severity, everyMs]),
    [
      ["http", "hard", null],
      ["tls", "degraded", 60_000],
    ],
  );
});
