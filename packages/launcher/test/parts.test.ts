import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { ConfigError, type LocalProcess, parseTopology } from "@mcp-failover/contracts";
import { eventually } from "@mcp-failover/testkit";
import fc from "fast-check";
import { secretsOf, serviceEnvironment, variablesIn } from "../src/child-environment.ts";
import { lockDataDir, sessionKey } from "../src/data-dir.ts";
import { lineCutter, openLogFile, summaryOf } from "../src/log-file.ts";
import { parseOptions, UsageError } from "../src/options.ts";
import { planPorts, portProblems } from "../src/ports.ts";
import { readConfig } from "../src/read-config.ts";
import { backoffMs, type Supervised, type SupervisionEvents, supervise } from "../src/supervised.ts";
import { withoutPasswords } from "../src/without-passwords.ts";

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "mcpf-parts-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** A real process that runs a script of Node's, up as soon as it is asked. */
function superviseScript(cwd: string, script: string, events: Partial<SupervisionEvents> = {}): Supervised {
  return supervise(
    {
      name: "script",
      kind: "upstream",
      command: [process.execPath, "-e", script],
      cwd,
      env: {},
      restartAfterMs: 0,
      isUp: async () => true,
      endpoint: null,
      faultProxy: null,
      parentPipe: false,
    },
    join(cwd, "log"),
    {
      onSpawn: () => undefined,
      onGone: () => undefined,
      onCrash: () => undefined,
      onLine: () => undefined,
      onLogProblem: () => undefined,
      ...events,
    },
  );
}

test("a log never takes more than twice its limit, and loses only what is oldest", (t) => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 80 }), (lengths) => {
      const file = join(folder(t), "log");
      const log = openLogFile(file, { bytesMax: 100 });
      let written = "";
      lengths.forEach((length, index) => {
        const line = String(index % 10).repeat(length);
        log.write(line);
        written += line;
        assert.ok(statSync(file).size <= 100);
        assert.ok(!existsSync(`${file}.1`) || statSync(`${file}.1`).size <= 100);
      });
      log.close();
      const kept = (existsSync(`${file}.1`) ? readFileSync(`${file}.1`, "utf8") : "") + readFileSync(file, "utf8");
      assert.ok(written.endsWith(kept));
      assert.ok(kept.length >= Math.min(written.length, 40));
    }),
    { numRuns: 50 },
  );
});

test("a log that cannot be written ends nothing: its lines are lost, that is said once, and it goes on when it can", (t) => {
  const logs = join(folder(t), "logs");
  mkdirSync(logs);
  const problems: string[] = [];
  const log = openLogFile(join(logs, "log"), { bytesMax: 10, onProblem: (problem) => problems.push(problem) });
  log.write("12345678");
  renameSync(logs, `${logs}.away`);
  for (let line = 0; line < 3; line += 1) log.write("abcdefgh");
  assert.equal(problems.length, 1, problems.join());
  assert.match(problems[0] ?? "", /ENOENT.*are lost/);
  mkdirSync(logs);
  log.write("and on");
  assert.match(readFileSync(join(logs, "log"), "utf8"), /^--- .* 24 bytes .*lost.*\nand on$/);
  rmSync(logs, { recursive: true });
  log.write("abcdefgh");
  log.write("abcdefgh");
  assert.equal(problems.length, 2, "each time that it begins");
  log.close();
});

test("the disk being full for its log, a process runs on, and what it says is still heard", {
  skip: !existsSync("/dev/full"),
}, async (t) => {
  const cwd = folder(t);
  // A link, so that whatever is done to the file is never done to the device.
  symlinkSync("/dev/full", join(cwd, "log"));
  const heard: string[] = [];
  const problems: string[] = [];
  const supervised = superviseScript(cwd, "setInterval(() => console.log('still here'), 20)", {
    onLine: (line) => heard.push(line),
    onLogProblem: (problem) => problems.push(problem),
  });
  t.after(() => supervised.destroy());
  supervised.start();
  await eventually(() => heard.length > 3);
  assert.equal(supervised.info().restarts, 0);
  assert.equal(problems.length, 1, problems.join());
  assert.match(problems[0] ?? "", /ENOSPC/);
});

