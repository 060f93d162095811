// One process of the benchmark: some routers' tables, each with a connection of its own, as a router has.
import { connectBus } from "@mcp-failover/bus";
import { RouteTable } from "../../../services/router/src/control/route-table.ts";

/** To the process that started this one. Times are of the clock that all processes of a machine share. */
export type FromSubscribers =
  | { readonly kind: "ready" }
  /** Of each change, when each table had it; of each heartbeat, when each connection had it. */
  | { readonly kind: "heard"; readonly changes: [id: string, atNs: string][]; readonly heartbeats: [sentAtMs: number, atNs: string][] };

const [servers = "", prefix = "", count = "1"] = process.argv.slice(2);
const log = {
  warn: () => undefined,
  debug: () => undefined,
  error: (details: object) => process.stderr.write(`${JSON.stringify(details)}\n`),
};
const tell = (message: FromSubscribers): void => void process.send?.(message);

const changes: [string, string][] = [];
const heartbeats: [number, string][] = [];
const subscribers = await Promise.all(
  Array.from({ length: Number(count) }, async (_, index) => {
    const bus = connectBus({ servers, name: "bench", instance: `${prefix}-${index}`, log });
    const table = new RouteTable(log);
    const caughtUp = Promise.withResolvers<void>();
    const following = bus.follow("AUDIT", { from: "last_per_subject", onCaughtUp: caughtUp.resolve }, (stored) => {
      const change = table.fold(stored);
      if (change?.kind !== "endpoint" || stored.content.kind !== "event") return;
      // The table has it: its next call goes by it.
      if (table.breaker(change.upstream, change.endpoint) !== null)
        changes.push([stored.content.event.id, process.hrtime.bigint().toString()]);
    });
    const listening = bus.subscribe("prober.heartbeat", ({ data }) => heartbeats.push([data.sentAtMs, process.hrtime.bigint().toString()]));
    await caughtUp.promise;
    return async () => {
      listening.stop();
      await following.stop();
      await bus.close();
    };
  }),
);
tell({ kind: "ready" });
process.on("message", (message) => {
  if (message === "tell") tell({ kind: "heard", changes: changes.splice(0), heartbeats: heartbeats.splice(0) });
});
process.on("disconnect", () => {
  Promise.all(subscribers.map((stop) => stop())).then(
    () => process.exit(0),
    () => process.exit(1),
  );
});
