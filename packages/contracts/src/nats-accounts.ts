import { askedEvents, type BusAccess, type BusClient, busAccessOf, busClients, onlooker, onlyAsks } from "./bus-access.ts";
import { type EventType, events, isEventType } from "./events.ts";
import { requests } from "./services.ts";
import type { StreamName } from "./streams.ts";

/**
 * The accounts of nats-server, made from the table of what each client may do (docs/adr/0009).
 *
 * A1  The streams are in `CORE`. Every client has an account of its own and reaches `CORE` by service imports alone: a reply subject that
 *     it names is looked up in its own account, so that it cannot be made to land in a stream. What it hears comes from the accounts of
 *     those who say it.
 * A2  A client imports exactly its own subjects; a stream's interface is imported for looking and pulling, never for changing.
 * A3  Consumers are made by the keeper, for whoever asks on the subject that only its account imports.
 * A4  The bootstrap user alone may change, purge, delete or restore a stream.
 */

/** Under which a client's account has the interface of JetStream: `$JS.API` would be the (empty) one of the account itself. */
export const clientApiPrefix = "CORE.API";
export const coreAccount = "CORE";
/** Where the keeper is asked; in `CORE` the client's name is appended. */
export const consumerSubjects = { open: "mcpf.consumer.open", close: "mcpf.consumer.close" } as const;
/** Streams that nobody names in `StreamName`, because only `bus` knows of them. */
export const objectStream = "OBJ_configurations";

/** Users of `CORE` itself. */
const coreUsers = ["bootstrap", "keeper"] as const;
type KeyedClient = Exclude<BusClient, typeof onlooker>;
export type BusUser = KeyedClient | (typeof coreUsers)[number];
export const busUsers: readonly BusUser[] = [...busClients.filter((client): client is KeyedClient => client !== onlooker), ...coreUsers];

/** Public NKeys that are valid for each user: two while one is replaced by the other. */
export type BusKeys = Readonly<Record<BusUser, readonly string[]>>;

interface Import {
  /** As it is called in the exporting account. */
  readonly subject: string;
  /** As the client calls it, where that differs. */
  readonly to?: string;
  readonly kind: "service" | "stream";
  readonly from: string;
  /** More than one answer may come. */
  readonly streamed?: boolean;
}
type Json = Readonly<Record<string, unknown>>;

/** The name of a client's account. */
export function accountOf(client: BusUser | BusClient): string {
  return client === "bootstrap" || client === "keeper" ? coreAccount : client.toUpperCase().replaceAll("-", "_");
}

/** What a client's account imports: everything it can reach. */
export function importsOf(client: BusClient): readonly Import[] {
  const access = busAccessOf(client);
  const told = access.hears.map((type): Import => ({ subject: filterOf(type), kind: "stream", from: accountOf(speakerOf(type)) }));
  return [
    ...access.says.filter((subject) => isKept(subject)).map(core),
    ...asksEvents(access, client).map(([subject, of]): Import => ({ subject, kind: "service", from: accountOf(of), streamed: true })),
    ...access.asks.map((subject): Import => ({ subject, kind: "service", from: accountOf(requests[subject].service as BusClient) })),
    ...told,
    ...(access.overhears ? overheard() : []),
    ...interfaceOf(access),
    ...Object.values(consumerSubjects).map((to): Import => ({ subject: `${to}.${client}`, to, kind: "service", from: coreAccount })),
    ...(access.discovers ? discovery("PING").filter(({ from }) => from !== accountOf(client)) : []),
    ...(access.examines ? discovery("INFO").filter(({ from }) => from !== accountOf(client)) : []),
  ];
}

/** Who brings no key: refused, or let in as the onlooker. */
interface Strangers {
  readonly onlookers: boolean;
}
/** In the configuration of a server that lets onlookers in. */
const onlookersLine = `no_auth_user: ${onlooker}`;

/** Whether a server with this configuration lets onlookers in. */
export function hasOnlookers(configuration: string): boolean {
  return configuration.includes(`\n${onlookersLine}\n`);
}

