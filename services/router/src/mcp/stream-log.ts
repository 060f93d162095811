import { randomBytes } from "node:crypto";
import type { Kept, LogShare } from "./log-budget.ts";
import type { Hold } from "./session.ts";
import { formatEvent, type SseEvent } from "./sse.ts";

/**
 * What streams have told their client, so that one whose connection broke goes on where it was (requirement R9), also where the upstream gives
 * no event ids. Guarantees:
 * L1  Event ids are the router's own: upstream session, stream, number of the event, and the upstream's last id where it gave one, so that a
 *     process without this memory goes on at the upstream, and knows which request is to be answered where that is not possible.
 * L2  Who comes back gets what came after its last event, in order, of that stream and no other.
 * L3  A log is bounded in events, characters and age, and so are all of a process together (`log-budget.ts`): the oldest events are forgotten first.
 * L4  The id of an answer says that nothing follows it, so that no process gives a client that comes back with it another one.
 */
export interface EventId {
  /** Of the upstream session ({@link Hold}); empty before there was one. */
  readonly tag: string;
  readonly stream: string;
  readonly seq: number;
  /** The upstream's own; empty when it gives none. */
  readonly upstreamId: string;
  /** It was the answer (L4). */
  readonly isLast?: boolean;
}

/** Who hears a stream now: a client's connection, or another router process where the client came back. */
export interface EventSink {
  readonly gone: boolean;
  readonly lastWriteAtMs: number;
  /** The text of an event. False when it is slow; `whenDrained` tells when to go on. */
  writeText(text: string, nowMs: number): boolean;
  comment(text: string, nowMs: number): void;
  whenDrained(go: () => void): void;
  end(): void;
}

/** An event that has its id, and its text, which is made once for all who get it. */
export interface Logged {
  readonly event: SseEvent;
  readonly text: string;
}

/** Per stream. A client that is gone for longer than these events gets the rest, and its answer. */
const eventsMax = 512;
const charsMax = 512 * 1024;
/** Per session. */
const streamsMax = 32;
/** A client waits a second or two before it comes back, twice; a network may be away longer. */
const keptAfterEndMs = 60_000;
const requestIdCharsMax = 64;

export class StreamLog implements Kept {
  readonly name: string;
  readonly #share: LogShare;
  #events: { readonly seq: number; readonly text: string; readonly chars: number }[] = [];
  #chars = 0;
  #seq: number;
  #tag = "";
  #upstreamId = "";
  #endedAtMs: number | null = null;
  #state: "live" | "parked" | "ended" = "live";
  #isForgotten = false;
  #isVoid = false;
  sink: EventSink | null = null;
  /** Ends what reads the rest of a parked stream for a client that came back: it has cancelled its request, or came back once more. */
  onVoid: (() => void) | null = null;
  /** Who gets that rest, or got it last. */
  reader: Pick<EventSink, "gone"> | null = null;

  constructor(name: string, share: LogShare, seq = 0) {
    this.name = name;
    this.#share = share;
    this.#seq = seq;
  }

  /** `parked`: what is still to come waits at the upstream, after its last id. */
  get state(): "live" | "parked" | "ended" {
    return this.#state;
  }
  get endedAtMs(): number | null {
    return this.#endedAtMs;
  }
  /** What the upstream said last, to go on there. */
  get upstreamId(): string {
    return this.#upstreamId;
  }

