import { latencyBucketsMs, type Observation, type OutcomeClass, type TrafficEndpoint } from "@mcp-failover/contracts";
import { type EndpointWindow, foldProbe, foldTraffic, type ObserverWindow } from "@mcp-failover/domain";

export interface Call {
  readonly outcome: OutcomeClass;
  readonly latencyMs?: number;
}
export const calls = (outcome: OutcomeClass, count: number, latencyMs = 20): Call[] =>
  Array.from({ length: count }, () => ({ outcome, latencyMs }));

/** One item of `traffic.observed`, counted from single calls in the order in which they ended, as a router counts. */
export function trafficOf(
  ended: readonly Call[],
  rest: { inFlight?: number; oldestInFlightMs?: number; breakerGeneration?: number } = {},
): TrafficEndpoint {
  const of = (outcome: OutcomeClass): number => ended.filter((call) => call.outcome === outcome).length;
  const first = ended.findIndex((call) => call.outcome !== "hard");
  const last = ended.findLastIndex((call) => call.outcome !== "hard");
  const latency = new Array<number>(latencyBucketsMs.length + 1).fill(0);
  for (const { latencyMs = 20 } of ended) {
    const index = latencyBucketsMs.findIndex((bound) => latencyMs <= bound);
    const at = index === -1 ? latencyBucketsMs.length : index;
    latency[at] = (latency[at] ?? 0) + 1;
  }
  return {
    upstream: "pinecone",
    endpoint: "primary",
    ...(rest.breakerGeneration === undefined ? {} : { breakerGeneration: rest.breakerGeneration }),
    ok: of("ok"),
    hard: of("hard"),
    soft: of("soft"),
    auth: of("auth"),
    caller: of("caller"),
    inFlight: rest.inFlight ?? 0,
    oldestInFlightMs: rest.oldestInFlightMs ?? 0,
    hardRunHead: first === -1 ? ended.length : first,
    hardRunTail: ended.length - 1 - last,
    lastCode: null,
    lastHardAtMs: null,
    lastOkAtMs: null,
    latency,
    latencyMsSum: ended.reduce((all, call) => all + (call.latencyMs ?? 20), 0),
    latencyMsMax: Math.max(0, ...ended.map((call) => call.latencyMs ?? 20)),
  };
}

export function probeOf(observer: string, outcome: OutcomeClass, responseTimeMs = 10): Observation {
  return {
    upstream: "pinecone",
    endpoint: "primary",
    observer,
    purpose: "scheduled",
    requestId: null,
    startedAtMs: 0,
    responseTimeMs,
    outcome,
    code: outcome === "hard" ? "timeout" : null,
    error: null,
    httpStatus: null,
    era: null,
  };
}

/** The window, with what a router saw folded into it. */
export function withTraffic(window: EndpointWindow, ...seen: SecondsOn<typeof foldTraffic>): EndpointWindow {
  foldTraffic(window, ...seen);
  return window;
}

/** The window, with a probe folded into it. */
export function withProbe(window: EndpointWindow, ...seen: SecondsOn<typeof foldProbe>): EndpointWindow {
  foldProbe(window, ...seen);
  return window;
}
type SecondsOn<F extends (...parameters: never[]) => void> = Parameters<F> extends [unknown, ...infer Rest] ? Rest : never;

/** What one observer saw; `kind:name`, as in certificates. */
export function seenBy(window: EndpointWindow, key: string): ObserverWindow | undefined {
  return window.observers.find(({ kind, observer }) => `${kind}:${observer}` === key);
}
