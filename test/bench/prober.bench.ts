import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { freePort } from "@mcp-failover/testkit";
import { node24 } from "../../scripts/lib/repo.mjs";
import { atMost, type Benchmark, type Bound, wholeNumber } from "./benchmark.ts";
import { type ExporterModule, type ExporterRun, findExporter, measureExporter } from "./prober/exporter.ts";
import { lineThrough } from "./prober/line.ts";
import { cores, pinned, stepAside } from "./prober/machine.ts";
import { measureProber, type ProberRun } from "./prober/our-prober.ts";

const intervalMs = 5000;

export const bench: Benchmark = {
  what: "One prober process on one core with up to 20,000 HTTP endpoints every 5 s: lag of its schedule, and CPU a probe beside prometheus-blackbox-exporter",
  notMeasured:
    "TLS, other types of probes than http, and networks: everything is on loopback. The exporter makes a new connection for each probe, whatever the server keeps, so our kept ones are compared with its new ones. Its CPU is without the Prometheus that has to drive it; ours is with schedule, decisions and log",
  options: {
    endpoints: "endpoints of the main run, 10000",
    seconds: "how long each run is measured, 20; the exporter half as long",
    profile: "a folder for CPU profiles of the prober",
  },
  async run({ args, say, quick }) {
    const endpoints = wholeNumber(args, "endpoints", quick ? 500 : 10_000);
    const origins = quick ? 50 : 500;
    const seconds = wholeNumber(args, "seconds", quick ? 8 : 20);
    if (cores === null)
      say("taskset is not there, or this machine has one core: nothing is pinned, and the figures mix with those of the servers");
    stepAside();
    const port = await freePort();
    const [program, words] = pinned("others", node24(), [join(import.meta.dirname, "prober", "targets.ts"), String(port), String(origins)]);
    const servers = spawn(program, words, { stdio: ["pipe", "pipe", "inherit"] });
    await once(servers.stdout, "data");
    const urlsOf = (count: number, connections: "kept" | "new"): string[] =>
      Array.from({ length: count }, (_, index) => {
        const origin = index % origins;
        return `http://127.1.${Math.floor(origin / 250)}.${(origin % 250) + 1}:${port}/${connections}/${index}`;
      });
    const probe = async (count: number, connections: "kept" | "new"): Promise<ProberRun> => {
      const profile = args["profile"];
      const urls = urlsOf(count, connections);
      const run = await measureProber({
        urls,
        connections,
        intervalMs,
        seconds,
        ...(profile === undefined ? {} : { profileDir: profile }),
      });
      say(
        `prober    ${String(count).padStart(6)} endpoints, ${connections.padEnd(4)} connections: ${run.cpuUsPerProbe.toFixed(0).padStart(4)} us CPU a probe, ${(run.coreShare * 100).toFixed(0)} % of a core, p99 lag under ${run.lagMsP99} ms, ${run.failed} failed, ${run.skipped} skipped`,
      );
      return run;
    };
    const exporter = findExporter();
    const ask = async (
      module: ExporterModule,
      connections: "kept" | "new",
      asked: ExporterRun["asked"] = "by Prometheus",
    ): Promise<ExporterRun | null> => {
      if (exporter === null) return null;
      const run = await measureExporter({
        program: exporter,
        module,
        asked,
        urls: urlsOf(endpoints, connections),
        perSecond: (endpoints * 1000) / intervalMs,
        seconds: Math.ceil(seconds / 2),
      });
      say(
        `exporter  ${module.padEnd(8)}, servers that keep ${connections === "kept" ? "connections" : "none"}, asked ${asked}: ${run.cpuUsPerProbe.toFixed(0).padStart(4)} us CPU a probe, ${(run.coreShare * 100).toFixed(0)} % of a core, ${run.perSecond.toFixed(0)} a second, ${run.failed} failed`,
      );
      return run;
    };
    if (exporter === null)
      say("prometheus-blackbox-exporter is not installed (apt-get install prometheus-blackbox-exporter): its part is skipped");
    try {
      const kept = await probe(endpoints, "kept");
      const exporterKept = await ask("as_ours", "kept");
      const fresh = await probe(endpoints, "new");
      const exporterNew = await ask("as_ours", "new");
      const more = quick ? [] : [await ask("http_2xx", "new"), await ask("as_ours", "new", "plainly")];
      const sizes = quick ? [] : [await probe(1000, "kept"), await probe(5000, "kept"), await probe(20_000, "kept")];
      const bounds: Bound[] = [
        atMost("p99 of the schedule's lag", Math.max(kept.lagMsP99, fresh.lagMsP99), quick ? 1000 : 100, "ms"),
        atMost("probes that failed", kept.failed + fresh.failed, quick ? 5 : 0, "probes"),
        atMost("probes that were skipped", (kept.skipped + fresh.skipped) / (kept.probes + fresh.probes), quick ? 0.05 : 0.001, "of all"),
      ];
      const ratios: Record<string, number> = { newToKept: fresh.cpuUsPerProbe / kept.cpuUsPerProbe };
      if (exporterKept !== null && exporterNew !== null) {
        ratios["keptToExporter"] = kept.cpuUsPerProbe / exporterKept.cpuUsPerProbe;
        ratios["newToExporter"] = fresh.cpuUsPerProbe / exporterNew.cpuUsPerProbe;
        const [byDefault, plain] = more;
        if (byDefault) ratios["newToExporterByDefault"] = fresh.cpuUsPerProbe / byDefault.cpuUsPerProbe;
        if (plain) ratios["newToExporterPlain"] = fresh.cpuUsPerProbe / plain.cpuUsPerProbe;
        bounds.push(atMost("CPU a probe, kept connections, to the exporter's", ratios["keptToExporter"], quick ? 1 : 0.25, "times"));
        bounds.push(atMost("CPU a probe, new connections, to the exporter's", ratios["newToExporter"], quick ? 1.5 : 0.25, "times"));
      }
      const [few, , many] = sizes;
      if (few !== undefined && many !== undefined) {
        const line = lineThrough([kept, ...sizes].map(({ perSecond, coreShare }) => [perSecond, coreShare]));
        say(
          `the line through the kept runs: ${(line.fixed * 100).toFixed(1)} % of a core, and ${(line.slope * 1e6).toFixed(0)} us a probe; the farthest is ${(line.departure * 100).toFixed(1)} % off it`,
        );
        ratios["cpuAProbeOf20000To1000"] = many.cpuUsPerProbe / few.cpuUsPerProbe;
        bounds.push(atMost("CPU a probe with 20,000 endpoints to that with 1,000", ratios["cpuAProbeOf20000To1000"], 1.25, "times"));
        bounds.push(atMost("departure of the CPU of 1,000 to 20,000 from a straight line", line.departure, 0.1, "of the most"));
        bounds.push(atMost("p99 of the schedule's lag with 20,000", many.lagMsP99, 100, "ms"));
      }
      return { ratios, bounds, runs: [kept, fresh, ...[exporterKept, exporterNew, ...more].filter((run) => run !== null), ...sizes] };
    } finally {
      servers.stdin.end();
      if (servers.exitCode === null) await once(servers, "exit");
    }
  },
};
