import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { node24, ROOT } from "../../scripts/lib/repo.mjs";
import { type RunningStack, startStack } from "../harness/stack.ts";
import { until } from "../harness/wait.ts";

const secret = "sk-planted-for-the-backup";

/** Says what it was given, on every SIGHUP what the file says now, and ends with 7 when it is told to. */
const program = `
  const { readFileSync } = require("node:fs");
  const say = (how) => console.log(JSON.stringify({ how, pid: process.pid, url: process.env.EVERYTHING_URL, key: process.env.EVERYTHING_KEY }));
  process.on("SIGHUP", () => console.log(JSON.stringify({ how: "hup", pid: process.pid, file: readFileSync(process.env.MCPF_ENV_FILE, "utf8") })));
  process.on("SIGTERM", () => process.exit(7));
  setInterval(() => undefined, 1000);
  say("start");`;

interface Said {
  readonly how: string;
  readonly pid: number;
  readonly url?: string;
  readonly key?: string;
  readonly file?: string;
}

describe("a program that only knows environment variables follows a failover", { concurrency: false }, () => {
  let stack: RunningStack;
  before(async () => {
    stack = await startStack({
      edit: (config) => {
        config.upstreams.everything.env = { EVERYTHING_URL: "url" };
        config.upstreams.everything.endpoints[0].env = { EVERYTHING_KEY: "of the primary" };
        config.upstreams.everything.endpoints[1].env = { EVERYTHING_KEY: { secret: "EVERYTHING_BACKUP_KEY" } };
      },
    });
  });
  const running = new Set<ChildProcess>();
  after(async () => {
    // What a failed test left running; the signal is passed on to the program.
    for (const child of running) child.kill("SIGTERM");
    await stack?.stop();
  });

  /** `mcpf exec everything` with the program above. */
  function exec(options: readonly string[]) {
    const argv = [
      "packages/cli/bin/mcpf.mjs",
      "--data-dir",
      stack.dataDir,
      "exec",
      "everything",
      ...options,
      "--",
      node24(),
      "-e",
      program,
    ];
    const { NODE_TEST_CONTEXT: _, NATS_URL: _nats, ...outer } = process.env;
    const child = spawn(node24(), argv, { cwd: ROOT, stdio: ["ignore", "pipe", "pipe"], env: { ...outer, EVERYTHING_BACKUP_KEY: secret } });
    running.add(child);
    child.once("exit", () => running.delete(child));
    let output = "";
    let errors = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => (output += text));
    child.stderr.setEncoding("utf8").on("data", (text: string) => (errors += text));
    const ended = new Promise<number | null>((resolve) => child.once("close", resolve));
    return {
      child,
      ended,
      said: (): Said[] =>
        output
          .split("\n")
          .filter(Boolean)
          .map((line) => JSON.parse(line) as Said),
      errors: () => errors,
    };
  }
  const move = async (to: string): Promise<void> => {
    const moved = await stack.mcpf(["failover", "everything", "--to", to, "--force", "--reason", "test", "--yes"]);
    assert.equal(moved.code, 0, moved.stderr);
  };
  const url = (offset: number): string => `http://127.0.0.1:${stack.portBase + offset}/mcp`;
  let primary = "";

  test("it is restarted with the new endpoint's variables, or signalled with a file that has them; signals and exit codes pass; no secret is said", async () => {
    const file = join(stack.dataDir, "everything.env");
    const restarted = exec([]);
    const signalled = exec(["--on-change", "signal:SIGHUP", "--file", file]);
    await until(
      () => restarted.said().length === 1 && signalled.said().length === 1,
      15_000,
      () => restarted.errors() + signalled.errors(),
    );
    primary = restarted.said()[0]?.url ?? "";
    assert.equal(primary, url(10));
    assert.equal(restarted.said()[0]?.key, "of the primary");

    await move("secondary");
    await until(
      () => restarted.said().length === 2 && signalled.said().length === 2,
      10_000,
      () => restarted.errors() + signalled.errors(),
    );
    const [before, now] = restarted.said();
    assert.notEqual(now?.pid, before?.pid);
    assert.notEqual(now?.url, primary);
    assert.equal(now?.key, secret);
    const [started, hup] = signalled.said();
    assert.deepEqual([hup?.how, hup?.pid], ["hup", started?.pid]);
    assert.ok(hup?.file?.includes(`EVERYTHING_URL=${now?.url}\n`), hup?.file);
    assert.ok((await readFile(file, "utf8")).includes(secret));

    const shown = await stack.mcpf(["env", "everything"], { env: { EVERYTHING_BACKUP_KEY: secret } });
    assert.match(shown.stdout, new RegExp(`export EVERYTHING_URL='${now?.url}'`));
    const without = await stack.mcpf(["env", "everything"]);
    assert.deepEqual([without.code, without.stdout], [1, ""]);
    assert.match(without.stderr, /EVERYTHING_BACKUP_KEY is missing/);

    for (const { child, ended, errors } of [restarted, signalled]) {
      child.kill("SIGTERM");
      assert.equal(await ended, 7);
      assert.match(errors(), /now everything\/secondary \(epoch 1\)/);
      assert.ok(!errors().includes(secret));
    }
    for (const { name } of await stack.processes()) assert.ok(!stack.logs(name).includes(secret), name);
    assert.ok(!stack.output().includes(secret));
  });

  test("with NATS out of reach it starts with the routes that were kept last", async () => {
    const kept = await readFile(join(stack.dataDir, "mcpf-routes.json"), "utf8");
    assert.ok(!kept.includes(secret), "the name of a secret is kept, never its value");
    const stackFile = join(stack.dataDir, "stack.json");
    const whole = await readFile(stackFile, "utf8");
    await writeFile(stackFile, JSON.stringify({ ...JSON.parse(whole), natsUrl: "nats://127.0.0.1:9" }));
    try {
      const shown = await stack.mcpf(["env", "everything"], { env: { EVERYTHING_BACKUP_KEY: secret } });
      assert.equal(shown.code, 0, shown.stderr);
      assert.ok(shown.stdout.includes(`EVERYTHING_KEY='${secret}'`));
    } finally {
      await writeFile(stackFile, whole);
    }
  });
});
