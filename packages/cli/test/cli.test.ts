import assert from "node:assert/strict";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type Bus, memoryBroker, RefusedError } from "@mcp-failover/bus";
import { publishRawToMemory } from "@mcp-failover/bus/internal";
import { statusView, streams } from "@mcp-failover/contracts";
import { configured, type Ran, runMcpf } from "./support.ts";

const yaml = `
upstreams:
  everything:
    kind: mcp
    endpoints:
      - { name: primary, url: "http://127.0.0.1:9001/mcp", tier: 0 }
      - { name: secondary, url: "http://127.0.0.1:9002/mcp", tier: 1 }
`;
let folder = "";
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "mcpf-cli-"));
});
after(async () => {
  await rm(folder, { recursive: true });
});

function mcpf(bus: Bus | null, argv: readonly string[], env: Record<string, string> = {}): Promise<Ran> {
  return runMcpf(bus, argv, { MCPF_DATA_DIR: join(folder, "none"), ...env });
}

/** A bus with a configuration in its log, and nobody else on it. */
async function stack(): Promise<{ bus: Bus; close(): Promise<void> }> {
  const { bus } = await configured(yaml);
  return { bus, close: () => bus.close() };
}

test("status without a state-store is folded from the log, says so, has the pinned shape, and is 3 while the active endpoint is not healthy", async () => {
  const { bus, close } = await stack();
  const ran = await mcpf(bus, ["status", "-o", "json"]);
  const view = statusView.parse(JSON.parse(ran.stdout));
  assert.equal(ran.code, 3);
  assert.match(ran.stderr, /folded from the log/);
  assert.deepEqual(Object.keys(JSON.parse(ran.stdout)), ["upstreams", "rollback", "services"]);
  assert.deepEqual(Object.keys(view.upstreams[0] ?? {}), ["name", "critical", "active", "epoch", "since", "mode", "held", "endpoints"]);
  assert.deepEqual(Object.keys(view.upstreams[0]?.endpoints[0] ?? {}), [
    "name",
    "tier",
    "health",
    "score",
    "breaker",
    "responseTime",
    "reason",
  ]);
  await close();
});

test("mcpf --version says the version of its package, with no stack at all", async () => {
  const { version } = JSON.parse(await readFile(new URL("../package.json", import.meta.url), "utf8")) as { version: string };
  for (const flag of ["--version", "-V"]) assert.deepEqual(await mcpf(null, [flag]), { code: 0, stdout: `${version}\n`, stderr: "" });
});

test("an unknown upstream, scenario, scope, command or flag is wrong usage (2), and the sentence names what is known", async () => {
  const { bus, close } = await stack();
  const cases: [string[], RegExp][] = [
    [["why", "nope"], /known: everything/],
    [["chaos", "run", "killService", "nope", "--yes"], /known: everything/],
    [["chaos", "run", "meteor", "everything", "--yes"], /killService, slowResponse/],
    [["chaos", "run", "killService", "everything", "--force", "--yes"], /--reason TEXT/],
    [["rollback", "planet", "x", "--reason", "r", "--yes"], /tool NAME, agent NAME or system/],
    [["frobnicate"], /unknown command/],
    [["status", "--nope"], /unknown option/],
    [["status", "-o", "xml"], /table, json, ndjson/],
    [["hold", "everything", "--for", "soon", "--reason", "r", "--yes"], /30m/],
    [["hold", "everything", "--for", "0s", "--reason", "r", "--yes"], /mcpf release everything/],
    [["rollback", "system", "echo", "--reason", "r", "--yes"], /use tool echo or agent echo/],
    [["recover", "system", "echo", "--reason", "r", "--yes"], /use tool echo or agent echo/],
    [["events", "tail", "failover"], /write for example 'failover\.>'/],
    [["events", "tail", "nope.>"], /known: log\.> config\.>/],
    [["events", "tail", "health..x"], /health\.changed\.UPSTREAM/],
    [["events", "tail", "a b"], /write for example/],
    [["events", "replay", "--to", "1.5"], /a sequence of AUDIT/],
    [["events", "verify", "--file", folder], /EISDIR/],
  ];
  for (const [argv, expected] of cases) {
    const ran = await mcpf(bus, argv);
    assert.equal(ran.code, 2, argv.join(" "));
    assert.match(ran.stderr, expected, argv.join(" "));
  }
  await close();
});

