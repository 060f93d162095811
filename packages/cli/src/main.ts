import { runCli } from "./program.ts";

process.exitCode = await runCli(process.argv.slice(2), {
  env: process.env,
  terminal: process.stdout.isTTY === true,
  write: (text) => process.stdout.write(text),
  writeError: (text) => process.stderr.write(text),
});
