import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import type { Bus } from "@mcp-failover/bus";
import { makeEvent, type Observation } from "@mcp-failover/contracts";
import { configured, runMcpf, twoEndpoints } from "./support.ts";

/** A folder of this test's own with a configuration in it. */
async function folder(t: TestContext, yaml = twoEndpoints): Promise<{ dir: string; file: string }> {
  const dir = await mkdtemp(join(tmpdir(), "mcpf-backtest-"));
  t.after(() => rm(dir, { recursive: true }));
  const file = join(dir, "wanted.yaml");
  await writeFile(file, yaml);
  return { dir, file };
}

/** Each of three probers says of `one` and `two` how it is, once. */
async function probed(bus: Bus, one: Observation["outcome"], two: Observation["outcome"] = "ok"): Promise<void> {
  for (const observer of ["p1", "p2", "p3"]) {
    const nowMs = Date.now();
    const observations = (["one", "two"] as const).map((endpoint): Observation => {
      const outcome = endpoint === "one" ? one : two;
      return {
        ...{ upstream: "api", endpoint, observer, purpose: "scheduled", requestId: null, startedAtMs: nowMs, responseTimeMs: 1, outcome },
        ...{ code: outcome === "hard" ? "refused" : null, error: null, httpStatus: null, era: null },
      };
    });
    const data = { observer, observations };
    await bus.append(
      makeEvent({
        type: "probe.observed",
        keys: [observer],
        id: `${observer}-${nowMs}-${one}`,
        service: "prober",
        instance: observer,
        timeMs: nowMs,
        data,
      }),
    );
  }
}

test("a policy is tried on the live log: what it would have moved, beside what was moved, for people and as JSON", async (t) => {
  const { bus } = await configured();
  const { file } = await folder(t);
  await probed(bus, "ok");
  for (let round = 0; round < 4; round += 1) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    await probed(bus, "hard");
  }
  const json = await runMcpf(bus, ["events", "backtest", file, "--since", "1h", "-o", "json"]);
  assert.equal(json.code, 0, json.stderr);
  const { sides, signals, malformed, environment } = JSON.parse(json.stdout);
  assert.deepEqual([signals, malformed, environment], [15, 0, "development"]);
  assert.equal(sides.recorded.total.moves, 0);
  assert.deepEqual(
    sides.wanted.moves.map(({ upstream, from, to }: Record<string, string>) => [upstream, from, to]),
    [["api", "one", "two"]],
  );
  const table = await runMcpf(bus, ["events", "backtest", file]);
  assert.equal(table.code, 0);
  assert.match(table.stdout, /RECORDED +REPLAYED/);
  assert.match(table.stdout, /one -> two +majority_unhealthy +was down to the end/);
  assert.match(table.stdout, /0 of 0 automatic moves come again, and 1 others/);
});

test("the same comes of exports of the log and of its signals, in any order, and given twice", async (t) => {
  const { bus } = await configured();
  const { dir, file } = await folder(t);
  await probed(bus, "ok");
  await probed(bus, "hard");
  await probed(bus, "hard");
  const [audit, signals] = [join(dir, "audit.ndjson"), join(dir, "signals.ndjson")];
  assert.equal((await runMcpf(bus, ["events", "export", "--file", audit])).code, 0);
  assert.equal((await runMcpf(bus, ["events", "export", "--signals", "--file", signals])).code, 0);
  const live = JSON.parse((await runMcpf(bus, ["events", "backtest", file, "-o", "json"])).stdout);
  for (const files of [
    [audit, signals],
    [signals, audit, signals],
  ]) {
    const read = await runMcpf(null, ["events", "backtest", file, "--export", ...files, "-o", "json"]);
    assert.equal(read.code, 0, read.stderr);
    assert.deepEqual(JSON.parse(read.stdout), live);
  }
  const half = await runMcpf(null, ["events", "backtest", file, "--export", signals]);
  assert.equal(half.code, 1);
  assert.match(half.stderr, /an export of the log, from its start/);
});

test("wrong usage says what to write, and a log without signals is not judged", async (t) => {
  const { bus } = await configured();
  const { file } = await folder(t);
  const nothing = await runMcpf(bus, ["events", "backtest", file]);
  assert.equal(nothing.code, 1);
  assert.match(nothing.stderr, /no signal was recorded in this time/);
  for (const [argv, why] of [
    [["--from", "yesterday"], /"yesterday" is no time: write it as/],
    [["--from", "2026-03-01T02:00:00Z", "--to", "2026-03-01T01:00:00Z"], /--from .* is not before --to/],
    [["--env", "test"], /development or production/],
    [["--export", "/nowhere/audit.ndjson"], /cannot be read/],
  ] as const) {
    const { code, stderr } = await runMcpf(bus, ["events", "backtest", file, ...argv]);
    assert.equal(code, 2, stderr);
    assert.match(stderr, why);
  }
  const broken = await folder(t, "upstreams: {}");
  assert.equal((await runMcpf(bus, ["events", "backtest", broken.file])).code, 2);
});
