import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { isAbsolute, join } from "node:path";
import { freePort, patientMs } from "@mcp-failover/testkit";
import { GenericContainer, PullPolicy, Wait, type WaitStrategy } from "testcontainers";
import { parse } from "yaml";
import { runLabels, thisOwner } from "../../scripts/lib/left-behind.mjs";
import { ROOT } from "../../scripts/lib/repo.mjs";
import { run as command } from "../harness/stack.ts";
import { docker, runName } from "./compose.ts";

// Its own reaper is a container of a registry that need not be in reach: ours is scripts/lib/left-behind.mjs.
process.env["TESTCONTAINERS_RYUK_DISABLED"] = "true";
// Ports are published on this address alone, whatever `localhost` means here.
process.env["TESTCONTAINERS_HOST_OVERRIDE"] = "127.0.0.1";

/** What runs, as docker-compose.yml names it. */
interface Runnable {
  readonly image: string;
  readonly user: string | undefined;
  readonly entrypoint: readonly string[] | undefined;
  readonly command: readonly string[] | undefined;
}
interface ContainerSpec extends Partial<Runnable> {
  readonly name: string;
  readonly image: string;
  readonly env?: Readonly<Record<string, string>>;
  /** By their paths in the container; readable by all. */
  readonly files?: Readonly<Record<string, string>>;
  /** Where a volume is seen, by its name. */
  readonly volumes?: Readonly<Record<string, string>>;
  /** Ports inside, by those on this machine's loopback: chosen once, so that they are the same after a restart. */
  readonly ports?: Readonly<Record<number, number>>;
  readonly ready: WaitStrategy;
}

/** A container that runs, and ways to hurt it. */
export interface Contained {
  readonly id: string;
  /** By which its neighbours find it. */
  readonly host: string;
  /** SIGKILL to all that runs in it; what it wrote stays. */
  kill(): Promise<void>;
  /** After `kill`. Returns when it runs, which is before it is ready. */
  start(): Promise<void>;
  /** In good order; returns when it is ready again. */
  restart(): Promise<void>;
  /** Nothing in it runs any more, and nobody is told. */
  pause(): Promise<void>;
  unpause(): Promise<void>;
  /** With what it wrote outside of volumes. */
  remove(): Promise<void>;
  /** Runs a program in it and gives what it prints; fails where that does. */
  run(command: readonly string[]): Promise<string>;
}

/** A network of a test file's own with containers in it. All of it carries the name of the run, for the reaper. */
export interface ContainerWorld {
  hostOf(name: string): string;
  start(spec: ContainerSpec): Promise<Contained>;
  /** A new, empty one. */
  volume(name: string): Promise<string>;
  removeVolume(volume: string): Promise<void>;
  /** Removes all of it. */
  stop(): Promise<void>;
}

/** As hard as docker-compose.yml, and published on loopback only; testcontainers has no words for either. */
class OwnContainer extends GenericContainer {
  protected override async beforeContainerCreated(): Promise<void> {
    const { PortBindings: bindings } = this.hostConfig as { PortBindings?: Record<string, { HostIp?: string }[]> };
    for (const binding of Object.values(bindings ?? {}).flat()) binding.HostIp = "127.0.0.1";
    Object.assign(this.hostConfig, { Init: true, CapDrop: ["ALL"], SecurityOpt: ["no-new-privileges:true"], PidsLimit: 128 });
  }
}

/** The engine's own work may wait for a disk that others use too. */
const commandMsMax = patientMs(120_000);
const startMsMax = patientMs(180_000);

