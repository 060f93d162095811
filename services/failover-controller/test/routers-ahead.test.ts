import assert from "node:assert/strict";
import { test } from "node:test";
import { decideFailover, type FailoverInput } from "@mcp-failover/domain";
import type { FleetDouble } from "./fleet-double.ts";
import { until, upstreamOf } from "./fleet-double.ts";
import { operator, stack } from "./stack.ts";

const report = async (fleet: FleetDouble, router: string, active: string, epoch: number, { generation = 1, id = `lost-${epoch}` } = {}) =>
  fleet.traffic(router, "shop", active, {}, { shop: { generation, epoch, eventId: id, active } });
const adopt = async (fleet: FleetDouble, generation: number): Promise<void> => {
  const last = await fleet.bus.lastOf("AUDIT", "log.started");
  const data = { generation, timestamp: new Date().toISOString(), by: operator, reason: "restored" };
  await fleet.bus.appendFenced(fleet.event("log.started", [], data), last?.seq ?? 0);
};
/** Routers report every second or two; the test says so as long as it waits. */
const decidedWhile = async (fleet: FleetDouble, count: number, say: () => Promise<void>) =>
  until(
    async () => {
      await say();
      return fleet.said("failover.decided");
    },
    (events) => events.length >= count,
    40_000,
  );

test("F20: after the log was lost the endpoint that routers use becomes the log's, once, by one of two controllers, and when it dies its calls are moved", async () => {
  const { fleet, start } = await stack({ controllers: 0 });
  const lost = async () => {
    await report(fleet, "r1", "secondary", 7);
    await report(fleet, "r2", "secondary", 7);
  };
  await lost();
  await Promise.all([start("fc-1", { wait: false }), start("fc-2", { wait: false })]);
  await fleet.probeAll({ shop: upstreamOf(["primary", "secondary"]) });
  const [taken] = await decidedWhile(fleet, 1, lost);
  assert.ok(taken !== undefined);
  const { action, automatic, previousEndpoint, currentEndpoint, state, certificate } = taken.data;
  assert.deepEqual([action, automatic, previousEndpoint, currentEndpoint, state.epoch], ["moved", true, "primary", "secondary", 8]);
  assert.equal(certificate.rule, "routers_ahead");
  const again = decideFailover(JSON.parse(JSON.stringify(certificate.input)) as FailoverInput);
  assert.deepEqual(again.kind === "decided" ? again.state : null, state);
  const follow = async () => {
    await report(fleet, "r1", "secondary", 8, { id: taken.id });
    await report(fleet, "r2", "secondary", 8, { id: taken.id });
  };
  const executed = await until(
    async () => {
      await follow();
      return fleet.said("failover.executed");
    },
    (events) => events.length > 0,
  );
  assert.deepEqual([executed[0]?.data.rule, executed[0]?.data.appliedBy], ["routers_ahead", ["r1", "r2"]]);
  fleet.truth.set("shop/secondary", "hard");
  await fleet.probe("p1", [{ upstream: "shop", endpoint: "secondary" }]);
  const decided = await decidedWhile(fleet, 2, follow);
  const { data } = decided[1]!;
  assert.deepEqual([data.previousEndpoint, data.currentEndpoint, data.state.epoch], ["secondary", "primary", 9]);
  assert.equal(data.certificate.rule, "majority_unhealthy");
});

test("F20: routers of a later generation are told of as a dead end until the log is adopted, and then follow the log", async () => {
  const { fleet, start } = await stack({ controllers: 0 });
  const say = () => report(fleet, "r1", "secondary", 7, { generation: 2 });
  await say();
  await start("fc-1", { wait: false });
  const failed = await until(
    async () => {
      await say();
      return fleet.said("failover.failed");
    },
    (events) => events.length > 0,
    40_000,
  );
  assert.deepEqual([failed[0]?.data.failing, failed[0]?.data.rule], [true, "log_of_older_generation"]);
  assert.deepEqual(await fleet.said("failover.decided"), []);
  await adopt(fleet, 3);
  const [taken] = await decidedWhile(fleet, 1, say);
  assert.deepEqual(
    [taken?.data.previousEndpoint, taken?.data.currentEndpoint, taken?.data.state.generation, taken?.data.state.epoch],
    ["secondary", "primary", 3, 1],
  );
  const over = await until(
    async () => {
      await report(fleet, "r1", "primary", 1, { generation: 3, id: taken?.id ?? "" });
      return fleet.said("failover.failed");
    },
    (events) => events.length > 1,
    40_000,
  );
  assert.equal(over[1]?.data.failing, false);
  assert.equal((await fleet.said("failover.decided")).length, 1);
});
