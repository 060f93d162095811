import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { connect } from "@mcp-failover/client";
import type { StatusView } from "@mcp-failover/contracts";
import { patientMs } from "@mcp-failover/testkit";
import { Client as ClientV2, StreamableHTTPClientTransport as TransportV2 } from "@modelcontextprotocol/client";
import { Redis } from "ioredis";
import { connectClient, failuresOf, startLoad } from "../harness/load.ts";
import { type RunningStack, startStack } from "../harness/stack.ts";
import { until } from "../harness/wait.ts";
import { startWebhook, type WebhookReceiver } from "../harness/webhook.ts";

/** One stack, on which a failure is watched from every side; the tests go on from one another. */
describe("the primary dies under load", { concurrency: false }, () => {
  let stack: RunningStack;
  let webhook: WebhookReceiver;
  before(async () => {
    webhook = await startWebhook();
    stack = await startStack({ webhookUrl: webhook.url });
  });
  after(async () => {
    await stack?.stop();
    await webhook?.close();
  });

  const upstreamOf = (view: StatusView, name: string) =>
    view.upstreams.find((upstream) => upstream.name === name) ?? assert.fail(`no ${name}`);
  const direct = (offset: number): string => `http://127.0.0.1:${stack.portBase + offset}/mcp`;

  test("clients of both SDK lines get through the router what they get directly", async () => {
    const [routed, straight] = [await connectClient(`${stack.routerUrl}/mcp/everything`), await connectClient(direct(10))];
    assert.deepEqual(await routed.listTools(), await straight.listTools());
    assert.deepEqual(routed.getServerVersion(), straight.getServerVersion());
    assert.deepEqual(routed.getServerCapabilities(), straight.getServerCapabilities());
    for (const call of [
      { name: "echo", arguments: { message: "grüße" } },
      { name: "get-sum", arguments: { a: 2, b: 40 } },
      { name: "get-structured-content", arguments: { location: "New York" } },
    ]) {
      assert.deepEqual(await routed.callTool(call), await straight.callTool(call), call.name);
    }
    await Promise.all([routed.close(), straight.close()]);

    const v2 = async (url: string): Promise<ClientV2> => {
      const client = new ClientV2({ name: "v2", version: "1.0.0" });
      await client.connect(new TransportV2(new URL(url)));
      return client;
    };
    const [routed2, straight2] = [await v2(`${stack.routerUrl}/mcp/warehouse`), await v2(direct(12))];
    assert.deepEqual(await routed2.listTools(), await straight2.listTools());
    const inventory = { name: "get_inventory", arguments: {} };
    assert.deepEqual(await routed2.callTool(inventory), await straight2.callTool(inventory));
    await Promise.all([routed2.close(), straight2.close()]);
  });

  test("no call fails, status shows the secondary with the next epoch within 2 s, and open sessions and the SDK go on", async (t) => {
    const early = await connectClient(`${stack.routerUrl}/mcp/everything`, "early");
    t.after(() => early.close());
    // Without a key, as a service of somebody who has read no more than the ready line.
    const sdk = connect({ servers: stack.natsUrl, name: "e2e" });
    t.after(() => sdk.close());
    await until(() => sdk.route("everything")?.endpoint.name === "primary", 5000, "the SDK's first route");
    const load = await startLoad({
      url: `${stack.routerUrl}/mcp/everything`,
      tool: "echo",
      args: (n) => ({ message: `call ${n}` }),
      check: (result, n) =>
        JSON.stringify(result).includes(`call ${n}`) ? null : `not the answer to call ${n}: ${JSON.stringify(result)}`,
      callsPerSecond: 50,
    });
    t.after(() => load.stop());
    await until(
      () => load.report().ok > 50,
      10_000,
      () => `50 good calls; ${failuresOf(load.report())}`,
    );
    const epochBefore = upstreamOf(await stack.status(), "everything").epoch;

    await stack.killProcess("everything-primary");
    const killedMs = performance.now();
    const moved = await until(async () => {
      const upstream = upstreamOf(await stack.status(), "everything");
      return upstream.active === "secondary" ? upstream : null;
    }, 10_000);
    const movedMs = performance.now() - killedMs;
    assert.equal(moved.epoch, epochBefore + 1);
    assert.ok(movedMs < patientMs(2000), `status showed it after ${Math.round(movedMs)} ms`);
    const shown = (await stack.mcpf(["status", "-o", "json"])).json();
    assert.equal(shown.upstreams.find((upstream: { name: string }) => upstream.name === "everything").active, "secondary");

    assert.match(JSON.stringify(await early.callTool({ name: "echo", arguments: { message: "still here" } })), /still here/);
    assert.equal(
      await sdk.execute("everything", async ({ endpoint }) => endpoint.name, { timeoutMs: 2000, idempotent: true }),
      "secondary",
    );
    await until(() => load.report().sent > 250, 10_000);
    const report = await load.stop();
    assert.equal(report.failed.length, 0, failuresOf(report));
  });

  test("the log has exactly one failover.executed, `why` names the evidence, Redis has the history, and one message was sent", async () => {
    const executed: { previousEndpoint: string; currentEndpoint: string; appliedBy: string[] }[] = [];
    for await (const stored of stack.bus.read("AUDIT", { filter: "failover.executed.everything" })) {
      if (stored.content.kind === "event" && stored.content.event.type === "failover.executed") executed.push(stored.content.event.data);
    }
    assert.deepEqual(
      executed.map(({ previousEndpoint, currentEndpoint }) => [previousEndpoint, currentEndpoint]),
      [["primary", "secondary"]],
    );
    assert.deepEqual(executed[0]?.appliedBy.toSorted(), ["router-1", "router-2"]);

    const why = (await stack.mcpf(["why", "everything", "-o", "json"])).json();
    assert.equal(why.decision.to, "secondary");
    assert.ok(
      why.decision.votes.filter(
        (vote: { endpoint: string; verdict: string }) => vote.endpoint === "primary" && vote.verdict === "unhealthy",
      ).length >= 2,
    );
    assert.ok(why.decision.votes.every((vote: { ref: { seq: number } | null }) => (vote.ref?.seq ?? 0) > 0));
    assert.match((await stack.mcpf(["why", "everything"])).stdout, /primary +(prober|router)-\d +unhealthy/);

    const redis = new Redis(stack.redisUrl);
    assert.equal(await redis.get("mcp:current:everything"), "secondary");
    const keys = await redis.zrevrange("mcp:failover:index:everything", 0, -1);
    assert.equal(keys.length, 1);
    assert.match(keys[0] ?? "", /^mcp:failover:everything:\d+$/);
    assert.equal(JSON.parse((await redis.get(keys[0] ?? "")) ?? "{}").currentEndpoint, "secondary");
    const ttl = await redis.ttl("mcp:state:everything");
    assert.ok(ttl > 0 && ttl <= 3600, `mcp:state lives ${ttl} s`);
    redis.disconnect();

    await until(() => webhook.received.length > 0, 5000, "a notification");
    assert.equal(webhook.received.length, 1, JSON.stringify(webhook.received.map(({ body }) => body)));
    assert.match(JSON.stringify(webhook.received[0]?.body), /failed over from primary to secondary/);
  });

  test("replay gives the view that the state-store shows, no decision differs, and one altered byte is found and named", async () => {
    const replayed = await stack.mcpf(["events", "replay", "-o", "json"]);
    assert.equal(replayed.json().equalsReadModel, true, replayed.stdout);
    const verified = (await stack.mcpf(["events", "verify", "-o", "json"])).json();
    assert.deepEqual(verified.problems, []);
    assert.ok(verified.decisions > 5, `${verified.decisions} decisions were recomputed`);

    const file = join(stack.dataDir, "export.ndjson");
    assert.equal((await stack.mcpf(["events", "export", "--file", file])).code, 0);
    const lines = (await readFile(file, "utf8")).trimEnd().split("\n");
    const index = lines.findIndex((line) => line.includes('"subject":"failover.decided.everything"'));
    const { seq } = JSON.parse(lines[index] ?? "{}");
    lines[index] = (lines[index] ?? "").replace("refused", "refusee");
    await writeFile(file, `${lines.join("\n")}\n`);
    const altered = await stack.mcpf(["events", "verify", "--file", file, "-o", "json"]);
    assert.equal(altered.code, 1);
    assert.ok(
      altered
        .json()
        .problems.some(
          (problem: { seq: number; subject: string; check: string }) =>
            problem.seq === seq && problem.subject === "failover.decided.everything" && problem.check === "bytes",
        ),
      altered.stdout,
    );
  });
});
