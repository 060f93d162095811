import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { Agent, request } from "node:http";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { gunzipSync } from "node:zlib";
import { freePort, tempDir } from "@mcp-failover/testkit";
import { pinned, usageOf } from "./machine.ts";

export interface ExporterRun {
  readonly exporter: "prometheus-blackbox-exporter";
  readonly module: ExporterModule;
  readonly asked: "by Prometheus" | "plainly";
  readonly probes: number;
  readonly failed: number;
  readonly cpuUsPerProbe: number;
  readonly coreShare: number;
  readonly perSecond: number;
}

/** `http_2xx` as its package configures it; `as_ours` does what our probe of type http does. */
export type ExporterModule = "http_2xx" | "as_ours";
const modules = `modules:
  http_2xx:
    prober: http
  as_ours:
    prober: http
    timeout: 5s
    http:
      method: GET
      preferred_ip_protocol: ip4
      ip_protocol_fallback: false
      follow_redirects: false
`;
/** What Prometheus sends with a scrape: the exporter compresses its answer then, as it does in service. */
const prometheusHeaders = {
  "user-agent": "Prometheus/2.42.0",
  accept:
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
  "accept-encoding": "gzip",
  "x-prometheus-scrape-timeout-seconds": "5",
};

/** `MCPF_BLACKBOX_EXPORTER`, or the program of Debian's package; null: not installed. */
export function findExporter(): string | null {
  const named = process.env["MCPF_BLACKBOX_EXPORTER"];
  if (named !== undefined && named !== "") return named;
  const found = spawnSync("sh", ["-c", "command -v prometheus-blackbox-exporter"], { encoding: "utf8" });
  return found.status === 0 ? found.stdout.trim() : null;
}

const inFlightMax = 64;
const answerMsMax = 10_000;

/**
 * The exporter on the measured core, asked through /probe for each target in turn at the same rate as ours probes. Who asks is this
 * process, whose CPU is not counted.
 */
export async function measureExporter(options: {
  readonly program: string;
  readonly module: ExporterModule;
  readonly asked: ExporterRun["asked"];
  readonly urls: readonly string[];
  readonly perSecond: number;
  readonly seconds: number;
}): Promise<ExporterRun> {
  const port = await freePort();
  const dir = await tempDir("mcpf-exporter-");
  const config = join(dir.path, "blackbox.yml");
  await writeFile(config, modules);
  const words = [`--config.file=${config}`, `--web.listen-address=127.0.0.1:${port}`, "--log.level=error"];
  const [program, args] = pinned("measured", options.program, words);
  const child = spawn(program, args, { stdio: ["ignore", "ignore", "inherit"] });
  const agent = new Agent({ keepAlive: true, maxSockets: inFlightMax });
  const counts = { asked: 0, done: 0, failed: 0 };
  let inFlight = 0;

  function ask(url: string): void {
    inFlight += 1;
    counts.asked += 1;
    const end = (ok: boolean): void => {
      inFlight -= 1;
      counts.done += 1;
      if (!ok) counts.failed += 1;
    };
    const path = `/probe?module=${options.module}&target=${encodeURIComponent(url)}`;
    const headers = options.asked === "plainly" ? {} : prometheusHeaders;
    const sent = request({ agent, host: "127.0.0.1", port, path, headers, timeout: answerMsMax }, (answer) => {
      const chunks: Buffer[] = [];
      answer.on("data", (chunk: Buffer) => chunks.push(chunk));
      answer.on("end", () => {
        const bytes = Buffer.concat(chunks);
        const text = answer.headers["content-encoding"] === "gzip" ? gunzipSync(bytes) : bytes;
        end(text.includes("\nprobe_success 1"));
      });
    });
    sent.on("timeout", () => sent.destroy(new Error("timeout")));
    sent.on("error", () => end(false));
    sent.end();
  }

  /** Asks at the rate until the time is over; what finds all places taken is asked as soon as one is free. */
  async function drive(ms: number): Promise<void> {
    const startedMs = performance.now();
    let due = 0;
    for (let nowMs = startedMs; nowMs < startedMs + ms; nowMs = performance.now()) {
      const target = Math.floor(((nowMs - startedMs) / 1000) * options.perSecond);
      while (due < target && inFlight < inFlightMax) {
        ask(options.urls[counts.asked % options.urls.length] as string);
        due += 1;
      }
      await sleep(2);
    }
    while (inFlight > 0) await sleep(5);
  }

  try {
    for (let tries = 0; tries < 200; tries += 1) {
      if ((await fetch(`http://127.0.0.1:${port}/-/healthy`).catch(() => null))?.ok) break;
      await sleep(50);
    }
    await drive(2000);
    Object.assign(counts, { done: 0, failed: 0 });
    const before = usageOf(child.pid as number);
    const startedMs = performance.now();
    await drive(options.seconds * 1000);
    const tookS = (performance.now() - startedMs) / 1000;
    const cpuS = usageOf(child.pid as number).cpuS - before.cpuS;
    const { done, failed } = counts;
    return {
      exporter: "prometheus-blackbox-exporter",
      module: options.module,
      asked: options.asked,
      probes: done,
      failed,
      cpuUsPerProbe: (cpuS * 1e6) / done,
      coreShare: cpuS / tookS,
      perSecond: done / tookS,
    };
  } finally {
    agent.destroy();
    child.kill("SIGTERM");
    await once(child, "exit");
    await dir.remove();
  }
}
