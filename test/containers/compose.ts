import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { loadavg } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { freePort, patientMs, tempDir } from "@mcp-failover/testkit";
import { localBin, node24, ROOT } from "../../scripts/lib/repo.mjs";
import { type CommandResult, run } from "../harness/stack.ts";
import { until } from "../harness/wait.ts";

interface Suite {
  /** Every project of this run begins with it; the reaper removes them. */
  readonly run: string;
  readonly compose: readonly [string, ...string[]];
}
const given = process.env["MCPF_CONTAINERS"];
const suite = given === undefined ? null : (JSON.parse(given) as Suite);
/** Why container tests are skipped, or false: they need the images and the engine that `npm run test:containers` prepares. */
export const skip: string | false = suite === null ? "no container engine is prepared: run npm run test:containers" : false;

/** The same for the cluster. Debian's nats-server stands in where the one that is wanted cannot be built (scripts/containers.mjs). */
export const skipCluster: string | false =
  skip !== false || !process.env["MCPF_NATS_CONF"]?.includes("2.9")
    ? skip
    : "Debian's nats-server 2.9 stands in here, and its fence does not hold with replicas: run `node scripts/newest-nats.mjs`, which says what is missing";

interface Container {
  readonly id: string;
  readonly service: string;
  readonly name: string;
  readonly state: string;
  /** `healthy`, `unhealthy`, `starting`, or empty for what has no check. */
  readonly health: string;
  readonly restarts: number;
  readonly exitCode: number;
}

export interface ComposeStack {
  readonly project: string;
  readonly routerUrl: string;
  readonly consoleUrl: string;
  readonly natsUrl: string;
  /** A folder for each user of the bus, made by the one-shot `credentials`. */
  readonly credentials: string;
  /** How long `up` took until everything was healthy. */
  readonly healthyAfterMs: number;
  compose(args: readonly string[], timeoutMs?: number): Promise<CommandResult>;
  /** Commands as the documentation has them, with `docker compose` for whatever compose is called here. */
  sh(commands: string): Promise<CommandResult>;
  up(args?: readonly string[]): Promise<void>;
  containers(): Promise<Container[]>;
  /** All are healthy; the one-shots have ended well. */
  allHealthy(ms: number): Promise<void>;
  /** SIGKILL to what runs in the container, as a crash would; the engine's restart policy brings it back. Waits until it is healthy again. */
  crash(container: Container): Promise<void>;
  /** `npx mcpf` as the README has it. */
  mcpf(args: readonly string[], timeoutMs?: number): Promise<CommandResult>;
  down(): Promise<void>;
}

/** Asking the engine is a process or two, which must not keep a core from those who are asked about. */
const lookMs = 1000;
/** How often `up` is asked. What is wrong, and not late, is wrong each time. */
const upTries = 4;
let projects = 0;

const redisImage = "redis:7.2.11-bookworm";

/** They do their work and end. */
export const oneShots: ReadonlySet<string> = new Set(["bootstrap", "credentials"]);

/** What the reaper knows this run by. */
export function runName(): string {
  return suite?.run ?? assert.fail(String(skip));
}

export async function docker(args: readonly string[], timeoutMs = 60_000): Promise<string> {
  const ran = await run("docker", args, process.env, patientMs(timeoutMs));
  assert.equal(ran.code, 0, `docker ${args.join(" ")}\n${ran.stderr}`);
  return ran.stdout;
}

/**
 * Runs docker-compose.yml under a project of its own, on free ports, and waits until everything is healthy. `args` are those of `up`: also the
 * services, where not all of them are wanted; `env` is what docs/containers.md has variables for.
 */
