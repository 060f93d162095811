import type { RatePolicy } from "@mcp-failover/domain";
import type { Dispatcher } from "undici";
import type { AgentAccounts } from "./admission.ts";
import type { EndpointMoment } from "./endpoint-state.ts";
import type { HangWatch } from "./hang-watch.ts";
import type { HedgeWatch } from "./hedge-watch.ts";
import type { callLegacy } from "./legacy.ts";
import type { LegacyPlaces, NoPlace } from "./legacy-places.ts";
import type { CallDescription } from "./port.ts";
import type { TrafficReport } from "./traffic-report.ts";
import type { UpstreamState } from "./upstream-state.ts";

/** What a call needs of the router around it. */
export interface CallWorld {
  readonly report: TrafficReport;
  readonly legacyAgent: Dispatcher;
  readonly callLegacy: typeof callLegacy;
  readonly legacyPlaces: LegacyPlaces;
  readonly watch: HangWatch;
  readonly hedges: HedgeWatch;
  readonly accounts: AgentAccounts;
  /** Where this process stands. */
  readonly zone: string | null;
  nowMs(): number;
  /** For durations: does not jump when the wall clock is set. */
  monotonicMs(): number;
  /** In [0, 1). */
  random(): number;
  redact(text: string): string;
  /** The fleet's decisions are heard now. */
  logReachable(): boolean;
  isStale(staleMsMax: number): boolean;
  moment(): EndpointMoment;
  implementationOf(upstream: UpstreamState, call: CallDescription, hasLegacy: boolean): "mcp" | "legacy";
  /** `mcpPercent` of every scope that covers a call and was ever decided on. */
  mcpPercents(tool: string | null, agent: string | null): readonly number[];
  /** Finds out, without waiting, whether anybody listens at the endpoints that could become active. */
  lookAtCandidates(upstream: UpstreamState): void;
  refusedRetry(upstream: string, rule: string): void;
  panicked(upstream: string): void;
  exhausted(upstream: string): void;
  hedged(upstream: string): void;
  hedgeWon(upstream: string): void;
  /** How often an agent may call; null: as often as it likes. */
  rateOf(agent: string | null): RatePolicy | null;
  shed(upstream: string, why: "agent_rate" | "queue" | "wait" | NoPlace): void;
  waitsForLegacy(upstream: string): void;
}
