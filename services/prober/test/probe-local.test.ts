import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { parseEnvironment } from "@mcp-failover/service-kit";
import { patientMs } from "@mcp-failover/testkit";
import { Gauge, Registry } from "prom-client";
import { proberEnvironment } from "../src/config.ts";
import { openReports } from "../src/probes/heartbeat.ts";
import { metricSum } from "../src/probes/metrics-text.ts";
import type { Target } from "../src/targets.ts";
import { resultOf, runnerFor, targetOf } from "./probe-kit.ts";
import { fakeServer } from "./servers.ts";

const node = process.execPath;

async function folderFor(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "mcpf-probes-"));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}
const isRunning = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};
const exec = (command: string, more: object = {}, expect: object[] = []) => targetOf({ type: "exec", exec: { command, ...more }, expect });

test("exec: 0 is well, a configured code degraded, any other down; the output is for assertions, and what is not allowed here says nothing", async (t) => {
  const execAllow = new Map<string, [string, ...string[]]>([
    ["well", [node, "-e", "console.log(JSON.stringify({free: 12}))"]],
    ["warns", [node, "-e", "process.exit(3)"]],
    ["gone", ["/no/such/program"]],
    ["no_folder", [join(node, "program")]],
    ["looks", [node, "-e", "console.log(JSON.stringify(process.env))"]],
  ]);
  const runner = runnerFor(t, { execAllow });
  const slow = { timeoutMs: 10_000 };
  assert.equal((await resultOf(runner, exec("well"), slow)).outcome, "ok");
  const low = await resultOf(runner, exec("well", {}, [{ of: "json", path: "$.free", min: 20 }]), slow);
  assert.deepEqual([low.outcome, low.error], ["hard", "JSON $.free: expected at least 20; saw 12"]);
  const failed = await resultOf(runner, exec("warns"), slow);
  assert.deepEqual([failed.outcome, failed.error], ["hard", "the command warns exited with 3; expected 0"]);
  const warned = await resultOf(runner, exec("warns", { degraded_exit_codes: [1, 3] }), slow);
  assert.deepEqual([warned.outcome, warned.degraded?.detail], ["ok", "the command warns exited with 3; expected 0"]);
  for (const command of ["gone", "no_folder", "never_named"]) {
    const none = await runner.probe(exec(command), { fresh: false, timeoutMs: 1000 });
    assert.deepEqual([none.kind, none.kind === "not_made" && none.reason], ["not_made", "not_allowed"]);
  }
  const expected = [
    { of: "json", path: "$.MCPF_ENDPOINT", equals: "one" },
    { of: "json", path: "$.MCPF_UPSTREAM", equals: "up" },
    { of: "json", path: "$.HOME", exists: false },
  ];
  assert.equal((await resultOf(runner, exec("looks", {}, expected), slow)).error, null, "a bare environment");
});

test("exec: at the time-out the whole process group is killed, grandchildren too", async (t) => {
  const folder = await folderFor(t);
  const file = join(folder, "pids");
  const script = `
    const { spawn } = require("node:child_process");
    const child = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"], { stdio: "inherit" });
    require("node:fs").writeFileSync(${JSON.stringify(file)}, process.pid + " " + child.pid);
    setInterval(() => {}, 1000);`;
  const runner = runnerFor(t, { execAllow: new Map([["hangs", [node, "-e", script]]]) });
  const result = await resultOf(runner, exec("hangs"), { timeoutMs: 5000 });
  assert.deepEqual([result.outcome, result.code], ["hard", "timeout"]);
  const pids = (await readFile(file, "utf8")).split(" ").map(Number);
  assert.equal(pids.length, 2);
  for (let n = 0; n < 100 && pids.some(isRunning); n += 1) await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(pids.filter(isRunning), []);
});

