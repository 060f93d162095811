import { type EventType, events, type ServiceName, serviceNames } from "./events.ts";
import { type RequestSubject, requests } from "./services.ts";
import { type StreamName, streams } from "./streams.ts";

/**
 * What each client may do on the bus. What it says and answers follows from the tables of events and requests; what it reads, asks and keeps
 * stands here. The configuration of nats-server, the tests of permissions and the documentation are made from it.
 */
export interface BusAccess {
  /** Subjects and filters that it may publish. */
  readonly says: readonly string[];
  /** Events outside of the streams that other clients say and it may subscribe to. */
  readonly hears: readonly EventType[];
  /** Streams that it may read: look at, get messages of, and have consumers on. */
  readonly reads: readonly StreamName[];
  /** Durable consumers of its own that it may take from and acknowledge to. */
  readonly queues: readonly { readonly stream: StreamName; readonly durable: string }[];
  /** Key-value buckets that it may read and write. */
  readonly buckets: readonly BucketName[];
  /** The object store of large configurations. */
  readonly objects: "none" | "read" | "write";
  readonly asks: readonly RequestSubject[];
  readonly answers: readonly RequestSubject[];
  /** May ask which services are there. */
  readonly discovers: boolean;
  /** May ask each how it is. */
  readonly examines: boolean;
  /** May subscribe to all events of the log as they are published. */
  readonly overhears: boolean;
}

/** Who brings no key, where a server lets such in at all (docs/adr/0011): looks and listens, and says nothing. */
export const onlooker = "onlooker";
/** Everybody who connects to the bus but the bootstrap user, which owns the streams, and the keeper, which makes consumers. */
export const busClients = [...serviceNames.filter((name) => name !== "bootstrap"), "launcher", "fault-proxy", "client", onlooker] as const;
export type BusClient = Exclude<ServiceName, "bootstrap"> | "launcher" | "fault-proxy" | "client" | typeof onlooker;

/** The buckets, with the limits that they are made with. */
export const buckets = {
  "router-sessions": { ttlMs: 24 * 3_600_000, maxValueBytes: 64 * 1024, maxBytes: 128 * 1024 * 1024 },
  /** Apart from the sessions, because nothing but the limit bounds them: who is given lists is one for every user. */
  "router-lists": { ttlMs: 24 * 3_600_000, maxValueBytes: 64 * 1024, maxBytes: 128 * 1024 * 1024 },
  "chaos-lease": { ttlMs: 15_000, maxValueBytes: 1024 },
  "state-backup": { maxValueBytes: 900 * 1024 },
  /** A key a service, stored again now and then to know whether NATS stores. */
  "store-check": { maxValueBytes: 1024, maxBytes: 1024 * 1024 },
} as const satisfies Record<string, { ttlMs?: number; maxValueBytes: number; maxBytes?: number }>;
export type BucketName = keyof typeof buckets;

/** Events outside of the streams that are questions: the one who is asked, and answers to the asker's inbox. All others are told to those who hear them. */
export const askedEvents = { "probe.requested": "prober" } as const satisfies Partial<Record<EventType, BusClient>>;

type Wants = Omit<Partial<BusAccess>, "says" | "answers">;
const commands = (Object.keys(requests) as RequestSubject[]).filter((subject) => subject.startsWith("command."));
const log: Wants = { reads: ["AUDIT"], objects: "read" };
const evidence: Wants = { reads: ["AUDIT", "SIGNALS"], objects: "read" };

const wants: Readonly<Record<BusClient, Wants>> = {
  prober: log,
  "breaker-state": evidence,
  "failover-controller": evidence,
  "rollback-controller": evidence,
  router: { ...log, buckets: ["router-sessions", "router-lists"] },
  "state-store": { ...log, buckets: ["state-backup"], discovers: true },
  notifier: { ...log, reads: ["AUDIT", "OUTBOX"], queues: [{ stream: "OUTBOX", durable: "notifier" }] },
  "chaos-runner": {
    ...log,
    buckets: ["chaos-lease"],
    asks: ["state.status", "launcher.processes", "launcher.kill", "launcher.start", "fault.set", "fault.clear", "fault.list"],
  },
  console: { ...log, asks: ["command.failover"] },
  cli: {
    reads: ["AUDIT", "SIGNALS", "OUTBOX", "QUARANTINE"],
    objects: "write",
    hears: ["prober.heartbeat"],
    asks: [...commands, "state.status", "state.health_report", "state.get", "state.history"],
    discovers: true,
    examines: true,
  },
  launcher: { asks: ["state.status"] },
  "fault-proxy": {},
  client: { ...log, overhears: true },
  onlooker: { ...log, overhears: true },
};

/** They are no services: nothing of theirs is stored, and nobody asks them anything. */
export const onlyAsks: ReadonlySet<BusClient> = new Set(["cli", "client", onlooker]);

export function busAccessOf(client: BusClient): BusAccess {
  const own = wants[client];
  const reads = own.reads ?? [];
  const setsAside = [...reads.filter((stream) => stream !== "QUARANTINE").map((stream) => `quarantine.${stream}.*`), "quarantine.core.*"];
  return {
    says: client === onlooker ? [] : [...saidBy(client), ...setsAside],
    hears: own.hears ?? [],
    reads,
    queues: own.queues ?? [],
    buckets: [...(own.buckets ?? []), ...(onlyAsks.has(client) ? [] : (["store-check"] as const))],
    objects: own.objects ?? "none",
    asks: own.asks ?? [],
    answers: (Object.keys(requests) as RequestSubject[]).filter((subject) => requests[subject].service === client),
    discovers: own.discovers ?? false,
    examines: own.examines ?? false,
    overhears: own.overhears ?? false,
  };
}

function saidBy(client: BusClient): string[] {
  return (Object.keys(events) as EventType[]).flatMap((type) => {
    const definition = events[type];
    if (!(definition.saidBy as readonly string[]).includes(client)) return [];
    // Who answers a command is who accepts it.
    if (type === "command.accepted") return acceptedBy(client);
    return [[type, ...definition.keys.map(() => "*")].join(".")];
  });
}

function acceptedBy(client: BusClient): string[] {
  return commands
    .filter((subject) => requests[subject].service === client)
    .map((subject) => `command.accepted.${subject.slice("command.".length).replaceAll(".", "-")}`);
}

/** Every subject or filter that some client says or answers, and what the streams keep: what the tests of permissions go through. */
export function allBusSubjects(): string[] {
  const kept = streams.flatMap((stream) => stream.subjects);
  return [...new Set([...busClients.flatMap((client) => [...busAccessOf(client).says, ...busAccessOf(client).answers]), ...kept])];
}
