import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { chmod, copyFile, mkdir, mkdtemp, open, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { parseEnv } from "node:util";
import { type Bus, memoryBroker } from "@mcp-failover/bus";
import { makeEvent, parseTopology, streams } from "@mcp-failover/contracts";
import fc from "fast-check";
import { runCli } from "../src/index.ts";
import { SupervisedChild } from "../src/supervised-child.ts";
import { showVariables } from "../src/variables-text.ts";

const yaml = (extra = ""): string => `
upstreams:
  pinecone:
    kind: http
    env: { PINECONE_HOST: url, PINECONE_ENDPOINT: name }
    endpoints:
      - { name: primary, url: "https://one.example", tier: 0, env: { PINECONE_API_KEY: { secret: PINECONE_API_KEY } } }
      - { name: secondary, url: "https://two.example", tier: 1, env: { PINECONE_API_KEY: { secret: PINECONE_BACKUP_API_KEY }${extra} } }
  neo4j:
    kind: http
    endpoints:
      - { name: primary, url: "neo4j+s://graph.example", tier: 0, env: { NEO4J_URI: "neo4j+s://graph.example" } }
  plain-one:
    kind: http
    endpoints: [{ name: only, url: "https://plain.example/v1", tier: 0 }]
`;
const keys = { PINECONE_API_KEY: "key-of-one", PINECONE_BACKUP_API_KEY: "$HOME `two`" };

let folder = "";
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "mcpf-env-"));
});
after(async () => {
  await rm(folder, { recursive: true });
});

interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}
async function mcpf(
  bus: Bus,
  argv: readonly string[],
  options: { env?: Record<string, string | undefined>; terminal?: boolean } = {},
): Promise<Ran> {
  let stdout = "";
  let stderr = "";
  const dataDir = await mkdtemp(join(folder, "data-"));
  const code = await runCli(argv, {
    env: { MCPF_DATA_DIR: dataDir, PATH: process.env["PATH"], ...keys, ...options.env },
    terminal: options.terminal === true,
    write: (text) => {
      stdout += text;
    },
    writeError: (text) => {
      stderr += text;
    },
    bus,
  });
  return { code, stdout, stderr };
}

const certificate = {
  decider: "test",
  rule: "test",
  policyHash: "",
  nowMs: 0,
  folded: { AUDIT: null, SIGNALS: null },
  input: null,
  rejected: [],
};
const by = { kind: "service", id: "test" } as const;

async function fleet(extra = "") {
  const bus = memoryBroker().connect();
  await bus.ensureStreams(streams, { replicas: 1 });
  const { topology, hash } = parseTopology(yaml(extra), { file: "failover.yaml", env: {} });
  const timestamp = new Date().toISOString();
  const config = { version: 1, hash, fileHash: hash, timestamp, by, reason: "start", environment: "development" as const, topology };
  const common = { service: "bootstrap", instance: "b", timeMs: Date.now() } as const;
  await bus.appendFenced(makeEvent({ type: "config.applied", keys: [], data: config, id: "config-1", ...common }), 0);
  const moveTo = async (active: string, epoch: number): Promise<void> => {
    const data = {
      service: "pinecone",
      action: "moved" as const,
      previousEndpoint: "primary",
      currentEndpoint: active,
      timestamp,
      automatic: true,
      by,
      reason: "test",
      commandId: null,
      overrode: [],
      state: { generation: 0, epoch, active, tier: 1, sinceMs: Date.now(), held: null, moves: [] },
      certificate,
    };
    const event = makeEvent({
      type: "failover.decided",
      keys: ["pinecone"],
      data,
      id: `move-${epoch}`,
      ...common,
      service: "failover-controller",
    });
    const last = await bus.lastOf("AUDIT", "failover.decided.pinecone");
    assert.equal((await bus.appendFenced(event, last?.seq ?? 0)).outcome, "won");
  };
  return { bus, moveTo };
}

test("env prints what the active endpoint says, in lines that a shell takes as they are meant, and after a failover the other's", async () => {
  const { bus, moveTo } = await fleet();
  const first = await mcpf(bus, ["env", "pinecone"]);
  assert.equal(
    first.stdout,
    "export PINECONE_HOST='https://one.example'\nexport PINECONE_ENDPOINT='primary'\nexport PINECONE_API_KEY='key-of-one'\n",
  );
  await moveTo("secondary", 1);
  const second = await mcpf(bus, ["env", "pinecone"]);
  const shell = execFileSync("sh", ["-c", `${second.stdout}\nprintf '%s|%s' "$PINECONE_HOST" "$PINECONE_API_KEY"`], { encoding: "utf8" });
  assert.equal(shell, `https://two.example|${keys.PINECONE_BACKUP_API_KEY}`);
  await bus.close();
});

