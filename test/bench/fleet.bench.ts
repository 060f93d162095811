import { connectBus } from "@mcp-failover/bus";
import { streams } from "@mcp-failover/contracts";
import { defaultPolicy, settledWithinMs } from "@mcp-failover/domain";
import { testKit } from "@mcp-failover/service-kit/testing";
import { startNats } from "@mcp-failover/testkit";
import { startFailoverController } from "../../services/failover-controller/src/wiring.ts";
import { FleetDouble, until, upstreamOf } from "../../services/failover-controller/test/fleet-double.ts";
import { orderOfPlaces } from "../../services/failover-controller/test/fleet-order.ts";
import { atLeast, atMost, type Benchmark, wholeNumber } from "./benchmark.ts";

/** Every fifth is critical. */
const isCritical = (name: string): boolean => Number(name.slice(1)) % 5 === 0;
const log = { warn: () => undefined, debug: () => undefined };

export const bench: Benchmark = {
  what: "A fleet of upstreams of which all fail within a second, moved by two failover-controllers on a real nats-server, against the bound that the policy promises.",
  notMeasured: "The probers are played: their probes answer at once, and no router carries calls.",
  options: {
    upstreams: "how many fail (default 1000)",
    moves: "the fleet's limit in each window (default 200)",
    window: "the window in milliseconds (default 2000)",
  },
  async run({ args, quick, say }) {
    const count = wholeNumber(args, "upstreams", quick ? 100 : 1000);
    const failover = { fleet_moves: wholeNumber(args, "moves", quick ? 50 : 200), fleet_window_ms: wholeNumber(args, "window", 2000) };
    const nats = await startNats();
    const connect = (name: string) => connectBus({ servers: nats.url, name, instance: name, log });
    const ends: (() => Promise<unknown>)[] = [() => nats.stop()];
    try {
      const bus = connect("fleet");
      ends.unshift(() => bus.close());
      await bus.ensureStreams(streams, { replicas: 1 });
      // A busy machine may lose a probe's answer; the next round asks again.
      const fleet = new FleetDouble(bus, undefined, (error) => say(`an answer was lost: ${String(error)}`));
      const names = Array.from({ length: count }, (_, index) => `u${index}`);
      const upstreams = Object.fromEntries(
        names.map((name) => [name, upstreamOf(["primary", "secondary"], { critical: isCritical(name) })]),
      );
      await fleet.start(upstreams, { failover });
      for (const instance of ["fc-1", "fc-2"]) {
        const own = connect(instance);
        const kit = testKit({ service: "failover-controller", bus: own, instance });
        const running = await startFailoverController(kit);
        ends.unshift(() => own.close());
        ends.unshift(async () => running.stop?.());
        await until(
          () => kit.readiness().status,
          (status) => status === "ready",
          20_000,
        );
      }
      const left = new Set(names);
      const doneMs: { name: string; ms: number }[] = [];
      let executed = 0;
      let startedMs = performance.now();
      const following = bus.follow("AUDIT", { from: "new" }, ({ subject }) => {
        if (subject.startsWith("failover.executed.")) executed += 1;
        if (!subject.startsWith("failover.decided.")) return;
        const name = subject.slice("failover.decided.".length);
        if (left.delete(name)) doneMs.push({ name, ms: performance.now() - startedMs });
      });
      ends.unshift(() => following.stop());
      const scheduled = setInterval(() => {
        const targets = [...left].map((upstream) => ({ upstream, endpoint: "primary" }));
        if (targets.length > 0) fleet.probe("p1", targets).catch((error: unknown) => say(`a probe was lost: ${String(error)}`));
      }, 1000);
      ends.unshift(async () => clearInterval(scheduled));
      for (const name of names) fleet.truth.set(`${name}/primary`, "hard");
      startedMs = performance.now();
      await fleet.probe(
        "p1",
        names.map((upstream) => ({ upstream, endpoint: "primary" })),
      );
      const boundMs = settledWithinMs(count, {
        ...defaultPolicy.failover,
        fleetMoves: failover.fleet_moves,
        fleetWindowMs: failover.fleet_window_ms,
      });
      await until(
        () => executed,
        (told) => told >= count && left.size === 0,
        boundMs + 60_000,
        200,
      );
      const times = doneMs.map(({ ms }) => ms).sort((a, b) => a - b);
      const settledMs = Math.round(times.at(-1) ?? Number.NaN);
      const criticalMs = Math.round(Math.max(...doneMs.filter(({ name }) => isCritical(name)).map(({ ms }) => ms)));
      // The limit is one on places: what a place was for may be published a moment later.
      const placedAtMs = new Map<string, number>();
      const reserved = await fleet.said("fleet.reserved");
      for (const { data } of reserved) {
        for (const { upstream, epoch, atMs } of data.reservations) placedAtMs.set(`${epoch} ${upstream}`, atMs);
      }
      const { lastCritical, placed, passedOver } = orderOfPlaces(reserved, isCritical);
      const places = [...placedAtMs.values()];
      const inWindow = Math.max(...places.map((from) => places.filter((at) => at >= from && at - from < failover.fleet_window_ms).length));
      say(
        `${count} upstreams: the first moved after ${Math.round(times[0] ?? 0)} ms, the last critical one after ${criticalMs} ms, the last after ${settledMs} ms (promised: ${boundMs} ms)`,
      );
      return {
        ratios: { settled_to_promised: settledMs / boundMs },
        runs: [
          {
            count,
            ...failover,
            firstMs: Math.round(times[0] ?? 0),
            ...{ criticalMs, settledMs, boundMs, executed, lastCritical },
            movesInWindowMax: inWindow,
          },
        ],
        bounds: [
          atMost("settled within the promised bound", settledMs, boundMs, "ms"),
          atLeast("upstreams that got a place", placed, count, "upstreams"),
          // Those that asked before any critical one did go before it; from then on every critical one is before the others.
          atMost("the place of the last critical one, of all", lastCritical, Math.floor(count * 0.7), "places"),
          atMost("critical ones refused where another was let through", passedOver.length, 0, "upstreams"),
          atMost("places in a window", inWindow, failover.fleet_moves, "places"),
          atLeast("moves that were told", executed, count, "events"),
        ],
      };
    } finally {
      for (const end of ends) await end();
    }
  },
};
