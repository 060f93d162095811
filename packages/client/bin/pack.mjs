// Makes the package that others install: npm run package -w packages/client -- FOLDER
//
// Inside this repository Node runs the TypeScript as it is; below a node_modules it refuses to. So what is packed is JavaScript with declarations, and the
// packages of ours that the SDK needs travel inside (bundleDependencies), because no registry has them.
import { execFileSync } from "node:child_process";
import { copyFileSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const scope = "@mcp-failover/";
const bundled = ["bus", "contracts", "domain"];

const [folder] = process.argv.slice(2);
if (folder === undefined) {
  process.stderr.write("give the folder that the package is to be written to: npm run package -w packages/client -- FOLDER\n");
  process.exit(2);
}
// npm runs this in the workspace's folder; what its caller meant is relative to where the caller stood.
const target = resolve(process.env["INIT_CWD"] ?? process.cwd(), folder);
const work = mkdtempSync(join(tmpdir(), "mcp-failover-pack-"));
try {
  process.stdout.write(`${pack()}\n`);
} finally {
  rmSync(work, { recursive: true, force: true });
}

/** @returns {string} the file that was written */
function pack() {
  const compiled = compile();
  const staged = join(work, "package");
  const manifests = Object.fromEntries(["client", ...bundled].map((name) => [name, readManifest(name)]));
  for (const [name, { version, license, dependencies }] of Object.entries(manifests)) {
    const at = name === "client" ? staged : join(staged, "node_modules", scope + name);
    cpSync(join(compiled, name, "src"), join(at, "dist"), { recursive: true });
    const manifest = {
      name: scope + name,
      version,
      license,
      type: "module",
      // From 22.12 on `require` takes ECMAScript modules without a flag.
      engines: { node: ">=22.12" },
      exports: { ".": { types: "./dist/index.d.ts", default: "./dist/index.js" } },
      ...(name === "client" ? { bundleDependencies: bundled.map((one) => scope + one) } : {}),
      // npm looks for what a bundled package needs beside the one that brings it.
      dependencies: name === "client" ? Object.assign({}, ...Object.values(manifests).map((one) => one.dependencies)) : dependencies,
    };
    writeFileSync(join(at, "package.json"), `${JSON.stringify(manifest, null, 2)}\n`);
  }
  copyFileSync(join(root, "packages/client/README.md"), join(staged, "README.md"));
  copyFileSync(join(root, "LICENSE"), join(staged, "LICENSE"));
  mkdirSync(target, { recursive: true });
  const told = execFileSync("npm", ["pack", "--json", "--pack-destination", target], { cwd: staged, encoding: "utf8" });
  return join(target, JSON.parse(told)[0].filename);
}

/** All of them at once, into `<package>/src`. Their types are checked by `verify`. */
function compile() {
  const outDir = join(work, "compiled");
  const config = join(work, "tsconfig.json");
  const compilerOptions = {
    noEmit: false,
    noCheck: true,
    declaration: true,
    rewriteRelativeImportExtensions: true,
    rootDir: join(root, "packages"),
    outDir,
    typeRoots: [join(root, "node_modules/@types")],
  };
  const files = ["client", ...bundled].map((name) => join(root, "packages", name, "src/index.ts"));
  writeFileSync(config, JSON.stringify({ extends: join(root, "tsconfig.base.json"), compilerOptions, files }));
  execFileSync(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", config], { stdio: "inherit" });
  return outDir;
}

/**
 * @param {string} name
 * @returns {{ version: string, license: string, dependencies: Record<string, string> }} with ours at the version that is packed
 */
function readManifest(name) {
  const { version, license, dependencies = {} } = JSON.parse(readFileSync(join(root, "packages", name, "package.json"), "utf8"));
  const pinned = Object.entries(dependencies).map(([one, wanted]) => [one, one.startsWith(scope) ? version : wanted]);
  return { version, license, dependencies: Object.fromEntries(pinned) };
}
