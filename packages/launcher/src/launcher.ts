import { existsSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { CredentialsError } from "@mcp-failover/bus";
import { ConfigError } from "@mcp-failover/contracts";
import { openSecrets, TokenError } from "@mcp-failover/service-kit";
import { ensureServers } from "../../../scripts/lib/ensure-servers.mjs";
import { BootstrapError } from "./bootstrap.ts";
import { consoleToken } from "./console-token.ts";
import { DataDirInUseError, dataDirProblem, lockDataDir, sessionKey, writeStackFile } from "./data-dir.ts";
import { credentialsFolder, prepareBus } from "./nats-config.ts";
import { type LauncherOptions, parseOptions, UsageError, usage } from "./options.ts";
import { planStack, type StackPlan } from "./plan.ts";
import { busyPorts, planPorts } from "./ports.ts";
import { type LoadedConfig, readConfig } from "./read-config.ts";
import { planRedis } from "./redis-config.ts";
import { createStack, type Stack, type StackLimits, StartError } from "./stack.ts";
import { StoreInUseError, storesFree } from "./store-writers.ts";
import { type Terminal, terminal } from "./terminal.ts";
import { withoutPasswords } from "./without-passwords.ts";

/** What the launcher is given of the world, and where tests put something else. */
export interface LauncherWorld {
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  /** The repository. */
  readonly root: string;
  readonly from: string;
  readonly stdout: NodeJS.WritableStream;
  readonly stderr: NodeJS.WritableStream;
  /** The script of a service: `services/<name>/src/main.ts`. */
  readonly scriptOf?: (service: string) => string;
  readonly limits?: Partial<StackLimits>;
  /** How long to wait for what a stack before left behind, in ms. */
  readonly leftoversMs?: number;
  /** Calls back at every request to stop. */
  readonly onInterrupt: (listener: (why: string) => void) => void;
}

/** A port that the stack needs is taken. */
class PortsBusyError extends Error {
  override readonly name = "PortsBusyError";
  readonly code = "ports_busy";
  readonly retriable = true;
}

/** After the stack before us was killed, its guardian may still be ending it: four ranks, four seconds each, and a busy machine. */
const leftoversMsUsual = 20_000;
/** One Ctrl-C reaches us from the terminal, from npm and from the start script; one pressed again on purpose comes later than this. */
const sameInterruptMs = 500;

/** Runs a stack until it is stopped. Returns the exit code: 0 after an orderly stop, 1 failed, 2 wrong usage or configuration, 130 killed by a second Ctrl-C. */
export async function runLauncher(world: LauncherWorld): Promise<number> {
  const shown = terminal(world.stdout, world.stderr);
  let dataDir: string | null = null;
  try {
    const options = parseOptions(world.args, world);
    if (options === null) {
      shown.say(usage);
      return 0;
    }
    const secrets = openSecrets(world.env, world.env["MCPF_SECRETS_DIR"] ?? join(options.dataDir, "secrets"));
    const config = readConfig(options.configFile, { ports: planPorts(options.portBase), env: world.env, hasSecret: secrets.has });
    ({ dataDir } = options);
    const lock = lockDataDir(dataDir);
    try {
      return await runStack(world, options, config, lock.tookOver, shown);
    } finally {
      lock.release();
    }
  } catch (error) {
    const problem = dataDir === null ? null : dataDirProblem(error, dataDir);
    if (error instanceof UsageError) shown.complain(`mcp-failover: ${error.message}\n\n${usage}`);
    else if (isExpected(error)) shown.complain(`mcp-failover: ${error.message}`);
    else if (problem !== null) shown.complain(`mcp-failover: ${problem}`);
    else throw error;
    const wrongInput =
      error instanceof UsageError || error instanceof ConfigError || (error instanceof BootstrapError && error.exitCode === 2);
    return wrongInput ? 2 : 1;
  }
}

/** Errors whose message tells all; of any other the stack trace is wanted. */
function isExpected(error: unknown): error is Error {
  const known = [ConfigError, CredentialsError, TokenError, DataDirInUseError, PortsBusyError, StartError, BootstrapError, StoreInUseError];
  return known.some((kind) => error instanceof kind) || (error as { code?: unknown }).code === "server_missing";
}

async function runStack(
  world: LauncherWorld,
  options: LauncherOptions,
  config: LoadedConfig,
  tookOver: boolean,
  shown: Terminal,
): Promise<number> {
  const startMs = performance.now();
  const interrupts = listenForInterrupts(world);
  const ports = planPorts(options.portBase);
  const credentials = credentialsFolder(world.env, options.dataDir);
  const natsUrl = world.env["NATS_URL"] || `nats://127.0.0.1:${ports.nats}`;
  const need = [
    ...(world.env["NATS_URL"] ? [] : (["nats-server"] as const)),
    ...(world.env["REDIS_URL"] ? [] : (["redis-server"] as const)),
  ];
  const { natsServer, redisServer } = await ensureServers({ need, log: shown.say });
  const redis = planRedis({ env: world.env, dataDir: options.dataDir, port: ports.redis, program: redisServer ?? null });
  const token = consoleToken({ env: world.env, dataDir: options.dataDir, credentials });
  const plan = planStack({
    root: world.root,
    dataDir: options.dataDir,
    topology: config.topology,
    configFile: options.configFile,
    configText: config.text,
    environment: options.environment,
    ports,
    env: world.env,
    natsServer: natsServer ?? null,
    natsUrl,
    redis,
    sessionKey: sessionKey(options.dataDir),
    consoleEnv: token.env,
    credentials,
    scriptOf: world.scriptOf ?? ((service) => scriptIn(world.root, service)),
  });
  if (tookOver) shown.say(`the stack before in ${options.dataDir} did not stop in order; taking over`);
  const waitMs = world.leftoversMs ?? leftoversMsUsual;
  const isOver = (): boolean => interrupts.why() !== null;
  await storesFree(options.dataDir, { waitMs, isOver, say: shown.say });
  await portsFree(plan, options, { waitMs: tookOver ? waitMs : 0, isOver });
  if (isOver()) return 0;
  prepareBus({ env: world.env, dataDir: options.dataDir, port: ports.nats, credentials });

  const stack = createStack({
    plan,
    dataDir: options.dataDir,
    root: world.root,
    natsUrl,
    credentials,
    terminal: shown,
    ...(world.limits === undefined ? {} : { limits: world.limits }),
  });
  const routerUrl = `http://127.0.0.1:${ports.router}`;
  const consoleUrl = `http://127.0.0.1:${ports.console}`;
  const removeStackFile = writeStackFile(options.dataDir, {
    routerUrl,
    consoleUrl,
    natsUrl,
    redisUrl: redis.url,
    ...(credentials === null ? {} : { credentialsDir: credentials }),
    pid: process.pid,
    portBase: options.portBase,
    startedAt: new Date().toISOString(),
    environment: options.environment,
    configFile: options.configFile,
    ports: Object.fromEntries(Object.entries(config.portVariables).map(([name, port]) => [name, Number(port)])),
  });
  try {
    return await untilStopped(stack, interrupts, shown, () => {
      const seconds = ((performance.now() - startMs) / 1000).toFixed(1);
      shown.say(
        `ready router=${routerUrl} console=${consoleUrl} nats=${withoutPasswords(natsUrl)} redis=${withoutPasswords(redis.url)} (${seconds} s)`,
      );
      shown.say(
        shown.isForAPerson ? `to act in the console: ${token.link(consoleUrl)}` : `to act in the console give it its token: ${token.place}`,
      );
      if (credentials === null) {
        if (natsServer !== undefined)
          shown.say("the bus has no permissions: whoever reaches it may say anything (MCPF_BUS_PERMISSIONS=off is set)");
      } else if (natsServer !== undefined)
        shown.say(`who brings no key may listen and read, and say nothing; the keys of all others are in ${credentials}`);
      else shown.say(`your own services connect to nats as "client", with the credentials in ${join(credentials, "client")}`);
    });
  } finally {
    removeStackFile();
  }
}

interface Interrupts {
  readonly first: Promise<string>;
  readonly second: Promise<"killed">;
  /** Why, once the first has come. */
  why(): string | null;
}

/** Listens from here on; the signals that one Ctrl-C sends at once count as one. */
function listenForInterrupts(world: LauncherWorld): Interrupts {
  const first = Promise.withResolvers<string>();
  const second = Promise.withResolvers<"killed">();
  let came: { why: string; atMs: number } | null = null;
  world.onInterrupt((why) => {
    const atMs = performance.now();
    if (came === null) {
      came = { why, atMs };
      first.resolve(why);
    } else if (atMs - came.atMs > sameInterruptMs) second.resolve("killed");
  });
  return { first: first.promise, second: second.promise, why: () => came?.why ?? null };
}

/** Starts the stack, says when it is ready, and stops it in order at the first interrupt, at once at the second. */
async function untilStopped(stack: Stack, interrupts: Interrupts, shown: Terminal, onReady: () => void): Promise<number> {
  const running = stack
    .start()
    .then(() => stack.ready())
    .then(onReady);
  const failure = await Promise.race([running.then(() => null), interrupts.first]).then(
    () => null,
    (error: unknown) => error,
  );
  if (failure === null) shown.say(`stopping (${await interrupts.first}); press Ctrl-C again to kill everything at once`);
  const stopping = stack.stop().then(() => "stopped" as const);
  const how = await Promise.race([stopping, interrupts.second]);
  if (how === "killed") {
    stack.destroy();
    await Promise.race([stopping, sleep(2000, undefined, { ref: false })]);
    return 130;
  }
  if (failure !== null) throw failure;
  shown.say("stopped");
  return 0;
}

/** Returns early once `isOver`. Throws {@link PortsBusyError} after `waitMs`. */
async function portsFree(
  plan: StackPlan,
  options: LauncherOptions,
  { waitMs, isOver }: { readonly waitMs: number; readonly isOver: () => boolean },
): Promise<void> {
  const endMs = performance.now() + waitMs;
  for (;;) {
    const busy = await busyPorts(plan.ports);
    if (busy.length === 0 || isOver()) return;
    if (performance.now() >= endMs) {
      const some = busy.slice(0, 5).join(", ");
      throw new PortsBusyError(
        `${busy.length === 1 ? "port" : "ports"} ${some}${busy.length > 5 ? " and more" : ""} on 127.0.0.1 ${busy.length === 1 ? "is" : "are"} in use; stop what listens there, or give another --port-base (now ${options.portBase})`,
      );
    }
    await sleep(100);
  }
}

function scriptIn(root: string, service: string): string {
  const file = join(root, service === "fault-proxy" ? "packages" : "services", service, "src", "main.ts");
  if (!existsSync(file)) throw new StartError(`${file} is missing; the checkout is not whole`);
  return file;
}
