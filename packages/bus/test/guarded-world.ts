import assert from "node:assert/strict";
import { type BusClient, type BusKeys, type BusUser, busUsers, natsAccounts, onlooker, streams } from "@mcp-failover/contracts";
import { type RunningServer, startNats } from "@mcp-failover/testkit";
import { connect, type NatsConnection, nkeyAuthenticator } from "nats";
import { type Bus, connectBus, keepConsumersOn, makeUserKey } from "../src/index.ts";
import { jetStreamApi } from "../src/internal.ts";

/** A real nats-server with the accounts that are made from the table, its streams and the keeper. */
export interface GuardedWorld {
  readonly server: RunningServer;
  /** In the account of the streams. */
  readonly admin: Bus;
  /** As our code connects; an onlooker brings no key. */
  connect(user: Anybody): Promise<Bus>;
  /** As an attacker would, who has the key of one service, or none. */
  attack(user: Anybody): Promise<NatsConnection>;
  /** What a stream holds: the subject of each message. */
  subjectsIn(stream: string): Promise<string[]>;
  close(): Promise<void>;
}

/** Who may come to a guarded world. */
export type Anybody = BusUser | BusClient;

export async function guardedWorld(options: { binary?: string; accountsAlone?: boolean; onlookers?: boolean } = {}): Promise<GuardedWorld> {
  const pairs = Object.fromEntries(busUsers.map((user) => [user, makeUserKey()])) as Record<BusUser, { seed: string; publicKey: string }>;
  const keys = Object.fromEntries(busUsers.map((user) => [user, [pairs[user].publicKey]])) as unknown as BusKeys;
  const config = natsAccounts(keys, { onlookers: options.onlookers ?? false });
  const server = await startNats({
    // A busy machine needs longer to prove who it is than the server waits by itself.
    config: `authorization { timeout: 60 }\n${options.accountsAlone ? withoutPermissions(config) : config}`,
    ...(options.binary === undefined ? {} : { binary: options.binary }),
  });
  const seedOf = (user: BusUser): Uint8Array => new TextEncoder().encode(pairs[user].seed);
  const buses: Bus[] = [];
  const raw: NatsConnection[] = [];
  const open = async (user: Anybody): Promise<Bus> => {
    const proof = user === onlooker ? {} : { credentials: { user, seed: () => seedOf(user), tls: null } };
    const bus = connectBus({ servers: server.url, name: user, instance: `${user}-1`, ...proof });
    buses.push(bus);
    for (let tries = 0; bus.status.kind !== "connected"; tries += 1) {
      assert.ok(tries < 600, `${user} connects: ${JSON.stringify(bus.status)}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    return bus;
  };
  const admin = await open("bootstrap");
  await admin.ensureStreams(streams, { replicas: 1 });
  keepConsumersOn(await open("keeper"));
  return {
    server,
    admin,
    connect: open,
    async attack(user) {
      const nc = await connect({
        servers: `127.0.0.1:${server.port}`,
        name: `attacker as ${user}`,
        waitOnFirstConnect: true,
        maxReconnectAttempts: 100,
        timeout: 30_000,
        ...(user === onlooker ? {} : { authenticator: nkeyAuthenticator(seedOf(user)) }),
      });
      raw.push(nc);
      return nc;
    },
    async subjectsIn(stream) {
      const { state } = await jetStreamApi<{ state: { subjects?: Record<string, number> } }>(admin, `STREAM.INFO.${stream}`, {
        subjects_filter: ">",
      });
      return Object.keys(state.subjects ?? {}).sort();
    },
    async close() {
      await Promise.all(raw.map((nc) => nc.close()));
      await Promise.all(buses.map((bus) => bus.close()));
      await server.stop();
    },
  };
}

/** The accounts must hold by themselves: the lists of permissions only make refusals audible. */
function withoutPermissions(config: string): string {
  const end = config.lastIndexOf("}") + 1;
  const accounts = JSON.parse(config.slice("accounts ".length, end)) as Record<string, { users: { permissions?: unknown }[] }>;
  for (const [name, { users }] of Object.entries(accounts)) if (name !== "CORE") for (const user of users) delete user.permissions;
  return `accounts ${JSON.stringify(accounts)}${config.slice(end)}`;
}