test("wrong usage is one JSON document on standard error where JSON was asked for, and nothing on standard output", async () => {
  for (const argv of [
    ["why", "-o", "json"],
    ["status", "--nope", "-o", "json"],
    ["frobnicate", "-ojson"],
    ["events", "--output=ndjson"],
  ]) {
    const ran = await mcpf(null, argv);
    assert.deepEqual([ran.code, ran.stdout], [2, ""], argv.join(" "));
    const { error } = JSON.parse(ran.stderr);
    assert.deepEqual([error.code, error.retriable], ["usage", false], argv.join(" "));
    assert.match(error.message, /^(?!error:)\w.*\(mcpf --help lists the commands\)$/, argv.join(" "));
  }
});

test("a change without a reason, or without --yes where there is no terminal, changes nothing and is wrong usage", async () => {
  const { bus, close } = await stack();
  let asked = 0;
  const service = await bus.serve({
    name: "failover-controller",
    instance: "f",
    version: "0.1.0",
    description: "counts",
    handlers: {
      "command.failover": async () => {
        asked += 1;
        return { upstream: "everything", action: "moved", from: "primary", to: "secondary", epoch: 1, overrode: ["cooldown"] };
      },
    },
  });
  assert.match((await mcpf(bus, ["failover", "everything", "--yes"])).stderr, /--reason/);
  assert.match((await mcpf(bus, ["failover", "everything", "--reason", "r"])).stderr, /--yes/);
  assert.equal(asked, 0);
  const ran = await mcpf(bus, ["failover", "everything", "--reason", "r", "--yes"]);
  assert.deepEqual([ran.code, asked], [0, 1]);
  assert.match(ran.stdout, /^everything: primary -> secondary \(epoch 1; overrode cooldown\)$/m);
  const rehearsed = await mcpf(bus, ["failover", "everything", "--dry-run"]);
  assert.deepEqual([rehearsed.code, rehearsed.stdout], [0, "would move everything: primary -> secondary (epoch 1; overrode cooldown)\n"]);
  await service.stop();
  await close();
});

test("ack asks nothing, and takes --yes as every other change does", async () => {
  const { bus, close } = await stack();
  const asked: string[] = [];
  const service = await bus.serve({
    name: "notifier",
    instance: "n",
    version: "0.1.0",
    description: "acknowledges",
    handlers: {
      "command.acknowledge": async ({ incidentId }) => {
        asked.push(incidentId);
        return { incident: incidentId, status: "acknowledged" };
      },
    },
  });
  for (const more of [[], ["--yes"]]) {
    const ran = await mcpf(bus, ["ack", "i-1", "--reason", "r", ...more]);
    assert.deepEqual([ran.code, ran.stdout], [0, "i-1: acknowledged\n"], ran.stderr);
  }
  assert.deepEqual(asked, ["i-1", "i-1"]);
  await service.stop();
  await close();
});

test("recover brings a scope back whole, by a share, or with --ramp in steps", async () => {
  const { bus, close } = await stack();
  const asked: unknown[] = [];
  const service = await bus.serve({
    name: "rollback-controller",
    instance: "r",
    version: "0.1.0",
    description: "takes down what was asked",
    handlers: {
      "command.recover": async ({ percent }) => {
        asked.push(percent);
        return { implementation: percent === 100 ? "mcp" : "legacy", epoch: 2, mcpPercent: percent ?? 1 };
      },
    },
  });
  const recover = (...more: string[]) => mcpf(bus, ["recover", "tool", "echo", "--reason", "r", "--yes", ...more]);
  assert.match((await recover()).stdout, /^tool echo: mcp \(epoch 2\), 100 % of its calls to MCP$/m);
  assert.match((await recover("--percent", "5")).stdout, /legacy .* 5 % of its calls/);
  assert.match((await recover("--ramp")).stdout, /legacy .* 1 % of its calls/);
  for (const wrong of [
    ["--ramp", "--percent", "5"],
    ["--percent", "0"],
    ["--percent", "many"],
  ])
    assert.equal((await recover(...wrong)).code, 2);
  assert.deepEqual(asked, [100, 5, null]);
  await service.stop();
  await close();
});

