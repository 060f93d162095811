import type { Bus, BusStatus } from "@mcp-failover/bus";
import { type EventType, events, type ServiceName } from "@mcp-failover/contracts";
import type { Kit, Running } from "@mcp-failover/service-kit";
import { testKit } from "@mcp-failover/service-kit/testing";
import { Host, SimProcess } from "./clock.ts";
import type { EventQueue } from "./event-queue.ts";
import { simBus } from "./nats/bus.ts";
import { SimLink } from "./nats/link.ts";
import { Line } from "./nats/network.ts";
import type { SimServer } from "./nats/server.ts";
import { seedOf } from "./random.ts";
import type { ProcessName } from "./world-types.ts";

/** What a service's shell runs on here. */
export interface Life {
  readonly process: SimProcess;
  readonly link: SimLink;
  readonly bus: Bus;
  readonly kit: Kit<never>;
}
/** Starts the shell; called in an event of its process. */
export type StartShell = (life: Life) => Promise<Running>;

interface NodeHooks {
  readonly onStatus: (node: Node, status: BusStatus) => void;
  readonly onStarted: (node: Node) => void;
  /** What the process says at `warn` and above. */
  readonly onLog: (node: Node, level: "warn" | "error" | "fatal", fields: object, message: string) => void;
  readonly onError: (process: SimProcess, error: unknown) => void;
}

export interface NodeOptions {
  readonly queue: EventQueue;
  readonly server: SimServer;
  readonly name: ProcessName;
  readonly service: ServiceName;
  readonly epochMs: number;
  readonly seed: number;
  readonly start: StartShell;
  readonly hooks: NodeHooks;
}

const serveRetryMs = 500;

/** By the last bits of the second: machines do not agree on which one it is. */
const isoSeconds = new Array<number>(8).fill(Number.NaN);
const isoPrefixes = new Array<string>(8).fill("");
const isoEnds = Array.from({ length: 1000 }, (_, ms) => `${String(ms).padStart(3, "0")}Z`);
const schemas = new Map<EventType, string>();
function schemaOf(type: EventType): string {
  let schema = schemas.get(type);
  if (schema === undefined) {
    schema = `urn:mcp-failover:${type}:${events[type].version}`;
    schemas.set(type, schema);
  }
  return schema;
}
function isoOf(timeMs: number): string {
  const second = Math.floor(timeMs / 1000);
  const place = second & 7;
  if (second !== isoSeconds[place]) {
    isoSeconds[place] = second;
    isoPrefixes[place] = new Date(second * 1000).toISOString().slice(0, 20);
  }
  return `${isoPrefixes[place]}${isoEnds[timeMs - second * 1000]}`;
}

/** A machine with one of our processes on it, which may end and be started again. */
export class Node {
  readonly name: ProcessName;
  readonly service: ServiceName;
  readonly host: Host;
  readonly line: Line;
  life: Life | null = null;
  running: Running | null = null;
  readonly #options: NodeOptions;
  readonly #source: string;
  #lives = 0;
  #events = 0;

  constructor(options: NodeOptions) {
    this.#options = options;
    this.name = options.name;
    this.service = options.service;
    this.#source = `mcp-failover/${options.service}/${options.name}`;
    // Machines do not agree to the millisecond, even where nothing is wrong.
    const skewMs = (seedOf(options.seed, `skew ${options.name}`) % 41) - 20;
    this.host = new Host(options.queue, options.name, options.epochMs + skewMs);
    this.line = new Line(seedOf(options.seed, `line ${options.name}`));
  }

  get alive(): boolean {
    return this.life !== null;
  }

  start(): void {
    const { queue, server, name, seed, hooks } = this.#options;
    if (this.life !== null) return;
    this.#lives += 1;
    const process = new SimProcess(name, this.host, seedOf(seed, `${name} ${this.#lives}`));
    queue.at(queue.nowMs, process, () => {
      const link = new SimLink(server, process, this.line, (status) => hooks.onStatus(this, status));
      const bus = simBus(link, (error, what) => hooks.onLog(this, "error", { err: error }, what));
      const life: Life = { process, link, bus, kit: this.#kit(process, bus) };
      this.life = life;
      hooks.onStarted(this);
      this.#options.start(life).then(
        (running) => {
          this.running = running;
          this.#serve(life, running);
        },
        (error: unknown) => hooks.onError(process, error),
      );
    });
  }

  /** SIGKILL: nothing of it goes on but what its kernel had taken. */
  kill(): void {
    const { life } = this;
    if (life === null) return;
    life.process.alive = false;
    life.link.processEnded();
    this.life = null;
    this.running = null;
  }

  /** SIGTERM: as `runService` stops; `then` is called when the process has ended. */
  stop(then: () => void): void {
    const { life, running } = this;
    if (life === null) return;
    const { queue, hooks } = this.#options;
    queue.at(queue.nowMs, life.process, () => {
      const end = (): void => {
        queue.at(queue.nowMs, null, () => {
          if (this.life !== life) return;
          this.kill();
          then();
        });
      };
      const stopping = (async () => {
        await running?.stop?.();
        await life.bus.close();
      })();
      stopping.then(end, (error: unknown) => hooks.onError(life.process, error));
      setTimeout(end, 8000);
    });
  }

  #serve(life: Life, running: Running): void {
    const { handlers } = running;
    if (handlers === undefined) return;
    const attempt = (): void => {
      life.bus
        .serve({ name: this.service, instance: this.name, version: "0.1.0", description: `${this.service} of mcp-failover`, handlers })
        .catch(() => setTimeout(attempt, serveRetryMs));
    };
    attempt();
  }

  /** As `makeEvent` makes it, without a `Date` for each of the hundred thousands of a run. */
  #event(type: EventType, keys: readonly string[], data: unknown, id: string, timeMs: number, traceparent: string | undefined): object {
    const time = isoOf(timeMs);
    const datacontenttype = "application/json";
    const dataschema = schemaOf(type);
    const subject = keys.length === 1 ? keys[0] : keys.join("/");
    const from = this.#source;
    const event =
      keys.length > 0
        ? { specversion: "1.0", id, source: from, type, subject, time, datacontenttype, dataschema, data }
        : { specversion: "1.0", id, source: from, type, time, datacontenttype, dataschema, data };
    return traceparent === undefined ? event : { ...event, traceparent };
  }

  #kit(process: SimProcess, bus: Bus): Kit<never> {
    const { hooks } = this.#options;
    const kit = testKit({ service: this.service, bus, instance: this.name, nowMs: () => Math.floor(process.host.wallMs) });
    const nothing = (): void => undefined;
    const say = (level: "warn" | "error" | "fatal") => (fields: object | string, message?: string) =>
      hooks.onLog(this, level, typeof fields === "string" ? {} : fields, message ?? String(fields));
    const log = {
      trace: nothing,
      debug: nothing,
      info: nothing,
      warn: say("warn"),
      error: say("error"),
      fatal: say("fatal"),
      level: "warn",
    };
    return {
      ...kit,
      config: {} as never,
      log: log as unknown as Kit["log"],
      event: (type, keys, data, { id, traceparent } = {}) => {
        this.#events += 1;
        return this.#event(type, keys, data, id ?? `${this.name}-${this.#events}`, Math.floor(process.host.wallMs), traceparent) as never;
      },
    };
  }
}
