import assert from "node:assert/strict";
import { test } from "node:test";
import { becomes, eventually } from "../src/eventually.ts";

test("a condition that throws first is asked again, and what it finds is given back", async () => {
  let asked = 0;
  const found = await eventually(
    () => {
      asked += 1;
      if (asked < 3) throw new Error("not there yet");
      return asked === 3 ? null : 0;
    },
    { everyMs: 1 },
  );
  assert.deepEqual([found, asked], [0, 4], "0 is found, null is not");
});

test("a condition that never holds fails with what was waited for and what went wrong last", async () => {
  const never = () => Promise.reject(new Error("connection refused"));
  await assert.rejects(
    eventually(never, { withinMs: 5, everyMs: 1, what: () => "the server answers" }),
    /the server answers; .*connection refused/,
  );
  await assert.rejects(
    becomes(
      () => 7,
      (value) => value === 8,
      { withinMs: 5, everyMs: 1 },
    ),
    /not within \d+ ms: last: 7/,
  );
});

test("patience lengthens each wait, and a wrong value is told", async (t) => {
  const before = process.env["MCPF_TEST_PATIENCE"];
  t.after(() => {
    if (before === undefined) delete process.env["MCPF_TEST_PATIENCE"];
    else process.env["MCPF_TEST_PATIENCE"] = before;
  });
  process.env["MCPF_TEST_PATIENCE"] = "3";
  await assert.rejects(
    eventually(() => false, { withinMs: 5, everyMs: 1 }),
    /not within 15 ms/,
  );
  process.env["MCPF_TEST_PATIENCE"] = "long";
  await assert.rejects(
    eventually(() => true),
    /MCPF_TEST_PATIENCE=long: it is a number from 1 to 20/,
  );
});
