import type { Event, StreamName, Topology } from "@mcp-failover/contracts";

/**
 * What a simulated world is made of, and what it shows to the checks.
 *
 * All `atMs` here are true milliseconds since the run began (with fractions), whatever any simulated clock says. Times inside events and
 * store times (`timeMs`) are milliseconds since the Unix epoch by the clock of whoever wrote them; `epochMs + atMs` is the true one.
 */

// ---------------------------------------------------------------------------------------------------------------------- the schedule

/** Everything that a run depends on: plain JSON, so that it can be shrunk, stored and run again. The same schedule gives the same log. */
export interface Schedule {
  readonly seed: number;
  readonly world: WorldSize;
  /** `failover.yaml`, as JSON. */
  readonly topology: unknown;
  /** In order of `atMs`. Removing any of them leaves a schedule that can be run. */
  readonly faults: readonly Fault[];
}

export interface WorldSize {
  readonly durationMs: number;
  /** After this no fault is active: what is left of the hour is for recovery. */
  readonly quietFromMs: number;
  readonly probers: number;
  /** Instances of each of breaker-state, failover-controller and rollback-controller. */
  readonly deciders: number;
  readonly routers: number;
  readonly calls: number;
}

/** `upstream/endpoint` */
export type EndpointKey = string;
/** `prober-1`, `failover-controller-2`, `breaker-state-1`, `rollback-controller-1`, `router-2`; also `nats` and `operator` where they fit. */
export type ProcessName = string;

/** What an endpoint does to those who speak to it. */
export type EndpointMode =
  | "healthy"
  /** Nobody listens. */
  | "refused"
  /** As `refused`, and what was in flight when it began is reset; it may have run. */
  | "killed"
  /** Stopped (SIGSTOP): connections are accepted, nothing is answered, and what was written runs when it goes on. */
  | "hung"
  /** Packets vanish: connects time out, what is written on kept connections may arrive or not, no answer comes. */
  | "blackhole"
  /** Connections break after the request was written; it may have run. */
  | "reset"
  /** Answers 503, and may have run all the same. */
  | "http_503"
  /** Answers, `latencyMs` later. */
  | "slow"
  /** Answers 429, with or without `Retry-After`. */
  | "rate_limited"
  /** Answers 401. */
  | "auth"
  /** MCP: answers `isError`. */
  | "tool_errors";

export type Fault = { readonly id: number; readonly atMs: number } & (
  | {
      readonly kind: "endpoint";
      readonly forMs: number;
      readonly endpoint: EndpointKey;
      readonly mode: EndpointMode;
      /** Half-dead: only probes, or only calls, meet it. */
      readonly meets: "all" | "probes" | "calls";
      /** Part of the requests that meet it, in (0, 1]. */
      readonly share: number;
      /** For `slow`. */
      readonly latencyMs: number;
      /** Flapping: on for half of this, off for the other half; null: on all the time. */
      readonly periodMs: number | null;
    }
  /** No packets between a process and NATS, or a process and an endpoint. `direction` as seen from the process. */
  | {
      readonly kind: "partition";
      readonly forMs: number;
      readonly process: ProcessName;
      readonly peer: "nats" | EndpointKey | "everything";
      readonly direction: "both" | "out" | "in";
    }
  /** SIGKILL, or, where `orderly`, SIGTERM; started again `forMs` later. */
  | { readonly kind: "crash"; readonly process: ProcessName; readonly forMs: number; readonly orderly: boolean }
  /** SIGSTOP of one of ours, or a frozen machine: timers fire late, nothing is read meanwhile. */
  | { readonly kind: "pause"; readonly process: ProcessName; readonly forMs: number }
  | { readonly kind: "clock_jump"; readonly process: ProcessName; readonly byMs: number }
  /** The wall clocks of all probers jump together, as by the one time server that they all use, and back `forMs` later. */
  | { readonly kind: "prober_clocks"; readonly byMs: number; readonly forMs: number }
  /** Both clocks of the process run faster (above 0) or slower by this ratio. */
  | { readonly kind: "clock_drift"; readonly process: ProcessName; readonly ratio: number; readonly forMs: number }
  /** The server is down; what it has acknowledged is there again afterwards. `forgetsIds`: not its memory of message ids. */
  | { readonly kind: "nats_restart"; readonly forMs: number; readonly forgetsIds: boolean }
  | {
      readonly kind: "messages";
      readonly forMs: number;
      readonly process: ProcessName;
      readonly what: "lose_acks" | "lose_publishes" | "lose_core" | "duplicate_core" | "reorder_core" | "delay";
      readonly share: number;
      /** For `delay` and `reorder_core`: up to so long. */
      readonly delayMs: number;
    }
  /** An observer that reports what is not so. */
  | {
      readonly kind: "liar";
      readonly forMs: number;
      readonly process: ProcessName;
      readonly endpoint: EndpointKey | "every";
      readonly says: "healthy" | "unhealthy" | "opposite";
    }
  /** An operator's request; not a fault, but what happens in incidents. */
  | {
      readonly kind: "command";
      /** `breaker`: forced open, and reset `forMs` later. */
      readonly command: "failover" | "failback" | "hold" | "release" | "breaker" | "rollback" | "recover";
      readonly upstream: string;
      readonly to: string | null;
      readonly force: boolean;
      readonly forMs: number | null;
      /** The same commandId is asked so many times, at several instances. */
      readonly times: number;
    }
);
export type FaultKind = Fault["kind"];

