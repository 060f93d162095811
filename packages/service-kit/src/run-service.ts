import { randomUUID } from "node:crypto";
import {
  type Bus,
  type BusCredentials,
  BusError,
  busHealth,
  CredentialsError,
  checkStore,
  connectBus,
  readCredentials,
} from "@mcp-failover/bus";
import { type EventType, makeEvent, type NewEvent, type ServiceName } from "@mcp-failover/contracts";
import { type Logger, pino } from "pino";
import { collectDefaultMetrics, Gauge, Registry } from "prom-client";
import type { z } from "zod";
import { type BaseEnvironment, baseEnvironment, EnvironmentError, parseEnvironment } from "./environment.ts";
import { type Readiness, startHealthServer } from "./health-server.ts";
import type { Kit, KitService, Running } from "./kit.ts";
import { openSecrets, type Secrets } from "./secrets.ts";

export interface ServiceOptions<C extends z.ZodType> {
  readonly name: KitService;
  /** Read from the environment besides {@link baseEnvironment}. */
  readonly config: C;
  readonly start: (kit: Kit<z.infer<C>>) => Promise<Running>;
  /** False for what goes on without NATS (the router): its absence then degrades instead of making not ready. Default true. */
  readonly needsBus?: boolean;
}

/** An orderly stop takes at most this long; then the process ends anyway, because a supervisor waits. */
const stopMsMax = 8000;
const serveRetryMs = 500;
/** How often it is looked what the bus has noticed. */
const lookMs = 1000;

/**
 * Runs a service until SIGTERM, SIGINT or the end of its supervisor: environment, log, metrics, health, bus, start, orderly stop.
 * Ends the process with 0 after an orderly stop, 1 after a failure, 2 when the environment is wrong.
 */
export async function runService<C extends z.ZodType>(options: ServiceOptions<C>): Promise<void> {
  let environment: BaseEnvironment;
  let config: z.infer<C>;
  let credentials: BusCredentials | null;
  try {
    environment = parseEnvironment(baseEnvironment, process.env);
    config = parseEnvironment(options.config, process.env);
    credentials = environment.MCPF_CREDENTIALS_DIR === undefined ? null : readCredentials(environment.MCPF_CREDENTIALS_DIR);
  } catch (error) {
    if (!(error instanceof EnvironmentError || error instanceof CredentialsError)) throw error;
    process.stderr.write(`${options.name}: ${error.message}\n`);
    process.exit(2);
  }
  const instance = environment.MCPF_INSTANCE ?? `${options.name}-${randomUUID().slice(0, 8)}`;
  const secrets = openSecrets(process.env, environment.MCPF_SECRETS_DIR);
  const log = openLog(options.name, instance, environment.MCPF_LOG_LEVEL, secrets);
  process.on("uncaughtException", (error) => {
    log.fatal({ err: error }, "uncaught exception; the process ends, and its supervisor starts it anew");
    process.exit(1);
  });

  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const conditions = new Map<string, { ok: boolean; required: boolean; reason: string }>();
  const readiness = (): Readiness => {
    const all = [...conditions.values()];
    const status = all.some((c) => !c.ok && c.required) ? "not_ready" : all.some((c) => !c.ok) ? "degraded" : "ready";
    return { status, conditions: Object.fromEntries(conditions) };
  };
  const ready: Kit["ready"] = (condition, ok, reason = "", { required = true } = {}) => {
    const before = conditions.get(condition);
    if (before?.ok !== ok || before.reason !== reason) log[ok ? "info" : "warn"]({ condition, ok, reason }, "readiness");
    conditions.set(condition, { ok, required, reason });
  };
  ready("started", false, "starting");

  const bus = connectBus({
    servers: environment.NATS_URL,
    name: `${options.name}/${instance}`,
    instance,
    ...(credentials === null ? {} : { credentials }),
    log: { warn: (details, message) => log.warn(details, message), debug: (details, message) => log.debug(details, message) },
  });
  watchBus(bus, ready, registry, options.needsBus ?? true);
  const noticed = watchNoticed(bus, ready, registry, { name: options.name, needsBus: options.needsBus ?? true });
  const health = await startHealthServer({ host: environment.MCPF_HEALTH_HOST, port: environment.MCPF_HEALTH_PORT, readiness, registry });

  const kit: Kit<z.infer<C>> = {
    service: options.name,
    instance,
    config,
    bus,
    log,
    registry,
    secrets,
    dataDir: environment.MCPF_DATA_DIR,
    healthUrl: health.url,
    nowMs: () => Date.now(),
    ready,
    readiness,
    event: (type, keys, data, { id = `${instance}-${randomUUID()}`, traceparent } = {}) =>
      makeEvent({
        type,
        keys,
        data,
        id,
        service: options.name as ServiceName,
        instance,
        timeMs: Date.now(),
        ...(traceparent === undefined ? {} : { traceparent }),
      } as NewEvent<EventType>) as never,
  };

  // Before the start: a service that still waits for a neighbour has to end in good order too.
  let work: { readonly running: Running; readonly serving: ReturnType<typeof serveRequests> } | null = null;
  let stopping = false;
  const stop = async (why: string): Promise<void> => {
    if (stopping) return;
    stopping = true;
    log.info({ why }, "stopping");
    ready("started", false, "stopping");
    setTimeout(() => {
      log.error({ afterMs: stopMsMax }, "the orderly stop took too long; ending");
      process.exit(1);
    }, stopMsMax).unref();
    // No request comes in any more, another instance has them; what is worked on is answered, while the work itself ends.
    work?.serving.cancel();
    const answered = work?.serving.current().then((served) => served?.stop());
    await work?.running.stop?.();
    await answered;
    noticed.stop();
    await bus.close();
    await health.close();
    process.exit(0);
  };
  const stopFor = (why: string) => () => {
    stop(why).catch((error: unknown) => {
      log.error({ err: error }, "the orderly stop failed; ending");
      process.exit(1);
    });
  };
  process.on("SIGTERM", stopFor("SIGTERM"));
  process.on("SIGINT", stopFor("SIGINT"));
  if (environment.MCPF_PARENT_PIPE === "1") {
    process.stdin.on("end", stopFor("the supervisor is gone"));
    process.stdin.on("error", stopFor("the supervisor is gone"));
    process.stdin.resume();
  }

  let running: Running;
  try {
    running = await options.start(kit);
  } catch (error) {
    if (stopping) return; // What it waited for was taken from it.
    log.fatal({ err: error }, "could not start");
    process.exit(1);
  }
  if (stopping) return;
  work = { running, serving: serveRequests(kit, running) };
  ready("started", true);
  log.info({ health: health.url }, "started");
}

