import { z } from "zod";

const referenceUrl = z.url({ protocol: /^(https?|tcp)$/, error: "give URLs that begin with http://, https:// or tcp://" });

/** What the prober reads from its environment besides the kit's. */
export const proberEnvironment = z.object({
  /** Where this prober stands: a data centre, a region. Failures that only one zone sees are told as that. */
  MCPF_ZONE: z.string().min(1).max(64).optional(),
  /** Addresses that this prober should always reach, with commas between; they replace `probes.reference_urls`. */
  MCPF_REFERENCE_URLS: z
    .string()
    .transform((text) =>
      text
        .split(",")
        .map((part) => part.trim())
        .filter((part) => part !== ""),
    )
    .pipe(z.array(referenceUrl).max(10))
    .optional(),
});
export type ProberEnvironment = z.infer<typeof proberEnvironment>;
