import assert from "node:assert/strict";
import { cp, rm } from "node:fs/promises";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type StreamDefinition, streams } from "@mcp-failover/contracts";
import { freePort, patientMs, type RunningServer, startNats, tempDir } from "@mcp-failover/testkit";
import { type Bus, BusError, type BusLog, connectBus } from "../src/index.ts";
import { giveUpConnection, jetStreamApi, publishRaw, serviceInfo } from "../src/internal.ts";
import { positionOf } from "../src/nats/api.ts";
import { reconnectMs } from "../src/nats/link.ts";
import { connected, heartbeat, holdBody, note, numberOf, until } from "./behaviour/world.ts";
import { tcpProxy } from "./tcp-proxy.ts";

interface Rig {
  readonly server: RunningServer;
  connect(log?: BusLog): Promise<Bus>;
  /** Everything that is ended with the test. */
  readonly buses: Bus[];
}

/** A server of its own and connections straight to it. */
async function withServer(options: Parameters<typeof startNats>[0], run: (rig: Rig) => Promise<void>): Promise<void> {
  const server = await startNats(options);
  const buses: Bus[] = [];
  try {
    await run({
      server,
      buses,
      async connect(log) {
        const bus = connectBus({ servers: server.url, name: "suite", instance: "suite", ...(log === undefined ? {} : { log }) });
        buses.push(bus);
        await until(() => connected(bus), "it is connected");
        return bus;
      },
    });
  } finally {
    await Promise.all(buses.map((bus) => bus.close()));
    await server.stop();
  }
}

const consumersOf = async (bus: Bus): Promise<{ name: string; num_pending: number }[]> =>
  (await jetStreamApi<{ consumers: { name: string; num_pending: number }[] | null }>(bus, "CONSUMER.LIST.AUDIT")).consumers ?? [];
const range = (last: number): number[] => Array.from({ length: last }, (_, index) => index + 1);

