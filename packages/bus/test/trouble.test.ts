import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { streams } from "@mcp-failover/contracts";
import { eventually, startNats, tempDir } from "@mcp-failover/testkit";
import { type BusStatus, busHealth, connectBus } from "../src/index.ts";
import { jetStreamApi } from "../src/internal.ts";
import { ApiError, apiCodes, toBusError } from "../src/nats/api.ts";
import { Lag } from "../src/nats/lag.ts";
import type { NatsLink } from "../src/nats/link.ts";
import { keepStoreChecked } from "../src/nats/store-check.ts";
import { StoreHealth } from "../src/nats/store-health.ts";
import { UnansweredError } from "../src/nats/unanswered.ts";
import { connected, note, until } from "./behaviour/world.ts";

const refusal = (errCode: number, description: string) => new ApiError({ code: 503, err_code: errCode, description });
const noRoom = refusal(apiCodes.insufficientResources, "insufficient resources");

test("a cluster whose nodes have not all found each other yet is waited for, as what has no leader is; what is wrong is not", () => {
  const isWaitedFor = (status: number, errCode: number): boolean =>
    toBusError(new ApiError({ code: status, err_code: errCode, description: "said" }), "make the stream AUDIT").retriable;
  assert.equal(isWaitedFor(400, apiCodes.noSuitablePeers), true);
  assert.equal(isWaitedFor(503, 10008), true);
  assert.equal(isWaitedFor(400, apiCodes.streamNameInUse), false);
});

test("what NATS refuses to store is told until something is stored there again, or nobody tries there and it stores elsewhere", () => {
  let nowMs = 0;
  const store = new StoreHealth(() => nowMs);
  store.failed("AUDIT", noRoom);
  assert.match(store.reason ?? "", /no room to store in AUDIT: insufficient resources \(JetStream 10023\); free disk/);
  store.stored("SIGNALS");
  assert.notEqual(store.reason, null, "another stream may have room");
  store.stored("AUDIT");
  assert.equal(store.reason, null);
  store.failed("AUDIT", refusal(apiCodes.streamStoreFailed, "maximum bytes exceeded"));
  assert.match(store.reason ?? "", /the stream AUDIT is full/);
  nowMs = 31_000;
  assert.notEqual(store.reason, null, "nothing was stored since");
  store.stored("KV_store-check");
  assert.equal(store.reason, null);
});

test("a lost race, too large a message and a lost connection are no trouble of the store; silence is, after five seconds", () => {
  let nowMs = 0;
  const store = new StoreHealth(() => nowMs);
  store.failed("AUDIT", refusal(apiCodes.wrongLastSequence, "wrong last sequence"));
  store.failed("AUDIT", refusal(apiCodes.messageTooLarge, "too large"));
  store.failed("AUDIT", new UnansweredError("disconnected", true, "lost"));
  nowMs = 10_000;
  assert.equal(store.reason, null);
  store.failed("AUDIT", new UnansweredError("timeout", true, "no answer"));
  assert.equal(store.reason, null);
  nowMs = 15_000;
  assert.equal(store.reason, null, "one try says nothing of the time after it");
  store.failed("AUDIT", new UnansweredError("timeout", true, "no answer"));
  assert.match(store.reason ?? "", /JetStream does not answer what is to be stored in AUDIT.*disk is full/);
  store.failed("AUDIT", noRoom);
  store.failed("AUDIT", new UnansweredError("timeout", true, "no answer"));
  assert.match(store.reason ?? "", /no room/, "what was said outright is not made vaguer");
});

test("one try that was not answered is no silence however long ago it was: it is tried again soon, and told after five seconds of tries", async (t) => {
  let nowMs = 0;
  const store = new StoreHealth(() => nowMs);
  const slept: number[] = [];
  let tries = 0;
  let isMade = false;
  // As at the first start of a stack with accounts: who is there before the bucket hears nothing.
  const link = {
    store,
    connected: true,
    closed: false,
    client: "fault-proxy",
    async request() {
      tries += 1;
      nowMs += 2000;
      if (!isMade) throw new UnansweredError("timeout", true, "no answer");
      return { data: new TextEncoder().encode('{"stream":"KV_store-check","seq":1}') };
    },
    async sleep(ms: number) {
      slept.push(ms);
      nowMs += ms;
      if (tries === 1) assert.equal(store.reason, null);
      isMade = true;
      if (slept.length >= 2) this.closed = true;
    },
  };
  const check = keepStoreChecked(link as unknown as NatsLink, "fault-proxy");
  t.after(() => check.stop());
  await eventually(() => link.closed || null);
  assert.deepEqual([tries, store.reason, store.isDoubted], [2, null, false]);
  assert.ok((slept[0] ?? Number.NaN) <= 2500, `tried again after ${slept[0]} ms`);
  assert.ok((slept[1] ?? Number.NaN) >= 7500, `and then after ${slept[1]} ms`);
});

test("a reader is slow when more than its bound waits for ten seconds, until half of that; and when its handler hangs for thirty", () => {
  let nowMs = 0;
  const lag = new Lag("SIGNALS", "probe.observed.>", 100, () => nowMs);
  lag.delivered(101);
  nowMs = 9999;
  assert.equal(lag.slow, null, "a burst is no lag");
  nowMs = 10_000;
  assert.match(lag.slow ?? "", /more than 100 messages of SIGNALS \(probe\.observed\.>\) wait/);
  lag.delivered(51);
  assert.notEqual(lag.slow, null, "what hovers at the bound does not flap");
  lag.delivered(50);
  assert.equal(lag.slow, null);
  const begun = [lag.begun()];
  nowMs += 20_000;
  begun.push(lag.begun());
  nowMs += 10_000;
  assert.match(lag.slow ?? "", /being handled for more than 30 s/);
  lag.ended(begun[0] as number);
  assert.equal(lag.slow, null, "of several that are at work the oldest counts");
  nowMs += 20_000;
  assert.match(lag.slow ?? "", /being handled for more than 30 s/);
  lag.ended(begun[1] as number);
  assert.equal(lag.slow, null);
});

