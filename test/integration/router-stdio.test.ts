import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { subjectOf } from "@mcp-failover/contracts";
import { connectClient } from "../harness/load.ts";
import { until } from "../harness/wait.ts";
import { type RouterWorld, routerWorld } from "./router-world.ts";

const root = join(import.meta.dirname, "..", "..");
const everything = join(root, "node_modules", "@modelcontextprotocol", "server-everything", "dist", "index.js");
const stubborn = join(root, "services", "router", "test", "support", "stdio-server.ts");
const textOf = (result: unknown): string => String((result as { content: { text: string }[] }).content[0]?.text);

/** Processes whose environment has this mark, read from /proc. */
function marked(mark: string): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        return (
          readFileSync(`/proc/${name}/environ`, "utf8").includes(mark) && !/^\S+ \(.*\) Z/.test(readFileSync(`/proc/${name}/stat`, "utf8"))
        );
      } catch {
        return false;
      }
    })
    .map(Number);
}

describe("a router that runs stdio servers", { skip: process.platform === "linux" ? false : "processes are found in /proc" }, () => {
  let world: RouterWorld;
  const mark = `MCPF_TEST_MARK=${process.pid}-${Date.now()}`;
  const env = { TEST_MARK: mark };
  const token = "a-token-of-probers-that-is-long-enough";

  before(async () => {
    world = await routerWorld();
    const http = await world.startEverything();
    await world.configure({
      upstreams: {
        everything: {
          kind: "mcp",
          endpoints: [
            {
              name: "process",
              stdio: { command: "everything", args: ["stdio"], env },
              tier: 0,
              probe: { checks: [{ type: "resource", resource: { stdio: "largest", limit: 10e9 } }] },
            },
            { name: "server", url: http.url, tier: 1 },
          ],
          tools: { echo: { read_only: true } },
        },
        stubborn: { kind: "mcp", endpoints: [{ name: "only", stdio: { command: "stubborn", args: ["stubborn"], env }, tier: 0 }] },
      },
    });
    await world.startRouter("router-1", {
      MCPF_STDIO_ALLOW: JSON.stringify({ everything: [process.execPath, everything], stubborn: [process.execPath, stubborn] }),
      MCPF_PROBE_TOKEN: token,
    });
  });
  after(() => world.stop());

  test("R25: a real stdio server is used like one over HTTP, and a session moves from its process to a server and back", async () => {
    const client = await connectClient(`${world.url}/mcp/everything`);
    const echo = async (message: string): Promise<string> => textOf(await client.callTool({ name: "echo", arguments: { message } }));
    assert.equal(await echo("a"), "Echo: a");
    const steps: number[] = [];
    await client.callTool({ name: "trigger-long-running-operation", arguments: { duration: 0.3, steps: 3 } }, undefined, {
      onprogress: ({ progress }) => steps.push(progress),
    });
    assert.deepEqual(steps, [1, 2, 3]);
    await world.move("everything", "process", "server");
    await until(async () => (await echo("b")) === "Echo: b", 5000);
    await world.move("everything", "server", "process");
    for (const pid of marked(mark)) process.kill(pid, "SIGKILL");
    assert.equal(await echo("c"), "Echo: c", "a read goes on when every process was killed");
    await client.close();
  });

  test("a prober's look at a process is answered through the router", async () => {
    const look = async (endpoint: string, headers: Record<string, string> = { authorization: `Bearer ${token}` }): Promise<number> =>
      (await fetch(`${world.url}/probe/everything/${endpoint}`, { headers })).status;
    await until(async () => (await look("process")) === 200, 8000);
    assert.equal(await look("server"), 404);
    assert.equal(await look("process", {}), 401, "who is no prober has no process asked");
    const memory = await fetch(`${world.url}/probe/everything/process/memory`, { headers: { authorization: `Bearer ${token}` } });
    const { processes, largestBytes } = (await memory.json()) as { processes: number; largestBytes: number };
    assert.ok(processes > 0 && largestBytes > 2e7 && largestBytes < 8e9, `${processes} with up to ${largestBytes}`);
    assert.equal(await look("process/memory", {}), 401);
    await world.startService("prober", "prober-1", { MCPF_ROUTER_URL: world.url, MCPF_PROBE_TOKEN: token });
    const subject = subjectOf("health.changed", "everything", "process");
    const statusOf = async (): Promise<unknown> => {
      const content = (await world.bus.lastOf("AUDIT", subject))?.content;
      return content?.kind === "event" ? (content.event.data as { status?: unknown }).status : null;
    };
    await until(async () => (await statusOf()) === "healthy", 20_000);
  });

  test("R25: no process outlives a router that is killed, not even one that ignores the end of its input and SIGTERM", async () => {
    const clients = await Promise.all(["everything", "stubborn"].map((name) => connectClient(`${world.url}/mcp/${name}`)));
    await until(() => marked(mark).length >= 3, 8000);
    world.routers[0]?.kill("SIGKILL");
    await until(
      () => marked(mark).length === 0,
      10_000,
      () => `left: ${marked(mark).join(" ")}`,
    );
    for (const client of clients) await client.close();
  });
});