export async function composeUp(
  options: { files?: readonly string[]; args?: readonly string[]; env?: Readonly<Record<string, string>> } = {},
): Promise<ComposeStack> {
  if (suite === null) assert.fail(String(skip));
  projects += 1;
  const project = `${suite.run}n${process.pid}n${projects}`;
  const [router, consolePort] = [await freePort(), await freePort()];
  const nats = [await freePort(), await freePort(), await freePort()] as const;
  const { path: credentials, remove } = await tempDir("mcpf-credentials-");
  const env = {
    ...process.env,
    ...options.env,
    MCPF_CREDENTIALS_FOLDER: credentials,
    MCPF_CREDENTIALS_DIR: join(credentials, "cli"),
    COMPOSE_PROJECT_NAME: project,
    MCPF_ROUTER_PORT: String(router),
    MCPF_CONSOLE_PORT: String(consolePort),
    MCPF_NATS_PORT: String(nats[0]),
    MCPF_NATS_2_PORT: String(nats[1]),
    MCPF_NATS_3_PORT: String(nats[2]),
    NATS_URL: (options.files === undefined ? nats.slice(0, 1) : nats).map((port) => `tls://127.0.0.1:${port}`).join(","),
  };
  const [program, ...first] = suite.compose;
  const files = (options.files ?? ["docker-compose.yml"]).flatMap((file) => ["-f", file]);
  const compose = (args: readonly string[], timeoutMs = 600_000): Promise<CommandResult> =>
    run(program, [...first, ...files, "--profile", "demo", ...args], env, patientMs(timeoutMs));
  const containers = async (): Promise<Container[]> => {
    const ids = (await docker(["ps", "-aq", "--filter", `label=com.docker.compose.project=${project}`])).split("\n").filter(Boolean);
    if (ids.length === 0) return [];
    return (JSON.parse(await docker(["inspect", ...ids])) as Inspected[]).map((one) => ({
      id: one.Id,
      service: one.Config.Labels["com.docker.compose.service"] ?? "",
      name: one.Name.slice(1),
      state: one.State.Status,
      health: one.State.Health?.Status ?? "",
      restarts: one.RestartCount,
      exitCode: one.State.ExitCode,
    }));
  };
  const isWell = ({ service, state, health, exitCode }: Container): boolean =>
    oneShots.has(service) ? state === "exited" && exitCode === 0 : state === "running" && health === "healthy";
  const allHealthy = async (ms: number): Promise<void> => {
    let all: Container[] = [];
    const tell = (): string => `healthy; not so: ${JSON.stringify(all.filter((one) => !isWell(one)))}`;
    await until(
      async () => {
        if (all.length > 0) await sleep(lookMs);
        all = await containers();
        return all.length > 0 && all.every(isWell);
      },
      ms,
      tell,
    );
  };
  const up = async (args: readonly string[] = []): Promise<void> => {
    let ran = await compose(["up", "-d", "--no-build", ...args]);
    // On a busy machine something is later than its health check waits; `up` gives up then, and goes on where it was when it is asked again.
    for (let tries = 1; tries < upTries && /is unhealthy/.test(ran.stderr); tries += 1) {
      process.stdout.write(`up is asked again: ${ran.stderr.match(/.*is unhealthy.*/)?.[0]} (a load of ${loadavg()[0]?.toFixed(1)})\n`);
      ran = await compose(["up", "-d", "--no-build", ...args]);
    }
    if (ran.code === 0) return;
    const logs = await compose(["logs", "--no-color", "--tail", "15"]);
    assert.fail(`up ended with ${ran.code}:\n${ran.stderr}\n${logs.stdout}`);
  };

  const down = async (): Promise<void> => {
    const ran = await compose(["down", "--volumes", "--timeout", "10"]);
    assert.equal(ran.code, 0, ran.stderr);
    await remove();
  };

  const startMs = performance.now();
  try {
    await up(options.args);
    await allHealthy(240_000);
  } catch (error) {
    // What goes on after this has the machine for itself.
    await down();
    throw error;
  }
  return {
    project,
    routerUrl: `http://127.0.0.1:${router}`,
    consoleUrl: `http://127.0.0.1:${consolePort}`,
    natsUrl: env.NATS_URL,
    credentials,
    healthyAfterMs: performance.now() - startMs,
    compose,
    sh: (commands) => run("sh", ["-c", commands.replaceAll("docker compose", suite.compose.join(" "))], env, patientMs(300_000)),
    up,
    containers,
    allHealthy,
    async crash(container) {
      const before = (await containers()).find(({ id }) => id === container.id);
      // All but the container's init, which then ends with what it watched. It runs as the container's own user.
      await run("docker", ["exec", container.id, "sh", "-c", "kill -9 -1"], env, patientMs(30_000));
      await until(
        async () => {
          await sleep(lookMs);
          const now = (await containers()).find(({ id }) => id === container.id);
          return now !== undefined && now.restarts > (before?.restarts ?? 0) && isWell(now);
        },
        120_000,
        `${container.name} is back and healthy`,
      );
    },
    mcpf: (args, timeoutMs = 60_000) => run(localBin("mcpf"), args, env, patientMs(timeoutMs)),
    down,
  };
}

