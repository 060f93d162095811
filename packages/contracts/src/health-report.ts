import { z } from "zod";
import { healthStatus } from "./primitives.ts";

/**
 * The reference's `getHealthReport()`: one entry a service, with its field names, and how all of them are together. Answered to
 * `state.health_report`, `GET /api/health` of the console and `mcpf status --report`.
 */
export const healthReport = z.looseObject({
  overall: healthStatus,
  timestamp: z.iso.datetime(),
  services: z.array(
    z.looseObject({
      service: z.string(),
      /** Of the endpoint that serves; in `pool` mode of the best one of the active tier. */
      status: healthStatus,
      /** Milliseconds; null where the last probe got no answer, or none was made. */
      responseTime: z.number().nonnegative().nullable(),
      error: z.string().nullable(),
      /** When this was said; null: nothing was yet. */
      timestamp: z.iso.datetime().nullable(),
      critical: z.boolean(),
      /** Which endpoint this is about. */
      endpoint: z.string(),
      /** Endpoints of the service that are unhealthy, whether they serve or not. */
      unhealthy: z.array(z.string()),
      /** The planned work that it is in. */
      maintenance: z.looseObject({ name: z.string(), reason: z.string(), until: z.iso.datetime() }).nullable(),
    }),
  ),
});
export type HealthReport = z.infer<typeof healthReport>;
