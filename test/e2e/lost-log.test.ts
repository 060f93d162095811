import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { cp, rm } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type RunningServer, startNats, tempDir } from "@mcp-failover/testkit";
import { node24, ROOT } from "../../scripts/lib/repo.mjs";
import { failuresOf, startLoad } from "../harness/load.ts";
import { type RunningStack, run, startStack } from "../harness/stack.ts";
import { until } from "../harness/wait.ts";

/** The test owns nats-server and what it keeps on disk, and takes both away. */
describe("the log is lost, and an old one restored, under load", { concurrency: false }, () => {
  let store: Awaited<ReturnType<typeof tempDir>>;
  let nats: RunningServer;
  let stack: RunningStack;
  /** What the status said last, for messages. */
  let seen: string | undefined;
  before(async () => {
    store = await tempDir("mcpf-store-");
    nats = await startNats({ storeDir: join(store.path, "store") });
    stack = await startStack({
      natsUrl: nats.url,
      edit: (config) => {
        // A decision of the restored log holds the next one back for as long (ADR 14).
        config.failover = { cooldown_ms: 2000 };
      },
    });
  });
  after(async () => {
    await stack?.stop();
    await nats?.stop();
    await store?.remove();
  });

  const bootstrap = async (): Promise<void> => {
    const { ports } = JSON.parse(readFileSync(join(stack.dataDir, "stack.json"), "utf8")) as { ports: Record<string, string> };
    const env = { ...process.env, ...ports, NATS_URL: nats.url, MCPF_CONFIG: join(stack.dataDir, "failover.yaml"), MCPF_HEALTH_PORT: "0" };
    const ran = await run(node24(), [join(ROOT, "services/bootstrap/src/main.ts")], env, 60_000);
    assert.equal(ran.code, 0, `${ran.stdout}\n${ran.stderr}`);
  };
  /** Deciders that knew the log from before would hide that it is gone. */
  const restartDeciders = async (): Promise<void> => {
    // Whoever asks the launcher waits until it, too, has found the bus again.
    let names: string[] = [];
    await until(
      async () => {
        names = (await stack.processes().catch(() => [])).map(({ name }) => name);
        return names.length > 0;
      },
      60_000,
      "the launcher is back on the bus",
    );
    for (const name of names.filter((one) => /^(failover-controller|rollback-controller|breaker-state|state-store)-/.test(one)))
      await stack.killProcess(name);
  };
  const everything = async () => (await stack.status()).upstreams.find(({ name }) => name === "everything");
  const isWell = (): Promise<unknown> =>
    until(async () => (await everything())?.endpoints.every(({ health }) => health === "healthy") === true, 60_000, "all is healthy");
  const given = async (...args: string[]): Promise<void> => {
    const ran = await stack.mcpf([...args, "--yes"], { timeoutMs: 60_000 });
    assert.equal(ran.code, 0, ran.stderr);
  };

  test("calls go on where they went, the log takes that over, and the endpoint that is used is the one that is watched", async (t) => {
    await isWell();
    await given("failover", "everything", "--to", "secondary", "--force", "--reason", "before the log is lost");
    const load = await startLoad({
      url: `${stack.routerUrl}/mcp/everything`,
      tool: "echo",
      args: (n) => ({ message: `call ${n}` }),
      check: (result, n) => (JSON.stringify(result).includes(`call ${n}`) ? null : `not the answer to call ${n}`),
      callsPerSecond: 50,
    });
    t.after(() => load.stop());
    await until(() => load.report().ok > 20, 10_000);
    await nats.kill();
    await rm(join(store.path, "store"), { recursive: true, force: true });
    await nats.restart();
    await bootstrap();
    await restartDeciders();
    await until(
      async () => {
        const now = await everything().catch(() => undefined);
        seen = JSON.stringify(now);
        return now?.active === "secondary" && now.epoch >= 2;
      },
      120_000,
      () => `the log has what the routers hold: ${seen}`,
    );
    assert.equal(load.report().failed.length, 0, failuresOf(load.report()));
    const why = await stack.mcpf(["why", "everything"]);
    assert.match(why.stdout, /routers_ahead/);

    await isWell();
    await stack.killProcess("everything-secondary");
    await until(async () => (await everything())?.active === "primary", 30_000, "moved off the endpoint that died");
    await load.stop();
    const verified = await stack.mcpf(["events", "verify"], { timeoutMs: 60_000 });
    assert.equal(verified.code, 0, verified.stdout + verified.stderr);
  });

  test("an older log that is restored is overtaken by what routers hold; one that an operator adopts is followed", async () => {
    await isWell();
    await nats.kill();
    await cp(join(store.path, "store"), join(store.path, "monday"), { recursive: true });
    await nats.restart();
    await until(async () => (await everything().catch(() => undefined)) !== undefined, 60_000, "the bus is back");
    await isWell();
    for (const to of ["secondary", "primary", "secondary"]) {
      await given("failover", "everything", "--to", to, "--force", "--reason", "after the backup");
    }
    const newest = (await everything())?.epoch ?? 0;
    await nats.kill();
    await rm(join(store.path, "store"), { recursive: true, force: true });
    await cp(join(store.path, "monday"), join(store.path, "store"), { recursive: true });
    await nats.restart();
    await restartDeciders();
    await until(
      async () => {
        const now = await everything().catch(() => undefined);
        seen = JSON.stringify(now);
        return now !== undefined && now.active === "secondary" && now.epoch > newest;
      },
      120_000,
      () => `the restored log has what the routers hold: ${seen}`,
    );
    const adopted = await stack.mcpf(["log", "adopt", "--reason", "a rehearsal", "--yes", "-o", "json"]);
    assert.equal(adopted.code, 0, adopted.stderr);
    assert.equal((JSON.parse(adopted.stdout) as { generation: number }).generation, 2);
    await sleep(1000);
    const verified = await stack.mcpf(["events", "verify"], { timeoutMs: 60_000 });
    assert.equal(verified.code, 0, verified.stdout + verified.stderr);
  });
});
