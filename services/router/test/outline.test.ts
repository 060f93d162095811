import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { outlineOf } from "../src/mcp/outline.ts";

/** What `JSON.parse` makes of it; null: no JSON. */
function parsed(text: string): { readonly value: unknown } | null {
  try {
    return { value: JSON.parse(text) };
  } catch {
    return null;
  }
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null && !Array.isArray(value);

/** M1, for one text. */
function check(bytes: Buffer): boolean {
  const outline = outlineOf(bytes);
  if (outline === null) return false;
  const text = bytes.toString("utf8");
  const whole = parsed(text);
  assert.ok(whole !== null, `taken, and no JSON: ${text}`);
  const { value } = whole;
  assert.ok(isObject(value) && value["jsonrpc"] === "2.0", text);
  assert.deepEqual([outline.id, outline.method], [value["id"], value["method"]], text);
  assert.equal("error" in value, false, text);
  const slice = (span: { from: number; to: number }): unknown => JSON.parse(bytes.toString("utf8", span.from, span.to));
  assert.deepEqual(outline.params === null ? undefined : slice(outline.params), value["params"], text);
  const params = isObject(value["params"]) ? value["params"] : {};
  assert.equal(outline.name, typeof params["name"] === "string" ? params["name"] : null, text);
  assert.deepEqual(outline.meta === null ? undefined : slice(outline.meta), params["_meta"], text);
  assert.equal(outline.isResult, isObject(value["result"]), text);
  const result = isObject(value["result"]) ? value["result"] : {};
  assert.equal(outline.isError, result["isError"] === true, text);
  if (outline.isPlain) assert.ok(!("task" in result || "taskId" in result || "nextCursor" in result || "requestState" in result), text);
  return true;
}

const keys = fc.constantFrom(
  "jsonrpc",
  "id",
  "method",
  "params",
  "result",
  "error",
  "name",
  "_meta",
  "isError",
  "task",
  "taskId",
  "requestState",
  "a",
  "__proto__",
  "ä",
);
const { message } = fc.letrec((tie) => ({
  leaf: fc.oneof(
    fc.constantFrom("2.0", "tools/call", "", 'x"y\\z', "\u0000é𝄞", 0, -0, 1, 1.5, -7, 1e21, 9_007_199_254_740_992, true, false, null),
    fc.string(),
    fc.integer(),
    fc.double({ noNaN: true, noDefaultInfinity: true }),
  ),
  object: fc.dictionary(keys, tie("any"), { maxKeys: 5 }),
  any: fc.oneof({ depthSize: "small", withCrossShrink: true }, tie("leaf"), tie("object"), fc.array(tie("any"), { maxLength: 4 })),
  message: fc.record(
    {
      jsonrpc: fc.constant("2.0"),
      id: fc.oneof(fc.nat(), fc.string(), tie("any")),
      method: fc.oneof(fc.constantFrom("tools/call", "ping"), tie("any")),
      params: fc.oneof(tie("object"), tie("any")),
      result: fc.oneof(tie("object"), tie("any")),
      more: tie("any"),
    },
    { requiredKeys: ["jsonrpc"] },
  ),
}));

test("M1: what it says of any message is what JSON.parse says", () => {
  let taken = 0;
  fc.assert(
    fc.property(message, fc.nat(3), (value, indent) => {
      if (check(Buffer.from(JSON.stringify(value, null, indent)))) taken += 1;
    }),
    { numRuns: 3000 },
  );
  assert.ok(taken > 100, `${taken} of the messages were taken`);
});

test("M1: it takes nothing that JSON.parse refuses, nor takes it for something else, wherever a byte is changed, lost or added", () => {
  const texts = [
    '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"stock","arguments":{"a":[1,-2.5e-3,true,null,{}],"b":"x\\u00e9\\n"},"_meta":{"k":0}}}',
    '{"jsonrpc":"2.0","id":"a-1","result":{"content":[{"type":"text","text":"42 \\"units\\" é"}],"isError":false,"structuredContent":{"n":[[],[0]]}}}',
    ' { "result" : { "isError" : true } , "id" : -10 , "jsonrpc" : "2.0" } \n',
  ];
  for (const text of texts) assert.equal(check(Buffer.from(text)), true, text);
  const byte = fc.oneof(fc.nat(255), fc.constantFrom(...Buffer.from('{}[]",:\\-+.eE0179tfn u\n')));
  const change = fc.tuple(fc.constantFrom("set", "cut", "add"), fc.nat(400), byte);
  fc.assert(
    fc.property(fc.constantFrom(...texts), fc.array(change, { minLength: 1, maxLength: 4 }), (text, changes) => {
      const bytes = [...Buffer.from(text)];
      for (const [kind, at, value] of changes) {
        const place = at % bytes.length;
        if (kind === "set") bytes[place] = value;
        else bytes.splice(place, kind === "cut" ? 1 : 0, ...(kind === "cut" ? [] : [value]));
      }
      check(Buffer.from(bytes));
    }),
    { numRuns: 20_000 },
  );
});

test("M1: a message is parsed where two readers could differ, or where it would be deep work", () => {
  const unsure = [
    '{"jsonrpc":"2.0","id":1,"id":2,"method":"a"}',
    '{"jsonrpc":"2.0","id":1,"method":"a","params":{"name":"x","name":"y"}}',
    '{"jsonrpc":"2.0","\\u0069d":1,"method":"a"}',
    '{"jsonrpc":"2.0","id":1.0,"method":"a"}',
    '{"jsonrpc":"2.0","id":1,"error":{"code":-1}}',
    '{"jsonrpc":"2.0","id":1,"result":{"isError":true,"isError":false}}',
    `{"jsonrpc":"2.0","id":1,"result":{"a":${"[".repeat(100)}${"]".repeat(100)}}}`,
    `\ufeff{"jsonrpc":"2.0","id":1,"method":"a"}`,
    '[{"jsonrpc":"2.0","id":1,"method":"a"}]',
    "",
    "{",
  ];
  for (const text of unsure) assert.equal(outlineOf(Buffer.from(text)), null, text);
});
