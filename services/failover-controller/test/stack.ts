import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after } from "node:test";
import { memoryBroker } from "@mcp-failover/bus";
import type { Reply } from "@mcp-failover/contracts";
import { testKit } from "@mcp-failover/service-kit/testing";
import { startFailoverController } from "../src/wiring.ts";
import { FleetDouble, until, upstreamOf } from "./fleet-double.ts";

export const operator = { kind: "operator", id: "ann" } as const;
const cleanups: (() => Promise<void>)[] = [];
after(async () => {
  for (const cleanup of cleanups.reverse()) await cleanup();
});

/** A broker with a fleet of probers and some controllers on it. */
export async function stack(
  options: { controllers?: number; upstreams?: Record<string, object>; more?: object; probers?: string[]; storeNowMs?: () => number } = {},
) {
  const broker = memoryBroker(options.storeNowMs === undefined ? {} : { nowMs: options.storeNowMs });
  const fleet = new FleetDouble(broker.connect(), options.probers);
  await fleet.start(options.upstreams ?? { shop: upstreamOf(["primary", "secondary"]) }, options.more);
  const start = async (instance: string, { wait = true, nowMs = () => Date.now() } = {}) => {
    const bus = broker.connect();
    const kit = testKit({ service: "failover-controller", bus, instance, nowMs });
    const running = await startFailoverController(kit);
    const served = await bus.serve({
      name: "failover-controller",
      instance,
      version: "0",
      description: "",
      handlers: running.handlers ?? {},
    });
    const stop = async () => {
      await running.stop?.();
      await served.stop();
      await bus.close();
    };
    cleanups.push(stop);
    if (wait) {
      await until(
        () => kit.readiness().status,
        (status) => status === "ready",
        10_000,
      );
    }
    return { kit, stop };
  };
  const controllers: Awaited<ReturnType<typeof start>>[] = [];
  for (let count = 1; count <= (options.controllers ?? 1); count += 1) controllers.push(await start(`fc-${count}`));
  cleanups.push(async () => {
    fleet.stop();
    await fleet.bus.close();
  });
  const command = (subject: "command.failover" | "command.failback" | "command.hold" | "command.release", body: object): Promise<Reply> =>
    fleet.bus.request(subject, { commandId: randomUUID(), by: operator, reason: "test", ...body } as never, { timeoutMs: 8000 });
  const move = (body: object) => command("command.failover", { upstream: "shop", to: null, force: false, dryRun: false, ...body });
  return { fleet, controllers, start, command, move };
}
export const codeOf = (reply: Reply): string => (reply.ok ? "ok" : reply.error.code);
export const resultOf = (reply: Reply): Record<string, unknown> => {
  if (!reply.ok) assert.fail(`${reply.error.code}: ${reply.error.message}`);
  return reply.result as Record<string, unknown>;
};
