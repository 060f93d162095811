// What many open streams through one router process cost, beside a pipe that looks at nothing.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { freePort } from "@mcp-failover/testkit";
import { node24 } from "../../scripts/lib/repo.mjs";
import { atLeast, atMost, type Benchmark, type Bound, wholeNumber } from "./benchmark.ts";
import { pinned, stepAside, usageOf } from "./prober/machine.ts";
import { Helper } from "./router/children.ts";
import { startRealRouters } from "./router/real-router.ts";
import type { Measured as Heard } from "./router-sse/listeners.ts";
import { table } from "./table.ts";

type BenchmarkContext = Parameters<Benchmark["run"]>[0];

/** Issue "The router", must show 3. */
const streamsWanted = 2000;
const eventsPerStream = 10;
const rssMibMax = 1536;
const lateMs = 250;
/** A busy machine keeps these too. */
const quick = { streams: 200, ms: 3000, lateMs: 5000, ratioMax: 12 } as const;
/** Of the rate that is wanted: what is not sent cannot come. */
const sentShareMin = 0.97;

interface Round extends Omit<Heard, "kind"> {
  readonly name: string;
  readonly cpuUsPerEvent: number;
  readonly busy: number;
  readonly rssMib: number;
}

export const bench: Benchmark = {
  what: "2,000 open streams of sessions through one router process on one core, 10 events a second each, beside a bare node:http pipe; no event may be lost, or late by over 250 ms",
  notMeasured: "a network: server and clients share the other core, and when that one is busy, events are late because of them.",
  options: {
    streams: `open streams (default ${streamsWanted}; quick ${quick.streams})`,
    ms: "how long events are counted (default 15000)",
    profile: "a directory for a CPU profile of the router",
  },
  async run(context) {
    stepAside();
    const streams = wholeNumber(context.args, "streams", context.quick ? quick.streams : streamsWanted);
    const ms = wholeNumber(context.args, "ms", context.quick ? quick.ms : 15_000);
    const late = context.quick ? quick.lateMs : lateMs;
    const upstream = new Helper("../router-sse/upstream.ts");
    const { port: upstreamPort } = await upstream.heard<{ kind: "listening"; port: number }>("listening");
    const rounds: Round[] = [];
    try {
      const pipe = await startPipe(upstreamPort);
      try {
        rounds.push(await round(context, { name: "bare pipe", pid: pipe.pid, port: pipe.port, path: "/mcp" }, { streams, ms, late }));
      } finally {
        await pipe.stop();
      }
      const profileDir = context.args["profile"];
      const router = await startRealRouters({ upstreamPort, processes: 1, ...(profileDir === undefined ? {} : { profileDir }) });
      try {
        const pid = router.pids[0] as number;
        rounds.push(await round(context, { name: "router", pid, port: router.port, path: "/mcp/bench" }, { streams, ms, late }));
      } finally {
        await router.stop();
      }
    } finally {
      await upstream.stop();
    }
    const rows = rounds.map((one) => [
      one.name,
      ((one.events / one.tookMs) * 1000).toFixed(0),
      one.cpuUsPerEvent.toFixed(1),
      one.busy.toFixed(2),
      one.rssMib.toFixed(0),
      ...[one.p50Ms, one.p99Ms, one.worstMs].map((value) => value.toFixed(1)),
      String(one.lost),
      String(one.late),
    ]);
    const headings = ["proxy", "events/s", "cpu us/event", "core busy", "MiB", "p50 ms", "p99 ms", "worst ms", "lost", `over ${late} ms`];
    context.say(`\n${table(headings, rows)}`);
    return judge(context, rounds, { streams, late });
  },
};

async function round(
  context: BenchmarkContext,
  proxy: { readonly name: string; readonly pid: number; readonly port: number; readonly path: string },
  { streams, ms, late }: { streams: number; ms: number; late: number },
): Promise<Round> {
  const listeners = new Helper("../router-sse/listeners.ts");
  try {
    await listeners.heard("ready");
    const opened = listeners.heard("opened");
    listeners.say({ kind: "open", port: proxy.port, path: proxy.path, streams });
    await opened;
    context.say(`${proxy.name}: ${streams} streams are open`);
    // Code is compiled and buffers have their size by then.
    await sleep(context.quick ? 1000 : 5000);
    const before = usageOf(proxy.pid);
    const measured = listeners.heard<Heard>("measured");
    listeners.say({ kind: "measure", ms, lateMs: late });
    const { kind: _kind, ...heard } = await measured;
    const { cpuS, rssMib } = usageOf(proxy.pid);
    const cpuUsed = cpuS - before.cpuS;
    return {
      name: proxy.name,
      ...heard,
      cpuUsPerEvent: (cpuUsed * 1e6) / heard.events,
      busy: cpuUsed / (heard.tookMs / 1000),
      rssMib,
    };
  } finally {
    await listeners.stop();
  }
}

function judge(context: BenchmarkContext, rounds: readonly Round[], { streams, late }: { streams: number; late: number }) {
  const router = rounds.find(({ name }) => name === "router") as Round;
  const pipe = rounds.find(({ name }) => name === "bare pipe") as Round;
  const ratio = router.cpuUsPerEvent / pipe.cpuUsPerEvent;
  const bounds: Bound[] = [
    atMost("events that were lost", router.lost, 0, "events"),
    atMost("the latest event", router.worstMs, late, "ms"),
    atMost("resident memory", router.rssMib, rssMibMax, "MiB"),
    atLeast(
      "events that came",
      (router.events / router.tookMs) * 1000,
      streams * eventsPerStream * (context.quick ? 0.5 : sentShareMin),
      "a second",
    ),
  ];
  if (context.quick) bounds.push(atMost("CPU an event, of the bare pipe's", ratio, quick.ratioMax, "times"));
  return { ratios: { "router to bare pipe: CPU an event": ratio }, runs: rounds, bounds };
}

async function startPipe(upstreamPort: number): Promise<{ readonly port: number; readonly pid: number; stop(): Promise<void> }> {
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
