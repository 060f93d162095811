import type { Stored } from "@mcp-failover/bus";
import { makeEvent, type TrafficObserved, topology } from "@mcp-failover/contracts";
import { initialActive } from "@mcp-failover/domain";
import type { Context } from "../context.ts";
import { CliError, type ExitCode } from "../errors.ts";
import { table } from "../output.ts";
import { readToEnd, storedMs } from "../read-log.ts";
import { begin, type ChangeOptions } from "./changes.ts";

/** A route that a router holds in another way than the log. */
interface Differing {
  readonly upstream: string;
  readonly router: string;
  /** Where the router sends its calls now. */
  readonly from: string;
  /** Where the log has them go. */
  readonly to: string;
}

/** A router that said nothing for longer does not count: it may be gone. */
const heardMs = 60_000;

/**
 * `mcpf log adopt --reason TEXT`: this log is the right one, whatever routers hold of another (design, "When the log is lost or restored").
 * Raises the log's generation above all that is known of, and every route of the log is decided again in it. Needed where routers hold routes
 * of a later generation; where they are only ahead of the log, controllers take over from them by themselves.
 */
export async function adopt(context: Context, options: ChangeOptions): Promise<ExitCode> {
  const bus = await context.bus();
  const last = await bus.lastOf("AUDIT", "log.started");
  if (last === null || last.content.kind !== "event" || last.content.event.type !== "log.started")
    throw new CliError(1, "no_log", "there is no log to adopt: start the stack, or run the bootstrap, which begins one", false);
  const inForce = last.content.event.data.generation;
  const windows = await routersHeard(context);
  const seen = Math.max(0, ...windows.flatMap(({ routes }) => Object.values(routes).map(({ generation }) => generation)));
  const generation = Math.max(inForce, seen) + 1;
  const differing = await differences(context, windows);
  context.out.note(
    differing.length === 0
      ? "no router holds another route than the log's"
      : `these calls will go elsewhere:\n${table(
          ["UPSTREAM", "ROUTER", "GO TO", "WILL GO TO"],
          differing.map(({ upstream, router, from, to }) => [upstream, router, from, to]),
        )}`,
  );
  const { by, reason } = await begin(
    context,
    options,
    `Adopt this log as generation ${generation}? Its routes replace those that routers hold.`,
  );
  const nowMs = context.nowMs();
  const event = makeEvent({
    type: "log.started",
    keys: [],
    id: context.newId(),
    service: "cli",
    instance: context.newId(),
    timeMs: nowMs,
    data: { generation, timestamp: new Date(nowMs).toISOString(), by, reason: reason ?? "" },
  });
  const stored = await bus.appendFenced(event, last.seq);
  if (stored.outcome !== "won")
    throw new CliError(
      1,
      "conflict",
      "somebody else adopted the log meanwhile: look at `mcpf events tail`, and ask again if it is needed",
      true,
    );
  context.out.print(
    { generation, previousGeneration: inForce, eventId: event.id, seq: stored.seq, differing },
    () => `this log is generation ${generation} (it was ${inForce}); \`mcpf status\` shows when the routers follow`,
  );
  return 0;
}

/** The last word of each router that was heard lately, by the store's clock. */
async function routersHeard(context: Context): Promise<readonly TrafficObserved[]> {
  const bus = await context.bus();
  const last = new Map<string, { readonly timeMs: number; readonly said: TrafficObserved }>();
  await readToEnd(bus, "SIGNALS", { from: "last_per_subject", filter: "traffic.observed.>" }, ({ content, timeMs }: Stored) => {
    if (content.kind !== "event" || content.event.type !== "traffic.observed") return;
    last.set(content.event.data.router, { timeMs, said: content.event.data });
  });
  const nowMs = (await storedMs(bus)) ?? context.nowMs();
  return [...last.values()].filter(({ timeMs }) => nowMs - timeMs <= heardMs).map(({ said }) => said);
}

async function differences(context: Context, windows: readonly TrafficObserved[]): Promise<Differing[]> {
  const routes = await routesOfLog(context);
  const found = windows.flatMap(({ router, routes: held }) =>
    Object.entries(held).flatMap(([upstream, { active }]) => {
      const to = routes.get(upstream);
      return to === undefined || to === active ? [] : [{ upstream, router, from: active, to }];
    }),
  );
  return found.sort((a, b) => (a.upstream === b.upstream ? (a.router < b.router ? -1 : 1) : a.upstream < b.upstream ? -1 : 1));
}

/** The active endpoint of each configured upstream, as the log has it. */
async function routesOfLog(context: Context): Promise<ReadonlyMap<string, string>> {
  const bus = await context.bus();
  const applied = await bus.lastOf("AUDIT", "config.applied");
  const event = applied?.content.kind === "event" && applied.content.event.type === "config.applied" ? applied.content.event : null;
  const parsed = topology.safeParse(event?.data.topology);
  const routes = new Map<string, string>();
  if (!parsed.success) return routes;
  for (const [name, upstream] of Object.entries(parsed.data.upstreams)) routes.set(name, initialActive(upstream));
  await readToEnd(bus, "AUDIT", { from: "last_per_subject", filter: "failover.decided.>" }, ({ content }) => {
    if (content.kind !== "event" || content.event.type !== "failover.decided") return;
    const { service, state } = content.event.data;
    if (routes.has(service)) routes.set(service, state.active);
  });
  return routes;
}
