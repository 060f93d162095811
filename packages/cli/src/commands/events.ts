import { createWriteStream } from "node:fs";
import { pipeline } from "node:stream/promises";
import { type Bus, BusError, type FollowOptions, RefusedError, readFleetStatus, type Stored } from "@mcp-failover/bus";
import { canonicalJson, type Event, parseEvent, type StatusView, streams } from "@mcp-failover/contracts";
import { evidenceRefs, type LogMessage, nothingVerified, problemsMax, verifyEnd, verifyNext, viewStatus } from "@mcp-failover/domain";
import type { Context } from "../context.ts";
import { deciders } from "../deciders.ts";
import { CliError, type ExitCode, usageError } from "../errors.ts";
import { exportLines, type LogEnd, readExport } from "../log-export.ts";
import { table } from "../output.ts";
import { foldLog, readToEnd, sayStored, silenceMsMax, storedMs } from "../read-log.ts";
import { parseDuration } from "./changes.ts";

const defaultSinceMs = 600_000;

/** `mcpf events tail`: what happened lately, by the store's clock, and with `--follow` what happens from now on. */
export async function tail(context: Context, filter: string | undefined, options: { since?: string; follow?: boolean }): Promise<ExitCode> {
  const backMs = options.since === undefined ? defaultSinceMs : parseDuration(options.since);
  if (filter !== undefined) checkFilter(filter);
  const bus = await context.bus();
  const sinceMs = ((await storedMs(bus)) ?? context.nowMs()) - backMs;
  let shown = 0;
  const show = (stored: Stored): void => {
    if (filter !== undefined && !meet(filter.split("."), stored.subject.split("."))) return;
    shown += 1;
    context.out.line(lineOf(stored), sayStored(stored));
  };
  // The server takes a filter only within one of the stream's own subjects: `*.*.everything` is for us to apply.
  const isWithinOne = filter !== undefined && auditSubjects.some((subject) => filter.startsWith(subject.slice(0, -1)));
  const wanted = { from: { timeMs: sinceMs }, ...(isWithinOne ? { filter } : {}) };
  if (options.follow) await followLog(context, bus, wanted, show);
  else await readToEnd(bus, "AUDIT", wanted, show);
  if (!options.follow && shown === 0) {
    const what = filter === undefined ? "nothing happened" : `no event with a subject like ${JSON.stringify(filter)}`;
    context.out.note(`${what} since ${new Date(sinceMs).toISOString()}; look further back with --since`);
  }
  return 0;
}

const auditSubjects = streams.find(({ name }) => name === "AUDIT")?.subjects ?? [];

/** Throws for a filter that no event of the log can ever match: following one is refused by the server, for ever. */
function checkFilter(filter: string): void {
  const words = filter.split(".");
  const isFilter = words.every((word, index) => /^[^\s>]+$/.test(word) || (word === ">" && index === words.length - 1));
  if (isFilter && auditSubjects.some((subject) => meet(words, subject.split(".")))) return;
  throw usageError(
    `no event of the log has a subject like ${JSON.stringify(filter)}: write for example 'failover.>' or 'health.changed.UPSTREAM.*'; known: ${auditSubjects.join(" ")}`,
    "unknown_subject",
  );
}

/** Whether there is a subject that both filters match; of a subject itself: whether the filter matches it. */
function meet(mine: readonly string[], theirs: readonly string[]): boolean {
  for (let index = 0; ; index += 1) {
    const [a, b] = [mine[index], theirs[index]];
    if (a === undefined || b === undefined) return a === b;
    if (a === ">" || b === ">") return true;
    if (a !== b && a !== "*" && b !== "*") return false;
  }
}

/** Until SIGINT. Whoever watches must not take a log that is out of reach for one in which nothing happens. */
async function followLog(
  context: Context,
  bus: Bus,
  wanted: Pick<FollowOptions, "from" | "filter">,
  show: (stored: Stored) => void,
): Promise<void> {
  await bus.info("AUDIT");
  const end = Promise.withResolvers<void>();
  const silence = setTimeout(() => context.out.note("AUDIT could not be read yet; it is tried again"), silenceMsMax);
  const following = bus.follow("AUDIT", { ...wanted, onCaughtUp: () => clearTimeout(silence) }, show);
  const stopListening = bus.onStatus((status) => {
    if (status.kind === "connected") context.out.note("NATS is back");
    else if (status.kind === "closed") end.reject(new CliError(1, "unreachable", "the connection to NATS has ended: run it again", true));
    else context.out.note(`NATS is out of reach (${status.reason}): what happens meanwhile is shown when it is back`);
  });
  process.once("SIGINT", end.resolve);
  try {
    await end.promise;
  } finally {
    process.off("SIGINT", end.resolve);
    clearTimeout(silence);
    stopListening();
    await following.stop();
  }
}

function lineOf(stored: Stored): object {
  const place = { seq: stored.seq, subject: stored.subject, time: new Date(stored.timeMs).toISOString() };
  return stored.content.kind === "event" ? { ...place, event: stored.content.event } : { ...place, malformed: stored.content.reason };
}

