import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { freePort } from "@mcp-failover/testkit";
import { node24 } from "../../scripts/lib/repo.mjs";
import { atMost, type Benchmark, type Bound, wholeNumber } from "./benchmark.ts";
import { type ExporterRun, findExporter, measureExporter } from "./prober/exporter.ts";
import { cores, pinned, stepAside } from "./prober/machine.ts";
import { measureProber, type ProberRun } from "./prober/our-prober.ts";

const intervalMs = 5000;

export const bench: Benchmark = {
  what: "One prober process on one core with up to 20,000 HTTP endpoints every 5 s: lag of its schedule, and CPU a probe beside prometheus-blackbox-exporter",
  notMeasured:
    "TLS, other types of probes than http, and networks: everything is on loopback. The exporter's CPU is without the Prometheus that has to drive it; ours is with schedule, decisions and log",
  options: {
    endpoints: "endpoints of the main run, 10000",
    seconds: "how long each run is measured, 25",
    profile: "a folder for CPU profiles of the prober",
  },
  async run({ args, say, quick }) {
    const endpoints = wholeNumber(args, "endpoints", quick ? 500 : 10_000);
    const origins = quick ? 50 : 500;
    const seconds = wholeNumber(args, "seconds", quick ? 8 : 25);
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
    try {
      const kept = await probe(endpoints, "kept");
      const fresh = await probe(endpoints, "new");
      const exporter = findExporter();
      let reference: ExporterRun | null = null;
      if (exporter === null)
        say("prometheus-blackbox-exporter is not installed (apt-get install prometheus-blackbox-exporter): its part is skipped");
      else {
        reference = await measureExporter({
          program: exporter,
          urls: urlsOf(endpoints, "new"),
          perSecond: (endpoints * 1000) / intervalMs,
          seconds,
        });
        say(
          `exporter  ${String(endpoints).padStart(6)} endpoints, new  connections: ${reference.cpuUsPerProbe.toFixed(0).padStart(4)} us CPU a probe, ${(reference.coreShare * 100).toFixed(0)} % of a core, ${reference.failed} failed`,
        );
      }
      const sizes = quick ? [] : [await probe(1000, "kept"), await probe(20_000, "kept")];
      const bounds: Bound[] = [
        atMost("p99 of the schedule's lag", Math.max(kept.lagMsP99, fresh.lagMsP99), quick ? 1000 : 100, "ms"),
        atMost("probes that failed", kept.failed + fresh.failed, quick ? 5 : 0, "probes"),
        atMost("probes that were skipped", (kept.skipped + fresh.skipped) / (kept.probes + fresh.probes), quick ? 0.05 : 0.001, "of all"),
      ];
      const ratios: Record<string, number> = { newToKept: fresh.cpuUsPerProbe / kept.cpuUsPerProbe };
      if (reference !== null) {
        ratios["keptToExporter"] = kept.cpuUsPerProbe / reference.cpuUsPerProbe;
        ratios["newToExporter"] = fresh.cpuUsPerProbe / reference.cpuUsPerProbe;
        bounds.push(atMost("CPU a probe, kept connections, to the exporter's", ratios["keptToExporter"], quick ? 1 : 0.25, "times"));
        bounds.push(atMost("CPU a probe, new connections, to the exporter's", ratios["newToExporter"], quick ? 1.5 : 0.25, "times"));
      }
      const [few, many] = sizes;
      if (few !== undefined && many !== undefined) {
        ratios["cpuAProbeOf20000To1000"] = many.cpuUsPerProbe / few.cpuUsPerProbe;
        bounds.push(atMost("CPU a probe with 20,000 endpoints to that with 1,000", ratios["cpuAProbeOf20000To1000"], 1.25, "times"));
        bounds.push(atMost("p99 of the schedule's lag with 20,000", many.lagMsP99, 100, "ms"));
      }
      return { ratios, bounds, runs: [kept, fresh, ...(reference === null ? [] : [reference]), ...sizes] };
    } finally {
      servers.stdin.end();
      if (servers.exitCode === null) await once(servers, "exit");
    }
  },
};
