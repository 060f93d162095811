import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { type Topology, topology } from "@mcp-failover/contracts";
import {
  allowedTools,
  audienceMatches,
  grantOf,
  hasAmbiguousKeys,
  identityRequired,
  isDeeperThan,
  matchesPattern,
  mayCallAllTools,
  mayCallTool,
  mayUseUpstream,
  openGrant,
} from "@mcp-failover/domain";
import fc from "fast-check";

function agentConfig(agents: Record<string, object>): Topology {
  const endpoints = [{ name: "a", url: "http://127.0.0.1:1", tier: 0 }];
  return topology.parse({ upstreams: { u: { kind: "mcp", endpoints } }, agents });
}

describe("what an agent may use", () => {
  test("G1: what no pattern allows is forbidden, and an empty list allows nothing", () => {
    const grant = { upstreams: ["pinecone", "neo4j-*"], tools: ["read_*", "pinecone/query", "neo4j-*/admin"] };
    assert.deepEqual(
      [mayUseUpstream(grant, "pinecone"), mayUseUpstream(grant, "neo4j-eu"), mayUseUpstream(grant, "tavily")],
      [true, true, false],
    );
    assert.deepEqual(
      [
        ["pinecone", "query"],
        ["neo4j-eu", "query"],
        ["pinecone", "read_all"],
        ["neo4j-eu", "admin"],
        ["pinecone", "admin"],
        ["tavily", "read_all"],
      ].map(([upstream = "", tool = ""]) => mayCallTool(grant, upstream, tool)),
      [true, false, true, true, false, false],
    );
    assert.equal(mayCallTool({ upstreams: ["*"], tools: [] }, "a", "b"), false);
    assert.equal(mayCallTool({ upstreams: [], tools: ["*"] }, "a", "b"), false);
    assert.equal(mayCallTool(openGrant, "a", "b"), true);
  });

  test("G2: a pattern is the name with any text for each star", () => {
    const word = fc.string({ unit: fc.constantFrom("a", "b", "*"), maxLength: 8 });
    const name = fc.string({ unit: fc.constantFrom("a", "b"), maxLength: 10 });
    fc.assert(
      fc.property(word, name, (pattern, text) => {
        const expected = new RegExp(`^${pattern.replaceAll("*", "[ab]*")}$`).test(text);
        assert.equal(matchesPattern(pattern, text), expected);
      }),
      { numRuns: 2000 },
    );
  });

  test("G1, G2: all tools may be called only where each of them may be", () => {
    const part = fc.constantFrom("*", "a", "b*", "a*", "x");
    const tool = fc.oneof(
      part,
      fc.tuple(part, part).map(([upstream, name]) => `${upstream}/${name}`),
    );
    fc.assert(
      fc.property(
        fc.array(part, { maxLength: 3 }),
        fc.array(tool, { maxLength: 3 }),
        fc.constantFrom("a", "b1", "x"),
        fc.string(),
        (upstreams, tools, upstream, name) => {
          const grant = { upstreams, tools };
          if (mayCallAllTools(grant, upstream)) assert.ok(mayCallTool(grant, upstream, name));
        },
      ),
    );
  });

  test("G3: the worst pattern is no work", () => {
    /** A name that says where it was searched, and how far. */
    class Watched extends String {
      readonly searched: { readonly from: number; readonly to: number }[] = [];
      override indexOf(part: string, from = 0): number {
        const found = super.indexOf(part, from);
        this.searched.push({ from, to: found === -1 ? this.length : found + part.length });
        return found;
      }
    }
    for (const pattern of [`${"a*".repeat(60)}b`, `${"a*".repeat(60)}a`, `*${"ab*".repeat(60)}`, `a*${"b*".repeat(60)}a`]) {
      const name = new Watched("a".repeat(100_000));
      const plain = name.toString();
      assert.equal(matchesPattern(pattern, name as unknown as string), matchesPattern(pattern, plain));
      // Each part is looked for once, and each place of the name is looked at by one of them.
      assert.ok(name.searched.length <= pattern.split("*").length, `${name.searched.length} searches`);
      name.searched.reduce((before, { from, to }) => {
        assert.ok(from >= before, `a search from ${from} after one to ${before}`);
        return to;
      }, 0);
    }
  });

  test("G4: a list keeps exactly what may be called, in order", () => {
    const tools = [{ name: "read_a", x: 1 }, { name: "write" }, null, "read_b", { name: 1 }, { name: "read_c" }];
    assert.deepEqual(allowedTools({ upstreams: ["*"], tools: ["read_*"] }, "u", tools), [{ name: "read_a", x: 1 }, { name: "read_c" }]);
  });

  test("nobody has to say who he is until an agent has a credential or there is an issuer", () => {
    assert.equal(identityRequired(agentConfig({})), false);
    assert.equal(identityRequired(agentConfig({ a: { tools: ["x"], allow: { tools: ["y"] } } })), false);
    assert.equal(identityRequired(agentConfig({ a: { tokens: [{ secret: "A" }] } })), true);
    assert.equal(identityRequired(agentConfig({ a: { certificates: [{ dns: "a" }] } })), true);
    assert.deepEqual(grantOf(agentConfig({ a: { allow: { tools: ["y"] } } }).agents["a"] as never), { upstreams: ["*"], tools: ["y"] });
  });

  test("a token is for this router only when its audience says so", () => {
    const own = ["https://router.example/", "https://router.example/mcp/a"];
    for (const good of ["https://router.example", "https://router.example/mcp/a/", ["x", "https://router.example"]])
      assert.ok(audienceMatches(good, own), String(good));
    for (const bad of [
      undefined,
      null,
      "",
      [],
      "https://router.example.evil",
      "https://router.example/mcp/b",
      [["https://router.example"]],
      1,
    ]) {
      assert.ok(!audienceMatches(bad, own), JSON.stringify(bad));
    }
  });
});

