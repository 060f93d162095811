import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { KeptFile, writeWhole } from "@mcp-failover/bus";

let folder = "";
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "mcpf-kept-"));
});
after(() => rm(folder, { recursive: true }));

function make(name: string) {
  const problems: string[] = [];
  const path = join(folder, name, "kept.json");
  const parse = (value: unknown): number => {
    if (typeof value !== "number") throw new TypeError("no number");
    return value;
  };
  return { path, problems, file: new KeptFile({ path, parse, onProblem: (problem) => problems.push(problem) }) };
}

test("what was saved is loaded by the next process; changes that come together are written once, and the last one counts", async () => {
  const { path, problems, file } = make("saved");
  assert.equal(await file.load(), null);
  let reads = 0;
  for (let count = 1; count <= 5; count += 1)
    file.saveSoon(() => {
      reads += 1;
      return count;
    });
  await file.flush();
  assert.deepEqual([await file.load(), reads, problems], [5, 1, []]);
  assert.equal((await stat(path)).mode & 0o777, 0o600);
  assert.deepEqual(await readdir(join(path, "..")), ["kept.json"]);
});

test("a damaged file is none and is told; a disk that takes nothing is told, and harms nobody", async () => {
  const { path, problems, file } = make("damaged");
  file.saveSoon(() => 1);
  await file.flush();
  await writeFile(path, "{");
  assert.equal(await file.load(), null);
  await writeFile(path, '"another version"');
  assert.equal(await file.load(), null);
  const blocked = make("saved/kept.json");
  blocked.file.saveSoon(() => 1);
  await blocked.file.flush();
  assert.equal(await blocked.file.load(), null);
  assert.deepEqual(
    [problems, blocked.problems],
    [
      ["unusable", "unusable"],
      ["unwritten", "unreadable"],
    ],
  );
});

test("a write that fails leaves the file as it was, and nothing beside it", async () => {
  const path = join(folder, "whole");
  await writeWhole(path, "before");
  await assert.rejects(writeWhole(join(path, "below"), "text"));
  assert.equal(await readFile(path, "utf8"), "before");
  assert.ok((await readdir(folder)).every((name) => !name.endsWith(".tmp")));
});
