import { type Carried, Connection, type ConnectionOwner, type Origin } from "./connection.ts";

/** A request that can be given a connection. */
export interface Waiting extends Carried {
  /** Writes itself on a connection, unless it was given up. Returns whether it did. */
  start(connection: Connection): boolean;
}

export interface PoolOptions {
  readonly connectionsMax: number;
  readonly headerBytesMax: number;
  readonly idleMs: number;
}

/** Longer than any attempt's own limit; frees the socket that nobody waits for any more. */
const connectMsMax = 10_000;
/** A first packet that was lost is sent again after a second: what is older may stand still for several. */
const connectMsUsual = 1000;
/** A server that says how long it keeps a connection is believed up to this many idle times. */
const idleTimesMax = 10;
/** The server's time runs from before ours; undici's margin. */
const marginMs = 2000;

/**
 * The connections to one origin. Guarantees:
 * O1  At most `connectionsMax` connections, and one request on each at a time (N1).
 * O2  The request that waits longest gets the next connection; one that fails to come about is told to that one, so that each failure is told once.
 * O3  A connection waits for another request for a limited time, shorter than the server says it keeps it.
 * O4  A connection that does not come about is given up when a request has waited for it in vain, so that the next one is made anew.
 */
export class Pool implements ConnectionOwner {
  readonly headerBytesMax: number;
  readonly #origin: Origin;
  readonly #options: PoolOptions;
  readonly #all = new Set<Connection>();
  /** The one used last at the end: under little load the others time out. */
  readonly #idle: Connection[] = [];
  readonly #waiting = new Set<Waiting>();
  #connecting = 0;
  /** Connections that were given up before they stood: no request has failed by that. */
  readonly #givenUp = new Set<Connection>();
  #retired = false;

  constructor(origin: Origin, options: PoolOptions) {
    this.#origin = origin;
    this.#options = options;
    this.headerBytesMax = options.headerBytesMax;
  }

  get empty(): boolean {
    return this.#all.size === 0;
  }

  /** Returns false when the request has to wait for a connection. */
  send(waiting: Waiting): boolean {
    for (let connection = this.#idle.pop(); connection !== undefined; connection = this.#idle.pop()) {
      if (!connection.usable) connection.destroy();
      else if (waiting.start(connection)) return true;
    }
    this.#waiting.add(waiting);
    this.#connect();
    return false;
  }

  /** The request does not wait any more. */
  forget(waiting: Waiting): void {
    this.#waiting.delete(waiting);
  }

  /** A request waited in vain: connections that had their time are given up (O4). */
  late(waiting: Waiting, connectMs: number): void {
    this.#waiting.delete(waiting);
    this.#giveUpOlder(Math.max(connectMs, connectMsUsual));
  }

  /** Nothing new comes: what is under way ends, then the connections. */
  retire(): void {
    this.#retired = true;
    for (const connection of this.#idle.splice(0)) connection.destroy();
  }

  destroy(): void {
    this.retire();
    const left = [...this.#waiting];
    this.#waiting.clear();
    for (const waiting of left) waiting.onLost(Object.assign(new Error("the router stops"), { code: "UND_ERR_DESTROYED" }));
    for (const connection of this.#all) connection.destroy();
  }

  sweep(nowMs: number): void {
    let kept = 0;
    for (const connection of this.#idle) {
      if (connection.idleUntilMs > nowMs) this.#idle[kept++] = connection;
      else connection.destroy();
    }
    this.#idle.length = kept;
    this.#giveUpOlder(connectMsMax);
  }

  connected(connection: Connection): void {
    this.#connecting -= 1;
    connection.idleUntilMs = performance.now() + this.#options.idleMs;
    this.#offer(connection);
  }

  free(connection: Connection): void {
    const { keptForMs } = connection;
    const idleMs = keptForMs === null ? this.#options.idleMs : Math.min(keptForMs - marginMs, this.#options.idleMs * idleTimesMax);
    if (idleMs <= 0) {
      connection.destroy();
      return;
    }
    connection.idleUntilMs = performance.now() + idleMs;
    this.#offer(connection);
  }

  gone(connection: Connection, cause: Error | null): void {
    this.#all.delete(connection);
    const at = this.#idle.indexOf(connection);
    if (at !== -1) this.#idle.splice(at, 1);
    if (cause !== null) {
      this.#connecting -= 1;
      const [first] = this.#givenUp.delete(connection) ? [] : this.#waiting;
      if (first !== undefined) {
        this.#waiting.delete(first);
        first.onLost(cause);
      }
    }
    this.#connect();
  }

  #giveUpOlder(ms: number): void {
    if (this.#connecting === 0) return;
    const beforeMs = performance.now() - ms;
    for (const connection of this.#all) {
      if (connection.standing || connection.madeAtMs > beforeMs) continue;
      this.#givenUp.add(connection);
      connection.destroy();
    }
  }

  #offer(connection: Connection): void {
    for (const waiting of this.#waiting) {
      this.#waiting.delete(waiting);
      if (waiting.start(connection)) return;
    }
    if (this.#retired) connection.destroy();
    else this.#idle.push(connection);
  }

  /** As many connections are on their way as requests wait for one. */
  #connect(): void {
    while (this.#connecting < this.#waiting.size && this.#all.size < this.#options.connectionsMax) {
      this.#connecting += 1;
      this.#all.add(new Connection(this.#origin, this));
    }
  }
}
