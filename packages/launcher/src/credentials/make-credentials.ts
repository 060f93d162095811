import { createPrivateKey, randomBytes, X509Certificate } from "node:crypto";
import { chmodSync, chownSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { CredentialsError, credentialFiles, makeUserKey, publicKeyOf } from "@mcp-failover/bus";
import { type BusKeys, type BusUser, busUsers, hasOnlookers, natsAccounts, redisClusterUsers, redisUsers } from "@mcp-failover/contracts";
import { consoleTokenFile, probeTokenFile } from "@mcp-failover/service-kit";
import * as z from "zod";
import { issue, makeAuthority } from "./certificates.ts";
import { makeRedisPasswords } from "./redis-passwords.ts";

export interface CredentialsOptions {
  /** Where they lie: a folder for each user, and `nats` and `redis` for the servers. */
  readonly folder: string;
  readonly nowMs: number;
  /**
   * `rotate` gives every user a new key, password and certificate; those before stay valid beside them, so that nobody is cut off. `retire` ends
   * what `rotate` left valid. The servers have to read their files again after either (nats-server: SIGHUP; redis-server: ACL LOAD).
   */
  readonly change?: "rotate" | "retire";
  /** More names and addresses of the servers, for their certificates. They keep those that they have: a rotation without them must cut nobody off. */
  readonly hosts?: readonly string[];
  /** Whether who brings no key or password is let in to look (docs/adr/0011). Without it, it stays as it is; at first nobody is. */
  readonly onlookers?: boolean;
  /** Who shall own the files. Without it a file made anew stays with its owner, and a new one goes to the owner of its folder. */
  readonly owner?: Owner;
  /** The same for the folders of redis-server and of those who ask it from its own container, which runs as another user. Default: whom `redis` was given to before, else `owner`. */
  readonly redisOwner?: Owner;
}
interface Owner {
  readonly uid: number;
  readonly gid: number;
}

const dayMs = 24 * 3_600_000;
const authorityName = "mcp-failover development CA";
const authorityMs = 3650 * dayMs;
const certificateMs = 365 * dayMs;
/** One with less left is made anew. */
const renewMs = 30 * dayMs;
/** A clock that is a little behind does not refuse what was made just now. */
const backMs = 3_600_000;
const serverHosts = {
  nats: ["localhost", "127.0.0.1", "nats", "nats-1", "nats-2", "nats-3"],
  redis: ["localhost", "127.0.0.1", "redis", "redis-replica", "redis-front"],
} as const;

/** What there is in the folder of the server. */
export const serverFiles = { accounts: "accounts.conf", cert: "tls.crt", key: "tls.key", ca: "ca.pem" } as const;

/**
 * Makes what is missing of the CA, the keys and the certificates; asking again changes nothing. Says what it made. Throws {@link CredentialsError}
 * for a damaged file that nothing else tells the content of.
 */
export function makeCredentials(options: CredentialsOptions): { readonly made: readonly string[] } {
  const { folder, nowMs, change } = options;
  const made: string[] = [];
  const redisOwner = options.redisOwner ?? givenOwner(join(folder, "redis"));
  const ownerOf = (name: string): Owner | null => (/^redis(-|$)/.test(name) ? redisOwner : null) ?? options.owner ?? null;
  const put = (name: string, text: string): void => {
    const file = join(folder, name);
    if (readText(file) === text) return;
    writeWhole(file, text, ownerOf(dirname(name)) ?? heirOf(file));
    made.push(name);
  };
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  if (options.owner !== undefined) chownSync(folder, options.owner.uid, options.owner.gid);
  for (const user of new Set(["ca", "nats", "redis", ...busUsers, ...redisUsers, ...redisClusterUsers])) {
    const path = join(folder, user);
    const owner = ownerOf(user) ?? heirOf(path);
    mkdirSync(path, { recursive: true, mode: 0o700 });
    if (owner !== null) chownSync(path, owner.uid, owner.gid);
    // Also what stays as it is: it may have been made for somebody else.
    for (const file of ownerOf(user) === null ? [] : readdirSync(path)) give(join(path, file), ownerOf(user));
  }
  const valid = (cert: X509Certificate | null): boolean => cert !== null && Date.parse(cert.validTo) - nowMs > renewMs;
  const span = (ms: number) => ({ fromMs: nowMs - backMs, untilMs: nowMs + ms });

  let cert = readText(join(folder, "ca", "ca.pem"));
  let key = readText(join(folder, "ca", "ca.key"));
  const own = certificateOf(cert);
  if (cert !== null && own === null) throw damaged(join(folder, "ca", "ca.pem"));
  if (own !== null && key !== null && !isKeyOf(key, own)) throw damaged(join(folder, "ca", "ca.key"));
  const anew = cert === null || key === null || !valid(own);
  if (cert === null || key === null || anew) {
    ({ cert, key } = makeAuthority({ name: authorityName, ...span(authorityMs) }));
    put("ca/ca.key", key);
    put("ca/ca.pem", cert);
  }
  const authority = { name: authorityName, cert, key };
  const certify = (place: string, name: string, hosts: readonly string[]): void => {
    const text = readText(join(folder, place, "tls.crt"));
    const there = certificateOf(text);
    // The names that a server was given besides stand nowhere else.
    if (text !== null && there === null && place in serverHosts)
      throw damaged(join(folder, place, "tls.crt"), ", with --host for each name that was given so before (npm run dev:credentials)");
    put(`${place}/ca.pem`, authority.cert);
    const had = there === null ? [] : hostsOf(there);
    const named = hosts.every((host) => had.includes(host));
    const isWhole = there !== null && valid(there) && isKeyOf(readText(join(folder, place, "tls.key")) ?? "", there);
    if (!anew && change !== "rotate" && isWhole && named) return;
    const made = issue(authority, { name, hosts: [...new Set([...had, ...hosts])], ...span(certificateMs) });
    put(`${place}/tls.key`, made.key);
    put(`${place}/tls.crt`, made.cert);
  };
  for (const server of ["nats", "redis"] as const) certify(server, server, [...serverHosts[server], ...(options.hosts ?? [])]);

  const before = readKeys(folder);
  const keys = {} as Record<BusUser, readonly string[]>;
  for (const user of busUsers) {
    certify(user, user, [user]);
    put(`${user}/${credentialFiles.user}`, `${user}\n`);
    const seedFile = `${user}/${credentialFiles.seed}`;
    let seed = readText(join(folder, seedFile))?.trim() ?? null;
    const current = seed === null ? null : undamaged(join(folder, seedFile), seed, publicKeyOf);
    if (seed === null || change === "rotate") {
      ({ seed } = makeUserKey());
      put(seedFile, `${seed}\n`);
    }
    const known = change === "retire" ? [] : [...(current === null ? [] : [current]), ...(before[user] ?? [])];
    // Never more than the new one and the one before it.
    keys[user] = [...new Set([publicKeyOf(seed), ...known])].slice(0, 2);
  }
  put("nats/keys.json", `${JSON.stringify(keys, null, 2)}\n`);
  const accounts = `nats/${serverFiles.accounts}`;
  const onlookers = options.onlookers ?? hasOnlookers(readText(join(folder, accounts)) ?? "");
  put(accounts, natsAccounts(keys as BusKeys, { onlookers }));

  for (const user of [...redisUsers, ...redisClusterUsers])
    if (!(busUsers as readonly string[]).includes(user)) certify(user, user, [user]);
  makeRedisPasswords({ change, onlookers, read: (name) => readText(join(folder, name)), put });
  for (const token of [probeToken, consoleToken]) makeToken(token, { change, read: (name) => readText(join(folder, name)), put });
  return { made };
}

/** Makes the console's token alone where there is none: for a local stack without permissions on the bus, which needs no other credentials. */
export function makeConsoleToken(folder: string): void {
  const { taker, shower } = consoleToken;
  for (const user of [taker, shower]) mkdirSync(join(folder, user), { recursive: true, mode: 0o700 });
  makeToken(consoleToken, {
    change: undefined,
    read: (name) => readText(join(folder, name)),
    put: (name, text) => {
      const file = join(folder, name);
      if (readText(file) !== text) writeWhole(file, text, heirOf(file));
    },
  });
}

const tokenBytes = 32;
/** By what `taker` knows `shower`; each has a file of this name in its folder. */
interface TokenInCommon {
  readonly file: string;
  readonly taker: BusUser;
  readonly shower: BusUser;
}
const probeToken: TokenInCommon = { file: probeTokenFile, taker: "router", shower: "prober" };
/** Whoever may read the folder of `cli` may order a failover on the bus, and so may in the console. */
const consoleToken: TokenInCommon = { file: consoleTokenFile, taker: "console", shower: "cli" };

/** The taker's file is first: it takes the token before as well, until that is retired. */
function makeToken(token: TokenInCommon, { change, read, put }: Omit<Parameters<typeof makeRedisPasswords>[0], "onlookers">): void {
  const taking = `${token.taker}/${token.file}`;
  const known = (read(taking) ?? "").split("\n").filter((line) => line !== "");
  const [current] = known;
  const text = current === undefined || change === "rotate" ? randomBytes(tokenBytes).toString("base64url") : current;
  // Never more than the new one and the one before it.
  const taken = change === "retire" ? [text] : [...new Set([text, ...known])].slice(0, 2);
  put(taking, `${taken.join("\n")}\n`);
  put(`${token.shower}/${token.file}`, `${text}\n`);
}

function readKeys(folder: string): Partial<Record<BusUser, string[]>> {
  const file = join(folder, "nats", "keys.json");
  const text = readText(file);
  return text === null ? {} : undamaged(file, text, (json) => z.record(z.string(), z.array(z.string())).parse(JSON.parse(json)));
}

/** What `read` makes of a file's text. Throws {@link CredentialsError} where it throws, and never what the file holds. */
function undamaged<T>(file: string, text: string, read: (text: string) => T): T {
  try {
    return read(text);
  } catch {
    throw damaged(file);
  }
}

function damaged(file: string, how = ""): CredentialsError {
  return new CredentialsError(`${file} is damaged: remove it and start again${how}`);
}

/** Null for what is none. */
function certificateOf(text: string | null): X509Certificate | null {
  try {
    return text === null ? null : new X509Certificate(text);
  } catch {
    return null;
  }
}

function isKeyOf(key: string, certificate: X509Certificate): boolean {
  try {
    return certificate.checkPrivateKey(createPrivateKey(key));
  } catch {
    return false;
  }
}

/** The names and addresses that a certificate is for. */
function hostsOf(certificate: X509Certificate): string[] {
  return certificate.subjectAltName?.split(", ").map((entry) => entry.replace(/^(DNS|IP Address):/, "")) ?? [];
}

/** Who a file was given to, or its folder where there is no such file yet. Only root can give files away; of others all is their own. */
function heirOf(path: string): Owner | null {
  if (process.getuid?.() !== 0) return null;
  return statSync(path, { throwIfNoEntry: false }) ?? statSync(dirname(path), { throwIfNoEntry: false }) ?? null;
}

/** Who a folder was given to; what is still root's was given to nobody. */
function givenOwner(path: string): Owner | null {
  const owner = existsSync(path) ? heirOf(path) : null;
  return owner?.uid === 0 ? null : owner;
}

function give(file: string, owner: Owner | null): void {
  if (owner === null) return;
  const { uid, gid } = statSync(file);
  if (uid !== owner.uid || gid !== owner.gid) chownSync(file, owner.uid, owner.gid);
}

/** Whole or not at all, also after a power failure, and never readable for others. */
function writeWhole(file: string, text: string, owner: Owner | null): void {
  const draft = `${file}.${process.pid}`;
  writeFileSync(draft, text, { mode: 0o600, flush: true });
  chmodSync(draft, 0o600);
  if (owner !== null) chownSync(draft, owner.uid, owner.gid);
  renameSync(draft, file);
}

function readText(file: string): string | null {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}
