// Runs every `ts` block of the page for opossum's and cockatiel's users.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { patientMs } from "@mcp-failover/testkit";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const page = "docs/breaker-for-opossum-and-cockatiel-users.md";

test(`every example of ${page} does what it says`, async () => {
  const blocks = [...(await readFile(join(root, page), "utf8")).matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map(([, code = ""]) => code);
  assert.equal(blocks.length, 5);
  // In one process, because each start costs a second: every block has a scope of its own, and imports what it says.
  const scoped = blocks.map((code) => {
    const imported = code
      .replace(/^import (\w+) from (.*);$/gm, "const { default: $1 } = await import($2);")
      .replace(/^import (\{.*\}) from (.*);$/gm, "const $1 = await import($2);");
    return `{\n${imported}\n}`;
  });
  const options = { cwd: root, timeout: patientMs(60_000) };
  const { stderr } = await promisify(execFile)(process.execPath, ["--input-type=module-typescript", "-e", scoped.join("\n")], options);
  assert.equal(stderr, "");
});

test("the table of faults names the rows as their tests do", async () => {
  const text = await readFile(join(root, page), "utf8");
  const tests = await readFile(new URL("./breaker-local-faults.test.ts", import.meta.url), "utf8");
  const rows = [...text.matchAll(/^\| (row \d+) \| (opossum|cockatiel)/gm)].map(([, row = "", of = ""]) => `${row}, ${of}`);
  assert.equal(rows.length, 6);
  for (const row of rows) assert.ok(tests.includes(`test("${row}`), row);
});
