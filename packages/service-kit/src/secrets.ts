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
  const read = (name: string): string | null => {
    const cached = known.get(name);
    if (cached !== undefined) return cached;
    const value = env[name] ?? (folder === undefined ? null : readSecretFile(join(folder, name)));
    if (value === null || value === "") return null;
    known.set(name, value);
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
      for (const [name, value] of known) {
        if (value.length < redactLengthMin) continue;
        // In a line of JSON a value stands escaped.
        for (const form of new Set([value, JSON.stringify(value).slice(1, -1), encodeURIComponent(value)]))
          clean = clean.replaceAll(form, `[secret ${name}]`);
      }
      return clean;
    },
  };
}

function readSecretFile(path: string): string | null {
  try {
    return readFileSync(path, "utf8").replace(/\r?\n$/, "");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}
