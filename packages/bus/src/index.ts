export {
  type Appended,
  type Bucket,
  type Bus,
  BusError,
  type BusStatus,
  type Delivery,
  type Fenced,
  type Following,
  type FollowOptions,
  NoResponderError,
  type QueueOptions,
  type QueueVerdict,
  type ReadOptions,
  RefusedError,
  type ServiceDefinition,
  type Stored,
  type StreamInfo,
} from "./bus.ts";
export { type BusCredentials, CredentialsError, credentialFiles, makeUserKey, publicKeyOf, readCredentials } from "./credentials.ts";
export { type FleetStatus, readFleetStatus } from "./fleet-status.ts";
export { KeptFile, type KeptFileOptions, writeWhole } from "./kept-file.ts";
export type { BusLog } from "./log.ts";
export { type MemoryBroker, type MemoryBrokerOptions, type MemoryConnectOptions, memoryBroker } from "./memory.ts";
export { busHealth, type ConnectOptions, checkStore, clientOf, connectBus, keepConsumersOn } from "./nats.ts";
export { StoreClock } from "./store-clock.ts";
