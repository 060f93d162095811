import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { isAbsolute, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Bus, connectBus, readCredentials } from "@mcp-failover/bus";
import type { ProcessInfo, StatusView } from "@mcp-failover/contracts";
import { patientMs, tempDir } from "@mcp-failover/testkit";
import { parse, stringify } from "yaml";
import { node24, ROOT } from "../../scripts/lib/repo.mjs";
import { until } from "./wait.ts";

/** A configuration as plain data, before it is parsed. */
// biome-ignore lint/suspicious/noExplicitAny: tests write into it as into the YAML file, and the launcher checks the outcome.
type RawConfig = any;

export interface StackOptions {
  /** A file, or the YAML text itself. Default: examples/local/failover.yaml. */
  readonly config?: string;
  /** Changes the configuration before it is used. */
  readonly edit?: (config: RawConfig) => void;
  /** Adds a webhook channel with this URL. */
  readonly webhookUrl?: string;
  /** On top of this process's environment. */
  readonly env?: Readonly<Record<string, string>>;
  readonly portBase?: number;
  /** Somebody else's nats-server, for tests that own its outage. */
  readonly natsUrl?: string;
  readonly redisUrl?: string;
  /** Default 90 s: two test runs may share two cores. */
  readonly readyMs?: number;
}

export interface CommandResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  /** Standard output as JSON; fails with all output when it is not. */
  // biome-ignore lint/suspicious/noExplicitAny: a test looks into it and fails on what is not there.
  json(): any;
}

export interface RunningStack {
  readonly routerUrl: string;
  readonly consoleUrl: string;
  readonly natsUrl: string;
  readonly redisUrl: string;
  /** A folder of credentials for each user of the bus; missing for a bus without permissions. */
  readonly credentialsDir?: string;
  readonly dataDir: string;
  readonly portBase: number;
  /** From the start of the launcher to its `ready` line. */
  readonly readyAfterMs: number;
  /** A connection to the stack's bus; closed by `stop`. */
  readonly bus: Bus;
  /** Runs `mcpf` against this stack. */
  mcpf(args: readonly string[], options?: { timeoutMs?: number; env?: Readonly<Record<string, string>> }): Promise<CommandResult>;
  /** `state.status`, asked for over the bus. */
  status(): Promise<StatusView>;
  processes(): Promise<ProcessInfo[]>;
  pidOf(name: string): Promise<number>;
  /** SIGKILL by pid, as a crash would; the supervisor brings it back after its own time. */
  killProcess(name: string): Promise<void>;
  /** What a process wrote so far. */
  logs(name: string): string;
  /** What the launcher said so far. */
  output(): string;
  /** SIGINT; then no process, port or stack.json may be left, and the bus may have refused nothing. Removes the data directory. */
  stop(): Promise<void>;
  /** SIGKILL to everything, for a test that has failed already. */
  destroy(): Promise<void>;
}

const stopMsMax = 20_000;
const tailLines = 15;
const lineCharsMax = 500;

