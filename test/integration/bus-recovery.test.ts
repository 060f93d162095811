import assert from "node:assert/strict";
import { mkdir, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { basename, join } from "node:path";
import { after, before, describe, test } from "node:test";
import { type Bus, connectBus, credentialFiles, keepConsumersOn, makeUserKey } from "@mcp-failover/bus";
import { jetStreamApi, publishRaw } from "@mcp-failover/bus/internal";
import { applyConfiguration } from "@mcp-failover/client";
import { type BusUser, busUsers, hashOf, natsAccounts, objectStream, residentServices, streams, topology } from "@mcp-failover/contracts";
import { eventually, freePort, patientMs, type RunningServer, startNats, startRedis, tempDir } from "@mcp-failover/testkit";
import { run } from "../harness/stack.ts";
import { type ProcessHandle, startProcess } from "./prober-world.ts";

const root = join(import.meta.dirname, "..", "..");
type ServiceName = (typeof residentServices)[number];

interface Readiness {
  readonly code: number;
  readonly status: "ready" | "degraded" | "not_ready";
  readonly conditions: Readonly<Record<string, { readonly ok: boolean; readonly reason: string }>>;
}
interface Service {
  readonly name: ServiceName;
  readonly process: Omit<ProcessHandle, "readyz">;
  readyz(): Promise<Readiness>;
  metrics(): Promise<string>;
}

/** Traffic, probes and what people look at. */
const goOnWithoutNats: ReadonlySet<ServiceName> = new Set(["router", "prober", "state-store", "console"]);
/** A limit far below what the streams reserve by themselves, so that a stream without limits fills it. */
const storeBytesMax = 48 * 1024 * 1024;
const ballastBytes = 900_000;
const small = streams.map((definition) => ({ ...definition, maxBytes: 2 * 1024 * 1024 }));

/** Every service as a process of its own with its own credentials, on a nats-server whose accounts are made from the table. */
describe("on the bus everything goes wrong in turn, and every service tells why and is well again by itself", {
  concurrency: false,
  timeout: patientMs(900_000),
}, () => {
  const limit = { timeout: patientMs(300_000) };
  const pairs = Object.fromEntries(busUsers.map((user) => [user, makeUserKey()])) as Record<BusUser, ReturnType<typeof makeUserKey>>;
  const services: Service[] = [];
  const buses: Bus[] = [];
  let nats: RunningServer;
  let redis: RunningServer;
  let upstream: Server;
  let dir: Awaited<ReturnType<typeof tempDir>>;
  let admin: Bus;
  let keeper: { stop(): void };

  /** The server's users; those that are named have other keys than they hold. */
  async function writeAccounts(revoked: readonly BusUser[] = []): Promise<void> {
    const keys = Object.fromEntries(
      busUsers.map((user) => [user, [(revoked.includes(user) ? makeUserKey() : pairs[user]).publicKey]]),
    ) as unknown as Parameters<typeof natsAccounts>[0];
    await writeFile(join(dir.path, "accounts.conf"), `authorization { timeout: 60 }\n${natsAccounts(keys)}`);
  }
  async function connectAs(user: BusUser): Promise<Bus> {
    const seed = () => new TextEncoder().encode(pairs[user].seed);
    const bus = connectBus({ servers: nats.url, name: `test/${user}`, instance: user, credentials: { user, seed, tls: null } });
    buses.push(bus);
    await eventually(() => bus.status.kind === "connected", { withinMs: 30_000, what: `${user} is connected` });
    return bus;
  }
  async function credentialsOf(user: BusUser): Promise<string> {
    const folder = join(dir.path, "credentials", user);
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, credentialFiles.user), user);
    await writeFile(join(folder, credentialFiles.seed), pairs[user].seed);
    return folder;
  }
  /** What `mcpf doctor` finds wrong: the detail of each check. */
  async function wrongByDoctor(): Promise<Map<string, string>> {
    const env = { NATS_URL: nats.url, MCPF_CREDENTIALS_DIR: await credentialsOf("cli"), MCPF_DATA_DIR: join(dir.path, "cli") };
    const { stdout, stderr } = await run(process.execPath, [join(root, "packages/cli/src/main.ts"), "doctor", "-o", "json"], env, 60_000);
    const { findings } = JSON.parse(stdout || stderr) as { findings: { check: string; ok: boolean; detail: string }[] };
    return new Map(findings.flatMap(({ check, ok, detail }) => (ok ? [] : [[check, detail]])));
  }
  async function startService(name: ServiceName, env: Record<string, string>): Promise<Service> {
    const credentials = await credentialsOf(name);
    const port = await freePort();
    const handle = startProcess(process.execPath, [join(root, "services", name, "src", "main.ts")], {
      NATS_URL: nats.url,
      MCPF_CREDENTIALS_DIR: credentials,
      MCPF_INSTANCE: `${name}-1`,
      MCPF_DATA_DIR: join(dir.path, name),
      MCPF_HEALTH_PORT: String(port),
      ...env,
    });
    const get = (path: string) => fetch(`http://127.0.0.1:${port}${path}`, { headers: { connection: "close" } });
    return {
      name,
      process: handle,
      async readyz() {
        const response = await get("/readyz");
        return { code: response.status, ...((await response.json()) as Omit<Readiness, "code">) };
      },
      metrics: async () => (await get("/metrics")).text(),
    };
  }

  before(async () => {
    dir = await tempDir();
    await writeAccounts();
    // nats-server looks for what it includes beside its own configuration, which is in the same folder as ours.
    nats = await startNats({ config: `include "../${basename(dir.path)}/accounts.conf"`, maxFileStore: `${storeBytesMax / 1024 / 1024}M` });
    redis = await startRedis();
    upstream = createServer((_request, response) => response.end("well"));
    await new Promise<void>((resolve) => upstream.listen(0, "127.0.0.1", resolve));
    admin = await connectAs("bootstrap");
    for (const name of ["router-sessions", "router-lists"]) {
      await admin.bucket(name, { maxBytes: 1024 * 1024 }).then((bucket) => bucket.get("made"));
    }
    // Made before, and so with less than is reserved for them otherwise.
    const objects = ["$O.configurations.C.>", "$O.configurations.M.>"];
    await jetStreamApi(admin, `STREAM.CREATE.${objectStream}`, {
      name: objectStream,
      subjects: objects,
      max_bytes: 1024 * 1024,
      allow_rollup_hdrs: true,
    });
    await admin.ensureStreams(small, { replicas: 1 });
    keeper = keepConsumersOn(await connectAs("keeper"));
    const parsed = topology.parse({
      upstreams: {
        api: {
          kind: "http",
          probe: { interval_ms: 500 },
          endpoints: [{ name: "one", url: `http://127.0.0.1:${(upstream.address() as AddressInfo).port}/`, tier: 0 }],
        },
      },
    });
    await applyConfiguration(admin, {
      topology: parsed,
      hash: hashOf(parsed),
      fileHash: null,
      environment: "development",
      by: { kind: "operator", id: "test" },
      reason: "test",
      service: "bootstrap",
      instance: "test",
      nowMs: Date.now(),
      onlyIfFileChanged: false,
    });
    const own: Partial<Record<ServiceName, Record<string, string>>> = {
      router: { MCPF_ROUTER_PORT: "0" },
      console: { MCPF_CONSOLE_PORT: "0" },
      "state-store": { REDIS_URL: redis.url },
    };
    for (const name of residentServices) services.push(await startService(name, own[name] ?? {}));
    await all("is ready", ({ status }) => status === "ready");
  }, limit);
  after(async () => {
    await Promise.all(services.map(({ process }) => process.stop()));
    await Promise.all(buses.map((bus) => bus.close()));
    upstream?.close();
    await redis?.stop();
    await nats?.stop();
    await dir?.remove();
  }, limit);

  /** Waits until every service is as wanted; says of each that is not what it is like. */
  async function all(what: string, wanted: (readiness: Readiness) => boolean): Promise<void> {
    const unlike = new Map<string, unknown>();
    await eventually(
      async () => {
        await Promise.all(
          services.map(async ({ name, readyz }) => {
            const now = await readyz().catch((error: unknown) => ({ error: String(error) }));
            if ("code" in now && wanted(now)) unlike.delete(name);
            else unlike.set(name, now);
          }),
        );
        return unlike.size === 0;
      },
      { withinMs: 60_000, everyMs: 250, what: () => `${what}: ${JSON.stringify(Object.fromEntries(unlike))}` },
    );
  }

  interface Cause {
    readonly cause: string;
    /** The condition of `/readyz` that tells of it, and what an operator reads there. */
    readonly condition: string;
    readonly reason: RegExp;
    /** Who then says 503; the others work on with what they have. Not looked at where it is left out. */
    readonly unready?: readonly ServiceName[];
    /** What `mcpf doctor` then says, which sees nothing of the services but the bus. */
    readonly doctor?: Readonly<Record<string, RegExp>>;
    begin(): Promise<void>;
    end(): Promise<void>;
  }
  const causes: readonly Cause[] = [
    {
      cause: "nats-server is killed and comes back",
      condition: "bus",
      reason: /NATS is out of reach/,
      begin: () => nats.kill(),
      end: () => nats.restart(),
    },
    {
      cause: "JetStream has no room left to store anything, and then has",
      condition: "store",
      reason: /no room to store in .*free disk, trim a stream, or raise jetstream\.max_file_store/,
      async begin() {
        await jetStreamApi(admin, "STREAM.CREATE.BALLAST", {
          name: "BALLAST",
          subjects: ["ballast"],
          storage: "file",
          retention: "limits",
        });
        for (let bytes = 0; bytes < storeBytesMax; bytes += ballastBytes) await publishRaw(admin, "ballast", "x".repeat(ballastBytes));
      },
      async end() {
        await jetStreamApi(admin, "STREAM.DELETE.BALLAST");
      },
    },
    {
      cause: "the keeper is gone while nats-server starts again, so that nobody can read, and comes back",
      condition: "reading",
      reason: /AUDIT cannot be read \(.*\): see that JetStream answers.* a keeper runs/,
      unready: residentServices.filter((name) => !goOnWithoutNats.has(name)),
      doctor: {
        keeper: /AUDIT/,
        ...Object.fromEntries(residentServices.map((name) => [`readiness of ${name}-1`, /AUDIT cannot be read/])),
      },
      async begin() {
        keeper.stop();
        await nats.kill();
        await nats.restart();
      },
      async end() {
        keeper = keepConsumersOn(await connectAs("keeper"));
      },
    },
    {
      cause: "the keys of all services are revoked, and put back",
      condition: "bus",
      reason: /NATS refuses the credentials of the user [a-z-]+ .*put its public key into the server's configuration/,
      async begin() {
        await writeAccounts(residentServices);
        process.kill(nats.pid, "SIGHUP");
      },
      async end() {
        await writeAccounts();
        process.kill(nats.pid, "SIGHUP");
      },
    },
  ];

  for (const { cause, condition, reason, unready, doctor, begin, end } of causes) {
    test(`${cause}: each says so on /readyz with what to do, no process ends, and each is ready again`, limit, async () => {
      await begin();
      await all(`says ${String(reason)}`, ({ status, conditions }) => {
        const said = conditions[condition];
        return status !== "ready" && said?.ok === false && reason.test(said.reason);
      });
      if (unready !== undefined) {
        const codes = await Promise.all(services.map(async ({ name, readyz }) => [name, (await readyz()).code] as const));
        assert.deepEqual(
          Object.fromEntries(codes),
          Object.fromEntries(services.map(({ name }) => [name, unready.includes(name) ? 503 : 200])),
        );
      }
      if (doctor !== undefined) {
        const wrong = await wrongByDoctor();
        for (const [check, detail] of Object.entries(doctor)) assert.match(wrong.get(check) ?? "", detail, check);
      }
      await end();
      await all("is ready again", ({ status, code }) => status === "ready" && code === 200);
      // A process that had ended answers nobody, and none of these has a supervisor that starts it anew.
      for (const { process: handle, name } of services) assert.ok(process.kill(handle.pid, 0), name);
      for (const { metrics, name } of services)
        assert.match(await metrics(), /^mcpf_bus_stores 1$/m, `${name} stores again by its metrics`);
    });
  }
});