test("a start that comes before a killed process is gone brings it back at once, and until then nobody is told that it runs", async (t) => {
  const supervised = superviseScript(folder(t), "setInterval(() => undefined, 1000)");
  t.after(() => supervised.destroy());
  supervised.start();
  await eventually(() => supervised.info().state === "running");
  const { pid } = supervised.info();
  // In one turn of the loop, as requests are answered that waited in one socket.
  assert.equal(supervised.kill({ restartAfterMs: 60_000 }), true);
  assert.equal(supervised.info().state, "backing_off");
  supervised.start();
  assert.equal(supervised.info().state, "backing_off");
  await eventually(() => supervised.info().state === "running");
  assert.notEqual(supervised.info().pid, pid);
  // And a kill after that start is the last word again.
  supervised.kill({ restartAfterMs: 0 });
  supervised.start();
  supervised.kill({ restartAfterMs: 60_000 });
  await eventually(() => supervised.info().pid === null);
  await sleep(300);
  assert.equal(supervised.info().state, "backing_off");
});

test("lines come whole whatever the chunks, and a line without end does not fill the memory", () => {
  fc.assert(
    fc.property(fc.array(fc.stringMatching(/^[a-z\n]{0,12}$/), { maxLength: 30 }), (chunks) => {
      const lines: string[] = [];
      const cut = lineCutter((line) => lines.push(line));
      for (const chunk of chunks) cut(chunk);
      cut("\n");
      assert.deepEqual(
        lines,
        chunks
          .join("")
          .split("\n")
          .filter((line) => line !== ""),
      );
    }),
  );
  const lines: string[] = [];
  const cut = lineCutter((line) => lines.push(line), 10);
  for (let i = 0; i < 1000; i += 1) cut("xxxxx");
  cut("\n");
  assert.deepEqual(
    lines.map((line) => line.length),
    [10],
  );
});

test("of a service's log only warnings and worse reach the terminal, in one short line", () => {
  assert.equal(summaryOf('{"level":"info","msg":"started"}'), null);
  assert.equal(summaryOf("plain text"), null);
  assert.equal(summaryOf('{"broken'), null);
  assert.equal(summaryOf('{"level":"warn","msg":"readiness","condition":"bus","reason":"gone"}'), null);
  assert.deepEqual(summaryOf('{"level":"warn","msg":"cannot","reason":"gone"}'), { level: "warn", text: "cannot: gone" });
  assert.deepEqual(summaryOf('{"level":"fatal","msg":"could not start","err":{"message":"why"}}'), {
    level: "error",
    text: "could not start: why",
  });
  assert.ok((summaryOf(JSON.stringify({ level: "error", msg: "m".repeat(5000) }))?.text.length ?? 0) <= 300);
});

test("pauses between restarts double from 100 ms to 10 s, and are never shorter than the process's own time", () => {
  assert.deepEqual(
    [1, 2, 3, 4, 8, 30, 1000].map((n) => backoffMs(n, 0)),
    [100, 200, 400, 800, 10_000, 10_000, 10_000],
  );
  assert.equal(backoffMs(1, 20_000), 20_000);
});

test("of many that find a dead stack's lock at once, exactly one takes the data directory over", async (t) => {
  const dataDir = folder(t);
  // A process that has ended, so that its number and start time name nobody.
  writeFileSync(join(dataDir, "launcher.lock"), `${JSON.stringify({ pid: process.pid, start: "long ago" })}\n`);
  const script = fileURLToPath(new URL("./fixtures/take-lock.ts", import.meta.url));
  const atMs = Date.now() + 2500;
  const racers = Array.from({ length: 8 }, () => {
    const child: ChildProcess = spawn(process.execPath, [script, dataDir, String(atMs)], { stdio: ["pipe", "pipe", "inherit"] });
    t.after(() => child.kill("SIGKILL"));
    const closed = new Promise((resolve) => child.once("close", resolve));
    const said = new Promise<string>((resolve) => child.stdout?.once("data", (text: Buffer) => resolve(text.toString().trim())));
    return { child, closed, said };
  });
  const said = await Promise.all(racers.map((racer) => racer.said));
  // The winner need not be the one who cleared the dead lock away.
  const winners = said.filter((word) => word.startsWith("won"));
  assert.equal(winners.length, 1, said.join(", "));
  assert.equal(said.filter((word) => word === "data_dir_in_use").length, 7, said.join(", "));
  for (const { child } of racers) child.stdin?.end();
  await Promise.all(racers.map(({ closed }) => closed));
  lockDataDir(dataDir).release();
  assert.ok(!existsSync(join(dataDir, "launcher.lock")));
});

