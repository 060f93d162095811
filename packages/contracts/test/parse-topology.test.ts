import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  ConfigError,
  latencyBucketsMs,
  type ParseTopologyOptions,
  parseTopology,
  requestFixOf,
  requests,
  sayIssues,
  secretsIn,
} from "../src/index.ts";

const minimal = `
upstreams:
  pinecone:
    kind: http
    endpoints:
      - name: primary
        tier: 0
        url: https://a.example
`;

function problemsOf(text: string, options: Partial<ParseTopologyOptions> = {}) {
  try {
    parseTopology(text, { file: "failover.yaml", env: {}, ...options });
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error));
    assert.equal(error.code, "config_invalid");
    for (const { path, line, message } of error.problems) {
      assert.ok(message.length > 0);
      assert.ok(error.message.includes(`${path}${line === null ? "" : ` (line ${line})`}: ${message}`), error.message);
    }
    assert.ok(error.message.startsWith("failover.yaml cannot be used:\n"));
    return error.problems;
  }
  assert.fail("this configuration was taken");
}

/** The one problem of a text: where it is, and that its message says what was found and what to do. */
function problem(text: string, path: string, line: number | null, message: RegExp, options: Partial<ParseTopologyOptions> = {}): void {
  const problems = problemsOf(text, options);
  assert.deepEqual(
    problems.map((each) => [each.path, each.line]),
    [[path, line]],
    JSON.stringify(problems),
  );
  assert.match(problems[0]?.message ?? "", message);
}

test("the smallest configuration is taken, with every default", () => {
  const { topology, hash } = parseTopology(minimal, { file: "f", env: {} });
  const upstream = topology.upstreams["pinecone"];
  assert.equal(upstream?.mode, "active_standby");
  assert.equal(upstream?.critical, true);
  assert.equal(upstream?.endpoints[0]?.role, "write");
  assert.equal(topology.rollback.rollback_thresholds.error_rate, 0.1);
  assert.equal(topology.fallback.fallback_timeout, 60);
  assert.deepEqual(topology.notifications.channels, [{ name: "log", type: "log", severities: ["page", "notify"] }]);
  assert.match(hash, /^[0-9a-f]{64}$/);
});

test("the hash is that of the meaning: comments and the order of keys do not change it, a value does", () => {
  const hash = (text: string) => parseTopology(text, { file: "f", env: {} }).hash;
  assert.equal(hash(`# a comment\n${minimal}`), hash(minimal));
  assert.equal(
    hash(minimal.replace("        tier: 0\n        url: https://a.example", "        url: https://a.example\n        tier: 0")),
    hash(minimal),
  );
  assert.notEqual(hash(minimal.replace("tier: 0", "tier: 1")), hash(minimal));
});

test("an unknown key is named with its line and the key that was meant", () => {
  problem(
    minimal.replace("kind: http", "kind: http\n    critcal: true"),
    "upstreams.pinecone.critcal",
    5,
    /unknown key, did you mean "critical"\?; remove it or correct/,
  );
  problem(
    minimal.replace("        tier: 0", "        tier: 0\n        wieght: 2"),
    "upstreams.pinecone.endpoints.0.wieght",
    8,
    /did you mean "weight"\?/,
  );
  problem(`${minimal}upstream: {}\n`, "upstream", 9, /did you mean "upstreams"\?/);
  problem(`${minimal}zzzzzzzzzz: 1\n`, "zzzzzzzzzz", 9, /known here: .*upstreams/);
});

test("a bad URL is named with what was found", () => {
  problem(
    minimal.replace("https://a.example", "ftp://a.example"),
    "upstreams.pinecone.endpoints.0.url",
    8,
    /http:\/\/ or https:\/\/.*found "ftp:\/\/a\.example"/,
  );
  problem(minimal.replace("https://a.example", "not a url"), "upstreams.pinecone.endpoints.0.url", 8, /begins with http/);
  problem(minimal.replace("        url: https://a.example\n", ""), "upstreams.pinecone.endpoints.0.url", 6, /it is missing/);
});

