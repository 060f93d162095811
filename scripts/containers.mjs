// The container suite: images, the whole of docker-compose.yml, and test/containers. Runs itself on whatever Node the machine has.
//
//   npm run test:containers [-- PATTERN...]      a part of a test file's path
//
// Without an engine it says so and ends well; so it does when base images can neither be had nor made. Only a test that fails makes it fail.
import { spawn, spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism, loadavg, tmpdir } from "node:os";
import { join, relative } from "node:path";
import { cannotRun, openEngine } from "./lib/engine.mjs";
import { ensureInstall } from "./lib/ensure-install.mjs";
import { declareRun, newRunName, removeLeftBehind } from "./lib/left-behind.mjs";
import { node24, ROOT, toolEnv } from "./lib/repo.mjs";
import { runChild, ToldToEndError, throwIfToldToEnd } from "./lib/run-child.mjs";
import { baseImages, makeStandIns, StandInError } from "./lib/stand-ins.mjs";
import { closingLine, countTests } from "./lib/test-count.mjs";

/** The whole stack is killed container by container in one test; a busy machine takes several times as long as one that has time. */
const TEST_TIMEOUT_MS = 1_500_000;
/** CI ends this after 25 minutes. What there is no time left for is told as skipped, and is no failure. */
const RUN_MS_MAX = Number(process.env["MCPF_CONTAINERS_MINUTES"] ?? 23) * 60_000;
/** A file that is begun later than this before the end would only be cut off. */
const FILE_MS_MIN = 240_000;
/** A machine that needs longer for the images is too busy for tests under load; CI's time-out would end them in the middle. */
const PREPARE_MS_MAX = 900_000;
/** These containers alone come to less than half of it, over five minutes: more wait for a core only where others are at work. */
const BUSY_LOAD = 8 * availableParallelism();
/** What a build that goes on for longer waits for is not coming. */
const BUILD_TIMEOUT_MS = 600_000;
/** Exit code where tests failed and had no second try: EX_TEMPFAIL of sysexits(3), as of the soak. 1: they failed twice, or nothing could be run at all. */
const FAILED_ONCE = 75;
const folder = join(ROOT, "test/containers");
const say = (/** @type {string} */ line) => process.stderr.write(`containers: ${line}\n`);
const startedMs = Date.now();
const sinceStart = () => `${Math.round((Date.now() - startedMs) / 1000)} s`;

try {
  await main();
} catch (error) {
  say(error instanceof Error ? (error.stack ?? error.message) : String(error));
  process.stdout.write(`containers: ${closingLine({ passed: 0, failed: 1, skipped: 0 })}\n`);
  process.exitCode = error instanceof ToldToEndError ? error.exitCode : 1;
}

async function main() {
  await ensureInstall();
  const run = newRunName();
  // In a group of its own, with a pipe from us: it does its work also when we are killed. It is there before an engine is.
  const reaper = spawn(process.execPath, [join(ROOT, "scripts/lib/container-reaper.mjs"), run], {
    stdio: ["pipe", "inherit", "inherit"],
    detached: true,
  });
  const reaped = new Promise((resolve) => reaper.once("close", resolve).once("error", resolve));
  // One that is gone is told by what it left, and no reason to stop.
  reaper.stdin.on("error", () => say("the reaper is gone: what is left is removed by the next run"));
  try {
    const engine = await openEngine({ log: say, onFolder: (engineFolder) => reaper.stdin.write(`${engineFolder}\n`) });
    if ("skipped" in engine) return skip(engine.skipped);
    const env = { ...toolEnv(), ...engine.env, MCPF_CONTAINERS: JSON.stringify({ run, compose: engine.compose }) };
    Object.assign(process.env, engine.env);
    for (const left of removeLeftBehind()) say(`removed what ${left} had left behind: it was killed`);
    declareRun(run);
    const problem = await prepareImages(run);
    if (problem !== null) return skip(problem);
    say(`images are ready after ${sinceStart()}`);
    if (Date.now() - startedMs > PREPARE_MS_MAX)
      return skip(`this machine is too busy: it took ${sinceStart()} to make the images (what can be kept is kept: run it again)`);
    await tests({ ...env, ...natsSettings() });
  } finally {
    reaper.stdin.end();
    await reaped;
    say(`everything is removed after ${sinceStart()}`);
  }
}

/** @param {string} reason */
function skip(reason) {
  const files = readdirSync(folder).filter((name) => name.endsWith(".test.ts")).length;
  process.stdout.write(`SKIPPED: the container tests did not run: ${reason}\n`);
  process.stdout.write(`containers: ${closingLine({ passed: 0, failed: 0, skipped: files })}\n`);
}

