export {
  decideHealth,
  evidenceMax,
  foldEvidence,
  type HealthDecision,
  type HealthEvidence,
  type HealthInput,
  type HealthRule,
  initialHealthState,
  isAlive,
} from "./health.ts";
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
export { gridSlot, type NextProbe, nextProbe, probeTimeoutMs, type ScheduleInput, slotsBetween } from "./probe-schedule.ts";
export { type ProberPolicy, proberPolicy } from "./prober-policy.ts";
export { ownerOf } from "./rendezvous.ts";
export { emptyReadModel, type FailoverRecord, foldReadModel, historyMax, type Placed, type ReadModel, viewStatus } from "./status.ts";
export { fractionOf, hashText } from "./string-hash.ts";
