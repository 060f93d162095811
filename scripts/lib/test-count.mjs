import { relative } from "node:path";

/**
 * @typedef {{ type: string, name?: string, nesting?: number, file?: string, kind?: string, skipped?: boolean, failureType?: string }} TestEvent
 * @typedef {{ passed: number, failed: number, skipped: number }} Counts
 */

/**
 * Counts what a run of `node --test` did. node:test is generous to a file that ends early: one that declares nothing, or that
 * calls process.exit(0) in its second test, is reported as one passed test named after the file. Here each file has to show
 * at least one test of its own, or it counts as failed.
 *
 * @param {readonly TestEvent[]} events of the JSON reporter
 * @param {readonly string[]} files that were to run, absolute
 * @param {string} cwd of the run: node:test names a file by its path from there
 * @returns {Counts & { silent: string[] }} `silent`: the files that failed without a failing test to show for it
 */
export function countTests(events, files, cwd) {
  const counts = { passed: 0, failed: 0, skipped: 0 };
  const heardOf = new Set();
  for (const { type, name, nesting, file, kind, skipped, failureType } of events) {
    if (type !== "test:pass" && type !== "test:fail") continue;
    const isFile = nesting === 0 && file !== undefined && (name === file || name === relative(cwd, file));
    if (isFile && type === "test:pass") continue;
    heardOf.add(file);
    // A suite that fails only because of its tests would count them twice; one whose hook failed has nothing else to show it.
    if (kind === "suite") counts.failed += type === "test:fail" && failureType !== "subtestsFailed" ? 1 : 0;
    else if (skipped) counts.skipped += 1;
    else if (type === "test:pass") counts.passed += 1;
    else counts.failed += 1;
  }
  const silent = files.filter((file) => !heardOf.has(file));
  return { ...counts, failed: counts.failed + silent.length, silent };
}

/** @param {Counts} counts @returns {string} the last line of every test command */
export const closingLine = ({ passed, failed, skipped }) => `${passed} passed, ${failed} failed, ${skipped} skipped`;
