// Removes what a run of the container tests made, when its standard input ends: in good order, or because the run was killed.
//   node container-reaper.mjs RUN
// Its standard input names the folder of an engine that the run starts for itself, one a line, before it starts it.
import { abandonedEngines, engineHost, stopEngine } from "./engine.mjs";
import { removeRun } from "./left-behind.mjs";

const [run = ""] = process.argv.slice(2);
// A group and signals of our own: Ctrl-C ends the run, and then there is work for us.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"])
  process.on(signal, () => process.stderr.write(`reaper: ${signal}, and what runs is removed first\n`));
let told = "";
process.stdin.setEncoding("utf8").on("data", (text) => {
  told += text;
});
await new Promise((resolve) => process.stdin.on("end", resolve).on("error", resolve).resume());

// The last one is the one that ran.
const folders = told.split("\n").filter((line) => line !== "");
Object.assign(process.env, ...folders.map(engineHost));
removeRun(run);
for (const folder of folders) await stopEngine(folder);
// Only root starts engines, and can end them.
if (process.getuid?.() === 0) for (const left of abandonedEngines()) await stopEngine(left);
