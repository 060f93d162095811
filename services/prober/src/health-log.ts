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
  /** Takes in an event that was met elsewhere: an own one that won, or what stood in the way of one that lost. */
  take(stored: Stored): void;
  took(key: string, said: LastSaid): void;
  /** Whether all that was in the log at the start is known. */
  readonly caughtUp: boolean;
  stop(): Promise<void>;
}

export function followHealth(bus: Bus, onOther: (key: string, said: LastSaid) => void, onError: (error: unknown) => void): HealthLog {
  const said = new Map<string, LastSaid>();
  let caughtUp = false;

  function took(key: string, last: LastSaid): void {
    if (last.seq <= (said.get(key)?.seq ?? 0)) return;
    said.set(key, last);
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
    took(key, last);
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
      onError,
    },
    take,
  );
  return {
    last: (key) => said.get(key) ?? null,
    take,
    took,
    get caughtUp() {
      return caughtUp;
    },
    stop: () => following.stop(),
  };
}