/** Text for nats-server: `accounts { … }`, and who those are that bring no key. */
export function natsAccounts(keys: BusKeys, { onlookers }: Strangers = { onlookers: false }): string {
  const clients = busClients.filter((client) => onlookers || client !== onlooker);
  const accounts: Record<string, Json> = {};
  const exported = new Map<string, Map<string, { entry: Json; to: Set<string> }>>();
  const imports = new Map<string, readonly Import[]>([
    ...clients.map((client) => [accountOf(client), importsOf(client)] as const),
    [coreAccount, coreImports()],
  ]);
  for (const [account, list] of imports) {
    for (const one of list) {
      const entries = exported.get(one.from) ?? new Map();
      exported.set(one.from, entries);
      const id = `${one.kind} ${one.subject}`;
      const found = entries.get(id) ?? {
        entry: { [one.kind]: one.subject, ...(one.streamed ? { response_type: "stream" } : {}) },
        to: new Set(),
      };
      entries.set(id, found);
      found.to.add(account);
    }
  }
  const side = (account: string): Json => ({
    exports: [...(exported.get(account) ?? new Map()).values()].map(({ entry, to }) => ({ ...entry, accounts: [...to] })),
    imports: (imports.get(account) ?? []).map(({ kind, from, subject, to }) => ({
      [kind]: { account: from, subject },
      ...(to === undefined ? {} : { to }),
    })),
  });
  accounts[coreAccount] = {
    jetstream: "enabled",
    users: [...keys.bootstrap.map((nkey) => ({ nkey })), ...keys.keeper.map((nkey) => ({ nkey, permissions: keeperPermissions }))],
    ...side(coreAccount),
  };
  for (const client of clients) {
    const permissions = permissionsOf(client);
    // nats-server 2.9 takes a name for who brings no key, and no NKey. Whoever says the name without a password is nobody else.
    const users = client === onlooker ? [{ user: onlooker, permissions }] : keys[client].map((nkey) => ({ nkey, permissions }));
    accounts[accountOf(client)] = { users, ...side(accountOf(client)) };
  }
  return `accounts ${JSON.stringify(accounts, null, 2)}\n${onlookers ? `${onlookersLine}\n` : ""}`;
}

/** What a client may publish and subscribe to in its own account: a refusal then names the subject, where an import that is missing would be silence. */
export function permissionsOf(client: BusClient): {
  readonly publish: { readonly allow: readonly string[] };
  readonly subscribe: { readonly allow: readonly string[]; readonly deny?: readonly string[] };
} & Json {
  const access = busAccessOf(client);
  const imports = importsOf(client);
  // Nothing is in their account but what they may hear and their own questions, so that any wildcard will do.
  if (client === onlooker)
    return {
      publish: { allow: unique(imports.filter(({ kind }) => kind === "service").map(({ subject, to }) => to ?? subject)) },
      subscribe: { allow: [">"], deny: [`${clientApiPrefix}.>`, "mcpf.>"] },
    };
  const spoken = access.says.filter((subject) => !isKept(subject));
  const asked = (Object.keys(askedEvents) as (keyof typeof askedEvents)[]).filter((type) => askedEvents[type] === client);
  const ownEvents = (Object.keys(events) as EventType[]).filter((type) => (events[type].saidBy as readonly string[]).includes(client));
  return {
    publish: {
      allow: unique([
        ...spoken,
        ...(access.discovers ? [`$SRV.PING.${client}`] : []),
        ...imports.filter(({ kind }) => kind === "service").map(({ subject, to }) => to ?? subject),
      ]),
    },
    subscribe: {
      allow: unique([
        "_INBOX.>",
        "$SRV.>",
        ...access.answers,
        ...asked,
        ...imports.filter(({ kind }) => kind === "stream").map(({ subject }) => subject),
        // What the other instances of the service say.
        ...ownEvents.map(filterOf),
      ]),
    },
    allow_responses: { max: 1000, expires: "2m" },
  };
}

const keeperPermissions: Json = {
  publish: { allow: ["$JS.API.INFO", "$JS.API.CONSUMER.CREATE.>", "$JS.API.CONSUMER.DELETE.>", "$JS.API.CONSUMER.NAMES.>"] },
  subscribe: { allow: ["_INBOX.>", ...Object.values(consumerSubjects).map((subject) => `${subject}.*`)] },
  allow_responses: true,
};

function core(subject: string): Import {
  return { subject, kind: "service", from: coreAccount };
}

