import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { patientMs } from "@mcp-failover/testkit";
import { connectClient } from "../harness/load.ts";
import { type RunningStack, startStack } from "../harness/stack.ts";
import { until } from "../harness/wait.ts";
import { startWebhook, type WebhookReceiver } from "../harness/webhook.ts";

const call = { name: "echo", arguments: { message: "anyone?" } };

/** Nothing comes back by itself: the tests say when. */
const stayDown = (config: { local: { processes: { restart_after_ms: number }[] } }): void => {
  for (const process of config.local.processes) process.restart_after_ms = 3_600_000;
};

describe("both endpoints of an upstream are dead", { concurrency: false }, () => {
  let stack: RunningStack;
  let webhook: WebhookReceiver;
  before(async () => {
    webhook = await startWebhook();
    stack = await startStack({ webhookUrl: webhook.url, edit: stayDown });
  });
  after(async () => {
    await stack?.stop();
    await webhook?.close();
  });

  const everything = async () => (await stack.status()).upstreams.find(({ name }) => name === "everything") ?? assert.fail();
  const killBoth = async (): Promise<void> => {
    const pids = await Promise.all([stack.pidOf("everything-primary"), stack.pidOf("everything-secondary")]);
    for (const pid of pids) process.kill(pid, "SIGKILL");
  };
  const start = async (name: string): Promise<void> => {
    const reply = await stack.bus.request("launcher.start", { process: name }, { timeoutMs: 10_000 });
    assert.ok(reply.ok, JSON.stringify(reply));
  };
  const isTyped = (error: Error & { code?: number; data?: { code?: string; operationId?: string } }): true => {
    assert.equal(error.data?.code, "no_endpoint", `${error.message} ${JSON.stringify(error.data)}`);
    assert.match(error.message, /everything/);
    assert.ok(error.data?.operationId);
    return true;
  };
  /** Calls as an agent would that does not give up, until one works. */
  const worksWithin = async (client: Awaited<ReturnType<typeof connectClient>>, ms: number): Promise<number> => {
    const fromMs = performance.now();
    await until(async () => (await client.callTool(call)).isError !== true, ms, "a call that works");
    return performance.now() - fromMs;
  };

  test("with traffic: a typed error in under a second, no failover to a dead endpoint, one alert, and calls work within 3 s of the return", async () => {
    const client = await connectClient(`${stack.routerUrl}/mcp/everything`);
    await client.callTool(call);
    const before = await everything();
    await killBoth();
    for (let n = 0; n < 10; n += 1) {
      const fromMs = performance.now();
      await assert.rejects(client.callTool(call), isTyped);
      const tookMs = performance.now() - fromMs;
      assert.ok(tookMs < patientMs(1000), `the error took ${Math.round(tookMs)} ms`);
    }
    await until(() => webhook.received.length > 0, 15_000, "the alert");
    await until(
      async () => (await everything()).endpoints.every(({ health }) => health === "unhealthy"),
      20_000,
      "both are seen as unhealthy",
    );
    const dead = await everything();
    assert.deepEqual([dead.active, dead.epoch], [before.active, before.epoch], "nothing was moved to a dead endpoint");
    const opened = webhook.received.map(({ body }) => body as { kind: string; title: string });
    assert.deepEqual(
      opened.map(({ kind }) => kind),
      ["opened"],
      JSON.stringify(opened),
    );

    await start("everything-secondary");
    const tookMs = await worksWithin(client, 3000);
    assert.ok(tookMs < patientMs(3000), `calls worked after ${Math.round(tookMs)} ms`);
    await client.close();
  });

  test("without traffic: the probers notice by themselves, nothing is moved, and the first calls after the return work within 3 s", async () => {
    await start("everything-primary");
    await until(async () => (await everything()).endpoints.every(({ health }) => health === "healthy"), 30_000, "both are healthy again");
    const before = await everything();
    await killBoth();
    await until(
      async () => (await everything()).endpoints.every(({ health }) => health === "unhealthy"),
      20_000,
      "both are seen as unhealthy",
    );
    const dead = await everything();
    assert.deepEqual([dead.active, dead.epoch], [before.active, before.epoch], (await stack.mcpf(["events", "tail"])).stdout);
    const fromMs = performance.now();
    await assert.rejects(connectClient(`${stack.routerUrl}/mcp/everything`), /everything/);
    assert.ok(performance.now() - fromMs < patientMs(1000), "a new session is refused in under a second");
    await start("everything-primary");
    await until(
      async () => {
        const client = await connectClient(`${stack.routerUrl}/mcp/everything`);
        await client.callTool(call);
        await client.close();
        return true;
      },
      3000,
      "a new session works",
    );
  });
});
