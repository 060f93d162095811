import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { availableParallelism, loadavg } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { connectBus, makeUserKey, readCredentials } from "@mcp-failover/bus";
import type { StatusView } from "@mcp-failover/contracts";
import { tempDir } from "@mcp-failover/testkit";
import { parse, stringify } from "yaml";
import { ROOT } from "../../scripts/lib/repo.mjs";
import { failuresOf, type LoadReport, startLoad } from "../harness/load.ts";
import { until } from "../harness/wait.ts";
import { type ComposeStack, composeLauncher, composeUp, docker, oneShots, redisOf, skip } from "./compose.ts";

const callsPerSecond = 50;
/** How many of the containers may be killed once more because calls failed. */
const repeatsMax = 3;
/** More processes than that wait for a core only where others are at work: these containers alone come to less than a quarter of it. */
const busyLoad = 8 * availableParallelism();

/** A limit for what takes a second or a few on a machine that has time. */
const slowMs = 180_000;

/**
 * How long an endpoint that flaps is held down here; by default five minutes. A container that is killed in its turn counts as one change when
 * it goes and one when it is back; with what the tests before it cost (the README's failover, machines that start late) that comes to a fourth
 * within ten minutes for one endpoint or the other. It is held then, rightly, and until that ends no turn may say that all are proven well. That is
 * not waited for five minutes long, and not left out either. That a hold lasts as long as it is configured to is H5 and H6 of packages/domain.
 */
const holdDownMs = 10_000;

const textOf = (result: unknown): string => String((result as { content: { text: string }[] }).content[0]?.text);

