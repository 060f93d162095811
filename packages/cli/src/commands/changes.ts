import { setTimeout as sleep } from "node:timers/promises";
import { BusError } from "@mcp-failover/bus";
import type { Implementation, RequestInput, RequestSubject, RollbackScope } from "@mcp-failover/contracts";
import { z } from "zod";
import { ask, type Context } from "../context.ts";
import { CliError, type ExitCode, usageError } from "../errors.ts";

export interface ChangeOptions {
  readonly reason?: string;
  readonly yes?: boolean;
}

const commandMsMax = 40_000;

/** In every command: who, why and the idempotency key. */
export async function begin(context: Context, options: ChangeOptions, question: string) {
  if (options.reason === undefined || options.reason.trim() === "")
    throw usageError("a change needs --reason TEXT: it is what the next person on call reads");
  await context.confirm(question, options.yes ?? false);
  return { commandId: context.newId(), by: context.by(), reason: options.reason };
}

/** Beside that, what was known when the order was given: one that comes through late must not undo what was decided since. */
export async function give(context: Context, options: ChangeOptions, question: string) {
  const base = await begin(context, options, question);
  const bus = await context.bus();
  const known = await bus.info("AUDIT").catch((error: unknown) => {
    // Who cannot look at the log may still give orders.
    if (error instanceof BusError) return null;
    throw error;
  });
  return { ...base, ...(known === null ? {} : { givenAtSeq: known.lastSeq }) };
}

/** An order without an answer is given so often in all, under its own id: however often it comes it is done once. */
const timesMax = 3;
const againMs = 500;
/** Errors after which nobody knows whether an order was done. After `unreachable` and `no_responders` it is known: nothing was sent. */
const unknownCodes: ReadonlySet<string> = new Set(["timeout", "log_unreachable"]);

/** Gives an order, and again where no answer came. Throws {@link CliError}. */
export async function order<S extends RequestSubject>(context: Context, subject: S, body: RequestInput<S>): Promise<unknown> {
  let isUnknown = false;
  for (let time = 1; ; time += 1) {
    try {
      return await ask(context, subject, body, commandMsMax);
    } catch (error) {
      if (!(error instanceof CliError && error.retriable)) throw error;
      // That one try came to nothing says nothing of one before it.
      const isLost = unknownCodes.has(error.code);
      isUnknown ||= isLost;
      if (time < timesMax) await sleep(againMs);
      else if (isUnknown) {
        // The same line again would be another order, which may undo this one.
        const message = isLost ? error.message : `${error.message}; but it may have been done by a try before`;
        throw new CliError(1, error.code, `${message}. Look at \`mcpf status\` before you give the order again`);
      } else throw error;
    }
  }
}

/** Prints what was answered: as it came, or in words. */
export function done(context: Context, result: unknown, say: (answer: Record<string, unknown>) => string): ExitCode {
  context.out.print(result, () => say((result ?? {}) as Record<string, unknown>));
  return 0;
}

export async function failover(
  context: Context,
  upstream: string,
  options: ChangeOptions & { to?: string; force?: boolean; dryRun?: boolean },
): Promise<ExitCode> {
  const base = await give(context, ofDryRun(options), `Fail ${upstream} over${options.to ? ` to ${options.to}` : ""}?`);
  const parameters = { ...base, upstream, to: options.to ?? null, force: options.force ?? false, dryRun: options.dryRun ?? false };
  const result = await order(context, "command.failover", parameters);
  return done(context, result, (answer) => sayMove(upstream, answer, options.dryRun ?? false));
}

/** A dry run changes nothing, so nobody has to agree to it, or to say why. */
function ofDryRun<Options extends ChangeOptions & { dryRun?: boolean }>(options: Options): Options {
  return options.dryRun ? { ...options, yes: true, reason: options.reason ?? "a dry run" } : options;
}

/** Back to the best proven endpoint of a better tier. */
export async function failback(
  context: Context,
  upstream: string,
  options: ChangeOptions & { force?: boolean; dryRun?: boolean },
): Promise<ExitCode> {
  const base = await give(context, ofDryRun(options), `Fail ${upstream} back to its preferred endpoint?`);
  const parameters = { ...base, upstream, force: options.force ?? false, dryRun: options.dryRun ?? false };
  const result = await order(context, "command.failback", parameters);
  return done(context, result, (answer) => sayMove(upstream, answer, options.dryRun ?? false));
}

/** What a move was, and of a dry run also what was not chosen, and why. */
function sayMove(upstream: string, answer: Record<string, unknown>, dryRun: boolean): string {
  const { from, to, epoch, overrode, rejected } = moveAnswer.parse(answer);
  const over = overrode.length > 0 ? `; overrode ${overrode.join(", ")}` : "";
  const move = `${dryRun ? "would move " : ""}${upstream}: ${from} -> ${to} (epoch ${epoch}${over})`;
  return [move, ...(dryRun ? rejected.map(({ option, why }) => `  not ${option}: ${why}`) : [])].join("\n");
}

/** What `command.failover` and `command.failback` answer, as far as a person is told of it. */
const moveAnswer = z.looseObject({
  from: z.string(),
  to: z.string(),
  epoch: z.number(),
  overrode: z.array(z.string()).default([]),
  rejected: z.array(z.looseObject({ option: z.string(), why: z.string() })).default([]),
});

