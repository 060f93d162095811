// What a call through the router costs, beside the proxies that one would take otherwise.
import { tempDir } from "@mcp-failover/testkit";
import { atLeast, atMost, type Benchmark, type Bound, type Measured, quantile, wholeNumber } from "./benchmark.ts";
import { machineTime, stepAside, usageOf } from "./prober/machine.ts";
import { Helper } from "./router/children.ts";
import type { Load } from "./router/loader.ts";
import { type MeasuredProxy, startAnsweringNginx, startProxy } from "./router/proxies.ts";
import { type RealRouters, startRealRouters } from "./router/real-router.ts";
import { sessionRequests } from "./router/requests.ts";
import { table } from "./table.ts";

type BenchmarkContext = Parameters<Benchmark["run"]>[0];

const connections = 32;
const others = ["bare pipe", "http-proxy", "nginx", "haproxy"];

interface Round {
  readonly name: string;
  readonly perSecond: number;
  /** Calls for each second of processor time of the proxy: what it would do with the whole core. */
  readonly perCpuSecond: number;
  readonly cpuUsPerCall: number;
  /** Of the core that is measured; near 1 when the proxy is the bottleneck. */
  readonly busy: number;
  readonly failed: number;
}

export const bench: Benchmark = {
  what: "small tools/call with a session over 32 connections through one router process on one core, beside a bare node:http to undici pipe, http-proxy, nginx and HAProxy with one thread",
  notMeasured:
    "absolute figures: load and server share the other core, and other work on this machine takes from both. TLS, large bodies and slow servers are not in it.",
  options: {
    rounds: "how often each proxy has its turn (default 8)",
    ms: "how long a turn is (default 1500)",
    profile: "a directory for a CPU profile of the router",
    only: "names of proxies, separated by commas, or none: these beside the router, and only the calls at saturation",
  },
  async run(context) {
    stepAside();
    const upstream = new Helper("upstream.ts");
    const { port: upstreamPort } = await upstream.heard<{ kind: "listening"; port: number }>("listening");
    const loader = new Helper("loader.ts");
    await loader.heard("ready");
    const dir = await tempDir("mcpf-bench-router-");
    const proxies: MeasuredProxy[] = [];
    try {
      const profileDir = context.args["profile"];
      const router = await startRealRouters({ upstreamPort, processes: 1, ...(profileDir === undefined ? {} : { profileDir }) });
      proxies.push({ name: "router", port: router.port, path: "/mcp/bench", pid: router.pids[0] as number, stop: router.stop });
      const { only } = context.args;
      for (const name of only === undefined ? others : others.filter((one) => only.split(",").includes(one))) {
        const proxy = await startProxy(name, upstreamPort, dir.path);
        if (proxy === null) context.say(`${name} is not installed: no ratio to it`);
        else proxies.push(proxy);
      }
      const rounds = await saturate(context, proxies, loader);
      if (only !== undefined) return judge(context, rounds, null, null);
      await proxies[0]?.stop();
      const latency = await addedLatency(context, { upstreamPort, loader, rounds, dir: dir.path });
      const workers = await compareWorkers(context, upstreamPort, loader);
      return judge(context, rounds, latency, workers);
    } finally {
      for (const proxy of proxies) await proxy.stop();
      await loader.stop();
      await upstream.stop();
      await dir.remove();
    }
  },
};

