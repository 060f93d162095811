import type { ActiveVariables } from "./active-variables.ts";

export type VariablesFormat = "export" | "dotenv" | "json";

/** For a POSIX shell's `eval`, for a dotenv file, or as one JSON object. */
export function showVariables({ variables }: ActiveVariables, format: VariablesFormat): string {
  if (format === "json") return `${JSON.stringify(Object.fromEntries(variables), null, 2)}\n`;
  const line = format === "export" ? exportLine : dotenvLine;
  return [...variables].map(([name, value]) => `${line(name, value)}\n`).join("");
}

/** In single quotes nothing has a meaning but the quote itself. */
function exportLine(name: string, value: string): string {
  return `export ${name}='${value.replaceAll("'", "'\\''")}'`;
}

/** Double quotes with `\n`, as Node's `--env-file`, dotenv and Docker's compose read them, where a plain value would not do. */
function dotenvLine(name: string, value: string): string {
  if (/^[A-Za-z0-9_./:@%+,=-]*$/.test(value)) return `${name}=${value}`;
  if (!value.includes("'") && !/[\r\n]/.test(value)) return `${name}='${value}'`;
  return `${name}="${value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\r", "\\r").replaceAll("\n", "\\n")}"`;
}
