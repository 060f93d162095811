import type { Bus, ServiceDefinition } from "@mcp-failover/bus";
import type { DataOf, Event, EventType, ServiceName } from "@mcp-failover/contracts";
import type { Logger } from "pino";
import type { Registry } from "prom-client";
import type { Readiness } from "./health-server.ts";
import type { Secrets } from "./secrets.ts";

/** What a service's shell is given: everything that touches the world. */
export interface Kit<C = unknown> {
  readonly service: KitService;
  /** Name of this process among the instances of its service, for example `prober-1`. */
  readonly instance: string;
  readonly config: C;
  readonly bus: Bus;
  readonly log: Logger;
  readonly registry: Registry;
  readonly secrets: Secrets;
  readonly dataDir: string;
  /** Where `/healthz`, `/readyz` and `/metrics` are. */
  readonly healthUrl: string;
  /** Wall clock, milliseconds since the Unix epoch. Decisions get times as data; only shells read this. */
  nowMs(): number;
  /**
   * Sets a condition of `/readyz`. A required one that does not hold makes the service not ready; another one, degraded.
   * Conditions start as they are first said.
   */
  ready(condition: string, ok: boolean, reason?: string, options?: { required?: boolean }): void;
  readiness(): Readiness;
  /** An event said by this instance. Ids have the instance in them, as the fence needs (design, "Fenced decisions"). */
  event<T extends EventType>(type: T, keys: readonly string[], data: DataOf<T>, options?: { id?: string; traceparent?: string }): Event<T>;
}

/** The launcher and the fault proxy run on the same kit, but say no events. */
export type KitService = ServiceName | "launcher" | "fault-proxy";

export interface Running {
  readonly handlers?: ServiceDefinition["handlers"];
  stop?(): Promise<void>;
}
