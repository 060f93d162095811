import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { BusUser } from "@mcp-failover/contracts";
import { nkeys } from "nats";
import { userKey } from "./nkey.ts";

/** Who a connection is, and what it proves it with. */
export interface BusCredentials {
  readonly user: BusUser;
  /** Read at every connect, so that a rotated key needs no restart. */
  seed(): Uint8Array;
  /** Null: the server is spoken to without TLS. */
  readonly tls: { readonly caFile: string; readonly certFile: string; readonly keyFile: string } | null;
}

/** The names of the files in a client's folder; `infra/nats/README.md` tells operators of them. */
export const credentialFiles = { user: "user", seed: "nats.seed", ca: "ca.pem", cert: "tls.crt", key: "tls.key" } as const;

/** The folder does not hold what is needed. */
export class CredentialsError extends Error {
  override readonly name = "CredentialsError";
  readonly code = "credentials_invalid";
  readonly retriable = false;
}

/** Credentials from a client's folder. Throws {@link CredentialsError}, never with what a file holds. */
export function readCredentials(folder: string): BusCredentials {
  const file = (name: keyof typeof credentialFiles): string => join(folder, credentialFiles[name]);
  const text = (name: keyof typeof credentialFiles): string => {
    try {
      return readFileSync(file(name), "utf8").trim();
    } catch (cause) {
      const why = (cause as NodeJS.ErrnoException).code ?? "unreadable";
      throw new CredentialsError(`${file(name)} cannot be read (${why}): make the credentials with \`npm run dev:credentials\``);
    }
  };
  const seed = (): Uint8Array => {
    const value = new TextEncoder().encode(text("seed"));
    try {
      nkeys.fromSeed(value);
    } catch {
      throw new CredentialsError(`${file("seed")} holds no seed of an NKey: make the credentials with \`npm run dev:credentials\``);
    }
    return value;
  };
  seed();
  const user = text("user") as BusUser;
  const tls = exists(file("cert")) ? { caFile: file("ca"), certFile: file("cert"), keyFile: file("key") } : null;
  return { user, seed, tls };
}

/** A new NKey for a user: the seed is the secret, the public key goes into the server's configuration. */
export function makeUserKey(): { seed: string; publicKey: string } {
  const seed = nkeys.createUser().getSeed();
  return { seed: new TextDecoder().decode(seed), publicKey: userKey(seed).publicKey };
}

/** The public key that belongs to a seed. Throws what `nkeys` throws for anything else. */
export function publicKeyOf(seed: string): string {
  return userKey(new TextEncoder().encode(seed)).publicKey;
}

function exists(file: string): boolean {
  try {
    readFileSync(file);
    return true;
  } catch {
    return false; // Without a certificate the connection has no TLS, and a server that wants one refuses it.
  }
}
