import { BusError, type Stored, type StreamInfo } from "@mcp-failover/bus";
import { headerNames, type Outgoing, wireBytes } from "@mcp-failover/bus/internal";
import type { Event, StreamDefinition, StreamName } from "@mcp-failover/contracts";
import type { Entry } from "../world-types.ts";

/** A message as the simulated server keeps it: what a reader of the bus gets, and what a check looks at, in one object that nobody alters. */
export interface Kept extends Entry, Omit<Stored, "content"> {
  readonly content: { readonly kind: "event"; readonly event: Event } | { readonly kind: "malformed"; readonly reason: string };
}

/** What one publish carries: the event itself, not its bytes, unless the run validates everything. */
export type SimOutgoing = Outgoing & { readonly content: Kept["content"] };

/** One stream. Nothing is ever removed: a run is an hour, and the streams keep more. */
export class SimStream {
  readonly definition: StreamDefinition;
  readonly kept: Kept[] = [];
  bytes = 0;
  readonly #lastBySubject = new Map<string, Kept>();
  /** What was stored under which id: in the duplicate window that goes on, and in the one before it. Older ones count for nothing. */
  #ids = new Map<string, Kept>();
  #idsBefore = new Map<string, Kept>();
  #idsSinceMs = 0;

  readonly #freezes: boolean;

  /** `freezes`: whoever alters what is kept fails; it takes time. */
  constructor(definition: StreamDefinition, freezes: boolean) {
    this.definition = definition;
    this.#freezes = freezes;
  }

  get lastSeq(): number {
    return this.kept.length;
  }

  /** With the checks of a JetStream server, in its order: duplicate, expectation, store. */
  store(
    message: SimOutgoing,
    from: { readonly process: string; readonly atMs: number; readonly timeMs: number },
  ):
    | { readonly kind: "stored"; readonly kept: Kept; readonly duplicate: boolean }
    | { readonly kind: "wrong_sequence" }
    | { readonly kind: "full" } {
    const { subject, headers, content } = message;
    const id = headers[headerNames.messageId];
    // As the server stamps: by its clock, which may have been set back since the last message.
    const { timeMs } = from;
    const repeated = id === undefined ? undefined : (this.#ids.get(id) ?? this.#idsBefore.get(id));
    if (repeated !== undefined && repeated.timeMs >= timeMs - this.definition.duplicateWindowMs) {
      return { kind: "stored", kept: repeated, duplicate: true };
    }
    const expectedSeq = headers[headerNames.expectedSeq] === undefined ? null : Number(headers[headerNames.expectedSeq]);
    if (expectedSeq !== null && expectedSeq !== (this.#lastBySubject.get(subject)?.seq ?? 0)) return { kind: "wrong_sequence" };
    // Only where the run goes through bytes is there a size.
    const sizeBytes = message.bytes.length === 0 ? 0 : wireBytes(message.bytes, headers);
    if (this.bytes + sizeBytes > this.definition.maxBytes) return { kind: "full" };
    const kept: Kept = {
      stream: this.definition.name,
      seq: this.kept.length + 1,
      subject,
      timeMs,
      atMs: from.atMs,
      from: from.process,
      expectedSeq,
      headers,
      bytes: message.bytes,
      content,
      // What is malformed is none; nobody but the tests of the bus itself publishes such.
      event: content.kind === "event" ? content.event : (null as never),
    };
    if (this.#freezes) Object.freeze(kept);
    this.kept.push(kept);
    this.bytes += sizeBytes;
    this.#lastBySubject.set(subject, kept);
    if (id !== undefined) this.#remember(id, kept);
    return { kind: "stored", kept, duplicate: false };
  }

  #remember(id: string, kept: Kept): void {
    if (kept.timeMs - this.#idsSinceMs > this.definition.duplicateWindowMs) {
      this.#idsBefore = this.#ids;
      this.#ids = new Map();
      this.#idsSinceMs = kept.timeMs;
    }
    this.#ids.set(id, kept);
  }

  /** As after a change of leader, or a restart that lost them. */
  forgetIds(): void {
    this.#ids.clear();
    this.#idsBefore.clear();
  }

  at(seq: number): Kept | null {
    return this.kept[seq - 1] ?? null;
  }

  lastOf(subject: string): Kept | null {
    return this.#lastBySubject.get(subject) ?? null;
  }

  /** The last message of each subject, in the order of the log. */
  lasts(matches: (subject: string) => boolean): Kept[] {
    return [...this.#lastBySubject.values()].filter(({ subject }) => matches(subject)).sort((a, b) => a.seq - b.seq);
  }

  /** The first sequence at or after a time. */
  seqAt(timeMs: number): number {
    let low = 0;
    let high = this.kept.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.kept[middle] as Kept).timeMs < timeMs) low = middle + 1;
      else high = middle;
    }
    return low + 1;
  }

  info(): StreamInfo {
    return {
      firstSeq: this.kept.length === 0 ? 0 : 1,
      lastSeq: this.lastSeq,
      messages: this.lastSeq,
      bytes: this.bytes,
      maxBytes: this.definition.maxBytes,
      replicas: 1,
    };
  }
}

export function missingStream(name: StreamName): BusError {
  return new BusError("rejected", `the stream ${name} does not exist yet: bootstrap makes it`, { retriable: true });
}
