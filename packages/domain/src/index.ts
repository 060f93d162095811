export {
  initialLocalBreaker,
  type LocalBreaker,
  type LocalOutcome,
  type LocalPermit,
  localAcquire,
  localAllows,
  localRecord,
  localRelease,
} from "./local-breaker.ts";
export {
  type BreakerPolicy,
  defaultPolicy,
  type FailoverPolicy,
  type HealthPolicy,
  type LocalBreakerPolicy,
  type Policy,
  policyFor,
  policyHash,
  type RollbackPolicy,
  type RouterPolicy,
  UnknownUpstreamError,
} from "./policy.ts";
