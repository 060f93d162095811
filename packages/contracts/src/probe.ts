import { z } from "zod";
import { atMs, failureCode, outcomeClass } from "./primitives.ts";

export const probePurpose = z.enum(["scheduled", "retry", "confirm", "requested"]);

/**
 * Why an endpoint that answers is not as it should be. `code` is one of `assertion` (an expectation of the configuration marked `degraded`
 * does not hold), `tools_drift`, `certificate`, `resource`, `reported` (the target said so itself), or one that a later version adds.
 */
export const degradation = z.looseObject({
  code: z.string().regex(/^[a-z][a-z0-9_]{0,39}$/),
  /** A sentence without secrets that names what was expected and what was seen. */
  detail: z.string().max(300),
});
export type Degradation = z.infer<typeof degradation>;

/** One probe of one endpoint by one prober. */
export const observation = z.looseObject({
  upstream: z.string(),
  endpoint: z.string(),
  observer: z.string(),
  purpose: probePurpose,
  /** Set when the probe answered a `probe.requested`. */
  requestId: z.string().nullable(),
  startedAtMs: atMs,
  responseTimeMs: z.number().nonnegative(),
  outcome: outcomeClass,
  code: failureCode.nullable(),
  /** A sentence without secrets, at most 300 characters. */
  error: z.string().max(300).nullable(),
  httpStatus: z.number().int().nullable(),
  era: z.enum(["legacy", "modern"]).nullable(),
  /** The endpoint answered (`outcome` is not `hard`), but not as well as the configuration asks; null or absent: as well as it asks. */
  degraded: degradation.nullable().optional(),
  /** `mcp_tools`: hash of the tool list, as `probe.mcp_tools.hash` pins it. */
  toolsHash: z.string().max(80).optional(),
});
export type Observation = z.infer<typeof observation>;

/** `probe.observed.<prober>`: a batch of observations. Stream SIGNALS. */
export const probeObserved = z.looseObject({
  observer: z.string(),
  /** When this process began, as its heartbeat says: what tells it from another that had the name before. Absent: it is of an earlier version. */
  startedAtMs: atMs.optional(),
  /** It stops in good order and says nothing any more: its silence is not to be counted. Such a batch says nothing else ({@link farewellOf}). */
  leaving: z.boolean().optional(),
  observations: z.array(observation).min(1).max(1000),
});
export type ProbeObserved = z.infer<typeof probeObserved>;

/**
 * The last batch of a prober that stops in good order. Readers of an earlier version want an observation in every batch and put aside what has none, so it has
 * one that is no word to them: of an endpoint that no configuration can name, and `caller`, which speaks neither for it nor against it.
 */
export function farewellOf(prober: string, startedAtMs: number, nowMs: number): ProbeObserved {
  const nothing = {
    upstream: "",
    endpoint: "",
    observer: prober,
    purpose: "scheduled",
    requestId: null,
    startedAtMs: nowMs,
    responseTimeMs: 0,
    outcome: "caller",
    code: null,
    error: null,
    httpStatus: null,
    era: null,
  } as const;
  return { observer: prober, startedAtMs, leaving: true, observations: [nothing] };
}

/**
 * `probe.requested` (core NATS, broadcast): every live prober probes these endpoints at once, publishes the observation
 * with this id in `probe.observed.<prober>`, and replies with it where the message has a reply subject.
 */
export const probeRequested = z.looseObject({
  requestId: z.string().min(1).max(128),
  targets: z
    .array(z.object({ upstream: z.string(), endpoint: z.string() }))
    .min(1)
    .max(100),
  purpose: z.enum(["confirm", "requested"]),
  timeoutMs: z.number().int().positive().max(60_000),
  requestedBy: z.string(),
});
export type ProbeRequested = z.infer<typeof probeRequested>;

/** `prober.heartbeat` (core NATS). */
export const proberHeartbeat = z.looseObject({
  prober: z.string(),
  zone: z.string().nullable(),
  startedAtMs: atMs,
  sentAtMs: atMs,
  endpointsOwned: z.number().int().nonnegative(),
  /** Endpoints (`upstream/endpoint`) that this prober holds as its own now. */
  ready: z.boolean(),
  /** It can reach none of its references: others take its endpoints over, and nobody asks for its word. */
  isolated: z.boolean().optional(),
  /** It cannot keep to its schedule. */
  overloaded: z.boolean().optional(),
  /** It stops in good order: its endpoints are others' from now on. */
  leaving: z.boolean().optional(),
});
export type ProberHeartbeat = z.infer<typeof proberHeartbeat>;

/** `endpoint.reported` (core NATS): an endpoint told a prober how it is (`probe: { type: heartbeat }`); every prober hears of it. */
export const endpointReported = z.looseObject({
  upstream: z.string(),
  endpoint: z.string(),
  status: z.enum(["ok", "degraded", "failing"]),
  detail: z.string().max(300).nullable(),
  /** The prober that it was told. */
  receivedBy: z.string(),
});
export type EndpointReported = z.infer<typeof endpointReported>;
