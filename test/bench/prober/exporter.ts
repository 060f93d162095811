import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { Agent, request } from "node:http";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { freePort, tempDir } from "@mcp-failover/testkit";
import { pinned, usageOf } from "./machine.ts";

export interface ExporterRun {
  readonly exporter: "prometheus-blackbox-exporter";
  readonly probes: number;
  readonly failed: number;
  readonly cpuUsPerProbe: number;
  readonly coreShare: number;
  readonly perSecond: number;
}

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
  readonly urls: readonly string[];
  readonly perSecond: number;
  readonly seconds: number;
}): Promise<ExporterRun> {
  const port = await freePort();
  const dir = await tempDir("mcpf-exporter-");
  const config = join(dir.path, "blackbox.yml");
  await writeFile(config, "modules:\n  http_2xx:\n    prober: http\n    timeout: 5s\n    http:\n      preferred_ip_protocol: ip4\n");
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
    const path = `/probe?module=http_2xx&target=${encodeURIComponent(url)}`;
    const sent = request({ agent, host: "127.0.0.1", port, path, timeout: answerMsMax }, (answer) => {
      let text = "";
      answer.setEncoding("latin1");
      answer.on("data", (chunk: string) => {
        text += chunk;
      });
      answer.on("end", () => end(text.includes("\nprobe_success 1")));
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
    await drive(3000);
    Object.assign(counts, { done: 0, failed: 0 });
    const before = usageOf(child.pid as number);
    const startedMs = performance.now();
    await drive(options.seconds * 1000);
    const tookS = (performance.now() - startedMs) / 1000;
    const cpuS = usageOf(child.pid as number).cpuS - before.cpuS;
    const { done, failed } = counts;
    return {
      exporter: "prometheus-blackbox-exporter",
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
