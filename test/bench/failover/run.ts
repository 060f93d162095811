import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { tempDir } from "@mcp-failover/testkit";
import { trafficAfter } from "../detection/judge.ts";
import { type CallRecord, type HttpLoad, startHttpLoad } from "../detection/load.ts";
import { type ProxyName, type Scene, startScene } from "./scene.ts";
import { isTyped, toolCalls } from "./speech.ts";

export const faultNames = ["kill", "hang", "503", "slow", "reset"] as const;
export type FaultName = (typeof faultNames)[number];
export const toolNames = ["read", "write"] as const;
export type ToolName = (typeof toolNames)[number];

export interface FailoverRun {
  readonly proxy: ProxyName;
  readonly fault: FaultName;
  readonly tool: ToolName;
  readonly calls: number;
  readonly failed: number;
  /** Failed ones that were not told by a typed error with an operation id. */
  readonly untyped: number;
  /** Writes that ran more than once. */
  readonly duplicates: number;
  /** From the fault until the last slow or failed read had ended, or the last such write was begun: writes are waited for. */
  readonly recoverMs: number;
  /** Calls that were out at the moment of the fault. */
  readonly inFlight: number;
  readonly slowestMs: number;
  readonly reasons: Readonly<Record<string, number>>;
  /** Of our fleet: from the fault until each step towards the move. */
  readonly phases: Readonly<Record<string, number | null>>;
}

export const faultScopes = ["all", "calls"] as const;
type FaultScope = (typeof faultScopes)[number];

export interface FailoverOptions {
  readonly callsPerSecond: number;
  readonly runMs: number;
  readonly faultAtMs: number;
  /** What 503, slow and reset meet: everything that the server is asked, or only calls of tools, while checks are answered as before. */
  readonly scope: FaultScope;
}

/** How long an agent waits for the answer of one call. */
const patienceMs = 10_000;

/** One fault of the active server under load, with fresh processes. */
export async function runFailover(proxy: ProxyName, fault: FaultName, tool: ToolName, options: FailoverOptions): Promise<FailoverRun> {
  const ops = await tempDir("mcpf-failover-");
  const opsFile = join(ops.path, "ops");
  const scene = await startScene(proxy, opsFile);
  let load: HttpLoad | null = null;
  try {
    const kind = tool === "read" ? "read" : "unsafe";
    load = startHttpLoad(scene.url, toolCalls(scene.path, patienceMs), {
      callsPerSecond: options.callsPerSecond,
      kindOf: () => kind,
      socketsMax: Number.POSITIVE_INFINITY,
      giveUpMs: patienceMs,
      stopWaitMs: patienceMs + 1000,
    });
    await sleep(options.faultAtMs);
    const faultMs = Date.now();
    await make(fault, scene, options.scope);
    await sleep(options.runMs - options.faultAtMs);
    await load.stop();
    return { proxy, fault, tool, duplicates: duplicatesIn(opsFile), ...judge(load.calls, faultMs), phases: await scene.phases(faultMs) };
  } finally {
    await load?.stop();
    // A stopped process does not end with its parent's pipe.
    if (fault === "hang") process.kill(scene.pid, "SIGKILL");
    await scene.stop();
    await ops.remove();
  }
}

async function make(fault: FaultName, { pid, serverUrl }: Scene, scope: FaultScope): Promise<void> {
  if (fault === "kill") process.kill(pid, "SIGKILL");
  else if (fault === "hang") process.kill(pid, "SIGSTOP");
  else await (await fetch(`${serverUrl}/fault/${scope}/${fault}`, { method: "PUT" })).text();
}

function judge(calls: readonly CallRecord[], faultMs: number) {
  const bad = calls.filter(({ status }) => status !== 200);
  const reasons: Record<string, number> = {};
  for (const { reason } of bad) reasons[reason ?? ""] = (reasons[reason ?? ""] ?? 0) + 1;
  const { normalMs } = trafficAfter(calls, faultMs, Date.now());
  return {
    calls: calls.length,
    failed: bad.length,
    untyped: bad.filter(({ reason }) => !isTyped(reason ?? "")).length,
    recoverMs: normalMs,
    inFlight: calls.filter(({ begunMs, endedMs }) => begunMs < faultMs && (endedMs === null || endedMs >= faultMs)).length,
    slowestMs: calls.reduce((slowest, { begunMs, endedMs }) => Math.max(slowest, (endedMs ?? begunMs) - begunMs), 0),
    reasons,
  };
}

function duplicatesIn(opsFile: string): number {
  const writes = readFileSync(opsFile, "utf8")
    .split("\n")
    .filter((line) => line.startsWith("unsafe "));
  return writes.length - new Set(writes).size;
}
