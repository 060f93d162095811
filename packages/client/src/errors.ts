/** What `execute` throws when it is not the error of your own function. `code` is stable; `retriable` says whether the same call may help later. */
abstract class CallError extends Error {
  abstract readonly code: string;
  abstract readonly retriable: boolean;
  readonly upstream: string;
  constructor(upstream: string, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.upstream = upstream;
  }
}

/** No endpoint lets a call through now: the fleet's breaker or this process's own is open. The function was not called. */
export class BreakerOpenError extends CallError {
  override readonly name = "BreakerOpenError";
  readonly code = "breaker_open";
  readonly retriable = true;
  constructor(upstream: string, why: string) {
    super(upstream, `calls to ${upstream} are stopped (${why}): use a fallback, or call again in some seconds`);
  }
}

/** The time of the call is over, or of its fallback: then `cause` is the call's own error. The signal was aborted. */
export class CallTimeoutError extends CallError {
  override readonly name = "CallTimeoutError";
  readonly code = "call_timeout";
  readonly retriable: boolean;
  /** The function, or its fallback, had begun and is not idempotent, so it may have run: look before you call again. */
  readonly outcomeUnknown: boolean;
  constructor(upstream: string, timeoutMs: number, outcomeUnknown: boolean, cause?: unknown) {
    const advice = outcomeUnknown ? "it may have run: look at its effect before you call again" : "call again, or give it more time";
    super(upstream, `the call to ${upstream} took longer than ${timeoutMs} ms and was aborted; ${advice}`, cause);
    this.outcomeUnknown = outcomeUnknown;
    this.retriable = !outcomeUnknown;
  }
}

/** A call that is not idempotent broke off after it may have run. It was not repeated: a duplicate write is worse than an error. `cause` is its own error. */
export class OutcomeUnknownError extends CallError {
  override readonly name = "OutcomeUnknownError";
  readonly code = "outcome_unknown";
  readonly retriable = false;
  readonly outcomeUnknown = true;
  /** Where its fallback was tried and failed too: that error. It says nothing of the call. */
  readonly fallbackError: unknown;
  /** `endpoint`: null for a function with a breaker of its own, which has none. */
  constructor(upstream: string, endpoint: string | null, cause: unknown, fallbackError?: unknown) {
    const where = endpoint === null ? upstream : `${upstream}/${endpoint}`;
    const tried = fallbackError === undefined ? "" : ", and its fallback failed";
    super(
      upstream,
      `the call to ${where} broke off and may have run${tried}: look at its effect before you call again, or pass idempotent: true where a repeat does no harm`,
      cause,
    );
    this.fallbackError = fallbackError;
  }
}

/** Every endpoint that may take the call failed, or none is known. `cause` is the last failure. */
export class NoEndpointError extends CallError {
  override readonly name = "NoEndpointError";
  readonly code = "no_endpoint";
  readonly retriable = true;
  constructor(upstream: string, why: string, cause?: unknown) {
    super(upstream, `no endpoint of ${upstream} took the call (${why}): call again later, and see \`mcpf status\``, cause);
  }
}

/** This client has as many calls to the upstream running as it may. The function was not called. */
export class BulkheadFullError extends CallError {
  override readonly name = "BulkheadFullError";
  readonly code = "bulkhead_full";
  readonly retriable = true;
  constructor(upstream: string, concurrencyMax: number, queueMax = 0) {
    const waiting = queueMax === 0 ? "" : ` and ${queueMax} wait for them`;
    super(upstream, `${concurrencyMax} calls to ${upstream} are running already${waiting}: wait for some to end, or raise concurrencyMax`);
  }
}

/** The log has not been read yet. */
export class NotReadyError extends Error {
  override readonly name = "NotReadyError";
  readonly code = "not_ready";
  readonly retriable = true;
  constructor(waitedMs: number, why: string) {
    super(`the fleet's routes are not known after ${waitedMs} ms (${why}): see that NATS runs and that bootstrap has run`);
  }
}

/** The client was closed. */
export class ClientClosedError extends Error {
  override readonly name = "ClientClosedError";
  readonly code = "client_closed";
  readonly retriable = false;
  constructor() {
    super("this client is closed: connect a new one");
  }
}
