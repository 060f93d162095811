import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { freePort, tempDir } from "@mcp-failover/testkit";
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
let projects = 0;

/** They do their work and end. */
export const oneShots: ReadonlySet<string> = new Set(["bootstrap", "credentials"]);

/** What the reaper knows this run by. */
export function runName(): string {
  return suite?.run ?? assert.fail(String(skip));
}

export async function docker(args: readonly string[], timeoutMs = 60_000): Promise<string> {
  const ran = await run("docker", args, process.env, timeoutMs);
  assert.equal(ran.code, 0, `docker ${args.join(" ")}\n${ran.stderr}`);
  return ran.stdout;
}

/** Runs docker-compose.yml under a project of its own, on free ports, and waits until everything is healthy. */
export async function composeUp(
  options: { files?: readonly string[]; args?: readonly string[]; healthyMs?: number } = {},
): Promise<ComposeStack> {
  if (suite === null) assert.fail(String(skip));
  projects += 1;
  const project = `${suite.run}n${process.pid}n${projects}`;
  const [router, consolePort, nats] = [await freePort(), await freePort(), await freePort()];
  const { path: credentials, remove } = await tempDir("mcpf-credentials-");
  const env = {
    ...process.env,
    MCPF_CREDENTIALS_FOLDER: credentials,
    MCPF_CREDENTIALS_DIR: join(credentials, "cli"),
    COMPOSE_PROJECT_NAME: project,
    MCPF_ROUTER_PORT: String(router),
    MCPF_CONSOLE_PORT: String(consolePort),
    MCPF_NATS_PORT: String(nats),
    NATS_URL: `tls://127.0.0.1:${nats}`,
  };
  const [program, ...first] = suite.compose;
  const files = (options.files ?? ["docker-compose.yml"]).flatMap((file) => ["-f", file]);
  const compose = (args: readonly string[], timeoutMs = 300_000): Promise<CommandResult> =>
    run(program, [...first, ...files, "--profile", "demo", ...args], env, timeoutMs);
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
    const ran = await compose(["up", "-d", "--no-build", ...args]);
    if (ran.code === 0) return;
    const logs = await compose(["logs", "--tail", "15"]);
    assert.fail(`up ended with ${ran.code}:\n${ran.stderr}\n${logs.stdout}`);
  };

  const startMs = performance.now();
  await up(options.args);
  await allHealthy(options.healthyMs ?? 240_000);
  return {
    project,
    routerUrl: `http://127.0.0.1:${router}`,
    consoleUrl: `http://127.0.0.1:${consolePort}`,
    natsUrl: env.NATS_URL,
    credentials,
    healthyAfterMs: performance.now() - startMs,
    compose,
    up,
    containers,
    allHealthy,
    async crash(container) {
      const before = (await containers()).find(({ id }) => id === container.id);
      // All but the container's init, which then ends with what it watched. It runs as the container's own user.
      await run("docker", ["exec", container.id, "sh", "-c", "kill -9 -1"], env, 30_000);
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
    mcpf: (args, timeoutMs = 60_000) => run(localBin("mcpf"), args, env, timeoutMs),
    async down() {
      const ran = await compose(["down", "--volumes", "--timeout", "10"]);
      assert.equal(ran.code, 0, ran.stderr);
      await remove();
    },
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
