import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { tempDir } from "@mcp-failover/testkit";
import { ROOT } from "../../scripts/lib/repo.mjs";
import { until } from "../harness/wait.ts";

/** A limit for what takes a second on a machine that has time. */
const slowMs = 60_000;

/** Programs by which scripts/containers.mjs starts an engine that never answers. Nothing of them touches this machine's network. */
function fakeEngine(folder: string): { path: string; pid(): number } {
  mkdirSync(folder);
  const started = join(folder, "started");
  const program = (name: string, text: string): void => writeFileSync(join(folder, name), text, { mode: 0o755 });
  program("docker", `#!/bin/sh\ncase "$*" in --version | "compose version") exit 0 ;; esac\nexit 1\n`);
  const serve = `require("fs").writeFileSync(${JSON.stringify(started)}, String(process.pid)); setInterval(() => {}, 1000);`;
  program("dockerd", `#!${process.execPath}\nif (!process.argv.includes("--version")) { ${serve} }\n`);
  for (const name of ["iptables-save", "iptables-restore", "ip", "umount"]) program(name, "#!/bin/sh\nexit 1\n");
  return { path: `${folder}:${process.env["PATH"]}`, pid: () => (existsSync(started) ? Number(readFileSync(started, "utf8")) : 0) };
}

/** Not one that has ended and only waits for whoever inherited it to notice. */
function lives(pid: number): boolean {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false; // No such process.
  }
}

test("npm run test:containers that is told to end while its engine still starts leaves no engine behind", {
  skip: process.getuid?.() !== 0 && "only root starts an engine",
}, async () => {
  const { path: folder, remove } = await tempDir("mcpf-told-");
  let engine = 0;
  try {
    const { path: PATH, pid } = fakeEngine(join(folder, "programs"));
    const temporary = join(folder, "tmp");
    mkdirSync(temporary);
    const { DOCKER_HOST: _, ...outer } = process.env;
    const env = { ...outer, PATH, TMPDIR: temporary };
    const run = spawn(process.execPath, [join(ROOT, "scripts/containers.mjs")], { cwd: ROOT, env, stdio: "ignore" });
    const ended = once(run, "exit");
    await until(() => pid() > 0, slowMs, "the engine is started");
    engine = pid();
    run.kill("SIGINT");
    await ended;
    await until(() => !lives(engine), slowMs, "the engine is ended");
    const left = (): string[] => readdirSync(temporary).filter((name) => name.startsWith("mcpf-engine-"));
    await until(
      () => left().length === 0,
      slowMs,
      () => `nothing is left; there is ${left()}`,
    );
  } finally {
    if (engine > 0 && lives(engine)) process.kill(engine, "SIGKILL");
    await remove();
  }
});
