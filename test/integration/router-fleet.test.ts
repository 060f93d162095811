import assert from "node:assert/strict";
import { after, before, describe, type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { patientMs } from "@mcp-failover/testkit";
import { Client as ClientV2, StreamableHTTPClientTransport as TransportV2 } from "@modelcontextprotocol/client";
import { LoggingMessageNotificationSchema } from "@modelcontextprotocol/sdk/types.js";
import { connectClient, startLoad } from "../harness/load.ts";
import { until } from "../harness/wait.ts";
import { type RouterWorld, routerWorld } from "./router-world.ts";

const textOf = (result: unknown): string => String((result as { content: { text: string }[] }).content[0]?.text);

describe("two router processes on one port, before two real MCP servers", () => {
  let world: RouterWorld;
  let primary: Awaited<ReturnType<RouterWorld["startEverything"]>>;
  let secondary: Awaited<ReturnType<RouterWorld["startEverything"]>>;
  const url = (): string => `${world.url}/mcp/everything`;
  const load = async (t: TestContext) => {
    const running = await startLoad({
      url: url(),
      tool: "echo",
      args: (n) => ({ message: `m${n}` }),
      check: (result, n) => (textOf(result) === `Echo: m${n}` ? null : `unexpected ${textOf(result)}`),
      callsPerSecond: 50,
    });
    t.after(() => running.stop());
    return running;
  };

  before(async () => {
    world = await routerWorld();
    [primary, secondary] = await Promise.all([world.startEverything(), world.startEverything()]);
    await world.configure({
      upstreams: {
        everything: {
          kind: "mcp",
          endpoints: [
            { name: "primary", url: primary.url, tier: 0 },
            { name: "secondary", url: secondary.url, tier: 1 },
          ],
          tools: { echo: { read_only: true } },
        },
      },
    });
    await Promise.all([world.startRouter("router-1"), world.startRouter("router-2")]);
  });
  after(() => world.stop());

  test("clients of SDK 1.x and 2.x initialize, list and call with the same results as directly", async () => {
    const [routed, direct] = [await connectClient(url()), await connectClient(primary.url)];
    assert.deepEqual(await routed.listTools(), await direct.listTools());
    assert.deepEqual(await routed.listResources(), await direct.listResources());
    assert.deepEqual(await routed.listPrompts(), await direct.listPrompts());
    const sum = { name: "get-sum", arguments: { a: 2, b: 40 } };
    assert.deepEqual(await routed.callTool(sum), await direct.callTool(sum));
    const v2 = new ClientV2({ name: "v2", version: "1" }, { versionNegotiation: { mode: "auto" } });
    await v2.connect(new TransportV2(new URL(url())));
    assert.deepEqual((await v2.callTool(sum)).content, (await direct.callTool(sum)).content);
    const steps: number[] = [];
    await routed.callTool({ name: "trigger-long-running-operation", arguments: { duration: 0.5, steps: 5 } }, undefined, {
      onprogress: ({ progress }) => steps.push(progress),
    });
    assert.deepEqual(steps, [1, 2, 3, 4, 5]);
    for (const client of [routed, direct, v2]) await client.close();
  });

  test("health, readiness and metrics are on the router's own port, and an unknown upstream is told the known ones", async () => {
    assert.equal((await fetch(`${world.url}/healthz`)).status, 200);
    assert.equal(((await (await fetch(`${world.url}/readyz`)).json()) as { status: string }).status, "ready");
    // Two processes share the port: one of them has carried something by now.
    const pages = await Promise.all(
      Array.from({ length: 10 }, async () => (await fetch(`${world.url}/metrics`, { headers: { connection: "close" } })).text()),
    );
    assert.ok(pages.some((page) => /mcpf_router_attempt_seconds_count\{[^}]*upstream="everything"[^}]*outcome="ok"[^}]*\} \d+/.test(page)));
    const unknown = await fetch(`${world.url}/mcp/nobody`, { method: "POST", body: "{}" });
    assert.equal(unknown.status, 404);
    assert.match(await unknown.text(), /everything/);
  });

  test("every client hears its server's own messages, whichever process has its stream", async () => {
    const heard = new Set<number>();
    const clients = await Promise.all(
      Array.from({ length: 12 }, async (_, index) => {
        const client = await connectClient(url(), `listener-${index}`);
        client.setNotificationHandler(LoggingMessageNotificationSchema, () => {
          heard.add(index);
        });
        // The server logs at once, on the session's own stream: lost, were the stream not open by now.
        await client.callTool({ name: "toggle-simulated-logging", arguments: {} });
        return client;
      }),
    );
    await until(
      () => heard.size === clients.length,
      4000,
      () => `heard by ${[...heard].join(" ")} of ${clients.length}`,
    );
    for (const client of clients) await client.close();
  });

  test("under load, the active server hangs: no read fails or waits for its deadline, and those after two seconds are as fast as ever", async (t) => {
    const running = await load(t);
    await until(() => running.report().ok > 100, 10_000);
    const stoppedMs = performance.now();
    primary.kill("SIGSTOP");
    try {
      await until(() => performance.now() - stoppedMs > 2500, 5000);
      const late = await connectClient(url(), "after-the-hang");
      const begunMs = performance.now();
      assert.equal(textOf(await late.callTool({ name: "echo", arguments: { message: "late" } })), "Echo: late");
      assert.ok(performance.now() - begunMs < patientMs(1500), "the hanging endpoint is not paid for by everyone");
      await late.close();
      const report = await running.stop();
      assert.deepEqual(report.failed, []);
      assert.ok((report.durationsMs.at(-1) ?? 0) < patientMs(4000), `the slowest read took ${report.durationsMs.at(-1)} ms`);
    } finally {
      primary.kill("SIGCONT");
    }
  });

  test("under load, no call fails when the active server is killed, and open sessions go on", async (t) => {
    const before = await connectClient(url(), "opened-before");
    const running = await load(t);
    await sleep(1000);
    primary.kill("SIGKILL");
    await sleep(700);
    await world.move("everything", "primary", "secondary");
    await sleep(1000);
    const report = await running.stop();
    assert.deepEqual(report.failed, []);
    assert.ok(report.ok > 100, `only ${report.ok} calls`);
    const sum = await before.callTool({ name: "get-sum", arguments: { a: 1, b: 1 } });
    assert.match(textOf(sum), /2/);
    await before.close();
  });

  test("nats-server gone: calls go on, sessions open, and a session moves all the same", async (t) => {
    const client = await connectClient(url(), "without-nats");
    const running = await load(t);
    const goodCalls = (more: number) => {
      const { ok } = running.report();
      return until(
        () => running.report().ok >= ok + more,
        20_000,
        () => `${more} more calls that end well; ${JSON.stringify(running.report().failed.slice(-3))}`,
      );
    };
    await goodCalls(10);
    await world.nats.kill();
    await goodCalls(50);
    const opened = await connectClient(url(), "opened-without-nats");
    assert.match(textOf(await opened.callTool({ name: "echo", arguments: { message: "x" } })), /x/);
    assert.deepEqual(running.report().failed, []);
    // For a moment both servers are dead, and calls fail rightly.
    secondary.kill("SIGKILL");
    primary = await world.startEverything(primary.port);
    await until(async () => textOf(await client.callTool({ name: "echo", arguments: { message: "y" } })) === "Echo: y", 5000);
    await goodCalls(50);
    await world.nats.restart();
    secondary = await world.startEverything(secondary.port);
    await goodCalls(50);
    await running.stop();
    await until(() => world.bus.status.kind === "connected", 10_000);
    for (const each of [client, opened]) await each.close();
  });

  test("with both servers dead a call gets a typed error in under a second, and works within 3 s of the first that is back", async () => {
    const client = await connectClient(url(), "outage");
    const echo = () => client.callTool({ name: "echo", arguments: { message: "z" } });
    assert.equal(textOf(await echo()), "Echo: z");
    primary.kill("SIGKILL");
    secondary.kill("SIGKILL");
    await sleep(100);
    // Not in the operator's list of read-only tools, so that it counts as a write.
    const write = () => client.callTool({ name: "get-sum", arguments: { a: 1, b: 2 } });
    for (const call of [echo, echo, write, write, echo]) {
      const startMs = performance.now();
      const error = await call().then(
        () => assert.fail("nobody is there"),
        (caught: unknown) => caught as { code: number; data?: { code?: string; retriable?: boolean } },
      );
      assert.ok(performance.now() - startMs < patientMs(1000));
      assert.deepEqual([error.code, error.data?.code, error.data?.retriable], [1002, "no_endpoint", true]);
    }
    secondary = await world.startEverything(secondary.port);
    const backMs = performance.now();
    await until(async () => textOf(await echo()) === "Echo: z", 5000);
    assert.ok(performance.now() - backMs < patientMs(3000));
    primary = await world.startEverything(primary.port);
    await client.close();
  });

  test("a router that is killed takes nothing with it but what it held: the other serves its sessions", async () => {
    const clients = await Promise.all(Array.from({ length: 6 }, (_, index) => connectClient(url(), `survivor-${index}`)));
    world.routers[0]?.kill("SIGKILL");
    await sleep(100);
    for (const client of clients) {
      // A connection to the dead process fails once; the session is not gone.
      const call = () => client.callTool({ name: "echo", arguments: { message: "still here" } });
      assert.equal(textOf(await call().catch(call)), "Echo: still here");
    }
    for (const client of clients) await client.close();
  });

  test("a router that is asked to stop ends the calls that it has, and then itself", async () => {
    const router = world.routers[1];
    const client = await connectClient(url(), "last");
    const running = client.callTool({ name: "trigger-long-running-operation", arguments: { duration: 1, steps: 2 } });
    await sleep(300);
    assert.equal(await router?.stop(), 0, router?.output());
    assert.match(textOf(await running), /completed/);
    await client.close();
  });
});
