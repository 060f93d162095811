import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { makeEvent, type Observation, type ProbeRequested } from "@mcp-failover/contracts";
import { configured, observed, runMcpf, serveProber } from "./support.ts";

type Answer = Partial<Observation> | "silent";

/** A bus with a configuration and probers that answer as told, each endpoint the same. */
async function world(t: TestContext, probers: Record<string, Answer>) {
  const { broker, bus } = await configured();
  const asked: ProbeRequested[] = [];
  for (const [prober, answer] of Object.entries(probers)) {
    await serveProber(t, broker, prober, (_bus, request, respond) => {
      asked.push(request);
      if (answer === "silent") return;
      const data = { observer: prober, observations: observed(prober, request, { httpStatus: 200, ...answer }) };
      const from = { id: `${prober}-${asked.length}`, service: "prober" as const, instance: prober, timeMs: Date.now() };
      respond(makeEvent({ type: "probe.observed", keys: [prober], data, ...from }));
    });
  }
  const mcpf = (...argv: string[]) => runMcpf(bus, argv);
  return { mcpf, asked };
}

test("probe run prints what each prober found, asks each once, and is 0 for a healthy endpoint", async (t) => {
  const { mcpf, asked } = await world(t, { p1: {}, p2: { responseTimeMs: 20 } });
  const ran = await mcpf("probe", "run", "api/one", "-o", "json", "--timeout-ms", "700");
  assert.equal(ran.code, 0, ran.stderr);
  const found = { outcome: "ok", code: null, httpStatus: 200, era: null, degraded: null, error: null, toolsHash: null };
  assert.deepEqual(JSON.parse(ran.stdout), {
    upstream: "api",
    endpoint: "one",
    status: "healthy",
    probers: [
      { prober: "p1", responseTime: 12.5, ...found },
      { prober: "p2", responseTime: 20, ...found },
    ],
  });
  assert.deepEqual(
    asked.map(({ targets, purpose, timeoutMs, requestedBy }) => [targets, purpose, timeoutMs, requestedBy]),
    [0, 1].map(() => [[{ upstream: "api", endpoint: "one" }], "requested", 700, "mcpf"]),
  );
});

test("it is 3 when at least half of the answers are failures, and the table names prober, failure and reason", async (t) => {
  const down = { outcome: "hard", code: "refused", error: "no answer: refused (ECONNREFUSED)", httpStatus: null } as const;
  const { mcpf } = await world(t, { p1: down, p2: {}, p3: "silent" });
  const ran = await mcpf("probe", "run", "api/one", "--timeout-ms", "100");
  assert.equal(ran.code, 3);
  assert.match(ran.stdout, /^api\/one: unhealthy\nPROBER +RESULT/);
  assert.match(ran.stdout, /^p1 +FAILED \(refused\) +- +- +no answer: refused \(ECONNREFUSED\)$/m);
  assert.match(ran.stdout, /^p2 +ok +12\.5 ms +HTTP 200$/m);
  assert.match(ran.stdout, /^p3 +- +- +- +no answer: it may lack a secret/m);
});

test("degraded is 0 and says why; an upstream alone means all its endpoints, as lines where asked; one failure of three is degraded", async (t) => {
  const drifted = { degraded: { code: "tools_drift", detail: "the tool list is not as pinned" }, toolsHash: "sha256:ab" };
  const first = await world(t, { p1: drifted, p2: {} });
  const ran = await first.mcpf("probe", "run", "api", "-o", "ndjson");
  assert.equal(ran.code, 0);
  const rows = ran.stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { endpoint: string; status: string });
  assert.deepEqual(
    rows.map(({ endpoint, status }) => [endpoint, status]),
    [
      ["one", "degraded"],
      ["two", "degraded"],
    ],
  );
  assert.match((await first.mcpf("probe", "run", "api/one")).stdout, /degraded: the tool list is not as pinned \| tools sha256:ab/);
  const second = await world(t, { p1: { outcome: "hard", code: "timeout" }, p2: {}, p3: {} });
  assert.equal((await second.mcpf("probe", "run", "api/one")).code, 0);
});

test("an unknown endpoint and a wrong time-out are wrong usage (2); no prober, and none that answers, is 1", async (t) => {
  const { mcpf } = await world(t, { p1: "silent" });
  for (const target of ["api/three", "nothing", "api/one/more", "/"]) {
    const ran = await mcpf("probe", "run", target);
    assert.equal(ran.code, 2, target);
    assert.match(ran.stderr, /known: api\/one, api\/two/);
  }
  assert.equal((await mcpf("probe", "run", "api/one", "--timeout-ms", "soon")).code, 2);
  const silent = await mcpf("probe", "run", "api/one", "--timeout-ms", "50", "-o", "json");
  assert.deepEqual([silent.code, JSON.parse(silent.stdout).status], [1, "unknown"]);
  const empty = await world(t, {});
  const none = await empty.mcpf("probe", "run", "api/one");
  assert.equal(none.code, 1);
  assert.match(none.stderr, /no prober is running/);
});