function interfaceOf({ reads, queues, buckets, objects, says }: BusAccess): Import[] {
  const api = (verb: string, streamed = false): Import => ({
    subject: `$JS.API.${verb}`,
    to: `${clientApiPrefix}.${verb}`,
    kind: "service",
    from: coreAccount,
    ...(streamed ? { streamed } : {}),
  });
  // A fenced publish looks at its stream first, and reads the winner's event.
  const looks = new Set<string>([...reads, ...(says.length > 0 ? streamsOf(says) : [])]);
  const objectReader = objects === "none" ? [] : [objectStream];
  return [
    api("INFO"),
    ...[...looks, ...objectReader, ...buckets.map((bucket) => `KV_${bucket}`)].flatMap((stream) => [
      api(`STREAM.INFO.${stream}`),
      api(`STREAM.MSG.GET.${stream}`),
    ]),
    ...[...reads, ...objectReader].map((stream) => api(`CONSUMER.MSG.NEXT.${stream}.*`, true)),
    ...queues.map(({ stream, durable }) => core(`$JS.ACK.${stream}.${durable}.>`)),
    ...buckets.flatMap((bucket): Import[] => [
      api(`DIRECT.GET.KV_${bucket}.>`),
      { subject: `$KV.${bucket}.>`, to: `${clientApiPrefix}.$KV.${bucket}.>`, kind: "service", from: coreAccount },
    ]),
    ...(objects === "write" ? [core("$O.configurations.>")] : []),
  ];
}

/** The streams that keep what is said. */
function streamsOf(says: readonly string[]): StreamName[] {
  return unique(
    says.flatMap((subject): StreamName[] => {
      if (subject.startsWith("quarantine.")) return ["QUARANTINE"];
      const type = typeOf(subject);
      const stream = type === null ? null : events[type].stream;
      return stream === null ? [] : [stream];
    }),
  );
}

function isKept(subject: string): boolean {
  return streamsOf([subject]).length > 0;
}

function typeOf(subject: string): EventType | null {
  for (let tokens = subject.split("."); tokens.length > 0; tokens = tokens.slice(0, -1)) {
    const type = tokens.join(".");
    if (isEventType(type)) return type;
  }
  return null;
}

function keptTypes(): EventType[] {
  return (Object.keys(events) as EventType[]).filter((type) => events[type].stream === "AUDIT");
}

/** Every event of the log from each who says it: nats-server gives what came to CORE by a service import to no stream import of CORE. */
function overheard(): Import[] {
  return keptTypes().flatMap((type) =>
    events[type].saidBy.map((speaker): Import => ({ subject: filterOf(type), kind: "stream", from: accountOf(speaker) })),
  );
}

/** Questions that the client asks of another. */
function asksEvents(access: BusAccess, client: BusClient): [string, BusClient][] {
  return Object.entries(askedEvents).filter(([type, of]) => of !== client && access.says.includes(type));
}

/** The one client that says an event which others hear. */
function speakerOf(type: EventType): BusClient {
  const [speaker, ...more] = events[type].saidBy;
  if (speaker === undefined || more.length > 0)
    throw new RangeError(`${type} is said by ${events[type].saidBy.join(", ")}: only what one service says can be heard by others`);
  return speaker as BusClient;
}

/** As a subscriber of the event writes it. */
function filterOf(type: EventType): string {
  return events[type].keys.length === 0 ? type : `${type}.>`;
}

/** The bootstrap user may ask everybody, for operators and tests. */
function coreImports(): Import[] {
  return [
    ...(Object.keys(requests) as (keyof typeof requests)[]).map(
      (subject): Import => ({ subject, kind: "service", from: accountOf(requests[subject].service as BusClient) }),
    ),
    ...Object.entries(askedEvents).map(([subject, of]): Import => ({ subject, kind: "service", from: accountOf(of), streamed: true })),
    { subject: "prober.heartbeat", kind: "stream", from: accountOf("prober") },
    ...discovery("PING"),
    ...discovery("INFO"),
    ...discovery("STATS"),
  ];
}

function discovery(verb: "PING" | "INFO" | "STATS"): Import[] {
  return discoverable.map((name) => ({ subject: `$SRV.${verb}.${name}`, kind: "service", from: accountOf(name), streamed: true }));
}

/** Clients that register as services; the others only ask. */
export const discoverable: readonly BusClient[] = busClients.filter((client) => !onlyAsks.has(client));

function unique<T>(list: readonly T[]): T[] {
  return [...new Set(list)];
}
