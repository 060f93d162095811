import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { type Bus, connectBus } from "@mcp-failover/bus";
import { type Reply, streams } from "@mcp-failover/contracts";
import { type RunningServer, startNats } from "@mcp-failover/testkit";
import { StackDouble, until } from "./stack-double.ts";

let nats: RunningServer;
let stack: StackDouble;
let bus: Bus;
const children = new Set<ChildProcess>();

before(async () => {
  nats = await startNats();
  bus = connectBus({ servers: nats.url, name: "test", instance: "test" });
  await until(
    () => bus.status.kind,
    (kind) => kind === "connected",
  );
  await bus.ensureStreams(streams, { replicas: 1 });
  stack = new StackDouble(connectBus({ servers: nats.url, name: "stack", instance: "stack" }));
  await stack.start();
  stack.held = true;
});
after(async () => {
  for (const child of children) child.kill("SIGKILL");
  await stack.stop();
  await bus.close();
  await nats.stop();
});

/** The service as it is deployed: its own process. */
async function startProcess(): Promise<ChildProcess> {
  const child = spawn(process.execPath, [fileURLToPath(new URL("../src/main.ts", import.meta.url))], {
    env: {
      PATH: process.env["PATH"],
      NATS_URL: nats.url,
      MCPF_INSTANCE: "chaos-runner-1",
      MCPF_ROUTER_URL: stack.routerUrl,
      MCPF_LOG_LEVEL: "error",
    },
    stdio: ["ignore", "inherit", "inherit"],
  });
  children.add(child);
  child.once("exit", () => children.delete(child));
  await until(
    () => bus.services({ timeoutMs: 300 }),
    (services) => services.some(({ name }) => name === "chaos-runner"),
  );
  return child;
}

const ended = (child: ChildProcess): Promise<number | string | null> =>
  new Promise((resolve) => child.once("exit", (code, signal) => resolve(code ?? signal)));
/** Asks again while the service has not read its log yet. */
async function run(commandId: string): Promise<Reply> {
  const reply = await runOnce(commandId);
  if (reply.ok || reply.error.code !== "not_ready") return reply;
  await new Promise((resolve) => setTimeout(resolve, 200));
  return run(commandId);
}
const runOnce = (commandId: string): Promise<Reply> =>
  bus.request(
    "command.chaos.run",
    { commandId, by: { kind: "operator", id: "ann" }, reason: "test", scenario: "killService", target: "shop", options: {} },
    { timeoutMs: 30_000 },
  );

test("SIGKILL in the middle: the next start takes the fault back and finishes the experiment; SIGTERM in the middle: it does so itself, and answers", async () => {
  const first = await startProcess();
  const unanswered = run("killed").catch((error: unknown) => error);
  await until(
    () => stack.down.size,
    (size) => size === 1,
    15_000,
  ).catch(async (error: unknown) => assert.fail(`${String(error)} ${JSON.stringify(await unanswered)}`));
  const gone = ended(first);
  first.kill("SIGKILL");
  assert.equal(await gone, "SIGKILL");
  assert.equal(stack.down.size, 1, "nobody has taken it back yet");

  const second = await startProcess();
  const [killed] = await until(
    () => stack.said("chaos.finished"),
    ({ length }) => length === 1,
  );
  assert.ok(killed?.type === "chaos.finished" && !killed.data.success);
  assert.match(killed.data.error ?? "", /its chaos-runner ended before the experiment did/);
  assert.equal(stack.down.size, 0);

  await until(
    () => stack.status().upstreams[0]!.endpoints[0]!.health,
    (health) => health === "healthy",
  );
  const reply = run("stopped");
  await until(
    () => stack.down.size,
    (size) => size === 1,
  );
  const stopped = ended(second);
  second.kill("SIGTERM");
  const answer = await reply;
  assert.ok(answer.ok);
  assert.match(String((answer.result as { error: unknown }).error), /the chaos-runner was stopped while the experiment ran/);
  assert.equal(await stopped, 0);
  assert.equal(stack.down.size, 0);
  assert.equal((await stack.said("chaos.finished")).length, 2);
});