/** Who asks Redis: `as` is a user with its own certificate and password. Else what is said of each; `tls: null` is plain text. */
type RedisAsker =
  | { readonly as: string }
  | { readonly tls: { readonly cert: string | null } | null; readonly user?: string; readonly password?: string };

/**
 * Asks Redis from a container of its own in the network of the control plane, for it is published nowhere. Gives what redis-cli prints, errors
 * of the server and of TLS as well.
 */
export function redisOf(stack: ComposeStack, host = "redis"): (who: RedisAsker, ...command: string[]) => Promise<string> {
  const folder = (user: string): string => `/credentials/${user}`;
  return async (who, ...command) => {
    const given = "as" in who ? { tls: { cert: who.as }, user: who.as } : who;
    const cert = given.tls?.cert ?? null;
    const proofs = cert === null ? [] : ["--cert", `${folder(cert)}/tls.crt`, "--key", `${folder(cert)}/tls.key`];
    const tls = given.tls === null ? [] : ["--tls", "--cacert", `${folder("redis-reader")}/ca.pem`, ...proofs];
    const user = given.user === undefined ? [] : ["--user", given.user];
    const password = "as" in who ? `$(cat ${folder(who.as)}/redis.password)` : (who.password ?? "");
    const asking = `${given.user === undefined ? "" : `export REDISCLI_AUTH="${password}"; `}exec redis-cli -h ${host} "$@"`;
    const ran = await run(
      "docker",
      [
        ...["run", "--rm", "--label", `com.docker.compose.project=${stack.project}`, "--network", `${stack.project}_control`],
        ...["--volume", `${stack.credentials}:/credentials:ro`, "--entrypoint", "sh", redisImage, "-c", asking, "redis-cli"],
        ...[...user, ...tls, ...command],
      ],
      process.env,
      patientMs(60_000),
    );
    // How a connection that is refused ends, redis-cli says beside what is usual.
    return `${ran.stdout}${ran.stderr}`.replaceAll(/^(AUTH failed: |Warning: .*\n|\(error\) )/gm, "").trim();
  };
}

interface Inspected {
  readonly Id: string;
  readonly Name: string;
  readonly RestartCount: number;
  readonly State: { readonly Status: string; readonly ExitCode: number; readonly Health?: { readonly Status: string } };
  readonly Config: { readonly Labels: Readonly<Record<string, string>> };
}

/** What answers `mcpf chaos` for the containers, as docs/containers.md has it. */
export async function composeLauncher(stack: ComposeStack): Promise<{ stop(): Promise<void> }> {
  const child: ChildProcess = spawn(node24(), [join(ROOT, "packages/launcher/src/compose/main.ts"), "--project", stack.project], {
    cwd: ROOT,
    env: { ...process.env, NATS_URL: stack.natsUrl, MCPF_CREDENTIALS_DIR: join(stack.credentials, "launcher") },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let said = "";
  for (const stream of [child.stdout, child.stderr]) stream?.setEncoding("utf8").on("data", (text: string) => (said += text));
  const closed = new Promise((resolve) => child.once("close", resolve));
  await until(
    () => said.includes("ready to kill"),
    30_000,
    () => `the launcher of the containers: ${said}`,
  );
  return {
    async stop() {
      child.kill("SIGTERM");
      await closed;
    },
  };
}
