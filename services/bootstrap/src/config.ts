import { z } from "zod";

/** What bootstrap reads from its environment besides the base of every service. */
export const bootstrapEnvironment = z.object({
  MCPF_CONFIG: z.string().min(1, "give the path of failover.yaml").default("failover.yaml"),
  MCPF_ENV: z.enum(["development", "production"]).default("development"),
  /** More than 1 needs nats-server 2.11 (the bus refuses older ones). */
  MCPF_NATS_REPLICAS: z.coerce.number().int().min(1).max(5).default(1),
  /** Where agents will reach the router, several with commas: a legacy URL that points back at it is refused. */
  MCPF_ROUTER_URL: z
    .string()
    .default("")
    .transform((text) =>
      text
        .split(",")
        .map((url) => url.trim())
        .filter((url) => url !== ""),
    )
    .pipe(z.array(z.url("give URLs, separated by commas"))),
  MCPF_BOOTSTRAP_WAIT_MS: z.coerce.number().int().min(0).max(600_000).default(60_000),
});
