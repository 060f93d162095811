import { enableCompileCache } from "node:module";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../..", import.meta.url)).replace(/[\\/]$/, "");
// Before anything else is loaded: the children inherit it, and a second start is quicker by it.
process.env["NODE_COMPILE_CACHE"] ??= join(root, "node_modules", ".cache", "node-compile-cache");
enableCompileCache(process.env["NODE_COMPILE_CACHE"]);
const { runLauncher } = await import("./launcher.ts");

process.exit(
  await runLauncher({
    args: process.argv.slice(2),
    env: process.env,
    root,
    from: process.env["INIT_CWD"] ?? process.cwd(),
    stdout: process.stdout,
    stderr: process.stderr,
    onInterrupt(listener) {
      for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => listener(signal));
      if (process.env["MCPF_PARENT_PIPE"] !== "1") return;
      process.stdin.on("end", () => listener("the one who started us is gone"));
      process.stdin.resume();
    },
  }),
);
