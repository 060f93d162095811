export {
  type AppliedConfiguration,
  type ApplyConfigurationOptions,
  applyConfiguration,
  ConfigContendedError,
  ConfigTooLargeError,
  configurationInForce,
} from "./apply-configuration.ts";
export { type Breaker, createBreaker } from "./breaker.ts";
export type { BreakerContext } from "./breaker-call.ts";
export type { BreakerChange, BreakerEvent, BreakerEvents } from "./breaker-events.ts";
export type {
  BreakerCallOptions,
  BreakerMemory,
  BreakerOptions,
  Fallback,
  FallbackContext,
  RetryOptions,
} from "./breaker-options.ts";
export type { BreakerStats } from "./breaker-stats.ts";
export {
  type Client,
  type ClientStatus,
  type ConnectOptions,
  connect,
  type ExecuteOptions,
  type Route,
  type RouteChange,
} from "./client.ts";
export {
  BreakerOpenError,
  BulkheadFullError,
  CallTimeoutError,
  ClientClosedError,
  NoEndpointError,
  NotReadyError,
  OutcomeUnknownError,
} from "./errors.ts";
export { type Failure, failureOf } from "./failure.ts";
export type { CallContext, CallOptions } from "./upstream-calls.ts";
