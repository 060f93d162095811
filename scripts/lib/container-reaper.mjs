// Removes what a run of the container tests made, when its standard input ends: in good order, or because the run was killed.
//   node container-reaper.mjs PROJECT_PREFIX [ENGINE_FOLDER]
import { spawnSync } from "node:child_process";
import { abandonedEngines, stopEngine } from "./engine.mjs";

const [prefix = "", folder] = process.argv.slice(2);
// A group and signals of our own: Ctrl-C ends the run, and then there is work for us.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"])
  process.on(signal, () => process.stderr.write(`reaper: ${signal}, and what runs is removed first\n`));
await new Promise((resolve) => process.stdin.on("end", resolve).on("error", resolve).resume());

const docker = (/** @type {string[]} */ ...args) => spawnSync("docker", args, { encoding: "utf8", timeout: 60_000 }).stdout ?? "";
const label = "com.docker.compose.project";
/** @type {["ps" | "volume" | "network", string[], string[]][]} */
const kinds = [
  ["ps", ["ps", "--all"], ["rm", "--force", "--volumes"]],
  ["network", ["network", "ls"], ["network", "rm"]],
  ["volume", ["volume", "ls"], ["volume", "rm", "--force"]],
];
for (const [kind, list, remove] of kinds) {
  const format = kind === "volume" ? `{{.Name}}\t{{.Label "${label}"}}` : `{{.ID}}\t{{.Label "${label}"}}`;
  const ours = docker(...list, "--filter", `label=${label}`, "--format", format)
    .split("\n")
    .map((line) => line.split("\t"))
    .flatMap(([id = "", project = ""]) => (prefix !== "" && project.startsWith(prefix) ? [id] : []));
  if (ours.length > 0) docker(...remove, ...ours);
}
if (folder !== undefined) await stopEngine(folder);
for (const left of abandonedEngines()) await stopEngine(left);
