import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { BusError } from "@mcp-failover/bus";
import { memorySeams } from "@mcp-failover/bus/internal";
import { patientMs } from "@mcp-failover/testkit";
import { type FleetDouble, until, upstreamOf } from "./fleet-double.ts";
import { stackWith } from "./seams.ts";
import { operator } from "./stack.ts";

const shops = { shop: upstreamOf(["primary", "secondary"]), bank: upstreamOf(["primary", "secondary"]) };

/** When the last of the places ends that are reserved by this event. */
function placeEndOf({ data }: { readonly data: unknown }): number {
  const { reservations } = data as { reservations: { expiresAtMs: number }[] };
  return Math.max(...reservations.map(({ expiresAtMs }) => expiresAtMs));
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
  const { fleet } = await stackWith(t, { upstreams: shops }, (own) => ({
    async appendFenced(event, ...more) {
      if (event.type === "fleet.reserved") {
        const isFirst = placeEndsAtMs === 0;
        placeEndsAtMs = placeEndOf(event);
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
    },
  }));
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

test("an order whose place ends while the log is asked what else was decided is not published in it either", async (t) => {
  let placeEndsAtMs = 0;
  let late = 0;
  const safety_rules = [{ name: "not-both", never_both_on_backup: ["shop", "bank"], reason: "the backups share a rack" }];
  const { fleet, running } = await stackWith(t, { upstreams: shops, more: { safety_rules } }, (own) => ({
    async appendFenced(event, ...more) {
      if (event.type === "fleet.reserved") placeEndsAtMs = placeEndOf(event);
      return own.appendFenced(event, ...more);
    },
    async *read(stream, options) {
      if (options?.filter === "failover.decided.shop" && placeEndsAtMs > 0 && late === 0) {
        late += 1;
        await sleep(Math.max(0, placeEndsAtMs - Date.now()) + 200);
      }
      yield* own.read(stream, options);
    },
  }));
  const { lastSeq: givenAtSeq } = await fleet.bus.info("AUDIT");
  const order = {
    commandId: "move-1",
    by: operator,
    reason: "a drill",
    upstream: "shop",
    to: null,
    force: false,
    dryRun: false,
    givenAtSeq,
  };
  await running.handlers?.["command.failover"]?.(order);
  const { places, moves } = await placesAndMoves(fleet);
  assert.equal(late, 1, "nobody asked the log in between");
  assert.ok(places.length >= 2, "another place was reserved");
  assert.deepEqual(
    moves.map(({ epoch, storedAtMs, placeEndsAtMs: endsAtMs }) => [epoch, storedAtMs < (endsAtMs ?? 0)]),
    [[1, true]],
  );
});
