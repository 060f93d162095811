import assert from "node:assert/strict";
import { test } from "node:test";
import { fuzz, requestOf } from "../fuzz/fuzz.ts";

test("R25, must show 5: malformed requests and answers crash nothing, hang nothing, get no 5xx that is not meant, and smuggle nothing", async () => {
  const seed = Date.now() % 1_000_000;
  const report = await fuzz({ requests: 3000, seed });
  assert.deepEqual(report.violations, [], `npm run fuzz -- --requests 3000 --seed ${seed}`);
  // A run that is refused from the first byte on, or that never gets through, would say nothing.
  assert.ok(report.forwarded > 500, `${report.forwarded} requests reached an upstream`);
  assert.ok(report.kinds.size >= 24, `${report.kinds.size} kinds of requests`);
  for (const status of [200, 400, 404]) assert.ok((report.statuses.get(status) ?? 0) > 50, `${status}: ${report.statuses.get(status)}`);
});

test("the same seed asks for the same bytes", () => {
  const world = { sessions: ["a".repeat(100), "b".repeat(100)] };
  for (let mark = 1; mark <= 500; mark++) assert.deepEqual(requestOf(7, mark, world), requestOf(7, mark, world));
  assert.notDeepEqual(requestOf(7, 1, world), requestOf(8, 1, world));
});
