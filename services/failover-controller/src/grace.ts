import type { Topology } from "@mcp-failover/contracts";
import { type Evidence, failoverPolicyOf, testimonyOn } from "@mcp-failover/domain";

/** What an endpoint's name means, and when it was configured so. */
interface Meant {
  readonly url: string;
  readonly sinceMs: number;
}
interface Period {
  /** Which endpoints it is about. */
  readonly endpoints: string;
  /** By endpoint. */
  readonly meant: ReadonlyMap<string, Meant>;
  /** Null: over. Undefined: begins with the first decision. */
  untilMs: number | null | undefined;
}

/**
 * The grace of each upstream: after the start of this process, and after its endpoints were configured anew, nothing automatic until
 * `graceMs` are over or every endpoint was proven, whichever is first. Words are said of a name: those stored before it got its present
 * address are about another server, and prove nothing.
 */
export class Grace {
  #periods = new Map<string, Period>();
  /** Upstreams whose grace is not over. */
  #open = new Set<string>();

  /** `atMs`: when the store took the configuration. */
  configured({ upstreams }: Topology, atMs: number): void {
    const next = new Map<string, Period>();
    for (const [name, upstream] of Object.entries(upstreams)) {
      const endpoints = JSON.stringify(upstream.endpoints.map((one) => [one.name, one.url, one.tier, one.role]));
      const before = this.#periods.get(name);
      if (before?.endpoints === endpoints) {
        next.set(name, before);
        continue;
      }
      const meant = upstream.endpoints.map((one): [string, Meant] => {
        const known = before?.meant.get(one.name);
        return [one.name, known?.url === one.url ? known : { url: one.url, sinceMs: atMs }];
      });
      next.set(name, { endpoints, meant: new Map(meant), untilMs: undefined });
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
    // A grace ends further on than it lasts where the store's clock was set back: it begins anew.
    period.untilMs = Math.min(period.untilMs ?? Number.POSITIVE_INFINITY, nowMs + policy.graceMs);
    const proven = [...period.meant].every(([name, { sinceMs }]) =>
      testimonyOn(evidence, upstream, name, policy, nowMs).votes.some(({ verdict, atMs }) => verdict === "healthy" && atMs >= sinceMs),
    );
    if (!proven && nowMs < period.untilMs) return period.untilMs;
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
