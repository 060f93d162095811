import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync } from "node:fs";
import { delimiter, isAbsolute, join, resolve } from "node:path";
import { runChild } from "./run-child.mjs";

/**
 * @typedef {"nats-server" | "redis-server"} ServerName
 * @typedef {{ program: ServerName, env: "NATS_SERVER_BIN" | "REDIS_SERVER_BIN", packages: Record<Manager, string> }} Server
 * @typedef {"apt-get" | "apk" | "dnf" | "brew"} Manager
 */

/** @type {Record<ServerName, Server>} */
const SERVERS = {
  "nats-server": {
    program: "nats-server",
    env: "NATS_SERVER_BIN",
    packages: { "apt-get": "nats-server", apk: "nats-server", dnf: "nats-server", brew: "nats-server" },
  },
  "redis-server": {
    program: "redis-server",
    env: "REDIS_SERVER_BIN",
    packages: { "apt-get": "redis-server", apk: "redis", dnf: "redis", brew: "redis" },
  },
};

/** Where packages put servers that the PATH of an ordinary user may leave out. */
const EXTRA_DIRS = ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin", "/home/linuxbrew/.linuxbrew/bin"];

/** A server program is missing and could not be installed. */
export class ServerMissingError extends Error {
  code = "server_missing";
  retryable = false;
  /** @param {string} message @param {readonly ServerName[]} missing */
  constructor(message, missing) {
    super(message);
    this.name = "ServerMissingError";
    /** @readonly */
    this.missing = missing;
  }
}

/**
 * Finds nats-server and redis-server, or installs them: the path in NATS_SERVER_BIN / REDIS_SERVER_BIN, then PATH, then the
 * system's package manager. Only the programs are wanted: a service that an installation started is stopped again.
 *
 * @param {{ need?: readonly ServerName[], log?: (line: string) => void, extraDirs?: readonly string[] }} [options]
 *   `need`: default both; `log`: default stderr; `extraDirs`: where to look after PATH
 * @returns {Promise<{ natsServer: string | undefined, redisServer: string | undefined }>} absolute paths; undefined only for what was not needed
 * @throws {ServerMissingError}
 */
export async function ensureServers(options = {}) {
  const {
    need = /** @type {ServerName[]} */ (Object.keys(SERVERS)),
    log = (line) => process.stderr.write(`${line}\n`),
    extraDirs = EXTRA_DIRS,
  } = options;
  const missing = need.filter((name) => findServer(name, extraDirs) === undefined);
  const problem = missing.length === 0 ? undefined : await install(missing, extraDirs, log);
  const lacking = need.filter((name) => findServer(name, extraDirs) === undefined);
  if (lacking.length > 0) {
    const variables = lacking.map((name) => `${SERVERS[name].env}=/path/to/${name}`).join(" and ");
    throw new ServerMissingError(
      `${lacking.join(" and ")} not found on PATH${problem === undefined ? "" : `, and ${problem}`}. Install ${lacking.length === 1 ? "it" : "them"}, or set ${variables}.`,
      lacking,
    );
  }
  const path = (/** @type {ServerName} */ name) => (need.includes(name) ? findServer(name, extraDirs) : undefined);
  return { natsServer: path("nats-server"), redisServer: path("redis-server") };
}

/**
 * @param {ServerName} name
 * @param {readonly string[]} extraDirs
 * @returns {string | undefined} absolute path
 * @throws {ServerMissingError} when the variable names something that cannot be run: silently using another one would surprise
 */
function findServer(name, extraDirs) {
  const { env, program } = SERVERS[name];
  const chosen = process.env[env];
  if (chosen !== undefined && chosen !== "") {
    const path = resolve(chosen);
    if (!isExecutable(path)) throw new ServerMissingError(`${env} is ${chosen}, which is not a program that can be run.`, [name]);
    return path;
  }
  return findProgram(program, extraDirs);
}

/** @param {string} program @param {readonly string[]} [extraDirs] */
function findProgram(program, extraDirs = []) {
  const dirs = [...(process.env["PATH"] ?? "").split(delimiter), ...extraDirs];
  return dirs
    .filter((dir) => isAbsolute(dir))
    .map((dir) => join(dir, program))
    .find(isExecutable);
}

/** @param {string} path */
function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false; // Not there, or not ours to run: for the caller both mean "look on".
  }
}

/**
 * @param {readonly ServerName[]} missing
 * @param {readonly string[]} extraDirs
 * @param {(line: string) => void} log
 * @returns {Promise<string | undefined>} a clause that says why nothing was installed
 */
async function install(missing, extraDirs, log) {
  const manager = /** @type {const} */ (["apt-get", "apk", "dnf", "brew"]).find((name) => findProgram(name, extraDirs) !== undefined);
  if (manager === undefined) return "none of apt-get, apk, dnf and brew is here to install from";
  const packages = missing.map((name) => SERVERS[name].packages[manager]);
  // Homebrew refuses to run as root; the others need it.
  const prefix = manager === "brew" || process.getuid?.() === 0 ? [] : sudo();
  if (prefix === undefined) return `installing with ${manager} needs root: run \`sudo ${manager} install ${packages.join(" ")}\``;

  log(`mcp-failover: installing ${packages.join(" and ")} with ${manager}`);
  const activeBefore = activeUnits(packages);
  for (const args of installCommands(manager, packages)) {
    const [command = manager, ...rest] = [...prefix, ...args];
    const code = await runChild(command, rest, { stdio: ["ignore", 2, 2] });
    // A failed index update need not matter: one broken source of many is common, and the install tells.
    if (code !== 0 && args.at(-1) !== "update") return `\`${args.join(" ")}\` failed with exit code ${code}`;
  }
  for (const unit of activeUnits(packages).filter((name) => !activeBefore.includes(name))) {
    log(`mcp-failover: stopping the service ${unit}, which the installation started`);
    const [command = "systemctl", ...rest] = [...prefix, "systemctl", "disable", "--now", unit];
    await runChild(command, rest, { stdio: ["ignore", 2, 2] });
  }
  return undefined;
}

/** @param {Manager} manager @param {readonly string[]} packages @returns {string[][]} */
function installCommands(manager, packages) {
  switch (manager) {
    case "apt-get": {
      // RUNLEVEL=1 makes a System V machine look like single-user mode, where a package starts no daemon. systemd starts one
      // all the same, and only a file in /usr/sbin could forbid it: we write none, and stop the unit afterwards.
      const apt = ["env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "-o", "DPkg::Lock::Timeout=120"];
      return [
        [...apt, "update"],
        [...apt, "install", "-y", "--no-install-recommends", ...packages],
      ];
    }
    case "apk":
      return [["apk", "add", "--no-cache", ...packages]];
    case "dnf":
      return [["dnf", "install", "-y", ...packages]];
    case "brew":
      return [["brew", "install", ...packages]];
  }
}

/** @returns {string[] | undefined} undefined when there is no sudo, or it would ask for a password */
function sudo() {
  return findProgram("sudo") !== undefined && spawnSync("sudo", ["-n", "true"], { stdio: "ignore" }).status === 0
    ? ["sudo", "-n"]
    : undefined;
}

/** @param {readonly string[]} units @returns {string[]} those that run under systemd now */
function activeUnits(units) {
  if (!existsSync("/run/systemd/system")) return [];
  return units.filter((unit) => spawnSync("systemctl", ["is-active", "--quiet", unit], { stdio: "ignore" }).status === 0);
}