  /** Of what was said last; nothing yet: of the place before it. */
  get lastId(): EventId {
    return { tag: this.#tag, stream: this.name, seq: this.#seq, upstreamId: this.#upstreamId };
  }
  /** What this upstream session said last; null: it gives no ids, or another one was heard since. */
  lastIdOf(hold: Hold): string | null {
    return hold.tag === this.#tag && this.#upstreamId !== "" ? this.#upstreamId : null;
  }
  /** Remembers the id of an event that the client need not see. */
  note(upstreamId: string | undefined, hold: Hold | null): void {
    if (hold !== null && hold.tag !== this.#tag) {
      this.#tag = hold.tag;
      this.#upstreamId = "";
    }
    if (upstreamId !== undefined && upstreamId !== "") this.#upstreamId = upstreamId;
  }

  /** Gives an event its id and keeps it. `isLast`: it is the answer (L4). */
  add(event: SseEvent, hold: Hold | null, isLast = false): Logged {
    this.note(event.id, hold);
    this.#seq += 1;
    const own = { ...event, id: eventIdOf({ tag: this.#tag, stream: this.name, seq: this.#seq, upstreamId: this.#upstreamId, isLast }) };
    const text = formatEvent(own);
    this.#keep(text);
    return { event: own, text };
  }

  /** Gives an event its id, keeps it, and passes it on to who hears the stream now. False: hold the source back until the sink has drained. */
  write(event: SseEvent, hold: Hold | null, nowMs: number, isLast = false): boolean {
    const { text } = this.add(event, hold, isLast);
    return this.sink === null || this.sink.gone || this.sink.writeText(text, nowMs);
  }

  /** The answer has been given, or never will be; what is kept stays for a while. */
  end(nowMs: number): void {
    this.#state = "ended";
    this.#endedAtMs = nowMs;
    this.sink?.end();
    this.sink = null;
  }
  park(nowMs: number): void {
    this.end(nowMs);
    this.#state = "parked";
  }

  /** Its request was cancelled: nothing comes after what was said, and nobody comes back for it. */
  get isVoid(): boolean {
    return this.#isVoid;
  }
  cancel(nowMs: number): void {
    if (this.#isVoid) return;
    this.#isVoid = true;
    this.end(nowMs);
    this.takeOver();
  }
  get isRead(): boolean {
    return this.onVoid !== null && this.reader !== null && !this.reader.gone;
  }
  /** False: nobody reads its rest. */
  takeOver(): boolean {
    const end = this.onVoid;
    this.onVoid = null;
    end?.();
    return end !== null;
  }

  /** Whether everything after an event is still here. */
  covers(seq: number): boolean {
    return seq <= this.#seq && (seq === this.#seq || (this.#events[0]?.seq ?? Number.POSITIVE_INFINITY) <= seq + 1);
  }
  /** Whether something that came after an event, or comes yet, is here: the oldest part may be forgotten, and the end is not. */
  leads(seq: number): boolean {
    return seq <= this.#seq && (this.#state === "live" || this.#events.at(-1)?.seq === this.#seq);
  }
  /** The texts of the events after one. */
  after(seq: number): readonly string[] {
    return this.#events.filter((kept) => kept.seq > seq).map(({ text }) => text);
  }
  forget(): void {
    const chars = this.#chars;
    this.#events = [];
    this.#chars = 0;
    this.#isForgotten = true;
    this.#share.gave(this, chars, true);
  }
  dropOldest(): number {
    const oldest = this.#events.shift();
    const freed = oldest?.chars ?? 0;
    this.#chars -= freed;
    if (oldest !== undefined) this.#share.gave(this, freed, this.#events.length === 0);
    return freed;
  }

  #keep(text: string): void {
    if (this.#isForgotten) return;
    // To measure it makes one piece of it: put together from parts, it would keep all that came with them.
    const chars = Buffer.byteLength(text) + besideChars;
    this.#events.push({ seq: this.#seq, text, chars });
    this.#chars += chars;
    this.#share.took(this, chars);
    while (this.#events.length > eventsMax || this.#chars > charsMax) this.dropOldest();
  }
}

/** The streams of one session. */
export class StreamLogs {
  readonly #share: LogShare;
  readonly #logs = new Map<string, StreamLog>();

  constructor(share: LogShare) {
    this.#share = share;
  }

  /** Null: of the session itself. */
  open(requestId: string | number | null): StreamLog {
    return this.#put(new StreamLog(streamNameOf(requestId), this.#share));
  }
  /** The log of a stream that began in another process, or was forgotten. */
  goOn({ stream, seq }: EventId, nowMs: number): StreamLog {
    const known = this.#logs.get(stream);
    if (known?.covers(seq)) return known;
    const log = this.#put(new StreamLog(stream, this.#share, seq));
    log.park(nowMs);
    return log;
  }
  get(name: string): StreamLog | null {
    return this.#logs.get(name) ?? null;
  }
  /** Whether somebody gets the rest of one of the session's own now. */
  get isOwnRead(): boolean {
    return [...this.#logs.values()].some((log) => isOfSession(log.name) && log.isRead);
  }
  /** Nobody reads the rest of one of the session's own any more. False: nobody has. */
  takeOverOwn(): boolean {
    let wasRead = false;
    for (const log of this.#logs.values()) if (isOfSession(log.name) && log.takeOver()) wasRead = true;
    return wasRead;
  }
  /** The stream of a request that its client has cancelled. */
  cancel(requestId: string | number, nowMs: number): void {
    for (const log of this.#logs.values()) if (requestIdOf(log.name) === requestId && log.state !== "ended") log.cancel(nowMs);
  }
  sweep(nowMs: number): void {
    for (const log of this.#logs.values()) if (log.endedAtMs !== null && log.endedAtMs < nowMs - keptAfterEndMs) this.#drop(log);
  }
  clear(): void {
    for (const log of this.#logs.values()) this.#drop(log);
  }

  #put(log: StreamLog): StreamLog {
    const before = this.#logs.get(log.name);
    if (before !== undefined) this.#drop(before);
    this.#logs.set(log.name, log);
    // The oldest goes first; those that are still fed are passed over while there are others.
    if (this.#logs.size > streamsMax) {
      const ended = [...this.#logs.values()].find(({ state }) => state !== "live") ?? (this.#logs.values().next().value as StreamLog);
      this.#drop(ended);
    }
    return log;
  }
  #drop(log: StreamLog): void {
    log.forget();
    this.#logs.delete(log.name);
  }
}

/** What an event takes beside its text. */
const besideChars = 128;

const eventIdPattern = /^([\w-]{8}|)\.([\w-]{5,128})\.([0-9a-z]{1,8})(_?)\.([^\n\r\0]*)$/;
const nonceChars = 4;

export function eventIdOf({ tag, stream, seq, upstreamId, isLast = false }: EventId): string {
  return `${tag}.${stream}.${seq.toString(36)}${isLast ? "_" : ""}.${upstreamId}`;
}
/** Null: not an id of ours. */
export function readEventId(text: string): EventId | null {
  const [, tag, stream, seq, last, upstreamId] = eventIdPattern.exec(text) ?? [];
  if (tag === undefined || stream === undefined || seq === undefined || upstreamId === undefined) return null;
  return { tag, stream, seq: Number.parseInt(seq, 36), upstreamId, isLast: last === "_" };
}

/** A nonce, what it is a stream of, and for a call the id of its request. */
function streamNameOf(requestId: string | number | null): string {
  const nonce = randomBytes(3).toString("base64url");
  if (requestId === null) return `${nonce}s`;
  const text = JSON.stringify(requestId);
  return `${nonce}c${text.length <= requestIdCharsMax ? Buffer.from(text).toString("base64url") : ""}`;
}

/** Whether it is the session's own. */
export function isOfSession(stream: string): boolean {
  return stream[nonceChars] === "s";
}

/** Whether this may be the stream of a request; of one whose id is too long to be in its name, that is all that can be said. */
export function isStreamOf(stream: string, requestId: string | number): boolean {
  if (stream[nonceChars] !== "c") return false;
  const own = requestIdOf(stream);
  return own === null ? JSON.stringify(requestId).length > requestIdCharsMax : own === requestId;
}

/** The request whose stream this was; null when it was the session's own, or the name does not say. */
export function requestIdOf(stream: string): string | number | null {
  if (stream[nonceChars] !== "c") return null;
  try {
    const id: unknown = JSON.parse(Buffer.from(stream.slice(nonceChars + 1), "base64url").toString("utf8"));
    return typeof id === "string" || typeof id === "number" ? id : null;
  } catch {
    // A client made it up, or the id was too long to be carried.
    return null;
  }
}