test("exec: what a command leaves in its group is ended with it, and of what it prints no more is kept than is read", async (t) => {
  const folder = await folderFor(t);
  const file = join(folder, "left");
  const leaves = `
    const { spawn } = require("node:child_process");
    const child = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"], { stdio: "ignore" });
    child.unref();
    require("node:fs").writeFileSync(${JSON.stringify(file)}, String(child.pid));`;
  const execAllow = new Map<string, [string, ...string[]]>([
    ["leaves", [node, "-e", leaves]],
    ["floods", ["/bin/sh", "-c", "head -c 50000000 /dev/zero | tr '\\0' x; echo END"]],
  ]);
  const runner = runnerFor(t, { execAllow });
  assert.equal((await resultOf(runner, exec("leaves"), { timeoutMs: 10_000 })).outcome, "ok");
  const pid = Number(await readFile(file, "utf8"));
  for (let n = 0; n < 100 && isRunning(pid); n += 1) await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(isRunning(pid), false);
  const flood = exec("floods", {}, [{ of: "body", contains: "xxx", not_contains: "END" }]);
  const { outcome, error } = await resultOf(runner, flood, { timeoutMs: 20_000 });
  assert.equal(outcome, "ok", String(error).slice(0, 200));
});

test("exec: a daemon that a command leaves behind in a group of its own keeps no probe waiting, neither after its end nor at the time-out", async (t) => {
  const folder = await folderFor(t);
  const pids: number[] = [];
  t.after(() => {
    for (const pid of pids) if (isRunning(pid)) process.kill(pid, "SIGKILL");
  });
  const script = (file: string, then: string) => `
    const { spawn } = require("node:child_process");
    const daemon = spawn(process.execPath, ["-e", "setTimeout(() => {}, 60_000)"], { stdio: "inherit", detached: true });
    daemon.unref();
    require("node:fs").writeFileSync(${JSON.stringify(join(folder, file))}, String(daemon.pid));
    ${then}`;
  const execAllow = new Map<string, [string, ...string[]]>([
    ["ends", [node, "-e", script("ends", "")]],
    ["hangs", [node, "-e", script("hangs", "setInterval(() => {}, 1000);")]],
  ]);
  const runner = runnerFor(t, { execAllow });
  const ended = await resultOf(runner, exec("ends"), { timeoutMs: 10_000 });
  pids.push(Number(await readFile(join(folder, "ends"), "utf8")));
  assert.equal(ended.outcome, "ok");
  assert.ok(ended.responseTimeMs < patientMs(9000), `${ended.responseTimeMs}`);
  const hung = await resultOf(runner, exec("hangs"), { timeoutMs: 5000 });
  pids.push(Number(await readFile(join(folder, "hangs"), "utf8")));
  assert.deepEqual([hung.outcome, hung.code], ["hard", "timeout"]);
});

test("MCPF_EXEC_ALLOW and the report's address are read from the environment, and what is wrong is named without its value", () => {
  const read = (env: Record<string, string>) => parseEnvironment(proberEnvironment, env);
  assert.deepEqual(read({ MCPF_EXEC_ALLOW: '{"disk":["/bin/df","-h"]}', MCPF_REPORT_PORT: "0" }), {
    MCPF_EXEC_ALLOW: new Map([["disk", ["/bin/df", "-h"]]]),
    MCPF_REPORT_PORT: 0,
  });
  for (const wrong of ["disk", '{"disk":"df -h"}', '{"disk":[]}', '{"a b":["x"]}']) {
    assert.throws(() => read({ MCPF_EXEC_ALLOW: wrong }), /MCPF_EXEC_ALLOW: give JSON: a name for each command line/);
  }
});