test("a log without its streams is told in one sentence, as JSON where that was asked for, and ends with 1", async () => {
  const bus = memoryBroker().connect();
  await bus.close();
  for (const argv of [["why", "everything"], ["events", "verify"], ["status"]]) {
    const ran = await mcpf(bus, [...argv, "-o", "json"]);
    assert.equal(ran.code, 1, argv.join(" "));
    assert.match(JSON.parse(ran.stderr.trim().split("\n").at(-1) ?? "").error.message, /\S/, argv.join(" "));
  }
});

test("a refusal is told with its code as JSON, and ends with 1; a missing service is told at once", async () => {
  const { bus, close } = await stack();
  const none = await mcpf(bus, ["failover", "everything", "--reason", "r", "--yes", "-o", "json"]);
  assert.equal(none.code, 1);
  assert.equal(JSON.parse(none.stderr).error.code, "no_responders");
  const service = await bus.serve({
    name: "failover-controller",
    instance: "f",
    version: "0.1.0",
    description: "refuses",
    handlers: {
      "command.failover": async () => {
        throw new RefusedError("candidate_unhealthy", "secondary is unhealthy: repair it, or name another with --to");
      },
    },
  });
  const refused = await mcpf(bus, ["failover", "everything", "--reason", "r", "--yes", "-o", "json"]);
  assert.equal(refused.code, 1);
  assert.deepEqual(JSON.parse(refused.stderr), {
    error: { code: "candidate_unhealthy", message: "secondary is unhealthy: repair it, or name another with --to", retriable: false },
  });
  await service.stop();
  await close();
});

test("a broken configuration is named with path, line and fix, and ends with 2; a good one with 0", async () => {
  const bad = join(folder, "bad.yaml");
  await writeFile(bad, yaml.replace("tier: 0", "teir: 0"));
  const ran = await mcpf(null, ["config", "validate", bad]);
  assert.equal(ran.code, 2);
  assert.match(ran.stderr, /upstreams\.everything\.endpoints\.0\.teir \(line 6\): unknown key, did you mean "tier"\?/);
  const good = join(folder, "good.yaml");
  await writeFile(good, yaml);
  assert.equal((await mcpf(null, ["config", "validate", good])).code, 0);
  assert.equal((await mcpf(null, ["config", "validate", join(folder, "missing.yaml")])).code, 2);
});

test("config apply makes the next version once, and nothing when it is the same", async () => {
  const { bus, close } = await stack();
  const file = join(folder, "next.yaml");
  await writeFile(file, yaml.replace("tier: 1", "tier: 2"));
  const first = await mcpf(bus, ["config", "apply", file, "--reason", "r", "--yes", "-o", "json"]);
  assert.deepEqual([JSON.parse(first.stdout).applied, JSON.parse(first.stdout).version], [true, 2]);
  const second = await mcpf(bus, ["config", "apply", file, "--reason", "r", "--yes", "-o", "json"]);
  assert.deepEqual([JSON.parse(second.stdout).applied, JSON.parse(second.stdout).version], [false, 2]);
  await close();
});