/** A JSON log on standard output; values of secrets never reach it. */
function openLog(service: string, instance: string, level: string, secrets: Secrets): Logger {
  return pino({
    level,
    base: { service, instance },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    hooks: { streamWrite: (line) => secrets.redact(line) },
  });
}

function watchBus(bus: Bus, ready: Kit["ready"], registry: Registry, required: boolean): void {
  const connected = new Gauge({ name: "mcpf_bus_connected", help: "1 while the bus is connected", registers: [registry] });
  const say = (): void => {
    const { status } = bus;
    connected.set(status.kind === "connected" ? 1 : 0);
    ready("bus", status.kind === "connected", status.kind === "disconnected" ? `NATS is out of reach: ${status.reason}` : "", { required });
  };
  bus.onStatus(say);
  say();
}

/**
 * What the connection notices while it is there: NATS that does not store, and readers that fall behind. Either degrades and does not make
 * not ready, because traffic goes on, and a restart would cure nothing. Who reads nothing any more knows as little as without NATS: that is
 * required of whom the bus is required.
 */
function watchNoticed(
  bus: Bus,
  ready: Kit["ready"],
  registry: Registry,
  { name, needsBus }: { name: string; needsBus: boolean },
): { stop(): void } {
  const checking = checkStore(bus, name);
  new Gauge({
    name: "mcpf_bus_stores",
    help: "1 while NATS stores what is published into streams, as far as this process knows",
    registers: [registry],
    collect() {
      this.set(busHealth(bus).store === null ? 1 : 0);
    },
  });
  new Gauge({
    name: "mcpf_bus_pending_messages",
    help: "Messages of a stream that waited, on the server and here, when the last one was handed over",
    labelNames: ["stream", "filter"],
    registers: [registry],
    collect() {
      this.reset();
      for (const { stream, filter, count } of busHealth(bus).pending) this.inc({ stream, filter }, count);
    },
  });
  new Gauge({
    name: "mcpf_bus_slow_readers",
    help: "Readers of streams that read nothing, fall behind, or whose handler hangs",
    registers: [registry],
    collect() {
      this.set(busHealth(bus).slow.length);
    },
  });
  const say = (): void => {
    const { store, slow, deaf } = busHealth(bus);
    ready("store", store === null, store ?? "", { required: false });
    // Several readers of a stream say the same.
    ready("reading", slow.length === 0, [...new Set(slow)].join("; "), { required: needsBus && deaf.length > 0 });
  };
  const timer = setInterval(say, lookMs);
  timer.unref();
  return {
    stop() {
      clearInterval(timer);
      checking.stop();
    },
  };
}

/** Registers the service and its requests, as soon as the bus is there. */
function serveRequests(kit: Kit, running: Running): { current(): Promise<{ stop(): Promise<void> } | null>; cancel(): void } {
  let cancelled = false;
  let served: { stop(): Promise<void> } | null = null;
  const attempt = async (): Promise<void> => {
    while (!cancelled && served === null) {
      try {
        served = await kit.bus.serve({
          name: kit.service,
          instance: kit.instance,
          version: "0.1.0",
          description: `${kit.service} of mcp-failover`,
          metadata: { instance: kit.instance, health: kit.healthUrl },
          readiness: () => JSON.stringify(kit.readiness()),
          handlers: running.handlers ?? {},
        });
      } catch (error) {
        if (!(error instanceof BusError)) throw error;
        kit.log.debug({ err: error }, "cannot register the service yet");
        await new Promise((resolve) => setTimeout(resolve, serveRetryMs));
      }
    }
  };
  attempt().catch((error: unknown) => kit.log.error({ err: error }, "cannot register the service"));
  return {
    current: async () => served,
    cancel: () => {
      cancelled = true;
    },
  };
}
