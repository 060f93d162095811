import { BusError, RefusedError, readFleetStatus, type Stored } from "@mcp-failover/bus";
import { type StatusView, topology } from "@mcp-failover/contracts";
import { viewStatus } from "@mcp-failover/domain";
import type { Context } from "../context.ts";
import { CliError, type ExitCode } from "../errors.ts";
import { table } from "../output.ts";
import { foldLog, storedMs } from "../read-log.ts";
import { activeSilences } from "./silence.ts";

/** `mcpf status`: 3 when an upstream's active endpoint is not healthy, or there is no upstream at all. */
export async function status(context: Context): Promise<ExitCode> {
  const view = await readStatus(context);
  context.out.print(view, () => showStatus(view), view.upstreams);
  const sick = view.upstreams.some(({ active, endpoints }) => endpoints.find(({ name }) => name === active)?.health !== "healthy");
  if (view.upstreams.length === 0) context.out.note("no upstream is configured: run `mcpf config apply failover.yaml`");
  // A log that cannot be read is told of above.
  if (view.backupUpToSeq === undefined) await noteWhatIsForgotten(context);
  return sick || view.upstreams.length === 0 ? 3 : 0;
}

/** Why a `config.applied` cannot be used here; null: it can. */
function configurationProblem(content: Stored["content"]): string | null {
  if (content.kind === "malformed") return content.reason;
  if (content.event.type !== "config.applied") return null;
  const [issue] = topology.safeParse(content.event.data.topology).error?.issues ?? [];
  return issue === undefined ? null : `${issue.path.join(".")}: ${issue.message}`;
}

/** Beside the status, what nobody thinks of any more: silences in force, and a configuration that this version does not understand. */
async function noteWhatIsForgotten(context: Context): Promise<void> {
  const bus = await context.bus();
  try {
    const last = await bus.lastOf("AUDIT", "config.applied");
    const problem = last === null ? null : configurationProblem(last.content);
    if (problem !== null)
      context.out.note(
        `the configuration of event #${last?.seq} is not understood here (${problem}): what is shown is of the one before; use the mcpf of the version that applied it, or apply another`,
      );
    for (const { target, until, by, reason } of await activeSilences(bus, context.nowMs()))
      context.out.note(`${target} is silenced until ${until} by ${by.id} (${reason}): nobody is told of what happens to it`);
  } catch (error) {
    if (!(error instanceof BusError || (error instanceof CliError && error.retriable))) throw error;
    context.out.note(`whether anything is silenced could not be read from the log: ${error.message}`);
  }
}

/** The state-store's answer, of all its pages; without one, the log itself, folded here. */
export async function readStatus(context: Context): Promise<StatusView> {
  const bus = await context.bus();
  try {
    const { status: view, pages } = await readFleetStatus(bus, { timeoutMs: 3000 });
    if (view.backupUpToSeq !== undefined)
      context.out.note(`the state-store cannot read the log: this is its backup, up to event #${view.backupUpToSeq}`);
    const seqs = pages.map(({ seq }) => seq);
    if (new Set(seqs).size > 1)
      context.out.note(`this is of ${pages.length} pages of different moments, from event #${Math.min(...seqs)} to #${Math.max(...seqs)}`);
    return view;
  } catch (error) {
    if (error instanceof RefusedError) context.out.note(`the state-store refused (${error.message}); this is folded from the log`);
    else if (error instanceof BusError) context.out.note(`no state-store answers (${error.code}); this is folded from the log`);
    else throw error;
  }
  const { model } = await foldLog(bus);
  const counts = new Map<string, number>();
  for (const { name } of await bus.services({ timeoutMs: 500 })) counts.set(name, (counts.get(name) ?? 0) + 1);
  return viewStatus(
    model,
    [...counts].map(([name, instances]) => ({ name, instances })),
    (await storedMs(bus)) ?? context.nowMs(),
  );
}

function showStatus(view: StatusView): string {
  const rows = view.upstreams.flatMap((upstream) =>
    upstream.endpoints.map((endpoint, index) => [
      index === 0 ? upstream.name : "",
      index === 0 ? String(upstream.epoch) : "",
      `${endpoint.name === upstream.active ? "* " : "  "}${endpoint.name}`,
      endpoint.health,
      endpoint.score.toFixed(2),
      endpoint.breaker,
      endpoint.responseTime === null ? "-" : `${endpoint.responseTime.toFixed(1)} ms`,
      [index === 0 && upstream.held ? `HELD by ${upstream.held.by}: ${upstream.held.reason}` : "", endpoint.reason ?? ""]
        .filter(Boolean)
        .join(" | "),
    ]),
  );
  const rolledBack = [
    ...(view.rollback.system === "legacy" ? ["system"] : []),
    ...Object.entries(view.rollback.agents).flatMap(([name, of]) => (of === "legacy" ? [`agent ${name}`] : [])),
    ...Object.entries(view.rollback.tools).flatMap(([name, of]) => (of === "legacy" ? [`tool ${name}`] : [])),
  ];
  return [
    table(["UPSTREAM", "EPOCH", "ENDPOINT", "HEALTH", "SCORE", "BREAKER", "RESPONSE", "WHY"], rows),
    "",
    `on legacy: ${rolledBack.join(", ") || "nothing"}`,
    `services: ${view.services.map(({ name, instances }) => `${name} ${instances}`).join(", ") || "none"}`,
  ].join("\n");
}