describe("NATS alone", { concurrency: 4 }, () => {
  test("a service starts without NATS: what it follows, hears and serves begins when NATS comes, within about a second", async () => {
    const port = await freePort();
    const bus = connectBus({ servers: `nats://127.0.0.1:${port}`, name: "early", instance: "early" });
    assert.equal(bus.status.kind, "disconnected");
    const seen: number[] = [];
    let heard = 0;
    bus.follow("AUDIT", { from: "last_per_subject" }, ({ seq }) => {
      seen.push(seq);
    });
    bus.subscribe("prober.heartbeat", () => {
      heard += 1;
    });
    const handlers = { "command.hold": async () => "held" };
    await bus.serve({ name: "failover-controller", instance: "fc-1", version: "0.1.0", description: "decides", handlers });
    await sleep(1500);
    await assert.rejects(bus.info("AUDIT"), (error) => error instanceof BusError && error.code === "unreachable");
    const server = await startNats({ port });
    try {
      const startMs = Date.now();
      await until(() => connected(bus), "it is connected");
      assert.ok(Date.now() - startMs < patientMs(1500), `${Date.now() - startMs} ms`);
      await bus.ensureStreams(streams, { replicas: 1 });
      await bus.append(note("pager", 1));
      bus.publish(heartbeat("p1"));
      await until(() => seen.length === 1 && heard === 1, "both have come");
      assert.deepEqual(await bus.request("command.hold", holdBody), { ok: true, result: "held" });
    } finally {
      await bus.close();
      await server.stop();
    }
  });

  test("when the NATS client gives up for good, a new connection takes over all that is followed, heard, served and kept", () =>
    withServer({}, async ({ connect }) => {
      const [bus, other] = [await connect(), await connect()];
      await bus.ensureStreams(streams, { replicas: 1 });
      const seen: number[] = [];
      let heard = 0;
      bus.follow("AUDIT", { from: "last_per_subject" }, ({ seq }) => {
        seen.push(seq);
      });
      bus.subscribe("prober.heartbeat", () => {
        heard += 1;
      });
      await bus.serve({
        name: "launcher",
        instance: "l-1",
        version: "0.1.0",
        description: "runs",
        handlers: { "launcher.processes": async () => [] },
      });
      const bucket = await bus.bucket("things");
      await bucket.put("a", "one");
      await bus.append(note("pager", 1));
      for (let round = 1; round <= 3; round += 1) {
        await giveUpConnection(bus);
        await until(() => bus.status.kind === "disconnected", "the loss is noticed");
        await until(() => connected(bus), "it is connected again", 2000);
        await other.append(note("pager", round + 1));
        await until(() => seen.length === round + 1, "following goes on");
        await until(async () => (await other.services()).length === 1, "the service is there, once");
        assert.deepEqual(await other.request("launcher.processes", {}), { ok: true, result: [] });
        other.publish(heartbeat("p1"));
        await until(() => heard === round, "the subscription hears, once");
        assert.equal((await bucket.get("a"))?.value, "one");
      }
      assert.deepEqual(seen, [1, 2, 3, 4]);
    }));

  test("a bus that never found its server closes at once", async () => {
    const bus = connectBus({ servers: `127.0.0.1:${await freePort()}`, name: "lonely", instance: "lonely" });
    await sleep(100);
    const startMs = Date.now();
    await bus.close();
    assert.ok(Date.now() - startMs < patientMs(1000));
  });

  test("the pause between dials is quick after a short loss, never over 1.25 s, and differs from process to process", () => {
    for (const [downMs, least, most] of [
      [0, 150, 250],
      [1000, 150, 250],
      [2500, 375, 625],
      [20_000, 750, 1250],
      [86_400_000, 750, 1250],
    ] as const) {
      const waits = Array.from({ length: 50 }, () => reconnectMs(downMs));
      assert.ok(
        waits.every((ms) => ms >= least && ms <= most),
        `${downMs}: ${waits.join(" ")}`,
      );
      assert.ok(new Set(waits).size > 10);
    }
  });

  test("a slow handler holds back the server: what it has not taken waits there, not in this process", () =>
    withServer({}, async ({ connect }) => {
      const bus = await connect();
      await bus.ensureStreams(streams, { replicas: 1 });
      for (let n = 1; n <= 600; n += 1) await bus.append(note("pager", n));
      let release: () => void = () => undefined;
      const held = new Promise<void>((resolve) => {
        release = resolve;
      });
      const seen: number[] = [];
      bus.follow("AUDIT", { from: { seq: 1 } }, async ({ seq }) => {
        if (seq === 1) await held;
        seen.push(seq);
      });
      await until(async () => (await consumersOf(bus)).length === 1, "it follows");
      await sleep(300);
      const [consumer] = await consumersOf(bus);
      assert.ok((consumer?.num_pending ?? 0) >= 600 - 256, JSON.stringify(consumer));
      release();
      await until(() => seen.length === 600, "all have come");
      assert.deepEqual(seen, range(600));
    }));

  test("messages that together are larger than one pull come all, in order", () =>
    withServer({}, async ({ connect }) => {
      const bus = await connect();
      await bus.ensureStreams(streams, { replicas: 1 });
      const padding = "x".repeat(700_000);
      for (let n = 1; n <= 30; n += 1) {
        const event = note("pager", n);
        await bus.append({ ...event, data: { ...event.data, padding } });
      }
      const seen: number[] = [];
      bus.follow("AUDIT", { from: { seq: 1 } }, (stored) => {
        seen.push(numberOf(stored));
      });
      await until(() => seen.length === 30, "all have come");
      assert.deepEqual(seen, range(30));
      const read: number[] = [];
      for await (const stored of bus.read("AUDIT")) read.push(numberOf(stored));
      assert.deepEqual(read, range(30));
    }));

  test("following goes on when an administrator deletes its consumer, and when the server is silent for seven seconds", () =>
    withServer({}, async ({ connect, server }) => {
      const [bus, writer] = [await connect(), await connect()];
      await bus.ensureStreams(streams, { replicas: 1 });
      const seen: number[] = [];
      bus.follow("AUDIT", { from: { seq: 1 } }, ({ seq }) => {
        seen.push(seq);
      });
      await writer.append(note("pager", 1));
      await until(() => seen.length === 1, "the first has come");
      for (const { name } of await consumersOf(writer)) await jetStreamApi(writer, `CONSUMER.DELETE.AUDIT.${name}`);
      await writer.append(note("pager", 2));
      await until(() => seen.length === 2, "the second has come");
      process.kill(server.pid, "SIGSTOP");
      const late = writer.append(note("pager", 3)).catch(() => null); // May be told so; the log decides.
      await sleep(7000);
      process.kill(server.pid, "SIGCONT");
      await late;
      await writer.append(note("pager", 4));
      const { lastSeq } = await writer.info("AUDIT");
      await until(() => seen.at(-1) === lastSeq, "the last has come");
      assert.deepEqual(seen, range(lastSeq));
    }));

  test("following goes on when its pull got lost, so that the server has nothing to say and no heart beats", () =>
    withServer({}, async ({ connect, server, buses }) => {
      const writer = await connect();
      await writer.ensureStreams(streams, { replicas: 1 });
      const proxy = await tcpProxy(server.port);
      try {
        proxy.swallow("CONSUMER.MSG.NEXT");
        const bus = connectBus({ servers: proxy.url, name: "deaf", instance: "deaf" });
        buses.push(bus);
        const seen: number[] = [];
        bus.follow("AUDIT", { from: { seq: 1 } }, ({ seq }) => {
          seen.push(seq);
        });
        await writer.append(note("pager", 1));
        await until(() => seen.length === 1, "the event has come all the same");
      } finally {
        await proxy.close();
      }
    }));

  test("when the log is replaced, following says so and begins at the new one's start: it does not wait for the old sequence", () =>
    withServer({}, async ({ connect }) => {
      const bus = await connect();
      await bus.ensureStreams(streams, { replicas: 1 });
      const seen: string[] = [];
      const told: string[] = [];
      bus.follow("AUDIT", { from: "new" }, (stored) => {
        seen.push(`${stored.seq}/${numberOf(stored)}`);
      });
      const onCaughtUp = (): number => told.push("end");
      bus.follow("AUDIT", { from: "last_per_subject", onCaughtUp, onAnotherLog: () => told.push("another") }, (stored) => {
        told.push(`${stored.seq}/${numberOf(stored)}`);
      });
      await until(async () => (await consumersOf(bus)).length === 2, "both follow");
      for (let n = 1; n <= 3; n += 1) await bus.append(note("pager", n));
      await until(() => seen.length === 3 && told.length === 4, "three have come");
      await jetStreamApi(bus, "STREAM.DELETE.AUDIT");
      await bus.ensureStreams(streams, { replicas: 1 });
      await bus.append(note("pager", 101));
      await until(() => seen.length === 4 && told.length === 7, "the first of the new log has come");
      assert.deepEqual(seen, ["1/1", "2/2", "3/3", "1/101"]);
      assert.deepEqual(told.slice(0, 5), ["end", "1/1", "2/2", "3/3", "another"]);
      // Whether it was there when the new log was first seen is a matter of milliseconds.
      assert.deepEqual(told.slice(5).sort(), ["1/101", "end"]);
    }));

  test("a log that was restored to an earlier place and went on past where a follower was is followed from its start: nothing of it is passed over", async () => {
    const [lost, restored] = [await tempDir("mcpf-lost-"), await tempDir("mcpf-restored-")];
    const ends: (() => Promise<unknown>)[] = [lost.remove, restored.remove];
    try {
      const before = await startNats({ storeDir: lost.path });
      ends.unshift(() => before.stop());
      const { port } = before;
      const connect = async (servers: string): Promise<Bus> => {
        const bus = connectBus({ servers, name: "suite", instance: "suite" });
        ends.unshift(() => bus.close());
        await until(() => connected(bus), "it is connected");
        return bus;
      };
      const writer = await connect(before.url);
      await writer.ensureStreams(streams, { replicas: 1 });
      for (let n = 1; n <= 2; n += 1) await writer.append(note("pager", n));
      await before.kill();
      await cp(lost.path, restored.path, { recursive: true });
      await before.restart();
      const proxy = await tcpProxy(port);
      ends.unshift(() => proxy.close());
      const follower = await connect(proxy.url);
      const seen: string[] = [];
      const told: string[] = [];
      const whole: string[] = [];
      follower.follow("AUDIT", { from: { seq: 1 }, onAnotherLog: () => told.push("another") }, (stored) => {
        seen.push(`${stored.seq}/${numberOf(stored)}`);
      });
      follower.follow("AUDIT", { from: "last_per_subject", filter: "notify.sent.mail" }, (stored) => {
        whole.push(`${stored.seq}/${numberOf(stored)}`);
      });
      await until(() => connected(writer), "the writer is back");
      await writer.append(note("mail", 3));
      await writer.append(note("pager", 4));
      await until(() => seen.length === 4 && whole.length === 1, "all of the log that is lost has come");
      proxy.cut();
      await until(() => !connected(follower), "the follower is cut off");
      await before.stop();
      const after = await startNats({ storeDir: restored.path, port });
      ends.unshift(() => after.stop());
      await until(() => connected(writer), "the writer is on the log that was restored");
      for (const [channel, n] of [
        ["mail", 103],
        ["pager", 104],
        ["mail", 105],
        ["pager", 106],
      ] as const)
        await writer.append(note(channel, n));
      proxy.restore();
      await until(() => seen.at(-1) === "6/106" && whole.at(-1) === "5/105", "both follow the log in force");
      assert.deepEqual(seen, ["1/1", "2/2", "3/3", "4/4", "1/1", "2/2", "3/103", "4/104", "5/105", "6/106"]);
      assert.deepEqual(whole, ["3/3", "5/105"]);
      assert.deepEqual(told, ["another"]);
      // The same log is no other one, however often the connection is lost.
      proxy.cut();
      await until(() => !connected(follower), "the follower is cut off again");
      await writer.append(note("pager", 107));
      proxy.restore();
      await until(() => seen.at(-1) === "7/107", "following goes on");
      assert.deepEqual([seen.length, told], [11, ["another"]]);
    } finally {
      for (const end of ends) await end();
    }
  });

  test("what may not be published is refused at once, and no secret of the connection shows", async () => {
    const config = `authorization { users = [
      { user: suite, password: "s3cret-pass", permissions: { publish: { deny: ["notify.>", "command.>"] } } }
    ] }`;
    const server = await startNats({ config });
    const said: string[] = [];
    const log: BusLog = {
      warn: (fields, message) => said.push(message, JSON.stringify(fields)),
      debug: (fields, message) => said.push(message, JSON.stringify(fields)),
    };
    const bus = connectBus({ servers: server.url.replace("nats://", "nats://suite:s3cret-pass@"), name: "suite", instance: "suite", log });
    const stranger = connectBus({
      servers: server.url.replace("nats://", "nats://suite:wr0ng-pass@"),
      name: "stranger",
      instance: "stranger",
      log,
    });
    try {
      await until(() => connected(bus), "it is connected");
      await bus.ensureStreams(streams, { replicas: 1 });
      const startMs = Date.now();
      const refused = (error: unknown) => {
        said.push(String(error), JSON.stringify(error));
        return error instanceof BusError && error.code === "rejected" && /permission/.test(error.message);
      };
      await assert.rejects(bus.appendFenced(note("pager", 1), 0), refused);
      await assert.rejects(bus.append(note("pager", 1)), refused);
      await assert.rejects(bus.request("command.hold", holdBody), refused);
      assert.ok(Date.now() - startMs < patientMs(1000));
      assert.equal(stranger.status.kind, "disconnected");
      assert.ok(stranger.status.kind === "disconnected" && /authorization/i.test(stranger.status.reason), JSON.stringify(stranger.status));
      said.push(JSON.stringify(bus.status), JSON.stringify(stranger.status));
      assert.doesNotMatch(said.join("\n"), /s3cret-pass|wr0ng-pass/);
    } finally {
      await Promise.all([bus.close(), stranger.close()]);
      await server.stop();
    }
  });

  test("a message above the server's own limit is refused before it is sent", () =>
    withServer({ config: "max_payload: 64KB" }, async ({ connect }) => {
      const bus = await connect();
      await bus.ensureStreams(streams, { replicas: 1 });
      const event = note("pager", 1);
      const large = { ...event, data: { ...event.data, padding: "x".repeat(100_000) } };
      const tooLarge = (error: unknown) => error instanceof BusError && error.code === "too_large";
      await assert.rejects(bus.append(large), tooLarge);
      await assert.rejects(bus.appendFenced(large, 0), tooLarge);
      assert.ok(connected(bus));
      assert.equal((await bus.appendFenced(event, 0)).outcome, "won");
    }));

  test("a service is listed by the services API with its request subjects as endpoints in the queue group q", () =>
    withServer({}, async ({ connect }) => {
      const bus = await connect();
      const handlers = { "launcher.processes": async () => [], "launcher.kill": async () => null };
      await bus.serve({ name: "launcher", instance: "l-1", version: "0.1.0", description: "runs processes", handlers });
      const info = await serviceInfo<{ description: string; endpoints: { name: string; subject: string; queue_group: string }[] }>(
        bus,
        "launcher",
      );
      assert.equal(info.description, "runs processes");
      assert.deepEqual(
        info.endpoints.map(({ name, subject, queue_group }) => [name, subject, queue_group]),
        [
          ["launcher-processes", "launcher.processes", "q"],
          ["launcher-kill", "launcher.kill", "q"],
        ],
      );
    }));

  test("a malformed message in the work queue is quarantined, handed over as such, and gone after `done`", () =>
    withServer({}, async ({ connect }) => {
      const bus = await connect();
      await bus.ensureStreams(streams, { replicas: 1 });
      const kinds: string[] = [];
      bus.consumeQueue("notifier", { filter: "outbox.>", ackWaitMs: 1000, concurrency: 2 }, async ({ stored }) => {
        kinds.push(stored.content.kind);
        return { kind: "done" };
      });
      await publishRaw(bus, "outbox.webhook", "}{");
      await until(async () => kinds.length === 1 && (await bus.info("OUTBOX")).messages === 0, "it is gone");
      await until(async () => (await bus.info("QUARANTINE")).messages === 1, "it is quarantined");
      assert.deepEqual(kinds, ["malformed"]);
      assert.ok(await bus.lastOf("QUARANTINE", "quarantine.OUTBOX.1"));
    }));

  test("B9: in a queue that was made again a message stands in QUARANTINE beside the one that had its place before", () =>
    withServer({}, async ({ connect }) => {
      const bus = await connect();
      await bus.ensureStreams(streams, { replicas: 1 });
      bus.consumeQueue("notifier", { filter: "outbox.>", ackWaitMs: 1000, concurrency: 1 }, async () => ({ kind: "done" }));
      const payloads = async (): Promise<string[]> => {
        const found: string[] = [];
        for await (const { bytes } of bus.read("QUARANTINE")) {
          const record = JSON.parse(Buffer.from(bytes).toString()) as { stream: string; seq: number; payload: string };
          found.push(`${record.stream} ${record.seq} ${Buffer.from(record.payload, "base64").toString()}`);
        }
        return found;
      };
      const empty = async (lastSeq: number): Promise<boolean> => {
        const info = await bus.info("OUTBOX");
        return info.messages === 0 && info.lastSeq === lastSeq;
      };
      await publishRaw(bus, "outbox.webhook", "the first");
      await until(() => empty(1), "the first is gone from the queue");
      await jetStreamApi(bus, "STREAM.DELETE.OUTBOX");
      await bus.ensureStreams(streams, { replicas: 1 });
      await publishRaw(bus, "outbox.webhook", "another");
      await until(() => empty(1), "the other one is gone from the queue", 20_000);
      assert.deepEqual(await payloads(), ["OUTBOX 1 the first", "OUTBOX 1 another"]);
    }));

  test("a bucket that a server lost with its disk is made again at its next use, by whoever kept something in it", async () => {
    const dir = await tempDir("mcpf-disk-");
    try {
      await withServer({ storeDir: dir.path }, async ({ connect, server }) => {
        const bus = await connect();
        const bucket = await bus.bucket("things");
        await bucket.put("a", "one");
        await server.kill();
        await until(() => !connected(bus), "the loss is noticed");
        await rm(dir.path, { recursive: true });
        await server.restart();
        await until(() => connected(bus), "it is connected again");
        // Nobody answers who reads from a bucket that is not there.
        await until(async () => (await bucket.get("a").catch(() => "no answer")) === null, "it is there, and empty");
        assert.ok((await bucket.put("a", "two")) > 0);
        assert.equal((await bucket.get("a"))?.value, "two");
        await jetStreamApi(bus, "STREAM.DELETE.KV_things");
        assert.notEqual(await bucket.create("b", "three"), null);
      });
    } finally {
      await dir.remove();
    }
  });

  test("the place of a delivered message is read from both forms of its reply subject", () => {
    const place = { attempt: 2, seq: 1234, delivery: 56, timeMs: 1_700_000_000_123, pending: 7 };
    assert.deepEqual(positionOf("$JS.ACK.AUDIT.c1.2.1234.56.1700000000123456789.7"), place);
    assert.deepEqual(positionOf("$JS.ACK._.hash.AUDIT.c1.2.1234.56.1700000000123999999.7.random"), place);
    assert.equal(positionOf("_INBOX.abc"), null);
    assert.equal(positionOf(undefined), null);
  });
});

