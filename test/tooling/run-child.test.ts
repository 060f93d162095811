import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { constants } from "node:os";
import { test } from "node:test";

const runChild = new URL("../../scripts/lib/run-child.mjs", import.meta.url).href;

/** A parent that runs `code` in a child through runChild, as `npm start` does with the launcher. */
function parentOf(code: string) {
  const script = `const { runChild } = await import(${JSON.stringify(runChild)}); process.exitCode = await runChild(process.execPath, ["-e", ${JSON.stringify(code)}]);`;
  return spawn(process.execPath, ["--input-type=module", "-e", script], { stdio: ["ignore", "pipe", "inherit"] });
}

test("the exit code of the child is passed on", async () => {
  const [code] = await once(parentOf("process.exit(7)"), "close");
  assert.equal(code, 7);
});

test("a child that a signal ended gives 128 and the number of the signal", async () => {
  const [code] = await once(parentOf("process.kill(process.pid, 'SIGKILL')"), "close");
  assert.equal(code, 137);
});

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  test(`${signal} reaches the child, once, and the parent ends only after it`, async () => {
    const parent = parentOf(
      `let seen = 0; process.on("${signal}", () => { seen += 1; if (seen === 1) setTimeout(() => { console.log("cleaned up", seen); process.exit(3); }, 250); });
       setInterval(() => {}, 1000); console.log("up");`,
    );
    let output = "";
    parent.stdout.setEncoding("utf8").on("data", (text: string) => {
      output += text;
      if (text.includes("up\n") && !text.includes("cleaned")) {
        parent.kill(signal);
        // npm forwards what the terminal has already sent.
        setTimeout(() => parent.kill(signal), 20);
      }
    });
    const [code] = await once(parent, "close");
    assert.deepEqual({ output, code }, { output: "up\ncleaned up 1\n", code: 3 });
  });
}

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  test(`who runs one child after the other and is told ${signal} during the first begins no second one`, async () => {
    const first = `process.on("${signal}", () => process.exit(0)); setInterval(() => {}, 1000); console.log("first");`;
    const script = `const { runChild, throwIfToldToEnd } = await import(${JSON.stringify(runChild)});
      try {
        for (const code of [${JSON.stringify(first)}, "console.log('second')"]) { await runChild(process.execPath, ["-e", code]); throwIfToldToEnd(); }
      } catch (error) { process.exitCode = error.exitCode; }`;
    const parent = spawn(process.execPath, ["--input-type=module", "-e", script], { stdio: ["ignore", "pipe", "inherit"] });
    let output = "";
    parent.stdout.setEncoding("utf8").on("data", (text: string) => {
      if (output === "") parent.kill(signal);
      output += text;
    });
    const [code] = await once(parent, "close");
    assert.deepEqual({ output, code }, { output: "first\n", code: 128 + constants.signals[signal] });
  });
}