async function saturate(context: BenchmarkContext, proxies: readonly MeasuredProxy[], loader: Helper): Promise<Round[]> {
  const turns = wholeNumber(context.args, "rounds", context.quick ? 3 : 8);
  const ms = wholeNumber(context.args, "ms", context.quick ? 800 : 1500);
  const requests = new Map<string, readonly string[]>();
  for (const proxy of proxies) {
    requests.set(proxy.name, await sessionRequests(proxy.port, proxy.path, connections));
    // Its code is compiled by the time it counts, however little of the core it gets.
    let calls = 0;
    for (let tries = 0; calls < (context.quick ? 4000 : 20_000) && tries < 20; tries += 1) {
      calls += (await loader.load({ port: proxy.port, requests: requests.get(proxy.name) ?? [], ms: 800, rate: null })).calls;
    }
  }
  const rounds: Round[] = [];
  for (let turn = 0; turn < turns; turn += 1) {
    for (const proxy of proxies) {
      const before = usageOf(proxy.pid);
      const loaded = await loader.load({ port: proxy.port, requests: requests.get(proxy.name) ?? [], ms, rate: null });
      const cpuS = usageOf(proxy.pid).cpuS - before.cpuS;
      rounds.push({
        name: proxy.name,
        perSecond: (loaded.calls / loaded.tookMs) * 1000,
        perCpuSecond: loaded.calls / cpuS,
        cpuUsPerCall: (cpuS * 1e6) / loaded.calls,
        busy: cpuS / (loaded.tookMs / 1000),
        failed: loaded.failed,
      });
    }
  }
  const rows = proxies.map(({ name }) => {
    const own = rounds.filter((round) => round.name === name);
    const median = (pick: (round: Round) => number): number => quantile(own.map(pick), 0.5);
    const calls = [median((one) => one.perSecond), median((one) => one.perCpuSecond), median((one) => one.cpuUsPerCall)];
    return [name, ...calls.map((value) => value.toFixed(0)), median((one) => one.busy).toFixed(2)];
  });
  context.say(`\n${table(["proxy", "calls/s", "calls/cpu-s", "cpu us/call", "core busy"], rows)}`);
  return rounds;
}

interface Latency {
  readonly addedP50Ms: number;
  readonly addedP99Ms: number;
}

/** One turn: what each way adds to the same calls without anything between. */
interface LatencyTurn {
  readonly router: Latency;
  /** The same moments, core and server through HAProxy: what this machine adds to whatever stands there. Null where it is not installed. */
  readonly haproxy: Latency | null;
  /** Share of both cores that the machine's host gave to others meanwhile. */
  readonly stolen: number;
}

/** A turn from which the host took more than this says more about the host: 1 % of the calls are what the quantile of 99 % is made of. */
const stolenMax = 0.005;

/**
 * The same rate, half of what the router takes, with the router, with HAProxy and with neither, by turns; behind all is the cheapest server that is
 * there, because it shares its core with what makes the calls, and what they wait for each other would be counted as the router's.
 */
async function addedLatency(
  context: BenchmarkContext,
  { upstreamPort, loader, rounds, dir }: { upstreamPort: number; loader: Helper; rounds: readonly Round[]; dir: string },
): Promise<Latency> {
  const nginx = await startAnsweringNginx(dir);
  const port = nginx?.port ?? upstreamPort;
  const haproxy = await startProxy("haproxy", port, dir);
  try {
    const router = await startRealRouters({ upstreamPort: port, processes: 1 });
    try {
      const own = rounds.filter(({ name }) => name === "router").map(({ perSecond }) => perSecond);
      const rate = Math.round(quantile(own, 0.5) / 2);
      const wayTo = async (to: number, path: string): Promise<Way> => ({
        port: to,
        requests: await sessionRequests(to, path, connections),
      });
      const ways = {
        router: await wayTo(router.port, "/mcp/bench"),
        haproxy: haproxy === null ? null : await wayTo(haproxy.port, haproxy.path),
        direct: await wayTo(port, "/mcp"),
      };
      // Its code is compiled by then: till then the compiler takes turns with it on its core.
      for (let turn = 0; turn < (context.quick ? 3 : 12); turn += 1) await loader.load({ ...ways.router, ms: 1500, rate: null });
      return await compareLatency(context, loader, ways, rate);
    } finally {
      await router.stop();
    }
  } finally {
    await haproxy?.stop();
    await nginx?.stop();
  }
}

type Way = Pick<Load, "port" | "requests">;

