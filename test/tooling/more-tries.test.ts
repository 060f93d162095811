import assert from "node:assert/strict";
import { test } from "node:test";
import { withMoreTries } from "../../scripts/lib/more-tries.mjs";
import { countTests } from "../../scripts/lib/test-count.mjs";

const cwd = "/repo";
const files = ["/repo/test/a.test.ts", "/repo/test/b.test.ts", "/repo/test/c.test.ts"];

/** Runs that play: in each file one test passes, and one more fails in the files that `failing` names for that try. */
function played(failing: Readonly<Record<number, readonly string[]>>, beyondTests = false) {
  const asked: (readonly string[])[] = [];
  const run = (some: readonly string[], tryNumber: number) => {
    asked.push(some);
    const events = some.flatMap((file) => [
      { type: "test:pass", name: "holds", nesting: 0, file, kind: "test" },
      { type: failing[tryNumber]?.includes(file) ? "test:fail" : "test:pass", name: "is unsteady", nesting: 0, file, kind: "test" },
    ]);
    return Promise.resolve({ ...countTests(events, some, cwd), beyondTests });
  };
  return { asked, run };
}
const [a = "", b = "", c = ""] = files;

test("what failed once and passes alone is passed, counted once, and named as flaky", async () => {
  const { asked, run } = played({ 1: [b], 2: [] });
  assert.deepEqual(await withMoreTries(files, 1, run), {
    passed: 6,
    failed: 0,
    skipped: 0,
    flaky: ["is unsteady (test/b.test.ts)"],
    again: 1,
  });
  assert.deepEqual(asked, [files, [b]]);
});

test("what fails three times is failed; what passed in the second or third try is flaky", async () => {
  const { asked, run } = played({ 1: [a, b], 2: [b], 3: [b] });
  assert.deepEqual(await withMoreTries(files, 2, run), {
    passed: 5,
    failed: 1,
    skipped: 0,
    flaky: ["is unsteady (test/a.test.ts)"],
    again: 2,
  });
  assert.deepEqual(asked, [files, [a, b], [b]]);
  const late = played({ 1: [b], 2: [b] });
  assert.deepEqual(await withMoreTries(files, 2, late.run), {
    passed: 6,
    failed: 0,
    skipped: 0,
    flaky: ["is unsteady (test/b.test.ts)"],
    again: 1,
  });
});

test("a file counts once among those that may run again, however many of its tests failed", async () => {
  const run = (some: readonly string[], tryNumber: number) => {
    const types = tryNumber === 1 ? ["test:fail", "test:fail", "test:fail"] : ["test:pass", "test:pass", "test:pass"];
    const events = some.flatMap((file) => types.map((type, n) => ({ type, name: `unsteady ${n}`, nesting: 0, file, kind: "test" })));
    return Promise.resolve({ ...countTests(events, some, cwd), beyondTests: false });
  };
  const { flaky, again, failed } = await withMoreTries([a], 1, run);
  assert.deepEqual([flaky.length, again, failed], [3, 1, 0]);
});

test("more files than allowed, or a failure that is no test's own, are not tried again", async () => {
  for (const [atMost, beyondTests] of [
    [2, false],
    [0, false],
    [3, true],
  ] as const) {
    const { asked, run } = played({ 1: [a, b, c], 2: [] }, beyondTests);
    const { failed } = await withMoreTries(files, atMost, run);
    assert.deepEqual([failed, asked.length], [3, 1]);
  }
});

test("a failed test of a suite that a file imports is tried again by nobody: its own file is none that was to run", async () => {
  for (const atMost of [0, 3]) {
    let asked = 0;
    const run = (some: readonly string[]) => {
      asked += 1;
      const own = some.map((file) => ({ type: "test:pass", name: "holds", nesting: 0, file, kind: "test" }));
      const imported = { type: "test:fail", name: "is unsteady", nesting: 0, file: "/repo/test/suite.ts", kind: "test" };
      return Promise.resolve({ ...countTests([...own, imported], some, cwd), beyondTests: false });
    };
    const { failed } = await withMoreTries(files, atMost, run);
    assert.deepEqual([failed, asked], [1, 1]);
  }
});
