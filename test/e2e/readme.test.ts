import assert from "node:assert/strict";
import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { node24, ROOT } from "../../scripts/lib/repo.mjs";
import { type RunningStack, run, startStack } from "../harness/stack.ts";
import { until } from "../harness/wait.ts";

/** What the README tells a reader to type is typed here, in its order, on a stack as `npm start` makes it. */
describe("the README", { concurrency: false }, () => {
  let stack: RunningStack;
  let readme = "";
  before(async () => {
    readme = await readFile(join(ROOT, "README.md"), "utf8");
    stack = await startStack();
  });
  after(async () => {
    await stack?.stop();
  });

  const blocks = (language: string): string[] =>
    [...readme.matchAll(new RegExp(`^ *\`\`\`${language}\n([\\s\\S]*?)^ *\`\`\``, "gm"))].map((match) => match[1] ?? "");
  /** The words of a command line, double quotes understood. */
  const words = (line: string): string[] => [...line.matchAll(/"([^"]*)"|(\S+)/g)].map((match) => match[1] ?? match[2] ?? "");

  test("every mcpf command of the five minutes to a first failover does what it says", async () => {
    const commands = blocks("sh")
      .flatMap((block) => block.split("\n"))
      .map((line) => line.trim())
      .filter((line) => line.startsWith("npx mcpf "));
    assert.ok(commands.length >= 7, commands.join("\n"));
    for (const command of commands) {
      const ran = await stack.mcpf(words(command).slice(2), { timeoutMs: 120_000 });
      // Its one check of times is about the machine, too, which has other tests to run beside this one.
      const isSlow = ran.code === 1 && /FAILED \(the check performanceWithinThreshold failed: [^()]*\)/.test(ran.stdout);
      if (!isSlow) assert.equal(ran.code, 0, `${command}\n${ran.stdout}\n${ran.stderr}`);
      if (command.includes("events backtest")) {
        const { stdout } = await stack.mcpf([...words(command).slice(2), "-o", "json"]);
        const { fidelity } = JSON.parse(stdout) as { fidelity: { recorded: number; again: number } };
        assert.ok(fidelity.again >= 1, `the move that the rehearsal brought comes again: ${JSON.stringify(fidelity)}`);
      }
      if (command.includes("chaos run")) {
        assert.equal(
          (await stack.status()).upstreams.find(({ name }) => name === "everything")?.active,
          "secondary",
          "the reader sees it move",
        );
        // A breaker closes some time after its endpoint is healthy again; until then the SDK lets nobody through without a permit.
        const isBack = (endpoint: { health: string; breaker: string }): boolean =>
          endpoint.health === "healthy" && endpoint.breaker === "closed";
        await until(
          async () => (await stack.status()).upstreams.every(({ endpoints }) => endpoints.every(isBack)),
          60_000,
          "what was killed is back",
        );
      }
    }
  });

  test("the client's example runs as it is printed", async () => {
    const [example = ""] = blocks("ts").filter((block) => block.includes("@mcp-failover/client"));
    const here = example.replace(/nats:\/\/127\.0\.0\.1:\d+/, stack.natsUrl);
    const code = `${here}\nconsole.log(answer.status);\nawait client.close();\n`;
    const file = join(ROOT, "test", `readme-example-${process.pid}.ts`);
    await writeFile(file, code);
    try {
      const ran = await run(node24(), [file], process.env, 20_000);
      assert.equal(ran.code, 0, ran.stderr);
      assert.match(ran.stdout, /^\d{3}$/m);
    } finally {
      await rm(file);
    }
  });
});
