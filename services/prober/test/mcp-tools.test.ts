import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { probeCheckPolicy, proberPolicy } from "@mcp-failover/domain";
import { type RealMcpServer, realLegacyServer, realModernServer } from "./mcp-servers.ts";
import { resultOf, runnerFor, targetOf } from "./probe-kit.ts";
import { fakeServer } from "./servers.ts";

const { toolPagesMax, toolsMax } = probeCheckPolicy;

const eras = { legacy: realLegacyServer, modern: realModernServer } as const;
type Era = keyof typeof eras;
const canaryTools = { tools: { get_stock: { read_only: true } } };

async function world(t: TestContext, era: Era) {
  const server: RealMcpServer = await eras[era]();
  t.after(() => server.close());
  let nowMs = 1_800_000_000_000;
  const runner = runnerFor(t, { nowMs: () => nowMs });
  const target = (probe: object) => targetOf(probe, server.url, { upstream: { kind: "mcp", ...canaryTools } });
  return {
    server,
    runner,
    target,
    /** One probe of its own minute, so that lists and canaries are due again. */
    probe: (probe: object, afterMs = 60_000) => {
      nowMs += afterMs;
      return resultOf(runner, target(probe));
    },
    later: (ms: number) => {
      nowMs += ms;
    },
  };
}

for (const era of ["legacy", "modern"] as const) {
  test(`mcp, a real server of the ${era} era: found, its version for assertions, one session at most, ended at the close`, async (t) => {
    const { server, runner, probe, later } = await world(t, era);
    const version = era === "modern" ? "2026-07-28" : "2025-11-25";
    for (let n = 0; n < 5; n += 1) {
      const result = await probe({ expect: [{ of: "protocol_version", equals: version }] }, 5000);
      assert.deepEqual([result.outcome, result.era, result.error], ["ok", era, null]);
    }
    assert.equal(server.sessions, era === "legacy" ? 1 : 0);
    assert.equal(server.methods.filter((method) => method === "initialize").length, era === "legacy" ? 1 : 0);
    assert.equal(server.methods.filter((method) => method === "server/discover").length, era === "legacy" ? 1 : 5, "the era is kept");
    assert.ok(!server.methods.includes("GET"));
    later(proberPolicy.sessionMs);
    await probe({});
    for (let n = 0; n < 100 && server.sessions !== (era === "legacy" ? 1 : 0); n += 1)
      await new Promise((resolve) => setTimeout(resolve, 10));
    assert.equal(server.sessions, era === "legacy" ? 1 : 0, "rotated, and the old one ended");
    const older = await probe({ expect: [{ of: "protocol_version", equals: "2024-11-05", severity: "degraded" }] });
    assert.deepEqual(older.degraded, { code: "assertion", detail: `protocol version: expected "2024-11-05"; saw "${version}"` });
    await runner.close();
    assert.equal(server.sessions, 0, "no session is left");
  });

  test(`mcp_tools, ${era} era: a list that changes is degraded, with the names, until it is as before or pinned anew`, async (t) => {
    const { server, probe } = await world(t, era);
    const watched = { type: "mcp_tools" };
    const first = await probe(watched);
    assert.deepEqual([first.outcome, first.degraded], ["ok", undefined]);
    assert.match(first.toolsHash ?? "", /^sha256:[0-9a-f]{64}$/);
    server.stock.tools = ["reserve", "get_stock"];
    assert.equal((await probe(watched, 300_000)).degraded, undefined, "the order is no change");
    server.stock.description = "Another text";
    assert.equal((await probe(watched, 300_000)).degraded, undefined, "nor is a description");
    server.stock.tools = ["get_stock", "delete_all"];
    // A session of SDK 1 has its server built with it, as after a deployment.
    const drifted = await probe(watched, 300_000);
    const again = await probe(watched, 300_000);
    const seen = drifted.degraded === undefined ? again : drifted;
    assert.deepEqual([seen.outcome, seen.degraded?.code], ["ok", "tools_drift"]);
    assert.match(seen.degraded?.detail ?? "", /new delete_all; gone reserve$/);
    const pinned = await probe({ type: "mcp_tools", mcp_tools: { hash: seen.toolsHash } });
    assert.deepEqual([pinned.outcome, pinned.degraded], ["ok", undefined]);
    const other = await probe({ type: "mcp_tools", mcp_tools: { hash: first.toolsHash } });
    assert.equal(other.degraded?.code, "tools_drift");
    const missing = await probe({ type: "mcp_tools", mcp_tools: { include: ["get_stock", "reserve"] } });
    assert.match(missing.degraded?.detail ?? "", /^expected the tools reserve; they are missing/);
    const told = await probe({ type: "mcp_tools", mcp_tools: { descriptions: true } });
    server.stock.description = "Third text";
    await probe({ type: "mcp_tools", mcp_tools: { descriptions: true } }, 300_000);
    assert.equal(
      (await probe({ type: "mcp_tools", mcp_tools: { descriptions: true } }, 300_000)).degraded?.code,
      "tools_drift",
      JSON.stringify(told),
    );
  });

  test(`mcp_canary, ${era} era: the expected answer is well, another one, isError and an unknown tool are what is configured`, async (t) => {
    const { server, probe } = await world(t, era);
    const canary = (expect: object[], tool = "get_stock") => ({
      type: "mcp_canary",
      mcp_canary: { tool, arguments: { item: "bolts" } },
      expect,
    });
    const answer = { of: "json", path: "$.structuredContent.count", min: 1 };
    const text = { of: "json", path: "$.content[0].text", contains: "of bolts" };
    const well = await probe(canary([answer, text]));
    assert.deepEqual([well.outcome, well.error, well.era], ["ok", null, era]);
    server.stock.count = 0;
    const wrong = await probe(canary([answer]));
    assert.deepEqual([wrong.outcome, wrong.error], ["hard", "JSON $.structuredContent.count: expected at least 1; saw 0"]);
    const softer = await probe(canary([{ ...answer, severity: "degraded" }]));
    assert.deepEqual([softer.outcome, softer.degraded?.code], ["ok", "assertion"]);
    server.stock.isBroken = true;
    const broken = await probe(canary([]));
    assert.deepEqual([broken.outcome, broken.error], ["hard", "canary get_stock: expected an answer, saw isError: the tool itself fails"]);
    server.stock.isBroken = false;
    const unknown = await probe(canary([], "get_nothing"));
    assert.equal(unknown.outcome, "hard");
    assert.match(unknown.error ?? "", /^canary get_nothing: expected an answer, saw /);
    assert.equal((await probe(canary([]))).outcome, "ok");
  });
}

