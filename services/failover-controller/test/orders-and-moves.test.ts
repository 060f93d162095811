import assert from "node:assert/strict";
import { test } from "node:test";
import type { Stored } from "@mcp-failover/bus";
import type { DataOf } from "@mcp-failover/contracts";
import { until, upstreamOf } from "./fleet-double.ts";
import { stackWith } from "./seams.ts";
import { operator } from "./stack.ts";

test("an order that is on its way while the upstream is moved loses to the move, and is decided anew on the route that it made", async (t) => {
  const reading = Promise.withResolvers<void>();
  const moved = Promise.withResolvers<void>();
  let held = true;
  const { fleet, running } = await stackWith(t, { upstreams: { shop: upstreamOf(["primary", "secondary"]) } }, (own) => ({
    /** Whether another order stands on the subject is answered late: not before the upstream was moved. */
    async *read(stream, options) {
      if (held && options?.filter === "failover.decided.shop") {
        held = false;
        const found: Stored[] = [];
        for await (const stored of own.read(stream, options)) found.push(stored);
        reading.resolve();
        await moved.promise;
        yield* found;
      } else yield* own.read(stream, options);
    },
  }));
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

test("a place among the fleet's moves is asked for anew where the upstream was moved while it was being reserved", async (t) => {
  const reserved = Promise.withResolvers<void>();
  const moved = Promise.withResolvers<void>();
  const folded = { AUDIT: 0, SIGNALS: 0 };
  const { fleet } = await stackWith(t, { upstreams: { shop: upstreamOf(["primary", "secondary", "third"]) } }, (own) => ({
    async appendFenced(event, ...rest) {
      const fenced = await own.appendFenced(event, ...rest);
      if (event.type === "fleet.reserved") {
        reserved.resolve();
        await moved.promise;
      }
      return fenced;
    },
    follow: (stream, options, handler) =>
      own.follow(stream, options, async (stored) => {
        await handler(stored);
        if (stream === "AUDIT" || stream === "SIGNALS") folded[stream] = stored.seq;
      }),
  }));
  fleet.truth.set("shop/primary", "hard").set("shop/third", "hard");
  for (const prober of fleet.probers) {
    await fleet.probe(prober, [
      { upstream: "shop", endpoint: "third" },
      { upstream: "shop", endpoint: "primary" },
    ]);
  }
  await reserved.promise;
  const nowMs = Date.now();
  const move = { atMs: nowMs, epoch: 1, from: "primary", to: "third", automatic: false };
  const state = { generation: 1, epoch: 1, active: "third", tier: 2, sinceMs: nowMs, held: null, moves: [move] };
  const [place] = await fleet.said("fleet.reserved");
  const data: DataOf<"failover.decided"> = {
    service: "shop",
    action: "moved",
    previousEndpoint: "primary",
    currentEndpoint: "third",
    timestamp: new Date(nowMs).toISOString(),
    automatic: false,
    by: operator,
    reason: "elsewhere",
    commandId: null,
    overrode: [],
    state,
    certificate: place!.data.certificate,
  };
  await fleet.bus.append(fleet.event("failover.decided", ["shop"], data));
  for (const prober of fleet.probers) {
    await fleet.probe(prober, [
      { upstream: "shop", endpoint: "third" },
      { upstream: "shop", endpoint: "primary", purpose: "confirm" },
      { upstream: "shop", endpoint: "secondary", purpose: "confirm" },
    ]);
  }
  for (const stream of ["AUDIT", "SIGNALS"] as const) {
    const { lastSeq } = await fleet.bus.info(stream);
    await until(
      () => folded[stream],
      (seq) => seq >= lastSeq,
    );
  }
  moved.resolve();
  const decided = await until(
    () => fleet.said("failover.decided"),
    (events) => events.length === 2,
  );
  assert.deepEqual(
    [decided[1]?.data.state.epoch, decided[1]?.data.previousEndpoint, decided[1]?.data.state.active],
    [2, "third", "secondary"],
  );
  const places = (await fleet.said("fleet.reserved")).at(-1)?.data.reservations.map(({ epoch, from, to }) => [epoch, from, to]);
  assert.deepEqual(places, [
    [1, "primary", "secondary"],
    [2, "third", "secondary"],
  ]);
});
