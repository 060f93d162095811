import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { connectBus, readCredentials } from "@mcp-failover/bus";
import { connect } from "@mcp-failover/client";
import { type RunningStack, startStack } from "../harness/stack.ts";
import { until } from "../harness/wait.ts";

/** What the bus refuses a service, in here and in every other test with a stack that has permissions, fails at the stack's stop. */
describe("a stack with permissions on the bus", { concurrency: false }, () => {
  let stack: RunningStack;
  before(async () => {
    stack = await startStack({ env: { MCPF_BUS_PERMISSIONS: "on" } });
  });
  after(async () => {
    await stack?.stop();
  });

  const folder = (user: string): string => join(stack.credentialsDir ?? assert.fail("no credentials"), user);

  test("comes up, and tells where your own services find who they are", async () => {
    await until(
      async () => (await stack.status()).upstreams.every(({ endpoints }) => endpoints.every(({ health }) => health === "healthy")),
      60_000,
      "all is healthy",
    );
    await until(() => stack.output().includes(`"client", with the credentials in ${folder("client")}`), 5000, stack.output);
  });

  test("whoever brings no key is let in by nobody", async () => {
    const stranger = connectBus({ servers: stack.natsUrl, name: "stranger", instance: "stranger" });
    try {
      await until(() => stranger.status.kind === "disconnected" && /authorization/i.test(stranger.status.reason), 30_000, "the refusal");
      await assert.rejects(stranger.lastOf("AUDIT", "config.applied"));
    } finally {
      await stranger.close();
    }
  });

  test("an operator fails over; the SDK follows it, and a subscriber of `failover.executed.>` hears it", async () => {
    const fleet = connect({ servers: stack.natsUrl, credentials: folder("client"), name: "own-service" });
    const listener = connectBus({
      servers: stack.natsUrl,
      name: "listener",
      instance: "listener",
      credentials: readCredentials(folder("client")),
    });
    try {
      const heard: string[] = [];
      listener.subscribe("failover.executed", ({ data }) => heard.push(`${data.service}: ${data.currentEndpoint}`));
      await until(() => listener.status.kind === "connected", 30_000, "the listener is connected");
      await fleet.ready(30_000);
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
    } finally {
      await fleet.close();
      await listener.close();
    }
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
