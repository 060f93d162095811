import { z } from "zod";

export const consoleEnvironment = z.object({
  MCPF_CONSOLE_HOST: z.string().default("127.0.0.1"),
  /** 0: any free port. */
  MCPF_CONSOLE_PORT: z.coerce.number().int().min(0).max(65_535).default(7301),
  /** Host names under which browsers may reach the console, besides this machine's own, separated by commas. */
  MCPF_CONSOLE_HOSTS: z.string().default(""),
  /** Has `console.token` in it, the token of those who may act, where the secret MCPF_CONSOLE_TOKEN is not set. */
  MCPF_CREDENTIALS_DIR: z.string().min(1).optional(),
});
export type ConsoleConfig = z.infer<typeof consoleEnvironment>;
