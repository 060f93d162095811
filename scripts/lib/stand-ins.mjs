import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { homedir, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { findGo, natsServerCache, natsServerModule } from "./newest-nats-server.mjs";
import { ROOT } from "./repo.mjs";

/**
 * Stand-ins for the base images that the Dockerfiles and docker-compose.yml name, made from package registries alone: a Debian root by
 * debootstrap from the mirror that apt of this machine uses, Node from the npm package `node`, Redis and HAProxy from Debian, nats-server
 * as a Go module. They carry the names of the real images, so that the files are the same everywhere.
 */

/** A stand-in cannot be made here; the sentence says what is missing. */
export class StandInError extends Error {
  code = "stand_in_impossible";
  retriable = false;
}

const SUITE = "bookworm";
const LABEL = "mcp-failover.stand-in";
/** Goes up when the recipe changes in a way that its inputs do not show. */
const RECIPE = 1;

/** One step may load a few hundred megabytes from a slow mirror; what takes longer hangs. */
const stepMsMax = 600_000;

/** @typedef {{ name: string, repository: string, tag: string, version: string }} BaseImage */

/** Every base image that our files name, with the version in its tag. @returns {BaseImage[]} */
export function baseImages() {
  const files = ["docker-compose.yml", "infra/docker/Dockerfile"];
  for (const folder of ["infra/images", "infra/compose"]) {
    if (!existsSync(join(ROOT, folder))) continue;
    for (const file of readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })) {
      if (/(^|\/)(Dockerfile|[\w-]+\.yml)$/.test(file)) files.push(join(folder, file));
    }
  }
  /** @type {Map<string, BaseImage>} */
  const found = new Map();
  for (const file of files) {
    const text = readFileSync(join(ROOT, file), "utf8");
    for (const [, name = ""] of text.matchAll(/^(?:FROM|\s+image:)\s+([a-z]+:\d[\w.-]*)/gm)) {
      const [repository = "", tag = ""] = name.split(":");
      found.set(name, { name, repository, tag, version: /^[\d.]+/.exec(tag)?.[0].replace(/\.$/, "") ?? "" });
    }
  }
  return [...found.values()];
}

/** Where roots and programs are kept between runs: `MCPF_IMAGE_CACHE`, else the user's cache folder. */
export const imageCache = () =>
  process.env["MCPF_IMAGE_CACHE"] ?? join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "mcp-failover", "images");

/** @type {Record<string, { root: "base" | "servers", programs?: (version: string, context: string, log: (line: string) => void) => void, lines: string[] }>} */
const RECIPES = {
  node: {
    root: "base",
    programs: nodeInto,
    lines: [
      "COPY node /usr/local/",
      "RUN groupadd -g 1000 node && useradd -m -u 1000 -g node -s /bin/bash node && ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm",
      'CMD ["node"]',
    ],
  },
  nats: { root: "servers", programs: natsInto, lines: ["COPY nats-server /usr/local/bin/", "RUN ln -sf /bin/busybox /usr/bin/wget"] },
  redis: {
    root: "servers",
    // The image of the Redis project has this user under this number.
    lines: ["RUN groupmod -g 999 redis && usermod -u 999 -g 999 redis && mkdir /data && chown redis:redis /data", "WORKDIR /data"],
  },
  haproxy: { root: "servers", lines: ["RUN usermod -u 99 haproxy && groupmod -g 99 haproxy"] },
};

/**
 * Makes those that are missing, or that an older recipe made. An image of the real repository with that name is left alone.
 * @param {{ docker?: string, log?: (line: string) => void }} [options]
 * @returns {string[]} the images that were made
 * @throws {StandInError}
 */
export function makeStandIns({ docker = "docker", log = (line) => process.stderr.write(`${line}\n`) } = {}) {
  const made = [];
  for (const image of baseImages()) {
    const recipe = RECIPES[image.repository];
    if (recipe === undefined) throw new StandInError(`no stand-in is known for ${image.name}: add a recipe to scripts/lib/stand-ins.mjs`);
    const key = recipeKey(image);
    const present = spawnSync(docker, ["image", "inspect", "--format", `{{index .Config.Labels "${LABEL}"}}`, image.name], {
      encoding: "utf8",
    });
    if (present.error !== undefined) throw new StandInError(`${docker} cannot be run (${present.error.message}): install a Docker client`);
    if (present.status === 0 && (present.stdout.trim() === key || present.stdout.trim() === "" || present.stdout.includes("no value")))
      continue;
    build(docker, image, recipe, key, log);
    made.push(image.name);
  }
  return made;
}

