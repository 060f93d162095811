import type { Event } from "@mcp-failover/contracts";
import {
  decideRollback,
  EvidenceStart,
  foldRollbackAudit,
  isQuietScope,
  noRollbackAudit,
  openToolTraffic,
  type RollbackAudit,
  type RollbackDecision,
  type RollbackInput,
  type RollbackMoment,
  rollbackInput,
  rollbackScopes,
  rollbacksAhead,
  type ScopeName,
  type ToolTraffic,
  takeToolTraffic,
} from "@mcp-failover/domain";
import type { Folded } from "@mcp-failover/service-kit";

export const keyOf = ({ scope, name }: ScopeName): string => `${scope}/${name}`;

/** Everything that this instance knows: both streams folded, each without the other. */
export class Knowledge {
  audit: RollbackAudit = noRollbackAudit;
  readonly traffic: ToolTraffic = openToolTraffic();
  /** Last `rollback.rejected` of an automatic decision, by `scope/name`. */
  readonly rejected = new Map<string, { rule: string; epoch: number; timeMs: number }>();
  readonly #start = new EvidenceStart();
  #leftOut = 0;

  /** What can be rolled back, by `scope/name`. */
  scopes: ReadonlyMap<string, ScopeName> = new Map();

  foldAudit(event: Event, { timeMs }: Folded): void {
    this.audit = foldRollbackAudit(this.audit, event);
    if ((event.type === "config.applied" || event.type === "rollback.decided") && this.audit.config !== null) {
      this.scopes = new Map(rollbackScopes(this.audit.config.topology, this.audit.states).map((of) => [keyOf(of), of]));
    }
    if (event.type === "rollback.rejected" && event.data.automatic) {
      this.rejected.set(keyOf(event.data), { rule: event.data.rule, epoch: event.data.epoch ?? 0, timeMs });
    }
  }

  /** `freshAfterSeq`: up to there is no evidence, as far as is known now. */
  foldSignal(event: Event, { seq, timeMs }: Folded, freshAfterSeq: number): void {
    this.#start.hear({ seq, timeMs }, freshAfterSeq);
    if (event.type === "traffic.observed") takeToolTraffic(this.traffic, { seq, timeMs, event });
  }

  /** Where evidence begins, in store time: behind whatever this instance slept through. */
  evidenceFromMs(freshAfterSeq: number): number {
    return this.#start.fromMs(freshAfterSeq);
  }

  /** Scopes, by `scope/name`, of which a router holds a decision that the log does not know. */
  ahead(): ReadonlySet<string> {
    return rollbacksAhead(this.traffic, this.audit.newest);
  }

  /** Whether there is nothing to decide about a scope, as far as its calls say. */
  isQuiet(of: ScopeName, nowMs: number): boolean {
    return isQuietScope(this.audit, this.traffic, of, nowMs);
  }

  /** Rows of windows that were counted in nobody's name since this was asked last: there are more routers and agents than are told apart. */
  takeLeftOut(): number {
    const { routers, agents } = this.traffic.callers;
    const before = this.#leftOut;
    this.#leftOut = routers.leftOut + agents.leftOut;
    return this.#leftOut - before;
  }

  /** Joins what is known and decides. Throws `UnknownScopeError`. */
  decide(of: ScopeName, moment: RollbackMoment): { input: RollbackInput; decision: RollbackDecision } {
    const input = rollbackInput(this.audit, this.traffic, of, moment);
    return { input, decision: decideRollback(input) };
  }
}