test("a duplicate endpoint is refused, by its name and by its URL", () => {
  const second = (name: string, url: string) => `${minimal}      - { name: ${name}, tier: 1, url: "${url}" }\n`;
  problem(second("primary", "https://b.example"), "upstreams.pinecone.endpoints.1.name", 9, /duplicate endpoint "primary".*its own name/);
  problem(second("secondary", "https://a.example"), "upstreams.pinecone.endpoints.1.url", 9, /no backup/);
});

test("one URL written in two ways is still one endpoint", () => {
  problem(
    `${minimal}      - { name: secondary, tier: 1, url: "https://A.example:443/" }\n`,
    "upstreams.pinecone.endpoints.1.url",
    9,
    /no backup/,
  );
});

test("a missing secret is named with every way to give it, and its value is never asked for", () => {
  const text = minimal.replace("        tier: 0", "        tier: 0\n        headers: { api-key: { secret: PINECONE_API_KEY } }");
  const asked: string[] = [];
  problem(
    text,
    "upstreams.pinecone.endpoints.0.headers.api-key",
    8,
    /PINECONE_API_KEY is missing; set the environment variable.*MCPF_SECRETS_DIR/,
    {
      hasSecret: (name) => {
        asked.push(name);
        return false;
      },
    },
  );
  assert.deepEqual(asked, ["PINECONE_API_KEY"]);
  const { topology } = parseTopology(text, { file: "f", env: { PINECONE_API_KEY: "hunter2" }, hasSecret: () => true });
  assert.ok(!JSON.stringify(topology).includes("hunter2"));
  assert.deepEqual(
    secretsIn(topology).map(({ name }) => name),
    ["PINECONE_API_KEY"],
  );
});

const withLegacy = (url: string) =>
  minimal.replace("kind: http", `kind: mcp\n    tools:\n      get_inventory:\n        legacy: { url: "${url}" }`);

test("a legacy URL that points back at the router is refused, whatever name of this machine it uses", () => {
  for (const host of [
    "127.0.0.1",
    "localhost",
    "LOCALHOST",
    "127.0.0.2",
    "127.1",
    "[::1]",
    "0.0.0.0",
    "[::]",
    "[::ffff:127.0.0.1]",
    "2130706433",
    "localhost.",
  ]) {
    for (const routerUrl of ["http://127.0.0.1:7300", "http://localhost:7300/mcp", "http://[::1]:7300"]) {
      problem(
        withLegacy(`http://${host}:7300/http/warehouse/x`),
        "upstreams.pinecone.tools.get_inventory.legacy.url",
        7,
        /points back at the router.*loop/,
        { routerUrls: [routerUrl] },
      );
    }
  }
});

test("a legacy URL on another port, or of another machine, is taken", () => {
  for (const url of ["http://127.0.0.1:7301/inventory", "http://legacy.example:7300/inventory", "https://127.0.0.1/inventory"]) {
    assert.ok(parseTopology(withLegacy(url), { file: "f", env: {}, routerUrls: ["http://127.0.0.1:7300"] }));
  }
});

test("an endpoint and a legacy URL that point at the router's public address are refused", () => {
  const own = "router: { public_urls: [https://mcp.example.com] }\n";
  problem(
    withLegacy("https://mcp.example.com:443/http/x") + own,
    "upstreams.pinecone.tools.get_inventory.legacy.url",
    7,
    /points back at the router/,
  );
  problem(
    minimal.replace("https://a.example", "https://MCP.example.com/mcp/pinecone") + own,
    "upstreams.pinecone.endpoints.0.url",
    8,
    /points back at the router/,
  );
});