async function compareLatency(
  context: BenchmarkContext,
  loader: Helper,
  ways: { readonly router: Way; readonly haproxy: Way | null; readonly direct: Way },
  rate: number,
): Promise<Latency> {
  const wanted = context.quick ? 2 : 7;
  const ms = context.quick ? 800 : 1500;
  const all: LatencyTurn[] = [];
  const quiet = (): LatencyTurn[] => all.filter(({ stolen }) => stolen <= stolenMax);
  while (quiet().length < wanted && all.length < 3 * wanted) {
    const before = machineTime();
    const without = await loader.load({ ...ways.direct, ms, rate });
    const added = async (way: Way): Promise<Latency> => {
      const withIt = await loader.load({ ...way, ms, rate });
      const at = (share: number): number => quantile(withIt.latenciesMs, share) - quantile(without.latenciesMs, share);
      return { addedP50Ms: at(0.5), addedP99Ms: at(0.99) };
    };
    const haproxy = ways.haproxy === null ? null : await added(ways.haproxy);
    const router = await added(ways.router);
    const after = machineTime();
    const stolen = (after.stolenS - before.stolenS) / (after.allS - before.allS);
    all.push({ router, haproxy, stolen });
    const shown = ({ addedP50Ms, addedP99Ms }: Latency): string => `${addedP50Ms.toFixed(3)} and ${addedP99Ms.toFixed(3)}`;
    const [p50, p99] = [0.5, 0.99].map((share) => quantile(without.latenciesMs, share).toFixed(3));
    context.say(
      `directly ${p50} ms (p50) and ${p99} ms (p99); the router adds ${shown(router)}, HAProxy ${haproxy === null ? "is not installed" : shown(haproxy)}` +
        `${stolen > stolenMax ? `; the host took ${(stolen * 100).toFixed(1)} % of the cores: left out` : ""}`,
    );
  }
  const judged = quiet().length >= wanted ? quiet() : all;
  if (judged === all) context.say(`the host takes too much for ${wanted} quiet turns in ${all.length}: all of them are judged`);
  const medianOf = (latencies: readonly Latency[]): Latency => ({
    addedP50Ms: quantile(
      latencies.map(({ addedP50Ms }) => addedP50Ms),
      0.5,
    ),
    addedP99Ms: quantile(
      latencies.map(({ addedP99Ms }) => addedP99Ms),
      0.5,
    ),
  });
  const latency = medianOf(judged.map(({ router }) => router));
  const beside = medianOf(judged.flatMap(({ haproxy }) => haproxy ?? []));
  context.say(
    `\nat ${rate} calls/s the router adds ${latency.addedP50Ms.toFixed(3)} ms (p50) and ${latency.addedP99Ms.toFixed(3)} ms (p99), ` +
      `HAProxy ${beside.addedP50Ms.toFixed(3)} and ${beside.addedP99Ms.toFixed(3)} ms; medians of ${judged.length} turns`,
  );
  return latency;
}

/**
 * Processor time a call of two processes on one port, over that of one; side by side. Each process gets the same calls a second, a quarter of what
 * one can do, because they share the core that is measured: at saturation one process takes many calls at each look at its connections, two take
 * turns on the core with half as many each, and that is what one would measure.
 */
