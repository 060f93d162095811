// What many open streams through one router process cost, beside a pipe that looks at nothing.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { freePort } from "@mcp-failover/testkit";
import { node24 } from "../../scripts/lib/repo.mjs";
import { atLeast, atMost, type Benchmark, type Bound, wholeNumber } from "./benchmark.ts";
import { pinned, stepAside, usageOf } from "./prober/machine.ts";
import { Helper } from "./router/children.ts";
import { startRealRouters } from "./router/real-router.ts";
import type { Measured as Heard, Measure, Open, Settle } from "./router-sse/listeners.ts";
import type { Mark, Speak, Speaking, Stop, Stopped } from "./router-sse/upstream.ts";
import { table } from "./table.ts";

type BenchmarkContext = Parameters<Benchmark["run"]>[0];

/** Issue "The router", must show 3. */
const streamsWanted = 2000;
const eventsPerStream = 10;
const rssMibMax = 1536;
const lateMs = 250;
/** A busy machine keeps these too. */
const quick = { streams: 200, warmMs: 500, ms: 2000, lateMs: 5000, ratioMax: 12 } as const;
/** Code is compiled and buffers have their size by then. */
const warmMs = 5000;
/** Of the rate that is wanted: what is not sent cannot come. */
const sentShareMin = 0.97;

interface Round extends Omit<Heard, "kind"> {
  readonly name: string;
  /** Streams that the server saw. */
  readonly streams: number;
  readonly eventsPerS: number;
  /** Of the server: how long after its time the latest event was written. */
  readonly behindMsMax: number;
  /** Share of a core that server and clients took: when that is near 1, they are what is late. */
  readonly othersBusy: number;
  /** Of the proxy; null where there is none between. */
  readonly proxy: { readonly cpuUsPerEvent: number; readonly busy: number; readonly rssMibMax: number } | null;
}

interface Asked {
  readonly streams: number;
  readonly warmMs: number;
  readonly ms: number;
  readonly lateMs: number;
}

export const bench: Benchmark = {
  what: "2,000 open streams of sessions through one router process on one core, 10 events a second each, beside no proxy at all and a bare node:http pipe; no event may be lost, or late by over 250 ms",
  notMeasured:
    "a network: server and clients share the other core, and when that one is busy, events are late because of them: the line without a proxy says how late.",
  options: {
    streams: `open streams (default ${streamsWanted}; quick ${quick.streams})`,
    ms: "how long events are sent that count (default 15000)",
    only: 'some of "direct,bare pipe,router": nothing is judged without the router',
    profile: "a directory for a CPU profile of the router",
  },
  async run(context) {
    stepAside();
    const asked: Asked = {
      streams: wholeNumber(context.args, "streams", context.quick ? quick.streams : streamsWanted),
      warmMs: context.quick ? quick.warmMs : warmMs,
      ms: wholeNumber(context.args, "ms", context.quick ? quick.ms : 15_000),
      lateMs: context.quick ? quick.lateMs : lateMs,
    };
    const names = context.args["only"]?.split(",") ?? ["direct", "bare pipe", "router"];
    const upstream = new Helper("../router-sse/upstream.ts");
    const rounds: Round[] = [];
    const measure = async (name: string, start: (upstreamPort: number) => Promise<Between>): Promise<void> => {
      if (!names.includes(name)) return;
      const between = await start(upstreamPort);
      try {
        rounds.push(await round(context, name, between, upstream, asked));
      } finally {
        await between.stop();
      }
    };
    const { port: upstreamPort } = await upstream.heard<{ kind: "listening"; port: number }>("listening");
    try {
      await measure("direct", async (port) => ({ port, pid: null, path: "/mcp", stop: async () => undefined }));
      await measure("bare pipe", startPipe);
      await measure("router", (port) => startRouter(port, context.args["profile"]));
    } finally {
      await upstream.stop();
    }
    const rows = rounds.map((one) => [
      one.name,
      one.eventsPerS.toFixed(0),
      ...(one.proxy === null
        ? ["", "", ""]
        : [one.proxy.cpuUsPerEvent.toFixed(1), one.proxy.busy.toFixed(2), one.proxy.rssMibMax.toFixed(0)]),
      one.othersBusy.toFixed(2),
      ...[one.behindMsMax, one.p50Ms, one.p99Ms, one.worstMs].map((value) => value.toFixed(1)),
      ...[one.late, one.lost, one.twice, one.ended].map(String),
    ]);
    const proxy = ["cpu us/event", "core busy", "MiB"];
    const times = ["sent late ms", "p50 ms", "p99 ms", "worst ms", `over ${asked.lateMs} ms`];
    context.say(`\n${table(["proxy", "events/s", ...proxy, "others busy", ...times, "lost", "twice", "ended"], rows)}`);
    return judge(context, rounds, asked);
  },
};

/** What stands between server and clients. */
interface Between {
  readonly port: number;
  readonly path: string;
  /** Null: nothing does. */
  readonly pid: number | null;
  stop(): Promise<void>;
}