test("all that is wrong is said at once, each at its place", () => {
  const text = minimal.replace("tier: 0", "tier: -1").replace("kind: http", "kind: ftp");
  const places = problemsOf(`${text}nonsense: 1\n`).map(({ path, line }) => `${path}@${line}`);
  assert.deepEqual(places.sort(), ["nonsense@9", "upstreams.pinecone.endpoints.0.tier@7", "upstreams.pinecone.kind@4"]);
});

test("broken YAML, an empty file and one that is no mapping are refused, with the line where there is one", () => {
  assert.equal(problemsOf("upstreams:\n  a: [1\n")[0]?.line, 3);
  assert.match(problemsOf("upstreams: {}\nupstreams: {}\n")[0]?.message ?? "", /unique/i);
  for (const [text, line, what] of [
    ["", 1, "it is empty"],
    ["# only a comment\n\n", 1, "it is empty"],
    ["---\n...\n", 1, "it is empty"],
    ["# a comment\njust text", 2, "it is no mapping (key: value)"],
    ["\n- a\n- b\n", 2, "it is no mapping (key: value)"],
  ] as const) {
    const [said] = problemsOf(text);
    assert.deepEqual([said?.path, said?.line, said?.message.split("; write ")[0]], ["(file)", line, what], text);
    // What it says to write is taken as it stands.
    assert.ok(parseTopology(said?.message.split("; write ")[1] ?? "", { file: "f", env: {} }).topology.upstreams["NAME"]);
  }
  assert.match(problemsOf("upstreams: {}\n")[0]?.message ?? "", /at least one upstream/);
});

test("a YAML bomb is refused before it is unfolded", () => {
  const levels = Array.from({ length: 9 }, (_, n) => `l${n + 1}: &l${n + 1} [${Array.from({ length: 9 }, () => `*l${n}`).join(", ")}]`);
  const startMs = Date.now();
  assert.ok(problemsOf(`l0: &l0 [x]\n${levels.join("\n")}\n`).length > 0);
  assert.ok(Date.now() - startMs < 2000);
});

test("what is wrong is said in words that name the fix, never in those of the libraries that read it", () => {
  const levels = Array.from({ length: 9 }, (_, n) => `l${n + 1}: &l${n + 1} [${Array.from({ length: 9 }, () => `*l${n}`).join(", ")}]`);
  const at = "upstreams.pinecone";
  const cases: [string, string, number | null, RegExp][] = [
    [minimal.replace("tier: 0", "tier: first"), `${at}.endpoints.0.tier`, 7, /^give a number \(found "first"\)$/],
    [minimal.replace("tier: 0", "tier: 0.5"), `${at}.endpoints.0.tier`, 7, /^give a whole number \(found 0\.5\)$/],
    [minimal.replace("        tier: 0\n", ""), `${at}.endpoints.0.tier`, 6, /^give a number \(it is missing\)$/],
    [minimal.replace("kind: http", "kind: grpc"), `${at}.kind`, 4, /^give one of mcp, http \(found "grpc"\)$/],
    [`${minimal}    call_timeout_ms: -5\n`, `${at}.call_timeout_ms`, 9, /^give at least 100 \(found -5\)$/],
    [`${minimal}    call_timeout_ms: 700000\n`, `${at}.call_timeout_ms`, 9, /^give at most 600000 /],
    [minimal.replace("tier: 0", "tier: 0\n        weight: 0"), `${at}.endpoints.0.weight`, 8, /^give more than 0 /],
    [`${minimal}    critical: yes\n`, `${at}.critical`, 9, /^give true or false /],
    [`${minimal}    contacts: ann\n`, `${at}.contacts`, 9, /^give a list /],
    [
      minimal.replace("tier: 0", "tier: 0\n        headers: { X: 5 }"),
      `${at}.endpoints.0.headers.X`,
      8,
      /^give text, or write \{ secret: NAME \}/,
    ],
    [
      `${minimal}notifications: { channels: [{ name: a, type: slack }] }\n`,
      "notifications.channels.0.type",
      9,
      /^give one of webhook, log /,
    ],
    ["upstreams:\n", "upstreams", 1, /^give a mapping \(key: value\) \(found null\)$/],
    ["- a\n", "(file)", 1, /^it is no mapping \(key: value\); write upstreams: /],
    ["upstreams:\n\tshop: {}\n", "(yaml)", 2, /^a tab indents this line.*write spaces$/],
    [`${minimal}---\na: 1\n`, "(yaml)", 9, /^another document begins here/],
    [`l0: &l0 [x]\n${levels.join("\n")}\n`, "(yaml)", 3, /^the aliases .* too many values; write the values out$/],
    [minimal.replace("tier: 0", "tier: *zero"), "(yaml)", 7, /alias.*zero; write the values out$/],
  ];
  for (const [text, path, line, words] of cases) problem(text, path, line, words);
});

