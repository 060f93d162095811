import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseTopology } from "@mcp-failover/contracts";
import { parse } from "yaml";
import { ROOT } from "../../scripts/lib/repo.mjs";

interface ComposeService {
  readonly healthcheck?: { readonly test?: readonly string[] };
  readonly depends_on?: Readonly<Record<string, { readonly condition: string }>>;
  readonly environment?: Readonly<Record<string, string>>;
  readonly volumes?: readonly string[];
  readonly profiles?: readonly string[];
}
const tools = [
  ["docker-compose 1.29", "docker-compose", []],
  ["Compose v2", "docker", ["compose"]],
] as const;

for (const [name, program, args] of tools) {
  const version = spawnSync(program, [...args, "version"], { encoding: "utf8" });
  const missing = version.status === 0 ? false : `${[program, ...args].join(" ")} is not on this machine`;

  test(`${name} accepts docker-compose.yml, with and without the demo, and with the cluster over it`, { skip: missing }, () => {
    const cluster = ["-f", "docker-compose.yml", "-f", "infra/compose/cluster.yml"];
    for (const profile of [[], ["--profile", "demo"], [...cluster, "--profile", "demo"]]) {
      const checked = spawnSync(program, [...args, ...profile, "config", "-q"], { cwd: ROOT, encoding: "utf8" });
      assert.equal(checked.status, 0, checked.stderr);
    }
    const broken = spawnSync(program, [...args, "-f", "-", "config", "-q"], {
      cwd: ROOT,
      encoding: "utf8",
      input: "services: { a: { image: x, depends_on: { nobody: { condition: service_healthy } } } }",
    });
    assert.notEqual(broken.status, 0, "a check that accepts everything would prove nothing");
  });

  test(`as ${name} reads it, every service waits for what it needs and is asked for its health`, { skip: missing }, () => {
    const read = spawnSync(program, [...args, "--profile", "demo", "config"], { cwd: ROOT, encoding: "utf8" });
    assert.equal(read.status, 0, read.stderr);
    const { services } = parse(read.stdout) as { services: Record<string, ComposeService> };
    for (const service of readdirSync(join(ROOT, "services"))) {
      const instances = Object.keys(services).filter((candidate) => candidate.replace(/-\d+$/, "") === service);
      assert.ok(instances.length > 0, `${service} is in docker-compose.yml`);
      if (service === "bootstrap") continue;
      for (const instance of instances) {
        assert.equal(services[instance]?.depends_on?.["nats"]?.condition, "service_healthy", instance);
        assert.equal(services[instance]?.depends_on?.["bootstrap"]?.condition, "service_completed_successfully", instance);
      }
    }
    for (const [name, { healthcheck }] of Object.entries(services)) {
      if (!["bootstrap", "credentials"].includes(name)) assert.ok((healthcheck?.test?.length ?? 0) > 1, `${name} has a health check`);
    }
    assert.equal(services["state-store"]?.depends_on?.["redis"]?.condition, "service_healthy");
    assert.ok(
      services["nats"]?.volumes?.some((volume) => JSON.stringify(volume).includes("/data")),
      "JetStream is on a volume",
    );
    const holders = Object.keys(services).filter((name) => services[name]?.environment?.["MCPF_SECRETS_DIR"] !== undefined);
    assert.deepEqual(holders.sort(), ["bootstrap", "notifier", "prober", "router"]);
  });
}

test("docker-compose.yml uses nothing that one of its two readers does not know", () => {
  const text = readFileSync(join(ROOT, "docker-compose.yml"), "utf8");
  assert.doesNotMatch(text, /!override|!reset/);
  const top = Object.keys(parse(text, { merge: true, maxAliasCount: -1 }) as object).filter((key) => !key.startsWith("x-"));
  assert.deepEqual(top.sort(), ["networks", "services", "volumes"], "no name, no include, no version");
});

test("the demo's configuration is the local one, with the containers' addresses", () => {
  const load = (file: string) => parseTopology(readFileSync(join(ROOT, file), "utf8"), { file, env: {} }).topology;
  const compose = load("examples/compose/failover.yaml");
  const local = load("examples/local/failover.yaml");
  const withoutUrls = (value: unknown): unknown => JSON.parse(JSON.stringify(value, (key, inner) => (key === "url" ? "" : inner)));
  assert.deepEqual(withoutUrls(compose.upstreams), withoutUrls(local.upstreams));
  const { services } = parse(readFileSync(join(ROOT, "docker-compose.yml"), "utf8"), { merge: true, maxAliasCount: -1 }) as {
    services: object;
  };
  for (const host of JSON.stringify(compose.upstreams).matchAll(/http:\/\/([a-z-]+):3000/g))
    assert.ok(host[1] && host[1] in services, host[1]);
});

