import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { RunningStack } from "../../harness/stack.ts";
import type { Random } from "../../sim/random.ts";
import type { Book } from "./book.ts";
import { behindProxyOffset, mixedConfig, type ProxiedProcess, proxiedProcesses } from "./config.ts";
import { childrenByParent, descendants } from "./look.ts";

/** What faults act on. */
export interface FaultWorld {
  readonly stack: RunningStack;
  readonly book: Book;
  readonly opsFile: string;
}

/** One fault; `act` resolves when it is over, or goes on by itself (what is killed comes back, leases end). */
export interface Fault {
  readonly what: string;
  act(world: FaultWorld): Promise<void>;
}

const names = Object.keys(proxiedProcesses) as ProxiedProcess[];
/** router-1 lives through it all: what it keeps in memory is what is looked at for the whole time. */
const replaceable = [
  "prober-1",
  "prober-2",
  "prober-3",
  "breaker-state-1",
  "failover-controller-1",
  "rollback-controller-1",
  "state-store-1",
  "notifier-1",
];
const router = "router-2";
const proxyFaults = [
  { kind: "status", status: 503 },
  { kind: "reset" },
  { kind: "refuse" },
  { kind: "latency", latencyMs: 1500 },
  { kind: "latency", latencyMs: 6000 },
  { kind: "blackhole" },
] as const;
let configVersion = 0;

/** The n-th fault of a seed. The rare ones come as often as the ways there are of them say. */
export function drawFault(random: Random): Fault {
  return random.weighted<() => Fault>([
    [() => signalled(random.pick(names), "SIGKILL"), 3],
    [() => signalled(random.pick(names), "SIGTERM"), 2],
    [() => stopped(random.pick(names), 1000 + Math.floor(random.next() * 6000)), 3],
    [() => proxied(random.pick(names), random.pick(proxyFaults), 2000 + Math.floor(random.next() * 6000)), 8],
    [() => forgotten(random.pick(["tools-a", "tools-b"] as const)), 2],
    [() => killed("nats"), 1.5],
    [() => killed("redis"), 1],
    [() => killed(random.pick(replaceable)), 3],
    [() => routerEnds("SIGKILL"), 1],
    [() => routerEnds("SIGTERM"), 1],
    [() => reloaded(), 2],
    [() => childKilled(), 1.5],
  ])();
}

const signalled = (name: string, signal: NodeJS.Signals): Fault => ({
  what: `${signal} to ${name}`,
  act: async ({ stack }) => void process.kill(await stack.pidOf(name), signal),
});

const stopped = (name: string, ms: number): Fault => ({
  what: `${name} stands still for ${ms} ms`,
  async act({ stack }) {
    const pid = await stack.pidOf(name);
    process.kill(pid, "SIGSTOP");
    await sleep(ms);
    process.kill(pid, "SIGCONT");
  },
});

const proxied = (proxy: string, fault: (typeof proxyFaults)[number], ttlMs: number): Fault => ({
  what: `${JSON.stringify(fault)} before ${proxy} for ${ttlMs} ms`,
  async act({ stack }) {
    const reply = await stack.bus.request("fault.set", { proxy, ttlMs, ...fault });
    if (!reply.ok) throw new Error(reply.error.message);
    await sleep(ttlMs);
  },
});

const forgotten = (name: "tools-a" | "tools-b"): Fault => ({
  what: `${name} forgets its sessions`,
  async act({ stack }) {
    const port = stack.portBase + proxiedProcesses[name] + behindProxyOffset;
    await (await fetch(`http://127.0.0.1:${port}/control/forget`, { method: "PUT" })).text();
  },
});

const killed = (name: string): Fault => ({ what: `${name} is killed`, act: ({ stack }) => stack.killProcess(name) });

const routerEnds = (signal: NodeJS.Signals): Fault => ({
  what: `${signal} to ${router}`,
  async act({ stack, book }) {
    const pid = await stack.pidOf(router);
    book.routerEnded(Date.now());
    process.kill(pid, signal);
  },
});

const reloaded = (): Fault => ({
  what: "the configuration is applied again with a change",
  async act({ stack, opsFile }) {
    configVersion += 1;
    const file = join(stack.dataDir, `soak-${configVersion}.yaml`);
    writeFileSync(file, mixedConfig(opsFile, configVersion));
    const ports = names.map((name) => [
      `MCPF_PORT_${name.toUpperCase().replace("-", "_")}`,
      String(stack.portBase + proxiedProcesses[name]),
    ]);
    const done = await stack.mcpf(["config", "apply", file, "--yes", "--reason", "soak"], { env: Object.fromEntries(ports) });
    if (done.code !== 0) throw new Error(`${done.stdout}${done.stderr}`);
  },
});

/** A process of a stdio server, in any router. */
const childKilled = (): Fault => ({
  what: "a process of the stdio server is killed",
  async act({ stack }) {
    const children = childrenByParent();
    const routers = await Promise.all(["router-1", router].map((name) => stack.pidOf(name)));
    const servers = routers
      .flatMap((pid) => descendants(pid, children))
      .filter((pid) => /server-everything.*\0stdio\0/.test(commandOf(pid)));
    const [pid] = servers.toReversed();
    if (pid === undefined) throw new Error("no router has one");
    process.kill(pid, "SIGKILL");
  },
});

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8");
  } catch {
    return ""; // It has just ended.
  }
}
