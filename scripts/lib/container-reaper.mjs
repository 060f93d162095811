// Removes what a run of the container tests made, when its standard input ends: in good order, or because the run was killed.
//   node container-reaper.mjs RUN [ENGINE_FOLDER]
import { abandonedEngines, stopEngine } from "./engine.mjs";
import { removeRun } from "./left-behind.mjs";

const [run = "", folder] = process.argv.slice(2);
// A group and signals of our own: Ctrl-C ends the run, and then there is work for us.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"])
  process.on(signal, () => process.stderr.write(`reaper: ${signal}, and what runs is removed first\n`));
await new Promise((resolve) => process.stdin.on("end", resolve).on("error", resolve).resume());

removeRun(run);
if (folder !== undefined) await stopEngine(folder);
for (const left of abandonedEngines()) await stopEngine(left);
