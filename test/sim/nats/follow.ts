import type { Following, FollowOptions, Stored } from "@mcp-failover/bus";
import { subjectMatches } from "@mcp-failover/bus/internal";
import type { StreamName } from "@mcp-failover/contracts";
import type { SimLink } from "./link.ts";
import type { Follower } from "./server.ts";
import type { Kept, SimStream } from "./store.ts";

/** Readers of one connection get what is new each a little later than the other, so two streams are not read in step. */
const apartMsMax = 2;
const waitForStreamMs = 500;

/** B4 over a simulated connection: in the order of the log, each once, one handler at a time, on by itself after a disconnect. */
export class SimFollowing implements Following, Follower {
  seq = 0;
  readonly link: SimLink;
  readonly stream: StreamName;
  readonly matches: ((subject: string) => boolean) | null;
  readonly #options: FollowOptions;
  readonly #handler: (stored: Stored) => void | Promise<void>;
  readonly #report: (error: unknown, what: string) => void;
  readonly #detach: () => void;
  /** What is handed over before the log itself: the last of each subject. */
  #first: Kept[] = [];
  #cursor = 0;
  #lastAtStart = -1;
  #caughtUp = false;
  #noticed = false;
  #busy = false;
  #stopped = false;

  constructor(
    link: SimLink,
    stream: StreamName,
    options: FollowOptions,
    handler: (stored: Stored) => void | Promise<void>,
    report: (error: unknown, what: string) => void,
  ) {
    this.link = link;
    this.stream = stream;
    this.#options = options;
    this.#handler = handler;
    this.#report = report;
    const { filter = ">" } = options;
    this.matches = filter === ">" ? null : matcherOf(filter);
    this.#detach = link.attach(() => this.#begin());
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#detach();
  }

  /** At the server: a consumer was made on a new connection. */
  #begin(): () => void {
    const { server } = this.link;
    const stream = server.streams.get(this.stream);
    if (stream === undefined) {
      let end: (() => void) | null = null;
      const again = server.queue.after(waitForStreamMs, null, () => {
        end = this.#begin();
      });
      return () => {
        again.cancelled = true;
        end?.();
      };
    }
    if (this.#lastAtStart < 0) {
      this.#lastAtStart = stream.lastSeq;
      const { from } = this.#options;
      if (from === "last_per_subject") this.#first = stream.lasts(this.matches ?? (() => true));
      if (typeof from === "string") this.#cursor = stream.lastSeq + 1;
      else this.#cursor = "seq" in from ? Math.max(1, from.seq) : stream.seqAt(from.timeMs);
    }
    this.#noticed = false;
    this.notice();
    return server.follow(this);
  }

  notice(): void {
    if (this.#noticed || this.#stopped) return;
    this.#noticed = true;
    const { line, server } = this.link;
    const sentAtMs = server.queue.nowMs;
    this.link.deliver(() => {
      this.#noticed = false;
      this.#pump(sentAtMs);
    }, line.random.next() * apartMsMax);
  }

  /** Hands over what was there when the server sent. In an event of the process, never in a promise job. */
  #pump(sentAtMs: number): void {
    if (this.#busy || this.#stopped) return;
    const stream = this.link.server.streams.get(this.stream) as SimStream;
    const { queue } = this.link.server;
    for (let message = this.#next(stream); message !== null && !this.#stopped; message = this.#next(stream)) {
      if (message.atMs > sentAtMs && message.seq > this.#lastAtStart) {
        this.notice();
        return;
      }
      this.#take(message);
      const working = this.#hand(message);
      if (working !== null) {
        this.#busy = true;
        void working.then(() => {
          this.#busy = false;
          // On in an event of its own: this is a promise job.
          queue.at(queue.nowMs, this.link.process, () => this.#pump(sentAtMs));
        });
        return;
      }
      // After the last one the event drains by itself.
      if (!this.#caughtUp || this.#cursor <= stream.lastSeq) queue.drain();
    }
    if (this.#caughtUp || this.#stopped) return;
    this.#caughtUp = true;
    this.#options.onCaughtUp?.();
  }

  #next(stream: SimStream): Kept | null {
    const first = this.#first[0];
    if (first !== undefined) return first;
    const { kept } = stream;
    for (let index = this.#cursor - 1; index < kept.length; index += 1) {
      const message = kept[index] as Kept;
      if (this.matches === null || this.matches(message.subject)) {
        if (!this.#caughtUp && message.seq > this.#lastAtStart) {
          this.#caughtUp = true;
          this.#options.onCaughtUp?.();
        }
        return message;
      }
      this.#cursor = index + 2;
    }
    return null;
  }

  #take(message: Kept): void {
    this.seq = message.seq;
    if (this.#first[0] === message) this.#first.shift();
    else this.#cursor = message.seq + 1;
  }

  /** A promise where the handler is not done yet. */
  #hand(message: Kept): Promise<void> | null {
    const failed = (error: unknown): void => {
      if (this.#options.onError === undefined) this.#report(error, `a handler of ${this.stream} failed`);
      else this.#options.onError(error, message);
    };
    try {
      const result = this.#handler(message);
      return result instanceof Promise ? result.catch(failed) : null;
    } catch (error) {
      failed(error);
      return null;
    }
  }
}

/** There are few subjects, and each is asked about thousands of times. */
function matcherOf(filter: string): (subject: string) => boolean {
  const known = new Map<string, boolean>();
  return (subject) => {
    let matches = known.get(subject);
    if (matches === undefined) {
      matches = subjectMatches(filter, subject);
      known.set(subject, matches);
    }
    return matches;
  };
}
