import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "./repo.mjs";
import { runChild } from "./run-child.mjs";

/**
 * Runs `npm ci` when node_modules is missing or is not what package-lock.json says. Progress goes to stderr, because
 * the stdout of our commands belongs to their callers.
 * @returns {Promise<void>}
 * @throws {Error} when npm fails
 */
export async function ensureInstall() {
  const reason = whyStale(ROOT);
  if (reason === undefined) return;
  process.stderr.write(`mcp-failover: installing dependencies with npm ci, because ${reason}; this takes about a minute\n`);
  // Under npm we use that very npm; its path is a script for the Node that runs us.
  const npm = process.env["npm_execpath"];
  const [command, args] = npm?.endsWith("npm-cli.js") ? [process.execPath, [npm, "ci"]] : ["npm", ["ci"]];
  // Node 24 is a development dependency, which NODE_ENV=production would leave out.
  const code = await runChild(command, [...args, "--include=dev", "--no-audit", "--no-fund"], { cwd: ROOT, stdio: ["ignore", 2, 2] });
  if (code !== 0) throw new Error(`npm ci failed with exit code ${code}; its output above says why`);
  const left = whyStale(ROOT);
  if (left !== undefined) throw new Error(`npm ci ended well, and yet ${left}`);
}

/**
 * Compares what npm noted about node_modules with package-lock.json, entry by entry: modification times say nothing after a
 * checkout, and a hand-made `npm install` leaves no stamp of ours.
 * @param {string} root
 * @returns {string | undefined} a clause that says what is wrong
 */
export function whyStale(root) {
  const installedFile = join(root, "node_modules", ".package-lock.json");
  if (!existsSync(installedFile)) return "node_modules is missing";
  /** @typedef {{ version?: string, resolved?: string, link?: boolean, optional?: boolean, peer?: boolean, devOptional?: boolean }} Entry */
  const read = (/** @type {string} */ file) => /** @type {Record<string, Entry>} */ (JSON.parse(readFileSync(file, "utf8")).packages ?? {});
  const installed = read(installedFile);
  for (const [path, wanted] of Object.entries(read(join(root, "package-lock.json")))) {
    if (!path.includes("node_modules/")) continue;
    const have = installed[path];
    if (have === undefined) {
      if (wanted.optional || wanted.peer || wanted.devOptional) continue;
      return `${path} is not installed`;
    }
    if (wanted.link ? have.resolved !== wanted.resolved : have.version !== wanted.version) return `${path} differs from package-lock.json`;
  }
  if (existsSync(join(root, "node_modules", ".bin", "node")) || Number(process.versions.node.split(".")[0]) >= 24) return undefined;
  return "node_modules/.bin/node is missing (it comes from an install script: is npm's ignore-scripts set?)";
}