test("variables are filled in, with their defaults, and one without is named at its place", () => {
  const text = minimal.replace("https://a.example", `"http://127.0.0.1:\${PORT_A:-9001}/\${PATH_A}"`);
  const url = (env: Record<string, string>) => parseTopology(text, { file: "f", env }).topology.upstreams["pinecone"]?.endpoints[0]?.url;
  assert.equal(url({ PATH_A: "x" }), "http://127.0.0.1:9001/x");
  assert.equal(url({ PATH_A: "x", PORT_A: "9100" }), "http://127.0.0.1:9100/x");
  problem(text, "upstreams.pinecone.endpoints.0.url", 8, /the variable PATH_A is not set; set it, or write \$\{PATH_A:-default\}/);
});

test("names that could not be told apart later are refused", () => {
  for (const name of ["a/b", "a b", "", "-a", "a".repeat(64), "a.b"]) {
    assert.ok(
      problemsOf(minimal.replace("pinecone:", `${JSON.stringify(name)}:`)).some(({ message }) => /letters, digits/.test(message)),
      name,
    );
  }
});

test("no endpoint that takes writes, two channels of one name, and a process for an endpoint that is not there are refused", () => {
  problem(minimal.replace("tier: 0", "tier: 0\n        role: read"), "upstreams.pinecone.endpoints", 5, /at least one must take writes/);
  problem(
    `${minimal}notifications: { channels: [{ name: a, type: log }, { name: a, type: log }] }\n`,
    "notifications.channels.1.name",
    9,
    /duplicate channel "a"/,
  );
  problem(
    `${minimal}local: { processes: [{ name: p, command: [node], port_offset: 10, serves: pinecone/tertiary }] }\n`,
    "local.processes.0.serves",
    9,
    /no endpoint "pinecone\/tertiary"/,
  );
});

test("any text is taken or refused with a ConfigError, never with anything else", () => {
  const anything = fc.oneof(
    fc.string(),
    fc.jsonValue().map((value) => JSON.stringify(value)),
    fc
      .tuple(fc.nat({ max: minimal.length }), fc.string({ maxLength: 5 }))
      .map(([at, text]) => minimal.slice(0, at) + text + minimal.slice(at)),
  );
  fc.assert(
    fc.property(anything, (text) => {
      try {
        parseTopology(text, { file: "f", env: {}, routerUrls: ["http://127.0.0.1:7300"] });
      } catch (error) {
        assert.ok(error instanceof ConfigError, String(error));
        assert.ok(error.problems.length > 0);
      }
    }),
    { numRuns: 300 },
  );
});

