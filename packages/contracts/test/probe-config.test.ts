import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ConfigError, findJson, jsonPathProblem, parseTopology, probeChecks, type Topology } from "../src/index.ts";

const yaml = (probe: string, endpoint = "", tools = "") => `
upstreams:
  api:
    kind: http
    ${tools}
    endpoints:
      - { name: one, url: "https://api.example:8443/v1", tier: 0, headers: { Api-Key: { secret: KEY } }${endpoint} }
      - { name: two, url: "https://backup.example/v1", tier: 1 }
    probe: ${probe}
`;
const parse = (text: string): Topology => parseTopology(text, { file: "failover.yaml", env: {} }).topology;
function problemsOf(text: string): string[] {
  try {
    parse(text);
    return [];
  } catch (error) {
    assert.ok(error instanceof ConfigError);
    return error.problems.map(({ path, message }) => `${path}: ${message}`);
  }
}
function checksOf(text: string, endpoint = 0) {
  const upstream = parse(text).upstreams["api"];
  const found = upstream?.endpoints[endpoint];
  assert.ok(upstream !== undefined && found !== undefined);
  return probeChecks(upstream, found);
}

test("a server of HTTP+SSE is probed by its port unless something else is said: no probe of today's transports can pass there", () => {
  const old = (probe: string) => `
upstreams:
  api:
    kind: mcp
    endpoints:
      - { name: old, url: "https://old.example/sse", tier: 0, transport: sse }
      - { name: new, url: "https://new.example/mcp", tier: 1 }
    ${probe}
`;
  const of = (text: string, endpoint: number) => checksOf(text, endpoint).map(({ type, url }) => [type, url]);
  assert.deepEqual(of(old(""), 0), [["tcp", "tcp://old.example:443"]]);
  assert.deepEqual(of(old(""), 1), [["mcp", "https://new.example/mcp"]]);
  assert.deepEqual(of(old("probe: { type: tls }"), 0), [["tls", "tls://old.example:443"]]);
});

