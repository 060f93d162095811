import { judgeHung, lookMsFor, overdueMs } from "@mcp-failover/domain";
import { InOrder } from "../in-order.ts";
import type { CallAttempt } from "./attempt.ts";
import type { EndpointMoment, EndpointState } from "./endpoint-state.ts";
import type { Look } from "./reach.ts";
import type { UpstreamState } from "./upstream-state.ts";

export interface HangWatchOptions {
  readonly monotonicMs: () => number;
  readonly moment: () => EndpointMoment;
  /** Asks a server for any answer at all. */
  readonly look: (url: string, timeoutMs: number) => Promise<Look>;
  readonly onHung: (upstream: string, endpoint: string) => void;
}

interface Watched {
  readonly upstream: UpstreamState;
  /** The oldest first: they are put in as they begin. */
  readonly attempts: InOrder<CallAttempt>;
  looking: boolean;
  /** When the oldest call began that was answered elsewhere while it waited here, and since when nothing was heard; null: none. */
  lostBegunMs: number | null;
  silentLookAtMs: number | null;
  /** Looks in a row that were answered while no call ended: a slow tool, so that they come further apart. */
  answered: number;
  lookedAtMs: number;
}

const tickMs = 50;
/** A tick this late says that this process stood still itself: what it did not hear in that time says nothing. */
const stallMs = 300;
const lookGapMsMax = 10_000;
/** Calls that were answered elsewhere are remembered at most this long. */
const lostMsMax = 30_000;

/**
 * Watches what is in flight, and gives up the reads that wait for an endpoint that hangs (`hung.ts` judges). Nothing is kept of an endpoint
 * without calls, and at most one look at an endpoint is under way.
 */
export class HangWatch {
  readonly #options: HangWatchOptions;
  readonly #watched = new Map<EndpointState, Watched>();
  /** Only while a call is out: a router without calls has nothing to watch. */
  #timer: NodeJS.Timeout | null = null;
  #tickedAtMs = 0;
  #awakeSinceMs = Number.NEGATIVE_INFINITY;
  #stopped = false;

  constructor(options: HangWatchOptions) {
    this.#options = options;
  }

  begin(attempt: CallAttempt): void {
    const { state, upstream } = attempt;
    let watched = this.#watched.get(state);
    if (watched === undefined) {
      watched = {
        upstream,
        attempts: new InOrder(),
        looking: false,
        lostBegunMs: null,
        silentLookAtMs: null,
        answered: 0,
        lookedAtMs: Number.NEGATIVE_INFINITY,
      };
      this.#watched.set(state, watched);
    }
    watched.attempts.add(attempt);
    if (this.#timer !== null || this.#stopped) return;
    this.#tickedAtMs = performance.now();
    this.#timer = setInterval(() => this.#tick(), tickMs);
    this.#timer.unref();
  }

  /** `unheard`: it was cancelled because the call was answered elsewhere: how long nothing came is remembered all the same. */
  end(attempt: CallAttempt, unheard = false): void {
    const { state } = attempt;
    const watched = this.#watched.get(state);
    if (watched === undefined) return;
    watched.attempts.delete(attempt);
    if (unheard) watched.lostBegunMs ??= attempt.begunMs;
    else watched.answered = 0;
    this.#forget(state, watched);
  }

  #forget(endpoint: EndpointState, watched: Watched): void {
    if (watched.attempts.size === 0 && !watched.looking && watched.lostBegunMs === null) this.#watched.delete(endpoint);
  }

  stop(): void {
    this.#stopped = true;
    this.#rest();
  }

  #rest(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  #tick(): void {
    const tickedAtMs = performance.now();
    if (tickedAtMs - this.#tickedAtMs > tickMs + stallMs) this.#awakeSinceMs = this.#options.monotonicMs();
    this.#tickedAtMs = tickedAtMs;
    if (this.#watched.size === 0) {
      this.#rest();
      return;
    }
    for (const [endpoint, watched] of this.#watched) this.#judge(endpoint, watched);
  }

  #judge(endpoint: EndpointState, watched: Watched): void {
    const nowMs = this.#options.monotonicMs();
    const { policy, name } = watched.upstream;
    const oldest = watched.attempts.first;
    // Cheap for the usual tick: nothing is looked up before the oldest call has a certain age.
    const heardAtMs = Math.max(this.#awakeSinceMs, endpoint.heardAtMs ?? Number.NEGATIVE_INFINITY);
    if (isOver(watched.lostBegunMs, endpoint, nowMs)) {
      watched.lostBegunMs = null;
      this.#forget(endpoint, watched);
    }
    const oldestBegunMs = Math.min(oldest?.begunMs ?? Number.POSITIVE_INFINITY, watched.lostBegunMs ?? Number.POSITIVE_INFINITY);
    if (!Number.isFinite(oldestBegunMs)) return;
    const silentMs = nowMs - Math.max(oldestBegunMs, heardAtMs);
    const dead = endpoint.health === "unhealthy" || endpoint.breaker === "open";
    if (!dead && !endpoint.hung && silentMs < policy.router.hungMsMin / 2) return;
    const p95Ms = endpoint.usualP95Ms(nowMs, policy.router.hungCallsMin);
    const limitMs = overdueMs(p95Ms, policy.router);
    if (dead) this.#leave(endpoint, watched, nowMs - limitMs);
    const { hung } = endpoint;
    const verdict = judgeHung({ oldestBegunMs, heardAtMs, silentLookAtMs: watched.silentLookAtMs, hung, p95Ms, nowMs }, policy.router);
    if (verdict === "hung") {
      endpoint.hang(nowMs, policy.localBreaker);
      if (!hung) this.#options.onHung(name, endpoint.name);
      this.#leave(endpoint, watched, nowMs);
      watched.upstream.waiters.wakeAll();
    }
    if (verdict !== "well") this.#look(endpoint, watched, lookMsFor(limitMs, policy.router), nowMs);
  }

  /** Ends what began by then and may go elsewhere. Where nothing else is up, thousands may be waiting, and none of them is asked at each tick. */
  #leave(endpoint: EndpointState, { upstream, attempts }: Watched, begunMsMax: number): void {
    if (attempts.size === 0 || !upstream.hasOtherThan(endpoint, this.#options.moment())) return;
    for (const attempt of attempts) if (attempt.begunMs <= begunMsMax) attempt.leave();
  }

  #look(endpoint: EndpointState, watched: Watched, timeoutMs: number, nowMs: number): void {
    const gapMs = Math.min(lookGapMsMax, timeoutMs * 2 ** watched.answered);
    if (watched.looking || nowMs - watched.lookedAtMs < gapMs) return;
    watched.looking = true;
    watched.lookedAtMs = nowMs;
    const { url } = endpoint.view;
    void this.#options.look(url, timeoutMs).then((answer) => {
      watched.looking = false;
      this.#forget(endpoint, watched);
      if (this.#stopped || endpoint.view.url !== url) return;
      if (answer === "answers") {
        watched.answered += 1;
        endpoint.hear(this.#options.monotonicMs());
      } else if (answer === "silent") watched.silentLookAtMs = nowMs;
      this.#judge(endpoint, watched);
    });
  }
}

/** The endpoint was heard since, or judged, or it is too long ago. */
function isOver(lostBegunMs: number | null, { heardAtMs, hung }: EndpointState, nowMs: number): boolean {
  if (lostBegunMs === null) return false;
  return hung || (heardAtMs !== null && heardAtMs > lostBegunMs) || nowMs - lostBegunMs > lostMsMax;
}
