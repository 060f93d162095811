import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { freePort, startRedis } from "@mcp-failover/testkit";
import { toNodeHandler } from "@modelcontextprotocol/node";
import { createMcpHandler, McpServer } from "@modelcontextprotocol/server";
import { ROOT } from "../../scripts/lib/repo.mjs";
import { until } from "../harness/wait.ts";
import { proberWorld } from "./prober-world.ts";

test("processes on a real nats-server: tool lists, Redis, commands and heartbeats become health, and `mcpf probe run` shows what each prober sees", {
  timeout: 120_000,
}, async (t) => {
  const world = await proberWorld();
  t.after(() => world.stop());
  const redis = await startRedis();
  t.after(() => redis.stop());
  let tools = ["get_stock"];
  const handler = toNodeHandler(
    createMcpHandler(() => {
      const server = new McpServer({ name: "warehouse", version: "1.0.0" });
      for (const name of tools) server.registerTool(name, {}, () => ({ content: [{ type: "text", text: "7" }] }));
      return server;
    }),
  );
  const mcp = createServer((request, response) => void handler(request as Parameters<typeof handler>[0], response));
  await new Promise<void>((resolve) => mcp.listen(0, "127.0.0.1", resolve));
  t.after(() => mcp.close());
  const mcpUrl = `http://127.0.0.1:${(mcp.address() as AddressInfo).port}/mcp`;
  const pace = { interval_ms: 500, timeout_ms: 5000 };
  const at = (url: string) => [{ name: "one", url, tier: 0 }];
  await world.configure({
    warehouse: { kind: "mcp", endpoints: at(mcpUrl), probe: { ...pace, type: "mcp_tools", mcp_tools: { every_ms: 200 } } },
    cache: {
      kind: "http",
      endpoints: at("http://127.0.0.1:1"),
      probe: { ...pace, type: "redis", url: `redis://${new URL(redis.url).host}` },
    },
    disk: {
      kind: "http",
      endpoints: at("http://127.0.0.1:2"),
      probe: { ...pace, interval_ms: 2000, type: "exec", exec: { command: "check" } },
    },
    worker: {
      kind: "http",
      endpoints: at("http://127.0.0.1:3"),
      probe: { ...pace, type: "heartbeat", heartbeat: { max_age_ms: 2000, token: { secret: "BEAT" } } },
    },
  });
  const reportPort = await freePort();
  const env = {
    BEAT: "beat-token-value",
    MCPF_REPORT_PORT: String(reportPort),
    MCPF_EXEC_ALLOW: JSON.stringify({ check: [process.execPath, "-e", "console.log('fine')"] }),
  };
  const probers = [await world.startProber("prober-1", env), await world.startProber("prober-2", env)];
  const beat = setInterval(() => {
    const request = { method: "POST", headers: { authorization: "Bearer beat-token-value" } };
    fetch(`http://127.0.0.1:${reportPort}/report/worker/one`, request).catch(() => undefined);
  }, 300);
  t.after(() => clearInterval(beat));
  const all = ["warehouse", "cache", "disk", "worker"];
  const said = () =>
    `${all.map((name) => `${name} ${world.health.get(`${name}/one`)?.status}`).join(", ")}\n${probers.map((one) => one.output()).join("\n")}`;
  await until(() => all.every((name) => world.health.get(`${name}/one`)?.status === "healthy"), 40_000, said);

  const mcpf = async (...args: string[]) => {
    const child = spawn(process.execPath, [join(ROOT, "packages/cli/bin/mcpf.mjs"), ...args], {
      env: { PATH: process.env["PATH"] ?? "", NATS_URL: world.nats.url },
      stdio: ["ignore", "pipe", "inherit"],
    });
    let stdout = "";
    child.stdout.on("data", (chunk: Buffer) => {
      stdout += chunk.toString("utf8");
    });
    // Not "exit": what it has written may still be on its way then.
    const [code] = (await once(child, "close")) as [number];
    return { code, stdout };
  };
  type Printed = {
    status: string;
    probers: { prober: string; outcome: string; toolsHash: string | null; degraded: { code: string } | null }[];
  };
  const first = await mcpf("probe", "run", "warehouse/one", "-o", "json");
  const printed = JSON.parse(first.stdout) as Printed;
  assert.deepEqual([first.code, printed.status, printed.probers.map(({ prober }) => prober)], [0, "healthy", ["prober-1", "prober-2"]]);
  assert.equal(new Set(printed.probers.map(({ toolsHash }) => toolsHash)).size, 1, "both see the same list");

  tools = ["get_stock", "delete_all"];
  await until(() => world.health.get("warehouse/one")?.status === "degraded", 20_000, said);
  const drifted = JSON.parse((await mcpf("probe", "run", "warehouse/one", "-o", "json")).stdout) as Printed;
  assert.deepEqual([drifted.status, drifted.probers[0]?.degraded?.code], ["degraded", "tools_drift"]);

  await redis.stop();
  clearInterval(beat);
  await until(() => ["cache", "worker"].every((name) => world.health.get(`${name}/one`)?.status === "unhealthy"), 30_000, said);
  const down = await mcpf("probe", "run", "cache/one");
  assert.equal(down.code, 3);
  assert.match(down.stdout, /^prober-1 +FAILED \(refused\)/m);
  assert.doesNotMatch(JSON.stringify([world.observations, world.said]), /beat-token-value/);
});
