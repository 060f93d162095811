export { clientContext, tlsKey } from "./client-tls.ts";
export { type Command, type CommandActions, type CommandDesk, openCommandDesk } from "./decider/command-desk.ts";
export {
  type FencedDecider,
  type FencedDeciderOptions,
  type Folded,
  type Published,
  startFencedDecider,
} from "./decider/fenced-decider.ts";
export { type Applied, type Notice, type NoticeDesk, openNoticeDesk, type ToldDecision } from "./decider/notices.ts";
export { type OneAtATime, oneAtATime } from "./decider/one-at-a-time.ts";
export { type BaseEnvironment, baseEnvironment, EnvironmentError, parseEnvironment } from "./environment.ts";
export { exhaustedBy } from "./exhausted.ts";
export { type AppliedTopology, followTopology, readTopology } from "./follow-topology.ts";
export { type HealthServer, healthAnswer, type Readiness, startHealthServer } from "./health-server.ts";
export type { Kit, KitService, Running } from "./kit.ts";
export { openLeftOut } from "./left-out.ts";
export { type LookUp, lookUp } from "./names.ts";
export { runService, type ServiceOptions } from "./run-service.ts";
export { MissingSecretError, openSecrets, type Secrets } from "./secrets.ts";
export {
  bearerOf,
  consoleTokenFile,
  isOneOf,
  probeTokenFile,
  readConsoleTokens,
  readProbeTokens,
  TokenError,
} from "./tokens.ts";
