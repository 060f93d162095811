import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { connectBus } from "@mcp-failover/bus";
import { connect } from "@mcp-failover/client";
import { Redis } from "ioredis";
import { type RunningStack, startStack } from "../harness/stack.ts";
import { until } from "../harness/wait.ts";

/** What the bus refuses a service, in here and in every other test with a stack that has permissions, fails at the stack's stop. */
describe("a stack has permissions on the bus where nothing is said of them", { concurrency: false }, () => {
  let stack: RunningStack;
  before(async () => {
    stack = await startStack({ env: { MCPF_BUS_PERMISSIONS: "" } });
  });
  after(async () => {
    await stack?.stop();
  });

  const folder = (user: string): string => join(stack.credentialsDir ?? assert.fail("no credentials"), user);

  test("comes up, and tells what who brings no key may do, as `mcpf doctor` does", async () => {
    await until(
      async () => (await stack.status()).upstreams.every(({ endpoints }) => endpoints.every(({ health }) => health === "healthy")),
      60_000,
      "all is healthy",
    );
    await until(() => stack.output().includes("who brings no key may listen and read, and say nothing"), 5000, stack.output);
    const { findings } = (await stack.mcpf(["doctor", "-o", "json"], { timeoutMs: 60_000 })).json();
    const told = findings.find(({ check }: { check: string }) => check === "permissions");
    assert.equal(told?.detail, "who brings no key may listen and read, and say nothing");
  });

  test("who brings no key is refused everything but looking: in the log, in Redis, by the services", async () => {
    const stranger = connectBus({ servers: stack.natsUrl, name: "stranger", instance: "stranger" });
    const redis = new Redis(stack.redisUrl);
    try {
      await until(() => stranger.status.kind === "connected", 30_000, "the stranger is let in");
      const applied = await stack.bus.lastOf("AUDIT", "config.applied");
      assert.equal((await stranger.lastOf("AUDIT", "config.applied"))?.seq, applied?.seq);
      assert.ok(applied?.content.kind === "event");
      await assert.rejects(stranger.append(applied.content.event), /permissions violation: onlooker may not publish config\.applied/);
      await assert.rejects(stranger.request("launcher.kill", { process: "nats" }), /permissions violation/);
      assert.equal((await stack.bus.lastOf("AUDIT", "config.applied"))?.seq, applied.seq);
      assert.equal(await redis.get("mcp:current:warehouse"), "primary");
      await assert.rejects(redis.set("mcp:current:warehouse", "forged"), /NOPERM/);
      assert.equal(await redis.get("mcp:current:warehouse"), "primary");
    } finally {
      redis.disconnect();
      await stranger.close();
    }
  });

  test("whoever reaches the console's port sees all and moves nothing, unless they have its token", async () => {
    const order = async (headers: Record<string, string>): Promise<number> => {
      const answer = await fetch(`${stack.consoleUrl}/api/failover`, {
        method: "POST",
        headers: { "content-type": "application/json", ...headers },
        body: JSON.stringify({ upstream: "everything", to: "secondary", reason: "a test" }),
        signal: AbortSignal.timeout(20_000),
      });
      return answer.status;
    };
    assert.equal((await fetch(`${stack.consoleUrl}/api/status`)).status, 200);
    const before = await stack.bus.lastOf("AUDIT", "failover.decided.everything");
    assert.deepEqual([await order({}), await order({ authorization: "Bearer everybody-may-do-everything" })], [401, 401]);
    assert.equal((await stack.bus.lastOf("AUDIT", "failover.decided.everything"))?.seq, before?.seq);
    const token = readFileSync(join(folder("cli"), "console.token"), "utf8").trim();
    assert.equal(await order({ authorization: `Bearer ${token}` }), 200);
    const decided = await stack.bus.lastOf("AUDIT", "failover.decided.everything");
    assert.ok((decided?.seq ?? 0) > (before?.seq ?? 0));
    assert.match(Buffer.from(decided?.bytes ?? []).toString(), /"id":"console"/, "by whom is told as before");
  });

  test("an operator fails over; the SDK follows it with and without a key, and a subscriber of `failover.executed.>` without one hears it", async () => {
    const fleet = connect({ servers: stack.natsUrl, name: "own-service" });
    const known = connect({ servers: stack.natsUrl, credentials: folder("client"), name: "own-service-with-a-key" });
    const listener = connectBus({ servers: stack.natsUrl, name: "listener", instance: "listener" });
    try {
      const heard: string[] = [];
      listener.subscribe("failover.executed", ({ data }) => heard.push(`${data.service}: ${data.currentEndpoint}`));
      await until(() => listener.status.kind === "connected", 30_000, "the listener is connected");
      await Promise.all([fleet.ready(30_000), known.ready(30_000)]);
      // All that it ever was: the fleet may move it back by itself soon.
      const routes: string[] = [];
      fleet.watchRoutes(({ upstream, endpoint }) => routes.push(`${upstream}: ${endpoint.name}`));
      assert.ok(routes.includes("warehouse: primary"), routes.join(", "));

      const moved = await stack.mcpf(["failover", "warehouse", "--to", "secondary", "--reason", "a test", "--yes"], { timeoutMs: 60_000 });
      assert.equal(moved.code, 0, `${moved.stdout}\n${moved.stderr}`);
      await until(
        () => routes.includes("warehouse: secondary"),
        30_000,
        () => `the SDK's routes: ${routes}`,
      );
      await until(
        () => heard.includes("warehouse: secondary"),
        30_000,
        () => `heard: ${heard}`,
      );
      await until(() => known.route("warehouse").epoch === fleet.route("warehouse").epoch, 30_000, "both know the same");
    } finally {
      await fleet.close();
      await known.close();
      await listener.close();
    }
  });

  test("an operator silences an upstream and ends it, and the notifier may say so", async () => {
    const silenced = await stack.mcpf(["silence", "warehouse", "--for", "10m", "--reason", "a test", "--yes"], { timeoutMs: 60_000 });
    assert.equal(silenced.code, 0, `${silenced.stdout}\n${silenced.stderr}`);
    const listed = async (): Promise<unknown[]> => (await stack.mcpf(["silence", "--list", "-o", "json"])).json() as unknown as unknown[];
    assert.deepEqual(
      (await listed()).map((row) => (row as { target: string; reason: string }).target),
      ["warehouse"],
    );
    const ended = await stack.mcpf(["unsilence", "warehouse", "--reason", "it was one", "--yes"], { timeoutMs: 60_000 });
    assert.equal(ended.code, 0, `${ended.stdout}\n${ended.stderr}`);
    assert.deepEqual(await listed(), []);
  });

  test("SIGKILL to nats-server: everybody comes back as who they were, and an operator can fail over again", async () => {
    const killed = await stack.pidOf("nats");
    await stack.killProcess("nats");
    await until(async () => (await stack.pidOf("nats").catch(() => killed)) !== killed, 60_000, "nats-server is back");
    const executedSeq = async (): Promise<number> => (await stack.bus.lastOf("AUDIT", "failover.executed.warehouse"))?.seq ?? 0;
    let before: number | null = null;
    let said = "";
    // An order may be lost with a connection; that nothing is refused shows in what was executed.
    await until(
      async () => {
        before ??= await executedSeq();
        const [to] = (await stack.status()).upstreams.flatMap(({ name, active }) => (name === "warehouse" ? [active] : []));
        const other = to === "primary" ? "secondary" : "primary";
        const moved = await stack.mcpf(["failover", "warehouse", "--to", other, "--force", "--reason", "again", "--yes"]);
        said = `${moved.stdout}\n${moved.stderr}`;
        return (await executedSeq()) > before;
      },
      90_000,
      () => `another move; the last try:\n${said}`,
    );
  });
});

test("with MCPF_BUS_PERMISSIONS=off whoever reaches the bus takes part, and the launcher says so", async () => {
  const stack = await startStack({ env: { MCPF_BUS_PERMISSIONS: "off" } });
  try {
    assert.equal(stack.credentialsDir, undefined);
    const tokenFile = join(stack.dataDir, "credentials", "cli", "console.token");
    const acts = async (token: string): Promise<number> => {
      const headers = { "content-type": "application/json", authorization: `Bearer ${token}` };
      return (await fetch(`${stack.consoleUrl}/api/failover`, { method: "POST", headers, body: "{}" })).status;
    };
    const inTheConsole = [await acts("everybody-may-do-everything"), await acts(readFileSync(tokenFile, "utf8").trim())];
    assert.deepEqual(inTheConsole, [401, 400], "the console asks here, too");
    await until(() => stack.output().includes("the bus has no permissions"), 5000, stack.output);
    const fleet = connect({ servers: stack.natsUrl, name: "own-service" });
    try {
      await fleet.ready(30_000);
    } finally {
      await fleet.close();
    }
  } finally {
    await stack.stop();
  }
});
