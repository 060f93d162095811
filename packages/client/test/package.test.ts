// The package that others install, in a project of its own: everything else here runs the TypeScript in place.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { patientMs } from "@mcp-failover/testkit";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const run = (file: string, args: readonly string[], cwd: string) => promisify(execFile)(file, args, { cwd, timeout: patientMs(60_000) });
let project: string;

/** As `npm install` leaves it: the package unpacked, beside it what it says that it needs. No registry is asked. */
before(async () => {
  project = await mkdtemp(join(tmpdir(), "mcp-failover-package-"));
  const pack = fileURLToPath(new URL("../bin/pack.mjs", import.meta.url));
  const file = (await run(process.execPath, [pack, project], root)).stdout.trim();
  const installed = join(project, "node_modules/@mcp-failover/client");
  await mkdir(installed, { recursive: true });
  await run("tar", ["-xzf", file, "--strip-components=1", "-C", installed], project);
  const manifest = JSON.parse(await readFile(join(installed, "package.json"), "utf8"));
  for (const name of [...Object.keys(manifest.dependencies), "@types/node"]) {
    if (manifest.bundleDependencies.includes(name)) continue;
    await mkdir(dirname(join(project, "node_modules", name)), { recursive: true });
    await symlink(join(root, "node_modules", name), join(project, "node_modules", name));
  }
  await writeFile(join(project, "package.json"), JSON.stringify({ type: "module" }));
});
after(() => rm(project, { recursive: true, force: true }));

const uses = `
const breaker = createBreaker({ timeoutMs: 1000 });
const fleet = connect({ servers: "nats://127.0.0.1:1", name: "agent", onError: () => undefined });
breaker.execute(() => 17).then(async (answer) => {
  await fleet.close();
  console.log(answer, breaker.state, new BreakerOpenError("docs", "test").code);
});
`;

test("what is packed runs below a node_modules, by import and by require, and holds no process up", async () => {
  await writeFile(join(project, "agent.mjs"), `import { BreakerOpenError, connect, createBreaker } from "@mcp-failover/client";${uses}`);
  await writeFile(
    join(project, "agent.cjs"),
    `const { BreakerOpenError, connect, createBreaker } = require("@mcp-failover/client");${uses}`,
  );
  for (const file of ["agent.mjs", "agent.cjs"])
    assert.equal((await run(process.execPath, [file], project)).stdout, "17 closed breaker_open\n");
});

test("its types hold in a strict project, by node16 and by bundler", async () => {
  const code = `import { type Client, type ConnectOptions, connect, createBreaker, OutcomeUnknownError } from "@mcp-failover/client";
export const options: ConnectOptions = { servers: "nats://127.0.0.1:1", name: "agent" };
export const fleet: Client = connect(options);
export const order: Promise<{ id: number }> = fleet.execute("docs", async ({ endpoint, signal }) => ({ id: endpoint.url.length + Number(signal.aborted) }));
export const kept: Promise<number | "kept"> = createBreaker({ fallback: () => "kept" as const }).execute(({ attempt }) => attempt);
export const cause = (error: unknown): unknown => (error instanceof OutcomeUnknownError ? error.fallbackError : null);
// @ts-expect-error a string is no time
createBreaker({ timeoutMs: "soon" });
// @ts-expect-error there is no such option
fleet.watchHealth(({ status }) => status satisfies string, { upstreams: "docs" });
`;
  await writeFile(join(project, "agent.ts"), code);
  const strict = { target: "es2022", strict: true, noEmit: true, types: ["node"] };
  for (const more of [
    // Ours have to hold by themselves; those of the `nats` package do not under exactOptionalPropertyTypes.
    { module: "node16", moduleResolution: "node16", skipLibCheck: false },
    { module: "esnext", moduleResolution: "bundler", skipLibCheck: true, exactOptionalPropertyTypes: true },
  ]) {
    await writeFile(join(project, "tsconfig.json"), JSON.stringify({ compilerOptions: { ...strict, ...more }, files: ["agent.ts"] }));
    const tsc = join(root, "node_modules/typescript/bin/tsc");
    const { stdout } = await run(process.execPath, [tsc, "-p", "."], project).catch((error) => error);
    assert.equal(stdout, "", more.moduleResolution);
  }
});
