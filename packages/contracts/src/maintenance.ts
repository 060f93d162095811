import { z } from "zod";
import { name } from "./primitives.ts";

const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
const isoTime = z.iso.datetime({ offset: true, error: "write a time as 2026-03-01T02:00:00Z" });
const clockTime = z.string().regex(/^([01]\d|2[0-3]):[0-5]\d$/, 'write a time of the day in UTC as "02:30"');

/** The days of a week as the configuration names them. */
export const weekday = z.enum(["mon", "tue", "wed", "thu", "fri", "sat", "sun"]);
export type Weekday = z.infer<typeof weekday>;

/** When something repeats or happens once: spread into an object, checked by {@link checkTimeWindow}. */
export const timeWindow = {
  from: isoTime.optional(),
  until: isoTime.optional(),
  /** Begins every day at this time, UTC. */
  daily: z.strictObject({ at: clockTime, for_ms: z.number().int().min(1000).max(dayMs) }).optional(),
  weekly: z
    .strictObject({
      days: z.array(weekday).min(1, "name at least one day: mon, tue, ...").max(7),
      at: clockTime,
      for_ms: z
        .number()
        .int()
        .min(1000)
        .max(7 * dayMs),
    })
    .optional(),
};
const anyTimeWindow = z.object(timeWindow);
export type TimeWindow = z.infer<typeof anyTimeWindow>;

/** Exactly one of `from` with `until`, `daily` and `weekly`. */
export function checkTimeWindow(window: TimeWindow, context: z.RefinementCtx): void {
  const once = window.from !== undefined || window.until !== undefined;
  const kinds = [once, window.daily !== undefined, window.weekly !== undefined].filter(Boolean).length;
  if (kinds !== 1) context.addIssue({ code: "custom", message: "give exactly one of: from with until, daily, weekly" });
  else if (once && (window.from === undefined || window.until === undefined)) {
    context.addIssue({ code: "custom", message: "give both from and until" });
  } else if (window.from !== undefined && window.until !== undefined && !(Date.parse(window.from) < Date.parse(window.until))) {
    context.addIssue({ code: "custom", message: "until has to be after from", path: ["until"] });
  }
}

/**
 * Planned work on upstreams or single endpoints; on everything where neither is named. Probes go on and health is told, with the
 * window noted; nothing is moved or told to people because of it. Exactly one of `from` with `until`, `daily` and `weekly`.
 */
export const maintenanceWindow = z
  .strictObject({
    name,
    upstreams: z.array(name).min(1, "name at least one upstream, or leave the key out").max(1000).optional(),
    /** `upstream/endpoint`. */
    endpoints: z.array(z.string()).min(1, "name at least one upstream/endpoint, or leave the key out").max(1000).optional(),
    ...timeWindow,
    /** For the people who read why nothing was done. */
    reason: z.string().min(1, "say why; it is shown where nothing was done because of it").max(300),
  })
  .superRefine(checkTimeWindow);
export type MaintenanceWindow = z.infer<typeof maintenanceWindow>;
