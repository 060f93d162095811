import { BusError, type BusStatus } from "@mcp-failover/bus";
import type { LogPort, Outgoing, PublishOutcome, RawMessage } from "@mcp-failover/bus/internal";
import type { StreamName } from "@mcp-failover/contracts";
import type { SimProcess } from "../clock.ts";
import { Arrival, type Connection } from "./connection.ts";
import type { Line } from "./network.ts";
import type { SimServer } from "./server.ts";
import { missingStream, type SimOutgoing } from "./store.ts";

/**
 * The connection of one process, made again for ever, and JetStream over it as the shared rules of the fence see it.
 *
 * N1  What a process sends, the server gets in its order; likewise what the server sends on one connection, unless a fault reorders core messages.
 * N2  A cut line loses nothing by itself: the bytes wait, and come late where the line heals before the connection is given up. A connection
 *     that was given up may still deliver what its kernel held, once, after the line has healed.
 * N3  A cut is noticed after two pings without answer, 10 to 15 s; a server that goes down at once.
 * N4  Whatever is answered is answered once, and to the life of the process that asked.
 */

const pingMs = 5000;
/** TCP sends again after a while, so what a healed line carries comes with a delay. */
const resendMsMax = 800;
const dialMsMax = 2000;
/** The usual time one way, and no more. */
const throughMsMax = 0.5;
/** A killed process's kernel still sends what it had taken. */
const orphanShare = 0.5;

interface Pending {
  lost(): void;
}

export class SimLink implements LogPort {
  status: BusStatus;
  readonly server: SimServer;
  readonly process: SimProcess;
  readonly line: Line;
  /** Core messages that were published while there was no connection. */
  dropped = 0;
  readonly #listeners = new Set<(status: BusStatus) => void>();
  /** What is attached again at every new connection. */
  readonly #attachments = new Map<() => () => void, (() => void) | null>();
  readonly #pending = new Set<Pending>();
  readonly #waiters = new Set<() => void>();
  readonly #onChange: (status: BusStatus) => void;
  #connection: Connection | null = null;
  #lostAtMs = 0;

  constructor(server: SimServer, process: SimProcess, line: Line, onChange: (status: BusStatus) => void = () => undefined) {
    this.server = server;
    this.process = process;
    this.line = line;
    this.#onChange = onChange;
    this.#lostAtMs = server.queue.nowMs;
    this.status = { kind: "disconnected", sinceMs: this.nowMs(), reason: "not connected yet" };
    server.links.add(this);
    this.#dial(1);
  }

  readonly nowMs = (): number => Math.floor(this.process.host.wallMs);

  get connected(): boolean {
    return this.status.kind === "connected";
  }
  get closed(): boolean {
    return this.status.kind === "closed";
  }
  get connectedAtServer(): boolean {
    return this.#connection?.openAtServer === true;
  }