test("resource: a metric of a real registry, a share of another, a JSON value, over the limit degraded or as configured", async (t) => {
  const registry = new Registry();
  const memory = new Gauge({ name: "process_resident_memory_bytes", help: "memory", labelNames: ["pod"], registers: [registry] });
  const limit = new Gauge({ name: "memory_limit_bytes", help: "limit", registers: [registry] });
  memory.set({ pod: "a" }, 600);
  memory.set({ pod: "b" }, 100);
  limit.set(1000);
  const server = await fakeServer((request, response) => {
    if (request.url === "/json") response.end(JSON.stringify({ memory: { rss: 900 } }));
    else void registry.metrics().then((text) => response.end(text));
  });
  t.after(() => server.kill());
  const runner = runnerFor(t);
  const probe = (resource: object, path = "/metrics") => resultOf(runner, targetOf({ type: "resource", path, resource }, server.url));
  const metric = "process_resident_memory_bytes";
  assert.equal((await probe({ metric, limit: 1000 })).degraded, undefined, "700 of 1000");
  const over = await probe({ metric, limit: 800 });
  assert.deepEqual(
    [over.outcome, over.degraded],
    ["ok", { code: "resource", detail: "process_resident_memory_bytes: expected at most 80 % of 800; saw 700 (87.5 %)" }],
  );
  assert.equal((await probe({ metric, labels: { pod: "b" }, limit: 800 })).degraded, undefined);
  assert.equal((await probe({ metric, limit_metric: "memory_limit_bytes", ratio_max: 0.7 })).degraded, undefined);
  const hard = await probe({ metric, limit_metric: "memory_limit_bytes", ratio_max: 0.6, severity: "hard" });
  assert.deepEqual([hard.outcome, hard.error], ["hard", "process_resident_memory_bytes: expected at most 60 % of 1000; saw 700 (70 %)"]);
  assert.equal((await probe({ json: "$.memory.rss", limit: 1000 }, "/json")).degraded?.code, "resource");
});

test("resource: a number that is not there says that the endpoint answers: degraded with what is missing, or what the configuration calls it; a page of something else is malformed", async (t) => {
  const pages: Record<string, string> = {
    "/metrics": 'used{pod="a"} NaN\nopen 3\nmost NaN\nboth +Inf\nboth{of="other"} -Inf\n',
    "/none": "# EOF\n",
    "/empty": "",
    "/json": JSON.stringify({ memory: { rss: "900" } }),
    "/html": "<html><body>used 5</body></html>",
  };
  const server = await fakeServer((request, response) => response.end(pages[request.url ?? ""]));
  t.after(() => server.kill());
  const runner = runnerFor(t);
  const probe = (resource: object, path = "/metrics", more: object = {}) =>
    resultOf(runner, targetOf({ type: "resource", path, resource, ...more }, server.url));
  const told = (what: string) => ({ code: "resource", detail: `expected a number to compare; saw ${what} at the metrics URL` });
  for (const [resource, path, what] of [
    [{ metric: "gone", limit: 1 }, "/metrics", "no sample of gone"],
    [{ metric: "gone", limit: 1, severity: "hard" }, "/metrics", "no sample of gone"],
    [{ metric: "used", limit: 1 }, "/metrics", "no sample of used"],
    [{ metric: "both", limit: 1 }, "/metrics", "no sample of both"],
    [{ metric: "open", limit_metric: "most" }, "/metrics", "no sample of most"],
    [{ metric: "used", limit: 1 }, "/none", "no sample of used"],
    [{ metric: "used", limit: 1 }, "/empty", "no sample of used"],
    [{ json: "$.memory.rss", limit: 1 }, "/json", "no number at $.memory.rss"],
  ] as const) {
    const found = await probe(resource, path);
    assert.deepEqual([found.outcome, found.degraded], ["ok", told(what)], JSON.stringify([resource, path]));
    assert.equal((await probe({ ...resource, missing: "ok" }, path)).degraded, undefined);
    const hard = await probe({ ...resource, missing: "hard" }, path);
    assert.deepEqual([hard.outcome, hard.code, hard.error], ["hard", "other", told(what).detail]);
  }
  for (const [resource, path] of [
    [{ metric: "used", limit: 1 }, "/html"],
    [{ metric: "used", limit: 1 }, "/json"],
    [{ json: "$.memory.rss", limit: 1 }, "/html"],
  ] as const) {
    const { outcome, code } = await probe({ ...resource, missing: "ok" }, path);
    assert.deepEqual([outcome, code], ["hard", "malformed"], path);
  }
  const asked = await probe({ metric: "gone", limit: 1, missing: "ok" }, "/metrics", { expect: [{ of: "json", path: "$.value", min: 0 }] });
  assert.equal(asked.outcome, "hard", "what the configuration expects of the number is another matter");
});

