import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import type { RunningStack } from "../../harness/stack.ts";

/** What one process holds. */
interface ProcessLook {
  readonly pid: number;
  readonly rssBytes: number;
  readonly fds: number;
  readonly sockets: number;
  readonly children: number;
}
/** What a router says of itself besides. */
export interface RouterLook extends ProcessLook {
  readonly sessions: number;
  readonly heapBytes: number;
  /** Timers that keep a process running, and the like (`process.getActiveResourcesInfo`). */
  readonly timers: number;
  readonly tcp: number;
}
export interface Look {
  readonly atMs: number;
  readonly routers: Readonly<Record<string, RouterLook>>;
  /** The other services. */
  readonly services: Readonly<Record<string, ProcessLook>>;
}

/** The health ports are counted from here, in the order of the plan (packages/launcher). */
const healthOffset = 60;
const collectMs = 300;

/** Looks at all services; routers collect their garbage first. What is just being restarted is left out. */
export async function lookAt(stack: RunningStack): Promise<Look> {
  const processes = (await stack.processes().catch(() => [])).filter(({ kind }) => kind === "service");
  const isRouter = (name: string): boolean => name.startsWith("router-");
  for (const { name, pid, state } of processes) if (pid !== null && state === "running" && isRouter(name)) signal(pid);
  await new Promise((resolve) => setTimeout(resolve, collectMs));
  const routers: Record<string, RouterLook> = {};
  const services: Record<string, ProcessLook> = {};
  const children = childrenByParent();
  for (const [index, { name, pid, state }] of processes.entries()) {
    if (pid === null || state !== "running") continue;
    const look = processLook(pid, children);
    if (look === null) continue;
    if (!isRouter(name)) services[name] = look;
    else {
      const metrics = await metricsOf(`http://127.0.0.1:${stack.portBase + healthOffset + index}/metrics`);
      if (metrics !== null) routers[name] = { ...look, ...metrics };
    }
  }
  return { atMs: Date.now(), routers, services };
}

function signal(pid: number): void {
  try {
    process.kill(pid, "SIGUSR2");
  } catch {
    // It has just ended.
  }
}

function processLook(pid: number, children: ReadonlyMap<number, readonly number[]>): ProcessLook | null {
  try {
    const fds = readdirSync(`/proc/${pid}/fd`);
    const rss = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
    const sockets = fds.filter((fd) => linkOf(`/proc/${pid}/fd/${fd}`).startsWith("socket:")).length;
    return { pid, rssBytes: Number(rss) * 1024, fds: fds.length, sockets, children: descendants(pid, children).length };
  } catch {
    return null; // It has just ended.
  }
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return ""; // Closed meanwhile.
  }
}

/** All processes of this machine by their parent. */
export function childrenByParent(): ReadonlyMap<number, readonly number[]> {
  const children = new Map<number, number[]>();
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = readFileSync(`/proc/${name}/stat`, "utf8");
      const parent = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
      const of = children.get(parent) ?? [];
      children.set(parent, of);
      of.push(Number(name));
    } catch {
      // Ended between the listing and the look.
    }
  }
  return children;
}
export function descendants(pid: number, children: ReadonlyMap<number, readonly number[]>): number[] {
  return (children.get(pid) ?? []).flatMap((child) => [child, ...descendants(child, children)]);
}

async function metricsOf(url: string): Promise<Pick<RouterLook, "sessions" | "heapBytes" | "timers" | "tcp"> | null> {
  const answer = await fetch(url, { signal: AbortSignal.timeout(5000) }).catch(() => null);
  const text = await answer?.text().catch(() => null);
  if (text === null || text === undefined) return null;
  const value = (name: string): number => Number(new RegExp(`^${name} (.+)$`, "m").exec(text)?.[1] ?? 0);
  const resources = (type: string): number => value(`nodejs_active_resources\\{type="${type}"\\}`);
  return {
    sessions: value("mcpf_router_sessions"),
    heapBytes: value("nodejs_heap_size_used_bytes"),
    timers: resources("Timeout"),
    tcp: resources("TCPSocketWrap"),
  };
}
