import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ROOT } from "./repo.mjs";

/**
 * The container engine that a run uses: one that answers already, else Debian's, started by us under a folder of its own. It is never a
 * service of the system: whoever started it ends it by its process id, and puts the machine's packet filter back as it was.
 */

const PREFIX = "mcpf-engine-";
const startMsMax = 60_000;
const stopMsMax = 45_000;
const tryMsMax = 90_000;

/** @typedef {{ env: Record<string, string>, folder: string | null, compose: [string, ...string[]] }} Engine */

/** How clients find an engine of ours. @param {string} folder @returns {Record<string, string>} */
export const engineHost = (folder) => ({ DOCKER_HOST: `unix://${folder}/docker.sock` });

/**
 * @param {{ log: (line: string) => void, onFolder: (folder: string) => void }} options `onFolder` is told of an engine of ours before it is
 *   started: whoever may be ended meanwhile has somebody else to end it
 * @returns {Promise<Engine | { skipped: string }>} `folder`: where ours lives; null for one that ran already
 */
export async function openEngine({ log, onFolder }) {
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
    const env = engineHost(folder);
    writeFileSync(join(folder, "packet-filter"), packetFilter());
    writeFileSync(join(folder, "owner"), String(process.pid));
    onFolder(folder);
    const file = join(folder, "dockerd.log");
    const output = openSync(file, "w");
    const child = spawn(
      "dockerd",
      [
        ...["--data-root", join(folder, "data"), "--exec-root", join(folder, "exec"), "--pidfile", join(folder, "docker.pid")],
        ...["--host", `unix://${folder}/docker.sock`, "--storage-driver", driver, "--shutdown-timeout", "10"],
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
      log(`an engine of our own runs with ${driver} in ${folder}`);
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

/**
 * Runs one container with all that docker-compose.yml asks of an engine: limits, a read-only root, a network with names, a file of this
 * machine, a published port. An engine that answers need not be able to: in a sandbox it may lack the right to mount or to filter packets.
 * @param {{ image: string, project: string }} options `image` has node; `project`: what the reaper knows the run by
 * @returns {Promise<string | null>} why containers cannot run here
 */
export async function cannotRun({ image, project }) {
  const name = `${project}-trial`;
  const label = ["--label", `com.docker.compose.project=${project}`];
  const docker = (/** @type {string[]} */ ...args) => {
    const ran = spawnSync("docker", args, { encoding: "utf8", timeout: tryMsMax });
    const said = `${ran.stdout ?? ""}${ran.stderr ?? ""}${ran.error?.message ?? ""}`.trim();
    return { ok: ran.status === 0, said: said.split("\n").slice(-5).join("\n") };
  };
  const serve = "require('http').createServer((_, answer) => answer.end(require('fs').readFileSync('/trial.json'))).listen(8080)";
  const ask = `fetch('http://${name}:8080').then((answer) => answer.json()).then(() => 0, () => 1).then(process.exit)`;
  const network = docker("network", "create", ...label, name);
  if (!network.ok) return `the engine cannot make a network:\n${network.said}`;
  try {
    const started = docker(
      ...["run", "--detach", "--name", name, ...label, "--network", name, "--publish", "127.0.0.1::8080", "--user", "1000:1000", "--init"],
      ...["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true", "--pids-limit", "128", "--cpus", "1"],
      ...["--memory", "192m", "--tmpfs", "/tmp:mode=1777,size=16m", "--volume", `${join(ROOT, "package.json")}:/trial.json:ro`],
      ...[image, "node", "-e", serve],
    );
    if (!started.ok) return `the engine cannot run a container:\n${started.said}`;
    const endMs = Date.now() + tryMsMax;
    let problem = "";
    do {
      const inside = docker("exec", name, "node", "-e", ask);
      const port = docker("port", name, "8080/tcp");
      if (!inside.ok) problem = `a container cannot be reached by its name in its network:\n${docker("logs", name).said}\n${inside.said}`;
      else if (!(await answersAt(port.said))) problem = `a published port of a container cannot be reached from here (${port.said})`;
      else return null;
      await sleep(500);
    } while (Date.now() < endMs);
    return problem;
  } finally {
    docker("rm", "--force", "--volumes", name);
    docker("network", "rm", name);
  }
}

/** @param {string} address */
async function answersAt(address) {
  try {
    return (await fetch(`http://${address}`, { signal: AbortSignal.timeout(10_000) })).ok;
  } catch {
    return false; // Not yet, or never: the caller asks again for a while.
  }
}

/** Ends an engine that {@link openEngine} started, with all that it ran and kept. @param {string} folder */
export async function stopEngine(folder) {
  const pid = engineOf(folder);
  const bridges = bridgesOf(folder);
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
  // One that was killed leaves the bridges of its networks.
  for (const bridge of bridges) if (existsSync(`/sys/class/net/${bridge}`)) spawnSync("ip", ["link", "delete", bridge]);
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

/**
 * The process of the engine in this folder, told by its command line: one that still starts has not written its id anywhere.
 * @param {string} folder
 */
function engineOf(folder) {
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      if (readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").includes(join(folder, "docker.pid"))) return Number(pid);
    } catch {
      // It has ended meanwhile.
    }
  }
  return null;
}

/** The bridges that the engine has made, or had. @param {string} folder @returns {string[]} */
function bridgesOf(folder) {
  const file = join(folder, "data/network/files/local-kv.db");
  return existsSync(file) ? [...new Set(readFileSync(file, "latin1").match(/\bbr-[0-9a-f]{12}\b/g))] : [];
}

/** @param {Record<string, string>} env */
function answers(env) {
  return (
    spawnSync("docker", ["version", "--format", "{{.Server.Version}}"], { env: { ...process.env, ...env }, timeout: 20_000 }).status === 0
  );
}

/**
 * Compose's second version where the client has it as a plugin, else the first, which is a program of its own (Debian's).
 * @param {NodeJS.ProcessEnv} [env]
 * @returns {[string, ...string[]] | undefined}
 */
export function findCompose(env = process.env) {
  /** @type {[string, ...string[]][]} */
  const programs = [["docker", "compose"], ["docker-compose"]];
  return programs.find(([program, ...first]) => spawnSync(program, [...first, "version"], { env, timeout: 20_000 }).status === 0);
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

const forwarding = "/proc/sys/net/ipv4/ip_forward";

/** What the engine will change of the machine: its packet filter and whether it forwards packets. */
function packetFilter() {
  const saved = spawnSync("iptables-save", [], { encoding: "utf8" });
  const forwards = existsSync(forwarding) ? readFileSync(forwarding, "utf8").trim() : null;
  const hasBridge = existsSync("/sys/class/net/docker0");
  return JSON.stringify({ rules: saved.status === 0 ? saved.stdout : null, forwards, hasBridge });
}

/** @param {string} file */
function restorePacketFilter(file) {
  if (!existsSync(file)) return;
  const { rules, forwards, hasBridge } = JSON.parse(readFileSync(file, "utf8"));
  if (rules !== null) spawnSync("iptables-restore", [], { input: rules.includes("*") ? rules : noRules });
  try {
    if (forwards !== null && readFileSync(forwarding, "utf8").trim() !== forwards) writeFileSync(forwarding, forwards);
  } catch (error) {
    // In a sandbox where it may not be written the engine has not changed it either.
    process.stderr.write(`containers: ${forwarding} stays as it is: ${error instanceof Error ? error.message : String(error)}\n`);
  }
  if (!hasBridge) spawnSync("ip", ["link", "delete", "docker0"]);
}
