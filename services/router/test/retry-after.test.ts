import assert from "node:assert/strict";
import { test } from "node:test";
import { statusTold } from "../src/http-proxy.ts";
import { retryAfterMsOf } from "../src/upstream-client.ts";

const nowMs = Date.UTC(2026, 0, 1);

test("Retry-After is read in seconds or as a date, at most an hour; what cannot be read, or lies in the past, says nothing", () => {
  const read = (value: string | string[] | undefined) => retryAfterMsOf({ "retry-after": value }, nowMs);
  assert.equal(read("7"), 7000);
  assert.equal(read("0"), 0);
  assert.equal(read("999999"), 3_600_000);
  assert.equal(read("Thu, 01 Jan 2026 00:00:30 GMT"), 30_000);
  for (const value of ["Wed, 31 Dec 2025 23:59:59 GMT", "soon", "", "-3", undefined, ["1", "2"]])
    assert.equal(read(value), null, String(value));
});

test("the control is told of it for 429 and 503, and for no other status", () => {
  const told = (status: number) => {
    const result = statusTold({ status, headers: { "retry-after": "7" } }, "primary", nowMs);
    return [result.outcome, "retryAfterMs" in result ? result.retryAfterMs : null];
  };
  assert.deepEqual(told(429), ["soft", 7000]);
  assert.deepEqual(told(503), ["hard", 7000]);
  for (const status of [500, 502]) assert.deepEqual(told(status), ["hard", null]);
  for (const status of [301, 404, 413]) assert.equal(told(status)[1], null);
});
