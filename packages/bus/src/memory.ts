import type { Bus } from "./bus.ts";
import { BrokerState, type MemoryBrokerOptions } from "./memory/broker.ts";
import { connectMemory, type MemoryConnectOptions } from "./memory/connection.ts";
import type { MemoryLink } from "./memory/link.ts";

export type { MemoryBrokerOptions } from "./memory/broker.ts";
export type { MemoryConnectOptions } from "./memory/connection.ts";

export interface MemoryBroker {
  /** One more connection to this broker, as one more process would have. */
  connect(options?: MemoryConnectOptions): Bus;
}

/** Kept apart from the public face: only tests look in here, through `@mcp-failover/bus/internal`. */
export const brokerStates = new WeakMap<MemoryBroker, BrokerState>();
export const links = new WeakMap<Bus, MemoryLink>();

/** The memory twin of the bus: everything that connects to one broker shares its streams, buckets and subjects. Held to the same suite as NATS. */
export function memoryBroker(options: MemoryBrokerOptions = {}): MemoryBroker {
  const state = new BrokerState(options);
  const broker: MemoryBroker = {
    connect(connectOptions = {}) {
      const { bus, link } = connectMemory(state, connectOptions);
      links.set(bus, link);
      return bus;
    },
  };
  brokerStates.set(broker, state);
  return broker;
}
