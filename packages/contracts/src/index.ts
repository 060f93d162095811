export type { AgentConfig, RouterAuth } from "./agent-config.ts";
export { ambiguousWith, separatorDefault } from "./aggregate-names.ts";
export { type BreakerChanged, type BreakerState, breakerChanged, breakerState, type Permit, permit } from "./breaker.ts";
export {
  allBusSubjects,
  askedEvents,
  type BucketName,
  type BusAccess,
  type BusClient,
  buckets,
  busAccessOf,
  busClients,
  onlooker,
} from "./bus-access.ts";
export type { AgentRate, HedgeConfig } from "./call-limits.ts";
export { canonicalJson, hashOf, sha256 } from "./canonical.ts";
export {
  type ChaosCheck,
  type ChaosFinished,
  type ChaosMetrics,
  type ChaosScenario,
  type ChaosStarted,
  type ChaosStep,
  chaosCheck,
  chaosFinished,
  chaosMetrics,
  chaosScenario,
  chaosStarted,
  chaosStep,
} from "./chaos.ts";
export {
  type AcknowledgeCommand,
  acknowledgeCommand,
  type BreakerAction,
  type BreakerCommand,
  breakerAction,
  breakerCommand,
  type ChaosCommand,
  type CommandAccepted,
  chaosCommand,
  commandAccepted,
  type FailbackCommand,
  type FailoverCommand,
  type FaultKind,
  type FaultRequest,
  failbackCommand,
  failoverCommand,
  faultKind,
  faultRequest,
  type HoldCommand,
  holdCommand,
  type ProcessInfo,
  processInfo,
  processRequest,
  type RecoverCommand,
  type ReleaseCommand,
  type Reply,
  type RollbackCommand,
  recoverCommand,
  releaseCommand,
  reply,
  rollbackCommand,
  type SilenceCommand,
  silenceCommand,
  type UnsilenceCommand,
  unsilenceCommand,
} from "./command.ts";
export { type ConsumerWish, consumerClosed, consumerWish } from "./consumer-wish.ts";
export type { EndpointTls } from "./endpoint-tls.ts";
export { isStdioUrl, type StdioConfig } from "./endpoint-transport.ts";
export { contentType, type Envelope, envelope, integrityHeader } from "./envelope.ts";
export {
  type DataOf,
  type Event,
  type EventType,
  events,
  isEventType,
  makeEvent,
  type NewEvent,
  type Parsed,
  parseEvent,
  residentServices,
  type ServiceName,
  sayIssues,
  serviceNames,
  subjectFor,
} from "./events.ts";
export {
  type FailoverDecided,
  type FailoverExecuted,
  type FailoverFailed,
  type FailoverHeld,
  type FailoverRejected,
  type FailoverReleased,
  type FailoverState,
  type FleetReserved,
  failoverDecided,
  failoverExecuted,
  failoverFailed,
  failoverHeld,
  failoverRejected,
  failoverReleased,
  failoverState,
  fleetReserved,
  type Hold,
  hold,
  type Move,
  move,
  type Trial,
  trial,
} from "./failover.ts";
export { type HealthChanged, type HealthState, healthChanged, healthState } from "./health.ts";
export { type HealthReport, healthReport } from "./health-report.ts";
export {
  channelsMax,
  contactLimits,
  contactText,
  type IncidentChanged,
  incidentChanged,
  type Notification,
  type NotifyResult,
  notification,
  notifyResult,
  type Severity,
  severity,
} from "./incident.ts";
export { requestFixOf } from "./issue-words.ts";
export { findJson, jsonPathProblem } from "./json-path.ts";
export {
  type ConfigApplied,
  configApplied,
  configurationLimits,
  type LogStarted,
  logStarted,
  type TopologyObject,
  topologyObject,
} from "./log.ts";
export { type MaintenanceWindow, maintenanceWindow, type TimeWindow, type Weekday, weekday } from "./maintenance.ts";
export {
  accountOf,
  type BusKeys,
  type BusUser,
  busUsers,
  clientApiPrefix,
  consumerSubjects,
  coreAccount,
  discoverable,
  hasOnlookers,
  importsOf,
  natsAccounts,
  objectStream,
  permissionsOf,
} from "./nats-accounts.ts";
export {
  ConfigError,
  type ConfigProblem,
  type ParsedTopology,
  type ParseTopologyOptions,
  parseTopology,
  secretsIn,
  withoutVariables,
} from "./parse-topology.ts";
export { patternFinds } from "./pattern.ts";
export {
  type Actor,
  actor,
  type BreakerStatus,
  breakerStatus,
  type Certificate,
  certificate,
  type FailureCode,
  failureCode,
  foldedRange,
  type HealthStatus,
  healthStatus,
  type Implementation,
  implementation,
  type LogRef,
  logRef,
  type OutcomeClass,
  outcomeClass,
  type RollbackScope,
  rollbackScope,
  type Vote,
  vote,
} from "./primitives.ts";
export {
  type Degradation,
  degradation,
  type EndpointReported,
  endpointReported,
  farewellOf,
  type Observation,
  observation,
  type ProbeObserved,
  type ProbeRequested,
  type ProberHeartbeat,
  probeObserved,
  probePurpose,
  probeRequested,
  proberHeartbeat,
} from "./probe.ts";
export {
  type EndpointProbe,
  type Expectation,
  type ExtraCheck,
  expectation,
  type ProbeConfig,
  type ProbeSeverity,
  type ProbeType,
  probeConfig,
  probeSeverity,
  probeType,
} from "./probe-config.ts";
export { joinPath, type ProbeCheck, probeChecks } from "./probe-plan.ts";
export { type ProbePresetName, probePresetNames, probePresets } from "./probe-presets.ts";
export {
  hashesInRedisAcl,
  type RedisHashes,
  type RedisUser,
  redisAccess,
  redisAcl,
  redisCredentialFiles,
  redisUsers,
} from "./redis-access.ts";
export {
  hashesInRedisClusterAcl,
  redisClusterAcl,
  redisClusterUsers,
  redisSentinelAcl,
} from "./redis-cluster-access.ts";
export {
  type RollbackDecided,
  type RollbackNotice,
  type RollbackRejected,
  type RollbackState,
  rollbackDecided,
  rollbackNotice,
  rollbackRejected,
  rollbackState,
} from "./rollback.ts";
export type { SafetyRule } from "./safety-rule.ts";
export { type SecretRef, secretRef } from "./secret-ref.ts";
export { type RequestInput, type RequestOf, type RequestSubject, requests } from "./services.ts";
export {
  type SessionCancelled,
  type SessionClaimed,
  type SessionReleased,
  sessionCancelled,
  sessionChanged,
  sessionClaimed,
  sessionReleased,
} from "./session.ts";
export { type NotifySilenced, notifySilenced, silenceMsMax } from "./silence.ts";
export {
  type StatusPage,
  type StatusPageRequest,
  type StatusView,
  statusLimits,
  statusView,
} from "./status.ts";
export { queueLimits, type StreamDefinition, type StreamName, streams } from "./streams.ts";
export { decodeToken, encodeToken, endpointKey, keysOf, subjectOf } from "./tokens.ts";
export {
  type ChannelConfig,
  type EndpointConfig,
  type LocalProcess,
  type Topology,
  topology,
  type UpstreamConfig,
} from "./topology.ts";
export {
  latencyBucketsMs,
  type RouteHeld,
  routeHeld,
  type TrafficEndpoint,
  type TrafficObserved,
  type TrafficTool,
  type TrafficUnknown,
  trafficEndpoint,
  trafficObserved,
  trafficTool,
} from "./traffic.ts";
