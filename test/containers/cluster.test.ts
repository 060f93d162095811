import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { connectBus, readCredentials } from "@mcp-failover/bus";
import { jetStreamApi } from "@mcp-failover/bus/internal";
import { type StatusView, streams } from "@mcp-failover/contracts";
import { patientMs, tempDir } from "@mcp-failover/testkit";
import { stringify } from "yaml";
import { type Load, startLoad } from "../harness/load.ts";
import { until } from "../harness/wait.ts";
import { type ComposeStack, composeUp, docker, redisOf, skipCluster } from "./compose.ts";

/** A limit for what takes some seconds on a machine that has time: an election, a promotion, a container that comes back. */
const slowMs = 180_000;
/** What decides, what it decides about, and what it stores in: the rest is in whole.test.ts, and is the same here. */
const wanted = [
  ...["keeper", "prober", "breaker-state", "failover-controller", "rollback-controller", "router", "front", "state-store"],
  ...["sentinel", "redis-front", "everything-primary", "everything-secondary"],
];
const config = {
  upstreams: {
    everything: {
      kind: "mcp",
      critical: true,
      endpoints: ["primary", "secondary"].map((name, tier) => ({ name, tier, url: `http://everything-${name}:3000/mcp` })),
      tools: { echo: { read_only: true } },
    },
  },
  // One test has more moves than an hour should have.
  failover: { cooldown_ms: 0, moves_per_hour: 10_000, fleet_moves: 10_000 },
};