/** @param run is said by tests of the reaper alone, whose runs are not this one */
export async function containerWorld(run = runName()): Promise<ContainerWorld> {
  const engine = (...args: string[]): Promise<string> => docker(args, commandMsMax);
  const labels = runLabels(run, thisOwner());
  const given = Object.entries(labels).flatMap(([key, value]) => ["--label", `${key}=${value}`]);
  const network = `${run}-${randomBytes(4).toString("hex")}`;
  const hostOf = (name: string): string => `${network}-${name}`;
  const containers = new Set<string>();
  const volumes = new Set<string>();
  await engine("network", "create", ...given, network);

  return {
    hostOf,
    async start(spec) {
      const host = hostOf(spec.name);
      const container = new OwnContainer(spec.image)
        .withPullPolicy(PullPolicy.neverPull())
        .withAutoCleanup(false)
        .withName(host)
        .withLabels(labels)
        .withNetworkMode(network)
        .withTmpFs({ "/tmp": "mode=1777,size=64m" })
        .withEnvironment({ ...spec.env })
        .withBindMounts(Object.entries(spec.volumes ?? {}).map(([source, target]) => ({ source, target, mode: "rw" })))
        .withCopyContentToContainer(Object.entries(spec.files ?? {}).map(([target, content]) => ({ content, target, mode: 0o444 })))
        .withExposedPorts(...Object.entries(spec.ports ?? {}).map(([inside, port]) => ({ container: Number(inside), host: port })))
        .withWaitStrategy(spec.ready)
        .withStartupTimeout(startMsMax);
      if (spec.command !== undefined) container.withCommand([...spec.command]);
      if (spec.entrypoint !== undefined) container.withEntrypoint([...spec.entrypoint]);
      if (spec.user !== undefined) container.withUser(spec.user);
      containers.add(host);
      const started = await container.start().catch(async (error: unknown) => {
        const { stdout, stderr } = await command("docker", ["logs", "--tail", "30", host], process.env, commandMsMax);
        const problem = error instanceof Error ? error.message : String(error);
        throw new Error(`${spec.name} did not start: ${problem}; it said: ${stdout}${stderr}`, { cause: error });
      });
      return {
        id: started.getId(),
        host,
        async kill() {
          await engine("kill", host);
        },
        async start() {
          await engine("start", host);
        },
        restart: () => started.restart({ timeout: 30 }),
        async pause() {
          await engine("pause", host);
        },
        async unpause() {
          await engine("unpause", host);
        },
        async remove() {
          await engine("rm", "--force", "--volumes", host);
          containers.delete(host);
        },
        run: (program) => engine("exec", host, ...program),
      };
    },
    async volume(name) {
      const volume = `${network}-${name}`;
      await engine("volume", "create", ...given, volume);
      volumes.add(volume);
      return volume;
    },
    async removeVolume(volume) {
      await engine("volume", "rm", volume);
      volumes.delete(volume);
    },
    async stop() {
      if (containers.size > 0) await engine("rm", "--force", "--volumes", ...containers);
      await engine("network", "rm", network);
      if (volumes.size > 0) await engine("volume", "rm", ...volumes);
    },
  };
}

/** Until this answers; a container that has ended is not asked for the rest of its time, which is minutes. */
export function readyAt(path: string, port: number): WaitStrategy {
  return Wait.forHttp(path, port, { abortOnContainerExit: true });
}

/** What docker-compose.yml runs as this service. */
export function composeService(name: string): Runnable {
  const { services } = parse(readFileSync(join(ROOT, "docker-compose.yml"), "utf8"), { merge: true, maxAliasCount: -1 }) as {
    services: Record<string, Runnable>;
  };
  const { image, user, entrypoint, command } = services[name] ?? assert.fail(`docker-compose.yml has no ${name}`);
  return { image, user, entrypoint, command };
}

/** nats-server as docker-compose.yml has it, but for accounts and TLS: whoever comes may do everything. */
export async function startNatsIn(world: ContainerWorld): Promise<Contained & { readonly url: string; readonly innerUrl: string }> {
  const file = process.env["MCPF_NATS_CONF"] ?? "infra/nats/nats.conf";
  const shipped = readFileSync(isAbsolute(file) ? file : join(ROOT, file), "utf8").split("\n");
  const conf = shipped.filter((line) => !/^(tls|authorization|include)\b/.test(line));
  assert.ok(shipped.length - conf.length >= 3 && conf.some((line) => line.startsWith("jetstream")), `${file} is written otherwise by now`);
  const [port, health] = [await freePort(), await freePort()];
  const nats = await world.start({
    name: "nats",
    image: composeService("nats").image,
    files: { "/etc/nats/nats.conf": conf.join("\n") },
    volumes: { [await world.volume("nats")]: "/data" },
    ports: { 4222: port, 8222: health },
    ready: readyAt("/healthz?js-server-only=true", 8222),
  });
  return { ...nats, url: `nats://127.0.0.1:${port}`, innerUrl: `nats://${nats.host}:4222` };
}
