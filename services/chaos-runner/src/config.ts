import { z } from "zod";

/** Environment of the chaos-runner, besides what every service reads. */
export const chaosEnvironment = z.object({
  /** Where agents reach the router: the canary calls through it, as they do. */
  MCPF_ROUTER_URL: z.url({ protocol: /^https?$/ }).default("http://127.0.0.1:7300"),
});
export type ChaosConfig = z.infer<typeof chaosEnvironment>;
