import type { TestContext } from "node:test";
import { type Bus, memoryBroker } from "@mcp-failover/bus";
import { testKit } from "@mcp-failover/service-kit/testing";
import { startFailoverController } from "../src/wiring.ts";
import { FleetDouble, until } from "./fleet-double.ts";

/** A fleet, and a controller some of whose bus is the test's. */
export async function stackWith(
  t: TestContext,
  { upstreams, more }: { readonly upstreams: Record<string, object>; readonly more?: object },
  seams: (own: Bus) => Partial<Pick<Bus, "appendFenced" | "follow" | "read">>,
) {
  const broker = memoryBroker();
  const fleet = new FleetDouble(broker.connect());
  await fleet.start(upstreams, more);
  const own = broker.connect();
  const bus: Bus = Object.create(own, Object.getOwnPropertyDescriptors(seams(own)));
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
