import { z } from "zod";
import { checkTimeWindow, timeWindow } from "./maintenance.ts";
import { name } from "./primitives.ts";

/**
 * What no move may break, whoever makes it; an operator's force overrides it, on record. Exactly one of `at_least`,
 * `never_both_on_backup` and `no_moves`. After the assertion and gating rules of AWS ARC.
 */
export const safetyRule = z
  .strictObject({
    name,
    /** So many of these endpoints (`upstream/endpoint`) stay on: neither unhealthy, held down, cut off by a breaker, in maintenance nor just left. */
    at_least: z
      .strictObject({
        count: z.number().int().min(1).max(200),
        endpoints: z.array(z.string()).min(1, "name at least one upstream/endpoint").max(200),
      })
      .optional(),
    /** Of these upstreams at most one is on an endpoint behind its first tier. */
    never_both_on_backup: z.array(name).min(2, "name at least two upstreams").max(200).optional(),
    /** None of these upstreams is moved while the window holds. Exactly one of `from` with `until`, `daily` and `weekly`. */
    no_moves: z
      .strictObject({ upstreams: z.array(name).min(1, "name at least one upstream").max(200), ...timeWindow })
      .superRefine(checkTimeWindow)
      .optional(),
    /** For the people who read why a move was refused. */
    reason: z.string().max(300).default(""),
  })
  .superRefine((rule, context) => {
    const kinds = [rule.at_least, rule.never_both_on_backup, rule.no_moves].filter((kind) => kind !== undefined).length;
    if (kinds !== 1) context.addIssue({ code: "custom", message: "give exactly one of: at_least, never_both_on_backup, no_moves" });
    if (rule.at_least !== undefined && rule.at_least.count > rule.at_least.endpoints.length)
      context.addIssue({
        code: "custom",
        message: "count is more than the endpoints that are named: nothing could ever move",
        path: ["at_least"],
      });
  });
export type SafetyRule = z.infer<typeof safetyRule>;
