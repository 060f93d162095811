import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { eventually } from "@mcp-failover/testkit";
import { startOf } from "../src/process-identity.ts";

/** One upstream that a plain HTTP process of this test serves, behind a fault proxy. */
const config = `
upstreams:
  u:
    kind: http
    endpoints: [{ name: primary, tier: 0, url: "http://127.0.0.1:\${MCPF_PORT_UP}", headers: { key: { secret: UPSTREAM_SECRET } } }]
local:
  processes:
    - name: up
      serves: u/primary
      command: [node, -e, "require('node:http').createServer((_, r) => r.end('up')).listen(Number(process.env.PORT), '127.0.0.1')"]
      port_offset: 10
      fault_proxy: true
      restart_after_ms: 300
`;

export interface Launched {
  readonly child: ChildProcess;
  readonly dataDir: string;
  readonly portBase: number;
  output(): string;
  exit(withinMs?: number): Promise<number | null>;
  /** Waits for text in the output. */
  said(text: string | RegExp, withinMs?: number): Promise<string>;
  /** Ports of the stack's block on which something listens. */
  openPorts(): Promise<number[]>;
  /** Living processes of the stack, the launcher and its guardian among them. */
  processes(): number[];
}

/** Runs the launcher with fakes for services, in a folder and on ports of its own. */
export async function launch(
  t: TestContext,
  options: { env?: Record<string, string>; args?: string[]; text?: string; dataDir?: string; portBase?: number } = {},
): Promise<Launched> {
  const dataDir = options.dataDir ?? mkdtempSync(join(tmpdir(), "mcpf-launcher-"));
  const portBase = options.portBase ?? (await freeBlock());
  const file = join(dataDir, "failover.yaml");
  writeFileSync(file, options.text ?? config);
  const script = fileURLToPath(new URL("./fixtures/launch.ts", import.meta.url));
  const { NATS_URL: _nats, REDIS_URL: _redis, NODE_TEST_CONTEXT: _context, ...outer } = process.env;
  const args = options.args ?? ["--config", file, "--data-dir", dataDir, "--port-base", String(portBase)];
  const child = spawn(process.execPath, [script, ...args], {
    // TMPDIR goes to every child, and so marks it as ours.
    env: { ...outer, TMPDIR: dataDir, UPSTREAM_SECRET: "planted-secret-value", ...options.env },
    stdio: ["ignore", "pipe", "pipe"],
    cwd: dataDir,
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text: string) => (output += text));
  const closed = new Promise<number | null>((resolve) => child.once("close", resolve));
  const launched: Launched = {
    child,
    dataDir,
    portBase,
    output: () => output,
    exit: async (withinMs = 15_000) => {
      const code = await Promise.race([closed, sleep(withinMs, "late" as const, { ref: false })]);
      if (code === "late") assert.fail(`the launcher runs on after ${withinMs} ms; it said:\n${output}`);
      return code;
    },
    said: async (text, withinMs = 15_000) => {
      await until(
        () => (typeof text === "string" ? output.includes(text) : text.test(output)) || child.exitCode !== null,
        withinMs,
        () => output,
      );
      assert.ok(typeof text === "string" ? output.includes(text) : text.test(output), `ended without saying ${text}:\n${output}`);
      return output;
    },
    openPorts: async () => {
      const ports = [0, 1, 2, 3, 10, 510, ...Array.from({ length: 14 }, (_, i) => 60 + i)].map((offset) => portBase + offset);
      const free = await Promise.all(ports.map(isFree));
      return ports.filter((_, index) => free[index] === false);
    },
    processes: () => processesWith(dataDir),
  };
  t.after(async () => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill("SIGTERM");
      await Promise.race([closed, sleep(10_000, null, { ref: false })]);
      child.kill("SIGKILL");
    }
    await until(() => processesWith(dataDir).length === 0, 12_000).catch(() => undefined);
    for (const pid of processesWith(dataDir)) process.kill(pid, "SIGKILL");
    rmSync(dataDir, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  });
  return launched;
}

/** Pids of living processes, other than this one, whose command, environment or folder names the data directory (Linux). */
function processesWith(dataDir: string): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => Number.isInteger(pid) && pid > 0 && pid !== process.pid && startOf(pid) !== null)
    .filter((pid) => ["cmdline", "environ", "cwd"].some((file) => readProc(pid, file).includes(dataDir)));
}
function readProc(pid: number, file: string): string {
  try {
    const path = `/proc/${pid}/${file}`;
    return file === "cwd" ? readlinkSync(path) : readFileSync(path, "utf8");
  } catch {
    return ""; // Gone meanwhile, or not ours.
  }
}

export async function until(condition: () => boolean | Promise<boolean>, withinMs = 5000, say: () => string = () => ""): Promise<void> {
  await eventually(condition, { withinMs, what: say, everyMs: 25 });
}

/** A port base whose block is free. Whoever listens on the block's last port has it; the operating system lets go of it with this process. */
async function freeBlock(): Promise<number> {
  for (let attempt = 0; attempt < 200; attempt += 1) {
    const base = 10_000 + Math.floor(Math.random() * 25) * 600;
    const holder = createServer().unref();
    const held = await new Promise<boolean>((resolve) => {
      holder.once("error", () => resolve(false));
      holder.listen({ port: base + 599, host: "127.0.0.1", exclusive: true }, () => resolve(true));
    });
    const offsets = [0, 1, 2, 3, 10, 510, ...Array.from({ length: 14 }, (_, i) => 60 + i)];
    if (held && (await Promise.all(offsets.map((offset) => isFree(base + offset)))).every(Boolean)) return base;
    holder.close();
  }
  throw new Error("no free block of ports");
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen({ port, host: "127.0.0.1", exclusive: true }, () => server.close(() => resolve(true)));
  });
}

/** An orderly stop leaves no process, no port, no lock and no stack.json. */
export async function assertNothingLeft(stack: Launched): Promise<void> {
  await until(
    () => stack.processes().length === 0,
    2000,
    () => `left: ${stack.processes().join(", ")}`,
  );
  assert.deepEqual(await stack.openPorts(), []);
  assert.ok(!existsSync(join(stack.dataDir, "stack.json")), "stack.json is gone");
  assert.ok(!existsSync(join(stack.dataDir, "launcher.lock")), "the lock is gone");
}
