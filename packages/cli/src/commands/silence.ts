import type { Bus } from "@mcp-failover/bus";
import type { Actor } from "@mcp-failover/contracts";
import { isMuting } from "@mcp-failover/domain";
import type { Context } from "../context.ts";
import { type ExitCode, usageError } from "../errors.ts";
import { table } from "../output.ts";
import { readToEnd, storedMs } from "../read-log.ts";
import { type ChangeOptions, done, give, order, parseDuration, timeOf } from "./changes.ts";

/** One silence in force, as `mcpf silence --list -o json` gives it. Times are ISO 8601. */
interface Row {
  readonly target: string;
  readonly since: string;
  readonly until: string;
  readonly by: Actor;
  readonly reason: string;
}

/** `mcpf silence <upstream|incident key>`: mutes what is told of it until a time; with `--list` shows what is muted. */
export async function silence(
  context: Context,
  target: string | undefined,
  options: ChangeOptions & { for?: string; until?: string; list?: boolean },
): Promise<ExitCode> {
  if (options.list === true) return list(context, target);
  if (target === undefined) throw usageError("name what to silence: mcpf silence UPSTREAM --for 2h --reason TEXT; --list shows what is");
  if ((options.for === undefined) === (options.until === undefined))
    throw usageError("say when it ends: --for 2h, or --until 2026-03-01T02:00:00Z");
  const forMs = options.for === undefined ? null : parseDuration(options.for);
  const until = options.until === undefined ? {} : { untilMs: timeOf(options.until) };
  const base = await give(context, options, `Silence ${target}? Nobody is told of what happens to it until then.`);
  const result = await order(context, "command.silence", { ...base, target, forMs, ...until });
  return done(context, result, (answer) => `${target} is silenced until ${String(answer["until"])}`);
}

export async function unsilence(context: Context, target: string, options: ChangeOptions): Promise<ExitCode> {
  const base = await give(context, options, `End the silence of ${target}? What is wrong is told at once.`);
  const result = await order(context, "command.unsilence", { ...base, target });
  return done(context, result, () => `${target} is not silenced any more`);
}

/** From the log alone, so that it works with nothing else running. */
async function list(context: Context, target: string | undefined): Promise<ExitCode> {
  const rows = (await activeSilences(await context.bus(), context.nowMs())).filter((row) => target === undefined || row.target === target);
  const cells = rows.map(({ target, until, since, by, reason }) => [target, until, since, by.id, reason]);
  context.out.print(
    rows,
    () => (rows.length === 0 ? "nothing is silenced" : table(["TARGET", "UNTIL", "SINCE", "BY", "WHY"], cells)),
    rows,
  );
  return 0;
}

/** What is silenced now, what ends first at the front. `ownMs`: this machine's clock, for a log that says no time. Throws as {@link readToEnd} does. */
export async function activeSilences(bus: Bus, ownMs: number): Promise<Row[]> {
  const nowMs = (await storedMs(bus)) ?? ownMs;
  const rows = new Map<string, Row | null>();
  await readToEnd(bus, "AUDIT", { from: "last_per_subject", filter: "notify.silenced.>" }, ({ content }) => {
    if (content.kind !== "event" || content.event.type !== "notify.silenced") return;
    const { target, sinceMs, untilMs, by, reason } = content.event.data;
    const row = { target, since: new Date(sinceMs).toISOString(), until: new Date(untilMs).toISOString(), by, reason };
    rows.set(target, isMuting(content.event.data, nowMs) ? row : null);
  });
  return [...rows.values()].filter((row) => row !== null).sort((a, b) => (a.until < b.until ? -1 : 1));
}
