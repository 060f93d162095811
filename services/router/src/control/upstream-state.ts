import type { FailoverState, SecretRef, UpstreamConfig } from "@mcp-failover/contracts";
import {
  availabilityOf,
  creditCall,
  type HedgeBudget,
  initialHedgeBudget,
  initialRetryBudget,
  type Policy,
  type RetryBudget,
  type Safety,
  safetyOf,
  type ToolAnnotations,
} from "@mcp-failover/domain";
import { UpstreamAdmission } from "./admission.ts";
import { resolveHeaders } from "./endpoint-headers.ts";
import { type EndpointMoment, EndpointState } from "./endpoint-state.ts";
import { viaOf } from "./endpoint-via.ts";
import { type LegacyTool, legacyToolOf } from "./legacy.ts";
import type { CallDescription, EndpointView, LearnedTool, UpstreamView } from "./port.ts";
import { Waiters } from "./waiters.ts";

interface SecretSource {
  resolve(value: string | SecretRef): string;
}

interface ToolState {
  readonly operator: { readonly read_only?: boolean | undefined; readonly idempotent?: boolean | undefined };
  readonly legacy: LegacyTool | null;
}

/** Tools of one upstream whose annotations are kept. */
const annotationsMax = 5000;

export interface UpstreamParts {
  readonly name: string;
  readonly config: UpstreamConfig;
  readonly policy: Policy;
  readonly bodyBytesMax: number;
  readonly secrets: SecretSource;
  readonly monotonicMs: number;
}

/** One upstream as this process knows it: configuration, route, endpoints, and what its own calls taught it. */
export class UpstreamState {
  readonly name: string;
  config: UpstreamConfig;
  policy: Policy;
  /** In the order of the configuration. */
  endpoints: readonly EndpointState[];
  view: UpstreamView;
  budget: RetryBudget;
  hedges: HedgeBudget;
  /** Counts calls, for `round_robin`. */
  turn = 0;
  held = false;
  /** The controller says that there is nowhere to go. */
  failing = false;
  active = "";
  activeTier = 0;
  readonly waiters = new Waiters();
  readonly admission = new UpstreamAdmission();
  #bodyBytesMax: number;
  #tools: ReadonlyMap<string, ToolState>;
  readonly #annotations = new Map<string, ToolAnnotations>();

  constructor(parts: UpstreamParts) {
    this.name = parts.name;
    this.config = parts.config;
    this.policy = parts.policy;
    this.#bodyBytesMax = parts.bodyBytesMax;
    this.budget = initialRetryBudget(parts.monotonicMs, parts.policy.router);
    this.hedges = initialHedgeBudget(0, parts.policy.router.hedge);
    this.endpoints = endpointsOf(parts, new Map());
    this.#tools = toolsOf(parts);
    this.view = this.#makeView({ epoch: 0, generation: 0 });
  }

  /** Takes over a new configuration; what was learned of endpoints that stay is kept. */
  reconfigure(parts: UpstreamParts): void {
    this.config = parts.config;
    this.policy = parts.policy;
    this.#bodyBytesMax = parts.bodyBytesMax;
    this.budget = { ...this.budget, perSecondMin: parts.policy.router.retriesPerSecondMin, ratio: parts.policy.router.retryBudget };
    this.endpoints = endpointsOf(parts, new Map(this.endpoints.map((endpoint) => [endpoint.name, endpoint])));
    this.#tools = toolsOf(parts);
    this.admission.reconfigure(parts.policy.router.admission, parts.monotonicMs);
    if (!parts.config.trusted) this.#annotations.clear();
  }

  /** Takes over a route. Returns whether another endpoint (or tier) is active by it. */
  applyRoute(state: FailoverState, implied: FailoverState): boolean {
    // An active endpoint that is not configured any more cannot serve; until the fleet decides, every router goes by the same rule.
    const known = this.endpoints.some((endpoint) => endpoint.name === state.active && endpoint.role === "write");
    const { active, tier } = known ? state : implied;
    const changed = active !== this.active || tier !== this.activeTier;
    this.active = active;
    this.activeTier = this.endpoints.find((endpoint) => endpoint.name === active)?.tier ?? tier;
    this.held = state.held !== null;
    this.view = this.#makeView(state);
    return changed;
  }

