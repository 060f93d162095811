import { z } from "zod";
import type { ExecAllow } from "./probes/exec.ts";

const referenceUrl = z.url({ protocol: /^(https?|tcp)$/, error: "give URLs that begin with http://, https:// or tcp://" });

const commandLine = z.tuple([z.string().min(1)], z.string());
const execAllow = z.record(z.string().regex(/^[A-Za-z0-9_-]{1,64}$/), commandLine);

function parseExecAllow(text: string, context: z.RefinementCtx): ExecAllow {
  const message = 'give JSON: a name for each command line, for example {"disk": ["/usr/local/bin/check-disk", "--quick"]}';
  try {
    const parsed = execAllow.safeParse(JSON.parse(text));
    if (parsed.success) return new Map(Object.entries(parsed.data));
  } catch {
    // Said below, like every other mistake in it.
  }
  context.addIssue({ code: "custom", message });
  return z.NEVER;
}

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
  /** Where endpoints report that they are well (`probe: { type: heartbeat }`); not set: nowhere. 0: any free port. */
  MCPF_REPORT_PORT: z.coerce.number().int().min(0).max(65_535).optional(),
  MCPF_REPORT_HOST: z.string().min(1).optional(),
  /** Who is asked about `stdio:` endpoints; without it, the first of `router.public_urls`, or the router of this machine. */
  MCPF_ROUTER_URL: z.url({ protocol: /^https?$/, error: "give a URL that begins with http:// or https://" }).optional(),
  /** This prober's own credentials; the token for routers may lie there too. */
  MCPF_CREDENTIALS_DIR: z.string().min(1).optional(),
  /** The commands of `probe: { type: exec }`, by name: `{"disk": ["/usr/local/bin/check-disk", "--quick"]}`. */
  MCPF_EXEC_ALLOW: z.string().transform(parseExecAllow).optional(),
});
export type ProberEnvironment = z.infer<typeof proberEnvironment>;