test("the key of the sessions is made once and read by its owner alone; what is no key is replaced", (t) => {
  const dataDir = folder(t);
  const key = sessionKey(dataDir);
  assert.match(key, /^[0-9a-f]{64}$/);
  assert.equal(sessionKey(dataDir), key);
  assert.equal(statSync(join(dataDir, "session.key")).mode & 0o777, 0o600);
  writeFileSync(join(dataDir, "session.key"), "cut o");
  assert.notEqual(sessionKey(dataDir), key);
});

test("defaults are taken from the repository, paths from where the caller stands, and wrong flags are refused", () => {
  const places = { root: "/repo", from: "/home/me", env: {} };
  assert.deepEqual(parseOptions([], places), {
    configFile: "/repo/examples/local/failover.yaml",
    dataDir: "/repo/.mcpf",
    portBase: 7300,
    environment: "development",
  });
  assert.deepEqual(parseOptions(["--config", "f.yaml", "--data-dir=d", "--port-base", "9000", "--env", "production"], places), {
    configFile: "/home/me/f.yaml",
    dataDir: "/home/me/d",
    portBase: 9000,
    environment: "production",
  });
  assert.equal(parseOptions([], { ...places, env: { MCPF_ENV: "production" } })?.environment, "production");
  assert.equal(parseOptions(["--help"], places), null);
  for (const args of [["--port-base", "x"], ["--port-base", "80"], ["--port-base", "65000"], ["--unknown"], ["stray"], ["--env", "test"]])
    assert.throws(() => parseOptions(args, places), UsageError, args.join(" "));
});

test("of the addresses of servers no password is shown, of however many and whatever is in it", () => {
  const shown = {
    "nats://127.0.0.1:4222": "nats://127.0.0.1:4222",
    "nats://a:4222,nats://b:4222, tls://c:4222": "nats://a:4222,nats://b:4222,tls://c:4222",
    "nats://mcpf:s3cret-one@a:4222,tls://mcpf:s3cret-two@b:4222": "nats://a:4222,tls://b:4222",
    "nats://s3cret-token@a:4222": "nats://a:4222",
    "nats://mcpf:s3cret/one@a:4222,nats://mcpf:s3cret@two@b:4222": "nats://a:4222,nats://b:4222",
    "redis://:s3cret,one@a:6379/0": "redis://a:6379/0",
    "mcpf:s3cret@a:4222": "a:4222",
    "nats://mcpf:s3cret@a:4222,mcpf:s3cret@b:4222": "nats://b:4222",
  };
  for (const [given, expected] of Object.entries(shown)) assert.equal(withoutPasswords(given), expected);
});

test("local processes that would take each other's ports, the stack's, or each other's variable are refused with a free offset", () => {
  const local = (name: string, port_offset: number, fault_proxy = false): LocalProcess => ({
    name,
    port_offset,
    fault_proxy,
    command: ["node"],
    env: {},
    restart_after_ms: 0,
  });
  assert.deepEqual(portProblems([local("a", 10, true), local("b", 11, true), local("c", 12)]), []);
  const problems = (...processes: LocalProcess[]) => portProblems(processes).map(({ path, message }) => `${path}: ${message}`);
  assert.deepEqual(problems(local("a", 2)), ["local.processes.0.port_offset: offset 2 belongs to nats-server; 10 is free"]);
  assert.deepEqual(problems(local("a", 10), local("b", 10)), ["local.processes.1.port_offset: offset 10 belongs to a; 11 is free"]);
  assert.deepEqual(problems(local("a", 10, true), local("b", 510)), ["local.processes.1.port_offset: offset 510 belongs to a; 11 is free"]);
  assert.match(problems(local("a", 65)).join(), /health ports/);
  assert.match(
    problems(local("a-b", 10), local("A_B", 11)).join(),
    /local\.processes\.1\.name: A_B and a-b share the variable MCPF_PORT_A_B/,
  );
});