// --------------------------------------------------------------------------------------------------------------------- what happened

/** One message of AUDIT or SIGNALS as the simulated server stored it. */
export interface Entry {
  readonly stream: StreamName;
  readonly seq: number;
  readonly subject: string;
  /** The store's time. */
  readonly timeMs: number;
  readonly atMs: number;
  /** The process whose publish it was. */
  readonly from: ProcessName;
  /** Null: it was not fenced. */
  readonly expectedSeq: number | null;
  readonly event: Event;
}

/** One try to reach an upstream, with what the caller could know and what was so. */
export interface AttemptRecord {
  readonly endpoint: EndpointKey;
  readonly beganAtMs: number;
  endedAtMs: number | null;
  /** What the data plane told the control: an outcome class, `aborted` or `ineligible`; null while it is out. */
  told: string | null;
  code: string | null;
  /** What was claimed of a failed one. */
  claimed: "no" | "unknown" | null;
  /** How often the upstream really ran it, late runs included. */
  executed: number;
  /** Whether bytes of it were written to a connection. */
  written: boolean;
  readonly plannedBy: ProcessName;
}

export interface CallRecord {
  readonly id: number;
  readonly router: ProcessName;
  readonly upstream: string;
  readonly tool: string;
  readonly agent: string | null;
  readonly safety: "read_only" | "idempotent" | "unsafe";
  /** As it was when the call began. */
  readonly implementation: "mcp" | "legacy";
  readonly beganAtMs: number;
  readonly deadlineAtMs: number;
  endedAtMs: number | null;
  /** `lost`: its router crashed. */
  outcome: "ok" | "error" | "legacy" | "lost" | null;
  /** Of an error: the problem's code. */
  problem: string | null;
  /** What the route of the router was at each attempt is in the attempts' endpoints; this is at the begin. */
  readonly active: string;
  readonly epoch: number;
  readonly attempts: AttemptRecord[];
  legacyRuns: number;
  /** What was claimed of a call of its legacy API that failed. */
  legacyClaimed: "no" | "unknown" | null;
}

/** A router's route of an upstream, each time it changed, and once for each start of the router. */
export interface RouteRecord {
  readonly atMs: number;
  readonly router: ProcessName;
  readonly upstream: string;
  readonly active: string;
  readonly epoch: number;
  readonly generation: number;
}

/** What an endpoint was like from `atMs` on, for probes and for calls apart. */
export interface TruthRecord {
  readonly atMs: number;
  readonly endpoint: EndpointKey;
  readonly probes: EndpointMode;
  readonly calls: EndpointMode;
  /** Part of the requests that meet the mode. */
  readonly share: number;
}

