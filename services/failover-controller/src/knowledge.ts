import type { Event } from "@mcp-failover/contracts";
import {
  decideFailover,
  type Evidence,
  type FailoverAudit,
  type FailoverDecision,
  type FailoverInput,
  type FailoverMoment,
  failoverInput,
  failoverStateOf,
  foldFailoverAudit,
  noFailoverAudit,
  openEvidence,
  takeSignal,
  UnknownUpstreamError,
} from "@mcp-failover/domain";
import type { Folded } from "@mcp-failover/service-kit";
import { Grace } from "./grace.ts";

/** Everything that this instance knows: both streams folded, each without the other. */
export class Knowledge {
  audit: FailoverAudit = noFailoverAudit;
  readonly evidence: Evidence = openEvidence();
  /** Last `failover.rejected` of an automatic move, and last `failover.failed`, by upstream. */
  readonly rejected = new Map<string, { rule: string; epoch: number; timeMs: number }>();
  readonly failed = new Map<string, { failing: boolean; rule: string }>();
  readonly grace = new Grace();
  upstreams: readonly string[] = [];
  #displaced = 0;

  foldAudit(event: Event, { timeMs }: Folded): void {
    const { config } = this.audit;
    this.audit = foldFailoverAudit(this.audit, event, timeMs);
    if (this.audit.config !== null && this.audit.config !== config) {
      this.upstreams = Object.keys(this.audit.config.topology.upstreams);
      this.grace.configured(this.audit.config.topology, timeMs);
    }
    if (event.type === "failover.rejected" && event.data.automatic) {
      this.rejected.set(event.data.service, { rule: event.data.rule, epoch: event.data.epoch ?? 0, timeMs });
    }
    if (event.type === "failover.failed") this.failed.set(event.data.service, { failing: event.data.failing, rule: event.data.rule });
  }

  foldSignal(event: Event, { seq, timeMs }: Folded): void {
    if (event.type === "probe.observed" || event.type === "traffic.observed") {
      takeSignal(this.evidence, { seq, timeMs, event });
    }
  }

  /** Endpoints that were forgotten though somebody spoke on them still, since this was asked last. */
  takeDisplaced(): number {
    const before = this.#displaced;
    this.#displaced = this.evidence.displaced;
    return this.#displaced - before;
  }

  isConfigured(upstream: string): boolean {
    return this.audit.config !== null && Object.hasOwn(this.audit.config.topology.upstreams, upstream);
  }

  /** Null: no such upstream is configured. */
  activeOf(upstream: string): string | null {
    return this.isConfigured(upstream) ? failoverStateOf(this.audit, upstream).active : null;
  }

  isCritical(upstream: string): boolean {
    return this.audit.config?.topology.upstreams[upstream]?.critical ?? true;
  }

  graceUntilMs(upstream: string, nowMs: number): number | null {
    const { config } = this.audit;
    return config === null ? null : this.grace.untilMs(upstream, config, this.evidence, nowMs);
  }

  /** Joins what is known and decides. Throws {@link UnknownUpstreamError}. */
  decide(upstream: string, moment: FailoverMoment): { input: FailoverInput; decision: FailoverDecision } {
    if (!this.isConfigured(upstream)) throw new UnknownUpstreamError(upstream, this.upstreams);
    const input = failoverInput(this.audit, this.evidence, upstream, moment);
    return { input, decision: decideFailover(input) };
  }
}
