import type { Topology } from "@mcp-failover/contracts";
import { type Evidence, failoverPolicyOf, testimonyOn } from "@mcp-failover/domain";

interface Period {
  /** Which endpoints it is about. */
  readonly endpoints: string;
  /** Null: over. Undefined: begins with the first decision. */
  untilMs: number | null | undefined;
}

/**
 * The grace of each upstream: after the start of this process, and after its endpoints were configured anew, nothing automatic until
 * `graceMs` are over or every endpoint was proven, whichever is first.
 */
export class Grace {
  #periods = new Map<string, Period>();
  /** Upstreams whose grace is not over. */
  #open = new Set<string>();

  configured({ upstreams }: Topology): void {
    const next = new Map<string, Period>();
    for (const [name, upstream] of Object.entries(upstreams)) {
      const endpoints = JSON.stringify(upstream.endpoints.map((one) => [one.name, one.url, one.tier, one.role]));
      const before = this.#periods.get(name);
      next.set(name, before?.endpoints === endpoints ? before : { endpoints, untilMs: undefined });
    }
    this.#periods = next;
    this.#open = new Set([...next].filter(([, { untilMs }]) => untilMs !== null).map(([name]) => name));
  }

  /** Until when nothing automatic happens to an upstream; null: its grace is over. */
  untilMs(
    upstream: string,
    known: { readonly topology: Topology; readonly environment: "development" | "production" },
    evidence: Evidence,
    nowMs: number,
  ): number | null {
    const period = this.#periods.get(upstream);
    if (period === undefined || period.untilMs === null) return null;
    const policy = failoverPolicyOf(known.topology, upstream, known.environment);
    period.untilMs ??= nowMs + policy.graceMs;
    const proven = known.topology.upstreams[upstream]?.endpoints.every(({ name }) =>
      testimonyOn(evidence, upstream, name, policy, nowMs).votes.some(({ verdict }) => verdict === "healthy"),
    );
    if (proven !== true && nowMs < period.untilMs) return period.untilMs;
    period.untilMs = null;
    this.#open.delete(upstream);
    return null;
  }

  isOver(upstream: string): boolean {
    return !this.#open.has(upstream);
  }

  get allOver(): boolean {
    return this.#open.size === 0;
  }
}
