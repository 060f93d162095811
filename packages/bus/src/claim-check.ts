import { type ConfigApplied, configurationLimits, type Event, sha256, type TopologyObject } from "@mcp-failover/contracts";
import { BusError, type Stored } from "./bus.ts";
import { type EventLike, refuseTooLarge } from "./message.ts";

/** Where what is too large for a message lies, by name. Both adapters give it. */
export interface ObjectPort {
  /** Null: there is none of this name. Throws `BusError`, `retriable` where a later try can help. */
  get(name: string): Promise<Uint8Array | null>;
  /** Throws `BusError`. */
  put(name: string, bytes: Uint8Array): Promise<void>;
  sleep(ms: number): Promise<void>;
}

/** The bucket of NATS's object store that large configurations lie in. */
export const objectBucket = "configurations";
/** With `discard new`: a configuration more is refused, and those that the log points at stay. */
export const objectBucketBytesMax = 512 * 1024 * 1024;

/** An object that is not there, or not what it was, may be so on one lagging replica only. */
const triesMax = 5;
/** Each takes long: where pieces of an object are gone, NATS is asked for it in vain. */
const timeoutsMax = 2;
const pauseMsMin = 50;
const pauseMsMax = 2000;
/** Configurations kept by their hash: several readers of one process read the same one. */
const keptMax = 2;

/**
 * Large configurations beside the log (a claim check, Hohpe and Woolf, "Enterprise Integration Patterns"): the event carries hash and size of the topology,
 * and whoever reads the event over the bus gets it whole.
 *
 * O1  What the event names is what was applied: the hash is checked at each fetch, and the object is stored whole before the event is.
 * O2  An object is never overwritten by other bytes: its name is its hash. A damaged one is mended by applying the same configuration again.
 * O3  Without the object, or where it cannot be read whole, the event is `malformed`: who follows keeps the last good configuration, and QUARANTINE says why.
 */
export interface ClaimCheck {
  /** The event as it goes onto the wire; what is too large for that is stored first. Throws `BusError` `too_large`. */
  checkIn(event: EventLike): Promise<EventLike>;
  /** The event as its readers want it. At once where nothing has to be fetched. Throws `BusError` while the objects are out of reach. */
  collect(stored: Stored): Stored | Promise<Stored>;
}

export function claimCheck(objects: ObjectPort, refuse: (stored: Stored, reason: string) => Stored): ClaimCheck {
  const kept = new Map<string, unknown>();

  function keep(name: string, topology: unknown): void {
    kept.delete(name);
    kept.set(name, topology);
    if (kept.size > keptMax) for (const oldest of kept.keys()) if (kept.delete(oldest)) break;
  }

  async function fetched(at: TopologyObject): Promise<{ topology: unknown } | { missing: string }> {
    if (kept.has(at.sha256)) return { topology: kept.get(at.sha256) };
    let missing = "";
    let timeouts = 0;
    for (let tried = 0; tried < triesMax && timeouts < timeoutsMax; tried += 1) {
      if (tried > 0) await objects.sleep(Math.min(pauseMsMin * 2 ** tried, pauseMsMax));
      const bytes = await objects.get(at.name).catch((error: unknown) => unreadable(error));
      if (bytes instanceof BusError) {
        missing = `it cannot be read (${bytes.message})`;
        if (bytes.code === "timeout") timeouts += 1;
      } else if (bytes === null) missing = "it is not there";
      else if (sha256(bytes) !== at.sha256) missing = `it has ${bytes.length} bytes that are not those which were applied`;
      else {
        const topology: unknown = JSON.parse(new TextDecoder().decode(bytes));
        keep(at.sha256, topology);
        return { topology };
      }
    }
    return { missing };
  }

  return {
    async checkIn(event) {
      if (!isConfiguration(event)) return event;
      const { topologyObject: _, ...data } = event.data;
      const bytes = new TextEncoder().encode(JSON.stringify(data.topology ?? null));
      if (bytes.length <= configurationLimits.inlineBytesMax) return { ...event, data } as EventLike;
      refuseTooLarge("a configuration", bytes.length, configurationLimits.bytesMax);
      const hash = sha256(bytes);
      await objects.put(hash, bytes);
      return {
        ...event,
        data: { ...data, topology: null, topologyObject: { bucket: objectBucket, name: hash, sha256: hash, bytes: bytes.length } },
      } as EventLike;
    },
    collect(stored) {
      if (stored.content.kind !== "event" || !isConfiguration(stored.content.event)) return stored;
      const { event } = stored.content;
      const at = event.data.topologyObject;
      if (at === undefined) return stored;
      return fetched(at).then((found) =>
        "missing" in found
          ? refuse(
              stored,
              `the configuration of version ${event.data.version} lies in the object ${at.name.slice(0, 12)} of ${at.bucket}, and ${found.missing}: apply it again`,
            )
          : { ...stored, content: { kind: "event", event: { ...event, data: { ...event.data, topology: found.topology } } } },
      );
    },
  };
}

/** What a later try may not help with either: whoever follows the log must not stand still over it for ever (O3). Throws what it can. */
function unreadable(error: unknown): BusError {
  if (error instanceof BusError && (!error.retriable || error.code === "timeout")) return error;
  throw error;
}

function isConfiguration(event: EventLike): event is EventLike & Event<"config.applied"> & { readonly data: ConfigApplied } {
  return event.type === "config.applied";
}