/** `mcpf events replay`: folds the log again from its first event, and compares with what the state-store shows; 1 also when it cannot be compared. */
export async function replay(context: Context, options: { to?: string }): Promise<ExitCode> {
  const bus = await context.bus();
  const toSeq = options.to === undefined ? undefined : Number(options.to);
  if (toSeq !== undefined && !(Number.isSafeInteger(toSeq) && toSeq >= 1))
    throw usageError(`--to is a sequence of AUDIT, not ${options.to}`);
  const { model, messages, decisions, malformed } = await foldLog(bus, toSeq);
  const view = viewStatus(model, [], context.nowMs());
  // A replay up to an earlier event shows the past; only a whole one can be compared.
  const shown = toSeq === undefined ? await shownByStateStore(bus) : null;
  const differs = shown?.view ? differences(view.upstreams, shown.view.upstreams) : [];
  const equals = shown?.view ? differs.length === 0 : null;
  const result = {
    messages,
    decisions,
    malformed,
    toSeq: model.seq,
    equalsReadModel: equals,
    /** Why there is nobody to compare with; null where it was compared, or need not be. */
    notCompared: shown?.nobody ?? null,
    differences: differs,
    view,
  };
  context.out.print(result, () =>
    [
      `replayed ${messages} events, ${decisions} of them decisions${malformed > 0 ? `, ${malformed} malformed` : ""}, up to #${model.seq}`,
      shown === null
        ? ""
        : equals === null
          ? `there is nobody to compare with: ${shown.nobody}`
          : equals
            ? "the replayed view equals what the state-store shows"
            : `the state-store shows something else: ${differs.join("; ")}`,
      table(
        ["UPSTREAM", "ACTIVE", "EPOCH"],
        view.upstreams.map(({ name, active, epoch }) => [name, active, String(epoch)]),
      ),
    ]
      .filter(Boolean)
      .join("\n"),
  );
  return shown === null || equals ? 0 : 1;
}

/** Never the log folded once more, as `mcpf status` does it: that equals itself. */
async function shownByStateStore(bus: Bus): Promise<{ readonly view: StatusView | null; readonly nobody: string | null }> {
  try {
    const { status: view } = await readFleetStatus(bus);
    if (view.backupUpToSeq === undefined) return { view, nobody: null };
    return { view: null, nobody: `the state-store cannot read the log, and shows its backup up to event #${view.backupUpToSeq}` };
  } catch (error) {
    if (!(error instanceof RefusedError || error instanceof BusError)) throw error;
    return { view: null, nobody: `no state-store shows anything (${error.message})` };
  }
}

/** Routes and holds have to be equal; health may have moved on between the two readings. */
function differences(
  mine: readonly { name: string; active: string; epoch: number; held: unknown }[],
  shown: readonly { name: string; active: string; epoch: number; held: unknown }[],
): string[] {
  const pick = ({ name, active, epoch, held }: (typeof mine)[number]) => canonicalJson({ name, active, epoch, held });
  const theirs = new Map(shown.map((one) => [one.name, one]));
  const known = new Set(mine.map(({ name }) => name));
  const differs = mine.flatMap((one) => {
    const other = theirs.get(one.name);
    if (other === undefined) return [`${one.name} is missing`];
    return pick(one) === pick(other)
      ? []
      : [`${one.name}: log ${one.active} epoch ${one.epoch}, shown ${other.active} epoch ${other.epoch}`];
  });
  return [...differs, ...shown.filter(({ name }) => !known.has(name)).map(({ name }) => `${name} is shown, and is not in the log`)];
}

/** `mcpf events export --file F`: AUDIT as it is stored, byte for byte; with `--signals` SIGNALS, which forgets after three days. */
export async function exportLog(context: Context, options: { file?: string; signals?: boolean }): Promise<ExitCode> {
  const { file } = options;
  const bus = await context.bus();
  let lines = 0;
  async function* counted(): AsyncGenerator<string> {
    for await (const line of exportLines(bus, options.signals ? "SIGNALS" : "AUDIT")) {
      yield line;
      lines += 1;
    }
  }
  try {
    if (file === undefined) await pipeline(counted, process.stdout, { end: false });
    else await pipeline(counted, createWriteStream(file, { mode: 0o600 }));
  } catch (error) {
    if (!(error instanceof Error && "syscall" in error)) throw error;
    const { code } = error as NodeJS.ErrnoException;
    const where = file === undefined ? "standard output" : file;
    throw new CliError(1, "file_not_written", `${where} cannot be written (${code}): what is there is not the whole log`);
  }
  if (file !== undefined) context.out.note(`${lines - 1} events exported to ${file}`);
  return 0;
}

