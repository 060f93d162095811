import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

/**
 * The container engine that a run uses: one that answers already, else Debian's, started by us under a folder of its own. It is never a
 * service of the system: whoever started it ends it by its process id, and puts the machine's packet filter back as it was.
 */

const PREFIX = "mcpf-engine-";
const startMsMax = 60_000;
const stopMsMax = 45_000;

/** @typedef {{ env: Record<string, string>, folder: string | null, compose: [string, ...string[]] }} Engine */

/**
 * @param {{ log?: (line: string) => void }} [options]
 * @returns {Promise<Engine | { skipped: string }>} `folder`: where ours lives; null for one that ran already
 */
export async function openEngine({ log = (line) => process.stderr.write(`${line}\n`) } = {}) {
  if (spawnSync("docker", ["--version"]).status !== 0) return { skipped: "there is no Docker client here (apt-get install docker.io)" };
  const compose = findCompose();
  if (compose === undefined) return { skipped: "there is neither docker compose nor docker-compose here (apt-get install docker-compose)" };
  if (answers({})) return { env: {}, folder: null, compose };
  if (spawnSync("dockerd", ["--version"]).status !== 0)
    return { skipped: "no container engine answers, and dockerd is not installed (apt-get install docker.io)" };
  if (process.getuid?.() !== 0) return { skipped: "no container engine answers, and only root can start one" };

  let said = "";
  for (const driver of ["overlay2", "vfs"]) {
    const folder = mkdtempSync(join(tmpdir(), PREFIX));
    const env = { DOCKER_HOST: `unix://${folder}/docker.sock` };
    writeFileSync(join(folder, "packet-filter"), packetFilter());
    writeFileSync(join(folder, "owner"), String(process.pid));
    const file = join(folder, "dockerd.log");
    const output = openSync(file, "w");
    const child = spawn(
      "dockerd",
      [
        ...["--data-root", join(folder, "data"), "--exec-root", join(folder, "exec"), "--pidfile", join(folder, "docker.pid")],
        ...["--host", env.DOCKER_HOST, "--storage-driver", driver, "--shutdown-timeout", "10"],
      ],
      // A group of its own: Ctrl-C is for us, and we end it after its containers.
      { detached: true, stdio: ["ignore", output, output] },
    );
    child.unref();
    const spawned = new Promise((resolve) => child.once("spawn", () => resolve(true)).once("error", () => resolve(false)));
    const endMs = Date.now() + startMsMax;
    let up = false;
    while ((await spawned) && !up && child.exitCode === null && child.signalCode === null && Date.now() < endMs) {
      up = answers(env);
      if (!up) await sleep(250);
    }
    if (up) {
      log(`containers: an engine of our own runs with ${driver} in ${folder}`);
      return { env, folder, compose };
    }
    said = readFileSync(file, "utf8")
      .split("\n")
      .filter((line) => /level=(error|fatal)|failed/.test(line))
      .slice(-3)
      .join("\n");
    await stopEngine(folder);
  }
  return { skipped: `dockerd does not start here:\n${said}` };
}

/** Ends an engine that {@link openEngine} started, with all that it ran and kept. @param {string} folder */
export async function stopEngine(folder) {
  const pid = engineOf(folder);
  if (pid !== null) {
    process.kill(pid, "SIGTERM");
    const endMs = Date.now() + stopMsMax;
    while (engineOf(folder) !== null && Date.now() < endMs) await sleep(100);
    if (engineOf(folder) !== null) process.kill(pid, "SIGKILL");
  }
  for (const line of readFileSync("/proc/mounts", "utf8").split("\n").reverse()) {
    const place = line.split(" ")[1] ?? "";
    if (place.startsWith(`${folder}/`)) spawnSync("umount", ["--lazy", place]);
  }
  restorePacketFilter(join(folder, "packet-filter"));
  rmSync(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 500 });
}

/** Folders of engines whose owner is gone: a run that was killed together with its reaper. @returns {string[]} */
export function abandonedEngines() {
  return readdirSync(tmpdir())
    .filter((name) => name.startsWith(PREFIX))
    .map((name) => join(tmpdir(), name))
    .filter((folder) => existsSync(join(folder, "owner")) && !existsSync(`/proc/${readFileSync(join(folder, "owner"), "utf8")}`));
}

/** The process of the engine in this folder; never another one that got its number. @param {string} folder @returns {number | null} */
function engineOf(folder) {
  try {
    const pid = Number(readFileSync(join(folder, "docker.pid"), "utf8"));
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(join(folder, "docker.pid")) ? pid : null;
  } catch {
    return null; // No such file or process: it does not run.
  }
}

/** @param {Record<string, string>} env */
function answers(env) {
  return (
    spawnSync("docker", ["version", "--format", "{{.Server.Version}}"], { env: { ...process.env, ...env }, timeout: 20_000 }).status === 0
  );
}

/** @returns {[string, ...string[]] | undefined} */
function findCompose() {
  if (spawnSync("docker", ["compose", "version"]).status === 0) return ["docker", "compose"];
  return spawnSync("docker-compose", ["version"]).status === 0 ? ["docker-compose"] : undefined;
}

const noRules = ["filter:INPUT,FORWARD,OUTPUT", "nat:PREROUTING,INPUT,OUTPUT,POSTROUTING"]
  .map((table) => table.split(":"))
  .map(
    ([table, chains = ""]) =>
      `*${table}\n${chains
        .split(",")
        .map((chain) => `:${chain} ACCEPT [0:0]\n`)
        .join("")}COMMIT\n`,
  )
  .join("");

/** What the engine will change of the machine: its packet filter and whether it forwards packets. */
function packetFilter() {
  const saved = spawnSync("iptables-save", [], { encoding: "utf8" });
  const forwards = readFileSync("/proc/sys/net/ipv4/ip_forward", "utf8").trim();
  const hasBridge = existsSync("/sys/class/net/docker0");
  return JSON.stringify({ rules: saved.status === 0 ? saved.stdout : null, forwards, hasBridge });
}

/** @param {string} file */
function restorePacketFilter(file) {
  if (!existsSync(file)) return;
  const { rules, forwards, hasBridge } = JSON.parse(readFileSync(file, "utf8"));
  if (rules !== null) spawnSync("iptables-restore", [], { input: rules.includes("*") ? rules : noRules });
  writeFileSync("/proc/sys/net/ipv4/ip_forward", forwards);
  if (!hasBridge) spawnSync("ip", ["link", "delete", "docker0"]);
}