test("the agents' front cuts off no call that the configuration allows: the router bounds each one itself", () => {
  const front = readFileSync(join(ROOT, "infra/haproxy/haproxy.cfg"), "utf8");
  const unitMs: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };
  /** More than the router needs to write its answer to a call that it gave up. */
  const marginMs = 60_000;
  const problemsOf = (settings: object): string[] => {
    const upstreams = { u: { kind: "http", endpoints: [{ name: "a", tier: 0, url: "http://a" }] } };
    try {
      parseTopology(JSON.stringify({ upstreams, ...settings }), { file: "f", env: {} });
      return [];
    } catch (error) {
      return (error as { problems: readonly { path: string }[] }).problems.map(({ path }) => path);
    }
  };
  const withCallsOf = (ms: number): object => ({
    upstreams: { u: { kind: "http", endpoints: [{ name: "a", tier: 0, url: "http://a" }], call_timeout_ms: ms } },
  });
  const withFallbackOf = (ms: number): object => ({ fallback: { fallback_timeout: ms / 1000 } });
  assert.deepEqual([...problemsOf(withCallsOf(1000)), ...problemsOf(withFallbackOf(1000))], []);
  for (const side of ["client", "server"]) {
    const [, count, unit] = new RegExp(`^ +timeout ${side} (\\d+)(ms|s|m|h)$`, "m").exec(front) ?? [];
    const longestMs = Number(count) * (unitMs[unit ?? ""] ?? Number.NaN) - marginMs;
    assert.ok(longestMs > 0, `timeout ${side} is in the front's configuration`);
    assert.deepEqual(problemsOf(withCallsOf(longestMs)), ["upstreams.u.call_timeout_ms"], `a call of ${longestMs} ms, timeout ${side}`);
    assert.deepEqual(
      problemsOf(withFallbackOf(longestMs)),
      ["fallback.fallback_timeout"],
      `a fallback of ${longestMs} ms, timeout ${side}`,
    );
  }
});

interface Limited extends ComposeService {
  readonly [limit: string]: unknown;
  readonly ports?: readonly string[];
  readonly networks?: readonly string[];
}
test("Redis takes neither plain text nor anybody without a user, alone and with its replica", () => {
  const read = (file: string) => readFileSync(join(ROOT, file), "utf8");
  const { services } = parse(read("docker-compose.yml"), { merge: true, maxAliasCount: -1 }) as {
    services: Record<string, { command?: readonly string[]; environment?: Readonly<Record<string, string>> }>;
  };
  const said = (services["redis"]?.command ?? []).join(" ");
  for (const setting of ["--port 0", "--tls-port 6379", "--tls-auth-clients yes", "--aclfile /etc/mcpf/credentials/users.acl"])
    assert.ok(said.includes(setting), setting);
  assert.match(services["state-store"]?.environment?.["REDIS_URL"] ?? "", /^rediss:/);
  const cluster = read("infra/redis/cluster.sh");
  for (const setting of ['"port 0"', '"tls-auth-clients yes"', '"tls-replication yes"', "cluster.acl", "sentinel.acl"])
    assert.ok(cluster.includes(setting), setting);
  assert.doesNotMatch(`${read("infra/compose/cluster.yml")}${read("docker-compose.yml")}`, /protected-mode|redis:\/\//);
});

test("the console reads its token from its own credentials, alone and in the cluster, and no file or environment gives another one", () => {
  const texts = ["docker-compose.yml", "infra/compose/cluster.yml"].map((file) => readFileSync(join(ROOT, file), "utf8"));
  const { console: web } = (
    parse(texts[0] ?? "", { merge: true, maxAliasCount: -1 }) as { services: { console: Required<ComposeService> } }
  ).services;
  const folder = web.environment["MCPF_CREDENTIALS_DIR"];
  assert.ok(folder !== undefined && web.volumes.some((volume) => volume.endsWith(`/console:${folder}:ro`)), web.volumes.join());
  for (const text of texts) assert.doesNotMatch(text, /MCPF_CONSOLE_TOKEN/);
  const inCluster = (parse(texts[1] ?? "", { merge: true, maxAliasCount: -1 }) as { services: { console: ComposeService } }).services
    .console;
  assert.equal(inCluster.volumes, undefined, "the cluster keeps them");
});

test("every container of docker-compose.yml is limited and may do as little as it needs", () => {
  const { services } = parse(readFileSync(join(ROOT, "docker-compose.yml"), "utf8"), { merge: true, maxAliasCount: -1 }) as {
    services: Record<string, Limited>;
  };
  for (const [name, service] of Object.entries(services)) {
    assert.equal(service["read_only"], true, `${name}: its root is read-only`);
    assert.equal(service["init"], true, `${name}: signals reach it, and nobody is left a zombie`);
    assert.deepEqual(service["cap_drop"], ["ALL"], name);
    // The one that gives files to those who run as another user.
    assert.deepEqual(service["cap_add"], name === "credentials" ? ["CHOWN", "DAC_OVERRIDE", "FOWNER"] : undefined, name);
    const keys = (service.volumes ?? []).filter((volume) => volume.includes("MCPF_CREDENTIALS_FOLDER"));
    if (name === "credentials") assert.deepEqual([service["network_mode"], service.networks], ["none", undefined], "it reaches nobody");
    else {
      // redis-server is asked for its health by somebody of its own, who may do nothing else.
      const own = name === "redis" ? ["redis", "redis-health"] : [name];
      assert.ok(
        keys.every((volume) => own.some((folder) => volume.includes(`}/${folder}:/`)) && volume.endsWith(":ro")),
        `${name} has its own key only: ${keys.join()}`,
      );
    }
    if (name === "credentials") continue;
    assert.deepEqual(service["security_opt"], ["no-new-privileges:true"], name);
    for (const limit of ["mem_limit", "cpus", "pids_limit", "restart"]) assert.ok(service[limit] !== undefined, `${name} has ${limit}`);
    assert.equal(service["container_name"], undefined, `${name} can be scaled`);
    for (const port of service.ports ?? []) assert.match(port, /^127\.0\.0\.1:/, `${name} is published on loopback only`);
    const both = ["router", "prober", "chaos-runner"].includes(name);
    const data = both || name === "front" || service.profiles !== undefined;
    assert.deepEqual(
      service.networks,
      both ? ["control", "data"] : [data ? "data" : "control"],
      `${name} is in the networks that it needs`,
    );
  }
  const published = Object.keys(services).filter((name) => services[name]?.ports !== undefined);
  assert.deepEqual(published.sort(), ["console", "front", "nats"], "what may be more than one publishes nothing");
});
