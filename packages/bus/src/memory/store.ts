import type { StreamDefinition, StreamName } from "@mcp-failover/contracts";
import { BusError, type StreamInfo } from "../bus.ts";
import { headerNames, type Outgoing, type RawMessage, refuseTooLarge, wireBytes } from "../message.ts";
import { subjectMatches } from "../subjects.ts";

/** One stream in memory, with the checks of a JetStream server in the order in which it makes them. */
export class MemoryStream {
  definition: StreamDefinition;
  /** In the order of the log; a work queue has holes where messages were taken. */
  readonly messages = new Map<number, RawMessage>();
  lastSeq = 0;
  bytes = 0;
  readonly #lastBySubject = new Map<string, number>();
  readonly #ids = new Map<string, { seq: number; timeMs: number }>();

  constructor(definition: StreamDefinition) {
    this.definition = definition;
  }

  /** Throws {@link BusError} `too_large`, `stream_full`, `rejected`. */
  store(
    message: Pick<Outgoing, "subject" | "bytes" | "headers">,
    nowMs: number,
  ): { kind: "stored"; seq: number; duplicate: boolean } | { kind: "wrong_sequence" } {
    const { subject, bytes, headers } = message;
    const expectedStream = headers[headerNames.expectedStream];
    if (expectedStream !== undefined && expectedStream !== this.definition.name) {
      throw new BusError("rejected", `${subject} belongs to ${this.definition.name}, not to ${expectedStream}`, { retriable: false });
    }
    const id = headers[headerNames.messageId];
    this.#forgetIds(nowMs);
    const repeated = id === undefined ? undefined : this.#ids.get(id);
    if (repeated !== undefined) return { kind: "stored", seq: repeated.seq, duplicate: true };
    const expected = headers[headerNames.expectedSeq];
    if (expected !== undefined && Number(expected) !== (this.#lastBySubject.get(subject) ?? 0)) return { kind: "wrong_sequence" };
    const size = wireBytes(bytes, headers);
    refuseTooLarge(this.definition.name, size, this.definition.maxMsgBytes);
    this.#makeRoom(size, nowMs);
    this.lastSeq += 1;
    const timeMs = Math.max(nowMs, this.messages.get(this.lastSeq - 1)?.timeMs ?? 0);
    this.messages.set(this.lastSeq, { stream: this.definition.name, seq: this.lastSeq, subject, timeMs, headers: { ...headers }, bytes });
    this.bytes += size;
    this.#lastBySubject.set(subject, this.lastSeq);
    if (id !== undefined) this.#ids.set(id, { seq: this.lastSeq, timeMs });
    return { kind: "stored", seq: this.lastSeq, duplicate: false };
  }

  lastOf(subject: string): RawMessage | null {
    const seq = this.#lastBySubject.get(subject);
    return seq === undefined ? null : (this.messages.get(seq) ?? null);
  }

  /** The last message of each subject, in the order of the log. */
  lasts(filter: string): RawMessage[] {
    const lasts = [...this.#lastBySubject].filter(([subject]) => subjectMatches(filter, subject)).map(([, seq]) => this.messages.get(seq));
    return lasts.filter((message) => message !== undefined).sort((a, b) => a.seq - b.seq);
  }

  /** The first message at or after `seq` that matches. */
  next(seq: number, filter: string): RawMessage | null {
    for (let at = Math.max(seq, this.firstSeq); at <= this.lastSeq; at += 1) {
      const message = this.messages.get(at);
      if (message !== undefined && subjectMatches(filter, message.subject)) return message;
    }
    return null;
  }

  get firstSeq(): number {
    for (const seq of this.messages.keys()) return seq;
    return this.lastSeq + 1;
  }

  remove(seq: number): void {
    const message = this.messages.get(seq);
    if (message === undefined) return;
    this.messages.delete(seq);
    this.bytes -= wireBytes(message.bytes, message.headers);
    if (this.#lastBySubject.get(message.subject) !== seq) return;
    const before = [...this.messages.values()].findLast((other) => other.subject === message.subject);
    if (before === undefined) this.#lastBySubject.delete(message.subject);
    else this.#lastBySubject.set(message.subject, before.seq);
  }

  info(): StreamInfo {
    return {
      firstSeq: this.firstSeq,
      lastSeq: this.lastSeq,
      messages: this.messages.size,
      bytes: this.bytes,
      maxBytes: this.definition.maxBytes,
      maxMessages: this.definition.maxMessages,
      replicas: 1,
    };
  }

  #makeRoom(size: number, nowMs: number): void {
    const { discard, maxAgeMs, maxBytes, maxMessages, name } = this.definition;
    const full = (): boolean => this.bytes + size > maxBytes || this.messages.size >= maxMessages;
    for (const [seq, { timeMs }] of this.messages) {
      const tooOld = maxAgeMs > 0 && timeMs < nowMs - maxAgeMs;
      const tooMany = discard === "old" && full();
      if (!tooOld && !tooMany) break;
      this.remove(seq);
    }
    if (full()) throw streamFull(name);
  }

  #forgetIds(nowMs: number): void {
    for (const [id, { timeMs }] of this.#ids) {
      if (timeMs >= nowMs - this.definition.duplicateWindowMs) break;
      this.#ids.delete(id);
    }
  }
}

function streamFull(stream: StreamName): BusError {
  return new BusError("stream_full", `the stream ${stream} is full: make room or raise its limit (\`mcpf doctor\` shows how full it is)`, {
    retriable: true,
  });
}
