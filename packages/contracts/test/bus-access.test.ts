import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type BusKeys,
  type BusUser,
  busAccessOf,
  busClients,
  busUsers,
  type EventType,
  events,
  importsOf,
  natsAccounts,
  permissionsOf,
} from "../src/index.ts";

const keys = Object.fromEntries(busUsers.map((user) => [user, [`U${user}`]])) as Record<BusUser, string[]> as BusKeys;
interface Account {
  readonly users: { readonly nkey: string; readonly permissions?: unknown }[];
  readonly exports: { readonly service?: string; readonly stream?: string; readonly accounts: string[] }[];
  readonly imports: { readonly service?: { account: string; subject: string }; readonly stream?: { account: string; subject: string } }[];
}
const accounts = JSON.parse(natsAccounts(keys).slice("accounts ".length)) as Record<string, Account>;

test("A2: no client has anything of JetStream's interface that changes a stream or makes a consumer", () => {
  for (const client of busClients) {
    for (const subject of [...importsOf(client).map((one) => one.subject), ...permissionsOf(client).publish.allow]) {
      assert.doesNotMatch(
        subject,
        /STREAM\.(CREATE|UPDATE|PURGE|DELETE|RESTORE|SNAPSHOT|MSG\.DELETE)|CONSUMER\.(CREATE|DURABLE|DELETE|NAMES|LIST)|^>$|API\.>/,
      );
    }
  }
});

test("A1: every account but that of the streams has no JetStream, and imports only what its owner exports to it", () => {
  for (const [name, account] of Object.entries(accounts)) {
    assert.equal("jetstream" in account, name === "CORE");
    for (const { service, stream } of account.imports) {
      const { account: from, subject } = service ?? stream ?? assert.fail();
      const exported = accounts[from]?.exports.find((one) => (service === undefined ? one.stream : one.service) === subject);
      assert.ok(exported?.accounts.includes(name), `${from} exports ${subject} to ${name}`);
    }
  }
});

test("A2: what a service decides, no other may say", () => {
  for (const type of Object.keys(events) as EventType[]) {
    if (!events[type].fenced) continue;
    const speakers = busClients.filter((client) => busAccessOf(client).says.some((subject) => subject.startsWith(type)));
    assert.deepEqual([...speakers].sort(), events[type].saidBy.filter((name) => name !== "bootstrap").sort(), type);
  }
});

test("a command is accepted by the one service that answers it", () => {
  assert.deepEqual(
    busAccessOf("breaker-state").says.filter((subject) => subject.startsWith("command.")),
    ["command.accepted.breaker"],
  );
  assert.ok(busAccessOf("chaos-runner").says.includes("command.accepted.chaos-run"));
});

test("a user whose key is being rotated has two, with the same permissions", () => {
  const rotating = natsAccounts({ ...keys, prober: ["UNEW", "UOLD"] });
  const { PROBER } = JSON.parse(rotating.slice("accounts ".length)) as Record<string, Account>;
  assert.deepEqual(
    PROBER?.users.map(({ nkey }) => nkey),
    ["UNEW", "UOLD"],
  );
  assert.deepEqual(PROBER?.users[0]?.permissions, PROBER?.users[1]?.permissions);
});
