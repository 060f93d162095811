export {
  type Admission,
  type AdmissionPolicy,
  admitCall,
  leaveCall,
  nobodyAdmitted,
  type RatePolicy,
  ratePolicyOf,
  stopWaiting,
  type TokenBucket,
  takeToken,
} from "./admission.ts";
export {
  type AgentGrant,
  allowedTools,
  audienceMatches,
  grantOf,
  identityRequired,
  matchesPattern,
  mayCallAllTools,
  mayCallTool,
  mayUseUpstream,
  openGrant,
} from "./agent-access.ts";
export {
  Backtest,
  type BacktestCounts,
  type BacktestMessage,
  type BacktestResult,
  type BacktestSide,
  backtestWarmUpMs,
  type JudgedMove,
} from "./backtest.ts";
export {
  type BalancingCandidate,
  type BalancingQuestion,
  type BalancingStrategy,
  effectiveWeight,
  observeLatency,
  type PeakEwma,
  pickEndpoint,
  shedLatencyMs,
} from "./balancing.ts";
export { checkBlastRadius, findAbort, servedUpstreams } from "./blast-radius.ts";
export {
  type BreakerDecision,
  type BreakerInput,
  type BreakerOrder,
  type BreakerRule,
  decideBreaker,
  initialBreakerState,
  isBreakerDue,
  waitsForItsTime,
} from "./breaker.ts";
export { type Evaluation, type EvidenceCut, evidenceOf, type ObserverEvidence } from "./breaker-evidence.ts";
export { type BreakerGate, type BreakerGateQuestion, breakerGate } from "./breaker-gate.ts";
export { type BreakerSignals, expireBreakerSignals, foldBreakerSignal, liveRouters, openBreakerSignals } from "./breaker-signals.ts";
export { CallBreaker, type CallOutcome, callFailed, callIgnored, callOk, callSlow, denied } from "./call-breaker.ts";
export { type CallBreakerPolicy, defaultCallBreakerPolicy, defaultCallLimits } from "./call-breaker-policy.ts";
export {
  type Evidence,
  foldSignal,
  noEvidence,
  openEvidence,
  type Signal,
  type Testimony,
  takeSignal,
  testimonyOn,
  type WeighedVote,
} from "./evidence.ts";
export { type DecisionPlace, rollbacksAhead, routersApplying, routersHolding, seenEpoch, seenRollback } from "./evidence-routers.ts";
export { EvidenceStart } from "./evidence-start.ts";
export { suspectObservers } from "./evidence-suspects.ts";
export { trafficOn } from "./evidence-traffic.ts";
export { failedExpectation, nothingSeen, type Seen } from "./expectation.ts";
export {
  type CanaryCall,
  type ExperimentFacts,
  type ExperimentPace,
  type ExperimentVerdict,
  experimentPolicy,
  findRecovery,
  judgeExperiment,
  latencyThresholdMs,
  measureCalls,
  percentileOf,
  type StatusSight,
} from "./experiment.ts";
export { failbackDueMs } from "./failback.ts";
export { decideFailover, initialFailoverState } from "./failover.ts";
export { decideAhead, type RouteAhead, routeAhead } from "./failover-ahead.ts";
export {
  type FailoverAudit,
  type FailoverMoment,
  failoverInput,
  failoverPolicyOf,
  failoverStateOf,
  foldFailoverAudit,
  noFailoverAudit,
} from "./failover-input.ts";
export type { FailoverDecision, FailoverInput, FailoverOrder, FleetAnswer } from "./failover-outcome.ts";
export { trialInForce } from "./failover-verify.ts";
export {
  compareWants,
  decideReservation,
  type Reservation,
  type ReservationAnswer,
  type ReservationDecision,
  type ReservationInput,
  settledWithinMs,
  type Want,
  wantsMax,
} from "./fleet.ts";
export { reservationInput, wantOf } from "./fleet-input.ts";
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
export { healthReport } from "./health-report.ts";
export {
  chargeHedge,
  type HedgeBudget,
  hedgeKeyOf,
  hedgeTarget,
  hedgeTokens,
  initialHedgeBudget,
  lateAfterMs,
  mayHedge,
} from "./hedge.ts";
export { type HungPolicy, type HungQuestion, judgeHung, lookMsFor, overdueMs } from "./hung.ts";
export {
  acknowledgeIncident,
  againMs,
  confirmTold,
  contactsOf,
  foldIncident,
  type Incident,
  type IncidentContext,
  incidentContext,
  incidentContextOf,
  incidentKeyOf,
  isClosed,
  type NotificationKind,
  notifyWaitMs,
  outageMs,
  pageWaitMs,
  quietMs,
  settleIncident,
  tellIncident,
} from "./incidents.ts";
export { inhibitIncident, leftWhileMuted } from "./inhibition.ts";
export { hasAmbiguousKeys, isDeeperThan } from "./json-keys.ts";
export { type LegacyFace, legacyFaceOf } from "./legacy-face.ts";
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
export { type Maintenance, maintenanceAt, maintenanceEndedMs } from "./maintenance.ts";
export {
  type AnswerClass,
  classifyHttpStatus,
  classifyMcpAnswer,
  classifyRpcError,
  classifyTransportError,
  type Executed,
  type McpAnswer,
  type TransportPhase,
} from "./outcome.ts";
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
export { type ProbeCheckPolicy, probeCheckPolicy } from "./probe-check-policy.ts";
export { gridSlot, type NextProbe, nextProbe, probeTimeoutMs, type ScheduleInput, slotsBetween } from "./probe-schedule.ts";
export {
  isWithoutAnswer,
  judgeIsolation,
  judgeOverload,
  type LoadSample,
} from "./prober-condition.ts";
export { type ProberPolicy, proberPolicy } from "./prober-policy.ts";
export { ownerOf } from "./rendezvous.ts";
export {
  budgetTokens,
  chargeRetry,
  creditCall,
  initialRetryBudget,
  mayRetry,
  type RetryAnswer,
  type RetryBudget,
  type RetryQuestion,
  retryBudgetTtlMs,
  type Safety,
  type SafetyQuestion,
  safetyOf,
  type ToolAnnotations,
} from "./retry.ts";
export {
  decideRollback,
  initialRollbackState,
  type RollbackDecision,
  type RollbackInput,
  type RollbackOrder,
} from "./rollback.ts";
export {
  foldRollbackAudit,
  isQuietScope,
  noRollbackAudit,
  type RollbackAudit,
  type RollbackMoment,
  requireScope,
  rollbackBackMs,
  rollbackInput,
  rollbackScopes,
  type ScopeName,
  UnknownScopeError,
} from "./rollback-input.ts";
export {
  type Availability,
  availabilityOf,
  chooseImplementation,
  type ImplementationQuestion,
  isNewerRoute,
  planRoute,
  type RouteEndpoint,
  type RouteOrder,
  type RoutePlan,
  type RouteQuestion,
  type RouteRule,
  whyNot,
} from "./routing.ts";
export type { SafetyFacts } from "./safety-rules.ts";
export {
  confirmSilenceTold,
  endSilence,
  isAbout,
  isMuting,
  type Silence,
  type SilenceOrder,
  type SilenceVerdict,
  silence,
  silenceProblem,
  unsilence,
} from "./silence.ts";
export { type StandIns, standInsOf } from "./stand-ins.ts";
export {
  emptyReadModel,
  type FailoverRecord,
  foldReadModel,
  historyMax,
  initialActive,
  type OwnReadModel,
  ownReadModel,
  type Placed,
  type ReadModel,
  strays,
  viewStatus,
  viewUpstream,
} from "./status.ts";
export { type PagedStatus, pageStatus } from "./status-page.ts";
export { isOfAnotherClock, timeOfThisClock } from "./store-time.ts";
export { fractionOf, hashText } from "./string-hash.ts";
export type { CallCounts } from "./tool-buckets.ts";
export { callerPairsMax } from "./tool-callers.ts";
export { foldToolTraffic, noToolTraffic, openToolTraffic, type ToolTraffic, takeToolTraffic } from "./tool-traffic.ts";
export {
  evidenceRefs,
  type LogMessage,
  nothingVerified,
  type Problem,
  problemsMax,
  type Recompute,
  type SignalAt,
  type VerifyState,
  verifyEnd,
  verifyNext,
} from "./verify.ts";
export { wilsonLowerBound, wilsonUpperBound } from "./wilson.ts";
export {
  callsOf,
  type EndpointWindow,
  expireWindow,
  foldProbe,
  foldTraffic,
  type ObserverWindow,
  observersMax,
  openWindow,
  type WindowBucket,
} from "./window.ts";
