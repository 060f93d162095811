import { z } from "zod";

const port = z.number().int().min(1).max(65_535);

/** One proxied port, as the launcher says it. */
export const faultListener = z.strictObject({ name: z.string().min(1), listenPort: port, targetPort: port });
export type FaultListener = z.infer<typeof faultListener>;

/** `MCPF_FAULT_LISTENERS`: a JSON array of {@link faultListener}. */
export const configSchema = z.object({
  MCPF_FAULT_LISTENERS: z
    .string()
    .default("[]")
    .transform((text, context) => {
      try {
        return JSON.parse(text) as unknown;
      } catch {
        context.addIssue({ code: "custom", message: "not JSON: give an array of {name, listenPort, targetPort}" });
        return z.NEVER;
      }
    })
    .pipe(z.array(faultListener).max(1000)),
});
export type FaultProxyConfig = z.infer<typeof configSchema>;
