import type { StreamName } from "@mcp-failover/contracts";
import { BusError, type Following, type FollowOptions, type ReadOptions, type Stored } from "../bus.ts";
import type { ClaimCheck } from "../claim-check.ts";
import { type FollowHandler, guarded, handOver, settledWithin } from "../hand-over.ts";
import type { BusLog } from "../log.ts";
import { headerNames, type RawMessage } from "../message.ts";
import type { Quarantine } from "../quarantine.ts";
import { type StreamInfoWire, toBusError } from "./api.ts";
import type { ConsumerStart } from "./consumers.ts";
import { Lag } from "./lag.ts";
import type { NatsLink } from "./link.ts";
import type { NatsLog } from "./log.ts";
import { openConsumer, type PullConsumer } from "./pull.ts";

/** Messages that wait in this process at most. */
const batch = 256;
const infoMs = 5000;
const stopMs = 2000;
const retryMsMin = 100;
const retryMsMax = 1000;
/** A read that gets nothing for so long gives up. */
const readStallMs = 15_000;
/** So many events behind is no burst any more. */
const pendingMax = 10_000;

export interface NatsReader {
  readonly link: NatsLink;
  readonly log: NatsLog;
  readonly quarantine: Quarantine;
  readonly claims: ClaimCheck;
  readonly say: BusLog;
}

/**
 * B4. Each stretch is a new consumer on the server, from behind the last sequence handed over; whatever ends it (a restart, a lost
 * connection, missed heartbeats, a gap) the next stretch goes on from there, so nothing is lost and nothing comes twice.
 */
export function follow(reader: NatsReader, stream: StreamName, options: FollowOptions, handler: FollowHandler): Following {
  const { link, log, quarantine, claims, say } = reader;
  const filter = options.filter ?? ">";
  let stopped = false;
  let seq = 0;
  /** What `from` came to when the stream was first seen: a start by time or at the end must not move when we begin anew. */
  let start: ConsumerStart | null = null;
  let lastAtStart = 0;
  let created: string | null = null;
  /** Which message `seq` is: a log that was restored to an earlier place, and went on since, has another one there. */
  let lastHad: { readonly timeMs: number; readonly nonce: string | undefined } = { timeMs: 0, nonce: undefined };
  let caughtUp = false;
  let consumer: PullConsumer | null = null;
  const lag = new Lag(stream, filter, options.pendingMax ?? pendingMax);
  const onBeat = () => lag.settled();
  const over = () => stopped || link.closed;

  async function run(): Promise<void> {
    let retryMs = retryMsMin;
    while (!over()) {
      if (!link.connected) {
        lag.settled();
        await link.changed(null);
        retryMs = retryMsMin;
        continue;
      }
      const before = seq;
      lag.opening();
      const reason = await stretch().catch((error: unknown) => (error instanceof Error ? error.message : String(error)));
      consumer?.close();
      consumer = null;
      if (over()) return;
      lag.failed(reason);
      say.debug({ stream, filter, seq, reason }, "following begins anew");
      if (seq > before) retryMs = retryMsMin;
      if (link.connected) await link.sleep(retryMs * (0.75 + Math.random() / 2));
      retryMs = Math.min(retryMs * 2, retryMsMax);
    }
  }

  /** Follows until something breaks, and says what. */
  async function stretch(): Promise<string> {
    const info = await log.streamInfo(stream, infoMs);
    if (created !== null && (created !== info.created || info.state.last_seq < seq || !(await hasWhatWeHad(info)))) {
      say.warn({ stream, filter, seq, lastSeq: info.state.last_seq }, "this is another log than before: following begins at its start");
      // All of it is new to one who wanted what is new, or what comes after something that is gone.
      start = options.from === "last_per_subject" ? { kind: "last_per_subject" } : fromSeq(1);
      seq = 0;
      lastAtStart = info.state.last_seq;
      const { onAnotherLog } = options;
      if (onAnotherLog !== undefined) {
        caughtUp = false;
        guarded(onAnotherLog, say, "onAnotherLog failed");
      }
    }
    if (start === null) {
      start = startOf(options.from, info.state.last_seq);
      lastAtStart = info.state.last_seq;
    }
    created = info.created;
    const firstWanted = start.kind === "seq" ? start.seq : 0;
    consumer = await openConsumer(link, stream, { filter, from: seq === 0 ? start : fromSeq(seq + 1) });
    for (;;) {
      if (!caughtUp && seq >= lastAtStart) catchUp();
      const pull = consumer.pull({ batch, wait: caughtUp, onBeat });
      for (;;) {
        const step = await pull.next();
        if (over()) return "stopped";
        if (step.done) {
          if (step.value.kind === "broken") return step.value.reason;
          if (step.value.kind === "empty" && !caughtUp) {
            // A start by time may lie behind the last message.
            const last = await lastBehind(reader, stream, info, { filter, seq: Math.max(seq, firstWanted - 1) });
            const wanted = start.kind !== "time" || seq > 0 || (last?.timeMs ?? 0) >= Date.parse(start.time);
            if (over()) return "stopped";
            if (last !== null && wanted) return "the copy of the stream that was read is not complete yet";
            catchUp();
          }
          lag.settled();
          break;
        }
        const { raw, position, waiting } = step.value;
        // What there was at the start is read for as long as it takes.
        if (caughtUp) lag.delivered(position.pending + waiting);
        // A start beyond the end is moved back to the end by the server.
        if (raw.seq <= seq || raw.seq < firstWanted) continue;
        if (!caughtUp && raw.seq > lastAtStart) catchUp();
        // Where its object is out of reach the stretch ends, and the next one begins with this message again.
        const collected = claims.collect(quarantine.look(raw));
        const stored = collected instanceof Promise ? await collected : collected;
        if (over()) return "stopped";
        seq = raw.seq;
        lastHad = { timeMs: raw.timeMs, nonce: raw.headers[headerNames.nonce] };
        lag.settled();
        const begun = lag.begun();
        await handOver(stored, handler, options, say);
        lag.ended(begun);
        if (over()) return "stopped";
      }
    }
  }

  /** Where the message has gone since, nothing can be said against the log. Throws {@link BusError}. */
  async function hasWhatWeHad({ state }: StreamInfoWire): Promise<boolean> {
    if (seq === 0 || seq < state.first_seq) return true;
    const there = await log.at(stream, seq, infoMs);
    return there === null || (there.timeMs === lastHad.timeMs && there.headers[headerNames.nonce] === lastHad.nonce);
  }

  function catchUp(): void {
    caughtUp = true;
    guarded(() => options.onCaughtUp?.(), say, "onCaughtUp failed");
  }

  // Begins after the caller has what it returns.
  link.lags.add(lag);
  const loop = Promise.resolve()
    .then(run)
    .finally(() => link.lags.delete(lag));
  return {
    get seq() {
      return seq;
    },
    async stop() {
      stopped = true;
      consumer?.interrupt("stopped");
      await settledWithin(loop, stopMs);
    },
  };
}

