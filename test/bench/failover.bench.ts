import { atLeast, atMost, type Benchmark, type Bound, wholeNumber } from "./benchmark.ts";
import { haproxyVersion } from "./failover/haproxy.ts";
import { type FailoverRun, type FaultName, faultNames, faultScopes, runFailover, type ToolName, toolNames } from "./failover/run.ts";
import type { ProxyName } from "./failover/scene.ts";
import { table } from "./table.ts";

/** Issue "The router": back to normal. */
const recoverMsMax: Readonly<Record<FaultName, number>> = { kill: 1000, "503": 1000, reset: 1000, hang: 2000, slow: 4000 };
/** CI's machine does much else meanwhile. */
const quickFactor = 6;
/** What CI looks at: a write that ran and was not answered, and a server that is gone. */
const quickCases: readonly (readonly [FaultName, ToolName])[] = [
  ["reset", "write"],
  ["kill", "read"],
];

export const bench: Benchmark = {
  what: "An open loop of tool calls while the active of two servers fails: through the real stack, and in the same run through HAProxy, once sending everything again and once no write.",
  notMeasured:
    "a network between the machines, and servers that share no data: a write that ran on the first server is lost to the second one.",
  options: {
    fault: `one or more of ${faultNames.join(", ")} (default all)`,
    tool: "read or write (default both)",
    proxy: "router, haproxy-retry-all or haproxy-safe (default all)",
    scope: "all or calls: whether 503, slow and reset meet checks too (default), or only calls, while checks pass",
    rate: "calls a second (default 300)",
    seconds: "length of a run (default 12; quick 4); the fault comes after a quarter",
  },
  async run({ args, say, quick }) {
    const version = haproxyVersion();
    say(version === null ? "HAProxy is missing (apt-get install haproxy): only the router is measured" : `HAProxy ${version}`);
    const runMs = 1000 * wholeNumber(args, "seconds", quick ? 4 : 12);
    const [scope = "all"] = args["scope"] === undefined ? [] : oneOf(args, "scope", faultScopes);
    const options = { callsPerSecond: wholeNumber(args, "rate", 300), runMs, faultAtMs: runMs / 4, scope };
    const cases = quick
      ? quickCases
      : oneOf(args, "fault", faultNames).flatMap((fault) => oneOf(args, "tool", toolNames).map((tool) => [fault, tool] as const));
    const proxies = oneOf<ProxyName>(args, "proxy", ["router", "haproxy-retry-all", "haproxy-safe"]);
    const wanted = version === null ? proxies.filter((proxy) => proxy === "router") : proxies;
    const runs: FailoverRun[] = [];
    for (const [fault, tool] of cases) {
      for (const proxy of wanted) {
        const run = await runFailover(proxy, fault, tool, options).catch((error: unknown) => {
          // The others still say something; that this one did not is a bound of its own.
          say(`${proxy} ${fault} ${tool}: BROKEN OFF: ${error instanceof Error ? error.message : String(error)}`);
          return null;
        });
        if (run === null) continue;
        runs.push(run);
        const { calls, failed, untyped, duplicates, recoverMs, slowestMs } = run;
        say(
          `${proxy} ${fault} ${tool}: of ${calls} calls ${failed} failed (${untyped} without a typed error), ${duplicates} ran twice, normal after ${recoverMs} ms, slowest ${slowestMs} ms`,
        );
        const went = Object.entries(run.phases).map(([name, ms]) => `${name} ${ms ?? "-"}`);
        if (went.length > 0) say(`  ms until: ${went.join(", ")}`);
        for (const [reason, count] of Object.entries(run.reasons)) say(`  ${count} x ${reason}`);
      }
    }
    say(`\n${summary(cases, runs)}`);
    const whole = atLeast("runs that were measured", runs.length, cases.length * wanted.length, "runs");
    return { ratios: {}, runs, bounds: [...runs.flatMap((run) => boundsOf(run, runs, quick ? quickFactor : 1)), whole] };
  },
};

function oneOf<N extends string>(args: Readonly<Record<string, string>>, option: string, all: readonly N[]): readonly N[] {
  const wanted = args[option];
  if (wanted === undefined) return all;
  const found = wanted.split(",").map((name) => all.find((one) => one === name));
  if (found.includes(undefined)) throw new RangeError(`--${option} ${wanted}: it is one of ${all.join(", ")}`);
  return found as N[];
}

/** Only the router is bound to anything; the safe HAProxy is the measure of one bound. */
function boundsOf(run: FailoverRun, runs: readonly FailoverRun[], factor: number): Bound[] {
  const { proxy, fault, tool, duplicates, failed, untyped, recoverMs, inFlight } = run;
  if (proxy !== "router") return [];
  const what = `${fault}, ${tool}`;
  const recovered = atMost(`${what}: normal again`, recoverMs, recoverMsMax[fault] * factor, "ms");
  if (tool === "read") return [atMost(`${what}: failed`, failed, 0, "calls"), recovered];
  const safe = runs.find((other) => other.proxy === "haproxy-safe" && other.fault === fault && other.tool === tool);
  return [
    atMost(`${what}: ran twice`, duplicates, 0, "calls"),
    atMost(`${what}: failed without a typed error`, untyped, 0, "calls"),
    recovered,
    // What was out at the moment of a kill is lost to everybody.
    ...(safe === undefined
      ? []
      : [atMost(`${what}: failed, fewer than with HAProxy`, failed, Math.max(safe.failed - 1, inFlight), "calls")]),
  ];
}

function summary(cases: readonly (readonly [FaultName, ToolName])[], runs: readonly FailoverRun[]): string {
  const rows = cases.flatMap(([fault, tool]) =>
    runs
      .filter((run) => run.fault === fault && run.tool === tool)
      .map(({ proxy, calls, failed, duplicates, recoverMs }) => [
        fault,
        tool,
        proxy,
        String(calls),
        String(failed),
        String(duplicates),
        String(recoverMs),
      ]),
  );
  return table(["fault", "tool", "proxy", "calls", "failed", "twice", "normal ms"], rows);
}