  onStatus(listener: (status: BusStatus) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** A timer of this process. */
  timer(ms: number, run: () => void): { cancelled: boolean } {
    return this.server.queue.after(Math.max(0, ms) / this.process.host.rate, this.process, run);
  }

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.timer(ms, resolve);
    });
  }

  /** Runs `attachment` at every new connection, at the server; what it returns ends it. */
  attach(attachment: () => () => void): () => void {
    this.#attachments.set(attachment, null);
    if (this.connected) this.#attachNow(attachment);
    return () => {
      const end = this.#attachments.get(attachment);
      this.#attachments.delete(attachment);
      if (end) this.send(() => end());
    };
  }

  /** Waits for the connection. Throws {@link BusError} `unreachable`. */
  async reach(timeoutMs: number): Promise<void> {
    const { queue } = this.server;
    const endMs = queue.nowMs + timeoutMs;
    while (!this.connected) {
      const leftMs = endMs - queue.nowMs;
      if (this.closed || leftMs <= 0) throw this.unreachable();
      await new Promise<void>((resolve) => {
        const finish = (): void => {
          this.#waiters.delete(finish);
          timer.cancelled = true;
          resolve();
        };
        const timer = this.timer(leftMs, finish);
        this.#waiters.add(finish);
      });
    }
  }

  unreachable(): BusError {
    if (this.closed) return new BusError("unreachable", "this connection to the bus is closed: connect anew", { retriable: false });
    const why = this.status.kind === "disconnected" ? ` (${this.status.reason})` : "";
    return new BusError("unreachable", `the bus cannot be reached${why}: see that NATS runs and that NATS_URL is right`, {
      retriable: true,
    });
  }

  /** Sends something to the server, which runs `at` when it comes there (N1, N2). False: there is no connection. */
  send(at: () => void): boolean {
    const connection = this.#connection;
    if (connection === null || !connection.openAtClient) return false;
    const guarded = (): void => {
      if (connection.openAtServer && this.server.up) at();
    };
    if (this.line.outCuts > 0) connection.heldOut.push(guarded);
    else {
      connection.outAtMs = Math.max(connection.outAtMs, this.server.queue.nowMs + this.line.latencyMs());
      // At the server nothing waits for promises: it stores, and tells others in events of their own.
      this.server.queue.at(connection.outAtMs, null, guarded, true);
    }
    return true;
  }

  /**
   * As {@link send}, for what only passes through the server: `at` is run at once, and told how long the way there takes. Where that is longer
   * than usual it comes in an event of its own, so that it does not hold up what others send meanwhile.
   */
  sendThrough(at: (hopMs: number) => void): boolean {
    const connection = this.#connection;
    if (connection?.openAtClient && connection.openAtServer && this.server.up && this.line.outCuts === 0) {
      const { nowMs } = this.server.queue;
      const arrivesMs = Math.max(connection.outAtMs, nowMs + this.line.latencyMs());
      if (arrivesMs - nowMs <= throughMsMax) {
        connection.outAtMs = arrivesMs;
        at(arrivesMs - nowMs);
        return true;
      }
    }
    return this.send(() => at(0));
  }

  /** The server sends something to this process. */
  deliver(run: () => void, extraMs = 0): void {
    const connection = this.#connection;
    if (connection === null || !connection.openAtServer) return;
    if (this.line.inCuts > 0) {
      connection.heldIn.push(() => {
        if (connection.openAtClient) run();
      });
      return;
    }
    const { queue } = this.server;
    connection.inAtMs = Math.max(connection.inAtMs, queue.nowMs + this.line.latencyMs() + extraMs);
    queue.push(new Arrival(connection.inAtMs, this.process, connection, run));
  }

  /** A core message, with the faults of both ends. */
  deliverCore(from: SimLink, run: () => void, hopMs = 0): void {
    const { line } = this;
    const lost = Math.max(line.loseCore, from.line.loseCore);
    if (lost > 0 && line.random.next() < lost) return;
    const doubled = Math.max(line.duplicateCore, from.line.duplicateCore);
    if (doubled > 0 && line.random.next() < doubled) this.deliver(run, hopMs);
    const { share, ms } = line.reorderCore;
    const connection = this.#connection;
    if (share > 0 && line.random.next() < share && connection !== null && line.inCuts === 0) {
      this.server.queue.after(hopMs + line.random.next() * ms, this.process, () => {
        if (connection.openAtClient) run();
      });
    } else this.deliver(run, hopMs);
  }

  /** Asks the server and waits; `sent: false` where it certainly was not asked. */
  ask<T>(
    timeoutMs: number,
    atServer: () => T,
    faults: { readonly publish: boolean },
  ): Promise<{ kind: "answer"; value: T } | { kind: "none"; sent: boolean; why: string }> {
    return new Promise((resolve) => {
      const finish = (result: { kind: "answer"; value: T } | { kind: "none"; sent: boolean; why: string }): void => {
        if (!this.#pending.delete(pending)) return;
        timer.cancelled = true;
        resolve(result);
      };
      const pending: Pending = { lost: () => finish({ kind: "none", sent: true, why: "the connection was lost before an answer came" }) };
      this.#pending.add(pending);
      const timer = this.timer(timeoutMs, () => finish({ kind: "none", sent: true, why: `no answer within ${timeoutMs} ms` }));
      const { line } = this;
      const sent = this.send(() => {
        if (faults.publish && line.losePublishes > 0 && line.random.next() < line.losePublishes) return;
        const loss = faults.publish ? line.loseNext.shift() : undefined;
        if (loss?.stored === false) return;
        const value = atServer();
        if (loss !== undefined) return;
        if (faults.publish && line.loseAcks > 0 && line.random.next() < line.loseAcks) return;
        this.deliver(() => finish({ kind: "answer", value }));
      });
      if (!sent) finish({ kind: "none", sent: false, why: "no connection" });
    });
  }

  // ------------------------------------------------------------------------------------------------------------------ the log

  async publish(message: Outgoing, timeoutMs: number): Promise<PublishOutcome> {
    const { queue } = this.server;
    const endMs = queue.nowMs + timeoutMs;
    try {
      if (!this.connected) await this.reach(timeoutMs);
    } catch (cause) {
      if (cause instanceof BusError && !cause.retriable) throw cause;
      return { kind: "unknown", sent: false, cause };
    }
    const answer = await this.ask(
      Math.max(1, endMs - queue.nowMs),
      () => {
        const stream = this.server.streams.get(message.stream);
        return stream === undefined ? null : this.server.store(stream, message as SimOutgoing, this.process);
      },
      { publish: true },
    );
    if (answer.kind === "none") return { kind: "unknown", sent: answer.sent, cause: new Error(answer.why) };
    if (answer.value === null) return { kind: "unknown", sent: false, cause: missingStream(message.stream) };
    if (answer.value.kind === "wrong_sequence") return answer.value;
    if (answer.value.kind !== "stored") throw new BusError("stream_full", `the stream ${message.stream} is full`, { retriable: true });
    return { kind: "stored", seq: answer.value.kept.seq, duplicate: answer.value.duplicate };
  }

  lastOf(stream: StreamName, subject: string, timeoutMs: number): Promise<RawMessage | null> {
    return this.read(stream, timeoutMs, (kept) => kept.lastOf(subject));
  }

  at(stream: StreamName, seq: number, timeoutMs: number): Promise<RawMessage | null> {
    return this.read(stream, timeoutMs, (kept) => kept.at(seq));
  }

  /** Looks into a stream. Throws {@link BusError} `unreachable`, `timeout`, `rejected`. */
  async read<T>(
    name: StreamName,
    timeoutMs: number,
    look: (stream: NonNullable<ReturnType<SimServer["streams"]["get"]>>) => T,
  ): Promise<T> {
    const { queue } = this.server;
    const endMs = queue.nowMs + timeoutMs;
    if (!this.connected) await this.reach(timeoutMs);
    const answer = await this.ask(
      Math.max(1, endMs - queue.nowMs),
      () => {
        const stream = this.server.streams.get(name);
        return stream === undefined ? null : { seen: look(stream) };
      },
      { publish: false },
    );
    if (answer.kind === "none") throw new BusError("timeout", `the stream ${name} could not be read: ${answer.why}`, { retriable: true });
    if (answer.value === null) throw missingStream(name);
    return answer.value.seen;
  }

  // ------------------------------------------------------------------------------------------------------------- the connection

  close(): void {
    const connection = this.#connection;
    this.#become({ kind: "closed" });
    this.server.links.delete(this);
    if (connection !== null) this.#hangUp(connection);
    this.#connection = null;
  }

  /** The process is gone; its kernel ends the connection. */
  processEnded(): void {
    this.server.links.delete(this);
    if (this.#connection !== null) this.#hangUp(this.#connection);
    this.#connection = null;
  }

  /** The server went down: what was under way on the line is lost, and the client hears of it unless the line is cut. */
  serverWent(): void {
    const connection = this.#connection;
    if (connection === null) return;
    connection.openAtServer = false;
    connection.heldIn = [];
    this.server.forget(this);
    const tell = (): void => {
      if (connection.openAtClient) this.#lose(connection, "the server went away");
    };
    if (this.line.inCuts > 0) connection.heldIn.push(tell);
    else this.server.queue.after(this.line.latencyMs(), this.process, tell);
  }

  /** The connection ends at once, on both sides. */
  breakNow(reason: string): void {
    if (this.#connection !== null) this.#lose(this.#connection, reason);
  }

  /** A direction of the line was cut: noticed after a while, by pings (N3). */
  lineCut(): void {
    const connection = this.#connection;
    if (connection === null || connection.cutSinceMs !== null) return;
    const sinceMs = this.server.queue.nowMs;
    connection.cutSinceMs = sinceMs;
    this.server.queue.after(this.line.random.between(2 * pingMs, 3 * pingMs), this.process, () => {
      if (connection.cutSinceMs === sinceMs && connection.openAtClient) this.#lose(connection, "pings were not answered");
    });
  }

  /** Call it whenever a direction is whole again. */
  lineHealed(): void {
    const connection = this.#connection;
    if (connection === null) return;
    const { queue } = this.server;
    const { line } = this;
    if (line.outCuts === 0) {
      connection.outAtMs = Math.max(connection.outAtMs, queue.nowMs + line.random.next() * resendMsMax);
      for (const run of connection.heldOut.splice(0)) queue.at(connection.outAtMs, null, run);
    }
    if (line.inCuts === 0) {
      connection.inAtMs = Math.max(connection.inAtMs, queue.nowMs + line.random.next() * resendMsMax);
      for (const run of connection.heldIn.splice(0)) queue.at(connection.inAtMs, this.process, run);
    }
    if (line.whole) connection.cutSinceMs = null;
  }

  #dial(attempt: number): void {
    const { queue } = this.server;
    const downMs = queue.nowMs - this.#lostAtMs;
    const waitMs = attempt === 1 ? 1 : Math.min(1000, Math.max(200, downMs / 5)) * (0.75 + this.process.random.next() / 2);
    const dialMs = this.line.whole ? 0 : this.line.random.next() * dialMsMax;
    this.timer(waitMs + dialMs, () => {
      if (this.closed) return;
      if (!this.server.up || !this.line.whole) return this.#dial(attempt + 1);
      this.timer(2 * this.line.latencyMs() + 1, () => {
        if (this.closed) return;
        if (!this.server.up || !this.line.whole) return this.#dial(attempt + 1);
        const now = queue.nowMs;
        this.#connection = {
          openAtClient: true,
          openAtServer: true,
          outAtMs: now,
          inAtMs: now,
          heldOut: [],
          heldIn: [],
          cutSinceMs: null,
        };
        // Subscriptions are carried over before anybody hears that the connection is there.
        for (const attachment of this.#attachments.keys()) this.#attachNow(attachment);
        this.#become({ kind: "connected", server: "sim:4222", serverVersion: "2.11.0" });
      });
    });
  }

  #attachNow(attachment: () => () => void): void {
    this.send(() => {
      if (this.#attachments.has(attachment)) this.#attachments.set(attachment, attachment());
    });
  }

  #lose(connection: Connection, reason: string): void {
    if (this.#connection !== connection) return;
    this.#connection = null;
    this.#hangUp(connection);
    if (this.closed) return;
    this.#lostAtMs = this.server.queue.nowMs;
    this.#become({ kind: "disconnected", sinceMs: this.nowMs(), reason });
    for (const pending of [...this.#pending]) pending.lost();
    this.#dial(2);
  }

  /** The client's end is closed; what its kernel holds may still come through (N2). */
  #hangUp(connection: Connection): void {
    connection.openAtClient = false;
    const { queue } = this.server;
    const held = connection.heldOut.splice(0);
    this.server.forget(this);
    if (held.length === 0 || this.line.random.next() >= orphanShare) {
      // What is on the wire already comes before the end of the connection.
      queue.at(Math.max(connection.outAtMs, queue.nowMs), null, () => {
        connection.openAtServer = false;
      });
      return;
    }
    const { line } = this;
    const whenHealed = (): void => {
      if (line.outCuts > 0) {
        queue.after(500, null, whenHealed);
        return;
      }
      for (const run of held) run();
      connection.openAtServer = false;
    };
    queue.after(500, null, whenHealed);
  }

  #become(status: BusStatus): void {
    if (this.closed) return;
    this.status = status;
    this.#onChange(status);
    for (const waiter of [...this.#waiters]) waiter();
    for (const listener of [...this.#listeners]) listener(status);
  }
}