test("env takes several upstreams, gives <NAME>_URL where nothing is configured, and has JSON for scripts", async () => {
  const { bus } = await fleet();
  const ran = await mcpf(bus, ["env", "pinecone,neo4j,plain-one", "-o", "json"]);
  assert.deepEqual(JSON.parse(ran.stdout), {
    endpoints: [
      { upstream: "pinecone", endpoint: "primary", url: "https://one.example", epoch: 0, generation: 0 },
      { upstream: "neo4j", endpoint: "primary", url: "https://graph.example", epoch: 0, generation: 0 },
      { upstream: "plain-one", endpoint: "only", url: "https://plain.example/v1", epoch: 0, generation: 0 },
    ],
    variables: {
      PINECONE_HOST: "https://one.example",
      PINECONE_ENDPOINT: "primary",
      PINECONE_API_KEY: "key-of-one",
      NEO4J_URI: "neo4j+s://graph.example",
      PLAIN_ONE_URL: "https://plain.example/v1",
    },
  });
  await bus.close();
});

test("what only the endpoint that was left sets stays neither in a shell nor in the environment of a command, though ours has its secret", async () => {
  const { bus, moveTo } = await fleet(", PINECONE_REGION: eu");
  const show = "console.log(['PINECONE_API_KEY', 'PINECONE_REGION', 'OTHER'].map((name) => String(process.env[name])).join())";
  const file = join(folder, "left");
  const command = ["exec", "pinecone", "--", "sh", "-c", `"${process.execPath}" -e "${show}" > ${file}`];
  const env = { PINECONE_REGION: "us", OTHER: "kept" };
  assert.equal((await mcpf(bus, command, { env })).code, 0);
  assert.equal(await readFile(file, "utf8"), "key-of-one,undefined,kept\n");
  await moveTo("secondary", 1);
  const second = await mcpf(bus, ["env", "pinecone"]);
  await moveTo("primary", 2);
  const third = await mcpf(bus, ["env", "pinecone"]);
  const shell = `${second.stdout}printf '%s ' "$PINECONE_REGION"\n${third.stdout}printf '%s' "\${PINECONE_REGION-gone}"`;
  assert.equal(execFileSync("sh", ["-c", shell], { encoding: "utf8" }), "eu gone");
  await bus.close();
});

test("a terminal is shown the names of secrets only, unless it asks for them", async () => {
  const { bus } = await fleet();
  const hidden = await mcpf(bus, ["env", "pinecone"], { terminal: true });
  assert.match(hidden.stdout, /export PINECONE_API_KEY='\[secret\]'/);
  assert.doesNotMatch(hidden.stdout + hidden.stderr, /key-of-one/);
  assert.match((await mcpf(bus, ["env", "pinecone", "--show-secrets"], { terminal: true })).stdout, /key-of-one/);
  await bus.close();
});