test("T1: lists and canaries are asked for at their own pace while all is well, and at every probe while it is not", async (t) => {
  const { server, probe } = await world(t, "modern");
  const calls = (method: string) => server.methods.filter((one) => one === method).length;
  const watched = { type: "mcp_tools", mcp_tools: { every_ms: 60_000 } };
  for (let n = 0; n < 12; n += 1) await probe(watched, 5000);
  assert.equal(calls("tools/list"), 1);
  server.stock.tools = ["get_stock"];
  await probe(watched, 5000);
  const before = calls("tools/list");
  await probe(watched, 250);
  await probe(watched, 250);
  assert.equal(calls("tools/list"), before + 2);
  server.stock.tools = ["get_stock", "reserve"];
  assert.equal((await probe(watched, 250)).degraded, undefined, "its end is noticed at once");
  const canary = {
    type: "mcp_canary",
    mcp_canary: { tool: "get_stock", arguments: { item: "nuts" }, every_ms: 30_000 },
    expect: [{ of: "json", path: "$.structuredContent.count", equals: 7 }],
  };
  for (let n = 0; n < 6; n += 1) assert.equal((await probe(canary, 5000)).outcome, "ok");
  assert.equal(calls("tools/call"), 1);
  server.stock.count = 3;
  assert.equal((await probe(canary, 30_000)).outcome, "hard");
  // One bad answer never counts twice: each of these asked anew.
  assert.equal((await probe(canary, 250)).outcome, "hard");
  assert.equal(calls("tools/call"), 3);
  server.stock.count = 7;
  assert.equal((await probe(canary, 250)).outcome, "ok");
});

test("a canary that takes its time is not condemned by a quick probe, and one that hangs is", async (t) => {
  const { server, runner, target, later } = await world(t, "modern");
  server.stock.slowMs = 400;
  const canary = target({ type: "mcp_canary", mcp_canary: { tool: "get_stock", arguments: { item: "nuts" }, every_ms: 100 } });
  assert.equal((await resultOf(runner, canary, { timeoutMs: 5000 })).outcome, "ok");
  later(1000);
  assert.equal((await resultOf(runner, canary, { fresh: true, timeoutMs: 250 })).outcome, "ok");
  server.stock.slowMs = 3000;
  later(1000);
  const hung = await resultOf(runner, canary, { fresh: true, timeoutMs: 250 });
  assert.deepEqual([hung.outcome, hung.code], ["hard", "timeout"]);
});

test("T3: a tool list whose pages never end, or that is too long, is drift after so many, and no probe without end", async (t) => {
  let pages = 0;
  let perPage = 1;
  const server = await fakeServer((_request, response, body) => {
    const { id, method } = JSON.parse(body) as { id: string; method: string };
    if (method === "tools/list") pages += 1;
    const tools = Array.from({ length: perPage }, (_, index) => ({ name: `tool-${pages}-${index}`, inputSchema: { type: "object" } }));
    const result =
      method === "server/discover" ? { supportedVersions: ["2026-07-28"], capabilities: {} } : { tools, nextCursor: `page-${pages}` };
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ jsonrpc: "2.0", id, result }));
  });
  t.after(() => server.kill());
  const runner = runnerFor(t);
  const probe = () => resultOf(runner, targetOf({ type: "mcp_tools" }, server.url, { upstream: { kind: "mcp" } }), { timeoutMs: 20_000 });
  const endless = await probe();
  assert.deepEqual(
    [endless.outcome, endless.degraded, pages],
    ["ok", { code: "tools_drift", detail: `tools/list: expected at most ${toolPagesMax} pages, saw more` }, toolPagesMax],
  );
  perPage = toolsMax;
  pages = 0;
  const long = await probe();
  assert.deepEqual([long.outcome, long.degraded?.detail, pages], ["ok", `tools/list: expected at most ${toolsMax} tools, saw more`, 2]);
});
