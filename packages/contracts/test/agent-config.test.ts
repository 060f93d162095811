import assert from "node:assert/strict";
import { test } from "node:test";
import { ConfigError, parseTopology } from "@mcp-failover/contracts";

const upstreams = "upstreams: { a: { kind: mcp, endpoints: [{ name: one, url: 'http://127.0.0.1:1', tier: 0 }] } }\n";

function problemsOf(text: string): string[] {
  try {
    parseTopology(upstreams + text, { file: "failover.yaml", env: {} });
    return [];
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    return error.problems.map(({ path, message }) => `${path}: ${message}`);
  }
}
const issuer = (name: string): string => `{ issuer: 'https://${name}', jwks_url: 'https://${name}/jwks' }`;

test("agents with tokens, subjects and limits are taken, and those without as they were", () => {
  assert.deepEqual(problemsOf("agents: { a: { tools: [x] } }"), []);
  assert.deepEqual(
    problemsOf(`agents:
  a: { tokens: [{ secret: A }, { sha256: ${"ab".repeat(32)} }], allow: { upstreams: ["a*"], tools: ["a/read_*", "x"] } }
  b: { subjects: [{ issuer: "https://i", subject: b }] }
  c: { certificates: [{ dns: c.agents.example }, { uri: "spiffe://mesh/c" }, { common_name: c }, { sha256: ${"cd".repeat(32)} }] }
router: { public_urls: ["https://r"], auth: { issuers: [${issuer("i")}, { issuer: "https://discovered" }] } }`),
    [],
  );
});

test("a token or a subject of two agents, a subject of nobody, and a router without an address are refused with what to do", () => {
  const hash = "ab".repeat(32);
  const said = [
    ...problemsOf(`agents: { a: { tokens: [{ secret: A }] }, b: { tokens: [{ secret: A }] } }`),
    ...problemsOf(`agents: { a: { tokens: [{ sha256: ${hash} }, { sha256: ${hash} }] } }`),
    ...problemsOf(`agents: { a: { subjects: [x] } }`),
    ...problemsOf(`router: { auth: { issuers: [${issuer("i")}] } }`),
    ...problemsOf(
      `agents: { a: { subjects: [x] } }\nrouter: { public_urls: ["https://r"], auth: { issuers: [${issuer("i")}, ${issuer("j")}] } }`,
    ),
    ...problemsOf(
      `agents: { a: { subjects: [{ issuer: 'https://k', subject: x }] } }\nrouter: { public_urls: ["https://r"], auth: { issuers: [${issuer("i")}] } }`,
    ),
    ...problemsOf(`router: { public_urls: ["https://r"], auth: { issuers: [{ issuer: 'https://i', jwks_url: 'http://i/jwks' }] } }`),
    ...problemsOf("agents: { a: { tokens: [plain-text] } }"),
    ...problemsOf(`router: { public_urls: ["https://r"], auth: { issuers: [{ issuer: 'http://i' }] } }`),
    ...problemsOf("agents: { a: { certificates: [{ dns: x }] }, b: { certificates: [{ dns: x }] } }"),
    ...problemsOf("agents: { a: { certificates: [x] } }"),
  ];
  const expected = [
    /agents\.b\.tokens\.0: the agent a has it too/,
    /agents\.a\.tokens\.1/,
    /agents\.a\.subjects\.0: no issuer/,
    /router\.public_urls: give the address/,
    /agents\.a\.subjects\.0: with several issuers/,
    /no issuer "https:\/\/k"/,
    /jwks_url: use https/,
    /agents\.a\.tokens\.0/,
    /jwks_url: give it, or an issuer that begins with https/,
    /agents\.b\.certificates\.0: the agent a has it too/,
    /agents\.a\.certificates\.0: write \{ dns/,
  ];
  assert.equal(said.length, expected.length, said.join("\n"));
  for (const [index, pattern] of expected.entries()) assert.match(said[index] ?? "", pattern);
});
