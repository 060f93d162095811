import { appendFileSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { tempDir } from "@mcp-failover/testkit";
import { type CallRecord, type HttpLoad, httpSpeech, startHttpLoad } from "../bench/detection/load.ts";
import { ports as offsets, ordersConfig, upstream } from "../bench/detection/orders.ts";
import { type RunningStack, startStack } from "../harness/stack.ts";
import { until } from "../harness/wait.ts";
import { deedsOf, type Mischief } from "./mischief.ts";

/** A stack under load whose processes can be made to suffer, and what the log says of it. */
export interface SoakWorld {
  readonly stack: RunningStack;
  /** Ports of the upstream's primary and secondary. */
  readonly ports: readonly [number, number];
  /** What one of our own processes suffers from now on; `{}` ends it. */
  afflict(instance: string, mischief: Mischief): Promise<void>;
  primaryPid(): Promise<number>;
  /** Name of the endpoint that takes the calls now. */
  activeEndpoint(): Promise<string>;
  setErrorShare(share: number): Promise<void>;
  /** What came into the log since the last sequence given. */
  since(seq: number): Promise<LogView>;
  /** Whether the primary answers within that time. */
  primaryAnswers(withinMs: number): Promise<boolean>;
  /** A deed that was seen from outside. */
  note(deed: string): void;
  /** How often each thing came about that was to be suffered, since the begin. */
  deeds(): Promise<Deeds>;
  /** Failed probes that anybody observed since a time of the store. */
  failedProbesSince(timeMs: number): Promise<number>;
  /** Calls that ended since the last time this was asked. */
  takeCalls(): readonly CallRecord[];
  stop(): Promise<void>;
}
export type Deeds = Readonly<Record<string, number>>;
interface LogView {
  readonly lastSeq: number;
  readonly moves: readonly string[];
  readonly breakersOpened: number;
  readonly unhealthy: number;
  readonly rejected: readonly string[];
}

export async function startWorld(callsPerSecond: number): Promise<SoakWorld> {
  const dir = await tempDir("mcpf-soak-");
  const mischiefFile = join(dir.path, "mischief.json");
  writeFileSync(mischiefFile, "{}");
  writeFileSync(deedsOf(mischiefFile), "");
  const preload = new URL("./mischief.ts", import.meta.url).href;
  const stack = await startStack({
    config: ordersConfig(join(dir.path, "ops"), { kind: "http", faultProxy: false }),
    env: { NODE_OPTIONS: `--import=${preload}`, MCPF_SOAK_MISCHIEF: mischiefFile },
  });
  let load: HttpLoad | null = null;
  try {
    await until(
      async () =>
        (await stack.status()).upstreams.find(({ name }) => name === upstream)?.endpoints.every(({ health }) => health === "healthy"),
      20_000,
      "both endpoints healthy",
    );
    load = startHttpLoad(stack.routerUrl, httpSpeech(upstream), { callsPerSecond });
    await sleep(3000);
  } catch (error) {
    await load?.stop();
    await stack.destroy();
    await dir.remove();
    throw error;
  }
  const running = load;
  const ports = [stack.portBase + offsets.primary, stack.portBase + offsets.secondary] as const;
  let taken = 0;
  return {
    stack,
    ports,
    async afflict(instance, mischief) {
      const all = JSON.parse(readFileSync(mischiefFile, "utf8")) as Record<string, Mischief>;
      // In one step: a process that was told of the change before may be reading just now, and half a file would end it.
      writeFileSync(`${mischiefFile}.next`, JSON.stringify({ ...all, [instance]: mischief }));
      renameSync(`${mischiefFile}.next`, mischiefFile);
      process.kill(await stack.pidOf(instance), "SIGUSR2");
    },
    async activeEndpoint() {
      const found = (await stack.status()).upstreams.find(({ name }) => name === upstream);
      if (found === undefined) throw new Error(`the stack's status has no upstream ${upstream}`);
      return found.active;
    },
    primaryPid: () => stack.pidOf(`${upstream}-primary`),
    async setErrorShare(share) {
      // Answers fail at random already while it is changed back.
      await Promise.all(ports.map((port) => fetch(`http://127.0.0.1:${port}/control/error-share/${share}`, { method: "PUT" })));
    },
    since: (seq) => logSince(stack, seq),
    primaryAnswers: (withinMs) =>
      fetch(`http://127.0.0.1:${ports[0]}/control/errors`, { signal: AbortSignal.timeout(withinMs) }).then(
        ({ ok }) => ok,
        () => false,
      ),
    note: (deed) => appendFileSync(deedsOf(mischiefFile), `${deed}\n`),
    async deeds() {
      const times: Record<string, number> = {};
      for (const deed of readFileSync(deedsOf(mischiefFile), "utf8").split("\n").slice(0, -1)) times[deed] = (times[deed] ?? 0) + 1;
      const errors = await Promise.all(
        ports.map(async (port) => Number(await (await fetch(`http://127.0.0.1:${port}/control/errors`)).text())),
      );
      return { ...times, "an endpoint answered with an error": errors.reduce((sum, count) => sum + count, 0) };
    },
    async failedProbesSince(timeMs) {
      let failed = 0;
      for await (const { content, timeMs: storedMs } of stack.bus.read("SIGNALS", { filter: "probe.observed.>" })) {
        if (storedMs < timeMs || content.kind !== "event" || content.event.type !== "probe.observed") continue;
        failed += content.event.data.observations.filter(({ outcome }) => outcome === "hard").length;
      }
      return failed;
    },
    takeCalls() {
      const fresh = running.calls.slice(taken);
      taken = running.calls.length;
      return fresh;
    },
    async stop() {
      await running.stop();
      await stack.stop();
      await dir.remove();
    },
  };
}

async function logSince(stack: RunningStack, seq: number): Promise<LogView> {
  const view = { lastSeq: seq, moves: [] as string[], breakersOpened: 0, unhealthy: 0, rejected: [] as string[] };
  for await (const stored of stack.bus.read("AUDIT")) {
    if (stored.seq <= seq || stored.content.kind !== "event") continue;
    view.lastSeq = stored.seq;
    const { event } = stored.content;
    switch (event.type) {
      case "failover.decided":
        if (event.data.action === "moved")
          view.moves.push(`${event.data.previousEndpoint} -> ${event.data.currentEndpoint}: ${event.data.reason}`);
        break;
      case "failover.rejected":
        view.rejected.push(event.data.rule);
        break;
      case "breaker.changed":
        if (event.data.state.status === "open") view.breakersOpened += 1;
        break;
      case "health.changed":
        if (event.data.state.status === "unhealthy") view.unhealthy += 1;
        break;
    }
  }
  return view;
}
