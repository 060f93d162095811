import assert from "node:assert/strict";
import { test } from "node:test";
import { type Bus, memoryBroker, type Stored } from "@mcp-failover/bus";
import { testKit } from "@mcp-failover/service-kit/testing";
import { startFailoverController } from "../src/wiring.ts";
import { FleetDouble, until, upstreamOf } from "./fleet-double.ts";
import { operator } from "./stack.ts";

test("an order that is on its way while the upstream is moved loses to the move, and is decided anew on the route that it made", async (t) => {
  const broker = memoryBroker();
  const fleet = new FleetDouble(broker.connect());
  await fleet.start({ shop: upstreamOf(["primary", "secondary"]) });
  const own = broker.connect();
  const reading = Promise.withResolvers<void>();
  const moved = Promise.withResolvers<void>();
  let held = true;
  /** Whether another order stands on the subject is answered late: not before the upstream was moved. */
  async function* read(...[stream, options]: Parameters<Bus["read"]>): ReturnType<Bus["read"]> {
    if (held && options?.filter === "failover.decided.shop") {
      held = false;
      const found: Stored[] = [];
      for await (const stored of own.read(stream, options)) found.push(stored);
      reading.resolve();
      await moved.promise;
      yield* found;
    } else yield* own.read(stream, options);
  }
  const bus: Bus = Object.create(own, { read: { value: read } });
  const kit = testKit({ service: "failover-controller", bus, instance: "fc-1", nowMs: Date.now });
  const running = await startFailoverController(kit);
  t.after(async () => {
    await running.stop?.();
    await own.close();
    fleet.stop();
    await fleet.bus.close();
  });
  await until(
    () => kit.readiness().status,
    (status) => status === "ready",
    10_000,
  );
  const { lastSeq: givenAtSeq } = await fleet.bus.info("AUDIT");
  const order = { commandId: "hold-1", by: operator, reason: "look first", upstream: "shop", forMs: null, givenAtSeq };
  const answered = running.handlers?.["command.hold"]?.(order);
  await reading.promise;
  fleet.truth.set("shop/primary", "hard");
  for (const prober of fleet.probers) await fleet.probe(prober, [{ upstream: "shop", endpoint: "primary" }]);
  // Told by the controller itself: it has folded the move.
  await until(
    () => fleet.said("failover.executed"),
    (events) => events.length === 1,
  );
  moved.resolve();
  await answered;
  const states = (await fleet.said("failover.decided")).map(({ data }) => [data.action, data.state.epoch, data.state.active]);
  assert.deepEqual(states, [
    ["moved", 1, "secondary"],
    ["held", 2, "secondary"],
  ]);
});
