import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { importersOf } from "../../scripts/lib/importers.mjs";
import { closingLine, countTests } from "../../scripts/lib/test-count.mjs";

/** The counts alone, with the files that said nothing. */
const countsOf = (...args: Parameters<typeof countTests>) => {
  const { passed, failed, skipped, silent } = countTests(...args);
  return { passed, failed, skipped, silent };
};
const cwd = "/repo";
const file = "/repo/test/a.test.ts";
const passed = { type: "test:pass", name: "a guarantee", nesting: 0, file, kind: "test" };

test("tests are counted and suites are not", () => {
  const suite = { ...passed, name: "a suite", kind: "suite" };
  assert.deepEqual(countsOf([passed, suite], [file], cwd), { passed: 1, failed: 0, skipped: 0, silent: [] });
});

test("a suite that failed only through its tests does not count twice, one whose hook failed counts once", () => {
  const failed = { ...passed, type: "test:fail", failureType: "testCodeFailure" };
  const suite = { ...passed, type: "test:fail", kind: "suite", failureType: "subtestsFailed" };
  assert.equal(countTests([failed, suite], [file], cwd).failed, 1);
  assert.equal(countTests([{ ...suite, failureType: "hookFailed" }], [file], cwd).failed, 1);
});

test("a skipped test is neither passed nor failed", () => {
  assert.deepEqual(countsOf([passed, { ...passed, skipped: true }], [file], cwd), { passed: 1, failed: 0, skipped: 1, silent: [] });
});

test("a file that declares no test is failed, although node:test reports the file itself as passed", () => {
  for (const name of ["test/a.test.ts", file]) {
    assert.deepEqual(countsOf([{ ...passed, name }], [file], cwd), { passed: 0, failed: 1, skipped: 0, silent: [file] });
  }
});

test("a file that crashes is one failed test", () => {
  const crashed = { ...passed, type: "test:fail", name: file, failureType: "testCodeFailure" };
  assert.deepEqual(countsOf([crashed], [file], cwd), { passed: 0, failed: 1, skipped: 0, silent: [] });
});

test("what failed in a suite that files import fails these, and what else they import runs again with them", () => {
  const [suite, other] = ["/repo/test/suite.ts", "/repo/test/other.ts"];
  const events = [passed, { ...passed, type: "test:fail", file: suite, failureType: "testCodeFailure" }, { ...passed, file: other }];
  const files = [file, "/repo/test/b.test.ts"];
  const importersOf = (_file: string, some: readonly string[]) => some.filter((one) => one !== file);
  const counts = countTests(events, files, cwd, importersOf);
  assert.deepEqual(counts.failedFiles, ["/repo/test/b.test.ts"]);
  assert.deepEqual(counts.elsewhere, { passed: 1, failed: 0, skipped: 0 });
});

test("the test files that import a suite are found, also through others", () => {
  const of = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url));
  const files = ["memory", "nats", "permissions"].map((name) => of(`packages/bus/test/${name}.test.ts`));
  const found = importersOf(of("packages/bus/test/behaviour/queued.ts"), files);
  assert.deepEqual(found, files.slice(0, 2));
});

test("a file that never got its turn is failed", () => {
  assert.deepEqual(countsOf([passed], [file, "/repo/test/b.test.ts"], cwd), {
    passed: 1,
    failed: 1,
    skipped: 0,
    silent: ["/repo/test/b.test.ts"],
  });
});

test("the closing line has the form that every test command promises", () => {
  assert.equal(closingLine({ passed: 3, failed: 0, skipped: 1 }), "3 passed, 0 failed, 1 skipped");
});
