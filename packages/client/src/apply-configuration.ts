import { randomUUID } from "node:crypto";
import type { Bus, Stored } from "@mcp-failover/bus";
import { type Actor, type ConfigApplied, configurationLimits, makeEvent, type Topology } from "@mcp-failover/contracts";

const lostRacesMax = 20;
const stream = "AUDIT";
const subject = "config.applied";

/** The configuration is larger than one stack takes. */
export class ConfigTooLargeError extends Error {
  override readonly name = "ConfigTooLargeError";
  readonly code = "config_too_large";
  readonly retriable = false;
  constructor(bytes: number) {
    super(
      `the configuration has ${bytes} bytes as JSON, and at most ${configurationLimits.bytesMax} can be applied: split it over several stacks, or shorten its names and contacts`,
    );
  }
}
/** Others applied a configuration between every read and write of ours. */
export class ConfigContendedError extends Error {
  override readonly name = "ConfigContendedError";
  readonly code = "config_contended";
  readonly retriable = true;
  constructor() {
    super(`others applied configurations ${lostRacesMax} times meanwhile: look at \`mcpf config history\` and apply again`);
  }
}

export interface ApplyConfigurationOptions {
  readonly topology: Topology;
  /** SHA-256 of the topology, from `parseTopology`. */
  readonly hash: string;
  /** The same of the file that it came from; null when it came from a rollback or a patch. */
  readonly fileHash: string | null;
  readonly environment: "development" | "production";
  readonly by: Actor;
  readonly reason: string;
  readonly service: "bootstrap" | "cli";
  readonly instance: string;
  readonly nowMs: number;
  /** True for a start with a file, which says `by` a service: what operators applied since stays in force unless the file itself has changed (the log wins). */
  readonly onlyIfFileChanged: boolean;
}
export interface AppliedConfiguration {
  /** False when nothing had to be written. */
  readonly applied: boolean;
  /** What is in force now. */
  readonly version: number;
  readonly hash: string;
  /** Who applied what is in force and why, where a start has kept it although the file says something else. */
  readonly keptInstead?: { readonly by: Actor; readonly reason: string };
}

/**
 * Makes a configuration the next version in the log. Fenced: of several that apply at once each gets its own version, or sees that the
 * same one is there already. One that is too large for an event is put into the object store by the bus. The same topology for the same environment as the one in force makes no new version.
 * Throws {@link ConfigTooLargeError}, {@link ConfigContendedError} and the bus's `BusError`.
 */
export async function applyConfiguration(bus: Bus, options: ApplyConfigurationOptions): Promise<AppliedConfiguration> {
  const bytes = Buffer.byteLength(JSON.stringify(options.topology));
  if (bytes > configurationLimits.bytesMax) throw new ConfigTooLargeError(bytes);
  let last = await bus.lastOf(stream, subject);
  for (let lost = 0; lost < lostRacesMax; lost += 1) {
    const inForce = await newestFrom(bus, last);
    if (inForce !== null) {
      const { version, hash, by, reason } = inForce;
      if (hash === options.hash && inForce.environment === options.environment) return { applied: false, version, hash };
      if (options.onlyIfFileChanged && last !== null && (await isKnown(bus, inForce, last, options)))
        return { applied: false, version, hash, keptInstead: { by, reason } };
    }
    const version = (inForce?.version ?? 0) + 1;
    const event = makeEvent({
      type: subject,
      keys: [],
      id: `${options.instance}-config-${version}-${randomUUID()}`,
      service: options.service,
      instance: options.instance,
      timeMs: options.nowMs,
      data: {
        version,
        hash: options.hash,
        fileHash: options.fileHash,
        timestamp: new Date(options.nowMs).toISOString(),
        by: options.by,
        reason: options.reason,
        environment: options.environment,
        topology: options.topology,
      },
    });
    const outcome = await bus.appendFenced(event, last?.seq ?? 0);
    if (outcome.outcome === "won") return { applied: true, version, hash: options.hash };
    last = outcome.last;
  }
  throw new ConfigContendedError();
}

/** The configuration in force: the newest version that can be read; null before the first. Throws the bus's `BusError`. */
export async function configurationInForce(bus: Bus): Promise<ConfigApplied | null> {
  return newestFrom(bus, await bus.lastOf(stream, subject));
}

async function newestFrom(bus: Bus, last: Stored | null): Promise<ConfigApplied | null> {
  return configOf(last) ?? (last === null ? null : newest(bus, last.seq));
}

/**
 * Whether a file is as the last start found it. A start that finds in force what it would apply writes nothing, so that whatever was applied
 * from this file since the last one that did counts, too. What operators applied from other files says nothing about this one.
 */
async function isKnown(bus: Bus, inForce: ConfigApplied, last: Stored, options: ApplyConfigurationOptions): Promise<boolean> {
  const isTheFile = ({ fileHash, environment }: ConfigApplied): boolean =>
    fileHash === options.fileHash && environment === options.environment;
  if (isTheFile(inForce) || ofStart(inForce)) return isTheFile(inForce);
  let known = false;
  for await (const stored of bus.read(stream, { filter: subject, toSeq: last.seq })) {
    const config = configOf(stored);
    if (config !== null) known = isTheFile(config) || (known && !ofStart(config));
  }
  return known;
}

function ofStart({ by }: ConfigApplied): boolean {
  return by.kind === "service";
}

/** The newest version up to a sequence that can be read. */
async function newest(bus: Bus, toSeq: number): Promise<ConfigApplied | null> {
  let found: ConfigApplied | null = null;
  for await (const stored of bus.read(stream, { filter: subject, toSeq })) found = configOf(stored) ?? found;
  return found;
}

/** Null for nothing, and for a malformed event: it is in QUARANTINE, and the version before it is in force. */
function configOf(stored: Stored | null): ConfigApplied | null {
  return stored?.content.kind === "event" && stored.content.event.type === subject ? stored.content.event.data : null;
}