describe("docker-compose.yml with infra/compose/cluster.yml over it", { skip: skipCluster, concurrency: false }, () => {
  let stack: ComposeStack;
  let load: Load;
  const ends: (() => Promise<unknown>)[] = [];
  before(async () => {
    const { path, remove } = await tempDir("mcpf-cluster-config-");
    ends.push(remove);
    const file = join(path, "failover.yaml");
    await writeFile(file, stringify(config), { mode: 0o644 });
    stack = await composeUp({
      files: ["docker-compose.yml", "infra/compose/cluster.yml"],
      args: wanted,
      env: { MCPF_CONFIG_FILE: file },
    });
    ends.push(() => stack.down());
  });
  after(async () => {
    for (const end of ends.reverse()) await end();
  });

  const connectAs = (user: string): ReturnType<typeof connectBus> => {
    const bus = connectBus({
      servers: stack.natsUrl,
      name: user,
      instance: "test",
      credentials: readCredentials(join(stack.credentials, user)),
    });
    ends.push(() => bus.close());
    return bus;
  };
  let operator: ReturnType<typeof connectBus>;
  let owner: ReturnType<typeof connectBus>;

  const container = async (service: string): Promise<string> =>
    (await stack.containers()).find((one) => one.service === service)?.id ?? assert.fail(`no container of ${service}`);
  /** Through the engine, so that it stays down until it is started. */
  const kill = async (service: string): Promise<unknown> => docker(["kill", await container(service)]);
  const start = async (service: string): Promise<unknown> => docker(["start", await container(service)]);

  /** As `mcpf status` shows it. */
  const everything = async (): Promise<StatusView["upstreams"][number]> => {
    const reply = await operator.request("state.status", {}, { timeoutMs: patientMs(3000) });
    if (!reply.ok) assert.fail(reply.error.message);
    return (
      (reply.result as StatusView).upstreams.find(({ name }) => name === "everything") ?? assert.fail("everything is not in the status")
    );
  };
  const allWell = (): Promise<unknown> =>
    until(
      async () => (await everything()).endpoints.every(({ health, breaker }) => health === "healthy" && breaker === "closed"),
      slowMs,
      "both endpoints are proven healthy, and their breakers closed",
    );
  /** Moves the upstream once by a command, which is repeated with its id until it is answered. */
  async function command(): Promise<void> {
    const commandId = randomUUID();
    const to = (await until(async () => (await everything()).active, slowMs)) === "primary" ? "secondary" : "primary";
    const order = {
      commandId,
      by: { kind: "operator" as const, id: "test" },
      reason: "test",
      upstream: "everything",
      to,
      force: true,
      dryRun: false,
    };
    const said: string[] = [];
    await until(
      async () => {
        const reply = await operator.request("command.failover", order, { timeoutMs: patientMs(8000) });
        if (!reply.ok) said.push(`${reply.error.code}: ${reply.error.message}`);
        return reply.ok;
      },
      slowMs,
      () => `a command is done; ${said.slice(-3).join("; ")}`,
    );
    await until(async () => (await everything()).active === to, slowMs, `the status shows ${to}`);
  }
  interface StreamInfo {
    readonly cluster?: { readonly leader?: string; readonly replicas?: readonly { current?: boolean; offline?: boolean }[] };
  }
  const info = (stream: string): Promise<StreamInfo> => jetStreamApi<StreamInfo>(owner, `STREAM.INFO.${stream}`);
  const leader = (): Promise<string> => until(async () => (await info("AUDIT")).cluster?.leader, slowMs, "AUDIT has a leader");
  const anotherLeads = (former: string): Promise<unknown> =>
    until(
      async () => ![undefined, former].includes((await info("AUDIT")).cluster?.leader),
      slowMs,
      `another node than ${former} leads AUDIT`,
    );
  /** Every stream has three copies, all of them up to date. */
  async function whole(): Promise<void> {
    for (const { name } of streams)
      await until(
        async () => {
          const replicas = (await info(name)).cluster?.replicas ?? [];
          return replicas.length === 2 && replicas.every(({ current, offline }) => current === true && offline !== true);
        },
        slowMs,
        `all three copies of ${name} are up to date`,
      );
  }
  /** Calls that were sent from now on are answered. How many fail while something dies is printed, and judged on processes (test/integration). */
  async function answered(): Promise<void> {
    const { ok } = load.report();
    await until(
      () => load.report().ok > ok + 10,
      slowMs,
      () => `calls are answered; ${JSON.stringify(load.report().failed.at(-1))}`,
    );
  }
  const told = (t: { diagnostic(text: string): void }, beganMs: number): void => {
    const { sent, ok, failed } = load.report();
    t.diagnostic(`${((performance.now() - beganMs) / 1000).toFixed(0)} s; so far ${ok} of ${sent} calls answered, ${failed.length} failed`);
  };

  test("everything is healthy, and every stream has three copies", async (t) => {
    const all = await stack.containers();
    t.diagnostic(`${all.length} containers, healthy after ${(stack.healthyAfterMs / 1000).toFixed(0)} s`);
    const count = (service: string): number => all.filter((one) => one.service === service).length;
    for (const service of ["keeper", "breaker-state", "failover-controller", "rollback-controller", "router"])
      assert.equal(count(service), 2);
    assert.equal(count("sentinel"), 3);
    operator = connectAs("cli");
    owner = connectAs("bootstrap");
    await whole();
    await allWell();
    load = await startLoad({
      url: `${stack.routerUrl}/mcp/everything`,
      tool: "echo",
      args: (n) => ({ message: `call ${n}` }),
      check: (result, n) => (JSON.stringify(result).includes(`call ${n}`) ? null : `not the answer to call ${n}`),
      callsPerSecond: 4,
      sessions: 2,
      timeoutMs: patientMs(60_000),
    });
    ends.push(() => load.stop());
  });

  test("a stranger becomes no node: a certificate of one of our services does not do among the nodes", async () => {
    const nodes = `fetch('http://nats:8222/routez').then((a) => a.json()).then((r) => console.log(new Set(r.routes.map((one) => one.remote_name)).size))`;
    assert.equal(
      (await docker(["exec", await container("state-store"), "node", "-e", nodes])).trim(),
      "2",
      "the other two nodes are known",
    );
    // A node introduces itself, hears who wants to join, and answers to that one alone.
    const join = `
      const f = (name) => require("fs").readFileSync("/credentials/" + process.argv[1] + "/" + name);
      let end = "never connected";
      process.on("exit", () => console.log(end));
      const options = { host: "nats", port: 6222, ca: f("ca.pem"), cert: f("tls.crt"), key: f("tls.key") };
      const node = require("tls").connect(options, () => { end = "refused"; });
      const hello = JSON.stringify({ verbose: false, tls_required: true, name: "stranger", cluster: "mcp-failover" });
      node.on("data", (said) => {
        if (String(said).startsWith("INFO ")) node.write("CONNECT " + hello + "\\r\\nPING\\r\\n");
        if (String(said).includes("PONG")) { end = "let in"; process.exit(); }
      });
      node.on("error", (error) => { if (end !== "refused") end = error.message; process.exit(); }).on("close", () => process.exit());`;
    const joinAs = async (user: string): Promise<string> => {
      const at = ["--network", `${stack.project}_control`, "--volume", `${stack.credentials}:/credentials:ro`, "--user", "0:0"];
      const label = ["--label", `com.docker.compose.project=${stack.project}`];
      return (await docker(["run", "--rm", ...label, ...at, "--entrypoint", "node", "mcp-failover:local", "-e", join, user])).trim();
    };
    assert.equal(await joinAs("nats"), "let in");
    for (const user of ["state-store", "bootstrap"]) assert.equal(await joinAs(user), "refused", user);
  });

  test("the active endpoint dies, and is moved away from", async (t) => {
    const beganMs = performance.now();
    await allWell();
    const { active } = await everything();
    await kill(`everything-${active}`);
    await until(async () => (await everything()).active !== active, slowMs, `the controllers moved away from ${active}`);
    await answered();
    await start(`everything-${active}`);
    await allWell();
    told(t, beganMs);
  });

  test("the NATS node that leads the log is killed: commands are done, calls are answered; then it comes back", async (t) => {
    const beganMs = performance.now();
    const node = await leader();
    await kill(node);
    await anotherLeads(node);
    await command();
    await answered();
    await start(node);
    await whole();
    told(t, beganMs);
  });

  test("the leader of the log steps down, and a command is done", async (t) => {
    const beganMs = performance.now();
    const node = await leader();
    const commanding = command();
    await until(
      async () => {
        // An election may be on already.
        await jetStreamApi(owner, "STREAM.LEADER.STEPDOWN.AUDIT").catch(() => undefined);
        return (await leader()) !== node;
      },
      slowMs,
      `another node than ${node} leads AUDIT`,
    );
    await commanding;
    await answered();
    told(t, beganMs);
  });

  test("the NATS node that leads the log is cut off from its network: commands are done, calls are answered; then it is back", async (t) => {
    const beganMs = performance.now();
    const node = await leader();
    const [id, network] = [await container(node), `${stack.project}_control`];
    await docker(["network", "disconnect", network, id]);
    await anotherLeads(node);
    await command();
    await answered();
    await docker(["network", "connect", "--alias", node, network, id]);
    await whole();
    told(t, beganMs);
  });

  test("the Redis that takes writes is killed: another one is promoted, and the status goes on; who was away becomes its replica", async (t) => {
    const beganMs = performance.now();
    const ask = (host: string, as: string, ...words: string[]): Promise<string> => redisOf(stack, host)({ as }, ...words);
    const role = async (host: string): Promise<string> => (await ask(host, "redis-health", "ROLE")).split("\n")[0] ?? "";
    const roles = await Promise.all(["redis", "redis-replica"].map(role));
    const [before, other] = roles[0] === "master" ? (["redis", "redis-replica"] as const) : (["redis-replica", "redis"] as const);
    assert.deepEqual(roles.toSorted(), ["master", "slave"]);
    await kill(before);
    assert.equal((await stack.mcpf(["status"], slowMs)).code, 0, "the status is answered while Redis is away");
    await until(async () => (await role(other)) === "master", slowMs, `${other} is the master`);
    await command();
    const { active } = await until(everything, slowMs, "the status is answered");
    await until(
      async () => (await ask(other, "redis-reader", "GET", "mcp:current:everything")) === active,
      slowMs,
      "the state-store writes there",
    );
    assert.equal((await stack.mcpf(["status"], slowMs)).code, 0);
    await start(before);
    await until(async () => (await role(before)) === "slave", slowMs, `${before} is a replica now`);
    await until(
      async () => (await ask(before, "redis-reader", "GET", "mcp:current:everything")) === active,
      slowMs,
      "it has what was written",
    );
    await answered();
    told(t, beganMs);
  });

  test("the log is whole at the end", async (t) => {
    await stack.allHealthy(slowMs);
    const { ok, sent, failed, longestGapMs } = await load.stop();
    const verified = await stack.mcpf(["-o", "json", "events", "verify"], slowMs);
    assert.equal(verified.code, 0, `${verified.stdout}${verified.stderr}`);
    t.diagnostic(`${ok} of ${sent} calls answered, ${failed.length} failed, longest gap between answers ${Math.round(longestGapMs)} ms`);
  });
});
