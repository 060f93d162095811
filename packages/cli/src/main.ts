import { CliError } from "./errors.ts";
import { runCli } from "./program.ts";

// Who reads may stop before the end (`mcpf events export | head`), and a file behind `>` may be on a disk that is full.
const lost = Promise.withResolvers<never>();
lost.promise.catch(() => undefined); // Nothing may be running that waits for it.
process.stdout.on("error", ({ code }: NodeJS.ErrnoException) => {
  lost.reject(new CliError(1, "output_lost", `standard output cannot be written (${code}): what is there is not all`));
});
process.exitCode = await runCli(process.argv.slice(2), {
  env: process.env,
  terminal: process.stdout.isTTY === true,
  write: (text) => process.stdout.write(text),
  writeError: (text) => process.stderr.write(text),
  outputLost: lost.promise,
});
