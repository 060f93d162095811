import type { reaches } from "./reach.ts";
import type { UpstreamState } from "./upstream-state.ts";

export interface CandidateLooksOptions {
  readonly look: typeof reaches;
  readonly monotonicMs: () => number;
  readonly onTrouble: (error: unknown, upstream: string) => void;
}

/** At most one look at an upstream's candidates in this time, however many writes wait. */
const lookGapMs = 250;

/** Looks whether anybody listens where the writes of an upstream may have to go, so that none waits for a candidate that is not there. */
export function candidateLooks({ look, monotonicMs, onTrouble }: CandidateLooksOptions): (upstream: UpstreamState) => void {
  const lookedAtMs = new WeakMap<UpstreamState, number>();
  return (upstream) => {
    const nowMs = monotonicMs();
    const last = lookedAtMs.get(upstream);
    if (last !== undefined && nowMs - last < lookGapMs) return;
    lookedAtMs.set(upstream, nowMs);
    const { policy, active } = upstream;
    for (const endpoint of upstream.endpoints) {
      if (endpoint.name === active || endpoint.role !== "write") continue;
      look(endpoint.view.url, policy.router.panicConnectMs).then(
        (answer) => {
          if (answer === "listens") return;
          if (answer === "refused") endpoint.refuse(monotonicMs(), policy.localBreaker);
          else endpoint.silentAtMs = monotonicMs();
          upstream.waiters.wakeAll();
        },
        (error: unknown) => onTrouble(error, upstream.name),
      );
    }
  };
}
