import assert from "node:assert/strict";
import { test } from "node:test";
import { attacks } from "./attacks.ts";
import { permissions } from "./permissions.ts";

test("at least 30 attempts of an attacker are written out by hand, each another one", () => {
  assert.ok(attacks.length >= 30);
  assert.equal(new Set(attacks.map(({ name }) => name)).size, attacks.length);
});

permissions();
