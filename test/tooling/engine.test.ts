import assert from "node:assert/strict";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { tempDir } from "@mcp-failover/testkit";
import { findCompose } from "../../scripts/lib/engine.mjs";

/** A folder of programs that end with the code that is given for `PROGRAM ARGUMENTS`, else with 1. */
async function programs(codes: Record<string, number>): Promise<{ env: { PATH: string }; remove(): Promise<void> }> {
  const { path, remove } = await tempDir("mcpf-programs-");
  for (const program of new Set(Object.keys(codes).map((line) => line.split(" ")[0] ?? ""))) {
    const cases = Object.entries(codes).map(([line, code]) => `"${line}") exit ${code};;`);
    const file = join(path, program);
    writeFileSync(file, `#!/bin/sh\ncase "${program} $*" in\n${cases.join("\n")}\nesac\nexit 1\n`);
    chmodSync(file, 0o755);
  }
  return { env: { PATH: path }, remove };
}

const both = { "docker compose version": 0, "docker-compose version": 0 };
for (const [what, codes, chosen] of [
  ["docker compose is used where both are", both, ["docker", "compose"]],
  ["docker-compose is used where the client has no such plugin", { "docker version": 0, "docker-compose version": 0 }, ["docker-compose"]],
  ["docker-compose is used where the plugin does not run", { ...both, "docker compose version": 125 }, ["docker-compose"]],
  ["docker compose is enough by itself", { "docker compose version": 0 }, ["docker", "compose"]],
  ["where neither runs, none is used", { "docker version": 0, "docker-compose version": 127 }, undefined],
  ["where nothing is installed, none is used", {}, undefined],
] as const) {
  test(what, async (t) => {
    const { env, remove } = await programs(codes);
    t.after(remove);
    assert.deepEqual(findCompose(env), chosen);
  });
}
