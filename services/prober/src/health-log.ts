import type { Bus, Following, Stored } from "@mcp-failover/bus";
import { endpointKey, type HealthState, keysOf } from "@mcp-failover/contracts";

/** The last thing that was said about an endpoint: what the next decision starts from, and what it is fenced on. */
export interface LastSaid {
  readonly seq: number;
  readonly state: HealthState | null;
  /** The store's timestamp. */
  readonly timeMs: number;
}

/** Knows the last `health.changed` of every endpoint, whoever said it. */
export interface HealthLog {
  /** Null: nothing was ever said. */
  last(key: string): LastSaid | null;
  /** Takes in an own word that won. */
  won(key: string, said: LastSaid): void;
  /** Takes in what stood in the way of an own word that lost behind `before`. */
  lost(key: string, before: LastSaid | null, there: Stored | null): void;
  /** Whether all that was in the log at the start is known; of a log that replaced it, likewise. */
  readonly caughtUp: boolean;
  stop(): Promise<void>;
}

export function followHealth(bus: Bus, onOther: (key: string, said: LastSaid) => void, onError: (error: unknown) => void): HealthLog {
  const said = new Map<string, LastSaid>();
  let caughtUp = false;

  function won(key: string, last: LastSaid): void {
    if (last.seq <= (said.get(key)?.seq ?? 0)) return;
    said.set(key, last);
  }

  function lost(key: string, before: LastSaid | null, there: Stored | null): void {
    // In one log the last sequence of a subject never falls: this is another one, of which following has not told yet.
    if ((there?.seq ?? 0) < (before?.seq ?? 0) && said.get(key) === before) said.delete(key);
    if (there !== null) take(there);
  }

  function take(stored: Stored): void {
    const [upstream, endpoint] = keysOf("health.changed", stored.subject) ?? [];
    if (upstream === undefined || endpoint === undefined) return;
    const key = endpointKey(upstream, endpoint);
    const known = said.get(key);
    if (stored.seq <= (known?.seq ?? 0)) return;
    const { content } = stored;
    // What does not parse still stands on the subject, so the fence counts it; the state is that of the last one that could be read.
    const state = content.kind === "event" && content.event.type === "health.changed" ? content.event.data.state : (known?.state ?? null);
    const last = { seq: stored.seq, state, timeMs: stored.timeMs };
    said.set(key, last);
    onOther(key, last);
  }

  const following: Following = bus.follow(
    "AUDIT",
    {
      from: "last_per_subject",
      filter: "health.changed.>",
      onCaughtUp: () => {
        caughtUp = true;
      },
      // Nobody has said anything in it that it does not hold: each word is said anew.
      onAnotherLog: () => {
        caughtUp = false;
        said.clear();
      },
      onError,
    },
    take,
  );
  return {
    last: (key) => said.get(key) ?? null,
    won,
    lost,
    get caughtUp() {
      return caughtUp;
    },
    stop: () => following.stop(),
  };
}
