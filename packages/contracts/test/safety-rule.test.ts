import assert from "node:assert/strict";
import { test } from "node:test";
import { ConfigError, parseTopology } from "../src/index.ts";

const upstreams = `
upstreams:
  pinecone: { kind: http, endpoints: [{ name: primary, tier: 0, url: "https://a.example" }, { name: secondary, tier: 1, url: "https://b.example" }] }
  neo4j: { kind: http, endpoints: [{ name: primary, tier: 0, url: "https://c.example" }] }
`;
const parse = (rules: string) =>
  parseTopology(`${upstreams}\nsafety_rules:\n${rules}`, { file: "failover.yaml", env: {} }).topology.safety_rules;
const refusal = (rules: string): string => {
  try {
    parse(rules);
  } catch (error) {
    if (error instanceof ConfigError) return error.problems.map(({ path, message }) => `${path}: ${message}`).join("\n");
    throw error;
  }
  return assert.fail("these rules were taken");
};

test("safety rules of the three kinds are taken as an operator writes them", () => {
  const rules = parse(`
  - { name: keep-two, at_least: { count: 2, endpoints: [pinecone/primary, pinecone/secondary, neo4j/primary] }, reason: capacity }
  - { name: not-both, never_both_on_backup: [pinecone, neo4j] }
  - { name: month-end, no_moves: { upstreams: [neo4j], weekly: { days: [fri], at: "18:00", for_ms: 3600000 } } }
`);
  assert.deepEqual(
    rules?.map(({ name, reason }) => [name, reason]),
    [
      ["keep-two", "capacity"],
      ["not-both", ""],
      ["month-end", ""],
    ],
  );
});

test("a safety rule that says nothing, two things, or speaks of what does not exist is refused with its place", () => {
  assert.match(refusal("  - { name: none }"), /safety_rules\.0: give exactly one of: at_least, never_both_on_backup, no_moves/);
  assert.match(
    refusal(
      "  - { name: two, never_both_on_backup: [pinecone, neo4j], no_moves: { upstreams: [neo4j], daily: { at: '02:00', for_ms: 1000 } } }",
    ),
    /give exactly one of/,
  );
  assert.match(
    refusal("  - { name: many, at_least: { count: 2, endpoints: [pinecone/primary] } }"),
    /at_least: count is more than the endpoints/,
  );
  assert.match(
    refusal("  - { name: far, at_least: { count: 1, endpoints: [pinecone/third] } }"),
    /endpoints\.0: no endpoint "pinecone\/third"/,
  );
  assert.match(refusal("  - { name: who, never_both_on_backup: [pinecone, nobody] }"), /never_both_on_backup\.1: no upstream "nobody"/);
  assert.match(
    refusal("  - { name: when, no_moves: { upstreams: [neo4j] } }"),
    /no_moves: give exactly one of: from with until, daily, weekly/,
  );
  const twice = "  - { name: same, never_both_on_backup: [pinecone, neo4j] }\n";
  assert.match(refusal(twice + twice), /safety_rules\.1\.name: duplicate rule "same"/);
});
