import { z } from "zod";

/** Environment of the state-store, besides what every service reads. */
export const stateStoreEnvironment = z.object({
  /** `rediss://` for TLS. */
  REDIS_URL: z.string().min(1).default("redis://127.0.0.1:6379"),
  /** A folder with user, password, CA and certificate, each in a file of its own, so that none of them is in an environment. */
  REDIS_CREDENTIALS_DIR: z.string().min(1).optional(),
});
export type StateStoreConfig = z.infer<typeof stateStoreEnvironment>;
