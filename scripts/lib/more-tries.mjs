/**
 * @typedef {import("./test-count.mjs").FileCounts & { beyondTests: boolean }} Run `beyondTests`: it failed for something that is no test
 *   of a file (nothing moved any more, folders were left behind), which a second try would only hide
 * @typedef {{ passed: number, failed: number, skipped: number, flaky: readonly string[], again: number }} Outcome `flaky`: what failed
 *   and then passed; `again`: how many files had another try
 */

/** Times that a file may run: a test with real processes that fails three times in a row on a machine of its own has a reason. */
const triesMax = 3;

/**
 * Runs test files, and those that failed again where they are few, until they pass or have had three tries: tests with real processes
 * share the machine's clock with whatever else runs on it. More than a few are no bad luck.
 *
 * @param {readonly string[]} files
 * @param {number} atMost files that may run again; 0 for none
 * @param {(files: readonly string[], tryNumber: number) => Promise<Run>} run
 * @returns {Promise<Outcome>}
 */
export async function withMoreTries(files, atMost, run) {
  let last = await run(files, 1);
  const settled = { passed: 0, skipped: 0 };
  /** @type {Set<string>} */
  const failedOnce = new Set();
  let again = 0;
  for (let tryNumber = 2; tryNumber <= triesMax; tryNumber += 1) {
    // A test that a file imports is told under the name of what it imports. Which file that was nobody says, and without any all of them run.
    const isKnown = last.failedFiles.length > 0;
    if (last.failed === 0 || last.beyondTests || !isKnown || last.failedFiles.length > atMost) break;
    process.stdout.write(`failed, and tried again: ${last.failedTests.join(", ")}\n`);
    for (const test of last.failedTests) failedOnce.add(test);
    settled.passed += last.elsewhere.passed;
    settled.skipped += last.elsewhere.skipped;
    again = Math.max(again, last.failedFiles.length);
    last = await run(last.failedFiles, tryNumber);
  }
  for (const test of last.failedTests) failedOnce.delete(test);
  return {
    passed: settled.passed + last.passed,
    failed: last.failed,
    skipped: settled.skipped + last.skipped,
    flaky: [...failedOnce],
    again,
  };
}
