import assert from "node:assert/strict";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join, relative } from "node:path";
import { describe, test } from "node:test";
import { patientMs, tempDir } from "@mcp-failover/testkit";
import { ROOT } from "../../scripts/lib/repo.mjs";
import { run } from "../harness/stack.ts";
import { until } from "../harness/wait.ts";
import { docker, runName, skip } from "./compose.ts";
import { dockerfileProblems } from "./dockerfile-rules.ts";

const ours = ["mcp-failover:local", "mcp-failover-demo:local", "mcp-failover-nats:local"];
const used = [...ours, "redis:7.2.11-bookworm", "haproxy:3.0.8-bookworm"];
const sizeMax = 400 * 1000 * 1000;

interface Image {
  readonly Size: number;
  readonly RootFS: { readonly Layers: readonly string[] };
  readonly Config: {
    readonly User: string;
    readonly Env: readonly string[];
    readonly Entrypoint: readonly string[];
    readonly Healthcheck?: { readonly Test: readonly string[] };
    readonly Labels: Readonly<Record<string, string>>;
  };
}
const inspect = async (name: string): Promise<Image> => (JSON.parse(await docker(["image", "inspect", name])) as [Image])[0];

describe("the images", { skip }, () => {
  test("each is under 400 MB", async () => {
    for (const name of used) {
      const { Size } = await inspect(name);
      process.stdout.write(`${name}: ${(Size / 1e6).toFixed(0)} MB\n`);
      assert.ok(Size < sizeMax, `${name} has ${Size} bytes`);
    }
  });

  test("ours run as somebody, say what they are and how they are, and have no shell between the engine and the program", async () => {
    for (const name of ours) {
      const { Config } = await inspect(name);
      assert.match(Config.User, /^(node|1000:1000)$/, name);
      assert.equal(Config.Healthcheck?.Test[0], "CMD", name);
      assert.ok(Config.Entrypoint[0] === "node" || Config.Entrypoint[0] === "nats-server", name);
    }
    const { Config } = await inspect("mcp-failover:local");
    for (const label of ["title", "description", "licenses", "version", "revision"]) {
      assert.ok(Config.Labels[`org.opencontainers.image.${label}`], `the label ${label}`);
    }
  });

  test("a service ends in good order when the engine stops it, because the signal reaches node", async () => {
    const name = `${runName()}-signal`;
    const label = `com.docker.compose.project=${runName()}`;
    try {
      await docker(["run", "-d", "--network", "none", "--name", name, "--label", label, "mcp-failover:local", "notifier"]);
      // It listens before it has found its neighbours; a signal before that would end node by itself, with another code.
      await until(
        async () =>
          (await run("docker", ["exec", name, "infra/docker/healthcheck.sh", "9090", "/healthz"], process.env, patientMs(30_000))).code ===
          0,
        120_000,
      );
      await docker(["stop", "--time", "60", name], 90_000);
      assert.equal((await docker(["inspect", "--format", "{{.State.ExitCode}}", name])).trim(), "0");
    } finally {
      await docker(["rm", "-f", name]);
    }
  });

  test("a bill of materials is in the image, with production dependencies and nothing else", async () => {
    const read = ["run", "--rm", "--network", "none", "--entrypoint", "node", "mcp-failover:local", "-e"];
    const text = await docker([...read, "process.stdout.write(require('fs').readFileSync('sbom.cdx.json'))"]);
    const { bomFormat, components } = JSON.parse(text) as { bomFormat: string; components: { name: string; version: string }[] };
    assert.equal(bomFormat, "CycloneDX");
    assert.ok(components.some(({ name }) => name === "nats"));
    const listed = new Set(components.map(({ name }) => name));
    for (const name of ["typescript", "playwright-core", "knip", "turbo", "@modelcontextprotocol/server-everything"]) {
      assert.ok(!listed.has(name), `${name} is not needed in production`);
    }
    const installed = JSON.parse(
      await docker([...read, "console.log(JSON.stringify(require('fs').readdirSync('node_modules')))"]),
    ) as string[];
    for (const name of ["typescript", "playwright-core", "knip", "turbo", "fast-check"]) assert.ok(!installed.includes(name), name);
  });

  test("no layer holds a secret, or where its dependencies came from", async () => {
    const { path, remove } = await tempDir("mcpf-layers-");
    try {
      const bases = await Promise.all(["nats:2.15.2-alpine", "node:24.21.0-bookworm-slim"].map(inspect));
      assert.deepEqual(await scanLayers(path, new Set(bases.flatMap(({ RootFS }) => RootFS.Layers))), []);
      // A check that finds nothing would prove nothing.
      assert.deepEqual(secretsIn("x.pem", `-----BEGIN ${"PRIVATE"} KEY-----\n${"A".repeat(64)}`), ["a private key"]);
      assert.deepEqual(secretsIn("x", `SU${"A".repeat(56)}`), ["a seed of an NKey"]);
      assert.deepEqual(secretsIn(".npmrc", ""), ["settings of npm"]);
    } finally {
      await remove();
    }
  });

  test("the Dockerfiles keep the rules, and the rules see what breaks them", () => {
    for (const file of ["infra/docker/Dockerfile", "infra/images/nats/Dockerfile"]) {
      assert.deepEqual(dockerfileProblems(readFileSync(join(ROOT, file), "utf8")), [], file);
    }
    const bad =
      "FROM node:latest AS a\nADD http://x/y /y\nRUN --mount=type=cache apt-get install curl\nRUN cd /x\nENV TOKEN=1\nCMD node main.js\n";
    const rules = dockerfileProblems(bad).map((problem) => problem.split(":")[0]);
    assert.deepEqual(rules.sort(), ["apt", "buildkit", "exec-form", "healthcheck", "no-add", "pinned", "secret", "user"]);
  });
});

