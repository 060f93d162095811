import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { requests, statusLimits, statusView } from "../src/index.ts";

const read = (name: string): Record<string, unknown> =>
  JSON.parse(readFileSync(new URL(`../fixtures/status/${name}.json`, import.meta.url), "utf8"));
const { schema } = requests["state.status"];

test("a page of state.status is asked for and read as it was written", () => {
  assert.deepEqual(schema.parse(read("page-request")), read("page-request"));
  assert.deepEqual(statusView.parse(read("page")), read("page"));
});

test("whoever asks for no page, and whoever answers with none, is understood as before", () => {
  assert.deepEqual(schema.parse({}), {});
  const { page: _, ...whole } = read("page");
  assert.deepEqual(statusView.parse(whole), whole);
});

test("a page that nobody can mean is refused with its field's name", () => {
  const wrong = [{ limit: 0 }, { limit: 1.5 }, { limit: 10_001 }, { after: "" }, { after: "a/b" }, { after: "x".repeat(64) }];
  for (const page of wrong) {
    const parsed = schema.safeParse({ page });
    assert.deepEqual(parsed.error?.issues[0]?.path, ["page", Object.keys(page)[0]], JSON.stringify(page));
  }
});

test("the limits of pages are these", () => {
  assert.deepEqual(statusLimits, { pageBytesMax: 524_288, upstreamBytesMax: 983_040, pagesMax: 200 });
});
