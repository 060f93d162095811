import { z } from "zod";

/** What the prober reads from its environment besides the kit's. */
export const proberEnvironment = z.object({
  /** Where this prober stands, for people who read votes: a data centre, a region. */
  MCPF_ZONE: z.string().min(1).max(64).optional(),
});
export type ProberEnvironment = z.infer<typeof proberEnvironment>;