test("resource: a limit that is none, as a container's without one is told, is not exceeded, whatever is used", async (t) => {
  let text = "";
  const server = await fakeServer((_, response) => response.end(text));
  t.after(() => server.kill());
  const runner = runnerFor(t);
  const target = (expect: object[]) =>
    targetOf(
      { type: "resource", path: "/metrics", expect, resource: { metric: "used", limit_metric: "most", severity: "hard" } },
      server.url,
    );
  const probe = () => resultOf(runner, target([{ of: "json", path: "$.ratio", max: 0.5 }]));
  for (const [used, most] of [
    [123_456, 0],
    [0, 0],
    [123_456, -1],
    [123_456, "+Inf"],
    ["+Inf", "+Inf"],
  ]) {
    text = `used ${used}\nmost ${most}\n`;
    const { outcome, degraded, error } = await probe();
    assert.deepEqual([outcome, degraded, error], ["ok", undefined, null], text);
  }
  text = "used 900\nmost 1000\n";
  assert.equal((await probe()).outcome, "hard");
});

test("resource: a limit for each is the one of the same labels, and one for all has none", async (t) => {
  const text = 'used{pod="a"} 95\nused{pod="b"} 5\nmost{pod="a"} 100\nmost{pod="b"} 900\nwhole 100\n';
  const server = await fakeServer((_, response) => response.end(text));
  t.after(() => server.kill());
  const runner = runnerFor(t);
  const probe = (resource: object) => resultOf(runner, targetOf({ type: "resource", path: "/", resource }, server.url));
  const of = (pod: string) => ({ metric: "used", labels: { pod } });
  assert.match((await probe({ ...of("a"), limit_metric: "most" })).degraded?.detail ?? "", /saw 95 \(95 %\)/);
  assert.equal((await probe({ ...of("b"), limit_metric: "most" })).degraded, undefined);
  assert.equal((await probe({ metric: "used", limit_metric: "most" })).degraded, undefined, "100 of 1000");
  assert.match((await probe({ ...of("a"), limit_metric: "whole" })).degraded?.detail ?? "", /of 100; saw 95/);
});

test("resource: a page that was not read to its end says nothing of a share", async (t) => {
  const line = (index: number): string => `app_bytes{shard="${index}",pad="${"x".repeat(80)}"} 1000000\n`;
  const pages = [
    Array.from({ length: 12_000 }, (_, index) => line(index)).join(""),
    JSON.stringify({ used: 5, pad: "x".repeat(1_100_000) }),
  ];
  const server = await fakeServer((request, response) => response.end(pages[request.url === "/json" ? 1 : 0]));
  t.after(() => server.kill());
  for (const probe of [
    { path: "/metrics", resource: { metric: "app_bytes", limit: 12_500_000_000 } },
    { path: "/metrics", resource: { metric: "behind_the_cut", limit: 1 } },
    { path: "/json", resource: { json: "$.used", limit: 10 } },
  ]) {
    const found = await runnerFor(t).probe(targetOf({ type: "resource", ...probe }, server.url), { fresh: false, timeoutMs: 5000 });
    assert.ok(found.kind === "not_made" && found.reason === "too_large", JSON.stringify(found));
    assert.match(found.detail, /is over 1048576 bytes/);
  }
});