function startOf(from: FollowOptions["from"], lastSeq: number): ConsumerStart {
  if (from === "last_per_subject") return { kind: "last_per_subject" };
  if (from === "new") return fromSeq(lastSeq + 1);
  if ("seq" in from) return fromSeq(from.seq);
  return { kind: "time", time: new Date(from.timeMs).toISOString() };
}

function fromSeq(seq: number): ConsumerStart {
  return seq <= 1 ? { kind: "all" } : { kind: "seq", seq };
}

/**
 * The last message behind `seq`, or null. A consumer on a replicated stream reads the copy of the server that it happens to be on, which
 * may lag, for long after that server was away: where its end is, is no word on the end of the stream. The leader has that.
 */
async function lastBehind(
  { log }: NatsReader,
  stream: StreamName,
  { config }: StreamInfoWire,
  { filter, seq }: { filter: string; seq: number },
): Promise<RawMessage | null> {
  if (config.num_replicas <= 1) return null;
  const last = await log.lastOf(stream, filter, infoMs);
  return last !== null && last.seq > seq ? last : null;
}

/** Reads in batches up to what is the end now. Throws {@link BusError} when the log stays out of reach. */
export async function* read(reader: NatsReader, stream: StreamName, options: ReadOptions): AsyncGenerator<Stored> {
  const { link, log, quarantine, claims } = reader;
  await link.reach(infoMs);
  const filter = options.filter ?? ">";
  const info = await log.streamInfo(stream, infoMs);
  const { state } = info;
  const endSeq = Math.min(state.last_seq, options.toSeq ?? state.last_seq);
  let next = Math.max(options.fromSeq ?? 1, state.first_seq);
  let progressMs = performance.now();
  while (next <= endSeq) {
    let consumer: PullConsumer | null = null;
    try {
      await link.reach(infoMs);
      consumer = await openConsumer(link, stream, { filter, from: fromSeq(next) });
      for (let going = true; going; ) {
        const pull = consumer.pull({ batch, wait: false });
        for (;;) {
          const step = await pull.next();
          if (step.done) {
            if (step.value.kind === "empty" && (await lastBehind(reader, stream, info, { filter, seq: next - 1 })) === null) return;
            going = step.value.kind === "done";
            break;
          }
          const { raw } = step.value;
          if (raw.seq > endSeq) return;
          const collected = claims.collect(quarantine.look(raw));
          const stored = collected instanceof Promise ? await collected : collected;
          next = raw.seq + 1;
          yield stored;
          progressMs = performance.now();
          if (next > endSeq) return;
        }
      }
    } catch (error) {
      const failure = toBusError(error, `read the stream ${stream}`, stream);
      if (!failure.retriable || link.closed) throw failure;
    } finally {
      consumer?.close();
    }
    if (performance.now() - progressMs > readStallMs) {
      throw new BusError(
        "timeout",
        `reading ${stream} stopped before ${endSeq}, at ${next}: NATS does not answer, or the copy that was read lags`,
        { retriable: true },
      );
    }
    await link.sleep(retryMsMin);
  }
}
