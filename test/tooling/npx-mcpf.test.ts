import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { ROOT } from "../../scripts/lib/repo.mjs";
import { run } from "../harness/stack.ts";

test("before the dependencies are installed the documented `npx mcpf` fetches and runs no package of that name from a registry", async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "mcp-failover-npx-"));
  t.after(() => rmSync(dir, { recursive: true }));
  const ran = join(dir, "foreign-code-ran");
  const foreign = join(dir, "foreign");
  mkdirSync(foreign);
  writeFileSync(join(foreign, "package.json"), '{ "name": "mcpf", "version": "1.0.0", "bin": { "mcpf": "run.js" } }');
  writeFileSync(join(foreign, "run.js"), `#!/usr/bin/env node\nrequire("node:fs").writeFileSync(${JSON.stringify(ran)}, "");\n`);
  execFileSync("tar", ["-czf", join(dir, "mcpf.tgz"), "--transform", "s,^foreign,package,", "-C", dir, "foreign"]);
  const tarball = readFileSync(join(dir, "mcpf.tgz"));
  const integrity = `sha512-${createHash("sha512").update(tarball).digest("base64")}`;

  const registry = createServer(({ url = "" }, response) => {
    if (url.endsWith(".tgz")) return response.end(tarball);
    const dist = { tarball: `${address}/mcpf.tgz`, integrity };
    const versions = { "1.0.0": { name: "mcpf", version: "1.0.0", bin: { mcpf: "run.js" }, dist } };
    return response.end(JSON.stringify({ name: "mcpf", "dist-tags": { latest: "1.0.0" }, versions }));
  });
  await new Promise<void>((resolve) => registry.listen(0, "127.0.0.1", resolve));
  t.after(() => registry.close());
  const address = `http://127.0.0.1:${(registry.address() as AddressInfo).port}`;

  // A fresh clone as npm sees it. What this machine's user has configured must not be what keeps it out.
  const clone = join(dir, "clone");
  mkdirSync(clone);
  for (const file of ["package.json", ".npmrc"]) if (existsSync(join(ROOT, file))) copyFileSync(join(ROOT, file), join(clone, file));
  writeFileSync(join(dir, "userconfig"), "");
  const env = {
    PATH: process.env["PATH"],
    HOME: dir,
    npm_config_userconfig: join(dir, "userconfig"),
    npm_config_registry: address,
    npm_config_cache: join(dir, "cache"),
    npm_config_audit: "false",
  };
  const npx = (more: Record<string, string>) => run("sh", ["-c", 'cd "$1" && npx mcpf status', "sh", clone], { ...env, ...more }, 60_000);

  const { code, stderr } = await npx({});
  assert.equal(existsSync(ran), false, stderr);
  assert.notEqual(code, 0);
  assert.match(stderr, /canceled due to missing packages/);
  const permitted = await npx({ npm_config_yes: "true" });
  assert.equal(existsSync(ran), true, `the registry of this test would have given it: ${permitted.stderr}`);
});
