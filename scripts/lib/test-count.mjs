import { relative } from "node:path";

/**
 * @typedef {{ type: string, name?: string, nesting?: number, file?: string, kind?: string, skipped?: boolean, failureType?: string }} TestEvent
 * @typedef {{ passed: number, failed: number, skipped: number }} Counts
 * @typedef {Counts & { silent: string[], failedFiles: string[], failedTests: string[], elsewhere: Counts }} FileCounts `silent`: the files
 *   that failed without a failing test to show for it; `failedFiles`: those to run again; `elsewhere`: the counts of what does not run again
 */

/**
 * Counts what a run of `node --test` did. node:test is generous to a file that ends early: one that declares nothing, or that
 * calls process.exit(0) in its second test, is reported as one passed test named after the file. Here each file has to show
 * at least one test of its own, or it counts as failed.
 *
 * @param {readonly TestEvent[]} events of the JSON reporter
 * @param {readonly string[]} files that were to run, absolute
 * @param {string} cwd of the run: node:test names a file by its path from there
 * @param {(file: string, files: readonly string[]) => readonly string[]} importersOf which of the files run what is written in another one
 * @returns {FileCounts}
 */
export function countTests(events, files, cwd, importersOf = () => []) {
  /** @type {Map<string | undefined, Counts>} */
  const byFile = new Map();
  /** @type {string[]} */
  const failedTests = [];
  for (const { type, name, nesting, file, kind, skipped, failureType } of events) {
    if (type !== "test:pass" && type !== "test:fail") continue;
    const isFile = nesting === 0 && file !== undefined && (name === file || name === relative(cwd, file));
    if (isFile && type === "test:pass") continue;
    const counts = byFile.get(file) ?? { passed: 0, failed: 0, skipped: 0 };
    byFile.set(file, counts);
    // A suite that fails only because of its tests would count them twice; one whose hook failed has nothing else to show it.
    const failed = type === "test:fail" && !skipped && (kind !== "suite" || failureType !== "subtestsFailed");
    if (failed) {
      counts.failed += 1;
      failedTests.push(`${name} (${file === undefined ? "no file" : relative(cwd, file)})`);
    } else if (kind === "suite") continue;
    else if (skipped) counts.skipped += 1;
    else if (type === "test:pass") counts.passed += 1;
  }
  const silent = files.filter((file) => !byFile.has(file));
  const failed = new Set(silent);
  for (const [file, counts] of byFile) {
    if (counts.failed === 0 || file === undefined) continue;
    for (const one of files.includes(file) ? [file] : importersOf(file, files)) failed.add(one);
  }
  const failedFiles = files.filter((file) => failed.has(file));
  const runsAgain = (/** @type {string | undefined} */ file) =>
    file !== undefined && (failed.has(file) || (!files.includes(file) && importersOf(file, failedFiles).length > 0));
  const all = sum([...byFile.values()]);
  return {
    ...all,
    failed: all.failed + silent.length,
    silent,
    failedFiles,
    failedTests: [...failedTests, ...silent.map((file) => relative(cwd, file))],
    elsewhere: sum([...byFile].flatMap(([file, counts]) => (counts.failed > 0 || runsAgain(file) ? [] : [counts]))),
  };
}

/** @param {readonly Counts[]} some @returns {Counts} */
function sum(some) {
  const total = { passed: 0, failed: 0, skipped: 0 };
  for (const { passed, failed, skipped } of some) {
    total.passed += passed;
    total.failed += failed;
    total.skipped += skipped;
  }
  return total;
}

/** @param {Counts} counts @returns {string} the last line of every test command */
export const closingLine = ({ passed, failed, skipped }) => `${passed} passed, ${failed} failed, ${skipped} skipped`;