test("the breaker's window is given in time or in calls, not both", () => {
  const withBreaker = (breaker: string) =>
    parseTopology(
      `upstreams:\n  docs:\n    kind: http\n    breaker: ${breaker}\n    endpoints: [{ name: a, url: "http://127.0.0.1:1", tier: 0 }]\n`,
      { file: "failover.yaml", env: {} },
    ).topology.upstreams["docs"]?.breaker;
  assert.deepEqual(withBreaker("{ window: { type: count, calls: 50 } }"), { window: { type: "count", calls: 50 } });
  assert.deepEqual(withBreaker("{ window_ms: 10000 }"), { window_ms: 10_000 });
  assert.throws(() => withBreaker("{ window_ms: 10000, window: { type: count, calls: 50 } }"), /breaker\.window.*not both/);
  assert.throws(() => withBreaker("{ window_ms: 600000 }"), /window_ms/);
});

test("more than 100 channels are refused with where and why", () => {
  const text = (count: number) =>
    `${minimal}notifications:\n  channels:\n${Array.from({ length: count }, (_, index) => `    - { name: team-${index}, type: log }\n`).join("")}`;
  assert.equal(parseTopology(text(100), { file: "f", env: {} }).topology.notifications.channels.length, 100);
  problem(text(101), "notifications.channels", 10, /101 channels.*at most 100/);
});

test("channels that tell nobody, or no page, are refused with where and what to write", () => {
  const channels = (yaml: string) => `${minimal}notifications: { channels: ${yaml} }\n`;
  problem(channels("[]"), "notifications.channels", 9, /nobody would be told.*leave the key out/);
  problem(
    channels("[{ name: a, type: log, severities: [] }, { name: b, type: log }]"),
    "notifications.channels.0.severities",
    9,
    /page, notify/,
  );
  problem(channels("[{ name: a, type: log, severities: [notify] }]"), "notifications.channels", 9, /no channel takes pages/);
  const split = channels("[{ name: a, type: log, severities: [notify] }, { name: b, type: log, severities: [page] }]");
  assert.equal(parseTopology(split, { file: "f", env: {} }).topology.notifications.channels.length, 2);
});

test("the address of a webhook may be a secret, and is never shown where it is wrong", () => {
  const hook = (url: string) => `${minimal}notifications: { channels: [{ name: a, type: webhook, url: ${url} }] }\n`;
  const { topology } = parseTopology(hook('{ secret: HOOK_URL, prefix: "https://hooks.example/" }'), { file: "f", env: {} });
  assert.deepEqual(topology.notifications.channels[0]?.type === "webhook" && topology.notifications.channels[0].url, {
    secret: "HOOK_URL",
    prefix: "https://hooks.example/",
  });
  assert.doesNotThrow(() => parseTopology(hook('"https://hooks.example/T000"'), { file: "f", env: {} }));
  for (const url of ["hooks.example/T000-hidden", "{ name: T000-hidden }", "[T000-hidden]"]) {
    problem(hook(url), "notifications.channels.0.url", 9, /begins with http:\/\/ or https:\/\/, or \{ secret: NAME \}/);
    assert.doesNotMatch(JSON.stringify(problemsOf(hook(url))), /hidden/);
  }
  problem(hook("{ secret: t000-hidden }"), "notifications.channels.0.url.secret", 9, /name the environment variable.*not shown here/);
});

test("more contacts of an upstream than a message names, or longer ones, are refused, and none is left out or cut off", () => {
  const named = (count: number, how = "x") =>
    `${minimal}    contacts: [${Array.from({ length: count }, (_, index) => `c${index}`).join(", ")}]\ncontacts: { c0: "${how}" }\n`;
  for (const fit of [named(10), named(1, "x".repeat(196))]) assert.doesNotThrow(() => parseTopology(fit, { file: "f", env: {} }));
  problem(named(11), "upstreams.pinecone.contacts", 9, /11 contacts.*at most 10/);
  problem(named(1, "x".repeat(197)), "upstreams.pinecone.contacts.0", 9, /201 characters.*at most 200/);
});