async function compareWorkers(context: BenchmarkContext, upstreamPort: number, loader: Helper): Promise<number> {
  const one = await startRealRouters({ upstreamPort, processes: 1 });
  try {
    const two = await startRealRouters({ upstreamPort, processes: 2 });
    try {
      const ms = context.quick ? 1000 : 2000;
      const turns = context.quick ? 2 : 5;
      const requests = [
        await sessionRequests(one.port, "/mcp/bench", connections),
        await sessionRequests(two.port, "/mcp/bench", 2 * connections),
      ];
      const measure = async (index: number, rate: number | null): Promise<{ perSecond: number; cpuUs: number }> => {
        const { port, pids } = [one, two][index] as RealRouters;
        const used = (): number => pids.reduce((sum, pid) => sum + usageOf(pid).cpuS, 0);
        const before = used();
        const loaded = await loader.load({ port, requests: requests[index] ?? [], ms, rate });
        return { perSecond: (loaded.calls / loaded.tookMs) * 1000, cpuUs: ((used() - before) * 1e6) / loaded.calls };
      };
      const ratioAt = async (rate: number | null): Promise<readonly [number, number]> => {
        const costs: [number[], number[]] = [[], []];
        for (let turn = 0; turn < turns; turn += 1)
          for (const index of [0, 1] as const) costs[index].push((await measure(index, rate === null ? null : rate * (index + 1))).cpuUs);
        return [quantile(costs[0], 0.5), quantile(costs[1], 0.5)];
      };
      // Their code is compiled by then.
      const warm = [await measure(0, null), await measure(1, null), await measure(0, null)];
      const rate = Math.round((warm[2]?.perSecond ?? 0) / 4);
      const [alone, shared] = await ratioAt(rate);
      const [aloneFull, sharedFull] = await ratioAt(null);
      context.say(
        `at ${rate} calls/s for each process, one takes ${alone.toFixed(0)} us of processor time a call, two ${shared.toFixed(0)} us; ` +
          `saturated, on one core together, ${aloneFull.toFixed(0)} and ${sharedFull.toFixed(0)} us`,
      );
      return shared / alone;
    } finally {
      await two.stop();
    }
  } finally {
    await one.stop();
  }
}

function judge(context: BenchmarkContext, rounds: readonly Round[], latency: Latency | null, workers: number | null): Measured {
  const names = [...new Set(rounds.map(({ name }) => name))];
  // Each round of the router beside the same round of the other, so that what the machine did meanwhile met both.
  const ratioTo = (name: string, pick: (round: Round) => number): number => {
    const [ours, theirs] = ["router", name].map((one) => rounds.filter((round) => round.name === one).map(pick)) as [number[], number[]];
    return quantile(
      ours.map((value, index) => value / (theirs[index] ?? Number.NaN)),
      0.5,
    );
  };
  const ratios: Record<string, number> = {};
  for (const name of names.filter((one) => one !== "router")) {
    ratios[`calls/s, router / ${name}`] = ratioTo(name, (round) => round.perSecond);
    ratios[`calls a second of processor time, router / ${name}`] = ratioTo(name, (round) => round.perCpuSecond);
  }
  if (workers !== null) ratios["processor time a call, two processes / one"] = workers;
  // A busy machine takes far more from what has much code and many objects than from HAProxy: the short version only tells when something broke.
  const slack = context.quick ? 0.1 : 1;
  const bounds: Bound[] = [
    atMost(
      "calls that failed",
      rounds.reduce((sum, { failed }) => sum + failed, 0),
      0,
      "calls",
    ),
  ];
  const atLeastOf = (name: string, limit: number): void => {
    if (!names.includes(name)) return;
    // A proxy that does not fill its core is held back by the load: what it would do with the whole core is the stricter measure.
    const measures = context.quick ? ["calls a second of processor time"] : ["calls/s", "calls a second of processor time"];
    for (const measure of measures) {
      const key = `${measure}, router / ${name}`;
      bounds.push(atLeast(key, ratios[key] ?? Number.NaN, limit * slack, "times"));
    }
  };
  atLeastOf("bare pipe", 1.1);
  atLeastOf("http-proxy", 3);
  atLeastOf("haproxy", 0.4);
  if (latency !== null) {
    bounds.push(atMost("added latency at half load, p50", latency.addedP50Ms, context.quick ? 1000 : 0.3, "ms"));
    bounds.push(atMost("added latency at half load, p99", latency.addedP99Ms, context.quick ? 3000 : 2, "ms"));
  }
  if (workers !== null) bounds.push(atMost("processor time a call, two processes / one", workers, context.quick ? 2.5 : 1.15, "times"));
  return { ratios, runs: rounds, bounds };
}
