import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type Bus, BusError, memoryBroker } from "@mcp-failover/bus";
import { memorySeams } from "@mcp-failover/bus/internal";
import { testKit } from "@mcp-failover/service-kit/testing";
import { patientMs } from "@mcp-failover/testkit";
import { startFailoverController } from "../src/wiring.ts";
import { FleetDouble, until, upstreamOf } from "./fleet-double.ts";

/** A fleet, and a controller whose fenced publishes go through `append`. */
async function stackWith(t: TestContext, append: (own: Bus, ...asked: Parameters<Bus["appendFenced"]>) => ReturnType<Bus["appendFenced"]>) {
  const broker = memoryBroker();
  const fleet = new FleetDouble(broker.connect());
  await fleet.start({ shop: upstreamOf(["primary", "secondary"]) });
  const own = broker.connect();
  const bus: Bus = Object.create(own, { appendFenced: { value: (...asked: Parameters<Bus["appendFenced"]>) => append(own, ...asked) } });
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
  return { fleet, running };
}

/** Every place that was reserved for `shop`, and every move of it, as they were stored. */
async function placesAndMoves(fleet: FleetDouble) {
  const places: number[] = [];
  const moves: { readonly epoch: number; readonly storedAtMs: number; readonly placeEndsAtMs: number | undefined }[] = [];
  for await (const { content, timeMs } of fleet.bus.read("AUDIT")) {
    if (content.kind !== "event") continue;
    const { event } = content;
    if (event.type === "fleet.reserved") {
      const place = event.data.reservations.find(({ upstream, used }) => upstream === "shop" && !used);
      if (place !== undefined) places.push(place.expiresAtMs);
    }
    if (event.type === "failover.decided") moves.push({ epoch: event.data.state.epoch, storedAtMs: timeMs, placeEndsAtMs: places.at(-1) });
  }
  return { places, moves };
}

test("a failover whose place among the fleet's moves ends before it could be published is not published: it is made in a new place", async (t) => {
  let placeEndsAtMs = 0;
  const failed: unknown[] = [];
  const { fleet } = await stackWith(t, async (own, event, ...more) => {
    if (event.type === "fleet.reserved") {
      const isFirst = placeEndsAtMs === 0;
      const { reservations } = event.data as { reservations: { expiresAtMs: number }[] };
      placeEndsAtMs = Math.max(...reservations.map(({ expiresAtMs }) => expiresAtMs));
      const stored = await own.appendFenced(event, ...more);
      // The answer is slow, so that less is left of the place than a publish usually gets.
      if (isFirst) await sleep(Math.max(0, placeEndsAtMs - Date.now() - 2000));
      return stored;
    }
    if (event.type !== "failover.decided" || failed.length > 0) return own.appendFenced(event, ...more);
    memorySeams(own).cut();
    const published = own.appendFenced(event, ...more);
    await Promise.all([
      published.catch((error: unknown) => failed.push(error)),
      sleep(Math.max(0, placeEndsAtMs - Date.now()) + 500).then(() => memorySeams(own).restore()),
    ]);
    return published;
  });
  fleet.truth.set("shop/primary", "hard");
  const { places, moves } = await until(
    async () => {
      for (const prober of fleet.probers) await fleet.probe(prober, [{ upstream: "shop", endpoint: "primary" }]);
      return placesAndMoves(fleet);
    },
    (log) => log.moves.length > 0,
    patientMs(30_000),
    100,
  );
  assert.ok(failed[0] instanceof BusError, "it was published after its place had ended");
  assert.ok(places.length >= 2, "another place was reserved");
  assert.deepEqual(
    moves.map(({ epoch, storedAtMs, placeEndsAtMs: endsAtMs }) => [epoch, storedAtMs < (endsAtMs ?? 0)]),
    [[1, true]],
  );
});
