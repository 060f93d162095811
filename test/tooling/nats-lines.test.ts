import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { ROOT } from "../../scripts/lib/repo.mjs";

test("whatever the documentation has typed into the NATS CLI goes to the bus of npm start: by itself that CLI asks port 4222", () => {
  const files = globSync(["README.md", "docs/**/*.md", "packages/*/README.md", "services/*/README.md", "infra/**/*.md"], { cwd: ROOT });
  const commands = files.flatMap((file) =>
    [...readFileSync(join(ROOT, file), "utf8").matchAll(/^nats (?!-server).*$/gm)].map(([line]) => `${file}: ${line}`),
  );
  assert.ok(commands.length >= 3, commands.join("\n"));
  assert.deepEqual(
    commands.filter((line) => !line.includes(": nats --server nats://127.0.0.1:7302 ")),
    [],
  );
});
