import { type BreakerPolicy, defaultPolicy } from "@mcp-failover/domain";

const { baselineMs, evidenceFreshMs } = defaultPolicy.breaker;
/** No call that took less is slow by any policy. */
export const slowMsMin = defaultPolicy.breaker.slowMsMin;
const endpointsMax = 20_000;

/**
 * Endpoints of which something bad or slow was heard within their window. A closed breaker of any other endpoint is opened by no rule,
 * whatever answers come, so that nobody has to look at it.
 */
export class Trouble {
  readonly #lastMs = new Map<string, number>();

  /** A word on an endpoint. `bad`: a failure, or calls that hang. `slow`: an answer, or a call in flight, that some policy may call slow. */
  fold(key: string, bad: boolean, slow: boolean, timeMs: number): void {
    if (!bad && !slow) return;
    this.#lastMs.delete(key);
    this.#lastMs.set(key, timeMs);
    if (this.#lastMs.size > endpointsMax) this.#lastMs.delete(this.#lastMs.keys().next().value as string);
  }

  /** `policy` undefined: of an endpoint that is not configured (yet). */
  has(key: string, policy: BreakerPolicy | undefined, nowMs: number): boolean {
    const lastMs = this.#lastMs.get(key);
    if (lastMs === undefined) return false;
    // A window in calls reaches back as far as the baseline.
    const backMs = policy === undefined || policy.windowCalls !== null ? baselineMs : policy.windowMs + evidenceFreshMs;
    return nowMs - lastMs <= backMs;
  }
}
