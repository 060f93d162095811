// What package.json files must agree on: one exact version a dependency, a complete lock file, and the scripts that turbo runs.
// turbo passes over a workspace without the script in silence, so that a missing `test` would look like a green one.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "./lib/repo.mjs";
import { readWorkspaces, reportProblems } from "./lib/workspaces.mjs";

const EXACT = /^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$/;
/** A second version of a package, under another name: `npm:@scope/package@1.2.3`. */
const ALIAS = /^npm:(?:@[a-z0-9-]+\/)?[a-z0-9.-]+@(.+)$/;

const workspaces = readWorkspaces();
const ours = new Set(workspaces.map(({ manifest }) => manifest.name));
/** @type {string[]} */
const problems = [];

/** @type {Map<string, { version: string, file: string }>} */
const seen = new Map();
for (const { dir, manifest } of workspaces) {
  const file = dir === "" ? "package.json" : `${dir}/package.json`;
  for (const kind of /** @type {const} */ (["dependencies", "devDependencies", "peerDependencies", "optionalDependencies"])) {
    for (const [name, wanted] of Object.entries(manifest[kind] ?? {})) {
      const version = ALIAS.exec(wanted)?.[1] ?? wanted;
      if (ours.has(name)) {
        if (version !== "*") problems.push(`${file}: ${name} is a workspace, its version is "*", not "${version}"`);
        continue;
      }
      if (!EXACT.test(version)) problems.push(`${file}: ${name} is not pinned exactly: "${version}"`);
      const first = seen.get(name);
      if (first === undefined) seen.set(name, { version, file });
      else if (first.version !== version) problems.push(`${file}: ${name} is ${version}, but ${first.version} in ${first.file}`);
    }
  }
}

for (const { dir, manifest } of workspaces) {
  if (dir === "") continue;
  const wanted = /^(packages|services)\//.test(dir) ? ["typecheck", "test"] : ["typecheck"];
  for (const script of wanted.filter((name) => manifest.scripts?.[name] === undefined)) {
    problems.push(`${dir}/package.json: the script "${script}" is missing, so verify would pass over this workspace in silence`);
  }
  const name = `@mcp-failover/${dir.split("/").at(-1)}`;
  if (manifest.name !== name) problems.push(`${dir}/package.json: its name is ${manifest.name}, by its folder it is ${name}`);
}

// npm writes the lock file for the platform it runs on when a registry does not offer the other ones' packages,
// and `npm ci` then refuses the file everywhere.
/** @type {Record<string, { version?: string, optionalDependencies?: Record<string, string> }>} */
const locked = JSON.parse(readFileSync(join(ROOT, "package-lock.json"), "utf8")).packages;
for (const [path, entry] of Object.entries(locked)) {
  for (const name of Object.keys(entry.optionalDependencies ?? {})) {
    if (locked[`node_modules/${name}`] === undefined && locked[`${path}/node_modules/${name}`] === undefined) {
      problems.push(`package-lock.json: ${path} names ${name} as optional, but it has no entry: npm ci will fail`);
    }
  }
}
for (const [name, { version, file }] of seen) {
  const entry = locked[`${file.slice(0, -"package.json".length)}node_modules/${name}`] ?? locked[`node_modules/${name}`];
  if (entry?.version !== version) problems.push(`package-lock.json: ${name} is ${entry?.version ?? "missing"}, but ${version} in ${file}`);
}

reportProblems("workspace rules", problems);