async function round(context: BenchmarkContext, name: string, between: Between, upstream: Helper, asked: Asked): Promise<Round> {
  const listeners = new Helper("../router-sse/listeners.ts");
  try {
    await listeners.heard("ready");
    const opened = listeners.heard("opened");
    listeners.say({ kind: "open", port: between.port, path: between.path, streams: asked.streams } satisfies Open);
    await opened;
    const speaking = upstream.heard<Speaking>("speaking");
    upstream.say({ kind: "speak" } satisfies Speak);
    const { streams } = await speaking;
    context.say(`${name}: ${streams} streams are open`);
    await sleep(asked.warmMs);
    const pids = [upstream.pid, listeners.pid];
    const cpuOf = (): number => pids.reduce((sum, pid) => sum + usageOf(pid).cpuS, 0);
    const othersBefore = cpuOf();
    const before = between.pid === null ? 0 : usageOf(between.pid).cpuS;
    listeners.say({ kind: "measure" } satisfies Measure);
    upstream.say({ kind: "mark" } satisfies Mark);
    const beganMs = performance.now();
    await sleep(asked.ms);
    const stopped = upstream.heard<Stopped>("stopped");
    upstream.say({ kind: "stop" } satisfies Stop);
    const { sent, sentSinceMark, behindMsMax } = await stopped;
    const tookS = (performance.now() - beganMs) / 1000;
    const othersBusy = (cpuOf() - othersBefore) / tookS;
    const measured = listeners.heard<Heard>("measured");
    listeners.say({ kind: "settle", sent, lateMs: asked.lateMs } satisfies Settle);
    const { kind: _kind, ...heard } = await measured;
    // Now that it has passed on everything, also what it had not when the server fell silent.
    const cpuS = between.pid === null ? 0 : usageOf(between.pid).cpuS - before;
    const proxy =
      between.pid === null
        ? null
        : { cpuUsPerEvent: (cpuS * 1e6) / sentSinceMark, busy: cpuS / tookS, rssMibMax: rssMibMaxOf(between.pid) };
    return { name, ...heard, streams, eventsPerS: heard.events / tookS, behindMsMax, othersBusy, proxy };
  } finally {
    await listeners.stop();
  }
}

function judge(context: BenchmarkContext, rounds: readonly Round[], { streams, lateMs }: Asked) {
  const router = rounds.find(({ name }) => name === "router");
  const pipe = rounds.find(({ name }) => name === "bare pipe");
  const bounds: Bound[] = [];
  const ratios: Record<string, number> = {};
  if (router?.proxy && pipe?.proxy) {
    const ratio = router.proxy.cpuUsPerEvent / pipe.proxy.cpuUsPerEvent;
    ratios["router to bare pipe: CPU an event"] = ratio;
    if (context.quick) bounds.push(atMost("CPU an event, of the bare pipe's", ratio, quick.ratioMax, "times"));
  }
  if (router?.proxy) {
    const perS = streams * eventsPerStream * (context.quick ? 0.5 : sentShareMin);
    bounds.push(
      atLeast("open streams", router.streams, streams, "streams"),
      atMost("streams that ended", router.ended, 0, "streams"),
      atMost("events that were lost", router.lost, 0, "events"),
      atMost("events that came twice", router.twice, 0, "events"),
      atMost("the latest event", router.worstMs, lateMs, "ms"),
      atMost("resident memory", router.proxy.rssMibMax, rssMibMax, "MiB"),
      atLeast("events that came", router.eventsPerS, perS, "a second"),
    );
  }
  return { ratios, runs: rounds, bounds };
}

/** The most that a process ever had in memory. */
function rssMibMaxOf(pid: number): number {
  return Number(/^VmHWM:\s*(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024;
}

async function startRouter(upstreamPort: number, profileDir: string | undefined): Promise<Between> {
  const router = await startRealRouters({ upstreamPort, processes: 1, ...(profileDir === undefined ? {} : { profileDir }) });
  return { port: router.port, path: "/mcp/bench", pid: router.pids[0] as number, stop: () => router.stop() };
}

async function startPipe(upstreamPort: number): Promise<Between> {
  const port = await freePort();
  const file = fileURLToPath(new URL("./router-sse/bare-pipe.ts", import.meta.url));
  const [program, args] = pinned("measured", node24(), [file, String(upstreamPort), String(port)]);
  const child = spawn(program, args, { stdio: ["ignore", "ignore", "inherit"] });
  for (let tries = 0; tries < 400; tries += 1) {
    if (child.exitCode !== null) throw new Error(`the pipe ended with ${child.exitCode}`);
    if (await isOpen(port)) break;
    await sleep(50);
  }
  return {
    port,
    path: "/mcp",
    pid: child.pid as number,
    async stop() {
      child.kill("SIGKILL");
      await once(child, "exit");
    },
  };
}

function isOpen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => {
      socket.destroy();
      resolve(true);
    });
    socket.on("error", () => resolve(false));
  });
}
