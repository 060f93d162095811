import assert from "node:assert/strict";
import { test } from "node:test";
import type { Bus } from "@mcp-failover/bus";
import { buckets } from "@mcp-failover/contracts";
import { testKit } from "@mcp-failover/service-kit/testing";
import { eventually, freePort } from "@mcp-failover/testkit";
import { routerConfig } from "../src/config.ts";
import { startRouter } from "../src/wiring.ts";
import { start } from "./control/fixture.ts";
import { connectV1 } from "./support/clients.ts";
import { startMcpServer } from "./support/mcp-server.ts";

test("what upstreams of /mcp gave last fills a bucket of its own alone: sessions are kept in another one", async (t) => {
  const upstream = await startMcpServer("a");
  t.after(() => upstream.kill());
  const yaml = `
upstreams:
  docs:
    kind: mcp
    endpoints:
      - { name: a, url: "${upstream.url}", tier: 0 }
`;
  const fixture = await start(t, { yaml });
  const bus = fixture.broker.connect();
  const kept: string[] = [];
  const limits = new Map<string, unknown>();
  const noting: Bus = Object.assign(Object.create(bus) as Bus, {
    bucket: async (...[name, given]: Parameters<Bus["bucket"]>) => {
      limits.set(name, given);
      const bucket = await bus.bucket(name, given);
      const note = <A extends [string, ...unknown[]], R>(write: (...args: A) => R) => {
        return (...args: A): R => {
          kept.push(`${name} ${args[0].startsWith("list-") ? "list" : "session"}`);
          return write(...args);
        };
      };
      return { ...bucket, create: note(bucket.create), update: note(bucket.update), put: note(bucket.put) };
    },
  });
  const config = routerConfig.parse({ MCPF_ROUTER_PORT: String(await freePort()), MCPF_ROUTER_GRACE_MS: "100" });
  const running = await startRouter(testKit({ service: "router", instance: "router-2", bus: noting, config, dataDir: fixture.dataDir }));
  t.after(async () => {
    await running.stop?.();
    await bus.close();
  });
  const { client } = await connectV1(`http://127.0.0.1:${config.MCPF_ROUTER_PORT}/mcp`);
  await client.listTools();
  await client.callTool({ name: "docs__whoami", arguments: {} });
  await eventually(() => new Set(kept).size === 2);
  await client.close();
  assert.deepEqual([...new Set(kept)].sort(), ["router-lists list", "router-sessions session"]);
  for (const name of ["router-lists", "router-sessions"] as const) assert.deepEqual(limits.get(name), buckets[name]);
});
