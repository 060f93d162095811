import assert from "node:assert/strict";
import { test } from "node:test";
import { healthReport as schema, type Topology } from "@mcp-failover/contracts";
import { emptyReadModel, foldReadModel, healthReport, type Placed, type ReadModel } from "@mcp-failover/domain";
import { configApplied, decided, healthChanged, startMs, topologyOf } from "./audit-events.ts";

type Make = (seq: number) => Placed;
const fold = (...events: Make[]): ReadModel => events.reduce((model, make, index) => foldReadModel(model, make(index + 1)), emptyReadModel);
const upstreams = { shop: ["primary", "secondary"], docs: ["only"] };
const config =
  (critical: boolean, more: object = {}): Make =>
  (seq) =>
    configApplied(seq, seq, { ...(topologyOf(upstreams, { critical }) as object), ...more });
const health =
  (service: string, endpoint: string, status: "healthy" | "unhealthy" | "unknown"): Make =>
  (seq) =>
    healthChanged(seq, service, endpoint, status);
const reportOf = (model: ReadModel) => schema.parse(healthReport(model, startMs));

test("HR1: before anything was probed every configured service is in the report, as unknown; with nothing configured it is empty", () => {
  const report = reportOf(fold(config(true)));
  assert.deepEqual(
    report.services.map(({ service, status, responseTime, error, timestamp, critical }) => [
      service,
      status,
      responseTime,
      error,
      timestamp,
      critical,
    ]),
    [
      ["shop", "unknown", null, null, null, true],
      ["docs", "unknown", null, null, null, true],
    ],
  );
  assert.equal(report.overall, "unknown");
  assert.deepEqual([reportOf(emptyReadModel).services, reportOf(emptyReadModel).overall], [[], "unknown"]);
});

test("HR1: the fields of the reference are there with real values: service, status, responseTime, error, timestamp, critical", () => {
  const [shop] = reportOf(fold(config(true), health("shop", "primary", "healthy"))).services;
  assert.deepEqual([shop?.service, shop?.status, shop?.critical, shop?.endpoint], ["shop", "healthy", true, "primary"]);
  assert.equal(typeof shop?.responseTime, "number");
  assert.ok(shop?.timestamp !== null && Number.isFinite(Date.parse(shop?.timestamp ?? "")));
});

test("HR2: a service is as well as the endpoint that serves it, and its other unhealthy endpoints are named", () => {
  const events = [
    config(true),
    health("shop", "primary", "unhealthy"),
    health("shop", "secondary", "healthy"),
    health("docs", "only", "healthy"),
  ];
  const before = reportOf(fold(...events));
  assert.deepEqual([before.services[0]?.status, before.services[0]?.endpoint, before.overall], ["unhealthy", "primary", "unhealthy"]);
  const after = reportOf(fold(...events, (seq) => decided(seq, "shop", "secondary", 1)));
  assert.deepEqual([after.services[0]?.status, after.services[0]?.endpoint, after.overall], ["healthy", "secondary", "healthy"]);
  assert.deepEqual(after.services[0]?.unhealthy, ["primary"]);
});

test("HR2: a pool is as well as the best endpoint of its active tier, and what is well in another tier serves nobody", () => {
  const pool: Make = (seq) => {
    const { shop } = (topologyOf({ shop: ["a", "b", "spare"] }) as Topology).upstreams;
    const endpoints = shop!.endpoints.map((endpoint) => ({ ...endpoint, tier: endpoint.name === "spare" ? 1 : 0 }));
    return configApplied(seq, seq, { upstreams: { shop: { ...shop, mode: "pool", endpoints } } });
  };
  const shown = (...events: Make[]) => {
    const [shop] = reportOf(fold(pool, ...events)).services;
    return [shop?.status, shop?.endpoint];
  };
  const half = [health("shop", "a", "unhealthy"), health("shop", "b", "healthy"), health("shop", "spare", "healthy")];
  assert.deepEqual(shown(...half), ["healthy", "b"]);
  const gone = [...half, health("shop", "b", "unhealthy")];
  assert.equal(shown(...gone)[0], "unhealthy");
  assert.deepEqual(
    shown(...gone, (seq) => decided(seq, "shop", "spare", 1)),
    ["healthy", "spare"],
  );
});

test("HR3: only a critical service that is unhealthy makes all unhealthy", () => {
  const sick = [health("shop", "primary", "unhealthy"), health("docs", "only", "healthy")] as const;
  assert.equal(reportOf(fold(config(true), ...sick)).overall, "unhealthy");
  assert.equal(reportOf(fold(config(false), ...sick)).overall, "degraded");
  assert.equal(reportOf(fold(config(true), health("shop", "primary", "healthy"), health("docs", "only", "unknown"))).overall, "unknown");
});

test("HR1: maintenance is noted with its name, reason and end", () => {
  const window = {
    name: "upgrade",
    upstreams: ["shop"],
    from: new Date(startMs - 1).toISOString(),
    until: new Date(startMs + 5).toISOString(),
    reason: "disks",
  };
  const report = reportOf(fold(config(true, { maintenance: [window] })));
  assert.deepEqual(report.services[0]?.maintenance, { name: "upgrade", reason: "disks", until: window.until });
  assert.equal(report.services[1]?.maintenance, null);
});
