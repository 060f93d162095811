import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Bus, connectBus, keepConsumersOn, readCredentials } from "@mcp-failover/bus";
import { runBootstrap } from "./bootstrap.ts";
import { startGuard } from "./guard.ts";
import { summaryOf } from "./log-file.ts";
import { ranks, type StackPlan } from "./plan.ts";
import { notReady } from "./readiness.ts";
import { launcherHandlers } from "./requests.ts";
import { recordStoreWriters } from "./store-writers.ts";
import { type Supervised, supervise } from "./supervised.ts";
import type { Terminal } from "./terminal.ts";

/** A server of the stack did not come up. */
export class StartError extends Error {
  override readonly name = "StartError";
  readonly code = "start_failed";
  readonly retriable = true;
}

export interface Stack {
  /** Starts everything. Throws {@link StartError} or `BootstrapError`; what runs by then is ended by `stop`. */
  start(): Promise<void>;
  /** Resolves once all is ready. Says what is not, at `sayMs` and then seldom. Never resolves when the stack is stopped before. */
  ready(): Promise<void>;
  /** Stops everything in order, highest rank first. */
  stop(): Promise<void>;
  /** Kills everything at once. */
  destroy(): void;
}

export interface StackOptions {
  readonly plan: StackPlan;
  readonly dataDir: string;
  readonly root: string;
  readonly natsUrl: string;
  /** The folder of the bus's credentials; null: a bus without permissions. */
  readonly credentials: string | null;
  readonly terminal: Terminal;
  readonly limits?: Partial<StackLimits>;
}
export interface StackLimits {
  /** For nats-server and redis-server to come up. */
  readonly upMs: number;
  readonly bootstrapMs: number;
  /** After this, what is not ready is said. */
  readonly readyMs: number;
  /** From SIGTERM to SIGKILL of one process. */
  readonly stopMs: number;
}
const defaultLimits: StackLimits = { upMs: 15_000, bootstrapMs: 30_000, readyMs: 60_000, stopMs: 5000 };
const lookMs = 50;
const pollReadyMs = 100;

export function createStack(options: StackOptions): Stack {
  const { plan, dataDir, terminal } = options;
  const limits = { ...defaultLimits, ...options.limits };
  const logs = join(dataDir, "logs");
  for (const folder of [logs, join(dataDir, "nats"), join(dataDir, "redis")]) mkdirSync(folder, { recursive: true, mode: 0o700 });
  const guard = startGuard();
  const writers = recordStoreWriters(dataDir, terminal.complain);
  const stopped = new AbortController();
  const supervised = new Map<string, Supervised>();
  const rankOf = new Map<string, number>();
  for (const { spec, rank } of plan.processes) {
    rankOf.set(spec.name, rank);
    supervised.set(
      spec.name,
      supervise(spec, join(logs, `${spec.name}.log`), {
        onSpawn: (pid) => {
          if (spec.kind === "infrastructure") writers.began(spec.name, pid);
          guard.add(pid, rank);
        },
        onGone: (pid) => guard.remove(pid),
        onCrash: (what, againInMs) => terminal.complain(`[${spec.name}] ${what}; starting it again in ${againInMs} ms`),
        onLine: (line) => {
          const summary = summaryOf(line);
          if (summary !== null) terminal.relay(spec.name, summary.level, summary.text);
        },
        onLogProblem: (problem) => terminal.complain(`[${spec.name}] ${problem}`),
      }),
    );
  }
  let bus: Bus | null = null;
  /** Makes the consumers of those who may not make them. */
  let keeper: Bus | null = null;

  const ofRank = (rank: number): Supervised[] => [...supervised.values()].filter((one) => rankOf.get(one.spec.name) === rank);
  const whenUp = async (one: Supervised): Promise<void> => {
    const endMs = performance.now() + limits.upMs;
    while (one.info().state !== "running") {
      stopped.signal.throwIfAborted();
      if (performance.now() > endMs) throw new StartError(`${one.spec.name} does not come up; see ${join(logs, `${one.spec.name}.log`)}`);
      await sleep(lookMs);
    }
  };

  return {
    async start() {
      const nats = ofRank(ranks.nats);
      const first = [...supervised.values()]
        .filter(({ spec }) => (rankOf.get(spec.name) ?? 0) < ranks.service)
        .map(({ spec }) => spec.name);
      terminal.say(`starting ${first.join(", ")}; bootstrap prepares the log`);
      for (const one of [...nats, ...ofRank(ranks.redis)]) one.start();
      // It waits for NATS by itself, and loads its code meanwhile; the local upstreams take the time that it waits.
      const bootstrapped = runBootstrap({
        ...plan.bootstrap,
        cwd: options.root,
        logFile: join(logs, "bootstrap.log"),
        timeoutMs: limits.bootstrapMs,
        signal: stopped.signal,
        onSpawn: (pid) => guard.add(pid, ranks.service),
        onGone: (pid) => guard.remove(pid),
        onLogProblem: (problem) => terminal.complain(`[bootstrap] ${problem}`),
      });
      for (const one of ofRank(ranks.upstream)) one.start();
      if (options.credentials !== null) {
        keeper = connectAs("keeper");
        keepConsumersOn(keeper);
      }
      await Promise.all([...nats.map(whenUp), bootstrapped]);
      stopped.signal.throwIfAborted();
      for (const one of ofRank(ranks.service)) one.start();
      const services = ofRank(ranks.service).length;
      terminal.say(`the log is prepared; starting ${services} services (what each says is in ${logs})`);
      bus = connectAs("launcher");
      await serve(bus);
      await Promise.all(ofRank(ranks.redis).map(whenUp));
    },
    async ready() {
      const startMs = performance.now();
      let sayAtMs = startMs + limits.readyMs;
      while (bus !== null) {
        const thorough = performance.now() > sayAtMs;
        const problems = await notReady(plan.processes, [...supervised.values()], bus, thorough);
        stopped.signal.throwIfAborted();
        if (problems.length === 0) break;
        if (thorough) {
          const seconds = Math.round((performance.now() - startMs) / 1000);
          terminal.complain(
            [`not ready after ${seconds} s; the stack goes on, and this is what is missing:`, ...problems.map((p) => `  ${p}`)].join("\n"),
          );
          sayAtMs = performance.now() + limits.readyMs;
        }
        await sleep(pollReadyMs);
      }
      terminal.settled();
    },
    async stop() {
      stopped.abort();
      terminal.hush();
      const all = [...new Set(rankOf.values())].sort((a, b) => b - a);
      for (const rank of all) {
        if (rank === ranks.redis) await closeBus();
        await Promise.all(ofRank(rank).map((one) => one.stop(limits.stopMs)));
      }
      await closeBus();
      guard.dismiss();
      writers.close();
    },
    destroy() {
      stopped.abort();
      for (const one of supervised.values()) one.destroy();
    },
  };

  function connectAs(user: "launcher" | "keeper"): Bus {
    const credentials = options.credentials === null ? {} : { credentials: readCredentials(join(options.credentials, user)) };
    return connectBus({ servers: options.natsUrl, name: user, instance: `${user}-1`, ...credentials });
  }
  async function serve(on: Bus): Promise<void> {
    const handlers = launcherHandlers(supervised, limits.stopMs);
    await on.serve({ name: "launcher", instance: "launcher-1", version: "0.1.0", description: "supervises the local stack", handlers });
  }
  async function closeBus(): Promise<void> {
    const open = [bus, keeper];
    bus = null;
    keeper = null;
    await Promise.all(open.map((one) => one?.close()));
  }
}
