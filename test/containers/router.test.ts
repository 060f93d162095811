import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type Bus, connectBus } from "@mcp-failover/bus";
import { streams } from "@mcp-failover/contracts";
import { freePort, patientMs } from "@mcp-failover/testkit";
import type { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { Wait } from "testcontainers";
import { connectClient } from "../harness/load.ts";
import { until } from "../harness/wait.ts";
import { decisionsOn } from "../integration/router-world.ts";
import { skip } from "./compose.ts";
import { type Contained, type ContainerWorld, composeService, containerWorld, readyAt, startNatsIn } from "./container-world.ts";

const backMs = 120_000;
type Endpoint = "primary" | "secondary";

describe("the router's image before MCP servers in containers", { skip, concurrency: false }, () => {
  let world: ContainerWorld;
  let bus: Bus;
  let decisions: ReturnType<typeof decisionsOn>;
  let router: Contained;
  let upstreams: Record<Endpoint, Contained>;
  let client: Client;
  let url: string;
  let calls = 0;

  const startUpstream = (name: Endpoint): Promise<Contained> =>
    world.start({
      ...composeService(`everything-${name}`),
      name,
      env: { PORT: "3000" },
      ready: Wait.forSuccessfulCommand("infra/docker/healthcheck.sh 3000 /mcp any-status"),
    });
  const sessionOf = (one: Client): string | undefined => (one.transport as { sessionId?: string } | undefined)?.sessionId;
  const answered = async (one: Client): Promise<void> => {
    calls += 1;
    const message = `m${calls}`;
    const result = await one.callTool({ name: "echo", arguments: { message } }, undefined, { timeout: patientMs(60_000) });
    assert.deepEqual(result.content, [{ type: "text", text: `Echo: ${message}` }]);
  };
  /** Reads in the session, one after the other, while something happens; every one has to be answered. */
  const readWhile = async (work: () => Promise<void>): Promise<void> => {
    const before = calls;
    let isDone = false;
    const working = work().finally(() => {
      isDone = true;
    });
    working.catch(() => undefined); // It is awaited after the reads.
    while (!isDone || calls < before + 10) {
      await answered(client);
      await sleep(20);
    }
    await working;
  };
  /** A tool that may not be called twice, which is why it goes to the active endpoint alone. */
  const writes = async (): Promise<void> => {
    const result = await client.callTool({ name: "toggle-simulated-logging", arguments: {} }, undefined, { timeout: patientMs(60_000) });
    assert.notEqual(result.isError, true, JSON.stringify(result));
  };

  before(async () => {
    world = await containerWorld();
    const [nats, primary, secondary] = await Promise.all([startNatsIn(world), startUpstream("primary"), startUpstream("secondary")]);
    upstreams = { primary, secondary };
    bus = connectBus({ servers: nats.url, name: "test", instance: "test" });
    await until(() => bus.status.kind === "connected", backMs, "the bus is connected");
    await bus.ensureStreams(streams, { replicas: 1 });
    const endpoint = (name: Endpoint, tier: number): object => ({ name, url: `http://${world.hostOf(name)}:3000/mcp`, tier });
    const everything = { kind: "mcp", endpoints: [endpoint("primary", 0), endpoint("secondary", 1)], tools: { echo: { read_only: true } } };
    decisions = decisionsOn(bus);
    await decisions.configure({ upstreams: { everything } });
    const port = await freePort();
    url = `http://127.0.0.1:${port}/mcp/everything`;
    router = await world.start({
      name: "router",
      ...composeService("router"),
      env: { NATS_URL: nats.innerUrl, MCPF_ROUTER_HOST: "0.0.0.0", MCPF_ROUTER_PORT: "7300" },
      volumes: { [await world.volume("router")]: "/data" },
      ports: { 7300: port },
      ready: readyAt("/readyz", 7300),
    });
    client = await connectClient(url, "agent");
  });
  after(async () => {
    await client?.close().catch(() => undefined); // Its session may be anywhere by now.
    await bus?.close();
    await world?.stop();
  });

  test("the active upstream's container killed: every read is answered, and the session goes on where the fleet moves it", async () => {
    const session = sessionOf(client);
    await answered(client);
    await writes();
    await readWhile(() => upstreams.primary.kill());
    await readWhile(() => decisions.move("everything", "primary", "secondary"));
    await until(() => writes().then(() => true), backMs, "the session's writes go where the fleet has moved");
    assert.equal(sessionOf(client), session);
    await upstreams.primary.start();
  });

  test("the router's container killed and started again: the session of before goes on, though the process that made it is gone", async () => {
    const session = sessionOf(client);
    assert.ok(session !== undefined && session !== "");
    await router.kill();
    await assert.rejects(answered(client), "nobody else answers on this port");
    await router.start();
    await until(() => answered(client).then(() => true), backMs, "the session is answered again");
    await writes();
    assert.equal(sessionOf(client), session);
    // And once more in good order, as an update does it.
    await router.restart();
    await until(() => answered(client).then(() => true), backMs, "the session is answered again");
    assert.equal(sessionOf(client), session);
  });
});
