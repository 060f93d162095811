import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { RequestInput } from "@mcp-failover/contracts";
import { tempDir } from "@mcp-failover/testkit";
import { type RunningStack, startStack } from "../../harness/stack.ts";
import { until } from "../../harness/wait.ts";
import { type Traffic, trafficAfter } from "./judge.ts";
import { type HttpLoad, httpSpeech, mcpSpeech, startHttpLoad } from "./load.ts";
import { ordersConfig, type UpstreamKind, upstream } from "./orders.ts";

type ProxyFault = Omit<RequestInput<"fault.set">, "proxy" | "ttlMs">;
/** What is done to the primary: a signal to its process, or a fault of the proxy in front of it. */
export const faults = {
  kill: { signal: "SIGKILL" },
  refused: { proxy: { kind: "refuse" } },
  hang: { signal: "SIGSTOP" },
  503: { proxy: { kind: "status", status: 503 } },
  reset: { proxy: { kind: "reset" } },
  slow: { proxy: { kind: "latency", latencyMs: 5000 } },
  blackhole: { proxy: { kind: "blackhole" } },
} as const satisfies Record<string, { signal: NodeJS.Signals } | { proxy: ProxyFault }>;
export type FaultName = keyof typeof faults;

export interface DetectionRun extends Traffic {
  readonly fault: string;
  readonly run: number;
  /** From the fault until `failover.executed` was stored; null: not within the time for it. */
  readonly executedMs: number | null;
  /** Unsafe writes that ran more than once. */
  readonly duplicates: number;
  /** Where the time went: from the fault until each was first stored. */
  readonly phases: Readonly<Record<"reported" | "probed" | "breakerOpened" | "healthChanged" | "decided", number | null>>;
}

const ttlMs = 60_000;
const sessions = 20;
const executedMsMax = 20_000;
/** As patient callers are: on a machine whose cores others use too, an answer that comes late is one all the same. */
const patienceMs = 20_000;
/** Calls are watched for so long after the move, and at least for `watchMs` after the fault. */
const settleMs = 1500;
const watchMs = 5000;

export interface DetectionOptions {
  readonly kind: UpstreamKind;
  readonly callsPerSecond: number;
  readonly warmMs: number;
}

/** One fault on a fresh stack under load. */
export async function runDetection(fault: FaultName, run: number, options: DetectionOptions): Promise<DetectionRun> {
  const ops = await tempDir("mcpf-detection-");
  const opsFile = join(ops.path, "ops");
  const stack = await startStack({ config: ordersConfig(opsFile, { kind: options.kind, faultProxy: "proxy" in faults[fault] }) });
  let stopped: number | null = null;
  let load: HttpLoad | null = null;
  try {
    await until(async () => isHealthy(stack), 20_000, "both endpoints healthy");
    const speech = options.kind === "mcp" ? await mcpSpeech(stack.routerUrl, upstream, sessions) : httpSpeech(upstream);
    load = startHttpLoad(stack.routerUrl, speech, { callsPerSecond: options.callsPerSecond, stopWaitMs: patienceMs });
    // The fault comes at any moment of the probes' interval.
    await sleep(options.warmMs + Math.random() * 1000);
    const wanted = faults[fault];
    const pid = await stack.pidOf(`${upstream}-primary`);
    const faultMs = Date.now();
    if ("signal" in wanted) {
      process.kill(pid, wanted.signal);
      if (wanted.signal === "SIGSTOP") stopped = pid;
    } else {
      const reply = await stack.bus.request("fault.set", { proxy: `${upstream}-primary`, ttlMs, ...wanted.proxy });
      if (!reply.ok) throw new Error(`the fault was refused: ${reply.error.message}`);
    }
    const executed = await executedAt(stack, faultMs);
    await sleep(Math.max(settleMs, faultMs + watchMs - Date.now()));
    await load.stop();
    const traffic = trafficAfter(load.calls, faultMs, Date.now());
    return {
      fault: String(fault),
      run,
      executedMs: executed === null ? null : executed - faultMs,
      ...traffic,
      duplicates: duplicatesIn(opsFile),
      phases: await phasesOf(stack, faultMs),
    };
  } finally {
    await load?.stop();
    // A stopped process does not end with its parent's pipe.
    if (stopped !== null) process.kill(stopped, "SIGKILL");
    await stack.stop();
    await ops.remove();
  }
}

async function isHealthy(stack: RunningStack): Promise<boolean> {
  const view = (await stack.status()).upstreams.find(({ name }) => name === upstream);
  return view?.endpoints.every(({ health }) => health === "healthy") === true;
}

async function executedAt(stack: RunningStack, faultMs: number): Promise<number | null> {
  while (Date.now() - faultMs < executedMsMax) {
    for await (const stored of stack.bus.read("AUDIT", { filter: `failover.executed.${upstream}` })) return stored.timeMs;
    await sleep(100);
  }
  return null;
}

function duplicatesIn(opsFile: string): number {
  const writes = readFileSync(opsFile, "utf8")
    .split("\n")
    .filter((line) => line.startsWith("POST "));
  return writes.length - new Set(writes).size;
}

/** When each step towards a move of {@link upstream} was first stored, counted from the fault. */
export async function phasesOf(stack: RunningStack, faultMs: number): Promise<DetectionRun["phases"]> {
  const first: Record<keyof DetectionRun["phases"], number | null> = {
    reported: null,
    probed: null,
    breakerOpened: null,
    healthChanged: null,
    decided: null,
  };
  const note = (phase: keyof typeof first, timeMs: number): void => {
    if (timeMs >= faultMs) first[phase] ??= timeMs - faultMs;
  };
  for (const stream of ["SIGNALS", "AUDIT"] as const) {
    for await (const { content, timeMs } of stack.bus.read(stream)) {
      if (content.kind !== "event") continue;
      const { event } = content;
      switch (event.type) {
        case "traffic.observed":
          if (event.data.endpoints.some((one) => one.endpoint === "primary" && one.hard > 0)) note("reported", timeMs);
          break;
        case "probe.observed":
          if (event.data.observations.some((one) => one.endpoint === "primary" && one.outcome === "hard")) note("probed", timeMs);
          break;
        case "breaker.changed":
          if (event.data.endpoint === "primary" && event.data.state.status === "open") note("breakerOpened", timeMs);
          break;
        case "health.changed":
          if (event.data.endpoint === "primary" && event.data.state.status === "unhealthy") note("healthChanged", timeMs);
          break;
        case "failover.decided":
          if (event.data.action === "moved") note("decided", timeMs);
          break;
      }
    }
  }
  return first;
}
