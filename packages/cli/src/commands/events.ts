import { once } from "node:events";
import { createReadStream, createWriteStream } from "node:fs";
import { createInterface } from "node:readline";
import { type Bus, BusError, type FollowOptions, type Stored } from "@mcp-failover/bus";
import { canonicalJson, type Event, parseEvent } from "@mcp-failover/contracts";
import { evidenceRefs, type LogMessage, nothingVerified, verifyNext, viewStatus } from "@mcp-failover/domain";
import { z } from "zod";
import type { Context } from "../context.ts";
import { deciders } from "../deciders.ts";
import { CliError, type ExitCode, usageError } from "../errors.ts";
import { table } from "../output.ts";
import { foldLog, readToEnd, sayStored, silenceMsMax } from "../read-log.ts";
import { parseDuration } from "./changes.ts";
import { readStatus } from "./status.ts";

/** One line of `mcpf events export`. `payload` keeps the stored bytes exactly: as text where they are UTF-8, else in base64. */
const exported = z.object({
  seq: z.number().int().positive(),
  subject: z.string(),
  timeMs: z.number(),
  headers: z.record(z.string(), z.string()),
  payload: z.string().optional(),
  payloadBase64: z.string().optional(),
});

const defaultSinceMs = 600_000;

/** `mcpf events tail`: what happened lately, and with `--follow` what happens from now on. */
export async function tail(context: Context, filter: string | undefined, options: { since?: string; follow?: boolean }): Promise<ExitCode> {
  const bus = await context.bus();
  const sinceMs = context.nowMs() - (options.since === undefined ? defaultSinceMs : parseDuration(options.since));
  const show = (stored: Stored): void => context.out.line(lineOf(stored), sayStored(stored));
  const wanted = { from: { timeMs: sinceMs }, ...(filter === undefined ? {} : { filter }) };
  if (options.follow) await followLog(context, bus, wanted, show);
  else await readToEnd(bus, "AUDIT", wanted, show);
  return 0;
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

/** `mcpf events replay`: folds the log again from its first event, and compares with what the state-store shows. */
export async function replay(context: Context, options: { to?: string }): Promise<ExitCode> {
  const bus = await context.bus();
  const toSeq = options.to === undefined ? undefined : Number(options.to);
  if (toSeq !== undefined && !(toSeq >= 1)) throw usageError(`--to is a sequence of AUDIT, not ${options.to}`);
  const { model, messages, decisions, malformed } = await foldLog(bus, toSeq);
  const view = viewStatus(model, [], context.nowMs());
  // A replay up to an earlier event shows the past; only a whole one can be compared.
  const shown = toSeq === undefined ? await readStatus(context) : null;
  const differs = shown === null ? [] : differences(view.upstreams, shown.upstreams);
  const result = {
    messages,
    decisions,
    malformed,
    toSeq: model.seq,
    equalsReadModel: shown === null ? null : differs.length === 0,
    differences: differs,
    view,
  };
  context.out.print(result, () =>
    [
      `replayed ${messages} events, ${decisions} of them decisions${malformed > 0 ? `, ${malformed} malformed` : ""}, up to #${model.seq}`,
      shown === null
        ? ""
        : differs.length === 0
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
  return differs.length === 0 ? 0 : 1;
}

/** Routes and holds have to be equal; health may have moved on between the two readings. */
function differences(
  mine: readonly { name: string; active: string; epoch: number; held: unknown }[],
  shown: readonly { name: string; active: string; epoch: number; held: unknown }[],
): string[] {
  const pick = ({ name, active, epoch, held }: (typeof mine)[number]) => canonicalJson({ name, active, epoch, held });
  const theirs = new Map(shown.map((one) => [one.name, one]));
  return mine.flatMap((one) => {
    const other = theirs.get(one.name);
    if (other === undefined) return [`${one.name} is missing`];
    return pick(one) === pick(other)
      ? []
      : [`${one.name}: log ${one.active} epoch ${one.epoch}, shown ${other.active} epoch ${other.epoch}`];
  });
}

/** `mcpf events export --file F`: AUDIT as it is stored, byte for byte. */
export async function exportLog(context: Context, options: { file?: string }): Promise<ExitCode> {
  const bus = await context.bus();
  const sink = options.file === undefined ? process.stdout : createWriteStream(options.file, { mode: 0o600 });
  let count = 0;
  for await (const { seq, subject, timeMs, headers, bytes } of bus.read("AUDIT")) {
    count += 1;
    const line = `${JSON.stringify({ seq, subject, timeMs, headers, ...payloadOf(bytes) })}\n`;
    if (!sink.write(line)) await once(sink, "drain");
  }
  if (sink !== process.stdout) {
    await new Promise<void>((resolve) => sink.end(() => resolve()));
    context.out.note(`${count} events exported to ${options.file}`);
  }
  return 0;
}

function payloadOf(bytes: Uint8Array): { payload: string } | { payloadBase64: string } {
  const text = Buffer.from(bytes).toString("utf8");
  return Buffer.from(text, "utf8").equals(bytes) ? { payload: text } : { payloadBase64: Buffer.from(bytes).toString("base64") };
}

/** `mcpf events verify`: 1 when anything is wrong; each problem names sequence and subject. */
export async function verify(context: Context, options: { file?: string }): Promise<ExitCode> {
  const { file } = options;
  const live = file === undefined ? await context.bus() : await reachable(context);
  // Of an export only where its first event stands in the log that is reached.
  let evidence = file === undefined ? live : null;
  const messages = file === undefined ? fromStream(live as Bus) : fromFile(file);
  const signals = new Map<number, Signal | null>();
  let state = nothingVerified;
  let first: number | null = null;
  for await (const message of messages) {
    if (first === null) {
      first = message.seq;
      if (file !== undefined && live !== null && (await isOfLog(live, message))) evidence = live;
      if (evidence === null) context.out.note("the signals of this export are not here: votes and proofs count as expired");
    }
    for (const seq of evidenceRefs(message)) if (!signals.has(seq)) signals.set(seq, await signalOf(evidence, seq));
    state = verifyNext(state, message, {
      deciders,
      signalAt: (seq) => signalBefore(signals.get(seq) ?? null, message.timeMs),
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
  const wrong = state.problems.length;
  const result = {
    messages: state.messages,
    decisions: state.decisions,
    wrong,
    inputsExpired: state.inputsExpired,
    problems: state.problems,
  };
  context.out.print(result, () =>
    [
      ...state.problems.map(({ seq, subject, check, message }) => `#${seq} ${subject}: ${check}: ${message}`),
      `${state.messages} events, ${state.decisions} decisions recomputed, ${wrong} wrong, ${state.inputsExpired} inputs expired`,
    ].join("\n"),
  );
  return wrong === 0 ? 0 : 1;
}

const signalsKeptMax = 10_000;

async function* fromStream(bus: Bus): AsyncIterable<LogMessage> {
  for await (const stored of bus.read("AUDIT")) {
    // What the bytes point at (a large configuration) was fetched and checked by its hash: where that failed they alone look well.
    yield stored.content.kind === "malformed" ? { ...stored, unusable: stored.content.reason } : stored;
  }
}

async function* fromFile(file: string): AsyncIterable<LogMessage> {
  const input = createReadStream(file);
  await once(input, "open").catch((error: NodeJS.ErrnoException) => {
    throw usageError(`${file} cannot be read (${error.code}): give the file that \`mcpf events export --file\` wrote`, "no_file");
  });
  let number = 0;
  for await (const line of createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY })) {
    number += 1;
    if (line === "") continue;
    const parsed = exported.safeParse(jsonOf(line));
    if (!parsed.success)
      throw new CliError(1, "not_an_export", `line ${number} of ${file} is not a line of an export: it was altered, or is another file`);
    const { seq, subject, timeMs, headers, payload, payloadBase64 } = parsed.data;
    yield {
      seq,
      subject,
      timeMs,
      headers,
      bytes: payload === undefined ? Buffer.from(payloadBase64 ?? "", "base64") : Buffer.from(payload, "utf8"),
    };
  }
}

function jsonOf(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
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
