import assert from "node:assert/strict";
import { test } from "node:test";
import { topology } from "@mcp-failover/contracts";
import { contactsOf } from "@mcp-failover/domain";

test("whom to call stands with how to reach them; who is not explained stands as written, and nobody is invented", () => {
  const endpoints = [{ name: "one", tier: 0, url: "http://127.0.0.1:1/" }];
  const parsed = topology.parse({
    upstreams: {
      shop: { kind: "http", endpoints, contacts: ["on-call", "team@shop.example", "constructor"] },
      docs: { kind: "http", endpoints },
    },
    contacts: { "on-call": "Check PagerDuty rotation", escalation: "infrastructure@company.com" },
  });
  assert.deepEqual(contactsOf(parsed, "shop"), ["on-call: Check PagerDuty rotation", "team@shop.example", "constructor"]);
  assert.deepEqual(
    [contactsOf(parsed, "docs"), contactsOf(parsed, "nowhere"), contactsOf(parsed, null), contactsOf(null, "shop")],
    [[], [], [], []],
  );
});
