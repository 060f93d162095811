import assert from "node:assert/strict";
import { test } from "node:test";
import { type Expectation, expectation } from "@mcp-failover/contracts";
import fc from "fast-check";
import { failedExpectation, nothingSeen, type Seen } from "../src/index.ts";

const judge = (given: object, seen: Partial<Seen>): string | null =>
  failedExpectation(expectation.parse(given), { ...nothingSeen, ...seen });

test("each kind of thing that was seen is compared, and a failure names expected and seen", () => {
  const seen: Partial<Seen> = {
    status: 204,
    headers: { "content-type": "text/html; charset=utf-8" },
    body: "all is well",
    json: { state: "green", queue: { depth: 12 }, parts: [{ ok: true }, { ok: false }], none: null },
    jsonProblem: null,
    latencyMs: 812.4,
    certificateDays: 9,
    protocolVersion: "2025-06-18",
  };
  const cases: [object, string | null][] = [
    [{ of: "status", in: [200, 204] }, null],
    [{ of: "status", equals: 200 }, "status: expected 200; saw 204"],
    [{ of: "status", max: 203 }, "status: expected at most 203; saw 204"],
    [{ of: "header", name: "Content-Type", contains: "html" }, null],
    [
      { of: "header", name: "Content-Type", equals: "application/json" },
      'header Content-Type: expected "application/json"; saw "text/html; charset=utf-8"',
    ],
    [{ of: "header", name: "X-Version", exists: true }, "header X-Version: expected that it is there; saw no such header"],
    [{ of: "header", name: "X-Version", exists: false }, null],
    [{ of: "body", contains: "well" }, null],
    [{ of: "body", not_contains: "well" }, 'body: expected no "well" in it; saw 11 characters without it'],
    [{ of: "body", matches: "^all .* well$" }, null],
    [{ of: "json", path: "$.state", equals: "green" }, null],
    [{ of: "json", path: "$.state", in: ["yellow", "red"] }, 'JSON $.state: expected one of yellow, red; saw "green"'],
    [{ of: "json", path: "$.queue.depth", max: 10 }, "JSON $.queue.depth: expected at most 10; saw 12"],
    [{ of: "json", path: "$.parts[*].ok", equals: true }, null],
    [
      { of: "json", path: "$.parts[?@.ok == false]", exists: false },
      "JSON $.parts[?@.ok == false]: expected that it is not there; saw an object of 1 fields",
    ],
    [{ of: "json", path: "$.none", equals: null }, null],
    [{ of: "json", path: "$.gone", exists: false }, null],
    [{ of: "json", path: "$.gone", equals: 1 }, "JSON $.gone: expected 1; saw nothing at that path"],
    [{ of: "json", path: "$.parts", min: 1 }, "JSON $.parts: expected at least 1; saw a list of 2"],
    [{ of: "latency_ms", max: 500 }, "latency ms: expected at most 500; saw 812"],
    [{ of: "certificate_days", min: 14 }, "certificate days: expected at least 14; saw 9"],
    [
      { of: "protocol_version", in: ["2025-11-25", "2026-07-28"] },
      'protocol version: expected one of 2025-11-25, 2026-07-28; saw "2025-06-18"',
    ],
  ];
  for (const [given, expected] of cases) assert.equal(judge(given, seen), expected, JSON.stringify(given));
});

test("X1: several demands have to hold of one and the same value", () => {
  const json = { values: [1, 10] };
  assert.equal(judge({ of: "json", path: "$.values[*]", min: 2, max: 10 }, { json }), null);
  assert.equal(
    judge({ of: "json", path: "$.values[*]", min: 2, max: 9 }, { json }),
    "JSON $.values[*]: expected at least 2 and at most 9; saw 1, 10",
  );
});

test("X2: what could not be seen fulfils nothing, and an unreadable document is not one without the value", () => {
  const demands = [{ equals: 1 }, { contains: "a" }, { not_contains: "a" }, { min: 0 }, { exists: true }, { in: [1] }, { matches: "." }];
  for (const what of ["status", "body", "certificate_days", "protocol_version"] as const) {
    for (const demand of demands) {
      const parsed = expectation.safeParse({ of: what, ...demand });
      if (parsed.success) assert.match(String(failedExpectation(parsed.data, nothingSeen)), /; saw no /);
    }
  }
  assert.equal(
    judge({ of: "json", path: "$.error", exists: false }, { jsonProblem: "a body that is no JSON" }),
    "JSON $.error: expected that it is not there; saw a body that is no JSON",
  );
});

test("X3, X4: whatever a server sent, judging ends with null or a short sentence, and repeats no body", () => {
  const given: fc.Arbitrary<Expectation> = fc.oneof(
    fc.record({
      of: fc.constant("json" as const),
      path: fc.constantFrom("$", "$..a", "$[*]", "$.a[?@.b > 1]", "$..*"),
      equals: fc.jsonValue() as fc.Arbitrary<string>,
      severity: fc.constant("hard" as const),
    }),
    fc.record({ of: fc.constant("body" as const), contains: fc.string({ minLength: 1 }), severity: fc.constant("hard" as const) }),
    fc.record({ of: fc.constant("header" as const), name: fc.constant("x"), max: fc.double(), severity: fc.constant("degraded" as const) }),
  );
  fc.assert(
    fc.property(given, fc.jsonValue(), fc.string(), (one, json, body) => {
      const said = failedExpectation(one, {
        ...nothingSeen,
        json,
        jsonProblem: null,
        body: `${body} a-body-that-is-secret`,
        headers: { x: body },
      });
      assert.ok(said === null || said.length <= 300);
      if (one.of === "body") assert.doesNotMatch(said ?? "", /a-body-that-is-secret/);
    }),
    { numRuns: 500 },
  );
  let deep: unknown = 1;
  for (let n = 0; n < 5000; n += 1) deep = [deep];
  assert.equal(
    judge({ of: "json", path: "$..a", exists: true }, { json: deep }),
    "JSON $..a: expected that it is there; saw a document that is nested too deeply",
  );
});

test("X5: whatever a server answers, a regular expression takes a time in proportion to it: (a+)+$ does not hold up the prober", () => {
  const expectation = { of: "body", matches: "(a+)+$", severity: "hard" } as const;
  // A backtracking engine takes years for this one.
  const body = `${"a".repeat(60)}!`;
  assert.match(failedExpectation(expectation, { ...nothingSeen, body }) ?? "", /^body: expected/);
  assert.equal(failedExpectation(expectation, { ...nothingSeen, body: "!aaa" }), null);
});
