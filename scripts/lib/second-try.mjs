/**
 * @typedef {import("./test-count.mjs").FileCounts & { beyondTests: boolean }} Run `beyondTests`: it failed for something that is no test
 *   of a file (nothing moved any more, folders were left behind), which a second try would only hide
 * @typedef {{ passed: number, failed: number, skipped: number, flaky: readonly string[] }} Outcome `flaky`: what failed and then passed
 */

/**
 * Runs test files, and those that failed once more where they are few: tests with real processes share the machine's clock with
 * whatever else runs on it. More than a few are no bad luck.
 *
 * @param {readonly string[]} files
 * @param {number} atMost files that may run again; 0 for none
 * @param {(files: readonly string[], tryNumber: 1 | 2) => Promise<Run>} run
 * @returns {Promise<Outcome>}
 */
export async function withSecondTry(files, atMost, run) {
  const first = await run(files, 1);
  if (first.failed === 0 || first.beyondTests || first.failedFiles.length > atMost) return { ...first, flaky: [] };
  process.stdout.write(`failed, and tried again: ${first.failedTests.join(", ")}\n`);
  const second = await run(first.failedFiles, 2);
  const { passed, skipped } = first.elsewhere;
  return {
    passed: passed + second.passed,
    failed: second.failed,
    skipped: skipped + second.skipped,
    flaky: second.failed === 0 ? first.failedTests : [],
  };
}
