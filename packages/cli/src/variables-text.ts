import type { ActiveVariables } from "./active-variables.ts";
import { usageError } from "./errors.ts";

export type VariablesFormat = "export" | "dotenv" | "json";

/** For a POSIX shell's `eval`, for a dotenv file, or as one JSON object. Throws `CliError` on a value that the format cannot hold. */
export function showVariables(active: Pick<ActiveVariables, "variables" | "unset">, format: VariablesFormat): string {
  const { variables, unset } = active;
  if (format === "json") return `${JSON.stringify(Object.fromEntries(variables), null, 2)}\n`;
  const line = format === "export" ? exportLine : dotenvLine;
  const lines = [...variables].map(([name, value]) => `${line(name, value)}\n`);
  // A shell that was given those of another endpoint before still has them; a file is written whole.
  if (format === "export") lines.push(...unset.map((name) => `unset ${name}\n`));
  return lines.join("");
}

/** In single quotes nothing has a meaning but the quote itself. */
function exportLine(name: string, value: string): string {
  return `export ${name}='${value.replaceAll("'", "'\\''")}'`;
}

/**
 * As Node's `--env-file`, dotenv and Docker's compose all read it. They share no escape for a quote within its own kind of quotes, a
 * backslash before a single quote is one to some, and in double quotes a backslash means something else to each and a `$` a variable to
 * compose: so single quotes wherever they will do. Throws on what is left: half a secret would be worse.
 */
function dotenvLine(name: string, value: string): string {
  if (/^[A-Za-z0-9_./:@%+,=-]*$/.test(value)) return `${name}=${value}`;
  if (!/['\r]|\\$/.test(value)) return `${name}='${value}'`;
  if (!/["\\\r$]/.test(value)) return `${name}="${value.replaceAll("\n", "\\n")}"`;
  throw usageError(
    `${name} holds ' beside ", \\ or $, ends with \\, or holds a carriage return, and no dotenv file can hold that for every reader: ` +
      "give --format json, or let exec restart its command without --file",
    "not_for_dotenv",
  );
}
