import { createHash } from "node:crypto";
import { writeSync } from "node:fs";
import { canonicalJson, makeEvent, type ServiceName, type Topology, topology as topologySchema } from "@mcp-failover/contracts";
import type { RunningControl } from "../../services/router/src/control/control.ts";
import { type CallHooks, type PlannedCall, serveCall } from "./calls.ts";
import { Host, SimProcess, useQueue } from "./clock.ts";
import { coverageOf } from "./counting.ts";
import { EventQueue } from "./event-queue.ts";
import { FaultPlan } from "./fault-plan.ts";
import { SimLink } from "./nats/link.ts";
import { Line } from "./nats/network.ts";
import { SimServer } from "./nats/server.ts";
import type { SimOutgoing } from "./nats/store.ts";
import { type Life, Node } from "./node.ts";
import { planCalls } from "./planned-calls.ts";
import { Random, seedOf } from "./random.ts";
import { processesOf } from "./schedule.ts";
import { shellOf } from "./shells.ts";
import { Upstreams } from "./upstreams.ts";
import {
  type CallRecord,
  type Check,
  type CheckHooks,
  type EndpointKey,
  type Entry,
  type Happening,
  type ProcessName,
  type RouteRecord,
  type RunResult,
  type Schedule,
  type TruthRecord,
  Violation,
  type World,
} from "./world-types.ts";

export interface RunOptions {
  readonly checks?: readonly Check[];
  /** A file descriptor that the log is written to. */
  readonly logFd?: number | null;
  /** Whether the log is made at all (its hash costs time). Default: only where it is written. */
  readonly hashes?: boolean;
  /** Every event goes through its bytes and schema. */
  readonly validates?: boolean;
}

/** Wednesday, 1 July 2026, 12:00 UTC. */
const epochMs = Date.UTC(2026, 6, 1, 12);
const logChunk = 64 * 1024;

/** Runs one schedule from its begin to its end, or to the first guarantee that does not hold. Call it from a macrotask. */
export function runWorld(schedule: Schedule, options: RunOptions = {}): RunResult {
  const world = new SimWorld(schedule, options);
  return world.run();
}

class SimWorld implements World {
  readonly schedule: Schedule;
  readonly topology: Topology;
  readonly environment = "production" as const;
  readonly epochMs = epochMs;
  readonly audit: Entry[] = [];
  readonly calls: CallRecord[] = [];
  readonly routes: RouteRecord[] = [];
  readonly truth: TruthRecord[] = [];
  readonly happenings: Happening[] = [];
  readonly coverage = new Map<string, number>();
  readonly queue: EventQueue;
  readonly server: SimServer;
  readonly upstreams: Upstreams;
  readonly nodes = new Map<ProcessName, Node>();
  readonly #options: RunOptions;
  readonly #hooks: CheckHooks[] = [];
  readonly #controls = new Map<ProcessName, RunningControl>();
  /** By router, then by upstream. */
  readonly #held = new Map<ProcessName, Map<string, RouteRecord>>();
  readonly #lastTruth = new Map<EndpointKey, TruthRecord>();
  readonly #plan: FaultPlan;
  readonly #random: Random;
  readonly #hash = createHash("sha256");
  readonly #logs: boolean;
  #lines = "";
  #violation: Violation | null = null;

