import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "./repo.mjs";

/**
 * @typedef {Record<string, string>} Versions
 * @typedef {{ name: string, exports?: unknown, scripts?: Versions, dependencies?: Versions, devDependencies?: Versions,
 *   peerDependencies?: Versions, optionalDependencies?: Versions, workspaces?: string[] }} Manifest
 * @typedef {{ dir: string, manifest: Manifest }} Workspace `dir` is relative to the root, with slashes; "" for the root itself
 */

/** @returns {Workspace[]} the root first, then the workspaces in the order of their paths */
export function readWorkspaces() {
  const root = readManifest("");
  const dirs = (root.workspaces ?? []).flatMap((pattern) => {
    if (!pattern.endsWith("/*")) return [pattern];
    const parent = pattern.slice(0, -2);
    return readdirSync(join(ROOT, parent), { withFileTypes: true })
      .filter((entry) => entry.isDirectory() && existsSync(join(ROOT, parent, entry.name, "package.json")))
      .map((entry) => `${parent}/${entry.name}`);
  });
  return [{ dir: "", manifest: root }, ...dirs.sort().map((dir) => ({ dir, manifest: readManifest(dir) }))];
}

/** @param {string} dir @returns {Manifest} */
function readManifest(dir) {
  return JSON.parse(readFileSync(join(ROOT, dir, "package.json"), "utf8"));
}

/**
 * Prints what a check found and sets the exit code.
 * @param {string} what was checked
 * @param {readonly string[]} problems one sentence each
 */
export function reportProblems(what, problems) {
  for (const problem of problems) process.stderr.write(`${problem}\n`);
  process.stdout.write(`${what}: ${problems.length === 0 ? "in order" : `${problems.length} broken`}\n`);
  process.exitCode = problems.length === 0 ? 0 : 1;
}
