import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type Bus, connectBus } from "@mcp-failover/bus";
import { applyConfiguration } from "@mcp-failover/client";
import { parseTopology } from "@mcp-failover/contracts";
import { freePort, type RunningServer, startNats, tempDir } from "@mcp-failover/testkit";

let nats: RunningServer;
let bus: Bus;
let dir: Awaited<ReturnType<typeof tempDir>>;
before(async () => {
  nats = await startNats();
  dir = await tempDir("mcpf-bootstrap-");
  bus = connectBus({ servers: nats.url, name: "test", instance: "test" });
});
after(async () => {
  await bus.close();
  await nats.stop();
  await rm(dir.path, { recursive: true, force: true });
});

const yaml = (port: number, more = "") =>
  `upstreams:\n  docs:\n    kind: http\n    endpoints:\n      - { name: primary, url: "http://127.0.0.1:${port}", tier: 0${more} }\n`;

async function run(
  text: string | null,
  env: Record<string, string> = {},
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const file = join(dir.path, "failover.yaml");
  if (text === null) await rm(file, { force: true });
  else await writeFile(file, text);
  const child = spawn(process.execPath, [new URL("../src/main.ts", import.meta.url).pathname], {
    env: { PATH: process.env["PATH"], NATS_URL: nats.url, MCPF_CONFIG: file, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (chunk) => {
    stdout += chunk;
  });
  child.stderr.on("data", (chunk) => {
    stderr += chunk;
  });
  const code = await new Promise<number | null>((resolve) => child.on("close", resolve));
  return { code, stdout, stderr };
}

test("the first start makes streams, generation 1 and version 1; two at once and a second start add nothing", async () => {
  const first = await Promise.all([run(yaml(1001)), run(yaml(1001))]);
  assert.deepEqual([first[0].code, first[1].code], [0, 0], first.map((one) => one.stderr).join());
  assert.equal((await run(yaml(1001))).code, 0);
  const events = [];
  for await (const { content } of bus.read("AUDIT")) events.push(content.kind === "event" ? content.event : null);
  assert.deepEqual(
    events.map((event) => event?.type),
    ["log.started", "config.applied"],
  );
  for (const stream of ["AUDIT", "SIGNALS", "OUTBOX", "QUARANTINE"] as const) assert.equal((await bus.info(stream)).replicas, 1);
});

test("a changed file becomes the next version", async () => {
  const { code, stdout } = await run(yaml(1002));
  assert.equal(code, 0);
  assert.match(stdout, /as version 2/);
});

test("what an operator has applied since stays in force at the next start with the same file, which says whose it is and how to put it back", async () => {
  const { topology, hash } = parseTopology(yaml(1009), { file: "hotfix.yaml", env: {} });
  const by = { kind: "operator", id: "ann" } as const;
  const more = { environment: "production", by, reason: "hotfix", service: "cli", instance: "cli-1", nowMs: Date.now() } as const;
  const hotfix = { topology, hash, fileHash: hash, ...more, onlyIfFileChanged: false };
  assert.equal((await applyConfiguration(bus, hotfix)).version, 3);
  const { code, stdout } = await run(yaml(1002));
  assert.equal(code, 0);
  assert.match(
    stdout,
    /version 3 \([0-9a-f]{12}\) stays in force, which ann applied \(hotfix\): .*says something else.*mcpf config apply /,
  );
  assert.equal((await bus.lastOf("AUDIT", "config.applied"))?.content.kind, "event");
  assert.match((await run(yaml(1008))).stdout, /as version 4/, "a changed file is applied");
});

test("a wrong configuration ends with 2, names path and fix, and changes nothing", async () => {
  const before = (await bus.info("AUDIT")).lastSeq;
  const unknownKey = await run(yaml(1003, ", wieght: 2"));
  assert.equal(unknownKey.code, 2);
  assert.match(unknownKey.stderr, /upstreams\.docs\.endpoints\.0\.wieght .*did you mean "weight"/);
  const secret = await run(yaml(1003, ", headers: { authorization: { secret: DOCS_KEY } }"));
  assert.equal(secret.code, 2);
  assert.match(secret.stderr, /the secret DOCS_KEY is missing; set the environment variable DOCS_KEY/);
  const missing = await run(null);
  assert.equal(missing.code, 2);
  assert.match(missing.stderr, /set MCPF_CONFIG/);
  assert.equal((await run(yaml(1003), { MCPF_NATS_REPLICAS: "many" })).code, 2);
  assert.equal((await bus.info("AUDIT")).lastSeq, before);
});

test("a configuration that is too large ends with 2 before anything in NATS is touched", async () => {
  const { code, stdout, stderr } = await run(
    `${yaml(1003)}contacts: { ${Array.from({ length: 900 }, (_, n) => `c${n}: ${"x".repeat(20_000)}`).join(", ")} }\n`,
  );
  assert.deepEqual([code, stdout], [2, ""]);
  assert.match(stderr, /bytes as JSON, and at most/);
});

test("the value of a secret is nowhere in the log or the output", async () => {
  const { code, stdout, stderr } = await run(yaml(1004, ", headers: { authorization: { secret: DOCS_KEY } }"), {
    DOCS_KEY: "hunter2-planted",
  });
  assert.equal(code, 0, stderr);
  for await (const { bytes } of bus.read("AUDIT")) assert.doesNotMatch(new TextDecoder().decode(bytes), /hunter2-planted/);
  assert.doesNotMatch(stdout + stderr, /hunter2-planted/);
});

test("without NATS it waits, says so, and ends with 1", async () => {
  const port = await freePort();
  const { code, stdout, stderr } = await run(yaml(1001), { NATS_URL: `nats://127.0.0.1:${port}`, MCPF_BOOTSTRAP_WAIT_MS: "2500" });
  assert.equal(code, 1);
  assert.match(stdout, /waiting for NATS/);
  assert.match(stderr, /NATS did not answer within .* check NATS_URL/);
});