describe("a message that two readers could read in two ways", () => {
  const keys = new Set(["method", "name", "params"]);
  test("J1: is one with a decisive key twice, in any case of letters, escaped or not, in the top object or in params", () => {
    for (const text of [
      '{"method":"a","method":"b"}',
      '{"method":"a","Method":"b"}',
      '{"method":"a","m\\u0065thod":"b"}',
      '{"params":{"name":"a","x":{"y":[1]},"NAME":"b"}}',
      '{"params":{"a":"\\"}","name":1,"name":2}}',
      '{"params":{},"params":{}}',
      '{ "method" : "a" , "x":[{}], "method" : "b" }',
      // Written once, for a reader that this one is not.
      '{"Method":"tools/call","params":{"name":"b"},"result":{}}',
      '{"method":"a","params":{"name":"b"},"param\u017f":{"name":"c"}}',
      '{"method":"a","params":{"Name":"b"}}',
    ])
      assert.equal(hasAmbiguousKeys(text, keys), true, text);
    for (const text of [
      '{"method":"a","params":{"name":"b","arguments":{"name":"c","Name":"d","method":"e"}}}',
      '{"method":"method","params":{"name":"name"}}',
      '{"x":{"name":1,"name":2}}',
      '["method","method"]',
      '{"params":{"_meta":{"name":1},"name":2}}',
      '{"params":["name","name"],"method":{"method":1}}',
      "",
      "null",
    ])
      assert.equal(hasAmbiguousKeys(text, keys), false, text);
  });

  test("J2: depth is that of arrays and objects, whatever texts hold", () => {
    assert.deepEqual([isDeeperThan("[[[]]]", 2), isDeeperThan("[[[]]]", 3), isDeeperThan('["[[[[\\"[[["]', 2)], [true, false, false]);
    assert.equal(isDeeperThan("[".repeat(100_000), 1000), true);
    assert.equal(isDeeperThan("[]".repeat(100_000), 1), false);
  });

  test("J1: is nothing that JSON.stringify makes of an object with distinct keys, and everything with a key added again", () => {
    const value = fc.record({
      jsonrpc: fc.constant("2.0"),
      method: fc.string(),
      params: fc.record({ name: fc.string(), arguments: fc.jsonValue() }),
    });
    fc.assert(
      fc.property(value, fc.boolean(), (message, inside) => {
        const text = JSON.stringify(message);
        assert.equal(hasAmbiguousKeys(text, keys), false);
        const again = inside ? text.replace('"params":{', '"params":{"name":"first",') : text.replace("{", '{"method":"first",');
        assert.equal(hasAmbiguousKeys(again, keys), true);
        JSON.parse(again);
      }),
    );
  });
});