/** Starts a whole stack in a folder and on ports of its own. Fails with what the launcher and the failing processes said. */
export async function startStack(options: StackOptions = {}): Promise<RunningStack> {
  const { path: dataDir, remove } = await tempDir("mcpf-stack-");
  const reserved = options.portBase === undefined ? await reservePorts() : null;
  const portBase = options.portBase ?? reserved?.base ?? 0;
  const configFile = join(dataDir, "failover.yaml");
  const config = parse(configText(options.config)) as RawConfig;
  if (options.webhookUrl !== undefined) {
    config.notifications ??= {};
    config.notifications.channels ??= [{ name: "log", type: "log" }];
    config.notifications.channels.push({ name: "webhook", type: "webhook", url: options.webhookUrl });
  }
  options.edit?.(config);
  writeFileSync(configFile, stringify(config));

  const { NODE_TEST_CONTEXT: _test, NATS_URL: _nats, REDIS_URL: _redis, INIT_CWD: _cwd, ...outer } = process.env;
  const startMs = performance.now();
  const child = spawn(
    node24(),
    ["packages/launcher/src/main.ts", "--config", configFile, "--data-dir", dataDir, "--port-base", String(portBase)],
    {
      cwd: ROOT,
      // Our end of its standard input closes with us: a test that is killed leaves no stack behind.
      stdio: ["pipe", "pipe", "pipe"],
      env: {
        ...outer,
        MCPF_PARENT_PIPE: "1",
        ...(options.natsUrl === undefined ? {} : { NATS_URL: options.natsUrl }),
        ...(options.redisUrl === undefined ? {} : { REDIS_URL: options.redisUrl }),
        ...options.env,
      },
    },
  );
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text: string) => (output += text));
  const closed = new Promise<number | null>((resolve) => child.once("close", resolve));
  const logs = (name: string): string => readText(join(dataDir, "logs", `${name}.log`));

  const ready = until(
    () => /^ready /m.test(output) || child.exitCode !== null,
    options.readyMs ?? 90_000,
    () => `ready; the launcher said:\n${output}`,
  );
  await ready.catch(async (error: unknown) => {
    await endAll(child, closed);
    await reserved?.release();
    throw error;
  });
  if (!/^ready /m.test(output)) await reserved?.release();
  if (!/^ready /m.test(output)) assert.fail(`the stack did not start (exit code ${child.exitCode}):\n${output}\n${tails(dataDir)}`);
  const readyAfterMs = performance.now() - startMs;
  const file = JSON.parse(readText(join(dataDir, "stack.json"))) as Pick<
    RunningStack,
    "routerUrl" | "consoleUrl" | "natsUrl" | "redisUrl" | "credentialsDir"
  >;
  // Tests look at everything, as the bootstrap user may.
  const credentials = file.credentialsDir === undefined ? {} : { credentials: readCredentials(join(file.credentialsDir, "bootstrap")) };
  const bus = connectBus({ servers: file.natsUrl, name: "test", instance: "test", ...credentials });
  await until(() => bus.status.kind === "connected", 5000, "the test's own connection to NATS");

  const ask = async <T>(subject: "launcher.processes" | "state.status"): Promise<T> => {
    const reply = await bus.request(subject, {}, { timeoutMs: 3000 });
    if (!reply.ok) assert.fail(`${subject}: ${reply.error.message}`);
    return reply.result as T;
  };
  const processes = async (): Promise<ProcessInfo[]> => (await ask<{ processes: ProcessInfo[] }>("launcher.processes")).processes;
  const pidOf = async (name: string): Promise<number> => {
    const all = await processes();
    const pid = all.find((process) => process.name === name)?.pid;
    return pid ?? assert.fail(`${name} does not run; there are ${all.map((process) => `${process.name} (${process.state})`).join(", ")}`);
  };
  return {
    ...file,
    dataDir,
    portBase,
    readyAfterMs,
    bus,
    logs,
    output: () => output,
    mcpf: (args, { timeoutMs = 20_000, env = {} } = {}) =>
      run(node24(), [join(ROOT, "packages/cli/bin/mcpf.mjs"), "--data-dir", dataDir, ...args], { ...outer, ...env }, timeoutMs),
    status: () => ask<StatusView>("state.status"),
    processes,
    pidOf,
    async killProcess(name) {
      process.kill(await pidOf(name), "SIGKILL");
    },
    async stop() {
      const pids = (await processes().catch(() => [])).flatMap(({ pid }) => (pid === null ? [] : [pid]));
      await bus.close();
      await reserved?.release();
      child.kill("SIGINT");
      const code = await Promise.race([closed, sleep(stopMsMax, "late" as const, { ref: false })]);
      if (code === "late") {
        await endAll(child, closed);
        assert.fail(`the launcher did not stop within ${stopMsMax} ms:\n${output}`);
      }
      assert.equal(code, 0, `the launcher's exit code; it said:\n${output}`);
      assert.deepEqual(pids.filter(isAlive), [], "no process is left");
      assert.deepEqual(await listening(portBase, options), [], "no port is left");
      assert.equal(readText(join(dataDir, "stack.json")), "", "stack.json is gone");
      assert.deepEqual(refusals(dataDir), [], "the bus refuses nobody what it does (packages/contracts, bus-access.ts)");
      await remove();
    },
    async destroy() {
      await bus.close();
      await endAll(child, closed);
      await reserved?.release();
      await remove();
    },
  };
}

