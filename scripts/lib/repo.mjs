import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The repository's root, without a slash at its end. */
export const ROOT = fileURLToPath(new URL("../..", import.meta.url)).replace(/[\\/]$/, "");

const BIN = join(ROOT, "node_modules", ".bin");

/** @param {string} name of a program that a dependency brings */
export const localBin = (name) => join(BIN, name);

/**
 * The Node that runs our TypeScript: the one that the package `node` brings, else this one when it is new enough.
 * @returns {string}
 */
export function node24() {
  const installed = localBin("node");
  if (existsSync(installed)) return installed;
  if (Number(process.versions.node.split(".")[0]) >= 24) return process.execPath;
  throw new Error(
    `Node 24 is missing: ${installed} does not exist and this is ${process.version}. The package \`node\` brings it through its install script; allow scripts (\`npm config get ignore-scripts\` should print false) and run \`npm ci\`.`,
  );
}

/** The environment of our programs: the repository's own Node and tools come first, as in an npm script. */
export function toolEnv() {
  return { ...process.env, PATH: [BIN, process.env["PATH"] ?? ""].join(delimiter) };
}