test("a child gets no variable that it does not need", () => {
  const { topology } = parseTopology(
    `
upstreams:
  u:
    kind: http
    endpoints: [{ name: a, tier: 0, url: "http://a", headers: { k: { secret: ENDPOINT_KEY } }, auth: { username: x, password: { secret: MCPF_PASSWORD } }, probe: { headers: { k: { secret: PROBE_KEY } } } }]
    probe: { type: heartbeat, heartbeat: { max_age_ms: 1000, token: { secret: BEAT } } }
    tools: { t: { legacy: { url: "http://l", headers: { k: { secret: LEGACY_KEY } } } } }
agents: { a: { tokens: [{ secret: AGENT_TOKEN }] } }
notifications: { channels: [{ name: w, type: webhook, url: { secret: HOOK_URL }, headers: { k: { secret: HOOK_KEY } } }] }
`,
    { file: "f", env: {} },
  );
  assert.deepEqual(secretsOf("prober", topology), ["ENDPOINT_KEY", "MCPF_PASSWORD", "PROBE_KEY", "BEAT"]);
  assert.deepEqual(secretsOf("router", topology), ["ENDPOINT_KEY", "MCPF_PASSWORD", "LEGACY_KEY", "AGENT_TOKEN"]);
  assert.deepEqual(secretsOf("notifier", topology), ["HOOK_URL", "HOOK_KEY"]);
  assert.deepEqual(secretsOf("bootstrap", topology).sort(), [
    "AGENT_TOKEN",
    "BEAT",
    "ENDPOINT_KEY",
    "HOOK_KEY",
    "HOOK_URL",
    "LEGACY_KEY",
    "MCPF_PASSWORD",
    "PROBE_KEY",
  ]);
  for (const service of ["state-store", "console", "failover-controller", "chaos-runner"])
    assert.deepEqual(secretsOf(service, topology), []);
  const env = {
    PATH: "/bin",
    MCPF_LOG_LEVEL: "debug",
    MCPF_PASSWORD: "p",
    MCPF_SESSION_KEY: "k",
    AWS_SECRET_ACCESS_KEY: "s",
    ENDPOINT_KEY: "e",
    OTEL_EXPORTER_OTLP_HEADERS: "key=of-the-collector",
    MCPF_EXEC_ALLOW: "{}",
    MCPF_PROBE_TOKEN: "t",
    MCPF_CONSOLE_TOKEN: "c",
  };
  assert.deepEqual(serviceEnvironment(env, topology, "router"), {
    PATH: "/bin",
    MCPF_LOG_LEVEL: "debug",
    OTEL_EXPORTER_OTLP_HEADERS: "key=of-the-collector",
    MCPF_PROBE_TOKEN: "t",
  });
  assert.deepEqual(serviceEnvironment(env, topology, "prober"), {
    PATH: "/bin",
    MCPF_LOG_LEVEL: "debug",
    MCPF_EXEC_ALLOW: "{}",
    MCPF_PROBE_TOKEN: "t",
  });
  assert.deepEqual(serviceEnvironment(env, topology, "console"), { PATH: "/bin", MCPF_LOG_LEVEL: "debug", MCPF_CONSOLE_TOKEN: "c" });
  // biome-ignore lint/suspicious/noTemplateCurlyInString: it is the configuration's own syntax
  assert.deepEqual(variablesIn("url: ${HOST:-x}/${PATH}/$PATH/${UNSET}", { HOST: "h", PATH: "p", OTHER: "o" }), { HOST: "h", PATH: "p" });
});

test("a configuration that grows without bound by its aliases, or has one of nothing, is refused as any other that is wrong: with its file and a sentence", (t) => {
  const file = join(folder(t), "failover.yaml");
  const ten = (name: string): string => `[${Array(10).fill(`*${name}`).join(",")}]`;
  const bomb = ["a: &a [1]", ...["ab", "bc", "cd", "de"].map(([from = "", to]) => `${to}: &${to} ${ten(from)}`)].join("\n");
  for (const [text, said] of [
    [bomb, /alias/i],
    ["local: *nothing", /nothing/],
  ] as const) {
    writeFileSync(file, text);
    const read = (): unknown => readConfig(file, { ports: planPorts(7300), env: {}, hasSecret: () => true });
    assert.throws(read, (error) => {
      assert.ok(error instanceof ConfigError, String(error));
      assert.ok(error.message.includes(file), error.message);
      assert.match(error.message, said);
      return true;
    });
  }
});