/** Looks into every layer of our images that is not one of `known`, each once. */
async function scanLayers(folder: string, known: Set<string>): Promise<string[]> {
  const archive = join(folder, "images.tar");
  await docker(["save", "--output", archive, ...ours], 240_000);
  await tar(folder, archive);
  const manifests = JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8")) as { Config: string; Layers: string[] }[];
  const problems: string[] = [];
  for (const { Config, Layers } of manifests) {
    // The history and the environment are read by whoever has the image.
    const config = readFileSync(join(folder, Config), "utf8");
    problems.push(...secretsIn("config", config).map((what) => `configuration: ${what}`));
    const { rootfs } = JSON.parse(config) as { rootfs: { diff_ids: string[] } };
    for (const [index, layer] of Layers.entries()) {
      const digest = rootfs.diff_ids[index] ?? assert.fail("a layer without its digest");
      if (known.has(digest)) continue;
      known.add(digest);
      const target = join(folder, digest.replace(":", "-"));
      await mkdir(target);
      await tar(target, join(folder, layer));
      for (const file of filesIn(target)) {
        const text = statSync(file).size > 4_000_000 ? "" : readFileSync(file, "latin1");
        problems.push(...secretsIn(relative(target, file), text).map((what) => `${relative(target, file)}: ${what}`));
      }
    }
  }
  return problems;
}

async function tar(folder: string, archive: string): Promise<void> {
  const ran = await run(
    "tar",
    ["-x", "-f", archive, "-C", folder, "--no-same-owner", "--exclude", "dev/*"],
    process.env,
    patientMs(240_000),
  );
  assert.equal(ran.code, 0, ran.stderr);
}

function filesIn(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

const texts: readonly [string, RegExp][] = [
  ["a private key", /-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----(?:\\n|\s)+[A-Za-z0-9+/]{32}/],
  ["a seed of an NKey", /\bS[UAOCNX][A-Z2-7]{56}\b/],
  ["a token of npm", /_authToken\s*=|\bnpm_[A-Za-z0-9]{36}\b/],
  ["an access key", /\b(?:AKIA|ASIA)[0-9A-Z]{16}\b/],
  ["a token of a forge", /\bgh[pousr]_[A-Za-z0-9]{36}\b/],
];
const names: readonly [string, RegExp][] = [
  ["settings of npm", /(^|\/)\.npmrc$/],
  ["an environment file", /(^|\/)\.env(\.|$)/],
  ["an authority of the build", /(^|\/)build\.crt$/],
  ["a working folder", /(^|\/)\.(mcpf|git)(\/|$)/],
];
function secretsIn(name: string, text: string): string[] {
  return [
    ...names.filter(([, pattern]) => pattern.test(name)).map(([what]) => what),
    ...texts.filter(([, pattern]) => pattern.test(text)).map(([what]) => what),
  ];
}
