import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { newestNats } from "@mcp-failover/testkit";
import { permissions } from "./permissions.ts";

const newest = newestNats();
const skip = "missing" in newest ? newest.missing : false;

test("the permissions hold on a nats-server newer than Debian's", { skip }, () => {
  assert.ok("binary" in newest);
  const { stdout } = spawnSync(newest.binary, ["--version"], { encoding: "utf8" });
  assert.match(stdout, /v2\.(1[1-9]|[2-9]\d)\./, "what follows is about a newer one");
});

if ("binary" in newest) permissions(newest.binary);
