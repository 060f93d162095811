import { z } from "zod";

/** Environment of breaker-state: nothing besides what every service reads. Thresholds come from the configuration in the log. */
export const breakerStateEnvironment = z.object({});
export type BreakerStateConfig = z.infer<typeof breakerStateEnvironment>;
