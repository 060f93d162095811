import type { Bus } from "@mcp-failover/bus";
import { type Event, parseEvent, type StreamName } from "@mcp-failover/contracts";
import { Backtest, type BacktestMessage, type BacktestResult, backtestWarmUpMs, type JudgedMove } from "@mcp-failover/domain";
import type { Context } from "../context.ts";
import { CliError, type ExitCode, usageError } from "../errors.ts";
import { readExport } from "../log-export.ts";
import { table } from "../output.ts";
import { seqAt, storedMs } from "../read-log.ts";
import { parseDuration, timeOf } from "./changes.ts";
import { load } from "./config.ts";

interface BacktestCommand {
  readonly since?: string;
  readonly from?: string;
  readonly to?: string;
  readonly env?: string;
  readonly export?: readonly string[];
}
interface Range {
  readonly fromMs: number;
  readonly toMs: number;
}
/** What was read, for the one who waits and for what is said at the end. */
interface Reading {
  readonly messages: AsyncIterable<BacktestMessage>;
  /** Messages that no version here understands. */
  malformed(): number;
}

/** Rows of moves that a person reads; `-o json` has all. */
const movesShownMax = 50;
const progressMs = 5000;

/**
 * `mcpf events backtest FILE`: what the fleet would have decided under another policy, on what was recorded, beside what it decided. 1 where nothing can be
 * judged.
 */
export async function backtest(context: Context, file: string, options: BacktestCommand): Promise<ExitCode> {
  const { topology } = await load(context, file);
  const environment = options.env ?? (context.env["MCPF_ENV"] || undefined);
  if (environment !== undefined && environment !== "development" && environment !== "production")
    throw usageError(`--env is development or production, not ${environment}`);
  const bus = options.export === undefined ? await context.bus() : null;
  const range = await rangeOf(context, bus, options);
  const reading = bus === null ? fromExports(options.export ?? []) : fromStreams(bus, range);
  const run = new Backtest({ wanted: { topology, environment: environment ?? null }, ...range });
  let saidMs = performance.now();
  for await (const message of reading.messages) {
    run.take(message);
    if (performance.now() - saidMs < progressMs) continue;
    saidMs = performance.now();
    context.out.note(`read up to ${iso(message.timeMs)}`);
  }
  const result = run.end();
  if (result.fromMs === null)
    throw new CliError(
      1,
      "nothing_recorded",
      `nothing can be judged: ${bus === null ? "give an export of the log, from its start, and one of --signals of the same time" : "no signal was recorded in this time; `mcpf doctor` says what is wrong, and --since 72h looks further back"}`,
    );
  if (reading.malformed() > 0) context.out.note(`${reading.malformed()} messages could not be read, and were left out`);
  context.out.print({ file, malformed: reading.malformed(), ...result }, () => sayResult(file, result), result.sides.wanted.moves);
  return 0;
}

async function rangeOf(context: Context, bus: Bus | null, { since = "24h", from, to }: BacktestCommand): Promise<Range> {
  const toMs = to === undefined ? Number.MAX_SAFE_INTEGER : timeOf(to);
  if (from !== undefined) {
    const fromMs = timeOf(from);
    if (fromMs >= toMs) throw usageError(`--from ${from} is not before --to ${to}`);
    return { fromMs, toMs };
  }
  // All that the files have: who gives them has chosen.
  if (bus === null) return { fromMs: 0, toMs };
  const endMs = to === undefined ? ((await storedMs(bus)) ?? context.nowMs()) : toMs;
  return { fromMs: endMs - parseDuration(since), toMs };
}

function fromStreams(bus: Bus, { fromMs }: Range): Reading {
  let malformed = 0;
  async function* of(stream: StreamName, fromSeq: number): AsyncGenerator<BacktestMessage> {
    for await (const { seq, timeMs, content } of bus.read(stream, { fromSeq })) {
      if (content.kind === "event") yield messageOf(seq, timeMs, content.event);
      else malformed += 1;
    }
  }
  async function* all(): AsyncGenerator<BacktestMessage> {
    const fromSeq = await seqAt(bus, "SIGNALS", fromMs - backtestWarmUpMs);
    yield* merge([of("AUDIT", 1), of("SIGNALS", fromSeq)]);
  }
  return { messages: all(), malformed: () => malformed };
}

function fromExports(files: readonly string[]): Reading {
  let malformed = 0;
  async function* of(file: string): AsyncGenerator<BacktestMessage> {
    for await (const { seq, subject, timeMs, bytes } of readExport(file, () => undefined)) {
      const parsed = parseEvent(subject, bytes);
      if (parsed.ok) yield messageOf(seq, timeMs, parsed.event);
      else malformed += 1;
    }
  }
  return { messages: merge(files.map(of)), malformed: () => malformed };
}

function messageOf(seq: number, timeMs: number, event: Event): BacktestMessage {
  const isSignal = event.type === "probe.observed" || event.type === "traffic.observed";
  return { stream: isSignal ? "SIGNALS" : "AUDIT", seq, timeMs, event };
}

