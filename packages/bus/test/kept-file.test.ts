import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from "node:fs/promises";
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

test("a start removes what earlier writes left behind that were cut off, and nothing that another process may be writing or that is not its own", async () => {
  const { path, problems, file } = make("left");
  await file.load();
  file.saveSoon(() => 1);
  await file.flush();
  const old = new Date(Date.now() - 3_600_000);
  const names = { mine: `${path}.4711-0a1b2c3d.tmp`, fresh: `${path}.4712-0a1b2c3d.tmp`, other: `${path}.backup` };
  for (const name of Object.values(names)) await writeFile(name, "{");
  for (const name of [names.mine, names.other]) await utimes(name, old, old);
  assert.equal(await file.load(), 1);
  const left = (await readdir(join(path, ".."))).sort();
  assert.deepEqual(left, ["kept.json", "kept.json.4712-0a1b2c3d.tmp", "kept.json.backup"]);
  assert.deepEqual(problems, []);
});