describe("docker-compose.yml, as a whole", { skip, concurrency: false }, () => {
  let stack: ComposeStack;
  let bus: ReturnType<typeof connectBus>;
  let folder: Awaited<ReturnType<typeof tempDir>>;
  before(async () => {
    folder = await tempDir("mcpf-whole-");
    stack = await composeUp({ env: { MCPF_CONFIG_FILE: configWithHold(folder.path) } });
    bus = connectAs("bootstrap");
  });
  after(async () => {
    await bus?.close();
    await stack?.down();
    await folder?.remove();
  });
  /** The file that docker-compose.yml takes by itself, but for the hold. */
  const configWithHold = (path: string): string => {
    const config = parse(readFileSync(join(ROOT, "examples/compose/failover.yaml"), "utf8")) as { upstreams: Record<string, object> };
    for (const upstream of Object.values(config.upstreams)) Object.assign(upstream, { probe: { hold_down_ms: holdDownMs } });
    const file = join(path, "failover.yaml");
    writeFileSync(file, stringify(config), { mode: 0o644 });
    return file;
  };
  const connectAs = (user: string): ReturnType<typeof connectBus> =>
    connectBus({ servers: stack.natsUrl, name: "test", instance: "test", credentials: readCredentials(join(stack.credentials, user)) });
  const status = async (): Promise<StatusView> => {
    const reply = await bus.request("state.status", {}, { timeoutMs: 3000 });
    if (!reply.ok) assert.fail(reply.error.message);
    return reply.result as StatusView;
  };
  const allWell = (): Promise<unknown> =>
    until(
      async () => {
        const { upstreams } = await status();
        await sleep(300);
        return (
          upstreams.length === 2 &&
          upstreams.every(({ endpoints }) => endpoints.every(({ health, breaker }) => health === "healthy" && breaker === "closed"))
        );
      },
      120_000,
      "every endpoint is proven healthy, and its breaker closed",
    );

  test("everything is healthy after up, and what it takes is printed", async () => {
    const all = await stack.containers();
    process.stdout.write(
      `healthy after ${(stack.healthyAfterMs / 1000).toFixed(1)} s: ${all.length} containers (a load of ${loadavg()[0]?.toFixed(1)})\n`,
    );
    const stats = (
      await docker([
        "stats",
        "--no-stream",
        "--format",
        "{{.Name}}\t{{.MemUsage}}",
        ...all.filter(({ state }) => state === "running").map(({ id }) => id),
      ])
    )
      .split("\n")
      .filter(Boolean)
      .map((line) => line.split("\t") as [string, string]);
    const mib = ([, usage]: [string, string]): number => {
      const [, amount = "0", unit = ""] = /^([\d.]+)([KMG]i?B)/.exec(usage) ?? [];
      return Number(amount) * ({ K: 1 / 1024, M: 1, G: 1024 }[unit.slice(0, 1)] ?? 0);
    };
    for (const one of stats) process.stdout.write(`  ${one[0].replace(stack.project, "").slice(1)}: ${mib(one).toFixed(0)} MiB\n`);
    process.stdout.write(`resident memory of all containers: ${stats.reduce((sum, one) => sum + mib(one), 0).toFixed(0)} MiB\n`);
    assert.equal(stats.length, all.length - oneShots.size, "all but the one-shots run");
  });

  test("ports are published on loopback only, and only those of the agents, the console and NATS", async () => {
    const ids = (await stack.containers()).map(({ id }) => id);
    const published = await docker([
      "inspect",
      "--format",
      "{{range $p, $b := .NetworkSettings.Ports}}{{range $b}}{{.HostIp}} {{$p}}\n{{end}}{{end}}",
      ...ids,
    ]);
    assert.deepEqual(published.split("\n").filter(Boolean).sort(), ["127.0.0.1 4222/tcp", "127.0.0.1 7300/tcp", "127.0.0.1 7301/tcp"]);
  });

  test("what runs in the containers is not root, and cannot write where it is not meant to", async () => {
    for (const { id, name, state } of await stack.containers()) {
      if (state !== "running") continue;
      const asked = await docker([
        "exec",
        id,
        "sh",
        "-c",
        "id -u; touch /etc/x 2>/dev/null && echo wrote; grep -E '^(CapEff|NoNewPrivs)' /proc/self/status",
      ]);
      const [uid = "0", ...rest] = asked.trim().split("\n");
      assert.notEqual(uid, "0", name);
      assert.deepEqual(
        rest.map((line) => line.replaceAll(/\s+/g, " ")),
        ["CapEff: 0000000000000000", "NoNewPrivs: 1"],
        name,
      );
    }
  });

  test("an upstream has no way to NATS or Redis", async () => {
    const upstream = (await stack.containers()).find(({ service }) => service === "warehouse-primary");
    const look = "for (const name of ['nats', 'redis', 'router']) require('dns').lookup(name, (e) => console.log(name, e === null));";
    const seen = (await docker(["exec", String(upstream?.id), "node", "-e", look])).trim().split("\n").sort();
    assert.deepEqual(seen, ["nats false", "redis false", "router true"]);
  });

  test("each container has the key of its own service and no other; who has none is refused, and who has one says its own words only", async () => {
    const keyless = /^(front|everything-.*|warehouse-.*)$/;
    // Redis proves itself, and asks itself how it is.
    const servers: Readonly<Record<string, readonly string[]>> = { nats: ["nats"], redis: ["redis", "redis-health"] };
    for (const { id, service, state } of await stack.containers()) {
      const mounted = await docker(["inspect", "--format", "{{range .Mounts}}{{.Source}} {{.RW}}\n{{end}}", id]);
      const keys = mounted.split("\n").filter((line) => line.startsWith(stack.credentials));
      const own = (servers[service] ?? [service]).map((folder) => `${join(stack.credentials, folder)} false`);
      const wanted = service === "credentials" ? [`${stack.credentials} true`] : own;
      assert.deepEqual(keys.sort(), keyless.test(service) ? [] : wanted, service);
      if (state !== "running" || service in servers || keyless.test(service)) continue;
      assert.equal((await docker(["exec", id, "cat", "/run/mcpf-credentials/user"])).trim(), service);
    }

    const { seed } = makeUserKey();
    const unknown = { ...readCredentials(join(stack.credentials, "prober")), seed: () => new TextEncoder().encode(seed) };
    const stranger = connectBus({ servers: stack.natsUrl, name: "test", instance: "test", credentials: unknown });
    const prober = connectAs("prober");
    try {
      const isRefused = (): boolean => stranger.status.kind === "disconnected" && /authorization/i.test(stranger.status.reason);
      await until(isRefused, 60_000, "a key that the server does not know is refused");
      await until(() => prober.status.kind === "connected", 60_000, "the prober is let in");
      await assert.rejects(
        prober.request("launcher.kill", { process: "nats" }, { timeoutMs: 10_000 }),
        /permissions violation.*launcher\.kill/i,
      );
    } finally {
      await Promise.all([stranger.close(), prober.close()]);
    }
  });

  test("Redis lets in whom it knows, over TLS alone: the state-store writes its own keys, who looks changes nothing, a stranger is refused", async () => {
    const redis = redisOf(stack);
    assert.match(await redis({ tls: null }, "PING"), /closed|reset/i, "plain text");
    assert.match(await redis({ tls: { cert: null } }, "PING"), /certificate|closed|reset|alert/i, "no certificate");
    assert.match(await redis({ tls: { cert: "prober" } }, "PING"), /^NOAUTH/, "a certificate of ours, and no user");
    assert.match(await redis({ tls: { cert: "prober" }, user: "default", password: "" }, "PING"), /WRONGPASS|NOAUTH/);
    assert.match(await redis({ tls: { cert: "prober" }, user: "state-store", password: "guessed" }, "PING"), /WRONGPASS/);

    // What the state-store of this stack has written is there.
    await allWell();
    const current = (): Promise<string> => redis({ as: "redis-reader" }, "GET", "mcp:current:everything");
    await until(async () => ["primary", "secondary"].includes(await current()), slowMs, "the state-store has written what is active");

    assert.equal(await redis({ as: "state-store" }, "SET", "mcp:current:nobody", "x"), "OK");
    assert.equal(await redis({ as: "state-store" }, "DEL", "mcp:current:nobody"), "1");
    for (const command of [["SET", "other", "x"], ["KEYS", "*"], ["FLUSHALL"], ["CONFIG", "GET", "*"], ["REPLICAOF", "nats", "6379"]])
      assert.match(await redis({ as: "state-store" }, ...command), /^NOPERM/, command.join(" "));
    for (const user of ["redis-reader", "redis-health", "redis-reload"])
      assert.match(await redis({ as: user }, "SET", "mcp:current:everything", "evil"), /^NOPERM/, user);
    assert.match(await redis({ as: "redis-health" }, "GET", "mcp:current:everything"), /^NOPERM/);
  });

  test("the README's first failover, word for word", async () => {
    await allWell();
    const readme = readFileSync(join(ROOT, "README.md"), "utf8");
    const commands = [...readme.matchAll(/^ *```sh\n([\s\S]*?)^ *```/gm)]
      .flatMap((match) => (match[1] ?? "").split("\n"))
      .map((line) => line.trim())
      .filter((line) => line.startsWith("npx mcpf "));
    assert.ok(commands.length >= 7, commands.join("\n"));
    const words = (line: string): string[] => [...line.matchAll(/"([^"]*)"|(\S+)/g)].map((match) => match[1] ?? match[2] ?? "");
    const launcher = await composeLauncher(stack);
    try {
      for (const command of commands) {
        let ran = await stack.mcpf(words(command).slice(2), 180_000);
        // Who asks waits two seconds or five; a reader on a busy machine types it again, too.
        for (let tries = 0; tries < 5 && ran.code !== 0 && /no answer|out of reach/i.test(ran.stderr); tries += 1)
          ran = await stack.mcpf(words(command).slice(2), 180_000);
        assert.equal(ran.code, 0, `${command}\n${ran.stdout}\n${ran.stderr}`);
        if (!command.includes("chaos run")) continue;
        const active = async () => (await status()).upstreams.find(({ name }) => name === "everything")?.active === "secondary";
        await until(active, 60_000, "the reader sees it move");
        await allWell();
      }
    } finally {
      await launcher.stop();
    }
  });

  test("more probers and a second router join while it runs", async () => {
    await stack.up(["--scale", "prober=5", "--scale", "router=2"]);
    await stack.allHealthy(240_000);
    const count = (await stack.containers()).reduce(
      (counts, { service }) => counts.set(service, (counts.get(service) ?? 0) + 1),
      new Map<string, number>(),
    );
    assert.deepEqual([count.get("prober"), count.get("router"), count.get("front")], [5, 2, 1]);
  });

  test("docs/containers.md's rotation, word for word: all are well with their new keys, and the engine still starts NATS again", async () => {
    const section = /^## Keys and their rotation\n([\s\S]*?)^## /m.exec(readFileSync(join(ROOT, "docs/containers.md"), "utf8"))?.[1] ?? "";
    const steps = [...section.matchAll(/^```sh\n([\s\S]*?)^```/gm)].map((match) => match[1] ?? "");
    assert.deepEqual(
      steps.map((step) => /--(rotate|retire) /.exec(step)?.[1]),
      ["rotate", "retire"],
    );
    const { seed } = readCredentials(join(stack.credentials, "prober"));
    const before = seed();
    for (const step of steps) {
      const ran = await stack.sh(step);
      assert.equal(ran.code, 0, `${step}\n${ran.stdout}${ran.stderr}`);
      await stack.allHealthy(240_000);
      const renewed = connectAs("prober");
      await until(() => renewed.status.kind === "connected", slowMs, "the server knows the new key").finally(() => renewed.close());
    }
    const credentials = { ...readCredentials(join(stack.credentials, "prober")), seed: () => before };
    const old = connectBus({ servers: stack.natsUrl, name: "test", instance: "test", credentials });
    const isRefused = (): boolean => old.status.kind === "disconnected" && /auth/i.test(old.status.reason);
    await until(isRefused, slowMs, "the key before is known no longer").finally(() => old.close());

    const [nats] = (await stack.containers()).filter(({ service }) => service === "nats");
    await stack.crash(nats ?? assert.fail("no container of nats"));
    await stack.allHealthy(240_000);
    await allWell();
  });

  test("an agent at 50 reads a second keeps its session and gets every answer while each container in turn is killed and comes back", async (t) => {
    await allWell();
    const load = await startLoad({
      url: `${stack.routerUrl}/mcp/everything`,
      tool: "echo",
      args: (n) => ({ message: `m${n}` }),
      check: (result, n) => (textOf(result) === `Echo: m${n}` ? null : `unexpected ${textOf(result)}`),
      callsPerSecond,
      sessions: 1,
      timeoutMs: 60_000,
    });
    t.after(() => load.stop());
    const inFlight = (): number => load.report().sent - load.report().durationsMs.length;
    /** Calls of turns that were made once more. */
    const forgiven: { readonly first: number; readonly last: number }[] = [];
    const unforgiven = ({ failed, ...report }: LoadReport): LoadReport => ({
      ...report,
      failed: failed.filter(({ n }) => !forgiven.some(({ first, last }) => first <= n && n <= last)),
    });
    /** While nothing is killed. Answers that are late then say nothing about what was killed. */
    const answersAll = async (): Promise<boolean> => {
      for (let tries = 0; tries < 6; tries += 1) {
        const before = load.report().failed.length;
        await sleep(5000);
        if (load.report().failed.length === before && inFlight() < callsPerSecond) return true;
      }
      return false;
    };
    const tooBusy = `this machine does not answer ${callsPerSecond} reads a second while nothing is killed`;
    let killed = 0;
    try {
      const first = load.report().sent;
      if (!(await answersAll())) return t.skip(tooBusy);
      if (load.report().failed.length > 0) forgiven.push({ first, last: load.report().sent });
      // The front is the published port itself: who has only one has no port while it starts again.
      // One of the probers and both routers; of everything else there is one.
      const turns = (await stack.containers())
        .filter(({ service, name }) => !oneShots.has(service) && service !== "front" && (service !== "prober" || name.endsWith("1")))
        .sort((a, b) => a.name.localeCompare(b.name));
      let again = 0;
      /** Whether every call was answered; null when the machine would have lost calls without it. */
      const turn = async (container: (typeof turns)[number], isLast: boolean): Promise<boolean | null> => {
        const first = load.report().sent;
        const beganMs = performance.now();
        await stack.crash(container);
        // The next one is killed when this one is what it was, for everyone.
        await allWell();
        await until(() => inFlight() < callsPerSecond, 120_000, "calls that wait are answered");
        const last = load.report().sent;
        const lost = load.report().failed.filter(({ n }) => n >= first).length;
        const seconds = ((performance.now() - beganMs) / 1000).toFixed(0);
        t.diagnostic(`${container.service}: ${last - first} calls, ${lost} failures, well again after ${seconds} s`);
        if (lost === 0) return true;
        // A busy machine loses calls by itself; a defect loses them again, and for ever on a machine that has time.
        if (!(await answersAll()) && (loadavg()[0] ?? 0) > busyLoad) return null;
        if (isLast || again === repeatsMax) return false;
        again += 1;
        forgiven.push({ first, last: load.report().sent });
        process.stdout.write(`FLAKY: ${lost} calls failed while ${container.name} was killed: it is killed once more\n`);
        return turn(container, true);
      };
      for (const container of turns) {
        const answered = await turn(container, false);
        if (answered === null) return t.skip(tooBusy);
        // The rest of the turns would take minutes.
        if (!answered) break;
        killed += 1;
      }
      await until(() => inFlight() < callsPerSecond, 120_000);
      const report = unforgiven(load.report());
      // Not the list itself: telling thousands of failures apart takes minutes.
      assert.equal(report.failed.length, 0, failuresOf(report));
      assert.ok(killed >= 18, `only ${killed} were killed`);
    } finally {
      const report = unforgiven(await load.stop());
      process.stdout.write(
        `${killed} containers killed, ${report.ok} of ${report.sent} calls answered, the slowest after ${Math.round(report.durationsMs.at(-1) ?? 0)} ms\n`,
      );
    }
  });
});