/** In the order of their times. What several exports have is taken once. */
async function* merge(sources: readonly AsyncGenerator<BacktestMessage>[]): AsyncGenerator<BacktestMessage> {
  const last = { AUDIT: { seq: 0, timeMs: 0 }, SIGNALS: { seq: 0, timeMs: 0 } };
  const heads: { source: AsyncGenerator<BacktestMessage>; message: BacktestMessage }[] = [];
  const advance = async (source: AsyncGenerator<BacktestMessage>): Promise<void> => {
    const next = await source.next();
    if (!next.done) heads.push({ source, message: next.value });
  };
  for (const source of sources) await advance(source);
  while (heads.length > 0) {
    let first = 0;
    for (const [index, { message }] of heads.entries())
      if (message.timeMs < (heads[first] as (typeof heads)[number]).message.timeMs) first = index;
    const [head] = heads.splice(first, 1) as [(typeof heads)[number]];
    const { message, source } = head;
    const before = last[message.stream];
    const again = message.seq <= before.seq && message.timeMs <= before.timeMs;
    if (!again) {
      last[message.stream] = message;
      yield message;
    }
    await advance(source);
  }
}

function sayResult(file: string, { fromMs, toMs, signals, silentMs, sides, fidelity, untried, outagesLeftOut }: BacktestResult): string {
  const { recorded, replayed, wanted } = sides;
  const rows = (
    [
      ["moves", ({ moves }) => String(moves)],
      ["  by probes, off an endpoint that was not down", ({ unneeded }) => String(unneeded)],
      ["moves that a rule stopped, or with nowhere to go", ({ deadEnds }) => String(deadEnds)],
      ["what served was down", ({ downMs }) => sayMs(downMs)],
      ["  not known", ({ unknownMs }) => sayMs(unknownMs)],
      [
        "calls that failed, or would have",
        ({ failed, failedUnknown }) => `${failed}${failedUnknown > 0 ? ` to ${failed + failedUnknown}` : ""}`,
      ],
      ["  of", ({ calls }) => String(calls)],
    ] as const satisfies readonly (readonly [string, (counts: (typeof recorded)["total"]) => string])[]
  ).map(([what, say]) => [what, say(recorded.total), say(replayed.total), say(wanted.total)]);
  const own = wanted.moves.filter(({ automatic }) => automatic);
  const others = recorded.moves.filter(({ automatic }) => automatic);
  return [
    `${file} on ${sayMs((toMs ?? 0) - (fromMs ?? 0))} of the log, ${iso(fromMs ?? 0)} to ${iso(toMs ?? 0)}: ${signals} signals${silentMs > 0 ? `; ${sayMs(silentMs)} without any are not judged` : ""}`,
    "",
    table(["", "RECORDED", "REPLAYED", file], rows),
    "",
    ...(untried.length > 0 ? ["Cannot be tried on this record:", ...untried.map((one) => `  ${one}`), ""] : []),
    ...sayMoves(`Automatic moves with ${file}:`, own),
    ...sayMoves("Automatic moves as they were:", others),
    `REPLAYED is the policy that was in force, decided again here: ${sayFidelity(fidelity)}. What differs there may differ in ${file} for the same reason.`,
    "Probes that were not made are answered by the nearest that was; a call that was made elsewhere counts by what probes say of the endpoint.",
    ...(outagesLeftOut > 0
      ? [`Endpoints were down more often than is kept: the first ${outagesLeftOut} times are not in what is said of moves.`]
      : []),
  ].join("\n");
}

function sayMoves(title: string, moves: readonly JudgedMove[]): string[] {
  if (moves.length === 0) return [`${title} none`, ""];
  const rows = moves
    .slice(0, movesShownMax)
    .map(({ atMs, upstream, from, to, rule, stillDownMs }) => [iso(atMs), upstream, `${from} -> ${to}`, rule, sayNeed(stillDownMs)]);
  const more = moves.length - rows.length;
  return [
    title,
    table(["WHEN", "UPSTREAM", "MOVE", "RULE", "WHAT WAS LEFT"], rows),
    ...(more > 0 ? [`and ${more} more: -o json has all`] : []),
    "",
  ];
}

function sayNeed(stillDownMs: number | null): string {
  if (stillDownMs === null) return "was down to the end";
  return stillDownMs === 0 ? "answered probes" : `was down for ${sayMs(stillDownMs)} more`;
}

function sayFidelity({ recorded, again, added, medianLagMs }: BacktestResult["fidelity"]): string {
  if (recorded === 0 && added === 0) return "no automatic move in either";
  const lag = medianLagMs === null ? "" : ` (in the median ${Math.abs(medianLagMs)} ms ${medianLagMs < 0 ? "earlier" : "later"})`;
  return `${again} of ${recorded} automatic moves come again${lag}, and ${added} others`;
}

function iso(timeMs: number): string {
  return new Date(timeMs).toISOString();
}

function sayMs(ms: number): string {
  const seconds = Math.round(ms / 1000);
  if (seconds < 120) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}
