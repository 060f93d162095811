import { randomUUID } from "node:crypto";
import { type Bus, BusError } from "@mcp-failover/bus";
import { type AppliedConfiguration, applyConfiguration } from "@mcp-failover/client";
import { makeEvent, parseTopology, streams } from "@mcp-failover/contracts";

export interface BootstrapOptions {
  readonly bus: Bus;
  /** Text of `failover.yaml`, and its name for messages. */
  readonly text: string;
  readonly file: string;
  /** Variables for `${NAME}` in the file. */
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly environment: "development" | "production";
  readonly routerUrls: readonly string[];
  readonly hasSecret: (name: string) => boolean;
  readonly replicas: number;
  readonly waitMs: number;
  readonly instance: string;
  readonly nowMs: () => number;
  readonly say: (line: string) => void;
}

/** NATS was not there in time. */
class NatsAbsentError extends Error {
  override readonly name = "NatsAbsentError";
  readonly code = "nats_absent";
  readonly retriable = true;
  constructor(waitedMs: number, cause: unknown) {
    super(
      `NATS did not answer within ${waitedMs} ms (${cause instanceof Error ? cause.message : "no reason known"}): see that nats-server runs with JetStream, and check NATS_URL`,
      { cause },
    );
  }
}

const pauseMs = 250;
const progressEveryMs = 2000;

/**
 * Everything that has to be in NATS before the services can work: the streams, the first generation of the log, the configuration.
 * Whatever is there already is left as it is, so it may run at every start and several times at once.
 * Throws `ConfigError` before it touches anything, {@link NatsAbsentError}, and the bus's `BusError` for what waiting does not cure.
 */
export async function bootstrap(options: BootstrapOptions): Promise<AppliedConfiguration> {
  const { bus, say } = options;
  const { topology, hash } = parseTopology(options.text, {
    file: options.file,
    env: options.env,
    hasSecret: options.hasSecret,
    routerUrls: options.routerUrls,
  });

  await untilReached(options, () => bus.ensureStreams(streams, { replicas: options.replicas }));
  say(`the streams ${streams.map((stream) => stream.name).join(", ")} are there (replicas: ${options.replicas})`);

  const generation = await untilReached(options, () => startLog(options));
  say(generation.started ? "the log is empty: this is generation 1" : `the log is of generation ${generation.generation}`);

  const result = await untilReached(options, () =>
    applyConfiguration(bus, {
      topology,
      hash,
      fileHash: hash,
      environment: options.environment,
      by: { kind: "service", id: options.instance },
      reason: `started with ${options.file}`,
      service: "bootstrap",
      instance: options.instance,
      nowMs: options.nowMs(),
      onlyIfFileChanged: true,
    }),
  );
  say(outcomeOf(result, options.file));
  return result;
}

function outcomeOf({ applied, version, hash, keptInstead }: AppliedConfiguration, file: string): string {
  const short = hash.slice(0, 12);
  if (applied) return `applied ${file} as version ${version} (${short})`;
  if (keptInstead === undefined) return `version ${version} (${short}) stays in force: ${file} says the same`;
  const { by, reason } = keptInstead;
  return `version ${version} (${short}) stays in force, which ${by.id} applied (${reason}): ${file} says something else, and has not changed since the last start with it; \`mcpf config apply ${file} --reason TEXT\` would put it in force`;
}

/** The first event of the log. Fenced, so that of several starts at once one writes it; only `mcpf log adopt` raises the generation. */
async function startLog({ bus, instance, nowMs }: BootstrapOptions): Promise<{ started: boolean; generation: number }> {
  const existing = await bus.lastOf("AUDIT", "log.started");
  const last = existing ?? (await publishFirst());
  if (last === null) return { started: true, generation: 1 };
  const generation = last.content.kind === "event" && last.content.event.type === "log.started" ? last.content.event.data.generation : 0;
  return { started: false, generation };

  async function publishFirst() {
    const atMs = nowMs();
    const event = makeEvent({
      type: "log.started",
      keys: [],
      id: `${instance}-log-1-${randomUUID()}`,
      service: "bootstrap",
      instance,
      timeMs: atMs,
      data: {
        generation: 1,
        timestamp: new Date(atMs).toISOString(),
        by: { kind: "service", id: instance },
        reason: "the log was empty",
      },
    });
    const outcome = await bus.appendFenced(event, 0);
    return outcome.outcome === "won" ? null : outcome.last;
  }
}

/** Repeats what fails only because NATS is not reachable yet, until the time is over. */
async function untilReached<T>(options: BootstrapOptions, act: () => Promise<T>): Promise<T> {
  const { bus, nowMs, say, waitMs } = options;
  const startedMs = nowMs();
  let saidMs = startedMs;
  for (;;) {
    let obstacle: Error | null = null;
    if (bus.status.kind === "connected") {
      try {
        return await act();
      } catch (error) {
        if (!(error instanceof BusError && error.retriable)) throw error;
        obstacle = error;
      }
    }
    const waitedMs = nowMs() - startedMs;
    if (waitedMs >= waitMs) throw new NatsAbsentError(waitedMs, obstacle ?? new Error(statusOf(bus)));
    if (nowMs() - saidMs >= progressEveryMs) {
      saidMs = nowMs();
      say(
        `waiting for NATS for ${Math.round(waitedMs / 1000)} s (at most ${Math.round(waitMs / 1000)} s): ${obstacle?.message ?? statusOf(bus)}`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
}

function statusOf(bus: Bus): string {
  return bus.status.kind === "disconnected" ? bus.status.reason : bus.status.kind;
}
