import assert from "node:assert/strict";
import { readFileSync, statSync } from "node:fs";
import { get } from "node:http";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { connectBus, readCredentials } from "@mcp-failover/bus";
import { type ProcessInfo, processInfo } from "@mcp-failover/contracts";
import { z } from "zod";
import { startOf } from "../src/process-identity.ts";
import { assertNothingLeft, launch, until } from "./launch.ts";

const names = [
  "nats",
  "redis",
  "fault-proxy",
  "up",
  "prober-1",
  "prober-2",
  "prober-3",
  "breaker-state-1",
  "failover-controller-1",
  "rollback-controller-1",
  "router-1",
  "router-2",
  "state-store-1",
  "notifier-1",
  "chaos-runner-1",
  "console-1",
];

test("a stack comes up, answers the launcher's requests, restarts what dies, keeps secrets apart, and leaves nothing behind", async (t) => {
  const stack = await launch(t);
  const output = await stack.said(/^ready /m);
  const url = `http://127.0.0.1:${stack.portBase}`;
  assert.match(
    output,
    new RegExp(
      `^ready router=${url} console=http://127\\.0\\.0\\.1:${stack.portBase + 1} nats=nats://127\\.0\\.0\\.1:${stack.portBase + 2} `,
      "m",
    ),
  );

  const file = JSON.parse(readFileSync(join(stack.dataDir, "stack.json"), "utf8"));
  assert.equal(file.routerUrl, url);
  assert.equal(file.natsUrl, `nats://127.0.0.1:${stack.portBase + 2}`);
  assert.equal(file.redisUrl, `redis://127.0.0.1:${stack.portBase + 3}`);
  assert.equal(file.pid, stack.child.pid);
  assert.deepEqual(file.ports, { MCPF_PORT_UP: stack.portBase + 10 });
  assert.equal(statSync(join(stack.dataDir, "session.key")).mode & 0o777, 0o600);

  // As an operator does who asks for everything.
  const credentialsOf = (user: string): string | undefined => file.credentialsDir && join(file.credentialsDir, user);
  const own = credentialsOf("bootstrap");
  const credentials = own === undefined ? {} : { credentials: readCredentials(own) };
  const bus = connectBus({ servers: file.natsUrl, name: "test", instance: "test", ...credentials });
  t.after(() => bus.close());
  const ask = async (subject: "launcher.kill" | "launcher.stop" | "launcher.start", body: { process: string; restartAfterMs?: number }) =>
    bus.request(subject, body, { timeoutMs: 5000 });
  const processes = async (): Promise<ProcessInfo[]> => {
    const reply = await bus.request("launcher.processes", {}, { timeoutMs: 2000 });
    assert.ok(reply.ok);
    return z.object({ processes: z.array(processInfo) }).parse(reply.result).processes;
  };
  const one = async (name: string): Promise<ProcessInfo> => (await processes()).find((process) => process.name === name)!;
  await until(() => bus.status.kind === "connected");
  assert.deepEqual((await processes()).map(({ name }) => name).sort(), [...names].sort());
  assert.ok((await processes()).every(({ state, restarts }) => state === "running" && restarts === 0));
  assert.deepEqual((({ kind, endpoint, faultProxy }) => ({ kind, endpoint, faultProxy }))(await one("up")), {
    kind: "upstream",
    endpoint: "u/primary",
    faultProxy: "up",
  });

  await t.test("a killed upstream comes back after its own time, and the fault proxy in front of it refuses meanwhile", async () => {
    const before = await one("up");
    assert.equal(await httpText(stack.portBase + 10), "up");
    const killedMs = performance.now();
    assert.ok((await ask("launcher.kill", { process: "up" })).ok);
    await until(async () => (await httpText(stack.portBase + 10)) === "ECONNREFUSED", 250);
    await until(async () => (await httpText(stack.portBase + 10)) === "up");
    assert.ok(performance.now() - killedMs >= 300);
    const after = await one("up");
    assert.notEqual(after.pid, before.pid);
    assert.equal(after.restarts, 1);
  });
  await t.test("a service that dies by itself is started again", async () => {
    const before = await one("notifier-1");
    process.kill(before.pid!, "SIGKILL");
    await until(async () => {
      const after = await one("notifier-1");
      return after.state === "running" && after.pid !== before.pid && after.restarts === 1;
    });
  });
  await t.test("a stopped process stays down until it is started, and stopping it again is harmless", async () => {
    assert.ok((await ask("launcher.stop", { process: "prober-3" })).ok);
    assert.ok((await ask("launcher.stop", { process: "prober-3" })).ok);
    await sleep(400);
    assert.equal((await one("prober-3")).state, "stopped");
    const refused = await ask("launcher.kill", { process: "prober-3" });
    assert.equal(refused.ok ? "" : refused.error.code, "not_running");
    assert.ok((await ask("launcher.start", { process: "prober-3" })).ok);
    await until(async () => (await one("prober-3")).state === "running");
  });
  await t.test("an unknown name is refused with the names that there are", async () => {
    const reply = await ask("launcher.kill", { process: "nobody" });
    assert.ok(!reply.ok);
    assert.equal(reply.error.code, "unknown_process");
    for (const name of names) assert.ok(reply.error.message.includes(name), name);
  });
  await t.test("nats-server comes back after the time asked for, and the launcher answers again", async () => {
    const before = await one("nats");
    assert.ok((await ask("launcher.kill", { process: "nats", restartAfterMs: 600 })).ok);
    await until(() => startOf(before.pid!) === null);
    await until(() => bus.status.kind === "connected" && startOf(before.pid!) === null, 10_000);
    await until(
      async () =>
        processes().then(
          (all) => all.some(({ name, pid, restarts }) => name === "nats" && pid !== before.pid && restarts === 1),
          () => false,
        ),
      10_000,
    );
    const stopped = await ask("launcher.stop", { process: "nats" });
    assert.equal(stopped.ok ? "" : stopped.error.code, "would_cut_itself_off");
  });
  await t.test("secrets reach only the services that send them, the session key only the router, Redis only the state-store", async () => {
    const holders = {
      UPSTREAM_SECRET: ["prober", "router"],
      MCPF_SESSION_KEY: ["router"],
      REDIS_URL: ["state-store"],
      ...(file.credentialsDir === undefined ? {} : { REDIS_CREDENTIALS_DIR: ["state-store"] }),
    };
    const services = (await processes()).filter(({ kind, name }) => kind === "service" && name !== "fault-proxy");
    const environments = await Promise.all(
      services.map(async ({ name }, index) => ({ name, env: JSON.parse(await httpText(stack.portBase + 61 + index, "/env")) })),
    );
    for (const [variable, expected] of Object.entries(holders)) {
      const found = new Set(environments.filter(({ env }) => variable in env).map(({ name }) => name.replace(/-\d+$/, "")));
      assert.deepEqual([...found].sort(), expected, variable);
    }
    for (const { name, env } of environments) {
      assert.equal(env.MCPF_CREDENTIALS_DIR, credentialsOf(name.replace(/-\d+$/, "")), `${name} is nobody else on the bus`);
    }
    const upstream = await one("up");
    assert.ok(!readFileSync(`/proc/${upstream.pid}/environ`, "utf8").includes("planted-secret-value"));
  });

  await bus.close();
  stack.child.kill("SIGINT");
  assert.equal(await stack.exit(), 0);
  await assertNothingLeft(stack);
  assert.ok(!stack.output().includes("planted-secret-value"));
});

/** The body of an answer, or the code of the error. */
function httpText(port: number, path = "/"): Promise<string> {
  return new Promise((resolve) => {
    get({ host: "127.0.0.1", port, path, agent: false }, (response) => {
      let body = "";
      response.setEncoding("utf8").on("data", (text: string) => (body += text));
      response.on("end", () => resolve(body));
      response.on("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? "error"));
    }).on("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? "error"));
  });
}