  credit(monotonicMs: number): void {
    this.turn += 1;
    this.budget = creditCall(this.budget, monotonicMs);
  }

  tool(name: string | null): ToolState | null {
    return name === null ? null : (this.#tools.get(name) ?? null);
  }

  /** Names of those that have a legacy implementation. */
  legacyTools(): readonly string[] {
    return [...this.#tools].flatMap(([name, { legacy }]) => (legacy === null ? [] : [name]));
  }

  safetyOf(call: Pick<CallDescription, "kind" | "method" | "tool">): Safety {
    const annotations = call.tool === null ? null : (this.#annotations.get(call.tool) ?? null);
    const operator = this.tool(call.tool)?.operator ?? null;
    return safetyOf({ kind: call.kind, method: call.method, annotations, trusted: this.config.trusted, operator });
  }

  learn(tools: readonly LearnedTool[]): void {
    if (!this.config.trusted) return;
    for (const { name, annotations } of tools) {
      // A tool that lost its annotations must not keep the old ones.
      if (annotations === undefined) this.#annotations.delete(name);
      else if (this.#annotations.has(name) || this.#annotations.size < annotationsMax) this.#annotations.set(name, annotations);
    }
  }

  /** Another endpoint that the fleet could make active: a write that waits for that does not wait in vain, as far as is known here. */
  hasCandidate(monotonicMs: number): boolean {
    return this.endpoints.some((endpoint) => {
      if (endpoint.name === this.active || endpoint.role !== "write") return false;
      const silent = endpoint.silentAtMs !== null && monotonicMs - endpoint.silentAtMs < silentMs;
      const availability = availabilityOf(endpoint, null);
      return !silent && (availability === "good" || availability === "unproven");
    });
  }

  /** Another endpoint that lets calls through now: without one a call that has been at `endpoint` has nowhere to go but back, or into panic. */
  hasOtherThan(endpoint: EndpointState, moment: EndpointMoment): boolean {
    return this.endpoints.some((other) => {
      if (other === endpoint) return false;
      other.refresh(moment);
      const availability = availabilityOf(other, null);
      return availability === "good" || availability === "unproven";
    });
  }

  #makeView({ epoch, generation }: { readonly epoch: number; readonly generation: number }): UpstreamView {
    const inTier = this.endpoints.find((endpoint) => endpoint.tier === this.activeTier);
    return {
      name: this.name,
      kind: this.config.kind,
      mode: this.config.mode,
      sessions: this.config.sessions,
      active: this.config.mode === "pool" ? (inTier?.name ?? this.active) : this.active,
      epoch,
      generation,
      endpoints: this.endpoints.map(({ view }) => view),
      bodyBytesMax: this.#bodyBytesMax,
      callMs: this.policy.router.callMs,
    };
  }
}

/** How long a connect without answer counts against a candidate. */
const silentMs = 1000;

function endpointsOf(parts: UpstreamParts, known: ReadonlyMap<string, EndpointState>): readonly EndpointState[] {
  return parts.config.endpoints.map((config) => {
    const resolved = resolveHeaders(config, parts.secrets);
    const via = viaOf(config, parts.secrets);
    const view: EndpointView = {
      name: config.name,
      url: config.url,
      role: config.role,
      headers: resolved.ok ? resolved.headers : {},
      ...(config.tls === undefined ? {} : { tls: config.tls }),
      ...(via.ok && via.via !== undefined ? { via: via.via } : {}),
    };
    const problem = resolved.ok ? (via.ok ? null : via.reason) : resolved.reason;
    const endpoint = known.get(config.name);
    if (endpoint === undefined) return new EndpointState(config, view, problem);
    endpoint.reconfigure(config, view, problem);
    return endpoint;
  });
}

function toolsOf(parts: UpstreamParts): ReadonlyMap<string, ToolState> {
  return new Map(
    Object.entries(parts.config.tools).map(([name, tool]) => [
      name,
      {
        operator: { read_only: tool.read_only, idempotent: tool.idempotent },
        legacy: tool.legacy === undefined ? null : legacyToolOf(name, tool.legacy, parts.secrets),
      },
    ]),
  );
}
