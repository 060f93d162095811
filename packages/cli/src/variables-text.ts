import type { ActiveVariables } from "./active-variables.ts";
import { usageError } from "./errors.ts";

export type VariablesFormat = "export" | "dotenv" | "json";

/** For a POSIX shell's `eval`, for a dotenv file, or as one JSON object. Throws `CliError` on a value that the format cannot hold. */
export function showVariables({ variables }: ActiveVariables, format: VariablesFormat): string {
  if (format === "json") return `${JSON.stringify(Object.fromEntries(variables), null, 2)}\n`;
  const line = format === "export" ? exportLine : dotenvLine;
  return [...variables].map(([name, value]) => `${line(name, value)}\n`).join("");
}

/** In single quotes nothing has a meaning but the quote itself. */
function exportLine(name: string, value: string): string {
  return `export ${name}='${value.replaceAll("'", "'\\''")}'`;
}

/**
 * As Node's `--env-file`, dotenv and Docker's compose all read it. They share no escape for a quote within its own kind of quotes, and in
 * double quotes a backslash means something else to each: so single quotes wherever they will do. Throws on what is left: half a secret
 * would be worse.
 */
function dotenvLine(name: string, value: string): string {
  if (/^[A-Za-z0-9_./:@%+,=-]*$/.test(value)) return `${name}=${value}`;
  if (!/['\r]/.test(value)) return `${name}='${value}'`;
  if (!/["\\\r]/.test(value)) return `${name}="${value.replaceAll("\n", "\\n")}"`;
  throw usageError(
    `${name} holds ' beside " or \\, or a carriage return, and no dotenv file can hold that for every reader: ` +
      "give --format json, or let exec restart its command without --file",
    "not_for_dotenv",
  );
}
