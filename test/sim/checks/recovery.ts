import type { BreakerState } from "@mcp-failover/contracts";
import type { Check, World } from "../world-types.ts";

/** The longest that something may go on after the last fault: a breaker at its longest open time, half-open, and a hold-down. */
const recoveryMs = 8 * 60_000;
/** A route that was decided just now is on its way to the routers. */
const onItsWayMs = 5000;

export const recovers: Check = {
  guarantee: "everything_recovers",
  says: "within 8 minutes after the last fault every endpoint is healthy and in use again, every router holds the log's routes, and every call ends well",
  start(world) {
    const health = new Map<string, string>();
    const breakers = new Map<string, BreakerState>();
    const routes = new Map<string, { epoch: number; atMs: number }>();
    const doneAtMs = world.schedule.world.quietFromMs + recoveryMs;
    let isDue = true;
    const checkWorld = (): void => {
      for (const [upstream, { endpoints }] of Object.entries(world.topology.upstreams)) {
        for (const { name } of endpoints) checkEndpoint(world, `${upstream}/${name}`, health, breakers);
        const route = routes.get(upstream);
        if (route === undefined) continue;
        for (const router of world.running().filter((one) => one.startsWith("router"))) {
          const held = world.routeOf(router, upstream);
          if (held?.epoch === route.epoch || route.atMs > world.nowAtMs - onItsWayMs) continue;
          world.fail("everything_recovers", `${router} holds epoch ${held?.epoch} of ${upstream}, and the log is at ${route.epoch}`);
        }
      }
    };
    return {
      onSecond() {
        if (!isDue || world.nowAtMs < doneAtMs) return;
        isDue = false;
        checkWorld();
      },
      onAudit({ event, atMs }) {
        if (event.type === "health.changed") health.set(`${event.data.service}/${event.data.endpoint}`, event.data.status);
        if (event.type === "breaker.changed") breakers.set(`${event.data.service}/${event.data.endpoint}`, event.data.state);
        if (event.type !== "failover.decided") return;
        routes.set(event.data.service, { epoch: event.data.state.epoch, atMs });
      },
      onEnd() {
        if (world.nowAtMs < doneAtMs) return;
        checkWorld();
        for (const call of world.calls) {
          if (call.beganAtMs < doneAtMs || call.outcome === "ok" || call.outcome === "legacy" || call.problem === "client_gone") continue;
          if (call.outcome === null && call.beganAtMs > world.nowAtMs - 60_000) continue;
          world.fail("everything_recovers", `call ${call.id} failed (${call.problem}) long after the last fault`, { call });
        }
      },
    };
  },
};

function checkEndpoint(world: World, key: string, health: ReadonlyMap<string, string>, breakers: ReadonlyMap<string, BreakerState>): void {
  const status = health.get(key);
  if (status !== "healthy") world.fail("everything_recovers", `${key} is still said to be ${status ?? "unknown"}`);
  const state = breakers.get(key);
  if (state === undefined || state.status === "closed") return;
  world.fail("everything_recovers", `the breaker of ${key} is still ${state.status}`, { state });
}
