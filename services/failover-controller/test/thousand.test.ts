import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryBroker } from "@mcp-failover/bus";
import type { Event } from "@mcp-failover/contracts";
import { decideFailover, defaultPolicy, type FailoverInput, settledWithinMs } from "@mcp-failover/domain";
import { testKit } from "@mcp-failover/service-kit/testing";
import { patientMs } from "@mcp-failover/testkit";
import { startFailoverController } from "../src/wiring.ts";
import { FleetDouble, until, upstreamOf } from "./fleet-double.ts";
import { orderOfPlaces } from "./fleet-order.ts";

const count = 1000;
const failover = { fleet_moves: 200, fleet_window_ms: 1500 };
const policy = { ...defaultPolicy.failover, fleetMoves: failover.fleet_moves, fleetWindowMs: failover.fleet_window_ms };
const names = Array.from({ length: count }, (_, index) => `u${index}`);
/** Every fifth is critical; which of them fails when has nothing to do with it. */
const isCritical = (name: string): boolean => Number(name.slice(1)) % 5 === 0;
const spreadMs = 1000;

test("1,000 upstreams that fail within a second: the fleet's limit holds, critical ones first, all settled within the promised bound, nothing lost", {
  timeout: 90_000,
}, async (t) => {
  const broker = memoryBroker();
  const fleet = new FleetDouble(broker.connect());
  const upstreams = Object.fromEntries(names.map((name) => [name, upstreamOf(["primary", "secondary"], { critical: isCritical(name) })]));
  await fleet.start(upstreams, { failover });
  const controllers = await Promise.all(
    ["fc-1", "fc-2"].map(async (instance) => {
      const bus = broker.connect();
      const kit = testKit({ service: "failover-controller", bus, instance });
      const running = await startFailoverController(kit);
      await until(
        () => kit.readiness().status,
        (status) => status === "ready",
        15_000,
      );
      return { bus, running };
    }),
  );
  t.after(async () => {
    for (const { bus, running } of controllers) {
      await running.stop?.();
      await bus.close();
    }
    fleet.stop();
    await fleet.bus.close();
  });

  // The order of their failures is a shuffle that is the same in every run: 387 and 1,000 have no divisor in common.
  const order = names.map((_, index) => names[(index * 387) % count] as string);
  const told = { decided: 0, executed: 0 };
  const left = new Set<string>();
  const following = fleet.bus.follow("AUDIT", { from: "new" }, ({ subject }) => {
    if (subject.startsWith("failover.decided.")) {
      told.decided += 1;
      left.delete(subject.slice("failover.decided.".length));
    }
    if (subject.startsWith("failover.executed.")) told.executed += 1;
  });
  t.after(() => following.stop());
  // As a prober does that owns them: what is down is probed each second.
  const scheduled = setInterval(() => {
    if (left.size > 0)
      fleet
        .probe(
          "p1",
          [...left].map((upstream) => ({ upstream, endpoint: "primary" })),
        )
        .catch(() => undefined);
  }, 1000);
  t.after(() => clearInterval(scheduled));
  const startedMs = Date.now();
  for (const failing of [order.slice(0, count / 2), order.slice(count / 2)]) {
    for (const name of failing) {
      left.add(name);
      fleet.truth.set(`${name}/primary`, "hard");
    }
    await fleet.probe(
      "p1",
      failing.map((upstream) => ({ upstream, endpoint: "primary" })),
    );
    await new Promise((resolve) => setTimeout(resolve, spreadMs / 2));
  }
  const boundMs = spreadMs + settledWithinMs(count, policy);
  await until(
    () => told,
    ({ decided, executed }) => decided >= count && executed >= count,
    boundMs + 30_000,
    100,
  );
  const decided = await fleet.said("failover.decided");
  const executed = await fleet.said("failover.executed");
  const tookMs = Math.max(...decided.map(({ data }) => Date.parse(data.timestamp))) - startedMs;
  t.diagnostic(`settled in ${tookMs} ms, promised: ${boundMs} ms`);
  assert.ok(tookMs <= patientMs(boundMs), `settled in ${tookMs} ms, and ${boundMs} ms were promised`);

  // Each moved once, each told once, each told of the decision that was taken.
  assert.deepEqual(new Set(decided.map(({ data }) => data.service)), new Set(names));
  assert.equal(decided.length, count);
  assert.ok(decided.every(({ data }) => data.state.epoch === 1 && data.state.active === "secondary"));
  assert.deepEqual(executed.map(({ data }) => data.decisionId).sort(), decided.map(({ id }) => id).sort());
  assert.deepEqual(await fleet.said("failover.failed"), [], "a place in a queue is no dead end");

  const reserved = await fleet.said("fleet.reserved");
  checkLimit(reserved, decided);
  const refused = (await fleet.said("failover.rejected")).filter(({ data }) => data.rule === "fleet_limit");
  assert.ok(refused.length > 0, "nobody had to wait: the limit and the order prove nothing");
  checkOrder(reserved);
  for (const { data } of decided.slice(0, 50)) {
    const again = decideFailover(JSON.parse(JSON.stringify(data.certificate.input)) as FailoverInput);
    assert.deepEqual(again.kind === "decided" ? again.state : null, data.state);
  }
  const largest = Math.max(...reserved.map(({ data }) => JSON.stringify(data).length));
  t.diagnostic(`${refused.length} had to wait; ${reserved.length} reservations, the largest of ${largest} characters`);
  assert.ok(largest < 400_000, `a reservation of ${largest} characters`);
});

/** No more moves were reserved in any window than the limit, and each was made before its place had ended. */
function checkLimit(reserved: readonly Event<"fleet.reserved">[], decided: readonly Event<"failover.decided">[]): void {
  const places = new Map<string, { atMs: number; expiresAtMs: number }>();
  for (const { data } of reserved) for (const one of data.reservations) places.set(`${one.epoch} ${one.upstream}`, one);
  const times = decided.map(({ data }) => {
    const place = places.get(`${data.state.epoch} ${data.service}`);
    assert.ok(place !== undefined, `${data.service} was moved without a place`);
    assert.ok((data.state.decidedAtMs ?? 0) < place.expiresAtMs);
    return place.atMs;
  });
  times.sort((a, b) => a - b);
  times.forEach((atMs, index) => {
    const inWindow = times.slice(index).filter((later) => later - atMs < failover.fleet_window_ms).length;
    assert.ok(inWindow <= failover.fleet_moves, `${inWindow} moves within ${failover.fleet_window_ms} ms`);
  });
}

/** No critical upstream that asked was refused while another that is not critical was let through. */
function checkOrder(reserved: readonly Event<"fleet.reserved">[]): void {
  const { lastCritical, placed, passedOver } = orderOfPlaces(reserved, isCritical);
  assert.deepEqual(passedOver, []);
  assert.equal(placed, count);
  assert.ok(lastCritical <= count * 0.7, `the last critical upstream came as number ${lastCritical} of ${count}`);
}
