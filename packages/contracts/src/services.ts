import { z } from "zod";
import {
  acknowledgeCommand,
  breakerCommand,
  chaosCommand,
  failbackCommand,
  failoverCommand,
  faultRequest,
  holdCommand,
  processRequest,
  recoverCommand,
  releaseCommand,
  rollbackCommand,
  silenceCommand,
  unsilenceCommand,
} from "./command.ts";
import { statusPageRequest } from "./status.ts";

/**
 * The requests of the bus (NATS services API). Each is answered with a `reply`. `service` is the name under which
 * `nats micro ls` lists it; every instance answers, one of them each request. What is `paged` is answered whole where it fits into one message,
 * and by page, each a request of its own, whatever its size.
 */
export const requests = {
  "command.failover": { service: "failover-controller", schema: failoverCommand },
  "command.failback": { service: "failover-controller", schema: failbackCommand },
  "command.hold": { service: "failover-controller", schema: holdCommand },
  "command.release": { service: "failover-controller", schema: releaseCommand },
  "command.breaker": { service: "breaker-state", schema: breakerCommand },
  "command.rollback": { service: "rollback-controller", schema: rollbackCommand },
  "command.recover": { service: "rollback-controller", schema: recoverCommand },
  "command.chaos.run": { service: "chaos-runner", schema: chaosCommand },
  "command.acknowledge": { service: "notifier", schema: acknowledgeCommand },
  "command.silence": { service: "notifier", schema: silenceCommand },
  "command.unsilence": { service: "notifier", schema: unsilenceCommand },
  "state.status": { service: "state-store", schema: z.looseObject({ page: statusPageRequest.optional() }), paged: true },
  "state.health_report": { service: "state-store", schema: z.looseObject({}) },
  "state.get": { service: "state-store", schema: z.looseObject({ upstream: z.string() }) },
  "state.history": {
    service: "state-store",
    schema: z.looseObject({ upstream: z.string(), limit: z.number().int().min(1).max(1000).default(10) }),
  },
  "launcher.processes": { service: "launcher", schema: z.looseObject({}) },
  "launcher.kill": { service: "launcher", schema: processRequest },
  "launcher.start": { service: "launcher", schema: processRequest },
  "launcher.stop": { service: "launcher", schema: processRequest },
  "fault.set": { service: "fault-proxy", schema: faultRequest },
  "fault.clear": { service: "fault-proxy", schema: z.looseObject({ proxy: z.string() }) },
  "fault.list": { service: "fault-proxy", schema: z.looseObject({}) },
} as const satisfies Record<string, { service: string; schema: z.ZodType; paged?: true }>;
export type RequestSubject = keyof typeof requests;
export type RequestOf<S extends RequestSubject> = z.output<(typeof requests)[S]["schema"]>;
/** What the asker writes: defaults may be left out. */
export type RequestInput<S extends RequestSubject> = z.input<(typeof requests)[S]["schema"]>;
