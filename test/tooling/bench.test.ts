import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { tempDir } from "@mcp-failover/testkit";
import { node24, ROOT } from "../../scripts/lib/repo.mjs";
import { atLeast, atMost, quantile } from "../bench/benchmark.ts";
import { run } from "../harness/stack.ts";

describe("npm run bench", () => {
  let dir: Awaited<ReturnType<typeof tempDir>>;
  before(async () => {
    dir = await tempDir("mcpf-bench-");
    const write = (name: string, body: string): void =>
      writeFileSync(join(dir.path, `${name}.bench.ts`), `export const bench = { what: "W ${name}", notMeasured: "N", ${body} };\n`);
    mkdirSync(dir.path, { recursive: true });
    write(
      "good",
      `options: { size: "how big" },
       run: async ({ args, say, quick }) => {
         say("working");
         const bounds = [{ name: "time <=", value: 1.5, limit: 2, unit: "ms", held: true }];
         return { ratios: { "ours / theirs": 0.25 }, runs: [{ args, quick }], bounds };
       }`,
    );
    write("bad", `run: async () => ({ ratios: {}, runs: [], bounds: [{ name: "time <=", value: 3, limit: 2, unit: "ms", held: false }] })`);
    write("broken", `run: async () => { throw new Error("could not measure"); }`);
  });
  after(() => dir.remove());

  const bench = (...args: string[]) =>
    run(node24(), [join(ROOT, "test/bench/main.ts"), ...args], { ...process.env, MCPF_BENCH_DIR: dir.path, INIT_CWD: dir.path }, 20_000);
  const lastLine = (text: string): string | undefined => text.trimEnd().split("\n").at(-1);

  test("without a name it lists every benchmark with what it says and what it does not", async () => {
    const { code, stdout } = await bench();
    assert.equal(code, 0);
    assert.match(stdout, /good\n {2}W good\n {2}Not measured: N\n {2}--size {2}how big/);
    assert.equal(lastLine(stdout), "0 passed, 0 failed, 0 skipped");
  });

  test("it shows progress, ratios and bounds, counts the bounds, and writes all of it as JSON", async () => {
    const { code, stdout } = await bench("good", "--json", "out.json", "--quick", "--size", "7");
    assert.equal(code, 0, stdout);
    assert.match(stdout, /working[\s\S]*ours \/ theirs +0\.25[\s\S]*time <= +2 +1\.5 +ms +held/);
    assert.equal(lastLine(stdout), "1 passed, 0 failed, 0 skipped");
    const json = JSON.parse(readFileSync(join(dir.path, "out.json"), "utf8"));
    assert.deepEqual(json.ratios, { "ours / theirs": 0.25 });
    assert.deepEqual(json.runs, [{ args: { size: "7" }, quick: true }]);
    assert.equal(json.bounds[0].held, true);
  });

  test("a bound that does not hold, a benchmark that fails, an unknown name and an unknown option end with 1 and are counted", async () => {
    for (const [args, line] of [
      [["bad"], "0 passed, 1 failed, 0 skipped"],
      [["all"], "1 passed, 2 failed, 0 skipped"],
      [["nosuch"], "0 passed, 1 failed, 0 skipped"],
      [["good", "--nosuch", "1"], "0 passed, 1 failed, 0 skipped"],
    ] as const) {
      const { code, stdout } = await bench(...args);
      assert.equal(code, 1, args.join(" "));
      assert.equal(lastLine(stdout), line, args.join(" "));
    }
  });

  test("with --again a benchmark that missed a bound runs once more and counts once; where more than that many missed one, none does", async () => {
    const name = "unsteady";
    writeFileSync(
      join(dir.path, `${name}.bench.ts`),
      `let runs = 0;
       export const bench = { what: "W", notMeasured: "N", run: async () => {
         runs += 1;
         const bound = (name, held) => ({ name, value: 1, limit: 1, unit: "ms", held });
         return { ratios: {}, runs: [], bounds: [bound("always <=", true), bound("second time <=", runs > 1)] };
       } };\n`,
    );
    const again = await bench(name, "good", "--again", "1");
    assert.equal(again.code, 0, again.stdout);
    assert.match(again.stdout, /second time <= .*NOT HELD[\s\S]*AGAIN: unsteady missed 1 of its bounds[\s\S]*second time <= .* held/);
    assert.equal(lastLine(again.stdout), "3 passed, 0 failed, 0 skipped");
    assert.equal(lastLine((await bench(name)).stdout), "1 passed, 1 failed, 0 skipped");
    assert.equal(lastLine((await bench(name, "bad", "--again", "1")).stdout), "1 passed, 2 failed, 0 skipped");
    assert.equal(lastLine((await bench("bad", "--again", "1")).stdout), "0 passed, 1 failed, 0 skipped");
  });
});

test("a bound holds up to its limit, and never for what is no number", () => {
  assert.deepEqual(
    [atMost("a", 2, 2, "ms").held, atMost("a", 2.1, 2, "ms").held, atMost("a", Number.NaN, 2, "ms").held],
    [true, false, false],
  );
  assert.deepEqual([atLeast("a", 2, 2, "ms").held, atLeast("a", 1.9, 2, "ms").held], [true, false]);
});

test("a quantile is the nearest rank", () => {
  assert.equal(quantile([5, 1, 3, 2, 4], 0.5), 3);
  assert.equal(quantile([1, 2], 0.99), 2);
  assert.ok(Number.isNaN(quantile([], 0.5)));
});
