import assert from "node:assert/strict";
import { test } from "node:test";
import type { EndpointView } from "../src/control/port.ts";
import { requestHeads } from "../src/upstream/request-head.ts";

const endpoint: EndpointView = { name: "a", url: "http://127.0.0.1:1/mcp", role: "write", headers: {} };
const { headOf } = requestHeads();
const headWith = (headers: Record<string, string | string[]>): string => headOf({ endpoint, method: "POST", headers, body: null });

test("a header is looked through again when it says something else than in the call before", () => {
  for (const value of ["one", "one", "two", "one"]) assert.match(headWith({ "x-said": value }), new RegExp(`\\r\\nx-said: ${value}\\r\\n`));
  assert.throws(() => headWith({ "x-said": "one\r\nx-smuggled: 1" }), { code: "unsendable_request" });
  assert.throws(
    () => headWith({ "x-said": "one\r\nx-smuggled: 1" }),
    { code: "unsendable_request" },
    "and what was refused once is not kept",
  );
  assert.match(headWith({ "x-said": ["one", "two"] }), /x-said: one\r\nx-said: two\r\n/);
  assert.match(headWith({ "x-said": "one" }), /\r\nx-said: one\r\n/);
});

test("a name that cannot be passed on is refused whatever was sent before", () => {
  for (let turn = 0; turn < 2; turn += 1) assert.throws(() => headWith({ "transfer-encoding": "chunked" }), { code: "unsendable_request" });
  for (let turn = 0; turn < 2; turn += 1) assert.throws(() => headWith({ "x said": "one" }), { code: "unsendable_request" });
});

test("more names than are kept are written all the same", () => {
  for (let turn = 0; turn < 2; turn += 1) {
    for (let index = 0; index < 600; index += 1)
      assert.match(headWith({ [`x-${index}`]: `v${index}` }), new RegExp(`\\r\\nx-${index}: v${index}\\r\\n`));
  }
});
