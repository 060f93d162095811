import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, describe, test } from "node:test";
import {
  allBusSubjects,
  type BusClient,
  busAccessOf,
  busClients,
  clientApiPrefix,
  consumerSubjects,
  makeEvent,
  onlooker,
  permissionsOf,
  streams,
} from "@mcp-failover/contracts";
import { eventually } from "@mcp-failover/testkit";
import type { NatsConnection } from "nats";
import { jetStreamApi } from "../src/internal.ts";
import { subjectMatches } from "../src/subjects.ts";
import { attacks, attacksOfOnlookers } from "./attacks.ts";
import { type GuardedWorld, guardedWorld } from "./guarded-world.ts";

/** What the accounts guarantee (packages/contracts, nats-accounts.ts), on one nats-server; undefined: the system's. */
export function permissions(binary?: string): void {
  const server = binary === undefined ? {} : { binary };
  describe("the table of the bus", () => {
    let world: GuardedWorld;
    before(async () => {
      world = await guardedWorld({ ...server, onlookers: true });
    });
    after(() => world?.close());

    test("A2: for every service and every subject that is not its own, publish is refused, and nothing of it is stored", async () => {
      const subjects = [...new Set(allBusSubjects().map(example))];
      assert.ok(subjects.length > 40, `${subjects.length} subjects are tried`);
      let refusals = 0;
      for (const client of busClients) {
        const nc = await world.attack(client);
        const foreign = subjects.filter((one) => !mayPublish(client, one));
        for (const subject of foreign) assert.equal(await refused(nc, subject), "PERMISSIONS_VIOLATION", `${client} publishes ${subject}`);
        refusals += foreign.length;
        await nc.close();
      }
      assert.ok(refusals > 400, `${refusals} were tried`);
      for (const stream of ["AUDIT", "SIGNALS", "OUTBOX", "QUARANTINE"]) assert.deepEqual(await world.subjectsIn(stream), [], stream);
    });

    test("every service may publish every subject of its own that a stream keeps", async () => {
      for (const client of busClients) {
        const nc = await world.attack(client);
        for (const subject of busAccessOf(client).says.map(example).filter(isKept)) {
          assert.equal(await refused(nc, subject), null, `${client} publishes ${subject}`);
        }
        await nc.close();
      }
      assert.ok((await world.subjectsIn("AUDIT")).length > 20);
    });

    test("the CLI learns how a service is, in an account of its own; one that only looks who is there does not", async () => {
      const served = await world.connect("notifier");
      const definition = { name: "notifier", instance: "n-1", version: "0.1.0", description: "runs", handlers: {} };
      const { stop } = await served.serve({ ...definition, readiness: () => "well" });
      const seen = async (user: "cli" | "state-store" | "bootstrap") =>
        (await (await world.connect(user)).services({ timeoutMs: 3000, examine: true })).map(({ metadata }) => metadata);
      assert.deepEqual(await seen("cli"), [{ instance: "n-1", readiness: "well" }]);
      assert.deepEqual(await seen("bootstrap"), [{ instance: "n-1", readiness: "well" }]);
      assert.deepEqual(await seen("state-store"), [{ instance: "n-1" }]);
      await stop();
    });

    test("who may overhear hears every event of the log once, from each who may say it, also by a narrower wildcard", async () => {
      const listener = await world.attack("client");
      const heard: string[] = [];
      const listen = (filter: string): void => {
        listener.subscribe(filter, { callback: (error, { subject }) => heard.push(error === null ? subject : error.message) });
      };
      const ofAudit = streams.find(({ name }) => name === "AUDIT")?.subjects ?? [];
      for (const filter of permissionsOf("client").subscribe.allow) {
        if (ofAudit.some((kept) => subjectMatches(kept, example(filter)))) listen(filter);
      }
      await listener.flush();
      const said: string[] = [];
      for (const client of [...busClients, "bootstrap"] as const) {
        const nc = await world.attack(client);
        const own = client === "bootstrap" ? ["log.started", "config.applied"] : busAccessOf(client).says.map(example);
        for (const subject of own.filter((one) => ofAudit.some((kept) => subjectMatches(kept, one)))) {
          assert.equal(await refused(nc, subject), null, `${client} publishes ${subject}`);
          said.push(subject);
        }
        await nc.close();
      }
      // A developer subscribes to less than all that is allowed.
      listen("health.changed.x1.*");
      await listener.flush();
      const prober = await world.attack("prober");
      assert.equal(await refused(prober, "health.changed.x1.x1"), null);
      said.push("health.changed.x1.x1", "health.changed.x1.x1");
      await eventually(() => heard.length >= said.length, { withinMs: 30_000, what: () => `heard: ${heard.join(", ")}` });
      assert.deepEqual(heard.toSorted(), said.toSorted());
      assert.ok(new Set(said).size > 20, `${said.length} events were said`);
    });
  });

  describe("who brings no key, where such may look", { concurrency: 8 }, () => {
    let world: GuardedWorld;
    before(async () => {
      world = await guardedWorld({ ...server, onlookers: true });
    });
    after(() => world?.close());

    test("listens by any wildcard, also `>`, with the plainest of clients", async () => {
      const nc = await world.attack(onlooker);
      const heard = new Set<string>();
      for (const filter of [">", "breaker.>", "*.changed.>", "breaker.changed.mine.*"])
        nc.subscribe(filter, {
          callback: (error, { subject }) => {
            if (error !== null || subject === "breaker.changed.mine.x1") heard.add(`${filter}: ${error?.message ?? subject}`);
          },
        });
      await nc.flush();
      const said = "breaker.changed.mine.x1";
      assert.equal(await refused(await world.attack("breaker-state"), said), null);
      await eventually(() => heard.size >= 4, { withinMs: 30_000, what: () => `heard: ${[...heard].join(", ")}` });
      assert.deepEqual(
        [...heard].toSorted(),
        [">", "*.changed.>", "breaker.>", "breaker.changed.mine.*"].map((filter) => `${filter}: ${said}`).toSorted(),
      );
    });

    test("reads and follows AUDIT by our own client, and is told why it may not say anything", async () => {
      const bus = await world.connect(onlooker);
      const last = await (await world.connect("chaos-runner")).append(note());
      const followed: string[] = [];
      const following = bus.follow(
        "AUDIT",
        { filter: "command.accepted.>", from: { seq: 1 } },
        ({ subject }) => void followed.push(subject),
      );
      await eventually(() => followed.includes("command.accepted.chaos-run"), { withinMs: 30_000, what: () => `followed: ${followed}` });
      assert.equal((await bus.lastOf("AUDIT", "command.accepted.chaos-run"))?.seq, last.seq);
      await assert.rejects(bus.append(note()), /permissions violation: onlooker may not publish command\.accepted\.chaos-run/);
      await following.stop();
    });

    for (const attack of attacksOfOnlookers) test(attack.name, () => attack.run(world));
  });

  test("onlookers who ask for consumers without end get their 512 and no more, and keep no service from its own", async () => {
    const world = await guardedWorld({ ...server, onlookers: true });
    let isOver = false;
    let floods: Promise<unknown>[] = [];
    try {
      const nc = await world.attack(onlooker);
      const wish = JSON.stringify({ stream: "AUDIT", filter: ">", from: { kind: "all" } });
      const said = new Map<number, number>();
      const tell = (): string => JSON.stringify([...said]);
      const ask = async (): Promise<void> => {
        const answer = await nc.request(consumerSubjects.open, wish, { timeout: 30_000 }).catch(() => null);
        const code = answer?.json<{ error?: { code: number } }>().error?.code ?? 200;
        said.set(code, (said.get(code) ?? 0) + 1);
      };
      // Not more at a time than the keeper works on, until the limit is reached: the flood alone takes long to come to it.
      for (let n = 0; n < 500; n += 5) await Promise.all(Array.from({ length: 5 }, ask));
      floods = Array.from({ length: 100 }, async () => {
        while (!isOver) await ask();
      });
      await eventually(() => said.has(429), { withinMs: 60_000, what: () => `the limit is reached: ${tell()}` });
      const service = await world.attack("breaker-state");
      for (let n = 0; n < 20; n += 1) {
        const answer = (await service.request(consumerSubjects.open, wish, { timeout: 30_000 })).string();
        assert.doesNotMatch(answer, /busy/, `the ${n + 1}th of the service; onlookers: ${tell()}`);
      }
      const last = await (await world.connect("chaos-runner")).append(note());
      let seq = 0;
      const following = (await world.connect("breaker-state")).follow("AUDIT", { filter: ">", from: { seq: 1 } }, (one) => {
        seq = one.seq;
      });
      await eventually(() => seq >= last.seq, { withinMs: 60_000, what: () => `the service has caught up; onlookers: ${tell()}` });
      await following.stop();
      isOver = true;
      await Promise.all(floods);
      const { state } = await jetStreamApi<{ state: { consumer_count: number } }>(world.admin, "STREAM.INFO.AUDIT");
      assert.ok(state.consumer_count <= 512 + 40, `${state.consumer_count} consumers; onlookers: ${tell()}`);
    } finally {
      isOver = true;
      await world.close();
      await Promise.all(floods);
    }
  });

  for (const accountsAlone of binary === undefined ? [false, true] : [false]) {
    const how = accountsAlone ? "by the accounts alone, without the lists of permissions" : "by accounts and permissions";
    describe(`${attacks.length} attacks fail ${how}`, { concurrency: 8 }, () => {
      let world: GuardedWorld;
      before(async () => {
        world = await guardedWorld({ accountsAlone, ...server });
      });
      after(() => world?.close());
      for (const attack of attacks) test(`A1 to A4: ${attack.name}`, () => attack.run(world));
    });
  }
}

function note() {
  return makeEvent({
    type: "command.accepted",
    keys: ["chaos-run"],
    data: {
      commandId: "c1",
      command: "chaos.run",
      by: { kind: "operator", id: "test" },
      reason: "a test",
      timestamp: new Date().toISOString(),
      parameters: {},
    },
    id: randomUUID(),
    service: "chaos-runner",
    instance: "test",
    timeMs: Date.now(),
  });
}

/** A subject that a filter stands for. */
function example(filter: string): string {
  return filter.replaceAll("*", "x1").replace(/>$/, "x1");
}

function isKept(subject: string): boolean {
  return streams.some((stream) => stream.subjects.some((filter) => subjectMatches(filter, subject)));
}

function mayPublish(client: BusClient, subject: string): boolean {
  assert.ok(!subject.startsWith(clientApiPrefix));
  return permissionsOf(client).publish.allow.some((filter) => subjectMatches(filter, subject));
}

/** The code of what a request on the subject ends with; null when it was answered. */
async function refused(nc: NatsConnection, subject: string): Promise<string | null> {
  try {
    await nc.request(subject, new TextEncoder().encode("{}"), { timeout: 10_000 });
    return null;
  } catch (error) {
    return String((error as { code?: unknown }).code);
  }
}
