import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { SecretRef } from "@mcp-failover/contracts";

/** A secret is named in the configuration but has no value here. */
export class MissingSecretError extends Error {
  override readonly name = "MissingSecretError";
  readonly code = "secret_missing";
  readonly retriable = false;
  constructor(name: string) {
    super(
      `the secret ${name} is missing; set the environment variable ${name}, or put it into a file of that name in the folder MCPF_SECRETS_DIR`,
    );
  }
}

export interface Secrets {
  has(name: string): boolean;
  /** The value, with the prefix that the reference asks for. A plain string is given back as it is. Throws {@link MissingSecretError}. */
  resolve(value: string | SecretRef): string;
  /** Replaces every value that was resolved here by `[secret NAME]`. */
  redact(text: string): string;
}

/** Shorter values would redact half of every line. */
const redactLengthMin = 4;

/** Secrets from the environment, else from one file a secret. Values stay in this process's memory. */
export function openSecrets(env: Readonly<Record<string, string | undefined>>, folder: string | undefined): Secrets {
  const known = new Map<string, string>();
  // The longest first: a form that begins with another one would keep its tail.
  let forms: { readonly name: string; readonly form: string }[] = [];
  const read = (name: string): string | null => {
    const cached = known.get(name);
    if (cached !== undefined) return cached;
    const value = env[name] ?? (folder === undefined ? null : readSecretFile(join(folder, name)));
    if (value === null || value === "") return null;
    known.set(name, value);
    if (value.length >= redactLengthMin) {
      forms = [...forms, ...[...formsOf(value)].map((form) => ({ name, form }))].sort((a, b) => b.form.length - a.form.length);
    }
    return value;
  };
  return {
    has: (name) => read(name) !== null,
    resolve(value) {
      if (typeof value === "string") return value;
      const found = read(value.secret);
      if (found === null) throw new MissingSecretError(value.secret);
      return `${value.prefix ?? ""}${found}`;
    },
    redact(text) {
      let clean = text;
      for (const { name, form } of forms) clean = clean.replaceAll(form, `[secret ${name}]`);
      return clean;
    },
  };
}

/** How a value stands in a text: as it is, in a line of JSON, in JSON that is a string in such a line, in a URL. */
function formsOf(value: string): Set<string> {
  const escaped = (text: string): string => JSON.stringify(text).slice(1, -1);
  return new Set([value, escaped(value), escaped(escaped(value)), encodeURIComponent(value)]);
}

function readSecretFile(path: string): string | null {
  try {
    return readFileSync(path, "utf8").replace(/\r?\n$/, "");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}
