import assert from "node:assert/strict";
import { type Event, makeEvent, type StreamDefinition } from "@mcp-failover/contracts";
import { eventually } from "@mcp-failover/testkit";
import type { Bus, Stored } from "../../src/index.ts";

/** What the suite needs of an adapter: real connections, and ways to hurt them. */
export interface World {
  /** One more process's connection, connected. */
  connect(name?: string): Promise<Bus>;
  /** Ends a connection as a network does, until `restore`. */
  cut(bus: Bus): Promise<void>;
  restore(bus: Bus): Promise<void>;
  /** SIGKILL of the server and, after `downMs`, a start on the same store. */
  restartServer(downMs: number): Promise<void>;
  /** The next publish into a stream loses its answer; `stored` says whether it gets there. */
  loseNextPublish(bus: Bus, options: { stored: boolean }): void;
  /** Bytes as a foreign client would send them. */
  publishRaw(subject: string, bytes: string): Promise<void>;
  close(): Promise<void>;
}
/** A world with an object store, and ways to hurt that. */
export interface WorldWithObjects extends World {
  /** The bucket of large configurations is deleted. */
  loseObjects(): Promise<void>;
  /** An object of the bucket is overwritten. */
  putObject(name: string, text: string): Promise<void>;
}
export interface WorldOptions {
  /** Default: all streams of the contracts. */
  readonly streams?: readonly StreamDefinition[];
}
export type MakeWorld<W extends World = World> = (options?: WorldOptions) => Promise<W>;

/** Runs a test in a world of its own, and ends that whatever happens. */
export function inWorld<W extends World>(
  makeWorld: MakeWorld<W>,
  run: (world: W) => Promise<void>,
  options?: WorldOptions,
): () => Promise<void> {
  return async () => {
    const world = await makeWorld(options);
    try {
      await run(world);
    } finally {
      await world.close();
    }
  };
}

let counter = 0;
const by = { kind: "service" as const, id: "suite" };

/** An event of `notify.sent.<channel>`; `n` comes back from {@link numberOf}. */
export function note(channel: string, n: number, id?: string): Event<"notify.sent"> {
  counter += 1;
  return makeEvent({
    type: "notify.sent",
    keys: [channel],
    data: {
      notificationId: `n-${n}`,
      channel,
      incidentId: "i-1",
      kind: "test",
      attempt: 1,
      timestamp: new Date().toISOString(),
      error: null,
      willRetry: false,
      n,
    },
    id: id ?? `note-${counter}`,
    service: "notifier",
    instance: "suite",
    timeMs: Date.now(),
  });
}

export function numberOf(stored: Stored | null): number {
  assert.equal(stored?.content.kind, "event");
  assert.ok(stored.content.kind === "event" && stored.content.event.type === "notify.sent");
  return Number(stored.content.event.data["n"]);
}

export function idOf(stored: Stored | null): string {
  assert.ok(stored?.content.kind === "event");
  return stored.content.event.id;
}

/** A work item of `outbox.<channel>`. */
export function item(channel: string, n: number): Event<"outbox"> {
  counter += 1;
  return makeEvent({
    type: "outbox",
    keys: [channel],
    data: {
      id: `item-${n}`,
      channel,
      incidentId: "i-1",
      kind: "test",
      severity: "notify",
      title: "a title",
      text: "a text",
      upstream: null,
      atMs: Date.now(),
    },
    id: `item-${counter}`,
    service: "notifier",
    instance: "suite",
    timeMs: Date.now(),
  });
}

export function itemIdOf(stored: Stored): string {
  assert.ok(stored.content.kind === "event" && stored.content.event.type === "outbox");
  return stored.content.event.data.id;
}

/** Core NATS, no store. */
export function heartbeat(prober: string): Event<"prober.heartbeat"> {
  counter += 1;
  return makeEvent({
    type: "prober.heartbeat",
    keys: [],
    data: { prober, zone: null, startedAtMs: 1, sentAtMs: Date.now(), endpointsOwned: 0, ready: true },
    id: `beat-${counter}`,
    service: "prober",
    instance: prober,
    timeMs: Date.now(),
  });
}

export function probeRequest(requestedBy: string): Event<"probe.requested"> {
  counter += 1;
  const targets = [{ upstream: "pinecone", endpoint: "primary" }];
  return makeEvent({
    type: "probe.requested",
    keys: [],
    data: { requestId: `request-${counter}`, targets, purpose: "confirm", timeoutMs: 500, requestedBy },
    id: `probe-${counter}`,
    service: "prober",
    instance: requestedBy,
    timeMs: Date.now(),
  });
}

export const holdBody = { commandId: "c-1", by, reason: "a test", upstream: "pinecone", forMs: null };

/** Waits until `check` is true; says what it waited for when it never is. */
export async function until(check: () => boolean | Promise<boolean>, what: string, withinMs = 10_000): Promise<void> {
  await eventually(check, { what, withinMs, everyMs: 10 });
}

export const connected = (bus: Bus): boolean => bus.status.kind === "connected";
