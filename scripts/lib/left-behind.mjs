import { spawnSync } from "node:child_process";
import { readFileSync, readlinkSync } from "node:fs";

/**
 * What a run of the container tests makes carries its name and its owner, the process that ends it; with them a later run tells what was
 * left behind by a run that was killed together with its reaper, and removes that and nothing else.
 */

const RUN = "mcp-failover.run";
const OWNER = "mcp-failover.owner";
const COMPOSE_PROJECT = "com.docker.compose.project";
/** Compose projects of a run begin with its name, so a run that is named otherwise could take somebody else's with it. */
const RUN_NAME = /^mcpftest\d+x[0-9a-z]+$/;
const commandMsMax = 60_000;

/** @typedef {{ boot: string, pids: string, startOf: (pid: number) => string | null }} Here `pids`: the namespace in which a process id holds */

export const newRunName = () => `mcpftest${process.pid}x${Date.now().toString(36)}`;

/** Labels of all that a run makes besides compose projects. @param {string} run @param {string} owner @returns {Record<string, string>} */
export const runLabels = (run, owner) => ({ [RUN]: run, [OWNER]: owner });

/** @param {Record<string, string>} labels @returns {string[]} as docker takes them */
const labelOptions = (labels) => Object.entries(labels).flatMap(([key, value]) => ["--label", `${key}=${value}`]);

/** This process, as one of any time and any namespace can be told from it. Where the system does not say, nothing of it is ever removed later. */
export function thisOwner(here = thisSystem()) {
  return here === null ? "unknown" : [here.boot, here.pids, process.pid, here.startOf(process.pid)].join(" ");
}

/** @returns {Here | null} null without /proc */
export function thisSystem() {
  try {
    return {
      boot: readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim(),
      pids: readlinkSync("/proc/self/ns/pid"),
      startOf(pid) {
        try {
          // The name in the second field may hold anything, also blanks and brackets.
          return (
            readFileSync(`/proc/${pid}/stat`, "utf8")
              .replace(/^.*\) /s, "")
              .split(" ")[19] ?? null
          );
        } catch {
          return null; // No such process.
        }
      },
    };
  } catch {
    return null;
  }
}

/**
 * Whether the owner is dead for certain: of an earlier start of the machine, or a process id of this very namespace that is free or has
 * gone to another process.
 * @param {string} owner @param {Here} here
 */
export function isDead(owner, here) {
  const [boot, pids, pid = "", start, ...more] = owner.split(" ");
  if (start === undefined || more.length > 0 || !/^\d+$/.test(pid)) return false;
  if (boot !== here.boot) return true;
  return pids === here.pids && here.startOf(Number(pid)) !== start;
}

/**
 * Says on the engine whose this run is, before anything of it is there: compose projects carry only its name.
 * @param {string} run
 */
export function declareRun(run) {
  docker("volume", "create", ...labelOptions(runLabels(run, thisOwner())), run);
}

/** @type {["container" | "network" | "volume", string[], string[]][]} containers first, because they use the others */
const kinds = [
  ["container", ["ps", "--all"], ["rm", "--force", "--volumes"]],
  ["network", ["network", "ls"], ["network", "rm"]],
  ["volume", ["volume", "ls"], ["volume", "rm", "--force"]],
];

/** @typedef {{ id: string, run: string, owner: string, project: string }} Made */

/** @param {(typeof kinds)[number]} kind @param {string} label @returns {Made[]} */
function madeWith([kind, list], label) {
  const id = kind === "volume" ? "{{.Name}}" : "{{.ID}}";
  const format = [id, ...[RUN, OWNER, COMPOSE_PROJECT].map((key) => `{{.Label "${key}"}}`)].join("\t");
  return docker(...list, "--filter", `label=${label}`, "--format", format)
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => line.split("\t"))
    .map(([made = "", run = "", owner = "", project = ""]) => ({ id: made, run, owner, project }));
}

/** Removes all that a run has made. @param {string} run @throws {RangeError} when it is no name of a run */
export function removeRun(run) {
  if (!RUN_NAME.test(run)) throw new RangeError(`${JSON.stringify(run)} is not the name of a run of the container tests`);
  for (const kind of kinds) {
    const ids = [
      ...madeWith(kind, `${RUN}=${run}`),
      ...madeWith(kind, COMPOSE_PROJECT).filter(({ project }) => project.startsWith(run)),
    ].map(({ id }) => id);
    if (ids.length > 0) docker(...kind[2], ...new Set(ids));
  }
}

/**
 * Removes what earlier runs left behind whose processes are dead. On an engine of another machine nothing: process ids say nothing there.
 * @returns {string[]} the runs
 */
export function removeLeftBehind() {
  const here = thisSystem();
  if (here === null || !docker("context", "inspect", "--format", "{{.Endpoints.docker.Host}}").startsWith("unix://")) return [];
  const dead = kinds
    .flatMap((kind) => madeWith(kind, OWNER))
    .filter(({ run, owner }) => RUN_NAME.test(run) && isDead(owner, here))
    .map(({ run }) => run);
  const runs = [...new Set(dead)];
  for (const run of runs) removeRun(run);
  return runs;
}

/** What it prints; what fails is left to the next run. @param {string[]} args */
const docker = (...args) => spawnSync("docker", args, { encoding: "utf8", timeout: commandMsMax }).stdout ?? "";
