import assert from "node:assert/strict";
import { test } from "node:test";
import type { Bus } from "@mcp-failover/bus";
import { makeEvent, type RouteHeld } from "@mcp-failover/contracts";
import { configured, runMcpf } from "./support.ts";

const by = { kind: "service", id: "test" } as const;
let ids = 0;
const from = () => {
  ids += 1;
  return { id: `e-${ids}`, service: "router", instance: "test", timeMs: Date.now() } as const;
};
const begin = async (bus: Bus, generation: number): Promise<void> => {
  const last = await bus.lastOf("AUDIT", "log.started");
  const data = { generation, timestamp: new Date().toISOString(), by, reason: "test" };
  await bus.appendFenced(makeEvent({ type: "log.started", keys: [], ...from(), data }), last?.seq ?? 0);
};
const says = async (bus: Bus, router: string, route: RouteHeld): Promise<void> => {
  const nowMs = Date.now();
  const data = { router, fromMs: nowMs - 250, toMs: nowMs, endpoints: [], tools: [], routes: { api: route }, rollbacks: {} };
  await bus.append(makeEvent({ type: "traffic.observed", keys: [router], ...from(), data }));
};
const generationOf = async (bus: Bus): Promise<unknown> => {
  const last = await bus.lastOf("AUDIT", "log.started");
  return last?.content.kind === "event" ? (last.content.event.data as { generation: unknown }).generation : null;
};

test("mcpf log adopt raises the generation above the log's and above all that routers hold, and says whose calls will go elsewhere", async (t) => {
  const { bus } = await configured();
  t.after(() => bus.close());
  await begin(bus, 1);
  await says(bus, "r1", { generation: 3, epoch: 9, eventId: "lost", active: "two" });
  await says(bus, "r2", { generation: 1, epoch: 0, eventId: null, active: "one" });
  const ran = await runMcpf(bus, ["log", "adopt", "--reason", "restored from Monday", "--yes"]);
  assert.deepEqual([ran.code, await generationOf(bus)], [0, 4], ran.stderr);
  assert.match(ran.stdout, /generation 4 \(it was 1\)/);
  assert.match(ran.stderr, /api +r1 +two +one/);
  assert.doesNotMatch(ran.stderr, /r2/);
  const again = await runMcpf(bus, ["log", "adopt", "--reason", "once more", "--yes", "-o", "json"]);
  const said = JSON.parse(again.stdout) as Record<string, unknown>;
  assert.deepEqual([said["generation"], said["previousGeneration"]], [5, 4]);
  assert.deepEqual(said["differing"], [{ upstream: "api", router: "r1", from: "two", to: "one" }]);
});

test("mcpf log adopt needs a reason and a log, and changes nothing without either", async (t) => {
  const { bus } = await configured();
  t.after(() => bus.close());
  const none = await runMcpf(bus, ["log", "adopt", "--reason", "r", "--yes"]);
  assert.deepEqual([none.code, none.stdout], [1, ""]);
  assert.match(none.stderr, /there is no log to adopt: start the stack/);
  await begin(bus, 1);
  const silent = await runMcpf(bus, ["log", "adopt", "--yes"]);
  assert.equal(silent.code, 2);
  assert.match(silent.stderr, /a change needs --reason/);
  assert.equal(await generationOf(bus), 1);
});

test("of two adoptions at once one is refused, because it would undo what the other said", async (t) => {
  const { bus, broker } = await configured();
  t.after(() => bus.close());
  await begin(bus, 1);
  const other = broker.connect();
  t.after(() => other.close());
  const racing: Bus = Object.create(bus) as Bus;
  racing.appendFenced = async (event, expectedSeq, options) => {
    await begin(other, 2);
    return bus.appendFenced(event, expectedSeq, options);
  };
  const ran = await runMcpf(racing, ["log", "adopt", "--reason", "r", "--yes"]);
  assert.equal(ran.code, 1);
  assert.match(ran.stderr, /somebody else adopted the log meanwhile/);
  assert.equal(await generationOf(bus), 2);
});
