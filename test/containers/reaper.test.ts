import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { runLabels, thisOwner, thisSystem } from "../../scripts/lib/left-behind.mjs";
import { node24, ROOT } from "../../scripts/lib/repo.mjs";
import { until } from "../harness/wait.ts";
import { docker, runName, skip } from "./compose.ts";

const library = (name: string): string => JSON.stringify(new URL(`../../scripts/lib/${name}`, import.meta.url).href);
const world = JSON.stringify(new URL("./container-world.ts", import.meta.url).href);

/** A run of its own, that makes one container, one network and two volumes as tests do, and then does nothing until it is ended. */
const makes = `
  const { declareRun, newRunName } = await import(${library("left-behind.mjs")});
  const { composeService, containerWorld } = await import(${world});
  const { Wait } = await import("testcontainers");
  const run = newRunName();
  declareRun(run);
  const world = await containerWorld(run);
  const volumes = { [await world.volume("data")]: "/data" };
  await world.start({ ...composeService("redis"), name: "redis", command: ["--port", "6379"], volumes, ready: Wait.forLogMessage(/Ready to accept/i) });
  process.stdout.write("made " + run + "\\n");
  setInterval(() => {}, 1000);`;
/** The same with the reaper of scripts/containers.mjs beside it. */
const makesWithReaper = makes.replace(
  "declareRun(run);",
  `declareRun(run);
  const { spawn } = await import("node:child_process");
  spawn(process.execPath, [${JSON.stringify(join(ROOT, "scripts/lib/container-reaper.mjs"))}, run], { stdio: ["pipe", "inherit", "inherit"], detached: true });`,
);

/** All that carries the name of a run, as `kind id`. */
async function madeBy(run: string): Promise<string[]> {
  const filter = ["--filter", `label=mcp-failover.run=${run}`, "--quiet"];
  const kinds = { container: ["ps", "--all"], network: ["network", "ls"], volume: ["volume", "ls"] };
  const found: string[] = [];
  for (const [kind, list] of Object.entries(kinds)) {
    const ids = (await docker([...list, ...filter])).split("\n").filter((id) => id !== "");
    found.push(...ids.map((id) => `${kind} ${id}`));
  }
  return found;
}
const kindsOf = (made: readonly string[]): string[] => made.map((one) => one.split(" ")[0] ?? "").sort();

describe("what a run leaves behind on the engine", { skip, concurrency: false }, () => {
  const children: ChildProcess[] = [];
  after(() => {
    for (const child of children) child.kill("SIGKILL");
  });
  const startRun = async (code: string): Promise<{ child: ChildProcess; run: string }> => {
    const child = spawn(node24(), ["--input-type=module", "-e", code], { cwd: join(ROOT, "test"), stdio: ["ignore", "pipe", "inherit"] });
    children.push(child);
    let said = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
    const made = await until(
      () => {
        assert.equal(child.exitCode, null);
        return /made (\S+)\n/.exec(said);
      },
      180_000,
      () => `a run has made its containers: ${said}`,
    );
    return { child, run: made[1] ?? "" };
  };
  const end = async (child: ChildProcess, signal: NodeJS.Signals): Promise<void> => {
    const closed = once(child, "close");
    child.kill(signal);
    await closed;
  };
  const all = ["container", "network", "volume", "volume"];
  /** As a run of scripts/containers.mjs does at its start. */
  const nextStart = async (): Promise<string[]> => {
    const code = `const { removeLeftBehind } = await import(${library("left-behind.mjs")}); console.log(JSON.stringify(removeLeftBehind()));`;
    const child = spawn(node24(), ["--input-type=module", "-e", code], { stdio: ["ignore", "pipe", "inherit"] });
    let said = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
    const [exitCode] = await once(child, "close");
    assert.equal(exitCode, 0);
    return JSON.parse(said) as string[];
  };

  test("a run killed with nobody to tidy up: the next start removes all of it, and nothing of runs that live or of anybody else", {
    skip: thisSystem() === null && "this system does not say whether a process of before lives",
  }, async () => {
    const [killed, alive] = await Promise.all([startRun(makes), startRun(makes)]);
    const foreign = `${runName()}-foreign`;
    const elsewhere = `${runName()}-elsewhere`;
    try {
      // As somebody's who uses the same engine: without our labels, and as a run in another container, whose process ids mean nothing here.
      await docker(["volume", "create", "--label", `com.docker.compose.project=${foreign}`, foreign]);
      const owner = thisOwner().replace(/pid:\[\d+\]/, "pid:[1]");
      const labels = Object.entries(runLabels("mcpftest1x1", owner)).flatMap(([key, value]) => ["--label", `${key}=${value}`]);
      await docker(["volume", "create", ...labels, elsewhere]);
      assert.deepEqual(kindsOf(await madeBy(killed.run)), all);
      const removed = await nextStart();
      for (const { run } of [killed, alive]) assert.ok(!removed.includes(run), "both live");
      assert.deepEqual(kindsOf(await madeBy(killed.run)), all);

      await end(killed.child, "SIGKILL");
      assert.deepEqual(kindsOf(await madeBy(killed.run)), all, "nobody was there to remove it");
      assert.ok((await nextStart()).includes(killed.run));
      assert.deepEqual(await madeBy(killed.run), []);
      assert.deepEqual(kindsOf(await madeBy(alive.run)), all, "a run that lives keeps what it has");
      const volumes = (await docker(["volume", "ls", "--quiet"])).split("\n");
      assert.ok(volumes.includes(foreign) && volumes.includes(elsewhere), "what is others' stays");

      await end(alive.child, "SIGKILL");
      assert.ok((await nextStart()).includes(alive.run));
      assert.deepEqual(await madeBy(alive.run), []);
    } finally {
      await docker(["volume", "rm", "--force", foreign, elsewhere]);
    }
  });

  for (const signal of ["SIGINT", "SIGTERM", "SIGKILL"] as const) {
    test(`a run ended by ${signal}: its reaper removes all of it`, async () => {
      const { child, run } = await startRun(makesWithReaper);
      assert.deepEqual(kindsOf(await madeBy(run)), all);
      await end(child, signal);
      await until(async () => (await madeBy(run)).length === 0, 120_000, `nothing of ${run} is left`);
    });
  }
});