test("a response_time that the routers' histogram cannot tell is refused, with those that it can", () => {
  const text = (seconds: number) => `${minimal}rollback:\n  rollback_thresholds: { response_time: ${seconds} }\n`;
  for (const ms of latencyBucketsMs) {
    assert.equal(parseTopology(text(ms / 1000), { file: "f", env: {} }).topology.rollback.rollback_thresholds.response_time, ms / 1000);
  }
  for (const seconds of [3, 4.9, 5.001, 12, 0.0005, 3600]) {
    problem(text(seconds), "rollback.rollback_thresholds.response_time", 10, /slower than.*0\.001, .*2\.5, 5, 10/);
  }
});

test("no problem shows what may be a secret: a value written where its name belongs, by a variable too, or in a URL", () => {
  const planted = "hunter2-planted";
  const endpoint = (more: string) => minimal.replace("tier: 0", `tier: 0\n        ${more}`);
  const env = { PW: planted };
  const texts: [string, RegExp][] = [
    [endpoint(`auth: { username: u, password: ${planted} }`), /auth\.password .*write \{ secret: NAME \}/],
    [endpoint(`auth: { username: u, password: "\${PW}" }`), /auth\.password .*write \{ secret: NAME \}/],
    [endpoint(`headers: { Authorization: { secret: ${planted} } }`), /headers\.Authorization\.secret .*name the environment variable/],
    [endpoint(`headers: [{ Authorization: ${planted} }]`), /headers /],
    [endpoint(`headers: { X-A: { value: ${planted} } }`), /headers/],
    [`${minimal}agents: { a: { tokens: [${planted}] } }\n`, /agents\.a\.tokens\.0 .*never the token itself/],
    [`${minimal}agents: { a: { tokens: ${planted} } }\n`, /agents\.a\.tokens /],
    [minimal.replace("https://a.example", `ftp://me:${planted}@a.example`), /begins with http/],
    [minimal.replace("https://a.example", `ftp://a.example/?key=${planted}`), /begins with http/],
    [endpoint(`probe: { type: tcp, url: "redis://:${planted}@a.example" }`), /probe\.url .*tcp/],
    [
      `${minimal}      - { name: b, tier: 1, url: "https://u:${planted}@b.example" }\n`.replace("https://a.", `https://u:${planted}@b.`),
      /URL/,
    ],
  ];
  for (const [text, words] of texts) {
    const said = problemsOf(text, { env }).map(({ path, message }) => `${path} ${message}`);
    assert.ok(!said.join().includes(planted), said.join());
    assert.match(said.join(), words);
  }
});

test("a credential in plain text is refused, by a variable too: all of this file is published, and stays in the log", () => {
  const endpoint = (more: string) => minimal.replace("tier: 0", `tier: 0\n        ${more}`);
  const env = { PW: "hunter2" };
  for (const name of ["Authorization", "proxy-authorization", "Cookie", "api-key", "X-Api-Key", "apikey", "X-Auth-Token", "x_secret"]) {
    const path = `upstreams.pinecone.endpoints.0.headers.${name}`;
    problem(endpoint(`headers: { ${name}: "Bearer \${PW}" }`), path, 8, /stay in the log.*write \{ secret: NAME \}/, { env });
  }
  problem(
    endpoint("probe: { headers: { authorization: x } }"),
    "upstreams.pinecone.endpoints.0.probe.headers.authorization",
    8,
    /secret: NAME/,
  );
  problem(endpoint("env: { NEO4J_PASSWORD: x }"), "upstreams.pinecone.endpoints.0.env.NEO4J_PASSWORD", 8, /secret: NAME/);
  problem(
    `${minimal}notifications: { channels: [{ name: a, type: webhook, url: "https://h.example", headers: { X-Token: t } }] }\n`.replace(
      "u:p@",
      "",
    ),
    "notifications.channels.0.headers.X-Token",
    9,
    /secret: NAME/,
  );
  problem(minimal.replace("https://a.", `https://u:\${PW}@a.`), "upstreams.pinecone.endpoints.0.url", 8, /do not belong into a URL/, {
    env,
  });
  problem(withLegacy("http://u@legacy.example"), "upstreams.pinecone.tools.get_inventory.legacy.url", 7, /do not belong into a URL/);
  for (const name of ["headers", "env", "body", "probe", "local", "url"]) {
    const text = endpoint("headers: { authorization: x }").replace("pinecone:", `${name}:`);
    problem(text, `upstreams.${name}.endpoints.0.headers.authorization`, 8, /secret: NAME/);
    const url = minimal.replace("pinecone:", `${name}:`).replace("https://a.", "https://u:p@a.");
    problem(url, `upstreams.${name}.endpoints.0.url`, 8, /do not belong into a URL/);
  }
  const taken =
    "headers: { X-Tenant: acme, Idempotency-Key-Mode: a, X-Tokens-Max: '5', Authorization: { secret: KEY, prefix: 'Bearer ' } }";
  assert.ok(parseTopology(endpoint(taken), { file: "f", env: {} }));
});