/** @param {BaseImage} image */
function recipeKey(image) {
  const own = readFileSync(fileURLToPath(import.meta.url));
  return createHash("sha256").update(own).update(image.name).update(String(RECIPE)).digest("hex").slice(0, 16);
}

/** @param {string} docker @param {BaseImage} image @param {(typeof RECIPES)[string]} recipe @param {string} key @param {(line: string) => void} log */
function build(docker, image, recipe, key, log) {
  const root = debianRoot(recipe.root, log);
  log(`stand-ins: building ${image.name}`);
  const context = mkdtempSync(join(tmpdir(), "mcpf-stand-in-"));
  try {
    copyFileSync(root, join(context, "root.tar"));
    recipe.programs?.(image.version, context, log);
    const lines = [
      "FROM scratch",
      "ADD root.tar /",
      `LABEL ${LABEL}=${key}`,
      "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ];
    writeFileSync(join(context, "Dockerfile"), `${[...lines, ...recipe.lines].join("\n")}\n`);
    run(docker, ["build", "--quiet", "--network", "none", "--tag", image.name, context]);
  } finally {
    rmSync(context, { recursive: true, force: true });
  }
}

/**
 * The root as a tar file: `base` is the smallest Debian, `servers` has Redis, HAProxy and busybox besides. Nothing of the mirror stays in it.
 * @param {"base" | "servers"} kind
 * @param {(line: string) => void} log
 */
function debianRoot(kind, log) {
  const file = (/** @type {string} */ name) => join(imageCache(), `debian-${SUITE}-${name}-${RECIPE}.tar`);
  if (existsSync(file(kind))) return file(kind);
  if (process.getuid?.() !== 0) throw new StandInError("debootstrap makes a Debian root as root only: run this as root, or with sudo");
  const mirror = aptMirror();
  mkdirSync(imageCache(), { recursive: true });
  const root = mkdtempSync(join(tmpdir(), "mcpf-root-"));
  try {
    log(`stand-ins: debootstrap ${SUITE}, about a minute`);
    run(
      "debootstrap",
      ["--variant=minbase", "--include=busybox", SUITE, root, mirror],
      "install debootstrap (apt-get install debootstrap)",
    );
    pack(root, file("base"));
    log("stand-ins: redis-server and haproxy from Debian");
    copyFileSync("/etc/resolv.conf", join(root, "etc/resolv.conf"));
    writeFileSync(join(root, "etc/apt/sources.list"), `deb ${mirror} ${SUITE} main\n`);
    // No daemon starts in there.
    writeFileSync(join(root, "usr/sbin/policy-rc.d"), "#!/bin/sh\nexit 101\n", { mode: 0o755 });
    const apt = ["env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get"];
    run("chroot", [root, ...apt, "update"]);
    run("chroot", [root, ...apt, "install", "-y", "--no-install-recommends", "redis-server", "haproxy"]);
    rmSync(join(root, "usr/sbin/policy-rc.d"));
    pack(root, file("servers"));
    return file(kind);
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

/** @param {string} root @param {string} file that appears whole or not at all */
function pack(root, file) {
  const left = ["var/cache", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "tmp"];
  const without = [
    "./etc/apt/sources.list*",
    "./etc/apt/apt.conf.d/*",
    "./dev/*",
    "./proc/*",
    "./sys/*",
    "./etc/resolv.conf",
    ...left.map((path) => `./${path}/*`),
  ];
  const partial = `${file}.${process.pid}`;
  run("tar", ["--create", "--file", partial, "--numeric-owner", "--directory", root, ...without.map((path) => `--exclude=${path}`), "."]);
  renameSync(partial, file);
}

/** The mirror from which apt of this machine gets the suite. */
function aptMirror() {
  const listed = spawnSync("apt-get", ["indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"], {
    encoding: "utf8",
  });
  const mirror = (listed.stdout ?? "")
    .split("\n")
    .map((line) => line.split(" "))
    .find(([release, component]) => release === SUITE && component === "main")?.[2];
  if (mirror === undefined)
    throw new StandInError(`apt of this machine has no source for Debian's ${SUITE}: a root of it cannot be made here`);
  return mirror;
}

/** Node of exactly the image's version: the one that the repository has installed, else from the npm registry. And npm, as it runs here. @param {string} version @param {string} context */
function nodeInto(version, context) {
  const installed = join(ROOT, "node_modules/node/bin/node");
  const cached = join(imageCache(), `node-${version}`);
  const is = (/** @type {string} */ program) => spawnSync(program, ["--version"], { encoding: "utf8" }).stdout?.trim() === `v${version}`;
  if (!is(cached)) {
    mkdirSync(dirname(cached), { recursive: true });
    if (is(installed)) copyFileSync(installed, cached);
    else {
      const folder = mkdtempSync(join(tmpdir(), "mcpf-node-"));
      try {
        run("npm", ["install", "--prefix", folder, "--no-save", "--no-audit", "--no-fund", `node@${version}`]);
        copyFileSync(join(folder, "node_modules/node/bin/node"), cached);
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    }
  }
  mkdirSync(join(context, "node/bin"), { recursive: true });
  copyFileSync(cached, join(context, "node/bin/node"));
  const npm = join(run("npm", ["root", "--global"]).trim(), "npm");
  cpSync(npm, join(context, "node/lib/node_modules/npm"), { recursive: true, dereference: true });
}

/** @param {string} version @param {string} file that appears whole or not at all @param {(line: string) => void} log */
function goInstall(version, file, log) {
  const go = findGo((line) => log(`stand-ins: ${line}`));
  if ("problem" in go) throw new StandInError(go.problem);
  log(`stand-ins: go install nats-server ${version}, about a minute`);
  mkdirSync(dirname(file), { recursive: true });
  const folder = mkdtempSync(join(tmpdir(), "mcpf-go-"));
  try {
    const env = { ...process.env, ...go.env, GOBIN: folder };
    run(go.program, ["install", "-ldflags", "-s -w", natsServerModule(version)], undefined, env);
    copyFileSync(join(folder, "nats-server"), `${file}.${process.pid}`);
    renameSync(`${file}.${process.pid}`, file);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * The server of exactly this version: what an earlier run or `node scripts/newest-nats.mjs` has built, else built now. Only where that cannot be,
 * Debian's.
 * @param {string} version @param {string} context @param {(line: string) => void} log
 */
export function natsInto(version, context, log) {
  const places = [join(imageCache(), `nats-server-${version}`), join(natsServerCache(version), "nats-server")];
  const cached = places.find((place) => existsSync(place)) ?? places[0] ?? "";
  if (!existsSync(cached)) {
    try {
      goInstall(version, cached, log);
    } catch (error) {
      if (!(error instanceof StandInError)) throw error;
      const debian = ["/usr/sbin/nats-server", "/usr/bin/nats-server"].find((path) => existsSync(path));
      if (debian === undefined) throw new StandInError(`nats-server ${version}: ${error.message}; and Debian's is not installed either`);
      log(`stand-ins: ${error.message}: Debian's nats-server stands in for ${version}: use MCPF_NATS_CONF=./infra/nats/nats-2.9.conf`);
      copyFileSync(debian, join(context, "nats-server"));
      return;
    }
  }
  copyFileSync(cached, join(context, "nats-server"));
}

/**
 * @param {string} command
 * @param {readonly string[]} args
 * @param {string} [hint] what to do when it is missing
 * @param {NodeJS.ProcessEnv} [env]
 */
function run(command, args, hint, env = process.env) {
  // Builds give way to whatever else this machine does.
  const ran = spawnSync("nice", ["-n", "10", command, ...args], {
    ...{ encoding: "utf8", env, cwd: tmpdir() },
    ...{ maxBuffer: 64 * 1024 * 1024, timeout: stepMsMax },
  });
  if (ran.status === 0) return ran.stdout;
  const said = `${ran.stdout ?? ""}${ran.stderr ?? ""}${ran.error?.message ?? ""}`.trim().split("\n").slice(-8).join("\n");
  throw new StandInError(
    `${command} ${args.slice(0, 2).join(" ")} failed (${ran.status})${hint === undefined ? "" : `; ${hint}`}:\n${said}`,
  );
}