test("wrong words, unknown upstreams and missing secrets end with a sentence and the pinned exit code", async () => {
  const { bus } = await fleet();
  for (const [argv, code, message, env] of [
    [["env", "pinecoon"], 2, /pinecoon.*known: pinecone/, {}],
    [["env", ","], 2, /names of 1 to/, {}],
    [["env", "pinecone", "--format", "xml"], 2, /export, dotenv, json/, {}],
    [["env", "pinecone", "--watch"], 2, /--file/, {}],
    [["env", "pinecone"], 1, /secret PINECONE_API_KEY is missing/, { PINECONE_API_KEY: "" }],
    [["exec", "pinecone", "--", "true"], 2, /holds a NUL, which no variable can: correct its secret\n$/, { PINECONE_API_KEY: "a\0b" }],
    [["exec", "pinecone"], 2, /what shall run/, {}],
    // What stands behind "--" are the words of another program.
    [["exec", "pinecoon", "--", "jq", "json"], 2, /^mcpf: .*pinecoon/, {}],
    [["exec", "pinecoon", "-o", "json", "--", "jq"], 2, /^\{"error":/, {}],
    [["exec", "pinecoon", "--output=json", "--", "jq"], 2, /^\{"error":/, {}],
    [["exec", "pinecone", "--on-change", "signal:SIGNOPE", "--", "true"], 2, /restart, none or signal/, {}],
    [["exec", "pinecone", "--stop-ms", "soon", "--", "true"], 2, /whole number/, {}],
    [["env", "pinecone", "--file", "/no-such-folder/x"], 1, /cannot be written/, {}],
  ] as const) {
    const ran = await mcpf(bus, argv, { env });
    assert.deepEqual([ran.code, message.test(ran.stderr)], [code, true], `${argv.join(" ")}: ${ran.code} ${ran.stderr}`);
  }
  await bus.close();
});

test("a configuration may not set variables that change how programs are loaded", () => {
  for (const name of ["LD_PRELOAD", "NODE_OPTIONS", "PATH", "MCPF_DATA_DIR", "BASH_ENV", "1X", "A-B"]) {
    assert.throws(() => parseTopology(yaml(`, ${name}: "x"`), { file: "failover.yaml", env: {} }), new RegExp(name), name);
  }
});

test("secrets of env: need not be known where the stack runs, and are known only where env and exec run", () => {
  assert.doesNotThrow(() => parseTopology(yaml(), { file: "failover.yaml", env: {}, hasSecret: () => false }));
});

test("--watch keeps the file current, readable by its owner alone, and leaves nothing beside it", async () => {
  const { bus, moveTo } = await fleet();
  const file = join(await mkdtemp(join(folder, "watch-")), "pinecone.env");
  const running = mcpf(bus, ["env", "pinecone", "--file", file, "--watch"]);
  await untilHas(file, "PINECONE_HOST=https://one.example");
  assert.equal((await stat(file)).mode & 0o777, 0o600);
  await moveTo("secondary", 1);
  await untilHas(file, "PINECONE_HOST=https://two.example");
  process.emit("SIGTERM");
  const ran = await running;
  assert.equal(ran.code, 0, ran.stderr);
  assert.doesNotMatch(ran.stdout + ran.stderr, /key-of-one|two`/, "values are in the file alone");
  assert.deepEqual(await readdir(join(file, "..")), ["pinecone.env"]);
  await bus.close();
});

/** Waits until a file has this in it, 10 s at most. */
async function untilHas(file: string, text: string): Promise<void> {
  const content = async (): Promise<string> => readFile(file, "utf8").catch(() => "");
  for (const endMs = Date.now() + 10_000; !(await content()).includes(text); await sleep(10))
    assert.ok(Date.now() < endMs, `${file} never has ${text}: ${await content()}`);
}

test("--watch: a write that failed, and a secret that was not there yet, are tried again until the file is current, and said once", async () => {
  const { bus, moveTo } = await fleet();
  const root = await mkdtemp(join(folder, "again-"));
  const [dir, away, secrets] = [join(root, "files"), join(root, "away"), join(root, "secrets")];
  await mkdir(dir);
  await mkdir(secrets);
  const file = join(dir, "pinecone.env");
  const env = { PINECONE_BACKUP_API_KEY: undefined, MCPF_SECRETS_DIR: secrets };
  const running = mcpf(bus, ["env", "pinecone", "--file", file, "--watch"], { env });
  await untilHas(file, "one.example");
  await moveTo("secondary", 1);
  await sleep(1200); // One more try at least.
  await writeFile(join(secrets, "PINECONE_BACKUP_API_KEY"), "late");
  await untilHas(file, "PINECONE_API_KEY=late");
  await rename(dir, away);
  await moveTo("primary", 2);
  await sleep(2200);
  await rename(away, dir);
  await untilHas(file, "one.example");
  process.emit("SIGTERM");
  const { code, stderr } = await running;
  assert.equal(code, 0, stderr);
  assert.deepEqual(
    stderr.split("\n").map((line) => /is missing|cannot be written/.exec(line)?.[0]),
    ["is missing", "cannot be written", undefined],
    stderr,
  );
  assert.deepEqual(await readdir(dir), ["pinecone.env"]);
  await bus.close();
});

test("--watch: what could not be written is not written any more when the fleet has moved on, and moving back to what the file has needs it to be written", async () => {
  const { bus, moveTo } = await fleet();
  const root = await mkdtemp(join(folder, "superseded-"));
  const [dir, away] = [join(root, "files"), join(root, "away")];
  await mkdir(dir);
  const file = join(dir, "pinecone.env");
  const running = mcpf(bus, ["env", "pinecone", "--file", file, "--watch"]);
  await untilHas(file, "one.example");
  await rename(dir, away);
  await moveTo("secondary", 1);
  await sleep(100);
  await moveTo("primary", 2);
  await sleep(100);
  await writeFile(join(away, "pinecone.env"), "torn");
  await rename(away, dir);
  await untilHas(file, "one.example");
  process.emit("SIGTERM");
  const { stdout } = await running;
  assert.doesNotMatch(stdout, /secondary/);
  await bus.close();
});

test("--watch notices a failover that comes while the file is written for the first time", async () => {
  for (let round = 0; round < 10; round += 1) {
    const { bus, moveTo } = await fleet();
    const dir = await mkdtemp(join(folder, "race-"));
    const file = join(dir, "pinecone.env");
    const running = mcpf(bus, ["env", "pinecone", "--file", file, "--watch"]);
    // Something is there, whole or not.
    for (const endMs = Date.now() + 10_000; (await readdir(dir)).length === 0; ) assert.ok(Date.now() < endMs, "nothing is written");
    await moveTo("secondary", 1);
    for (const endMs = Date.now() + 10_000; !(await readFile(file, "utf8").catch(() => "")).includes("two.example"); await sleep(5))
      assert.ok(Date.now() < endMs, "the file stays at the endpoint that was left");
    process.emit("SIGTERM");
    assert.equal((await running).code, 0);
    await bus.close();
  }
});

test("whatever a value holds, a shell reads it back, and Node's --env-file too, or it is refused by the name of its variable", async () => {
  const text = fc.string({ unit: fc.constantFrom("a", "'", '"', "$", "`", "\\", " ", "#", "=", "\n", "\r", "n", "é"), maxLength: 12 });
  const key = "-----BEGIN PRIVATE KEY-----\nabc+/=\n-----END PRIVATE KEY-----\n";
  const written = [
    JSON.stringify({ type: "service_account", private_key: key }, null, 2),
    key,
    "it's two\nlines",
    "it's `two`",
    "$HOME `two`",
    "a\\nb",
    "",
  ];
  const values = [
    ...written,
    `it's"x`,
    "it's $HOME",
    "C:\\data\\",
    "it's\\x",
    "a\\nb'c",
    "two\r\nlines",
    ...fc.sample(text, { numRuns: 300, seed: 7 }),
  ];
  const of = (value: string) => ({
    unset: [],
    variables: new Map([
      ["VALUE", value],
      ["AFTER", "it's after"],
    ]),
  });
  const shell = values.map((value) => `${showVariables(of(value), "export")}printf '%s\\0' "$VALUE"\n`).join("");
  assert.deepEqual(execFileSync("sh", ["-c", shell], { encoding: "utf8" }).split("\0").slice(0, -1), values);
  for (const value of values) {
    if (/\r|\\$/.test(value) || (/'/.test(value) && /["\\$]/.test(value))) {
      const error = { name: "CliError", code: "not_for_dotenv", exitCode: 2, message: /^VALUE .*--format json/ };
      assert.throws(() => showVariables(of(value), "dotenv"), error, JSON.stringify(value));
    } else {
      const read = parseEnv(showVariables(of(value), "dotenv"));
      assert.deepEqual({ ...read }, { VALUE: value, AFTER: "it's after" }, JSON.stringify(value));
    }
  }
  const file = join(folder, "values.env");
  const variables = new Map(written.map((value, index) => [`V${index}`, value]));
  await writeFile(file, showVariables({ variables, unset: [] }, "dotenv"));
  const script = "JSON.stringify(Object.keys(process.env).filter((name) => /^V\\d$/.test(name)).sort().map((name) => process.env[name]))";
  const read = execFileSync(process.execPath, [`--env-file=${file}`, "-p", script], { encoding: "utf8", env: {} });
  assert.deepEqual(JSON.parse(read), written);
});

test("a value that no dotenv file can hold is told by the name of its variable, and the file stays as it was", async () => {
  const { bus } = await fleet();
  const file = join(folder, "refused.env");
  await writeFile(file, "BEFORE=1\n");
  const secret = `it's"x`;
  for (const [argv, last] of [
    [["env", "pinecone", "--file", file], ""],
    [["exec", "pinecone", "--file", file, "--", "true"], ""],
    [["env", "pinecone", "--file", file, "--format", "json"], "json"],
  ] as const) {
    const { code, stdout, stderr } = await mcpf(bus, argv, { env: { PINECONE_API_KEY: secret } });
    assert.equal(code, last === "json" ? 0 : 2, stderr);
    if (last !== "json") assert.match(stderr, /PINECONE_API_KEY .*--format json/);
    assert.doesNotMatch(stdout + stderr, /it's"x/);
    const content = await readFile(file, "utf8");
    if (last === "json") assert.equal(JSON.parse(content).PINECONE_API_KEY, secret);
    else assert.equal(content, "BEFORE=1\n");
  }
  await bus.close();
});

const child = (script: string, onChange: "restart" | "none", stopMs = 5000) => {
  const said: string[] = [];
  return {
    said,
    child: new SupervisedChild({
      command: [process.execPath, "-e", script],
      onChange: { kind: onChange },
      stopMs,
      say: (text) => said.push(text),
    }),
  };
};

test("X4: the command's exit code is ours, 128 and more for a signal, and 127 where there is no such command", async () => {
  const { bus } = await fleet();
  const run = (...command: string[]) => mcpf(bus, ["exec", "pinecone", "--", ...command]);
  assert.equal((await run(process.execPath, "-e", "process.exit(process.env.PINECONE_ENDPOINT === 'primary' ? 7 : 1)")).code, 7);
  assert.equal((await run(process.execPath, "-e", "process.kill(process.pid, 'SIGKILL')")).code, 137);
  const missing = await run(join(folder, "no-such-command"));
  assert.equal(missing.code, 127);
  assert.match(missing.stderr, /cannot be started \(ENOENT\)/);
  await bus.close();
});

test("a file that cannot be written any more keeps no restart from the new variables, and is said", async () => {
  const { bus, moveTo } = await fleet();
  const dir = await mkdtemp(join(folder, "gone-"));
  const ready = join(folder, "ready");
  const script = `
    if (process.env.PINECONE_ENDPOINT !== "primary") process.exit(4);
    require("node:fs").rmSync(${JSON.stringify(dir)}, { recursive: true });
    require("node:fs").writeFileSync(${JSON.stringify(ready)}, "yes");
    setInterval(() => undefined, 1000);`;
  const running = mcpf(bus, ["exec", "pinecone", "--file", join(dir, "pinecone.env"), "--", process.execPath, "-e", script]);
  for (let count = 0; !existsSync(ready); count += 1) {
    assert.ok(count < 1000, "the command never started");
    await sleep(10);
  }
  await moveTo("secondary", 1);
  const { code, stderr } = await running;
  assert.equal(code, 4, stderr);
  assert.match(stderr, /pinecone\.env cannot be written \(ENOENT\).*; the file stays as it is/);
  await bus.close();
});

test("exec --on-change signal: a command whose file cannot be written is signalled when it could be, once, and reads the new variables", async () => {
  const { bus, moveTo } = await fleet();
  const root = await mkdtemp(join(folder, "signal-"));
  const [dir, away, heard] = [join(root, "files"), join(root, "away"), join(root, "heard")];
  await mkdir(dir);
  const file = join(dir, "pinecone.env");
  const script = `
    const fs = require("node:fs");
    process.on("SIGUSR2", () => fs.appendFileSync(${JSON.stringify(heard)}, /PINECONE_ENDPOINT=(.*)/.exec(fs.readFileSync(process.env.MCPF_ENV_FILE, "utf8"))[1] + "\\n"));
    process.on("SIGHUP", () => process.exit(3));
    fs.writeFileSync(${JSON.stringify(heard)}, "ready\\n");
    setInterval(() => undefined, 1000);`;
  const running = mcpf(bus, ["exec", "pinecone", "--on-change", "signal:SIGUSR2", "--file", file, "--", process.execPath, "-e", script]);
  await untilHas(heard, "ready");
  await rename(dir, away);
  await moveTo("secondary", 1);
  await sleep(1200);
  assert.equal(await readFile(heard, "utf8"), "ready\n", "a signal would be in vain without the file");
  await rename(away, dir);
  await untilHas(heard, "secondary");
  await sleep(1200);
  process.emit("SIGHUP", "SIGHUP");
  const { code, stderr } = await running;
  assert.deepEqual([code, await readFile(heard, "utf8")], [3, "ready\nsecondary\n"], stderr);
  assert.match(
    stderr,
    /cannot be written \(ENOENT\).*; the command keeps the variables that it has, and it is tried again\n.*now pinecone\/secondary/s,
  );
  await bus.close();
});

test("exec: a restarted command whose file could not be written is not restarted again when it could be", async () => {
  const { bus, moveTo } = await fleet();
  const root = await mkdtemp(join(folder, "restart-"));
  const [dir, away, starts] = [join(root, "files"), join(root, "away"), join(root, "starts")];
  await mkdir(dir);
  const file = join(dir, "pinecone.env");
  const script = `
    require("node:fs").appendFileSync(${JSON.stringify(starts)}, process.env.PINECONE_ENDPOINT + "\\n");
    process.on("SIGHUP", () => process.exit(3));
    setInterval(() => undefined, 1000);`;
  const running = mcpf(bus, ["exec", "pinecone", "--file", file, "--", process.execPath, "-e", script]);
  await untilHas(starts, "primary");
  await rename(dir, away);
  await moveTo("secondary", 1);
  await untilHas(starts, "secondary");
  await rename(away, dir);
  await untilHas(file, "two.example");
  await sleep(1500);
  process.emit("SIGHUP", "SIGHUP");
  const { code, stderr } = await running;
  assert.deepEqual([code, await readFile(starts, "utf8")], [3, "primary\nsecondary\n"], stderr);
  await bus.close();
});

test("X1, X2, X3: a command that ignores SIGTERM is killed after its time, and the next one has the newest variables", async (t) => {
  const file = join(folder, `starts-${process.pid}`);
  const script = `
    process.on("SIGTERM", () => undefined);
    require("node:fs").appendFileSync(${JSON.stringify(file)}, process.env.N + "\\n");
    if (process.env.N === "3") process.exit(5);
    setInterval(() => undefined, 1000);`;
  const { said, child: supervised } = child(script, "restart", 100);
  t.after(() => supervised.forward("SIGKILL"));
  const starts = async (): Promise<string[]> => (await readFile(file, "utf8").catch(() => "")).split("\n").filter(Boolean);
  const env = (n: number) => ({ PATH: process.env["PATH"], N: String(n) });
  supervised.start(env(1));
  for (let count = 0; (await starts()).length < 1; count += 1) {
    assert.ok(count < 1000, "the command never started");
    await sleep(10);
  }
  supervised.change(env(2));
  supervised.change(env(3));
  assert.equal(await supervised.ended, 5);
  assert.deepEqual(await starts(), ["1", "3"]);
  assert.match(said.join(), /did not end within 100 ms and is killed/);
});

test("X4: a command that is being restarted when a person at a terminal ends it is not started again", async () => {
  const { bus, moveTo } = await fleet();
  const said = join(folder, `interrupted-${process.pid}`);
  const script = `
    const { appendFileSync, existsSync } = require("node:fs");
    if (existsSync(${JSON.stringify(said)})) process.exit(4);
    process.on("SIGTERM", () => { appendFileSync(${JSON.stringify(said)}, "asked to end\\n"); setTimeout(() => process.exit(6), 500); });
    appendFileSync(${JSON.stringify(said)}, "started\\n");
    setInterval(() => undefined, 1000);`;
  const running = mcpf(bus, ["exec", "pinecone", "--", process.execPath, "-e", script], { terminal: true });
  await untilHas(said, "started");
  await moveTo("secondary", 1);
  await untilHas(said, "asked to end");
  process.emit("SIGINT", "SIGINT");
  await moveTo("primary", 2);
  const { code, stderr } = await running;
  assert.equal(code, 6, stderr);
  assert.equal(await readFile(said, "utf8"), "started\nasked to end\n", "the terminal sent the signal to it, too");
  assert.match(stderr, /now pinecone\/primary.*; the command was told to end, and is not restarted/);
  await bus.close();
});

test("at a terminal a command gets a SIGINT from that alone, also where its output goes into a pipe", async (t) => {
  const { bus } = await fleet();
  const said = join(folder, `piped-${process.pid}`);
  const script = `
    for (const signal of ["SIGINT", "SIGUSR1"]) process.on(signal, () => process.exit(signal === "SIGINT" ? 4 : 6));
    require("node:fs").writeFileSync(${JSON.stringify(said)}, "started");
    setInterval(() => undefined, 1000);`;
  const before = process.stdin.isTTY;
  t.after(() => Object.assign(process.stdin, { isTTY: before }));
  Object.assign(process.stdin, { isTTY: true });
  const running = mcpf(bus, ["exec", "pinecone", "--", process.execPath, "-e", script]);
  await untilHas(said, "started");
  process.emit("SIGINT", "SIGINT");
  await sleep(200);
  process.emit("SIGUSR1", "SIGUSR1");
  assert.equal((await running).code, 6);
  await bus.close();
});

test("a command whose file cannot be run just when it is to be started again ends with 126, and so does one behind what is no folder", async (t) => {
  const program = join(folder, "being-written");
  await copyFile("/bin/sleep", program);
  await chmod(program, 0o755);
  const said: string[] = [];
  const of = (file: string) =>
    new SupervisedChild({ command: [file, "30"], onChange: { kind: "restart" }, stopMs: 5000, say: (text) => said.push(text) });
  const supervised = of(program);
  t.after(() => supervised.forward("SIGKILL"));
  supervised.start({ PATH: process.env["PATH"] });
  // As a deploy does it: another file under the same name, which is open for writing.
  await rm(program);
  await copyFile("/bin/sleep", program);
  await chmod(program, 0o755);
  const writing = await open(program, "r+");
  t.after(() => writing.close());
  supervised.change({ PATH: process.env["PATH"], N: "2" });
  assert.equal(await supervised.ended, 126);
  const behind = of(join(program, "x"));
  behind.start({ PATH: process.env["PATH"] });
  assert.equal(await behind.ended, 126);
  assert.match(said.join("\n"), /being-written cannot be started \(ETXTBSY\).*\n.*cannot be started \(ENOTDIR\)/);
});

test("a signal reaches the command, which ends in its own way", async (t) => {
  const file = join(folder, `listens-${process.pid}`);
  const script = `
    process.on("SIGTERM", () => process.exit(9));
    require("node:fs").writeFileSync(${JSON.stringify(file)}, "yes");
    setInterval(() => undefined, 1000);`;
  const { child: supervised } = child(script, "restart");
  supervised.start({ PATH: process.env["PATH"] });
  const ended = supervised.ended;
  t.after(() => supervised.forward("SIGKILL"));
  // A child that has not yet listened would die of it, with 143.
  for (let count = 0; !existsSync(file); count += 1) {
    assert.ok(count < 1000, "the command never started");
    await sleep(10);
  }
  supervised.forward("SIGTERM");
  assert.equal(await ended, 9);
});

test("X2: restarts are at least a second apart, however soon a change comes after the start", async (t) => {
  const file = join(folder, `restarts-${process.pid}`);
  const script = `
    if (process.env.N === "2") require("node:fs").writeFileSync(${JSON.stringify(file)}, String(Date.now()));
    if (process.env.N === "2") process.exit(6);
    setInterval(() => undefined, 1000);`;
  const { child: supervised } = child(script, "restart");
  t.after(() => supervised.forward("SIGKILL"));
  const startedMs = Date.now();
  supervised.start({ PATH: process.env["PATH"], N: "1" });
  supervised.change({ PATH: process.env["PATH"], N: "2" });
  assert.equal(await supervised.ended, 6);
  const afterMs = Number(await readFile(file, "utf8")) - startedMs;
  assert.ok(afterMs >= 995, `started again after ${afterMs} ms`);
});

test("with --on-change signal the command that runs is told by that signal, and is not started again", async (t) => {
  const file = join(folder, `told-${process.pid}`);
  const script = `
    process.on("SIGUSR2", () => process.exit(8));
    require("node:fs").writeFileSync(${JSON.stringify(file)}, "yes");
    setInterval(() => undefined, 1000);`;
  const command: [string, ...string[]] = [process.execPath, "-e", script];
  const onChange = { kind: "signal", signal: "SIGUSR2" } as const;
  const supervised = new SupervisedChild({ command, onChange, stopMs: 5000, say: () => undefined });
  t.after(() => supervised.forward("SIGKILL"));
  supervised.start({ PATH: process.env["PATH"] });
  for (let count = 0; !existsSync(file); count += 1) {
    assert.ok(count < 1000, "the command never started");
    await sleep(10);
  }
  supervised.change({ PATH: process.env["PATH"], N: "2" });
  assert.equal(await supervised.ended, 8, "by its own answer to the signal, once");
});