test("config apply keeps the environment in force unless another one is asked for, and says a change of it", async () => {
  const { bus, close } = await stack();
  const environment = async (): Promise<string> => {
    const last = await bus.lastOf("AUDIT", "config.applied");
    assert.ok(last?.content.kind === "event" && last.content.event.type === "config.applied");
    return last.content.event.data.environment;
  };
  const applyTier = async (tier: number, more: string[] = [], env: Record<string, string> = {}): Promise<Ran> => {
    const file = join(folder, `tier-${tier}.yaml`);
    await writeFile(file, yaml.replace("tier: 1", `tier: ${tier}`));
    const ran = await mcpf(bus, ["config", "apply", file, "--reason", "r", "--yes", ...more], env);
    assert.equal(ran.code, 0, ran.stderr);
    return ran;
  };
  const moved = await applyTier(2, ["--env", "production"]);
  assert.equal(await environment(), "production");
  assert.match(moved.stdout, /^version 2 is applied for production$/m);
  assert.match(moved.stderr, /environment changes from development to production/);
  const kept = await applyTier(3);
  assert.equal(await environment(), "production");
  assert.match(kept.stdout, /^version 3 is applied for production$/m);
  assert.equal(kept.stderr, "");
  assert.match((await applyTier(3)).stdout, /nothing to do: version 3 is the same, for production/);
  await applyTier(3, [], { MCPF_ENV: "development" });
  assert.equal(await environment(), "development");
  await close();
});

test("config apply is for development where nothing is in force yet", async () => {
  const bus = memoryBroker().connect();
  await bus.ensureStreams(streams, { replicas: 1 });
  const file = join(folder, "first.yaml");
  await writeFile(file, yaml);
  assert.match((await mcpf(bus, ["config", "apply", file, "--reason", "r", "--yes"])).stdout, /^version 1 is applied for development$/m);
  await bus.close();
});

test("config apply keeps the environment of the version before one that cannot be read", async () => {
  const { broker, bus } = await configured(yaml);
  const file = join(folder, "after-torn.yaml");
  await writeFile(file, yaml);
  const apply = (...more: string[]) => mcpf(bus, ["config", "apply", file, "--reason", "r", "--yes", ...more]);
  await apply("--env", "production");
  publishRawToMemory(broker, "config.applied", "{ torn");
  await writeFile(file, yaml.replace("tier: 1", "tier: 2"));
  assert.match((await apply()).stdout, /^version 3 is applied for production$/m);
  await bus.close();
});

test("events: tail shows, replay folds, verify passes on a whole log, and finds one altered byte in an export", async () => {
  const { bus, close } = await stack();
  assert.match((await mcpf(bus, ["events", "tail"])).stdout, /config\.applied/);
  assert.match((await mcpf(bus, ["events", "tail", "*.applied"])).stdout, /config\.applied/);
  const none = await mcpf(bus, ["events", "tail", "failover.>"]);
  assert.deepEqual([none.code, none.stdout], [0, ""]);
  assert.match(none.stderr, /no event with a subject like "failover\.>" since .*; look further back with --since/);
  assert.equal(JSON.parse((await mcpf(bus, ["events", "replay", "-o", "json"])).stdout).messages, 1);
  const whole = await mcpf(bus, ["events", "verify", "-o", "json"]);
  assert.deepEqual([whole.code, JSON.parse(whole.stdout).wrong], [0, 0]);
  const file = join(folder, "log.ndjson");
  const exported = await mcpf(bus, ["events", "export", "--file", file]);
  assert.equal(exported.code, 0);
  assert.equal((await mcpf(bus, ["events", "verify", "--file", file])).code, 0);
  const { readFile } = await import("node:fs/promises");
  await writeFile(file, (await readFile(file, "utf8")).replace("secondary", "secondarx"));
  const altered = await mcpf(bus, ["events", "verify", "--file", file, "-o", "json"]);
  assert.equal(altered.code, 1);
  assert.deepEqual(
    JSON.parse(altered.stdout).problems.map(({ seq, subject, check }: { seq: number; subject: string; check: string }) => [
      seq,
      subject,
      check,
    ]),
    [[1, "config.applied", "bytes"]],
  );
  await close();
});

