#!/usr/bin/env node
// Plain JavaScript, because it has to start on whatever Node the caller has. The CLI itself is TypeScript and needs Node 24.
import { spawn } from "node:child_process";
import { existsSync, realpathSync } from "node:fs";
import { constants } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const here = dirname(realpathSync(fileURLToPath(import.meta.url)));
const main = join(here, "..", "src", "main.ts");

if (Number(process.versions.node.split(".")[0]) >= 24) {
  // src/main.ts reads process.argv; [1] must name the file that runs, as it does when it is started directly.
  process.argv[1] = main;
  await import(pathToFileURL(main).href);
} else {
  runOnNode24();
}

function runOnNode24() {
  const node = findNode24(here);
  if (node === undefined) {
    process.stderr.write(
      `mcpf needs Node 24 or newer; this is ${process.version} and no node_modules/node was found above ${here}. Run \`npm ci\` in the repository.\n`,
    );
    process.exitCode = 1;
    return;
  }
  const child = spawn(node, [main, ...process.argv.slice(2)], { stdio: "inherit" });
  // Staying alive until the child has ended is the point: the terminal must not get its prompt back before that.
  for (const signal of /** @type {const} */ (["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])) {
    process.on(signal, () => child.kill(signal));
  }
  child.on("error", (error) => {
    process.stderr.write(`mcpf could not start ${node}: ${error.message}\n`);
    process.exitCode = 1;
  });
  child.on("exit", (code, signal) => {
    process.exit(code ?? 128 + (signal === null ? 0 : constants.signals[signal]));
  });
}

/** @param {string} from @returns {string | undefined} */
function findNode24(from) {
  for (let dir = from; ; dir = dirname(dir)) {
    for (const candidate of [join(dir, "node_modules", ".bin", "node"), join(dir, "node_modules", "node", "bin", "node")]) {
      if (existsSync(candidate)) return candidate;
    }
    if (dirname(dir) === dir) return undefined;
  }
}
