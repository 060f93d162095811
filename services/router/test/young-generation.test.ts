import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

const setting = join(import.meta.dirname, "..", "src", "young-generation.ts");
/** V8 begins with 1 MiB, as after a rest, and with both halves of it from the first collection on. */
const smallMibMax = 2;
/** A new process under calls of which a little outlives each collection: the first larger size of its young generation, in MiB. */
const program = (begin: string): string => `
import { getHeapSpaceStatistics } from "node:v8";
${begin}
const sizeMib = () => Math.round(getHeapSpaceStatistics().find((space) => space.space_name === "new_space").space_size / 2 ** 20);
const before = sizeMib();
const kept = [];
for (let call = 0; call < 1_000_000 && sizeMib() <= ${smallMibMax}; ) {
  for (const end = call + 100; call < end; call += 1) {
    kept[call % 3000] = new Array(12).fill(call);
    for (let part = 0; part < 20; part += 1) new Array(12).fill(part);
  }
}
process.stdout.write(JSON.stringify({ before, after: sizeMib() }));
`;
const sizesOf = async (begin: string): Promise<{ readonly before: number; readonly after: number }> => {
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "--eval", program(begin)]);
  return JSON.parse(stdout) as { before: number; after: number };
};

test("a young generation that a rest has made small is large again in one step", async () => {
  const grown = await sizesOf(`(await import(${JSON.stringify(setting)})).growYoungGenerationAtOnce();`);
  assert.ok(grown.before <= smallMibMax, `it begins with ${grown.before} MiB`);
  assert.ok(grown.after >= 16, `and grows to ${grown.after} MiB`);
  // What V8 does by itself; where that changes, the setting has no reason any more.
  const { after } = await sizesOf("");
  assert.ok(after > smallMibMax && after <= 4, `V8 alone makes it ${after} MiB`);
});
