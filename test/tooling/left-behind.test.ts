import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { isDead, newRunName, removeRun, thisOwner, thisSystem } from "../../scripts/lib/left-behind.mjs";

const here = { boot: "b1", pids: "pid:[1]", startOf: (pid: number): string | null => (pid === 7 ? "100" : null) };

for (const [what, owner, dead] of [
  ["a process that lives", "b1 pid:[1] 7 100", false],
  ["a process that has ended", "b1 pid:[1] 8 100", true],
  ["a process whose id another one has by now", "b1 pid:[1] 7 99", true],
  ["a process of an earlier start of the machine", "b0 pid:[1] 7 100", true],
  ["a process of another container, whose ids are others", "b1 pid:[2] 8 100", false],
  ["an owner that the system did not tell", "unknown", false],
  ["nobody", "", false],
  ["something that is no owner", "b0 pid:[1] x 100", false],
  ["something longer than an owner", "b0 pid:[1] 8 100 5", false],
] as const) {
  test(`${what} is ${dead ? "" : "not "}taken for dead`, () => assert.equal(isDead(owner, here), dead));
}

test("this process is alive, a child that was killed is dead", { skip: thisSystem() === null && "this system has no /proc" }, async () => {
  const system = thisSystem() ?? assert.fail();
  assert.equal(isDead(thisOwner(), system), false);
  const library = new URL("../../scripts/lib/left-behind.mjs", import.meta.url).href;
  const says = `const { thisOwner } = await import(${JSON.stringify(library)}); console.log(thisOwner()); setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", says], { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = (await once(child.stdout, "data")) as [Buffer];
  const owner = line.toString().trim();
  assert.equal(isDead(owner, system), false);
  child.kill("SIGKILL");
  await once(child, "close");
  assert.equal(isDead(owner, system), true);
});

test("what is no name of a run removes nothing: as the beginning of a name it could take others with it", () => {
  for (const name of ["", "m", "mcpftest", "mcpftest1", "mcpftest1x", "mcpftest1x2 ", "mcp-failover"])
    assert.throws(() => removeRun(name), RangeError, name);
  assert.match(newRunName(), /^mcpftest\d+x[0-9a-z]+$/);
});
