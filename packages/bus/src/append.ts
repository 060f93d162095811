import { type Appended, BusError, type Fenced, type Stored } from "./bus.ts";
import type { ClaimCheck } from "./claim-check.ts";
import type { LogPort, PublishOutcome } from "./log-port.ts";
import { decode, type EventLike, encodeEvent, headerNames, isOwn, type Outgoing, type RawMessage } from "./message.ts";

type Unknown = Extract<PublishOutcome, { kind: "unknown" }>;

const defaultTimeoutMs = 5000;
/** One try gets this long, so that a lost answer leaves time to settle it. */
const tryMs = 2000;
const pauseMsMin = 50;
const pauseMsMax = 500;

/** Stores an event without a fence; tries again with the same id until the time-out, which the store counts as one. */
export async function append(log: LogPort, claims: ClaimCheck, event: EventLike): Promise<Appended> {
  return publishUnfenced(log, encodeEvent(await lightened(claims, event)));
}

/** The same for a message that is encoded already. */
export async function publishUnfenced(log: LogPort, message: Outgoing, timeoutMs: number = defaultTimeoutMs): Promise<Appended> {
  const retry = retryUntil(log, timeoutMs, `store ${message.subject}`);
  for (;;) {
    const outcome = await log.publish(message, retry.leftMs());
    if (outcome.kind === "stored") return { seq: outcome.seq, duplicate: outcome.duplicate };
    if (outcome.kind === "wrong_sequence")
      throw new BusError("rejected", `${message.subject} carries a fence it was not given`, { retriable: false });
    await retry.pause(outcome);
  }
}

/** Guarantees B1 to B3. */
export async function appendFenced(
  log: LogPort,
  claims: ClaimCheck,
  event: EventLike,
  expectedSeq: number,
  timeoutMs: number = defaultTimeoutMs,
): Promise<Fenced> {
  if (!Number.isSafeInteger(expectedSeq) || expectedSeq < 0) {
    throw new RangeError(`expectedSeq is ${expectedSeq}: give the last sequence of the subject, or 0 where there is none`);
  }
  const fenced = await publishFenced(log, encodeEvent(await lightened(claims, event), { expectedSeq }), timeoutMs);
  return fenced.outcome === "won" || fenced.last === null ? fenced : { outcome: "lost", last: await claims.collect(fenced.last) };
}

/** What would be refused anyway is refused before anything of it is stored. */
async function lightened(claims: ClaimCheck, event: EventLike): Promise<EventLike> {
  return event.type === "config.applied" ? claims.checkIn(event) : event;
}

/**
 * Publishes until the outcome is known. A repeat has the same id, expectation and nonce, so it can store nothing twice:
 * the store answers `duplicate` when an earlier try went through, and `wrong_sequence` when somebody else came first.
 */
export async function publishFenced(
  log: LogPort,
  message: Outgoing,
  timeoutMs: number = defaultTimeoutMs,
  look: (raw: RawMessage) => Stored = decode,
): Promise<Fenced> {
  const retry = retryUntil(log, timeoutMs, `store ${message.subject}`);
  const expectedSeq = Number(message.headers[headerNames.expectedSeq]);
  let maybeStored = false;
  for (;;) {
    const outcome = await log.publish(message, retry.leftMs());
    if (outcome.kind === "stored" && !outcome.duplicate) return { outcome: "won", seq: outcome.seq };
    if (outcome.kind === "stored") {
      // B3: somebody's message has this id. It is ours only if an earlier try of this very call stored it.
      const there = maybeStored ? await told(log.at(message.stream, outcome.seq, retry.leftMs())) : null;
      if (there && isOwn(there, message)) return { outcome: "won", seq: outcome.seq };
      const rival = there === undefined ? undefined : await told(last());
      if (rival !== undefined) return lost(rival, look);
    } else if (outcome.kind === "wrong_sequence") {
      const there = await told(last());
      if (there === undefined) continue;
      if (maybeStored && there !== null && isOwn(there, message)) return { outcome: "won", seq: there.seq };
      if ((there?.seq ?? 0) !== expectedSeq) return lost(there, look);
      // A replicated stream refuses while a rival is on its way; that one may still come to nothing, so nobody has won yet.
      await retry.pause({ kind: "unknown", sent: maybeStored, cause: new Error("another publish on the subject is under way") });
    } else if (!outcome.sent) {
      await retry.pause(outcome);
    } else {
      maybeStored = true;
      // B2: the log says what became of it.
      const there = await told(last(), outcome);
      if (there && isOwn(there, message)) return { outcome: "won", seq: there.seq };
      if (there !== undefined) await retry.pause(outcome);
    }
  }

  function last(): Promise<RawMessage | null> {
    return log.lastOf(message.stream, message.subject, retry.leftMs());
  }

  /** Undefined, after a pause, where the log cannot say it now, as while its replicas elect a leader: then the next round asks again. */
  async function told<T>(answer: Promise<T>, unknown?: Unknown): Promise<T | undefined> {
    try {
      return await answer;
    } catch (cause) {
      if (!(cause instanceof BusError && cause.retriable)) throw cause;
      await retry.pause(unknown ?? { kind: "unknown", sent: maybeStored, cause });
      return undefined;
    }
  }
}

function lost(there: RawMessage | null, look: (raw: RawMessage) => Stored): Fenced {
  const last: Stored | null = there === null ? null : look(there);
  return { outcome: "lost", last };
}

/** Tries and pauses with a common end. Throws {@link BusError} when the time is over. */
function retryUntil(log: LogPort, timeoutMs: number, what: string): { leftMs(): number; pause(outcome: Unknown): Promise<void> } {
  const endMs = log.nowMs() + timeoutMs;
  let pauseMs = pauseMsMin;
  let sent = false;
  return {
    leftMs: () => Math.max(1, Math.min(tryMs, endMs - log.nowMs())),
    async pause(outcome) {
      sent ||= outcome.sent;
      if (outcome.cause instanceof BusError && !outcome.cause.retriable) throw outcome.cause; // The connection was closed, say.
      if (endMs - log.nowMs() > pauseMs) {
        await log.sleep(pauseMs);
        pauseMs = Math.min(pauseMs * 2, pauseMsMax);
        return;
      }
      const { cause } = outcome;
      const why = cause instanceof Error ? ` (${cause.message})` : "";
      if (!sent)
        throw new BusError("unreachable", `could not ${what} within ${timeoutMs} ms, nothing was sent${why}`, { retriable: true, cause });
      const advice = "whether it is stored is not known: look at the log before doing it again";
      throw new BusError("timeout", `could not ${what} within ${timeoutMs} ms, and ${advice}${why}`, { retriable: true, cause });
    },
  };
}
