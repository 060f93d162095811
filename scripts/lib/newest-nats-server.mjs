import { spawnSync } from "node:child_process";
import { chmodSync, readdirSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";

/** No older than the server's go.mod asks for. */
const toolchain = { minor: 26, name: "go1.26.8" };

/**
 * Where `node scripts/newest-nats.mjs` puts a nats-server that it has built, and tests look for it (packages/testkit/src/newest-nats.ts).
 * @param {string} version
 */
export const natsServerCache = (version) =>
  join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "mcpf", `nats-server-${version}`);

/** @param {string} version */
export const natsServerModule = (version) => `github.com/nats-io/nats-server/v2@v${version}`;

/**
 * A Go that can build the newest nats-server: the one that is installed, or by its help a newer one from the module proxy.
 * @param {(line: string) => void} log
 * @returns {{ program: string, env: Record<string, string> } | { problem: string }} `env`: what it needs besides; what it builds needs no
 *   C library
 */
export function findGo(log) {
  const minor = Number(/go1\.(\d+)/.exec(spawnSync("go", ["version"], { encoding: "utf8" }).stdout ?? "")?.[1] ?? Number.NaN);
  const env = { CGO_ENABLED: "0" };
  if (Number.isNaN(minor)) return { problem: "go is not installed" };
  if (minor >= toolchain.minor) return { program: "go", env };
  // Since 1.21 it fetches another one by itself.
  if (minor >= 21) return { program: "go", env: { ...env, GOTOOLCHAIN: toolchain.name } };
  const fetched = fetchGo(log);
  return "problem" in fetched ? fetched : { ...fetched, env: { ...env, ...fetched.env } };
}

/**
 * Newer Gos are in the module proxy as modules, which lose the right to be run on the way.
 * @param {(line: string) => void} log
 * @returns {{ program: string, env: Record<string, string> } | { problem: string }}
 */
function fetchGo(log) {
  const arch = process.arch === "x64" ? "amd64" : process.arch;
  const wanted = `golang.org/toolchain@v0.0.1-${toolchain.name}.${process.platform}-${arch}`;
  log(`this Go is too old for the newest nats-server: fetching ${toolchain.name}`);
  // Outside of any module.
  const { status, stdout, stderr } = spawnSync("go", ["mod", "download", "-json", wanted], { cwd: tmpdir(), encoding: "utf8" });
  const dir = status === 0 ? JSON.parse(stdout).Dir : null;
  if (dir === null) return { problem: `${wanted} could not be fetched: ${stdout}${stderr}` };
  for (const programs of [join(dir, "bin"), join(dir, "pkg", "tool")]) {
    for (const entry of readdirSync(programs, { recursive: true, withFileTypes: true })) {
      if (entry.isFile()) chmodSync(join(entry.parentPath, entry.name), 0o555);
    }
  }
  return { program: join(dir, "bin", "go"), env: { GOROOT: dir, GOTOOLCHAIN: "local" } };
}