const audit = streams.filter(({ name }) => name === "AUDIT") as [StreamDefinition];
const keepsFence = (bus: Bus): boolean => bus.status.kind === "connected" && !/^2\.([0-9]|10)\./.test(bus.status.serverVersion);
const succeeds = (work: Promise<unknown>): Promise<boolean> =>
  work.then(
    () => true,
    () => false,
  );

/** Three servers that make one cluster, and buses that know all of them. */
async function withCluster(run: (servers: readonly RunningServer[], connect: () => Promise<Bus>) => Promise<void>): Promise<void> {
  const ports = await Promise.all(Array.from({ length: 6 }, () => freePort()));
  const routes = ports.slice(3).map((port) => `nats-route://127.0.0.1:${port}`);
  const servers = await Promise.all(
    [0, 1, 2].map((index) => {
      const cluster = `cluster { name: c, listen: "127.0.0.1:${ports[index + 3]}", routes: ${JSON.stringify(routes)} }`;
      return startNats({ port: ports[index] as number, config: `server_name: n${index}\n${cluster}` });
    }),
  );
  const buses: Bus[] = [];
  try {
    await run(servers, async () => {
      const bus = connectBus({ servers: servers.map(({ url }) => url).join(","), name: "suite", instance: "suite" });
      buses.push(bus);
      await until(() => connected(bus), "it is connected");
      return bus;
    });
  } finally {
    await Promise.all(buses.map((bus) => bus.close()));
    await Promise.all(servers.map((server) => server.stop()));
  }
}

