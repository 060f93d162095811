import assert from "node:assert/strict";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { emptyReadModel, type ReadModel } from "@mcp-failover/domain";
import { tempDir } from "@mcp-failover/testkit";
import fc from "fast-check";
import { decodeBackup, encodeBackup, readDiskBackup, removeDraft, writeDiskBackup } from "../src/backup.ts";
import { paced } from "../src/task.ts";

const model: ReadModel = { ...emptyReadModel, seq: 42, generation: 1, log: { id: "log-1", atMs: 7, seq: 1 }, configHash: "abc" };

test("a backup comes back as it was; any altered, missing or added byte is refused", async (t) => {
  const dir = await tempDir("mcpf-backup-");
  t.after(() => dir.remove());
  const path = join(dir.path, "deep", "read-model.json");
  assert.deepEqual(await readDiskBackup(path), { kind: "none" });
  await writeDiskBackup(path, encodeBackup(model), "state-store-1");
  assert.deepEqual(await readDiskBackup(path), { kind: "found", model });
  const bytes = await readFile(path);
  fc.assert(
    fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, by) => {
      const altered = Buffer.from(bytes);
      altered[at] = (altered[at] ?? 0) ^ by;
      const read = decodeBackup(altered.toString("utf8"));
      // A key that nobody knows may change; what is used may not.
      if (read.kind === "found") assert.deepEqual(read.model, model);
    }),
    { numRuns: 2000 },
  );
  for (const length of [0, 1, bytes.length - 1]) assert.equal(decodeBackup(bytes.subarray(0, length).toString("utf8")).kind, "refused");
  assert.equal(decodeBackup(`${bytes.toString("utf8")}}`).kind, "refused");
});

test("what a crash left of a backup that was being written is gone after the next start of its instance, and nothing of another's", async (t) => {
  const dir = await tempDir("mcpf-backup-");
  t.after(() => dir.remove());
  const path = join(dir.path, "read-model.json");
  await writeDiskBackup(path, encodeBackup(model), "state-store-1");
  for (const name of ["read-model.json.state-store-1.new", "read-model.json.state-store-2.new"]) await writeFile(join(dir.path, name), "{");
  await removeDraft(path, "state-store-1");
  assert.deepEqual((await readdir(dir.path)).sort(), ["read-model.json", "read-model.json.state-store-2.new"]);
  assert.deepEqual(await readDiskBackup(path), { kind: "found", model });
  await removeDraft(path, "state-store-1");
  await removeDraft(join(dir.path, "gone", "read-model.json"), "state-store-1");
});

test("work that holds everything else up has a twentieth of the time at most, however long it takes", () => {
  let nowMs = 0;
  let worked = 0;
  const pace = paced(20, () => nowMs);
  for (let tookMs = 400; nowMs < 1_000_000; nowMs += 500) {
    if (!pace.due()) continue;
    const result = pace.timed(() => {
      nowMs += tookMs;
      worked += tookMs;
      return "made";
    });
    assert.equal(result, "made");
    assert.equal(pace.due(), false, "not at once again");
    tookMs = tookMs === 400 ? 4000 : 400;
  }
  assert.ok(worked > 0.04 * nowMs && worked <= 0.05 * nowMs, `${worked} ms of ${nowMs}`);
  pace.timed(() => 0);
  assert.equal(pace.due(), true, "what takes no time may always run");
});
