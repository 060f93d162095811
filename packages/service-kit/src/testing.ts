import { randomUUID } from "node:crypto";
import type { Bus } from "@mcp-failover/bus";
import { type EventType, makeEvent, type NewEvent, type ServiceName } from "@mcp-failover/contracts";
import { pino } from "pino";
import { Registry } from "prom-client";
import type { Readiness } from "./health-server.ts";
import type { Kit, KitService } from "./kit.ts";
import { openSecrets } from "./secrets.ts";

/** A kit for tests of a service's shell: the bus that the test gives, a silent log, no health server. Not exported to production code. */
export function testKit<C = Record<string, never>>(options: {
  service: KitService;
  bus: Bus;
  instance?: string;
  config?: C;
  dataDir?: string;
  secrets?: Record<string, string>;
  nowMs?: () => number;
}): Kit<C> {
  const instance = options.instance ?? `${options.service}-test`;
  const nowMs = options.nowMs ?? (() => Date.now());
  const conditions = new Map<string, { ok: boolean; required: boolean; reason: string }>();
  return {
    service: options.service,
    instance,
    config: (options.config ?? {}) as C,
    bus: options.bus,
    log: pino({ level: "silent" }),
    registry: new Registry(),
    secrets: openSecrets(options.secrets ?? {}, undefined),
    dataDir: options.dataDir ?? ".",
    healthUrl: "http://127.0.0.1:0",
    nowMs,
    ready(condition, ok, reason = "", { required = true } = {}) {
      conditions.set(condition, { ok, required, reason });
    },
    readiness(): Readiness {
      const all = [...conditions.values()];
      const status = all.some((c) => !c.ok && c.required) ? "not_ready" : all.some((c) => !c.ok) ? "degraded" : "ready";
      return { status, conditions: Object.fromEntries(conditions) };
    },
    event: (type, keys, data, { id = `${instance}-${randomUUID()}`, traceparent } = {}) =>
      makeEvent({
        type,
        keys,
        data,
        id,
        service: options.service as ServiceName,
        instance,
        timeMs: nowMs(),
        ...(traceparent === undefined ? {} : { traceparent }),
      } as NewEvent<EventType>) as never,
  };
}
