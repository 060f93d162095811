import { requestFixOf } from "@mcp-failover/contracts";
import { z } from "zod";

/** What every service reads from its environment, once, at its start. */
export const baseEnvironment = z.object({
  NATS_URL: z.string().min(1).default("nats://127.0.0.1:4222"),
  MCPF_INSTANCE: z
    .string()
    .regex(/^[A-Za-z0-9_-]{1,64}$/, "use 1 to 64 letters, digits, '-' or '_'")
    .optional(),
  MCPF_DATA_DIR: z.string().min(1).default(".mcpf"),
  MCPF_LOG_LEVEL: z.enum(["trace", "debug", "info", "warn", "error", "fatal"]).default("info"),
  /** 0: any free port. */
  MCPF_HEALTH_PORT: z.coerce.number().int().min(0).max(65_535).default(0),
  MCPF_HEALTH_HOST: z.string().default("127.0.0.1"),
  /** A folder with one file a secret, for example `/run/secrets`. The environment wins. */
  MCPF_SECRETS_DIR: z.string().optional(),
  /** The folder of this service's credentials for the bus (`npm run dev:credentials`). Without it the bus is spoken to without any. */
  MCPF_CREDENTIALS_DIR: z.string().min(1).optional(),
  /** "1": stop when standard input ends, because the supervisor that held its other end is gone. */
  MCPF_PARENT_PIPE: z.enum(["0", "1"]).default("0"),
});
export type BaseEnvironment = z.infer<typeof baseEnvironment>;

/** The environment of the process does not fit; the message names each variable and what it should be. */
export class EnvironmentError extends Error {
  override readonly name = "EnvironmentError";
  readonly code = "environment_invalid";
  readonly retriable = false;
}

/** Reads variables by a schema; throws {@link EnvironmentError} that names every wrong one, without its value. */
export function parseEnvironment<S extends z.ZodType>(schema: S, env: Readonly<Record<string, string | undefined>>): z.infer<S> {
  const parsed = schema.safeParse(env, { error: requestFixOf });
  const lines = parsed.success
    ? emptyNumbers(parsed.data, env).map((name) => `  ${name}: it is empty, which is no number: give it one, or leave it out`)
    : parsed.error.issues.map((issue) => `  ${issue.path.join(".")}: ${issue.message}`);
  if (parsed.success && lines.length === 0) return parsed.data;
  throw new EnvironmentError(`the environment cannot be used:\n${lines.join("\n")}`);
}

/** JavaScript reads an empty text as 0, which for a port is any, and for a time none. */
function emptyNumbers(read: unknown, env: Readonly<Record<string, string | undefined>>): string[] {
  return Object.entries(read as object).flatMap(([name, value]) => (typeof value === "number" && env[name]?.trim() === "" ? [name] : []));
}