/**
 * Debian's nats-server stands in where the one that the tag names cannot be built: then the settings that it does not know are left out.
 * @returns {Record<string, string>}
 */
function natsSettings() {
  const told = spawnSync("docker", ["run", "--rm", "--network", "none", "mcp-failover-nats:local", "--version"], { encoding: "utf8" });
  const [, major = "0", minor = "0"] = /v(\d+)\.(\d+)/.exec(told.stdout ?? "") ?? [];
  say(`nats-server: ${(told.stdout || told.stderr || "").trim()}`);
  if (told.status !== 0) throw new Error("the image of nats-server does not run");
  return Number(major) > 2 || Number(minor) > 9 ? {} : { MCPF_NATS_CONF: "./infra/nats/nats-2.9.conf" };
}

/**
 * @param {string} run
 * @returns {Promise<string | null>} why this machine cannot have the images, or not run them; throws when a Dockerfile is wrong
 */
async function prepareImages(run) {
  try {
    makeStandIns();
  } catch (error) {
    if (error instanceof StandInError) return error.message;
    throw error;
  }
  const image = baseImages().find(({ repository }) => repository === "node");
  if (image === undefined) throw new Error("no file names an image of node");
  const unable = await cannotRun({ image: image.name, project: run });
  if (unable !== null) return unable;
  // An authority that npm of this machine needs is needed in the build as well (infra/docker/certificates/README.md).
  const authority = process.env["NODE_EXTRA_CA_CERTS"];
  const certificate = join(ROOT, "infra/docker/certificates/build.crt");
  const lend = authority !== undefined && existsSync(authority) && !existsSync(certificate);
  if (lend) copyFileSync(authority, certificate);
  try {
    const revision = spawnSync("git", ["rev-parse", "HEAD"], { cwd: ROOT, encoding: "utf8" }).stdout?.trim() || "unknown";
    const registry = spawnSync("npm", ["config", "get", "registry"], { cwd: ROOT, encoding: "utf8" }).stdout?.trim();
    const given = ["--build-arg", `REVISION=${revision}`, ...(registry ? ["--build-arg", `NPM_CONFIG_REGISTRY=${registry}`] : [])];
    const ours = ["--file", "infra/docker/Dockerfile", ...given];
    return (
      build("mcp-failover-nats:local", ["infra/images/nats"]) ??
      build("mcp-failover:local", [...ours, "--target", "service", "."]) ??
      build("mcp-failover-demo:local", [...ours, "--target", "demo", "."])
    );
  } finally {
    if (lend) rmSync(certificate);
  }
}

/** @param {string} image @param {string[]} args @returns {string | null} */
function build(image, args) {
  say(`building ${image}`);
  // The network of the host: the build reaches what the host reaches. Pulling is not tried: what is named is here by now.
  const built = spawnSync("nice", ["-n", "10", "docker", "build", "--network", "host", "--tag", image, ...args], {
    cwd: ROOT,
    encoding: "utf8",
    env: { ...process.env, DOCKER_BUILDKIT: "0" },
    maxBuffer: 256 * 1024 * 1024,
    timeout: BUILD_TIMEOUT_MS,
  });
  if (built.status === 0) return null;
  if (built.error !== undefined && "code" in built.error && built.error.code === "ETIMEDOUT")
    return `this machine is too busy: ${image} was not built within ${BUILD_TIMEOUT_MS / 60_000} minutes`;
  const said = `${built.stdout}${built.stderr}`.trim().split("\n").slice(-15).join("\n");
  if (
    /npm error (code|network).*(E(AI_AGAIN|CONN|TIMEDOUT|NOTFOUND|SOCKET|HOSTUNREACH|5\d\d)|network|UNABLE_TO_|SELF_SIGNED|CERT)/i.test(
      said,
    )
  ) {
    return `the npm registry cannot be reached from a build:\n${said}`;
  }
  if (/no space left on device/i.test(said)) return `the disk is too small for the images:\n${said}`;
  throw new Error(`${image} cannot be built:\n${said}`);
}

