export { selfSigned } from "./certificate.ts";
export { becomes, eventually, type Patience, patientMs } from "./eventually.ts";
export { type NatsOptions, startNats } from "./nats.ts";
export { type ClusterNode, type NatsCluster, startNatsCluster } from "./nats-cluster.ts";
export { newestNats } from "./newest-nats.ts";
export { type RedisOptions, startRedis } from "./redis.ts";
export { type RunningServer, ServerStartError } from "./server.ts";
export { freePort, tempDir } from "./system.ts";
