import assert from "node:assert/strict";
import { test } from "node:test";
import { ConfigError, isStdioUrl, parseTopology, probeChecks, topology } from "../src/index.ts";

const parse = (endpoint: object, upstream: object = {}) =>
  parseTopology(
    JSON.stringify({ upstreams: { files: { kind: "mcp", endpoints: [{ name: "one", tier: 0, ...endpoint }], ...upstream } } }),
    {
      file: "failover.yaml",
      env: {},
    },
  ).topology;
const stdio = { command: "files", args: ["/data"], env: { TOKEN: { secret: "FILES_TOKEN" } } };

function problemsOf(endpoint: object, upstream: object = {}): string[] {
  try {
    parse(endpoint, upstream);
    return [];
  } catch (error) {
    assert.ok(error instanceof ConfigError);
    return error.problems.map(({ path, message }) => `${path}: ${message}`);
  }
}

test("a stdio endpoint gets an address that names its command, and is read again as it was written into the log", () => {
  const parsed = parse({ stdio });
  const [endpoint] = parsed.upstreams["files"]?.endpoints ?? [];
  assert.ok(endpoint !== undefined && isStdioUrl(endpoint.url));
  assert.deepEqual(topology.parse(JSON.parse(JSON.stringify(parsed))), parsed);
  const other = parse({ stdio: { ...stdio, args: ["/else"] } }).upstreams["files"]?.endpoints[0];
  assert.notEqual(other?.url, endpoint.url, "another argument is another address");
});

test("what does not go with stdio or sse is refused with its path and what to do", () => {
  const url = "http://127.0.0.1:1/mcp";
  const said = (endpoint: object, upstream?: object): string => problemsOf(endpoint, upstream).join("\n");
  assert.match(said({}), /endpoints\.0\.url: give the url of the server, or stdio:/);
  assert.match(said({ url: "stdio://one/x" }), /endpoints\.0\.url: give a URL that begins with http/);
  assert.match(said({ url, stdio }), /endpoints\.0\.url: there is stdio: already/);
  assert.match(said({ stdio, headers: { a: "b" } }), /endpoints\.0\.headers: .*stdio: env/);
  assert.match(said({ stdio, transport: "sse" }), /endpoints\.0\.transport: .*remove/);
  assert.match(said({ stdio: { command: "/bin/sh" } }), /endpoints\.0\.stdio\.command: .*MCPF_STDIO_ALLOW.*not a path/);
  assert.match(said({ stdio: { ...stdio, env: { NODE_OPTIONS: "--import x" } } }), /stdio\.env\.NODE_OPTIONS: .*how programs are loaded/);
  assert.match(said({ stdio: { ...stdio, comand: "x" } }), /unknown key, did you mean "command"/);
  assert.match(said({ url, transport: "sse" }, { kind: "http" }), /endpoints\.0\.transport: only an upstream of kind: mcp/);
  assert.match(said({ stdio, probe: { type: "tcp" } }), /probe\.type: .*stdio has none/);
});

test("a process of the router has no address of its own for a probe, and none of its secrets are in one", () => {
  const upstream = parse({ stdio }).upstreams["files"];
  assert.ok(upstream?.endpoints[0] !== undefined);
  const [check] = probeChecks(upstream, upstream.endpoints[0]);
  assert.ok(check !== undefined && isStdioUrl(check.url));
  assert.doesNotMatch(JSON.stringify(check), /FILES_TOKEN/);
});

test("the memory of a process of the router is measured where the router starts one, and nowhere else", () => {
  const url = "http://127.0.0.1:1/mcp";
  const probe = (resource: object) => ({ checks: [{ type: "resource", resource: { limit: 1e9, ...resource } }] });
  const said = (endpoint: object): string => problemsOf(endpoint).join("\n");
  for (const which of ["largest", "all"]) assert.equal(said({ stdio, probe: probe({ stdio: which }) }), "");
  assert.match(said({ url, probe: probe({ stdio: "largest" }) }), /checks\.0\.resource: .*the router starts.*metric, json and pid_file/);
  assert.match(said({ stdio, probe: probe({ json: "$.rss" }) }), /checks\.0\.type: .*measure the process with resource: \{ stdio: largest/);
  assert.match(said({ stdio, probe: probe({ stdio: "largest", pid_file: "/run/it" }) }), /checks\.0\.resource: say what is measured/);
});

test("/mcp is told of upstreams that there are, whose tools cannot be taken for one another's", () => {
  const endpoints = (port: number) => [{ name: "one", tier: 0, url: `http://127.0.0.1:${port}/` }];
  const said = (aggregate: object): string => {
    const upstreams = {
      a: { kind: "mcp", endpoints: endpoints(1) },
      a_: { kind: "mcp", endpoints: endpoints(2) },
      api: { kind: "http", endpoints: endpoints(3) },
    };
    try {
      parseTopology(JSON.stringify({ upstreams, router: { aggregate } }), { file: "failover.yaml", env: {} });
      return "";
    } catch (error) {
      assert.ok(error instanceof ConfigError);
      return error.problems.map(({ path, message }) => `${path}: ${message}`).join("\n");
    }
  };
  assert.equal(said({ upstreams: ["a"], separator: "." }), "");
  assert.match(said({ upstreams: ["a", "api"] }), /router\.aggregate\.upstreams\.1: no upstream of kind mcp/);
  assert.match(said({ upstreams: ["a", "a_"] }), /upstreams\.1: tools of a_ could be taken for some of a;/);
  assert.match(said({ separator: "%" }), /router\.aggregate\.separator: use 1 to 4/);
});
