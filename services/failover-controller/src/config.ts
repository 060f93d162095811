import { z } from "zod";

/** What the failover-controller reads from its environment besides what every service reads: nothing. Its policy is in the configuration. */
export const failoverControllerConfig = z.object({});