export async function hold(
  context: Context,
  upstream: string,
  options: ChangeOptions & { for?: string; until?: string },
): Promise<ExitCode> {
  if (options.for !== undefined && options.until !== undefined) throw usageError("give --for or --until, not both");
  const untilMs = options.until === undefined ? null : timeOf(options.until);
  // The controller goes by `untilMs`, whether it is over too: this machine's clock may be wrong. One of an older version knows `forMs` alone.
  const forMs = untilMs !== null ? Math.max(1, untilMs - context.nowMs()) : options.for === undefined ? null : parseDuration(options.for);
  if (forMs === 0) throw usageError(`--for is a time to come, not ${options.for}: to end a hold use \`mcpf release ${upstream}\``);
  const base = await give(context, options, `Hold ${upstream}? Nothing will move it by itself.`);
  const result = await order(context, "command.hold", { ...base, upstream, forMs, ...(untilMs === null ? {} : { untilMs }) });
  return done(context, result, (answer) => {
    const howLong = untilMs !== null ? ` until ${new Date(untilMs).toISOString()}` : forMs === null ? "" : ` for ${options.for}`;
    return `${upstream} is held${howLong} (epoch ${String(answer["epoch"])})`;
  });
}

/** `2026-03-01T02:00:00Z` as a time. */
export function timeOf(text: string): number {
  const timeMs = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}/.test(text) ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(timeMs)) throw usageError(`${JSON.stringify(text)} is no time: write it as 2026-03-01T02:00:00Z`);
  return timeMs;
}

export async function release(context: Context, upstream: string, options: ChangeOptions): Promise<ExitCode> {
  const base = await give(context, options, `Release ${upstream}?`);
  const result = await order(context, "command.release", { ...base, upstream });
  return done(context, result, (answer) => `${upstream} is released (epoch ${String(answer["epoch"])})`);
}

export async function rollback(
  context: Context,
  scope: string,
  name: string | undefined,
  options: ChangeOptions & { force?: boolean },
): Promise<ExitCode> {
  const target = scopeOf(scope, name);
  const base = await give(context, options, `Roll ${target.scope} ${target.name} back to legacy?`);
  const result = await order(context, "command.rollback", { ...base, ...target, force: options.force ?? false });
  return done(context, result, (answer) => sayImplementation(target, answer, "legacy"));
}

export async function recover(
  context: Context,
  scope: string,
  name: string | undefined,
  options: ChangeOptions & { percent?: string; ramp?: boolean },
): Promise<ExitCode> {
  const target = scopeOf(scope, name);
  if (options.ramp && options.percent !== undefined)
    throw usageError("--ramp goes through the shares by itself: give it, or --percent, not both");
  const percent = options.ramp ? null : Number(options.percent ?? 100);
  if (percent !== null && !(percent >= 1 && percent <= 100))
    throw usageError(`--percent is a number from 1 to 100, not ${options.percent}`);
  const base = await give(context, options, `Bring ${target.scope} ${target.name} back to MCP?`);
  const result = await order(context, "command.recover", { ...base, ...target, percent });
  return done(
    context,
    result,
    (answer) => `${sayImplementation(target, answer, "mcp")}, ${String(answer["mcpPercent"])} % of its calls to MCP`,
  );
}

export async function acknowledge(context: Context, incidentId: string, options: ChangeOptions): Promise<ExitCode> {
  const base = await begin(context, { ...options, yes: true }, "");
  const result = await ask(context, "command.acknowledge", { ...base, incidentId });
  return done(context, result, (answer) => `${incidentId}: ${String(answer["status"])}`);
}

function sayImplementation(target: { scope: string; name: string }, answer: Record<string, unknown>, expected: Implementation): string {
  return `${target.scope} ${target.name}: ${String(answer["implementation"] ?? expected)} (epoch ${String(answer["epoch"])})`;
}

function scopeOf(scope: string, name: string | undefined): { scope: RollbackScope; name: string } {
  if (scope === "system") {
    // Who names a tool here means that tool, and would get the whole system.
    if (name !== undefined && name !== "system")
      throw usageError(`system has no name: use tool ${name} or agent ${name} for that alone, or system for everything`);
    return { scope, name: "system" };
  }
  if (scope !== "tool" && scope !== "agent")
    throw usageError(`unknown scope ${JSON.stringify(scope)}: use tool NAME, agent NAME or system`, "unknown_scope");
  if (name === undefined) throw usageError(`name the ${scope}: mcpf rollback ${scope} NAME --reason TEXT`);
  return { scope, name };
}

const unitsMs: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** `90s`, `30m`, `2h`, `1d` in milliseconds. */
export function parseDuration(text: string): number {
  const match = /^(\d{1,6})(s|m|h|d)$/.exec(text);
  const unitMs = unitsMs[match?.[2] ?? ""];
  if (!match || unitMs === undefined)
    throw usageError(`${JSON.stringify(text)} is no duration: write a number and s, m, h or d, for example 30m`);
  return Number(match[1]) * unitMs;
}
