import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { tempDir } from "@mcp-failover/testkit";
import { ROOT } from "../../scripts/lib/repo.mjs";

/** `soak` as CI runs it, with an `npm` whose runs end with these codes, one after the other. */
async function soakOfCi(
  codes: readonly number[],
  says = "NOTHING SHOWN: the stack did not get ready",
): Promise<{ code: number | null; runs: number; told: string }> {
  const { path, remove } = await tempDir("mcpf-ci-");
  try {
    const [soak] = /^soak\(\) \{\n(?:.*\n)*?\}\n/m.exec(readFileSync(join(ROOT, ".ci/run"), "utf8")) ?? assert.fail("CI runs no soak");
    const runs = join(path, "runs");
    const npm = `#!/bin/bash\necho run >> ${runs}\necho "seed 7"\necho "${says}"\n`;
    writeFileSync(join(path, "npm"), `${npm}codes=(${codes.join(" ")})\nexit "\${codes[$(($(wc -l < ${runs}) - 1))]}"\n`);
    chmodSync(join(path, "npm"), 0o755);
    const script = `set -euo pipefail\nsoaked=${join(path, "soaked")}\n${soak}failed=0\nsoak > /dev/null || failed=$?\nexit $failed`;
    const { status } = spawnSync("bash", ["-c", script], { env: { PATH: `${path}:${process.env["PATH"]}` } });
    const lines = (name: string): string => (existsSync(name) ? readFileSync(name, "utf8") : "");
    return { code: status, runs: lines(runs).split("\n").length - 1, told: lines(join(path, "soaked")) };
  } finally {
    await remove();
  }
}

test("a soak that broke an invariant fails at once: another seed would hide it", async () => {
  assert.deepEqual(await soakOfCi([1, 0]), { code: 1, runs: 1, told: "" });
});

test("a soak that passes runs once", async () => {
  assert.deepEqual(await soakOfCi([0, 1]), { code: 0, runs: 1, told: "" });
});

for (const code of [75, 124]) {
  test(`a soak that showed nothing (${code}) has one more try, which is told as flaky, with its seed`, async () => {
    const { code: ended, runs, told } = await soakOfCi([code, 0]);
    assert.deepEqual({ ended, runs }, { ended: 0, runs: 2 });
    assert.match(told, new RegExp(`^FLAKY: soak, seed 7, ended with ${code} in try 1 of 2: .+\n$`));
  });
}

test("a soak that breaks an invariant in its second try fails, and so does one that shows nothing twice", async () => {
  assert.equal((await soakOfCi([75, 1])).code, 1);
  assert.equal((await soakOfCi([124, 0], "  PROBLEM: S1: answered twice")).code, 124, "broken, and then out of time");
  const twice = await soakOfCi([75, 75, 0]);
  assert.deepEqual({ code: twice.code, runs: twice.runs }, { code: 75, runs: 2 });
});
