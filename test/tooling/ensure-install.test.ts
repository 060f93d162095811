import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { whyStale } from "../../scripts/lib/ensure-install.mjs";

function repository(t: TestContext, locked: object, installed?: object): string {
  const root = mkdtempSync(join(tmpdir(), "mcp-failover-install-"));
  t.after(() => rmSync(root, { recursive: true }));
  writeFileSync(join(root, "package-lock.json"), JSON.stringify({ packages: { "": {}, "packages/a": {}, ...locked } }));
  if (installed !== undefined) {
    mkdirSync(join(root, "node_modules"));
    writeFileSync(join(root, "node_modules", ".package-lock.json"), JSON.stringify({ packages: installed }));
  }
  return root;
}

const zod = { "node_modules/zod": { version: "4.6.7" } };

test("a checkout without node_modules is stale", (t) => {
  assert.equal(whyStale(repository(t, zod)), "node_modules is missing");
});

test("what the lock file says is not installed again", (t) => {
  assert.equal(whyStale(repository(t, zod, zod)), undefined);
});

test("another version, or a dependency that was added, makes it stale", (t) => {
  const older = { "node_modules/zod": { version: "4.6.6" } };
  assert.equal(whyStale(repository(t, zod, older)), "node_modules/zod differs from package-lock.json");
  assert.equal(whyStale(repository(t, zod, {})), "node_modules/zod is not installed");
});

test("a link to a workspace that moved makes it stale", (t) => {
  const link = (resolved: string) => ({ "node_modules/@mcp-failover/bus": { resolved, link: true } });
  assert.match(whyStale(repository(t, link("packages/bus"), link("packages/old"))) ?? "", /differs/);
  assert.equal(whyStale(repository(t, link("packages/bus"), link("packages/bus"))), undefined);
});

test("the packages of other platforms may be absent", (t) => {
  assert.equal(whyStale(repository(t, { "node_modules/@turbo/darwin-64": { version: "2.11.11", optional: true } }, {})), undefined);
});
