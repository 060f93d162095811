// Builds the newest nats-server that the tests know into the user's cache (`~/.cache/mcpf`), where Go is installed and its module proxy is
// reached: also Debian's Go, which is older than the server wants. Does nothing where it is there already.
import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, readdirSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";

/** As in packages/testkit/src/newest-nats.ts. */
const version = "2.15.2";
/** No older than the server's go.mod asks for. */
const toolchain = { minor: 26, name: "go1.26.8" };
const folder = join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "mcpf", `nats-server-${version}`);

process.exitCode = main();

function main() {
  if (existsSync(join(folder, "nats-server"))) {
    process.stdout.write(`${folder} has it already\n`);
    return 0;
  }
  const go = findGo();
  if (go === null) return 1;
  const env = { ...process.env, ...go.env, GOBIN: folder };
  const { status } = spawnSync(go.program, ["install", `github.com/nats-io/nats-server/v2@v${version}`], { stdio: "inherit", env });
  return status ?? 1;
}

/** @returns {{ program: string, env: Record<string, string> } | null} */
function findGo() {
  const minor = Number(/go1\.(\d+)/.exec(spawnSync("go", ["version"], { encoding: "utf8" }).stdout ?? "")?.[1] ?? Number.NaN);
  if (Number.isNaN(minor)) {
    process.stderr.write(`go is not installed, so nats-server ${version} is not built, and the tests that need it are skipped\n`);
    return null;
  }
  if (minor >= toolchain.minor) return { program: "go", env: {} };
  // Since 1.21 it fetches another one by itself.
  if (minor >= 21) return { program: "go", env: { GOTOOLCHAIN: toolchain.name } };
  return fetchGo();
}

/**
 * Newer Gos are in the module proxy as modules, which lose the right to be run on the way.
 * @returns {{ program: string, env: Record<string, string> } | null}
 */
function fetchGo() {
  const arch = process.arch === "x64" ? "amd64" : process.arch;
  const wanted = `golang.org/toolchain@v0.0.1-${toolchain.name}.${process.platform}-${arch}`;
  process.stdout.write(`this Go is too old for nats-server ${version}: fetching ${toolchain.name}\n`);
  // Outside of any module.
  const { status, stdout, stderr } = spawnSync("go", ["mod", "download", "-json", wanted], { cwd: tmpdir(), encoding: "utf8" });
  const dir = status === 0 ? JSON.parse(stdout).Dir : null;
  if (dir === null) {
    process.stderr.write(`${wanted} could not be fetched, so nats-server ${version} is not built: ${stdout}${stderr}\n`);
    return null;
  }
  for (const programs of [join(dir, "bin"), join(dir, "pkg", "tool")]) {
    for (const entry of readdirSync(programs, { recursive: true, withFileTypes: true })) {
      if (entry.isFile()) chmodSync(join(entry.parentPath, entry.name), 0o555);
    }
  }
  return { program: join(dir, "bin", "go"), env: { GOROOT: dir, GOTOOLCHAIN: "local" } };
}