test("a reader that no consumer answers for ten seconds is deaf, and says why in words that stay, until one answers", () => {
  let nowMs = 0;
  const lag = new Lag("AUDIT", ">", 100, () => nowMs);
  lag.opening();
  nowMs = 9999;
  lag.failed("nobody makes one");
  assert.deepEqual([lag.deaf, lag.slow], [null, null], "a restart of the server takes a moment");
  lag.opening();
  nowMs = 10_000;
  assert.match(lag.deaf ?? "", /^AUDIT cannot be read \(nobody makes one\): see that JetStream answers/);
  assert.equal(lag.slow, lag.deaf);
  const told = lag.deaf;
  lag.failed("nobody makes one, in other words");
  assert.equal(lag.deaf, told);
  lag.settled();
  assert.deepEqual([lag.deaf, lag.slow], [null, null]);
  nowMs = 30_000;
  lag.failed("it broke after it had answered");
  assert.equal(lag.deaf, null, "the time counts from there");
});

test("on NATS: a reader that falls behind is reported with what waits for it, and is well again once it has read it", async () => {
  const server = await startNats();
  const bus = connectBus({ servers: server.url, name: "suite", instance: "suite" });
  try {
    await until(() => connected(bus), "it is connected");
    await bus.ensureStreams(streams, { replicas: 1 });
    let pauseMs = 200;
    let seen = 0;
    bus.follow("AUDIT", { from: "new", filter: "notify.>", pendingMax: 10 }, async () => {
      seen += 1;
      await sleep(pauseMs);
    });
    await until(() => busHealth(bus).pending.length === 1, "it follows");
    await eventually(async () => {
      await bus.append(note("pager", 0));
      return seen > 0;
    });
    const total = 600;
    for (let n = 1; n <= total; n += 1) await bus.append(note("pager", n));
    await until(() => busHealth(bus).slow.length === 1, "it is slow", 60_000);
    assert.match(busHealth(bus).slow[0] ?? "", /more than 10 messages of AUDIT \(notify\.>\) wait/);
    assert.ok((busHealth(bus).pending[0]?.count ?? 0) > 10);
    pauseMs = 0;
    // How many came before these was not counted.
    await until(() => seen > total && busHealth(bus).pending[0]?.count === 0, "it has read all", 60_000);
    assert.deepEqual(busHealth(bus).slow, []);
  } finally {
    await bus.close();
    await server.stop();
  }
});

test("on NATS: a full AUDIT is told of by who could not store in it, until there is room", async () => {
  const server = await startNats();
  const bus = connectBus({ servers: server.url, name: "suite", instance: "suite" });
  try {
    await until(() => connected(bus), "it is connected");
    await bus.ensureStreams(
      streams.map((definition) => ({ ...definition, maxBytes: 4096 })),
      { replicas: 1 },
    );
    await assert.rejects(
      async () => {
        for (let n = 1; n <= 100; n += 1) await bus.append(note("pager", n));
      },
      { code: "stream_full" },
    );
    assert.match(busHealth(bus).store ?? "", /the stream AUDIT is full: make room or raise its limit/);
    await jetStreamApi(bus, "STREAM.PURGE.AUDIT");
    await bus.append(note("pager", 101));
    assert.equal(busHealth(bus).store, null);
  } finally {
    await bus.close();
    await server.stop();
  }
});

test("on NATS: a credential that is taken away is told as that; once it is back the bus is connected, and says so once", async () => {
  const dir = await tempDir();
  const file = join(dir.path, "users.conf");
  const users = (names: readonly string[]) =>
    writeFile(file, `authorization { users: [${names.map((name) => `{ user: ${name}, password: ${name} }`).join(", ")}] }\n`);
  await users(["one", "two"]);
  const server = await startNats({ config: `include "../${basename(dir.path)}/users.conf"` });
  const bus = connectBus({ servers: server.url.replace("//", "//one:one@"), name: "suite", instance: "suite" });
  const told: BusStatus[] = [];
  try {
    await until(() => connected(bus), "it is connected");
    bus.onStatus((status) => told.push(status));
    await users(["two"]);
    process.kill(server.pid, "SIGHUP");
    const refused = (status: BusStatus): boolean =>
      status.kind === "disconnected" && /refuses the credentials.*put its public key into the server's configuration/.test(status.reason);
    await until(() => refused(bus.status), "it says why");
    assert.ok(told.some(refused), "who listens is told of the reason, too");
    await sleep(1500); // Refused several times.
    assert.equal(told.filter(refused).length, 1, "once, however often it is refused");
    await users(["one", "two"]);
    process.kill(server.pid, "SIGHUP");
    await until(() => connected(bus), "it is connected again", 30_000);
    await bus.ensureStreams(streams, { replicas: 1 });
    assert.equal(told.filter(({ kind }) => kind === "connected").length, 1);
    assert.equal(busHealth(bus).losses, 1);
  } finally {
    await bus.close();
    await server.stop();
    await dir.remove();
  }
});
