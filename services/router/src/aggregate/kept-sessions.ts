import { oldestOfMost } from "./shares.ts";

/** What of a session with `/mcp` decides whether it stays. */
interface KeptSession {
  readonly session: { readonly id: string };
  /** As its last request had it. */
  readonly principal: { readonly holder: string };
  readonly busy: boolean;
  /** Its streams end. Its client's next request makes it anew from its id and the directory. */
  close(): void;
}

/**
 * The sessions with `/mcp` that a process has in memory. There are at most `max`, and beyond that only such as are in use, which the session table
 * bounds (T1): for a further one that goes which was unused for longest of the agent that has most, and never the one that has just come.
 */
export class KeptSessions<S extends KeptSession> {
  readonly #max: number;
  /** In order of last use. */
  readonly #sessions = new Map<string, S>();
  constructor(max: number) {
    this.#max = max;
  }
  get size(): number {
    return this.#sessions.size;
  }

  use(id: string): S | undefined {
    const known = this.#sessions.get(id);
    if (known === undefined) return undefined;
    this.#sessions.delete(id);
    this.#sessions.set(id, known);
    return known;
  }
  keep(session: S): S {
    this.#sessions.set(session.session.id, session);
    if (this.#sessions.size > this.#max) this.#dropFor(session);
    return session;
  }
  forget({ session }: S): void {
    this.#sessions.delete(session.id);
  }
  all(): Iterable<S> {
    return this.#sessions.values();
  }

  #dropFor(kept: S): void {
    const oldest = oldestOfMost(
      this.#sessions.values(),
      ({ principal }) => principal.holder,
      (one) => one !== kept && !one.busy,
    );
    if (oldest === undefined) return;
    oldest.close();
    this.forget(oldest);
  }
}
