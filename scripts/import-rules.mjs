// Which workspace may import what. Arrows point one way: contracts <- domain <- service-kit -> bus; services meet on NATS only.
import { readdirSync, readFileSync } from "node:fs";
import { builtinModules } from "node:module";
import { dirname, join, relative, sep } from "node:path";
import { parseSync, Visitor } from "oxc-parser";
import { ROOT } from "./lib/repo.mjs";
import { readWorkspaces, reportProblems } from "./lib/workspaces.mjs";

const LIBRARY = ["contracts", "domain", "bus", "service-kit"];

/** What may be imported from our own packages, by workspace; "services/*" holds for each service. */
/** @type {Record<string, readonly string[]>} */
const MAY_IMPORT = {
  "packages/contracts": [],
  "packages/domain": ["contracts"],
  "packages/bus": ["contracts"],
  "packages/service-kit": ["contracts", "domain", "bus"],
  "packages/client": ["contracts", "domain", "bus"],
  // Of the service-kit the CLI takes how secrets are found: `mcpf exec` is where those of a child are resolved.
  "packages/cli": ["contracts", "domain", "bus", "client", "service-kit"],
  "packages/launcher": ["contracts", "bus", "service-kit"],
  "packages/fault-proxy": ["contracts", "bus", "service-kit"],
  "packages/testkit": [],
  "services/*": LIBRARY,
  // Applying a configuration is one thing, at a start as from the command line.
  "services/bootstrap": [...LIBRARY, "client"],
  examples: ["contracts", "client"],
  test: [...LIBRARY, "client"],
};

/** Seams that tests import, and nothing else: they are apart from what `src/index.ts` offers. */
const TEST_SEAMS = new Set(["@mcp-failover/testkit", "@mcp-failover/bus/internal", "@mcp-failover/service-kit/testing"]);

/** What a package offers beside its `src/index.ts`, because it has to be imported before all else. */
const FIRST = new Set(["@mcp-failover/service-kit/threads"]);

/** Libraries that have one owner, so that they can be replaced in one place. */
/** @type {{ library: RegExp, owners: readonly string[], why: string }[]} */
const OWNED = [
  { library: /^(nats$|@nats-io\/)/, owners: ["packages/bus"], why: "only packages/bus speaks to NATS" },
  { library: /^ioredis$/, owners: ["services/state-store", "test"], why: "Redis is a read model that only services/state-store writes" },
];

/** Files outside a workspace that it may import by a relative path. */
/** @type {Record<string, readonly string[]>} */
const MAY_REACH = {
  "packages/launcher": ["scripts/lib/ensure-servers.mjs"],
  // The simulation runs the services' own shells, and holds its bus to the suite of the other two.
  test: ["scripts/lib/", "services/", "packages/bus/test/behaviour"],
};

const builtins = new Set(builtinModules);
/** @type {Set<string>} */
const problems = new Set();
for (const { dir } of readWorkspaces()) {
  if (dir === "") continue;
  for (const file of walk(join(ROOT, dir))) checkFile(dir, slashed(relative(ROOT, file)));
}
reportProblems("import rules", [...problems]);

/** @param {string} dir @param {string} file */
function checkFile(dir, file) {
  const source = readFileSync(join(ROOT, file), "utf8");
  const { program, errors } = parseSync(file, source);
  for (const error of errors) problems.add(`${file}: ${error.message}`);
  const check = (/** @type {import("oxc-parser").Node | null} */ node) => {
    if (node?.type !== "Literal" || typeof node.value !== "string") return;
    const broken = checkImport(dir, file, node.value);
    const line = source.slice(0, node.start).split("\n").length;
    if (broken !== undefined) problems.add(`${file}:${line}: imports ${node.value}: ${broken}`);
  };
  // A type that is imported ties two packages together as much as a value does, so all of these count.
  new Visitor({
    ImportDeclaration: (node) => check(node.source),
    ExportNamedDeclaration: (node) => check(node.source),
    ExportAllDeclaration: (node) => check(node.source),
    ImportExpression: (node) => check(node.source),
    TSImportType: (node) => check(node.source),
    CallExpression: (node) => {
      if (node.callee.type === "Identifier" && node.callee.name === "require") check(node.arguments[0] ?? null);
    },
  }).visit(program);
}

/**
 * @param {string} dir the workspace
 * @param {string} file
 * @param {string} specifier
 * @returns {string | undefined} the rule that it breaks
 */
function checkImport(dir, file, specifier) {
  if (specifier.startsWith(".")) {
    const target = slashed(relative(ROOT, join(ROOT, dirname(file), specifier)));
    if (target.startsWith(`${dir}/`)) return undefined;
    if ((MAY_REACH[dir] ?? []).some((path) => target.startsWith(path))) return undefined;
    if (dir.startsWith("services/") && target.startsWith("services/")) return "services never import services; they meet on NATS";
    return "a relative path stays inside its own workspace; import a package by its name";
  }
  const ours = /^@mcp-failover\/([^/]+)(\/.*)?$/.exec(specifier);
  if (ours !== null) {
    const isTest = dir === "test" || file.startsWith(`${dir}/test/`);
    if (TEST_SEAMS.has(specifier)) return isTest ? undefined : "only tests import it";
    const [, name = "", rest] = ours;
    const allowed = MAY_IMPORT[dir] ?? MAY_IMPORT[dir.replace(/\/.*/, "/*")] ?? [];
    if (dir === `packages/${name}`) {
      // A test goes through the public face, which is the package's own name.
      if (file.startsWith(`${dir}/test/`) && rest === undefined) return undefined;
      return "a package imports its own files by a relative path";
    }
    if (!allowed.includes(name)) return `${dir} may import ${allowed.length === 0 ? "none of our packages" : `only ${allowed.join(", ")}`}`;
    return rest === undefined || FIRST.has(specifier) ? undefined : "what a package offers is what its src/index.ts exports";
  }
  for (const { library, owners, why } of OWNED) {
    if (library.test(specifier) && !owners.includes(dir)) return why;
  }
  if (file.startsWith("packages/domain/src/")) {
    const kind = specifier.startsWith("node:") || builtins.has(specifier) ? "nothing of Node" : "no library";
    return `packages/domain is pure and imports ${kind}, only @mcp-failover/contracts`;
  }
  return undefined;
}

/** @param {string} dir @returns {string[]} */
function walk(dir) {
  return readdirSync(dir, { withFileTypes: true }).flatMap((entry) => {
    if (entry.isDirectory()) return entry.name === "node_modules" || entry.name.startsWith(".") ? [] : walk(join(dir, entry.name));
    return /\.m?[tj]s$/.test(entry.name) ? [join(dir, entry.name)] : [];
  });
}

/** @param {string} path */
function slashed(path) {
  return path.split(sep).join("/");
}