test("what is wrong with a probe is said with its path, its value and what to do", () => {
  const cases: [string, RegExp][] = [
    ["{ preset: pinecon }", /^upstreams\.api\.probe\.preset: .*\bpinecone\b.*\(found "pinecon"\)$/],
    ["{ type: htpp }", /^upstreams\.api\.probe\.type: .*\(found "htpp"\)$/],
    ["{ tipe: http }", /^upstreams\.api\.probe\.tipe: unknown key, did you mean "type"\?; remove it or correct its spelling$/],
    [
      "{ type: redis, url: 'http://cache:6379' }",
      /^upstreams\.api\.probe\.url: "http:\/\/cache:6379": a probe of type redis needs a URL that begins with redis:\/\/ or rediss:\/\/$/,
    ],
    ["{ type: redis, url: 'redis://user:word@cache' }", /^upstreams\.api\.probe\.url: a password does not belong in this file; use auth/],
    ["{ type: tcp, url: 'tcp://cache' }", /^upstreams\.api\.probe\.url: "tcp:\/\/cache" has no port; write tcp:\/\/host:port$/],
    ["{ type: heartbeat }", /^upstreams\.api\.probe\.heartbeat: say how old the last one may be .*token: \{ secret: NAME \}/],
    [
      "{ type: heartbeat, heartbeat: { token: plain-words, max_age_ms: 1000 } }",
      /^upstreams\.api\.probe\.heartbeat\.token: write \{ secret: NAME \}.*\(found a text, which is not shown here\)$/,
    ],
    ["{ type: exec }", /^upstreams\.api\.probe\.exec: name the command/],
    ["{ type: exec, exec: { command: 'rm -rf /' } }", /^upstreams\.api\.probe\.exec\.command: name a command of MCPF_EXEC_ALLOW/],
    ["{ type: mcp_canary }", /^upstreams\.api\.probe\.mcp_canary: say which tool is called/],
    [
      "{ type: mcp_canary, mcp_canary: { tool: look } }",
      /^upstreams\.api\.probe\.mcp_canary: the tool "look" is not known to be harmless; write read_only: true/,
    ],
    ["{ type: mcp_tools, mcp_tools: { hash: abc } }", /^upstreams\.api\.probe\.mcp_tools\.hash: give sha256: and 64 hexadecimal digits/],
    ["{ type: resource }", /^upstreams\.api\.probe\.resource: say what is measured, one of metric, json, pid_file and stdio/],
    ["{ type: resource, resource: { metric: m } }", /^upstreams\.api\.probe\.resource: give either limit or limit_metric$/],
    [
      "{ type: resource, resource: { json: $.a, limit_metric: m } }",
      /^upstreams\.api\.probe\.resource: limit_metric is read beside metric/,
    ],
    [
      "{ type: tcp, expect: [{ of: certificate_days, min: 1 }] }",
      /^upstreams\.api\.probe\.expect: certificate_days needs a TLS address, and tcp:\/\/api\.example:8443 is none/,
    ],
    [
      "{ expect: [{ of: json, path: '$.a[', equals: 1 }] }",
      /^upstreams\.api\.probe\.expect\.0\.path: no JSONPath \(RFC 9535\): .*\(found "\$\.a\["\)$/,
    ],
    [
      "{ expect: [{ of: json, equals: 1 }] }",
      /^upstreams\.api\.probe\.expect\.0\.path: give a JSONPath, for example \$\.status \(it is missing\)$/,
    ],
    ["{ expect: [{ of: header, exists: true }] }", /^upstreams\.api\.probe\.expect\.0\.name: name the header/],
    ["{ expect: [{ of: status }] }", /^upstreams\.api\.probe\.expect\.0\.of: say what is expected of it: one of exists, equals/],
    [
      "{ expect: [{ of: latency_ms, contains: '1' }] }",
      /^upstreams\.api\.probe\.expect\.0\.contains: latency_ms is a number: use equals, in, min or max/,
    ],
    ["{ expect: [{ of: body, matches: '(?=a)b' }] }", /no look-around, no back-references/],
    ["{ expect: [{ of: body, matches: '(a)\\1' }] }", /no look-around, no back-references/],
    ["{ expect: [{ of: body, matches: '.{0,400}[yz]' }] }", /it has 803 steps, and at most 200 may be: repeat less often, or use contains/],
    ["{ expect: [{ of: body, matches: '(' }] }", /^upstreams\.api\.probe\.expect\.0\.matches: no regular expression/],
    ["{ expect: [{ of: status, min: 5, max: 4 }] }", /^upstreams\.api\.probe\.expect\.0\.min: over max/],
    [
      "{ checks: [{ type: dns, url: 'http://x' }] }",
      /^upstreams\.api\.probe\.checks\.0\.url: a probe of type dns has no address; remove it$/,
    ],
    ["{ ca: 'PEM' }", /^upstreams\.api\.probe\.ca: HTTP probes verify as the endpoint's tls: says/],
    ["{ type: tls, url: 'tls://x:1', port: 5 }", /^upstreams\.api\.probe\.port: there is a url already/],
  ];
  for (const [probe, expected] of cases) {
    const problems = problemsOf(yaml(probe));
    // Where addresses differ, each endpoint has its own.
    assert.equal(new Set(problems.map((problem) => problem.split(":")[0])).size, 1, `${probe}: ${problems.join("\n")}`);
    assert.match(problems[0] ?? "", expected, probe);
  }
  assert.match(
    problemsOf(yaml("{}", ", probe: { type: exec }"))[0] ?? "",
    /^upstreams\.api\.probe\.exec: |^upstreams\.api\.endpoints\.0\.probe\.exec: /,
  );
  assert.deepEqual(problemsOf(yaml("{ type: mcp_canary, mcp_canary: { tool: look } }", "", "tools: { look: { read_only: true } }")), []);
});

test("a secret that a probe names is asked for like any other, with its path", () => {
  const text = yaml(
    "{ type: heartbeat, heartbeat: { token: { secret: BEAT }, max_age_ms: 1000 } }",
    ", probe: { headers: { X: { secret: EXTRA } } }",
  );
  assert.throws(
    () => parseTopology(text, { file: "f", env: {}, hasSecret: (name) => name === "KEY" }),
    /endpoints\.0\.probe\.headers\.X .*EXTRA is missing[\s\S]*probe\.heartbeat\.token .*BEAT is missing/,
  );
});

test("P2: an endpoint's own values stand over its upstream's, those over the preset's; headers are joined whatever their case", () => {
  const text = yaml(
    "{ preset: pinecone, headers: { ACCEPT: text/plain, X-Up: u }, path: /stats }",
    ", probe: { path: /own, headers: { x-up: e }, checks: [{ type: tcp, port: 1 }] }",
  );
  const [own, check] = checksOf(text, 0);
  assert.deepEqual([own?.type, own?.method, own?.url], ["http", "POST", "https://api.example:8443/v1/own"]);
  assert.deepEqual(own?.headers, {
    "content-type": "application/json",
    accept: "text/plain",
    "x-pinecone-api-version": "2026-07",
    "x-up": "e",
    "api-key": { secret: "KEY" },
  });
  assert.deepEqual([check?.type, check?.url, check?.severity], ["tcp", "tcp://api.example:1", "hard"]);
  const [other, none] = checksOf(text, 1);
  assert.deepEqual(
    [other?.url, other?.headers["x-up"], other?.headers["api-key"], none],
    ["https://backup.example/v1/stats", "u", undefined, undefined],
  );
});

test("each type finds its address: the endpoint's own, its host by the type's port, another port, another URL", () => {
  const cases: [string, string][] = [
    ["{}", "https://api.example:8443/v1"],
    ["{ path: /health }", "https://api.example:8443/v1/health"],
    ["{ port: 9000, path: '?x=1' }", "https://api.example:9000/v1?x=1"],
    ["{ url: 'http://status.example/api' }", "http://status.example/api"],
    ["{ type: tcp }", "tcp://api.example:8443"],
    ["{ type: tls }", "tls://api.example:8443"],
    ["{ type: websocket, path: /live }", "wss://api.example:8443/v1/live"],
    ["{ type: redis }", "rediss://api.example:6379"],
    ["{ type: bolt }", "bolt+s://api.example:7687"],
    ["{ type: bolt, port: 7000 }", "bolt+s://api.example:7000"],
    ["{ type: dns }", ""],
  ];
  for (const [probe, url] of cases) assert.equal(checksOf(yaml(probe))[0]?.url, url, probe);
  assert.equal(checksOf(yaml("{ type: tls }"), 1)[0]?.url, "tls://backup.example:443");
  assert.equal(checksOf(yaml("{ type: dns }"))[0]?.dns?.name, "api.example");
});

test("P1: no URL of another host or port ever carries the endpoint's headers or credentials", () => {
  const [host, port] = [
    fc.constantFrom("api.example", "API.example", "api.example.evil", "backup.example", "127.0.0.1"),
    fc.constantFrom("", ":8443", ":443", ":1"),
  ];
  fc.assert(
    fc.property(host, port, fc.constantFrom("http", "https"), (name, at, scheme) => {
      const url = new URL(`${scheme}://${name}${at}/x`);
      const [check] = checksOf(yaml(`{ url: "${scheme}://${name}${at}/x" }`));
      const isOwn = url.hostname === "api.example" && url.port === "8443" && url.protocol === "https:";
      assert.equal(check?.headers["api-key"] !== undefined, isOwn, url.href);
    }),
  );
});

test("an expectation that no answer can fulfil is refused: every endpoint would be down", () => {
  const said = (expectation: string): string => problemsOf(yaml(`{ type: http, expect: [${expectation}] }`)).join();
  for (const [expectation, words] of [
    ["{ of: status, equals: '200' }", /probe\.expect: status is a number, and never "200"; write a number, without quotes/],
    ["{ of: status, in: [200, '204'] }", /never "204"/],
    ["{ of: latency_ms, equals: null }", /never null/],
    ["{ of: header, name: x, min: 5 }", /header is a text, and min and max are for numbers/],
    ["{ of: body, max: 5 }", /body is a text/],
    ["{ of: header, name: x, equals: true }", /never true; write "true" in quotes/],
  ] as const)
    assert.match(said(expectation), words, expectation);
  for (const expectation of [
    "{ of: status, in: [200, 204] }",
    "{ of: header, name: x, equals: 5 }",
    "{ of: header, name: x, in: ['a', 5] }",
    "{ of: json, path: $.a, equals: true }",
    "{ of: json, path: $.a, equals: '200', severity: degraded }",
    "{ of: json, path: $.a, min: 1 }",
  ])
    assert.equal(said(expectation), "", expectation);
});

test("a filter that looks through the whole document for each of its values is refused, and others are not", () => {
  const said = (path: string): string =>
    problemsOf(yaml(`{ type: http, expect: [{ of: json, path: ${JSON.stringify(path)}, exists: true }] }`)).join();
  for (const path of ["$..[?count($..*) == 0]", "$..[?$..nope]", "$.a[?$.b[*].c]", "$[?$['a'][?@.x]]", "$[?count($.a.*) > 1]"])
    assert.match(said(path), /probe\.expect: .*looks through the whole document.*begin at @/, path);
  for (const path of [
    "$..price",
    "$.a[?@.x == $.limits.max]",
    "$[?@..x]",
    "$[?@.x == $['a'][0]['b c']]",
    "$[?@.name == '$..x']",
    "$['$..a'][*]",
  ])
    assert.equal(said(path), "", path);
  const slow = problemsOf(yaml('{ type: resource, resource: { json: "$..[?$..a]", limit: 5 } }')).join();
  assert.match(slow, /probe\.resource: .*looks through/);
});

test("a regular expression in a JSONPath takes a time in proportion to the text, and means what RFC 9485 says", () => {
  const startMs = performance.now();
  assert.deepEqual(findJson("$[?search(@.m, '(a+)+$')]", [{ m: `${"a".repeat(29)}b` }]), []);
  assert.deepEqual(findJson("$[?match(@.m, @.re)]", [{ m: `${"a".repeat(29)}b`, re: "(a|a)*" }]), []);
  assert.ok(performance.now() - startMs < 5000, "it doubled with each character");
  const texts = ["ok", "not ok", "o\rk", "o.k", "o-k", "[.]", 7];
  const found = (filter: string) => findJson(`$[?${filter}]`, texts);
  assert.deepEqual(found("match(@, 'ok|no')"), ["ok"]);
  assert.deepEqual(found("search(@, 'ok')"), ["ok", "not ok"]);
  assert.deepEqual(found("match(@, 'o.k')"), ["o.k", "o-k"], "a dot is no line end");
  assert.deepEqual(found("match(@, 'o[.]k')"), ["o.k"]);
  assert.deepEqual(found("match(@, 'o\\\\.k')"), ["o.k"]);
  assert.deepEqual(found("search(@, '(')"), [], "what is no pattern fits nothing");
});

test("JSONPath is that of RFC 9535, without scripts, and bounded", () => {
  const document = {
    store: {
      book: [
        { price: 8, title: "a" },
        { price: 12, title: "b" },
      ],
    },
  };
  assert.deepEqual(findJson("$.store.book[?@.price < 10].title", document), ["a"]);
  assert.deepEqual(findJson("$..price", document), [8, 12]);
  assert.deepEqual(findJson("$['store','shop']", document).length, 1);
  for (const path of ["store", "$.store[(@.length-1)]", "$[?process.exit()]", "$.a[", ""])
    assert.notEqual(jsonPathProblem(path), null, path);
  assert.equal(
    findJson(
      "$[*]",
      Array.from({ length: 5000 }, (_, n) => n),
    ).length,
    1000,
  );
});