test("events: a log without one event, and an export that lost a line, do not verify", async () => {
  const broker = memoryBroker();
  const empty = broker.connect();
  await empty.ensureStreams(streams, { replicas: 1 });
  const ran = await mcpf(empty, ["events", "verify", "-o", "json"]);
  assert.deepEqual([ran.code, JSON.parse(ran.stderr).error.code], [1, "nothing_to_verify"]);
  await empty.close();
  const { bus, close } = await stack();
  for (let version = 2; version <= 3; version += 1) {
    const file = join(folder, `version-${version}.yaml`);
    await writeFile(file, yaml.replace("tier: 1", `tier: ${version}`));
    assert.equal((await mcpf(bus, ["config", "apply", file, "--reason", "r", "--yes"])).code, 0);
  }
  const file = join(folder, "three.ndjson");
  await mcpf(bus, ["events", "export", "--file", file]);
  assert.equal((await mcpf(bus, ["events", "verify", "--file", file])).code, 0);
  const { readFile } = await import("node:fs/promises");
  const [first, , third, end] = (await readFile(file, "utf8")).split("\n");
  await writeFile(file, `${first}\n${third}\n${end}\n`);
  const cut = await mcpf(bus, ["events", "verify", "--file", file]);
  assert.equal(cut.code, 1);
  assert.match(cut.stdout, /#3 config\.applied: gap: 1 events before it are gone/);
  await close();
});

test("without a stack the sentence says how to start or name one", async () => {
  const ran = await mcpf(null, ["status"]);
  assert.equal(ran.code, 1);
  assert.match(ran.stderr, /npm start.*--data-dir.*NATS_URL/);
  // Not shown: it may hold a password.
  const wrong = await mcpf(null, ["status"], { NATS_URL: "http://user:s3cret" + "@here" });
  assert.equal(wrong.code, 2);
  assert.match(wrong.stderr, /NATS_URL .*nats:\/\/127/);
  assert.ok(!wrong.stderr.includes("s3cret"));
  const away = await mcpf(null, ["status"], { NATS_URL: "nats://ann:s3cret" + "@127.0.0.1:1,127.0.0.1:2" });
  assert.equal(away.code, 1);
  assert.match(away.stderr, /NATS does not answer at 127\.0\.0\.1:1, 127\.0\.0\.1:2: see that/);
});

test("config apply with the file that the stack was started with gives its local processes the ports that they have, and finds secrets in its folder", async (t) => {
  const dataDir = join(folder, "stack");
  await mkdir(join(dataDir, "secrets"), { recursive: true });
  await writeFile(join(dataDir, "secrets", "UPSTREAM_KEY"), "s");
  const ports = { MCPF_PORT_UP: 8910 };
  await writeFile(join(dataDir, "stack.json"), JSON.stringify({ natsUrl: "nats://127.0.0.1:8902", ports }));
  const file = join(folder, "ports.yaml");
  const key = "headers: { key: { secret: UPSTREAM_KEY } }";
  await writeFile(file, yaml.replace('127.0.0.1:9001/mcp",', `127.0.0.1:$\{MCPF_PORT_UP:-7310}/mcp", ${key},`));
  const { bus, close } = await stack();
  t.after(close);
  const urlAfter = async (env: Record<string, string>): Promise<unknown> => {
    const ran = await mcpf(bus, ["config", "apply", file, "--reason", "r", "--yes"], { MCPF_DATA_DIR: dataDir, ...env });
    assert.deepEqual([ran.code, ran.stderr], [0, ""]);
    const last = await bus.lastOf("AUDIT", "config.applied");
    const event = last?.content.kind === "event" ? last.content.event : null;
    return event?.type === "config.applied" ? event.data.topology : null;
  };
  assert.match(JSON.stringify(await urlAfter({})), /127\.0\.0\.1:8910/);
  // The ports of the stack in this folder say nothing of another one.
  assert.match(JSON.stringify(await urlAfter({ NATS_URL: "nats://127.0.0.1:1" })), /127\.0\.0\.1:7310/);
});