/** @param {NodeJS.ProcessEnv} env */
async function tests(env) {
  const patterns = process.argv.slice(2);
  const files = readdirSync(folder)
    .filter((name) => name.endsWith(".test.ts") && (patterns.length === 0 || patterns.some((pattern) => name.includes(pattern))))
    .sort((a, b) => rank(a) - rank(b) || a.localeCompare(b))
    .map((name) => join(folder, name));
  if (files.length === 0) throw new Error(`no test file for ${patterns.join(" ")}`);
  // One file after the other, so that none is begun that would be cut off.
  const inTime = [];
  const reports = [];
  for (const file of files) {
    if (leftMs() < FILE_MS_MIN) {
      process.stdout.write(`SKIPPED: there was no time left for ${relative(ROOT, file)} (MCPF_CONTAINERS_MINUTES)\n`);
      continue;
    }
    inTime.push(file);
    reports.push(await runFiles([file], env));
  }
  let counts = together(reports, files.length - inTime.length);
  let isCertain = true;
  if (counts.failed > 0 && leftMs() < FILE_MS_MIN) {
    isCertain = false;
    say("there is no time left for a second try (MCPF_CONTAINERS_MINUTES)");
  } else if (counts.failed > 0) {
    // Real processes on a busy machine: what passes in a second try is told, and stops nobody else's work.
    say(`trying again: ${counts.failedTests.join(", ")}`);
    const again = await runFiles(counts.failedFiles.length > 0 ? counts.failedFiles : inTime, env);
    if (again.failed === 0)
      for (const name of counts.failedTests) process.stdout.write(`FLAKY: failed, and passed when its file ran again: ${name}\n`);
    const { elsewhere: kept } = counts;
    counts = { ...again, passed: again.passed + kept.passed, skipped: again.skipped + kept.skipped };
  }
  const [, load = 0] = loadavg();
  const isUnderLoad = counts.failedTests.length > 0 && counts.failedTests.every((name) => /(whole|cluster)\.test\.ts/.test(name));
  if (isUnderLoad && load > BUSY_LOAD) {
    const failed = counts.failedTests.join(", ");
    // Servers that get no time are taken for dead, rightly, and whoever asks them is late.
    return skip(`they failed twice on a machine that is too busy to judge by (a load of ${load.toFixed(0)}): ${failed}`);
  }
  say(`${counts.passed + counts.failed} container tests ran`);
  process.stdout.write(`containers: ${closingLine(counts)}\n`);
  process.exitCode = counts.failed === 0 ? 0 : isCertain ? 1 : FAILED_ONCE;
}

/**
 * The whole stack comes first, and the cluster last: they are what most people run, and what takes longest.
 * @param {string} name
 */
function rank(name) {
  return name.startsWith("whole") ? 0 : name.startsWith("cluster") ? 2 : 1;
}

function leftMs() {
  return RUN_MS_MAX - (Date.now() - startedMs);
}

/**
 * @param {readonly import("./lib/test-count.mjs").FileCounts[]} reports
 * @param {number} notBegun files
 * @returns {import("./lib/test-count.mjs").FileCounts}
 */
function together(reports, notBegun) {
  const sum = (/** @type {(report: import("./lib/test-count.mjs").FileCounts) => number} */ of) =>
    reports.reduce((total, report) => total + of(report), 0);
  return {
    passed: sum(({ passed }) => passed),
    failed: sum(({ failed }) => failed),
    skipped: sum(({ skipped }) => skipped) + notBegun,
    silent: reports.flatMap(({ silent }) => silent),
    failedFiles: reports.flatMap(({ failedFiles }) => failedFiles),
    failedTests: reports.flatMap(({ failedTests }) => failedTests),
    elsewhere: {
      passed: sum(({ elsewhere }) => elsewhere.passed),
      failed: 0,
      skipped: sum(({ elsewhere }) => elsewhere.skipped) + notBegun,
    },
  };
}

/** @param {readonly string[]} files @param {NodeJS.ProcessEnv} env */
async function runFiles(files, env) {
  const reports = mkdtempSync(join(tmpdir(), "mcpf-containers-"));
  const report = join(reports, "events.ndjson");
  const reporter = new URL("./lib/test-reporter.mjs", import.meta.url).href;
  try {
    const code = await runChild(
      node24(),
      [
        ...["--test", "--test-concurrency=1", `--test-timeout=${Math.max(FILE_MS_MIN, Math.min(TEST_TIMEOUT_MS, leftMs()))}`],
        ...[
          "--test-reporter=spec",
          "--test-reporter-destination=stdout",
          `--test-reporter=${reporter}`,
          `--test-reporter-destination=${report}`,
        ],
        ...files,
      ],
      { cwd: ROOT, env },
    );
    throwIfToldToEnd();
    const lines = existsSync(report) ? readFileSync(report, "utf8").split("\n") : [];
    const counts = countTests(
      lines.filter((line) => line !== "").map((line) => JSON.parse(line)),
      files,
      ROOT,
    );
    return code !== 0 && counts.failed === 0 ? { ...counts, failed: 1 } : counts;
  } finally {
    rmSync(reports, { recursive: true, force: true });
  }
}
