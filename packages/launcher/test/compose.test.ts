import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import { join } from "node:path";
import { after, before, type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { type Bus, connectBus } from "@mcp-failover/bus";
import { startNats, tempDir } from "@mcp-failover/testkit";
import { until } from "./launch.ts";

const id = "c0ffee";
const name = "everything-primary";
let nats: Awaited<ReturnType<typeof startNats>>;
let bus: Bus;

before(async () => {
  nats = await startNats();
  bus = connectBus({ servers: nats.url, name: "test", instance: "test" });
});
after(async () => {
  await bus.close();
  await nats.stop();
});

/** Stands in for the container engine, with one container; `asked` is what it was asked to do. */
async function engineIn(t: TestContext, folder: string) {
  const socket = join(folder, "engine.sock");
  const state = { running: true, removed: false, asked: [] as string[] };
  const server = createServer((request, response) => {
    const what = /\/(kill|start|stop)\b/.exec(request.url ?? "")?.[1];
    if (what !== undefined) {
      state.asked.push(what);
      if (state.removed) return response.writeHead(404).end('{"message":"No such container"}');
      state.running = what === "start";
      return response.writeHead(204).end();
    }
    const labels = { "com.docker.compose.service": name, "mcp-failover.serves": "everything/primary" };
    const status = { Status: state.running ? "running" : "exited", Pid: state.running ? 1 : 0 };
    const container = { Id: id, RestartCount: 0, State: status, Config: { Labels: labels } };
    return response.end(JSON.stringify(request.url?.startsWith("/containers/json") ? [container] : container));
  });
  t.after(() => server.close());
  await once(server.listen(socket), "listening");
  return { state, socket };
}

async function helper(t: TestContext, folder: string, socket: string): Promise<ChildProcess> {
  const script = fileURLToPath(new URL("../src/compose/main.ts", import.meta.url));
  const child = spawn(process.execPath, [script, "--project", "p"], {
    cwd: folder,
    env: { PATH: process.env["PATH"], NATS_URL: nats.url, DOCKER_HOST: `unix://${socket}` },
    stdio: ["ignore", "pipe", "inherit"],
  });
  t.after(() => child.kill("SIGKILL"));
  await once(child.stdout!, "data");
  const answers = (): Promise<boolean> =>
    bus.request("launcher.processes", {}, { timeoutMs: 2000 }).then(
      ({ ok }) => ok,
      () => false,
    );
  await until(answers, 30_000);
  return child;
}

async function kill(restartAfterMs: number): Promise<void> {
  const reply = await bus.request("launcher.kill", { process: name, restartAfterMs }, { timeoutMs: 5000 });
  assert.ok(reply.ok, JSON.stringify(reply));
}

for (const signal of ["SIGINT", "SIGHUP"] as const)
  test(`a container that was killed is started again before whoever has to do it ends by ${signal}, of which several may come at once`, async (t) => {
    const { path: folder, remove } = await tempDir();
    t.after(remove);
    const { state, socket } = await engineIn(t, folder);
    const running = await helper(t, folder, socket);
    await kill(60_000);
    assert.equal(state.running, false);
    // A Ctrl-C comes from the terminal and from npm.
    for (let i = 0; i < 2; i += 1) running.kill(signal);
    assert.deepEqual(await once(running, "exit"), [0, null]);
    assert.deepEqual(state.asked, ["kill", "start"]);
    const next = await helper(t, folder, socket);
    next.kill("SIGKILL");
    await once(next, "exit");
    assert.deepEqual(state.asked, ["kill", "start"], "and not once more by the next one");
  });

test("a container that was killed is started again at its time by the next one, where the one before was killed itself", async (t) => {
  const { path: folder, remove } = await tempDir();
  t.after(remove);
  const { state, socket } = await engineIn(t, folder);
  const first = await helper(t, folder, socket);
  const killedMs = performance.now();
  await kill(3000);
  first.kill("SIGKILL");
  await once(first, "exit");
  const next = await helper(t, folder, socket);
  await until(() => state.running, 30_000);
  next.kill("SIGKILL");
  await once(next, "exit");
  assert.ok(performance.now() - killedMs >= 2900);
  assert.deepEqual(state.asked, ["kill", "start"]);
});

test("a killed container that was removed meanwhile, or stopped by request, is not asked to start for ever", async (t) => {
  const { path: folder, remove } = await tempDir();
  t.after(remove);
  const { state, socket } = await engineIn(t, folder);
  await helper(t, folder, socket);
  await kill(1500);
  state.removed = true;
  await until(() => state.asked.includes("start"));
  await sleep(2500);
  assert.deepEqual(state.asked, ["kill", "start"]);
  Object.assign(state, { removed: false, running: true, asked: [] });
  await kill(1500);
  assert.ok((await bus.request("launcher.stop", { process: name }, { timeoutMs: 5000 })).ok);
  await sleep(2500);
  assert.deepEqual(state.asked, ["kill", "stop"]);
});
