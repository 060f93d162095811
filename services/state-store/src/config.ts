import { z } from "zod";

/** Environment of the state-store, besides what every service reads. */
export const stateStoreEnvironment = z.object({
  REDIS_URL: z.string().min(1).default("redis://127.0.0.1:6379"),
});
export type StateStoreConfig = z.infer<typeof stateStoreEnvironment>;