/** `mcpf events verify`: 1 when anything is wrong, or it is not certain that nothing is missing; each problem names sequence and subject. */
export async function verify(context: Context, options: { file?: string }): Promise<ExitCode> {
  const { file } = options;
  const live = file === undefined ? await context.bus() : await reachable(context);
  // Of an export only where its first event stands in the log that is reached.
  let evidence = file === undefined ? live : null;
  let end: LogEnd | null = file === undefined ? { lastSeq: (await (live as Bus).info("AUDIT")).lastSeq } : null;
  const messages =
    file === undefined
      ? fromStream(live as Bus)
      : readExport(file, (said) => {
          end = said;
        });
  const signals = new Map<number, Signal | null>();
  let extent: Extent = { oldestMs: null, lastSeq: 0 };
  let state = nothingVerified;
  let first: number | null = null;
  for await (const message of messages) {
    if (first === null) {
      first = message.seq;
      if (file !== undefined && live !== null && (await isOfLog(live, message))) evidence = live;
      if (evidence === null) context.out.note("the signals of this export are not here: votes and proofs count as expired");
    }
    for (const seq of evidenceRefs(message)) {
      if (signals.has(seq)) continue;
      signals.set(seq, await signalOf(evidence, seq));
      if (evidence !== null && seq > extent.lastSeq) extent = await extentOf(evidence);
    }
    state = verifyNext(state, message, {
      deciders,
      signalAt: (seq, atMs) =>
        signalBefore(signals.get(seq) ?? null, message.timeMs) ?? neverIn(extent, seq, Math.min(atMs, message.timeMs)),
      complete: first === 1,
    });
    if (signals.size > signalsKeptMax) signals.clear();
  }
  if (state.messages === 0)
    throw new CliError(
      1,
      "nothing_to_verify",
      "there is not one event: every log begins with log.started, so this is not one, or it is lost",
    );
  if (end === null)
    context.out.note(
      "the last line of this export does not say that it is whole: it was cut off, or is of an older mcpf; what is here was checked, and what followed is not known",
    );
  else state = verifyEnd(state, end);
  const { decisions, inputsExpired, problems, wrong } = state;
  const complete = end !== null && state.missing === 0;
  const result = { messages: state.messages, decisions, wrong, inputsExpired, complete, problemsMax, problems };
  context.out.print(result, () =>
    [
      ...problems.map(({ seq, subject, check, message }) => `#${seq} ${subject}: ${check}: ${message}`),
      ...(wrong > problems.length ? [`the first ${problems.length} of ${wrong} are shown`] : []),
      `${state.messages} events, ${decisions} decisions recomputed, ${wrong} wrong, ${inputsExpired} inputs expired${complete ? "" : ", not complete"}`,
    ].join("\n"),
  );
  return wrong === 0 && complete ? 0 : 1;
}

const signalsKeptMax = 10_000;

async function* fromStream(bus: Bus): AsyncIterable<LogMessage> {
  for await (const stored of bus.read("AUDIT")) {
    // What the bytes point at (a large configuration) was fetched and checked by its hash: where that failed they alone look well.
    yield stored.content.kind === "malformed" ? { ...stored, unusable: stored.content.reason } : stored;
  }
}

/** The stack, where there is one that answers: an export is verified without. Throws for what is wrong about how it is named. */
async function reachable(context: Context): Promise<Bus | null> {
  try {
    return await context.bus();
  } catch (error) {
    if (error instanceof CliError && error.exitCode === 1) return null;
    throw error;
  }
}

/** Whether an event stands in the log of this stack: any stack has other signals at the same numbers. */
async function isOfLog(bus: Bus, { seq, subject, bytes }: LogMessage): Promise<boolean> {
  try {
    const stored = await bus.at("AUDIT", seq);
    return stored !== null && stored.subject === subject && Buffer.from(stored.bytes).equals(bytes);
  } catch (error) {
    if (error instanceof BusError) return false;
    throw error;
  }
}

interface Signal {
  readonly event: Event;
  readonly timeMs: number;
}

async function signalOf(bus: Bus | null, seq: number): Promise<Signal | null> {
  const stored = bus === null ? null : await bus.at("SIGNALS", seq);
  if (stored === null) return null;
  const parsed = parseEvent(stored.subject, stored.bytes);
  return parsed.ok ? { event: parsed.event, timeMs: stored.timeMs } : null;
}

/** Two streams' leaders may stand on machines whose clocks differ by this. */
const skewMsMax = 10_000;

/** One that was stored after the decision is not what its decider read: SIGNALS was made anew since, and counts from 1 again. */
function signalBefore(signal: Signal | null, decidedAtMs: number): Event | null {
  return signal === null || signal.timeMs > decidedAtMs + skewMsMax ? null : signal.event;
}

/** How far SIGNALS has ever come, and since when it holds what it does; null: it holds nothing. */
interface Extent {
  readonly oldestMs: number | null;
  readonly lastSeq: number;
}

async function extentOf(bus: Bus): Promise<Extent> {
  const { firstSeq, lastSeq } = await bus.info("SIGNALS");
  return { oldestMs: (await bus.at("SIGNALS", firstSeq))?.timeMs ?? null, lastSeq };
}

/** A stream that is older than what was read has not been made anew since, and counts as it did then. */
function neverIn({ oldestMs, lastSeq }: Extent, seq: number, readAtMs: number): "never" | null {
  return seq > lastSeq && oldestMs !== null && oldestMs < readAtMs - skewMsMax ? "never" : null;
}