describe("B8", () => {
  test("a replicated AUDIT is refused on a server older than 2.11: it is not made, and where it exists nothing is fenced on it", (t) =>
    withCluster(async (_servers, connect) => {
      const bus = await connect();
      if (keepsFence(bus)) return t.skip("this nats-server keeps the fence");
      const unsafe = (error: unknown) => error instanceof BusError && error.code === "replicas_unsafe" && /2\.11/.test(error.message);
      await assert.rejects(bus.ensureStreams(audit, { replicas: 3 }), unsafe);
      const config = {
        name: "AUDIT",
        subjects: ["notify.>"],
        num_replicas: 3,
        storage: "file",
        retention: "limits",
        max_msgs: -1,
        max_bytes: -1,
      };
      await until(() => succeeds(jetStreamApi(bus, "STREAM.CREATE.AUDIT", config)), "the cluster has a leader", 15_000);
      await assert.rejects(bus.appendFenced(note("pager", 1), 0), unsafe);
      await until(() => succeeds(bus.append(note("pager", 2))), "what has no fence is stored");
      assert.equal((await bus.info("AUDIT")).messages, 1);
      return undefined;
    }));

  test("on 2.11 and newer the fence of a replicated AUDIT holds and following survives, while its leader is killed again and again", (t) =>
    withCluster(async (servers, connect) => {
      const buses = await Promise.all(Array.from({ length: 6 }, () => connect()));
      const [bus] = buses as [Bus];
      if (!keepsFence(bus)) return t.skip("this nats-server is older than 2.11");
      const definition = { ...audit[0], maxBytes: 64 * 1024 * 1024 };
      await until(() => succeeds(bus.ensureStreams([definition], { replicas: 3 })), "the cluster has a leader", 15_000);
      const seen: number[] = [];
      bus.follow("AUDIT", { from: { seq: 1 } }, ({ seq }) => {
        seen.push(seq);
      });
      let expected = 0;
      for (let round = 0; round < 20; round += 1) {
        const server = servers[round % 3] as RunningServer;
        if (round % 10 === 5) await server.kill();
        const outcomes = await Promise.all(
          buses.map((each, index) => each.appendFenced(note("pager", round, `${round}/${index}`), expected, { timeoutMs: 20_000 })),
        );
        const winners = outcomes.flatMap((outcome) => (outcome.outcome === "won" ? [outcome.seq] : []));
        assert.equal(winners.length, 1, `round ${round}: ${JSON.stringify(winners)}`);
        expected = winners[0] ?? -1;
        if (round % 10 === 5) await server.restart();
      }
      await until(() => seen.at(-1) === expected, "the follower has it all", 20_000);
      assert.deepEqual(seen, range(expected));
      return undefined;
    }));
});
