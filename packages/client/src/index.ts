export {
  type AppliedConfiguration,
  type ApplyConfigurationOptions,
  applyConfiguration,
  ConfigContendedError,
  ConfigTooLargeError,
} from "./apply-configuration.ts";
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
