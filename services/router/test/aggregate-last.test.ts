import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { type Bus, memoryBroker } from "@mcp-failover/bus";
import { eventually, patientMs } from "@mcp-failover/testkit";
import type { Asked } from "../src/aggregate/inner-answer.ts";
import { createLastLists, type LastList, type LastLists } from "../src/aggregate/last-lists.ts";
import { SharedLists } from "../src/aggregate/shared-lists.ts";
import { serverMessageOf } from "../src/mcp/envelope.ts";
import { createSealer } from "../src/mcp/seal.ts";
import { connectV1, connectV2 } from "./support/clients.ts";
import { fakeControl } from "./support/fake-control.ts";
import { startMcpServer, type TestMcpServer } from "./support/mcp-server.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";
import { controlOf } from "./support/several.ts";

const secret = "a secret of the tests that is long enough";
const bucketName = "router-lists";

describe("what upstreams of /mcp gave last, in several router processes", () => {
  let a: TestMcpServer;
  let b: TestMcpServer;
  let broker: ReturnType<typeof memoryBroker>;
  const troubles: unknown[] = [];
  const stop: (() => Promise<unknown>)[] = [];
  beforeEach(async () => {
    [a, b] = [await startMcpServer("A"), await startMcpServer("B")];
    stop.push(a.kill, b.kill);
    broker = memoryBroker();
    troubles.length = 0;
  });
  afterEach(async () => {
    for (const end of stop.splice(0).reverse()) await end();
  });
  const busOf = (): Bus => {
    const bus = broker.connect();
    stop.push(() => bus.close());
    return bus;
  };
  const listsOn = (bus: Bus, key = secret): LastLists =>
    createLastLists({
      bucket: () => bus.bucket(bucketName, {}),
      reachable: () => bus.status.kind === "connected",
      timeoutMs: 2000,
      onTrouble: (error) => troubles.push(error),
      sealer: createSealer(key),
    });
  const startRouter = async (): Promise<TestRouter> => {
    const upstreams = { a: fakeControl([{ name: "one", url: a.url }]), b: fakeControl([{ name: "one", url: b.url }]) };
    const router = await startTestRouter(controlOf(upstreams), { lastLists: listsOn(busOf()) });
    stop.push(async () => {
      await router.close(0);
      assert.deepEqual(router.problems, []);
    });
    return router;
  };
  const namesAt = async (router: TestRouter, era: "session" | "none"): Promise<string[]> => {
    const client =
      era === "session" ? (await connectV1(`${router.url}/mcp`)).client : await connectV2(new URL(`${router.url}/mcp`), "auto");
    const { tools } = (await client.listTools()) as { tools: { name: string }[] };
    await client.close();
    return tools.map(({ name }) => name);
  };
  const isKept = (lists: LastLists, key: string): Promise<unknown> =>
    eventually(async () => (await lists.find(key)) !== null, { what: `${key} is kept`, withinMs: patientMs(5000) });

  test("L1: the tools of a dead upstream stay listed in a process that never asked it, for clients with and without sessions", async () => {
    const before = await namesAt(await startRouter(), "session");
    assert.ok(before.includes("b__whoami"));
    await isKept(listsOn(busOf()), JSON.stringify(["", "b", "tools/list"]));
    await b.kill();
    const other = await startRouter();
    assert.deepEqual(await namesAt(other, "session"), before);
    assert.deepEqual(await namesAt(await startRouter(), "none"), before);
    const { client } = await connectV1(`${other.url}/mcp`);
    await assert.rejects(client.callTool({ name: "b__write", arguments: { key: "x" } }), /no endpoint can be reached/);
    await client.close();
    assert.deepEqual(troubles, []);
  });

  test("L1: of more lists than are written at once each is told, however many upstreams answer together", async () => {
    const [lists, other] = [listsOn(busOf()), listsOn(busOf())];
    const keys = Array.from({ length: 60 }, (_, index) => `upstream ${index}`);
    const told = keys.map((key) => lists.keep(key, { items: [{ name: key }], hash: "h", atMs: 1 }));
    const newer = lists.keep("upstream 59", { items: [], hash: "of none", atMs: 2 });
    assert.deepEqual([...new Set(await Promise.all([...told, newer]))], [true]);
    for (const key of keys) assert.notEqual(await other.find(key), null, key);
    assert.equal((await other.find("upstream 59"))?.hash, "of none");
    assert.deepEqual(troubles, []);
  });

  test("L1: what could not be told is told again when it is asked for next, after a pause; what was told is not for a minute", async () => {
    let nowMs = 1_000_000;
    let reaches = false;
    const told: string[] = [];
    const lists = new SharedLists(() => nowMs, {
      keep: async (key) => {
        told.push(key);
        return reaches;
      },
      find: async () => null,
    });
    const inner: Asked = {
      upstream: "a",
      async request({ id }, _headers, listen) {
        const value = { jsonrpc: "2.0", id, result: { tools: [] } };
        listen(serverMessageOf(value), value, () => undefined);
      },
    };
    const ask = async (laterMs: number): Promise<number> => {
      nowMs += laterMs;
      assert.equal((await lists.ask("tools/list", inner, "agent:x", { upstreams: ["a"], separator: "__", graceMs: 60_000 }))?.fresh, true);
      return told.length;
    };
    assert.deepEqual([await ask(0), await ask(1), await ask(4000)], [1, 1, 1]);
    reaches = true;
    assert.deepEqual([await ask(1000), await ask(30_000), await ask(29_999), await ask(1)], [2, 2, 2, 3]);
  });

  test("L2: it is sealed, and is no other list's and no other key's, whatever somebody writes into the bucket", async () => {
    const bus = busOf();
    const lists = listsOn(bus);
    const list: LastList = { items: [{ name: "secret_tool" }], hash: "h", atMs: 1 };
    const bucket = await bus.bucket(bucketName, {});
    const written: string[] = [];
    const put = bucket.put.bind(bucket);
    const spied = createLastLists({
      bucket: async () => ({
        ...bucket,
        get: (key) => bucket.get(key),
        put: (key, value) => {
          written.push(key, value);
          return put(key, value);
        },
      }),
      reachable: () => true,
      timeoutMs: 2000,
      onTrouble: (error) => troubles.push(error),
      sealer: createSealer(secret),
    });
    void spied.keep("of alice", list);
    await isKept(lists, "of alice");
    assert.deepEqual((await lists.find("of alice"))?.items, list.items);
    const [entry = "", value = ""] = written;
    assert.doesNotMatch(`${entry} ${value}`, /secret_tool|alice/);
    assert.equal(await listsOn(bus, "another secret of the tests, as long").find("of alice"), null);
    void spied.keep("of bob", { ...list, items: [] });
    await isKept(lists, "of bob");
    await put(written[2] ?? "", value);
    assert.equal(await lists.find("of bob"), null, "what alice was given is not bob's");
    for (const damaged of ["", "{}", value.slice(0, -8)]) {
      await put(entry, damaged);
      assert.equal(await lists.find("of alice"), null, damaged);
    }
  });

  test("one that is too large for the bucket is not kept, and without the bus nobody waits", async () => {
    const bus = busOf();
    const lists = listsOn(bus);
    const many = Array.from({ length: 5000 }, (_, index) => ({ name: `${index}`, description: Math.sqrt(index).toString(36) }));
    void lists.keep("large", { items: many, hash: "h", atMs: 1 });
    void lists.keep("small", { items: many.slice(0, 10), hash: "h", atMs: 1 });
    await isKept(lists, "small");
    assert.equal(await lists.find("large"), null);
    const away = createLastLists({
      bucket: () => new Promise(() => undefined),
      reachable: () => false,
      timeoutMs: 1_000_000,
      onTrouble: (error) => troubles.push(error),
      sealer: createSealer(secret),
    });
    void away.keep("small", { items: [], hash: "h", atMs: 1 });
    assert.equal(await away.find("small"), null);
    assert.deepEqual(troubles, []);
  });
});