/** Faults that began and ended, and what followed from them: crashes, restarts, connections lost and made. */
export interface Happening {
  readonly atMs: number;
  readonly what:
    | "fault_began"
    | "fault_ended"
    | "fault_skipped"
    | "crashed"
    | "started"
    | "disconnected"
    | "connected"
    | "paused"
    | "resumed"
    | "command_answered"
    | "command_refused"
    | "logged";
  readonly process: ProcessName | null;
  readonly fault: number | null;
  readonly text: string;
}

/** Counts by name: `fault:crash`, `transition:health:healthy>unhealthy`, `rejected:cooldown`, `route:panic`; the table over all runs sums them. */
type Coverage = Map<string, number>;

/** What checks may read, at any step. Arrays grow; entries are frozen. */
export interface World {
  readonly schedule: Schedule;
  readonly topology: Topology;
  readonly environment: "development" | "production";
  /** Unix time of `atMs` 0. */
  readonly epochMs: number;
  readonly nowAtMs: number;
  readonly audit: readonly Entry[];
  /** SIGNALS by sequence (from 1), while kept; AUDIT entry of sequence n is `audit[n - 1]`. */
  signal(seq: number): Entry | null;
  readonly calls: readonly CallRecord[];
  readonly routes: readonly RouteRecord[];
  readonly truth: readonly TruthRecord[];
  readonly happenings: readonly Happening[];
  readonly coverage: Coverage;
  count(name: string): void;
  /** Names of the processes that run now. */
  running(): readonly ProcessName[];
  /** Whether a fault that touches the process or endpoint is active now (a name of either), or `any` fault at all. */
  faulty(name: string): boolean;
  anyFault(): boolean;
  /** The truth of an endpoint now. */
  truthOf(endpoint: EndpointKey): TruthRecord;
  /** The route that a running router holds now; null: it does not run, or has none. */
  routeOf(router: ProcessName, upstream: string): RouteRecord | null;
  /** A guarantee does not hold: ends the run. Throws {@link Violation}. */
  fail(guarantee: string, message: string, details?: object): never;
}

/** Called as things happen; a check keeps its own state in the closure that made it. */
export interface CheckHooks {
  readonly onAudit?: (entry: Entry) => void;
  readonly onSignal?: (entry: Entry) => void;
  readonly onRoute?: (route: RouteRecord) => void;
  readonly onAttempt?: (call: CallRecord, attempt: AttemptRecord) => void;
  /** An upstream ran an attempt of a call (also late, after the caller had given it up). */
  readonly onExecuted?: (call: CallRecord, attempt: AttemptRecord) => void;
  readonly onCallEnd?: (call: CallRecord) => void;
  readonly onHappening?: (happening: Happening) => void;
  /** Once each simulated second. */
  readonly onSecond?: () => void;
  /** After the last moment of the run. */
  readonly onEnd?: () => void;
}

/** A guarantee of the product, under the name that a failure prints. */
export interface Check {
  /** Short and stable: `one_active_endpoint_an_epoch`. */
  readonly guarantee: string;
  /** The sentence. */
  readonly says: string;
  start(world: World): CheckHooks;
}

/** A guarantee was broken. */
export class Violation extends Error {
  override readonly name = "Violation";
  readonly code = "guarantee_broken";
  readonly retriable = false;
  readonly guarantee: string;
  readonly atMs: number;
  readonly details: object;
  constructor(guarantee: string, atMs: number, message: string, details: object = {}) {
    super(`${guarantee}: ${message} (at ${(atMs / 1000).toFixed(3)} s)`);
    this.guarantee = guarantee;
    this.atMs = atMs;
    this.details = details;
  }
}

/** What one run says at its end. */
export interface RunResult {
  readonly seed: number;
  readonly violation: { readonly guarantee: string; readonly atMs: number; readonly message: string; readonly details: object } | null;
  readonly coverage: Readonly<Record<string, number>>;
  /** SHA-256 of the run's log: equal seeds give equal hashes. */
  readonly logHash: string;
  readonly events: number;
  readonly audit: number;
  readonly signals: number;
  readonly calls: number;
  readonly tookMs: number;
}