  constructor(schedule: Schedule, options: RunOptions) {
    this.schedule = schedule;
    this.#options = options;
    this.#logs = options.logFd != null || options.hashes === true;
    this.topology = topologySchema.parse(schedule.topology);
    this.#random = new Random(seedOf(schedule.seed, "world"));
    this.queue = new EventQueue((process, error) => this.#onError(process, error));
    useQueue(this.queue);
    const serverHost = new Host(this.queue, "nats", epochMs);
    const networkRandom = new Random(seedOf(schedule.seed, "server"));
    this.server = new SimServer({
      queue: this.queue,
      host: serverHost,
      random: networkRandom,
      validates: options.validates === true,
      onStored: (kept) => this.#onStored(kept),
    });
    const keys = Object.entries(this.topology.upstreams).flatMap(([name, { endpoints }]) => endpoints.map((one) => `${name}/${one.name}`));
    this.upstreams = new Upstreams(this.queue, new Random(seedOf(schedule.seed, "upstreams")), keys, (truth) => this.#onTruth(truth));
    this.#plan = new FaultPlan(this);
    const urls = new Map(
      Object.entries(this.topology.upstreams).flatMap(([name, { endpoints }]) =>
        endpoints.map((one) => [one.url, `${name}/${one.name}`] as const),
      ),
    );
    for (const name of processesOf(schedule.world)) {
      const service = name.replace(/-\d+$/, "") as ServiceName;
      const node = new Node({
        queue: this.queue,
        server: this.server,
        name,
        service,
        epochMs,
        seed: schedule.seed,
        hooks: {
          onStatus: (one, status) => {
            if (status.kind === "connected" || (status.kind === "disconnected" && one.alive))
              this.happened(status.kind, one.name, null, status.kind === "disconnected" ? status.reason : "");
          },
          onStarted: (one) => this.happened("started", one.name, null, ""),
          onLog: (one, level, fields, message) => this.#onLog(one, level, fields, message),
          onError: (process, error) => this.#onError(process, error),
        },
        start: shellOf(service, {
          upstreams: this.upstreams,
          keyOf: (url) => urls.get(url) ?? url,
          lie: (prober) => (key, isGood) => this.#plan.lie(prober, key, isGood),
          onControl: (life, control) => this.#onControl(life, control),
          quiet: () => this.nowAtMs >= schedule.world.quietFromMs,
          onLegacy: (callId) => {
            const call = this.calls[callId - 1];
            if (call !== undefined) call.legacyRuns += 1;
          },
        }),
      });
      this.nodes.set(name, node);
    }
    for (const check of options.checks ?? []) this.#hooks.push(check.start(this));
  }

  run(): RunResult {
    const begunMs = performance.now();
    const { queue, schedule } = this;
    this.#bootstrap();
    for (const node of this.nodes.values()) queue.after(this.#random.next() * 1000, null, () => node.start());
    for (const fault of schedule.faults) queue.at(fault.atMs, null, () => this.#plan.begin(fault));
    this.#queueCalls(planCalls(schedule, this.topology, new Random(seedOf(schedule.seed, "calls"))), 0);
    const tick = (): void => {
      this.#pollRoutes();
      for (const hooks of this.#hooks) hooks.onSecond?.();
      queue.after(1000, null, tick);
    };
    queue.after(1000, null, tick);
    try {
      queue.run(schedule.world.durationMs);
      if (this.#violation === null) for (const hooks of this.#hooks) hooks.onEnd?.();
    } catch (error) {
      if (!(error instanceof Violation)) throw error;
    } finally {
      useQueue(null);
      // Whatever is still there is not run any more, and can be collected.
      for (const node of this.nodes.values()) node.kill();
    }
    this.#flush();
    const violation = this.#violation as Violation | null;
    return {
      seed: schedule.seed,
      violation:
        violation === null
          ? null
          : { guarantee: violation.guarantee, atMs: violation.atMs, message: violation.message, details: violation.details },
      coverage: Object.fromEntries([...this.coverage].sort(([a], [b]) => (a < b ? -1 : 1))),
      logHash: this.#logs ? this.#hash.digest("hex") : "",
      events: queue.ran,
      audit: this.audit.length,
      signals: this.server.streams.get("SIGNALS")?.lastSeq ?? 0,
      calls: this.calls.length,
      tookMs: performance.now() - begunMs,
    };
  }

  // ----------------------------------------------------------------------------------------------------------- what checks read

  get nowAtMs(): number {
    return this.queue.nowMs;
  }
  signal(seq: number): Entry | null {
    return this.server.streams.get("SIGNALS")?.at(seq) ?? null;
  }
  count(name: string): void {
    this.coverage.set(name, (this.coverage.get(name) ?? 0) + 1);
  }
  running(): readonly ProcessName[] {
    return [...this.nodes.values()].filter(({ alive }) => alive).map(({ name }) => name);
  }
  faulty(name: string): boolean {
    return this.#plan.touches(name);
  }
  anyFault(): boolean {
    return this.#plan.any;
  }
  truthOf(endpoint: EndpointKey): TruthRecord {
    return this.#lastTruth.get(endpoint) ?? { atMs: 0, endpoint, probes: "healthy", calls: "healthy", share: 1 };
  }
  routeOf(router: ProcessName, upstream: string): RouteRecord | null {
    const view = this.nodes.get(router)?.alive ? this.#controls.get(router)?.upstream(upstream) : null;
    if (view == null) return null;
    const { active, epoch, generation } = view;
    return { atMs: this.nowAtMs, router, upstream, active, epoch, generation };
  }
  fail(guarantee: string, message: string, details: object = {}): never {
    const violation = new Violation(guarantee, this.nowAtMs, message, details);
    this.#violation ??= violation;
    this.say(`VIOLATION ${violation.message}`);
    this.queue.stop();
    throw violation;
  }

  // ------------------------------------------------------------------------------------------------------------- what happens

  happened(what: Happening["what"], process: ProcessName | null, fault: number | null, text: string): void {
    const happening: Happening = { atMs: this.nowAtMs, what, process, fault, text };
    this.happenings.push(happening);
    if (this.#logs) this.say(`${what} ${process ?? "-"}${fault === null ? "" : ` fault ${fault}`}${text === "" ? "" : ` ${text}`}`);
    for (const hooks of this.#hooks) hooks.onHappening?.(happening);
  }

  /** A line of the log: true time, and what happened. */
  say(text: string): void {
    if (!this.#logs) return;
    this.#lines += `${this.nowAtMs.toFixed(3)} ${text}\n`;
    if (this.#lines.length > logChunk) this.#flush();
  }

  lost(router: ProcessName): void {
    for (const call of this.calls) {
      if (call.router !== router || call.endedAtMs !== null) continue;
      call.endedAtMs = this.nowAtMs;
      call.outcome = "lost";
      for (const hooks of this.#hooks) hooks.onCallEnd?.(call);
    }
    this.#controls.delete(router);
  }

  /** Asks over the bus as an operator's command line does. */
  operator(): { link: SimLink; process: SimProcess } {
    const host = new Host(this.queue, "operator", epochMs);
    const process = new SimProcess("operator", host, this.#random.whole(1, 0x7fff_ffff));
    return { process, link: new SimLink(this.server, process, new Line(this.#random.whole(1, 0x7fff_ffff))) };
  }

  #flush(): void {
    if (this.#lines === "") return;
    this.#hash.update(this.#lines);
    if (this.#options.logFd != null) writeSync(this.#options.logFd, this.#lines);
    this.#lines = "";
  }

  #bootstrap(): void {
    const host = new Host(this.queue, "bootstrap", epochMs);
    const process = new SimProcess("bootstrap", host, 1);
    const by = { kind: "service" as const, id: "bootstrap" };
    const timestamp = new Date(epochMs).toISOString();
    const common = { keys: [], service: "bootstrap" as const, instance: "bootstrap", timeMs: epochMs };
    const stream = this.server.streams.get("AUDIT");
    if (stream === undefined) throw new RangeError("the server has no AUDIT");
    const events = [
      makeEvent({
        ...common,
        type: "log.started",
        id: "bootstrap-log-1",
        data: { generation: 1, timestamp, by, reason: "the log was empty" },
      }),
      makeEvent({
        ...common,
        type: "config.applied",
        id: "bootstrap-config-1",
        data: {
          version: 1,
          hash: createHash("sha256").update(JSON.stringify(this.topology)).digest("hex"),
          fileHash: null,
          environment: this.environment,
          timestamp,
          by,
          reason: "the simulation begins",
          topology: this.topology,
        } as never,
      }),
    ];
    for (const event of events) {
      const headers = { "Nats-Msg-Id": event.id, "Nats-Expected-Last-Subject-Sequence": "0" };
      const message: SimOutgoing = {
        stream: "AUDIT",
        subject: event.type,
        bytes: new Uint8Array(),
        headers,
        content: { kind: "event", event },
      };
      this.server.store(stream, message, process);
    }
  }

  #onStored(entry: Entry): void {
    const isAudit = entry.stream === "AUDIT";
    if (isAudit) this.audit.push(entry);
    if (this.#logs) this.say(`${entry.stream} ${entry.seq} ${entry.subject} by ${entry.from} at ${entry.timeMs} ${essence(entry)}`);
    coverageOf(entry, (name) => this.count(name));
    for (const hooks of this.#hooks) (isAudit ? hooks.onAudit : hooks.onSignal)?.(entry);
  }

  #onTruth(truth: Omit<TruthRecord, "atMs">): void {
    const record: TruthRecord = { ...truth, atMs: this.nowAtMs };
    this.truth.push(record);
    this.#lastTruth.set(truth.endpoint, record);
    this.say(`truth ${truth.endpoint} probes ${truth.probes} calls ${truth.calls} share ${truth.share}`);
  }

  #onControl(life: Life, control: RunningControl): void {
    const { name } = life.process;
    this.#controls.set(name, control);
    control.onRouteChange((upstream) => this.#noteRoute(name, upstream));
    for (const upstream of control.upstreams()) this.#noteRoute(name, upstream);
  }

  #pollRoutes(): void {
    for (const [name, control] of this.#controls) for (const upstream of control.upstreams()) this.#noteRoute(name, upstream);
  }

  #noteRoute(router: ProcessName, upstream: string): void {
    const view = this.#controls.get(router)?.upstream(upstream);
    if (view == null) return;
    let heldHere = this.#held.get(router);
    if (heldHere === undefined) {
      heldHere = new Map();
      this.#held.set(router, heldHere);
    }
    const held = heldHere.get(upstream);
    const { active, epoch, generation } = view;
    if (held !== undefined && held.active === active && held.epoch === epoch && held.generation === generation) return;
    const route: RouteRecord = { atMs: this.nowAtMs, router, upstream, active, epoch, generation };
    heldHere.set(upstream, route);
    this.routes.push(route);
    this.say(`route ${router} ${upstream} ${active} epoch ${epoch} generation ${generation}`);
    for (const hooks of this.#hooks) hooks.onRoute?.(route);
  }

  /** One at a time: thousands of calls that come later would make every look at the queue a longer one. */
  #queueCalls(planned: readonly PlannedCall[], index: number): void {
    const next = planned[index];
    if (next === undefined) return;
    this.queue.at(next.atMs, null, () => {
      this.#queueCalls(planned, index + 1);
      this.#call(next);
    });
  }

  #call(planned: PlannedCall): void {
    const routers = [...this.nodes.values()].filter((node) => node.service === "router" && node.alive && this.#controls.has(node.name));
    if (routers.length === 0) {
      this.count("call:no_router");
      return;
    }
    const node = this.#random.pick(routers);
    const control = this.#controls.get(node.name);
    const process = node.life?.process;
    if (control === undefined || process === undefined) return;
    this.queue.at(this.queue.nowMs, process, () => {
      void serveCall(process, control, this.upstreams, planned, this.#callHooks);
    });
  }

  readonly #callHooks: CallHooks = {
    nowAtMs: () => this.nowAtMs,
    nextId: () => this.calls.length + 1,
    onBegin: (call) => {
      this.calls.push(call);
    },
    onAttempt: (call, attempt) => {
      for (const hooks of this.#hooks) hooks.onAttempt?.(call, attempt);
    },
    onAttemptEnd: (call, attempt) => {
      this.count(
        `attempt:${attempt.told}${attempt.code === null ? "" : `:${attempt.code}`}${attempt.claimed === null ? "" : `:${attempt.claimed}`}`,
      );
      if (this.#logs)
        this.say(`attempt of call ${call.id} at ${attempt.endpoint} ${attempt.told} ${attempt.code ?? ""} ${attempt.claimed ?? ""}`);
    },
    onExecuted: (call, attempt) => {
      if (this.#logs) this.say(`call ${call.id} ran at ${attempt.endpoint}`);
      for (const hooks of this.#hooks) hooks.onExecuted?.(call, attempt);
    },
    onEnd: (call) => {
      this.count(`call:${call.safety}:${call.outcome}${call.problem === null ? "" : `:${call.problem}`}`);
      if (this.#logs)
        this.say(`call ${call.id} by ${call.router} ${call.upstream} ${call.tool} ${call.safety} ${call.outcome} ${call.problem ?? ""}`);
      for (const hooks of this.#hooks) hooks.onCallEnd?.(call);
    },
  };

  #onLog(node: Node, level: "warn" | "error" | "fatal", fields: object, message: string): void {
    this.count(`log:${level}:${node.service}:${message}`);
    const { err } = fields as { err?: unknown };
    if (err instanceof Violation) return;
    if (this.#logs) this.say(`log ${level} ${node.name} ${message}${err instanceof Error ? ` (${err.message})` : ""}`);
    // What a service calls an error is a mistake of its own, but for a few that an operator has to see.
    if (level !== "warn")
      this.happened("logged", node.name, null, `${level}: ${message}${err instanceof Error ? `: ${err.stack ?? err.message}` : ""}`);
  }

  #onError(process: SimProcess | null, error: unknown): void {
    if (error instanceof Violation) {
      this.#violation ??= error;
      this.queue.stop();
      return;
    }
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    const violation = new Violation(
      "no_process_ends_by_itself",
      this.nowAtMs,
      `${process?.name ?? "the world"} met an error that nobody caught: ${text}`,
    );
    this.#violation ??= violation;
    this.say(`VIOLATION ${violation.message}`);
    this.queue.stop();
  }
}

/** What a line of the log tells of an event, whatever the order of its fields was on the wire. */
function essence({ stream, event }: Entry): string {
  const data = event.data as Record<string, unknown>;
  if (stream !== "AUDIT") return canonicalJson(data);
  const { topology: _topology, certificate, ...rest } = data;
  const { rule, policyHash, nowMs, folded, rejected } = (certificate ?? {}) as Record<string, unknown>;
  return canonicalJson(certificate === undefined ? rest : { ...rest, certificate: { rule, policyHash, nowMs, folded, rejected } });
}