test("a header that no request can have is refused: every call would fail with it", () => {
  const endpoint = (headers: string) => minimal.replace("tier: 0", `tier: 0\n        headers: { ${headers} }`);
  for (const [headers, words] of [
    ['X-A: "a\\nInjected: b"', /control character/],
    ["X-A: ключ", /latin1/],
    ['X-A: { secret: KEY, prefix: "a\\r" }', /control character/],
    ["Content-Length: '3'", /whoever sends/],
    ["transfer-encoding: chunked", /whoever sends/],
    ["Connection: close", /whoever sends/],
  ] as const) {
    const name = headers.split(":")[0];
    problem(endpoint(headers), `upstreams.pinecone.endpoints.0.headers.${name}`, 8, words);
  }
  assert.ok(parseTopology(endpoint("Host: b.example, X-A: café"), { file: "f", env: {} }));
});

test("an endpoint is named as upstream/endpoint and nothing more, by an own name, and once where it is counted", () => {
  const window = (endpoint: string) =>
    `maintenance: [{ name: w, endpoints: [${endpoint}], daily: { at: "02:00", for_ms: 1000 }, reason: r }]\n`;
  const serves = (endpoint: string) => `local: { processes: [{ name: p, command: [node], port_offset: 10, serves: ${endpoint} }] }\n`;
  const rule = (rule: string) => `safety_rules: [{ name: r, ${rule} }]\n`;
  for (const wrong of [
    "pinecone/primary/x",
    "pinecone/primary/",
    "pinecone/",
    "pinecone",
    "constructor/x",
    "__proto__/name",
    "toString/call",
  ]) {
    problem(minimal + window(wrong), "maintenance.0.endpoints.0", 9, /no endpoint.*upstream\/endpoint/);
    problem(minimal + serves(wrong), "local.processes.0.serves", 9, /no endpoint/);
    problem(minimal + rule(`at_least: { count: 1, endpoints: [${wrong}] }`), "safety_rules.0.at_least.endpoints.0", 9, /no endpoint/);
  }
  const twice = rule("at_least: { count: 2, endpoints: [pinecone/primary, pinecone/primary] }");
  problem(minimal + twice, "safety_rules.0.at_least.endpoints.1", 9, /would count twice/);
  problem(`${minimal}${rule("never_both_on_backup: [pinecone, pinecone]")}`, "safety_rules.0.never_both_on_backup.1", 9, /named before/);
  problem(`${minimal}${window("x").replace("endpoints: [x]", "upstreams: [constructor]")}`, "maintenance.0.upstreams.0", 9, /no upstream/);
  problem(
    `${minimal}${rule("no_moves: { upstreams: [toString], daily: { at: '02:00', for_ms: 1000 } }")}`,
    "safety_rules.0.no_moves.0",
    9,
    /no upstream/,
  );
});

