import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { checks } from "./checks/index.ts";
import { judgeCoverage, requiredCells, sumCoverage } from "./coverage.ts";
import { huntMutant } from "./mutant-hunt.ts";
import { mutants, mutated } from "./mutants.ts";
import { openPool } from "./pool.ts";
import { leastWorld, scheduleOf } from "./schedule.ts";
import { shrink } from "./shrink.ts";
import type { RunResult, Schedule } from "./world-types.ts";

const minuteMs = 60_000;
const short = { ...leastWorld, durationMs: 14 * minuteMs, quietFromMs: 5 * minuteMs, calls: 400 };
const root = join(import.meta.dirname, "..", "..");

test("two seeds that nobody has run before break no guarantee", async () => {
  const pool = openPool(1, { mutant: null });
  try {
    for (const seed of [Date.now() % 1_000_000, (Date.now() % 1_000_000) + 1]) {
      const { violation } = await pool.run({ schedule: scheduleOf(seed, short), validates: false, hashes: false, logFd: null });
      assert.equal(violation, null, `seed ${seed}, ${JSON.stringify(short)}: ${violation?.message} ${JSON.stringify(violation?.details)}`);
    }
  } finally {
    await pool.close();
  }
});

test("a decider that leaves its fence out is caught by the guarantee that is named for it", async () => {
  const mutant = mutants.find(({ name }) => name === "fence-left-out");
  assert.ok(mutant);
  const { afterRuns, message } = await huntMutant(mutant, { seed: 1, runs: 3, workers: 1, untilMs: Number.POSITIVE_INFINITY });
  assert.ok(afterRuns !== null);
  assert.match(message, /^every_decision_is_fenced: /);
});

test("every mutant still fits the source that it changes, and each guarantee has two at least", () => {
  const known = checks.map(({ guarantee }) => guarantee);
  for (const mutant of mutants) {
    assert.ok(known.includes(mutant.guarantee), `${mutant.name}: no guarantee is called ${mutant.guarantee}`);
    const source = readFileSync(join(root, mutant.file), "utf8");
    assert.notEqual(mutated(mutant, source), source);
  }
  for (const guarantee of known) assert.ok(mutants.filter((one) => one.guarantee === guarantee).length >= 2, guarantee);
  assert.equal(new Set(mutants.map(({ name }) => name)).size, mutants.length);
});

test("two processes write the same log of one schedule, byte for byte", async () => {
  const folder = mkdtempSync(join(tmpdir(), "sim-"));
  try {
    const file = join(folder, "schedule.json");
    writeFileSync(file, JSON.stringify(scheduleOf(7, { ...short, durationMs: 4 * minuteMs, quietFromMs: 3 * minuteMs, calls: 200 })));
    const logs: string[] = [];
    for (const name of ["one.log", "two.log"]) {
      const log = join(folder, name);
      const main = join(import.meta.dirname, "main.ts");
      await promisify(execFile)(process.execPath, [main, "--schedule", file, "--log", log], { maxBuffer: 16_000_000 });
      logs.push(readFileSync(log, "utf8"));
    }
    assert.ok((logs[0]?.length ?? 0) > 100_000, "hardly anything was logged");
    assert.ok(logs[0] === logs[1], "the two logs differ");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test("a run that breaks a guarantee fails, and the commands and the schedule that it leaves break it again", async () => {
  const folder = mkdtempSync(join(tmpdir(), "sim-"));
  const main = join(import.meta.dirname, "main.ts");
  const run = (args: readonly string[]): Promise<{ code: unknown; stdout: string }> =>
    promisify(execFile)(process.execPath, [main, ...args], { cwd: folder, maxBuffer: 16_000_000 }).then(
      ({ stdout }) => ({ code: 0, stdout }),
      (error: { code: unknown; stdout: string }) => error,
    );
  const violationIn = (stdout: string): string | undefined => /^seed 1: (every_decision_is_fenced: .*)$/m.exec(stdout)?.[1];
  try {
    const first = await run(["--broken", "fence-left-out", "--seed", "1", "--runs", "1", "--minutes", "5"]);
    assert.equal(first.code, 1, first.stdout);
    assert.match(first.stdout, /^0 passed, 1 failed, 0 skipped$/m);
    const shrunk = /shrunk in \d+ runs from .*?: (every_decision_is_fenced: .*)$/m.exec(first.stdout)?.[1];
    const { seed, faults } = JSON.parse(readFileSync(join(folder, "sim-failure-1.json"), "utf8")) as Schedule;
    assert.equal(seed, 1);
    assert.ok(faults.length < scheduleOf(1, leastWorld).faults.length, "nothing was left out of it");
    const again = [...first.stdout.matchAll(/^ {2}again: npm run sim -- (.*)$/gm)].map(([, args]) => String(args).split(" "));
    assert.equal(again.length, 2, first.stdout);
    const told = [violationIn(first.stdout), shrunk];
    for (const [index, args] of again.entries()) {
      const { code, stdout } = await run([...args, "--no-shrink"]);
      assert.deepEqual([code, violationIn(stdout)], [1, told[index]], args.join(" "));
      assert.ok(told[index]);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test("a schedule is shrunk to the faults and calls without which the guarantee holds", async () => {
  const schedule = scheduleOf(3, leastWorld);
  const needed = [schedule.faults[2]?.id, schedule.faults[9]?.id];
  const broken: NonNullable<RunResult["violation"]> = { guarantee: "g", atMs: leastWorld.durationMs, message: "broken", details: {} };
  const breaks = async ({ faults }: Schedule) =>
    needed.every((id) => faults.some((fault) => fault.id === id)) ? broken : { ...broken, guarantee: "another" };
  const shrunk = await shrink(schedule, broken, { breaks, untilMs: Number.POSITIVE_INFINITY, triesMax: 200 });
  assert.deepEqual(
    shrunk.schedule.faults.map(({ id }) => id),
    needed,
  );
  assert.equal(shrunk.schedule.world.calls, 0);
  assert.equal(shrunk.violation, broken);
});

test("an empty cell of the table is seen, and so is a rule that the table does not list", () => {
  const full = Object.fromEntries(requiredCells.map((cell) => [cell, 1]));
  assert.deepEqual(judgeCoverage(sumCoverage([full])).empty, []);
  const { "rule:health:fall": _fall, ...less } = full;
  assert.deepEqual(judgeCoverage(sumCoverage([less])).empty, ["rule:health:fall"]);
  assert.deepEqual(judgeCoverage(sumCoverage([full, { "rule:failover:a_new_rule": 1 }])).unlisted, ["rule:failover:a_new_rule"]);
});