/** Runs a program to its end, for at most `timeoutMs` of a machine that is not busy. */
export async function run(
  command: string,
  args: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
  timeoutMs: number,
): Promise<CommandResult> {
  const child = spawn(command, [...args], {
    cwd: ROOT,
    env: { ...env },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: patientMs(timeoutMs),
    killSignal: "SIGKILL",
  });
  let stdout = "";
  let stderr = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  return {
    code,
    stdout,
    stderr,
    json() {
      try {
        return JSON.parse(stdout);
      } catch {
        return assert.fail(`not JSON (exit code ${code}): ${args.join(" ")}\n${stdout}\n${stderr}`);
      }
    },
  };
}

/** SIGKILL; the launcher's guardian then ends its children. */
async function endAll(child: ChildProcess, closed: Promise<unknown>): Promise<void> {
  child.kill("SIGTERM");
  await Promise.race([closed, sleep(stopMsMax, null, { ref: false })]);
  child.kill("SIGKILL");
  await closed;
}

function configText(config: string | undefined): string {
  if (config === undefined) return readFileSync(join(ROOT, "examples/local/failover.yaml"), "utf8");
  return config.includes("\n") ? config : readFileSync(isAbsolute(config) ? config : join(ROOT, config), "utf8");
}

/** What a stack listens on, as far as every stack has it: the probe for a block that is free, and for one that is free again. */
function usedPorts(portBase: number, options: Pick<StackOptions, "natsUrl" | "redisUrl">): number[] {
  const offsets = [0, 1, ...(options.natsUrl === undefined ? [2] : []), ...(options.redisUrl === undefined ? [3] : [])];
  for (let offset = 10; offset < 30; offset += 1) offsets.push(offset, offset + 500);
  for (let offset = 60; offset < 76; offset += 1) offsets.push(offset);
  return offsets.map((offset) => portBase + offset);
}

async function listening(portBase: number, options: Pick<StackOptions, "natsUrl" | "redisUrl">): Promise<number[]> {
  const ports = usedPorts(portBase, options);
  const free = await Promise.all(ports.map(isFree));
  return ports.filter((_, index) => free[index] === false);
}

const blockPorts = 600;
/** Below the ports that `freePort` gives, and that systems hand out to outgoing connections (Linux: from 32768). */
const blocks = { first: 10_000, last: 24_400 } as const;

/**
 * A port base whose whole block is free, and stays ours until `release`: whoever listens on the block's last port has it, so that
 * runs that look at the same time get different ones.
 */
export async function reservePorts(): Promise<{ readonly base: number; release(): Promise<void> }> {
  for (let attempt = 0; attempt < 200; attempt += 1) {
    const base = blocks.first + Math.floor((Math.random() * (blocks.last - blocks.first)) / blockPorts) * blockPorts;
    const holder = createServer();
    const held = await new Promise<boolean>((resolve) => {
      holder.once("error", () => resolve(false));
      holder.listen({ port: base + blockPorts - 1, host: "127.0.0.1", exclusive: true }, () => resolve(true));
    });
    if (!held) continue;
    const release = (): Promise<void> => new Promise((resolve) => holder.close(() => resolve()));
    if ((await listening(base, {})).length === 0) return { base, release };
    await release();
  }
  return assert.fail("no free block of ports after 200 tries");
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen({ port, host: "127.0.0.1", exclusive: true }, () => server.close(() => resolve(true)));
  });
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false; // ESRCH: gone. EPERM: the number is somebody else's by now.
  }
}

function readText(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return ""; // Not there: for a log that means nothing was said.
  }
}

/** What nats-server says of subjects that a client may not use, and what clients say of it. */
function refusals(dataDir: string): string[] {
  const logs = join(dataDir, "logs");
  return readdirSync(logs).flatMap((file) =>
    readText(join(logs, file))
      .split("\n")
      // What a test tries as a stranger shall be refused.
      .filter((line) => /(Publish|Subscription|permissions) violation/i.test(line) && !/"v[^"]*:stranger"/.test(line))
      .map((line) => `${file}: ${line.slice(0, lineCharsMax)}`)
      .slice(0, tailLines),
  );
}

function tails(dataDir: string): string {
  const names = ["bootstrap", "nats", "redis", "state-store-1", "failover-controller-1", "router-1", "prober-1"];
  return names
    .map((name) => [name, readText(join(dataDir, "logs", `${name}.log`)).trimEnd()] as const)
    .filter(([, text]) => text !== "")
    .map(([name, text]) => `--- ${name}\n${text.split("\n").slice(-tailLines).join("\n")}`)
    .join("\n");
}