test("seconds of the reference are held to the least values of our milliseconds", () => {
  for (const [block, key, least] of [
    ["rollback", "health_check_interval", 0.1],
    ["rollback", "fallback_timeout", 0.05],
    ["fallback", "fallback_timeout", 0.05],
  ] as const) {
    const text = (seconds: number) => `${minimal}${block}: { ${key}: ${seconds} }\n`;
    problem(text(least / 2), `${block}.${key}`, 9, /too short; give at least .*in seconds/);
    assert.ok(parseTopology(text(least), { file: "f", env: {} }));
  }
});

test("a number or a switch that a variable should give says what to do, and two keys that become one are two", () => {
  const text = (line: string) => minimal.replace("kind: http", `kind: http\n    ${line}`);
  problem(
    text(`call_timeout_ms: \${T:-5000}`),
    "upstreams.pinecone.call_timeout_ms",
    5,
    /give a number.*a variable gives text, write the value/,
  );
  problem(text(`critical: \${T:-true}`), "upstreams.pinecone.critical", 5, /give true or false.*a variable gives text/);
  const [one] = problemsOf(`${minimal}  1: {}\n  "1": {}\n`);
  assert.deepEqual([one?.path, one?.line], ["(yaml)", 10]);
  assert.match(one?.message ?? "", /unique/);
});

test("a configuration that is too large to be applied, and one that is no UTF-8, are refused where they are read", () => {
  const large = `${minimal}contacts: { ${Array.from({ length: 900 }, (_, index) => `c${index}: ${"x".repeat(20_000)}`).join(", ")} }\n`;
  problem(large, "(file)", null, /has 18\d{6} bytes as JSON, and at most 16777216.*split it/);
  const latin1 = Buffer.from(`${minimal}contacts: { a: caf\xe9 }\n`, "latin1").toString("utf8");
  problem(latin1, "(yaml)", 9, /save the file as UTF-8/);
});

test("a host or an origin that no request names is refused, with how it is written", () => {
  const allowed = (key: string, value: string) => `${minimal}router: { ${key}: [${JSON.stringify(value)}] }\n`;
  for (const host of ["https://a.example", "a.example:7300", "a.example/", "a b", ""])
    problem(allowed("allowed_hosts", host), "router.allowed_hosts.0", 9, /no host name; write it without scheme, port and path/);
  for (const [origin, fix] of [
    ["a.example", "https://console"],
    ["https://a.example/", "as https://a\\.example, or"],
    ["https://A.example", "as https://a\\.example, or"],
    ["https://a.example:443", "as https://a\\.example, or"],
    ["", "https://console"],
  ] as const)
    problem(allowed("allowed_origins", origin), "router.allowed_origins.0", 9, new RegExp(`no browser sends.*${fix}`));
  for (const host of ["a.example", "*", "[::1]", "10.0.0.1"])
    assert.ok(parseTopology(allowed("allowed_hosts", host), { file: "f", env: {} }));
  for (const origin of ["https://a.example", "http://a.example:8080", "*", "null"])
    assert.ok(parseTopology(allowed("allowed_origins", origin), { file: "f", env: {} }));
});

test("what is wrong in a request is said in the same words, with the place, and nothing of what was found", () => {
  const said = (body: unknown): string => {
    const { error } = requests["command.failover"].schema.safeParse(body, { error: requestFixOf });
    return error === undefined ? "taken" : sayIssues(error);
  };
  const by = { kind: "operator", id: "ann" };
  const given = { commandId: "c-12345678", by, reason: "r", upstream: "shop", to: null, force: false, dryRun: false };
  assert.equal(said(given), "taken");
  const { upstream: _, ...nameless } = given;
  assert.match(said(nameless), /^upstream: it is missing; give text$/);
  assert.match(said({ ...given, force: "hunter2" }), /^force: give true or false$/);
  assert.match(said({ ...given, reason: "" }), /^reason: /);
  assert.doesNotMatch(said([]) + said({ ...given, reason: "", by: { kind: "x" } }), /Invalid|expected|received|Too small/);
});
