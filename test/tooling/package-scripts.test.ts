import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

test("start, test, verify, bench, soak and fuzz replace npm's shell, which would swallow the signal that should stop them", () => {
  const { scripts } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"));
  for (const name of ["start", "test", "verify", "bench", "soak", "fuzz"]) assert.match(scripts[name], /^exec node /, name);
});