test("resource: the memory of a process by its pid file; one that is gone is down", { skip: process.platform !== "linux" }, async (t) => {
  const folder = await folderFor(t);
  const pid_file = join(folder, "server.pid");
  const child = spawn(node, ["-e", "setInterval(() => {}, 1000)"], { stdio: "ignore" });
  t.after(() => child.kill("SIGKILL"));
  await writeFile(pid_file, `${child.pid}\n`);
  const runner = runnerFor(t);
  const probe = (limit: number) => resultOf(runner, targetOf({ type: "resource", resource: { pid_file, limit } }));
  const endless = await runner.probe(targetOf({ type: "resource", resource: { pid_file: "/dev/zero", limit: 1 } }), {
    fresh: false,
    timeoutMs: 2000,
  });
  assert.match(endless.kind === "not_made" ? endless.detail : "made", /^\/dev\/zero holds no process id$/);
  assert.equal((await probe(4_000_000_000)).degraded, undefined);
  assert.match((await probe(1_000_000)).degraded?.detail ?? "", /^resident memory: expected at most 80 % of 1000000; saw \d+ \(/);
  child.kill("SIGKILL");
  await new Promise((resolve) => child.once("exit", resolve));
  assert.deepEqual([(await probe(1_000_000)).outcome, (await probe(1_000_000)).error], ["hard", `no process is running by ${pid_file}`]);
});

test("Prometheus text: samples of exactly one metric are summed, labels with commas and quotes are read, numbers in every form", () => {
  const text = [
    "# HELP up is up",
    "up 1",
    "up_total 50",
    'up{path="/a,b=\\"c\\"",x="1"} 2e1 1700000000000',
    'up{x="2"} 3',
    'up{x="2"} NaN',
    "free +Inf",
    'seen_total{a="}"} 5 # {trace="x"} 1',
    "seen_total 6 1.5 # {} 2",
  ].join("\n");
  assert.equal(metricSum(text, "up", {}), 24);
  assert.equal(metricSum(text, "up", { path: '/a,b="c"' }), 20);
  assert.equal(metricSum(text, "up", { x: "2" }), 3);
  assert.equal(metricSum(text, "free", {}), Number.POSITIVE_INFINITY);
  assert.equal(metricSum(text, "u", {}), null);
  assert.equal(metricSum(text, "seen_total", {}), 11, "an exemplar of OpenMetrics is no sample");
  assert.equal(metricSum(text, "seen_total", { a: "}" }), 5);
});

test("heartbeat: silence says nothing before the endpoint could have broken it, as where a report is expected since now only", async (t) => {
  let clockMs = 0;
  const reports = openReports(() => clockMs);
  const runner = runnerFor(t, { reports });
  const expecting = (token: string) => targetOf({ type: "heartbeat", heartbeat: { token: { secret: token }, max_age_ms: 15_000 } });
  const told = async (target: Target): Promise<string> => {
    const probe = await runner.probe(target, { fresh: false, timeoutMs: 5000 });
    return probe.kind === "made" ? probe.result.outcome : probe.reason;
  };
  const configure = (target: Target): void => runner.retain(new Map([[target.key, target]]));
  configure(targetOf({ type: "tcp" }));
  clockMs += 3_600_000;
  const target = expecting("TOKEN");
  configure(target);
  assert.equal(await told(target), "waiting", "until now its reports were refused");
  clockMs += 15_000;
  configure(expecting("TOKEN"));
  assert.equal(await told(target), "waiting");
  clockMs += 1;
  assert.equal(await told(target), "hard");
  reports.take("up/one", { status: "ok", detail: null });
  assert.equal(await told(target), "ok");
  const another = expecting("ANOTHER_TOKEN");
  configure(another);
  assert.equal(await told(another), "waiting", "what came with the old token says nothing of the new one");
  clockMs += 15_001;
  assert.equal(await told(another), "hard");
});

test("heartbeat: silence is down after its time, and says nothing before this prober could have heard one; a target may say itself how it is", async (t) => {
  let clockMs = 0;
  const reports = openReports(() => clockMs);
  const runner = runnerFor(t, { reports });
  const target = targetOf({ type: "heartbeat", heartbeat: { token: { secret: "TOKEN" }, max_age_ms: 15_000 } });
  const early = await runner.probe(target, { fresh: false, timeoutMs: 1000 });
  assert.deepEqual([early.kind, early.kind === "not_made" && early.reason], ["not_made", "waiting"]);
  clockMs += 15_001;
  const never = await resultOf(runner, target);
  assert.deepEqual([never.outcome, never.error], ["hard", "no heartbeat: expected one every 15000 ms, none was ever heard"]);
  const report = (status: "ok" | "degraded" | "failing", detail: string | null = null) => reports.take("up/one", { status, detail });
  report("ok");
  clockMs += 15_000;
  assert.equal((await resultOf(runner, target)).outcome, "ok");
  clockMs += 1;
  const silent = await resultOf(runner, target);
  assert.deepEqual(
    [silent.outcome, silent.code, silent.error],
    ["hard", "timeout", "no heartbeat: expected one every 15000 ms, the last one is 15001 ms old"],
  );
  report("degraded", "the queue is long");
  assert.deepEqual((await resultOf(runner, target)).degraded, {
    code: "reported",
    detail: "it reports that it is degraded: the queue is long",
  });
  report("failing");
  assert.equal((await resultOf(runner, target)).outcome, "hard");
});
