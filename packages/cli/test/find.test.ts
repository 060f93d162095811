import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryBroker } from "@mcp-failover/bus";
import { memorySeams } from "@mcp-failover/bus/internal";
import { makeEvent } from "@mcp-failover/contracts";
import { becomes } from "@mcp-failover/testkit";
import { runCli } from "../src/index.ts";
import { configured, runMcpf } from "./support.ts";

const call = { upstream: "api", endpoint: "one", method: "tools/call", agent: "picker" };

test("R19: `mcpf events find` finds the operation id of a call whose outcome is unknown, and says where to look", async () => {
  const { bus } = await configured();
  const nowMs = Date.now();
  const unknown = [
    { ...call, operationId: "op-lost", tool: "ship_order", code: "reset" as const, atMs: nowMs },
    { ...call, operationId: "op-other", tool: "set_stock", code: null, atMs: nowMs },
  ];
  const window = { router: "r1", fromMs: nowMs, toMs: nowMs, endpoints: [], tools: [], routes: {}, rollbacks: {}, unknown };
  const said = { id: "t1", service: "router", instance: "r1", timeMs: nowMs } as const;
  await bus.append(makeEvent({ ...said, type: "traffic.observed", keys: ["r1"], data: window }));
  const found = await runMcpf(bus, ["events", "find", "op-lost"]);
  assert.equal(found.code, 0);
  assert.match(found.stdout, /op-lost: outcome unknown: ship_order of picker at api\/one \(reset\); look there whether it ran/);
  assert.doesNotMatch(found.stdout, /op-other/);
  const json = JSON.parse((await runMcpf(bus, ["events", "find", "op-other", "-o", "ndjson"])).stdout);
  assert.deepEqual([json.stream, json.unknown.map(({ operationId }: { operationId: string }) => operationId)], ["SIGNALS", ["op-other"]]);
  assert.match((await runMcpf(bus, ["events", "find", "127.0.0.1:9001"])).stdout, /config\.applied/, "decisions are searched too");
  const none = await runMcpf(bus, ["events", "find", "op-never"]);
  assert.deepEqual([none.code, none.stdout], [1, ""]);
  assert.match(none.stderr, /look further back with --since/);
  assert.equal((await runMcpf(bus, ["events", "find", "op"])).code, 2);
  await bus.close();
});

const readers = [
  ["events", "tail"],
  ["events", "find", "something"],
] as const;

test("a log that is not there, or gives nothing, is an error with a reason, and never silence", async (t) => {
  const missing = memoryBroker({ streams: [] }).connect();
  t.after(() => missing.close());
  const { bus } = await configured();
  t.after(() => bus.close());
  t.mock.timers.enable({ apis: ["setTimeout"] });
  for (const argv of [...readers, ["events", "tail", "--follow"]]) {
    const ran = await runMcpf(missing, argv);
    assert.deepEqual([ran.code, ran.stdout], [1, ""], argv.join(" "));
    assert.match(ran.stderr, /the stream AUDIT does not exist yet/, argv.join(" "));
  }
  for (const argv of readers) {
    bus.follow = () => {
      setImmediate(() => t.mock.timers.tick(10_000));
      return { seq: 0, stop: async () => undefined };
    };
    const ran = await runMcpf(bus, argv);
    assert.deepEqual([ran.code, ran.stdout], [1, ""], argv.join(" "));
    assert.match(ran.stderr, /AUDIT could not be read in time/, argv.join(" "));
  }
});

test("whoever watches the log is told when NATS is out of reach and when it is back, and the end of the connection ends it", async () => {
  const { bus } = await configured();
  let said = "";
  const write = (text: string): void => {
    said += text;
  };
  const ended = runCli(["events", "tail", "--follow"], { env: {}, bus, write, writeError: write });
  const says = (text: RegExp) =>
    becomes(
      () => said,
      (all) => text.test(all),
    );
  await says(/config\.applied/);
  memorySeams(bus).cut("cut by a test");
  await says(/NATS is out of reach \(cut by a test\)/);
  memorySeams(bus).restore();
  await says(/NATS is back/);
  await bus.close();
  assert.equal(await ended, 1);
  assert.match(said, /the connection to NATS has ended/);
});

test("events tail and find go back by the store's clock, whatever this machine's clock says", async () => {
  const broker = memoryBroker({ nowMs: () => Date.now() - 7_200_000 });
  const { bus } = await configured(undefined, broker);
  assert.match((await runMcpf(bus, ["events", "tail", "--since", "1m"])).stdout, /config\.applied/);
  assert.match((await runMcpf(bus, ["events", "find", "127.0.0.1:9001", "--since", "1m"])).stdout, /config\.applied/);
  await bus.close();
});
