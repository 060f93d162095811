import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { decideHealth, type HealthInput } from "@mcp-failover/domain";
import { freePort } from "@mcp-failover/testkit";
import { toNodeHandler } from "@modelcontextprotocol/node";
import { createMcpHandler, McpServer } from "@modelcontextprotocol/server";
import { until } from "../harness/wait.ts";
import { proberWorld, startProcess } from "./prober-world.ts";

const everything = join(import.meta.dirname, "..", "..", "node_modules", "@modelcontextprotocol", "server-everything", "dist", "index.js");
/** server-everything binds all interfaces; this holds it to loopback. */
const loopback = `data:text/javascript,${encodeURIComponent(`
import net from "node:net";
const { listen } = net.Server.prototype;
net.Server.prototype.listen = function (port, ...rest) { return listen.call(this, port, "127.0.0.1", ...rest.filter((part) => typeof part === "function")); };
`)}`;
const startEverything = (port: number) =>
  startProcess(process.execPath, ["--import", loopback, everything, "streamableHttp"], { PORT: String(port) });

test("real MCP servers of both eras: found, killed, stopped, back, without any traffic", {
  timeout: 240_000,
}, async (t) => {
  const world = await proberWorld();
  t.after(() => world.stop());
  const modernMethods: string[] = [];
  const handler = toNodeHandler(createMcpHandler(() => new McpServer({ name: "modern", version: "1.0.0" })));
  const modern = createServer((request, response) => {
    modernMethods.push(`${request.method} ${String(request.headers["mcp-method"])}`);
    void handler(request as Parameters<typeof handler>[0], response);
  });
  await new Promise<void>((resolve) => modern.listen(0, "127.0.0.1", resolve));
  t.after(() => modern.close());
  const port = await freePort();
  let legacy = startEverything(port);
  t.after(() => legacy.stop());
  await world.configure({
    mcp: {
      kind: "mcp",
      endpoints: [
        { name: "legacy", url: `http://127.0.0.1:${port}/mcp`, tier: 0 },
        { name: "modern", url: `http://127.0.0.1:${(modern.address() as AddressInfo).port}/mcp`, tier: 1 },
      ],
    },
  });
  const probers = [await world.startProber("prober-1"), await world.startProber("prober-2")];
  const statusOf = (endpoint: string) => world.health.get(`mcp/${endpoint}`)?.status;
  const output = () => `${probers.map((prober) => prober.output()).join("\n")}\n${legacy.output()}`;
  await until(() => statusOf("legacy") === "healthy" && statusOf("modern") === "healthy", 40_000, output);
  for (const prober of probers) await until(async () => (await prober.readyz()) === "ready", 30_000);
  const eras = new Map(world.observations.map(({ endpoint, era }) => [endpoint, era]));
  assert.deepEqual([eras.get("legacy"), eras.get("modern")], ["legacy", "modern"]);
  assert.deepEqual([...new Set(modernMethods)], ["POST server/discover"]);

  // How long it takes is for the benchmark of detection: here other tests may have the machine.
  const timed = async (endpoint: string, status: string): Promise<number> => {
    const fromMs = performance.now();
    await until(() => statusOf(endpoint) === status, 40_000, output);
    return Math.round(performance.now() - fromMs);
  };
  legacy.kill("SIGKILL");
  const deadMs = await timed("legacy", "unhealthy");
  assert.equal(world.health.get("mcp/legacy")?.votes.length, 2);
  legacy = startEverything(port);
  await until(async () => (await fetch(`http://127.0.0.1:${port}/mcp`)).status === 400, 40_000);
  const backMs = await timed("legacy", "healthy");

  legacy.kill("SIGSTOP");
  const stoppedMs = await timed("legacy", "unhealthy");
  legacy.kill("SIGCONT");
  const continuedMs = await timed("legacy", "healthy");
  t.diagnostic(
    `down ${deadMs} ms after SIGKILL, up ${backMs} ms after the restart, down ${stoppedMs} ms after SIGSTOP, up ${continuedMs} ms after SIGCONT`,
  );
  assert.equal(statusOf("modern"), "healthy");
  for (const data of world.said) {
    const again = decideHealth(data.certificate.input as HealthInput);
    assert.deepEqual([again.rule, again.state], [data.certificate.rule, data.state], "every word can be decided again");
  }
  for (const prober of probers) assert.equal(await prober.stop(), 0);
  const idsOf = (pattern: RegExp) => [...legacy.output().matchAll(pattern)].map(([, id]) => id).sort();
  const opened = idsOf(/Session initialized with ID: (\S+)/g);
  assert.ok(opened.length >= 1 && opened.length <= 4, `${opened.length} sessions in all`);
  // All output of the server is one pipe behind its answers.
  await until(() => idsOf(/Received session termination request for session (\S+)/g).join() === opened.join(), 30_000, output);
});
