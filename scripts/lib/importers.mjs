import { existsSync, readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";

const relativeImport = /\bfrom\s+"(\.{1,2}\/[^"]+)"|\bimport\("(\.{1,2}\/[^"]+)"\)/g;

/**
 * The test files that import a file, by themselves or through others: node:test tells a test under the file that it is written in, and only
 * a file that was asked for can run again.
 *
 * @param {string} file absolute
 * @param {readonly string[]} testFiles absolute
 * @returns {string[]}
 */
export function importersOf(file, testFiles) {
  return testFiles.filter((testFile) => importedBy(testFile).has(file));
}

/**
 * @param {string} from
 * @returns {Set<string>} itself among them
 */
function importedBy(from) {
  /** @type {Set<string>} */
  const found = new Set();
  const waiting = [from];
  for (let file = waiting.pop(); file !== undefined; file = waiting.pop()) {
    if (found.has(file) || !existsSync(file)) continue;
    found.add(file);
    for (const [, named, asked] of readFileSync(file, "utf8").matchAll(relativeImport))
      waiting.push(resolve(dirname(file), named ?? asked ?? ""));
  }
  return found;
}
