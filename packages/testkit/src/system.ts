import { accessSync, constants, rmSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, isAbsolute, join } from "node:path";

/** Where packages put servers that the PATH of an ordinary user may leave out. */
const extraDirs = ["/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin"];
const given = new Set<number>();
const folders = new Set<string>();
process.once("exit", () => {
  // Neither a test that failed before its clean-up leaves anything, nor one that wrote again after it.
  for (const path of folders) rmSync(path, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
});

/**
 * Below the ports that systems give to connections and to who listens at port 0 (from 32768 on Linux, 49152 elsewhere): one of those may be taken
 * between the moment in which it was free and that in which a server takes it.
 */
const firstPort = 25_600;
const portCount = 7_000;

/** A TCP port of 127.0.0.1 that was free just now, and that this process has not been given before. */
export async function freePort(): Promise<number> {
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const port = firstPort + Math.floor(Math.random() * portCount);
    if (given.has(port) || !(await isFree(port))) continue;
    given.add(port);
    return port;
  }
  throw new Error("no free port on 127.0.0.1 after 100 tries");
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", (error: NodeJS.ErrnoException) => (error.code === "EADDRINUSE" ? resolve(false) : reject(error)));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}

/** A new folder, and how to remove it with all that is in it; the end of the process removes it at the latest. */
export async function tempDir(prefix = "mcpf-test-"): Promise<{ path: string; remove(): Promise<void> }> {
  const path = await mkdtemp(join(tmpdir(), prefix));
  folders.add(path);
  return { path, remove: () => rm(path, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 }) };
}

/** The program that the variable names, else the one on PATH. Throws with what to do when there is none. */
export function findProgram(program: string, variable: string): string {
  const chosen = process.env[variable];
  if (chosen !== undefined && chosen !== "") return chosen;
  const dirs = [...(process.env["PATH"] ?? "").split(delimiter), ...extraDirs].filter((dir) => isAbsolute(dir));
  const found = dirs.map((dir) => join(dir, program)).find(isExecutable);
  if (found === undefined) throw new Error(`${program} is not on PATH: install it, or set ${variable}=/path/to/${program}`);
  return found;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false; // Not there, or not ours to run: look on.
  }
}
