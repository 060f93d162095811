import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type Bus, memoryBroker } from "@mcp-failover/bus";
import { publishRawToMemory } from "@mcp-failover/bus/internal";
import { makeEvent } from "@mcp-failover/contracts";
import { decideHealth, defaultPolicy } from "@mcp-failover/domain";
import { configured, observed, type Ran, runMcpf } from "./support.ts";

const atMs = 1_800_000_000_000;
let folder = "";
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "mcpf-verify-"));
});
after(async () => {
  await rm(folder, { recursive: true });
});

/** A stack whose store's clock the test sets. */
function stackAt(): { bus: Bus; clock: { nowMs: number } } {
  const clock = { nowMs: atMs };
  return { bus: memoryBroker({ nowMs: () => clock.nowMs }).connect(), clock };
}

const from = (id: string) => ({ id, service: "prober", instance: "p1", timeMs: atMs }) as const;

/** The next message of SIGNALS: a probe of an endpoint by p1 that ended well. */
async function probe(bus: Bus, upstream: string, id: string): Promise<number> {
  const asked = { requestId: "r1", purpose: "scheduled", targets: [{ upstream, endpoint: "one" }], deadlineMs: atMs, by: "test" } as const;
  const observations = observed("p1", asked as unknown as Parameters<typeof observed>[1], {});
  return (await bus.append(makeEvent({ type: "probe.observed", keys: ["p1"], data: { observer: "p1", observations }, ...from(id) }))).seq;
}

/** A sound decision that api/one is healthy, with a vote for it that is in SIGNALS at a sequence. */
async function decide(bus: Bus, signal: number, id = `health-${signal}`): Promise<void> {
  const probes = [0, 10].map((afterMs) => ({
    startedAtMs: atMs + afterMs,
    responseTimeMs: 3,
    outcome: "ok" as const,
    code: null,
    purpose: "scheduled" as const,
  }));
  const input = {
    policy: defaultPolicy.health,
    state: null,
    evidence: probes,
    asked: 0,
    votes: [],
    graceUntilMs: 0,
    nowMs: atMs + 100,
  };
  const decision = decideHealth(input);
  const ref = { stream: "SIGNALS" as const, seq: signal };
  const vote = { observer: "p1", kind: "prober", verdict: "healthy", outcome: "ok", code: null, atMs, responseTimeMs: 3, ref } as const;
  const event = makeEvent({
    type: "health.changed",
    keys: ["api", "one"],
    data: {
      service: "api",
      endpoint: "one",
      status: decision.state.status,
      responseTime: 3,
      error: null,
      timestamp: new Date(atMs).toISOString(),
      critical: true,
      previousStatus: null,
      reason: decision.reason,
      prober: "p1",
      votes: [vote],
      state: decision.state,
      certificate: {
        decider: "decideHealth",
        rule: decision.rule,
        policyHash: "p",
        nowMs: input.nowMs,
        folded: { AUDIT: null, SIGNALS: null },
        input,
        rejected: [],
      },
    },
    ...from(id),
  });
  assert.equal((await bus.appendFenced(event, 0)).outcome, "won");
}

/** Code, wrong and expired of `mcpf events verify`. */
async function verified(bus: Bus | null, more: string[] = [], env: Record<string, string> = {}): Promise<[number, number, number, Ran]> {
  const ran = await runMcpf(bus, ["events", "verify", "-o", "json", ...more], env);
  const { wrong, inputsExpired } = JSON.parse(ran.stdout) as { wrong: number; inputsExpired: number };
  return [ran.code, wrong, inputsExpired, ran];
}

test("an export is checked against the signals of its own stack, never against those of another at these numbers", async () => {
  const mine = stackAt();
  const signal = await probe(mine.bus, "api", "probe-1");
  await decide(mine.bus, signal);
  assert.deepEqual((await verified(mine.bus)).slice(0, 3), [0, 0, 0]);
  const file = join(folder, "mine.ndjson");
  await runMcpf(mine.bus, ["events", "export", "--file", file]);
  const [code, wrong, expired, { stderr }] = await verified(mine.bus, ["--file", file]);
  assert.deepEqual([code, wrong, expired, stderr], [0, 0, 0, ""]);

  const other = stackAt();
  assert.equal(await probe(other.bus, "something-else", "probe-1"), signal);
  const elsewhere = await verified(other.bus, ["--file", file]);
  assert.deepEqual(elsewhere.slice(0, 3), [0, 0, 1], "an empty log is another one");
  assert.match(elsewhere[3].stderr, /the signals of this export are not here/);
  await decide(other.bus, signal, "another id");
  assert.deepEqual((await verified(other.bus, ["--file", file])).slice(0, 3), [0, 0, 1], "an event of the same subject at the same place");
  await mine.bus.close();
  await other.bus.close();
});

test("a vote of an export that its stack's signals contradict is still found", async () => {
  const { bus } = stackAt();
  const signal = await probe(bus, "something-else", "probe-1");
  await decide(bus, signal);
  const file = join(folder, "forged.ndjson");
  await runMcpf(bus, ["events", "export", "--file", file]);
  assert.deepEqual((await verified(bus, ["--file", file])).slice(0, 3), [1, 1, 0]);
  await bus.close();
});

test("signals stored after the decision that points at them are of a stream made anew: the inputs are expired", async () => {
  const { bus, clock } = stackAt();
  await decide(bus, 1);
  clock.nowMs += 60_000;
  assert.equal(await probe(bus, "something-else", "probe-1"), 1);
  assert.deepEqual((await verified(bus)).slice(0, 3), [0, 0, 1]);
  await bus.close();
});

test("an export is verified without NATS too, also where one is named that does not answer", async () => {
  const { bus } = stackAt();
  await decide(bus, await probe(bus, "api", "probe-1"));
  const file = join(folder, "alone.ndjson");
  await runMcpf(bus, ["events", "export", "--file", file]);
  await bus.close();
  for (const env of [{}, { NATS_URL: "nats://127.0.0.1:1" }]) {
    const [code, wrong, expired, { stderr }] = await verified(null, ["--file", file], env);
    assert.deepEqual([code, wrong, expired], [0, 0, 1]);
    assert.match(stderr, /the signals of this export are not here/);
  }
});

/** The lines of an export of five events, and what `mcpf events verify` says of a file with other ones. */
async function exported(): Promise<{ lines: string[]; verify(lines: readonly string[]): Promise<Ran> }> {
  const { bus } = await configured();
  for (const id of ["a", "b", "c", "d"]) {
    const by = { kind: "operator" as const, id: "ann" };
    const data = { commandId: id, command: "hold" as const, by, reason: "r", timestamp: new Date(atMs).toISOString(), parameters: {} };
    await bus.append(makeEvent({ type: "command.accepted", keys: ["hold"], data, ...from(id) }));
  }
  const file = join(folder, "five.ndjson");
  assert.equal((await runMcpf(bus, ["events", "export", "--file", file])).code, 0);
  await bus.close();
  return {
    lines: (await readFile(file, "utf8")).trimEnd().split("\n"),
    async verify(lines) {
      await writeFile(file, `${lines.join("\n")}\n`);
      return runMcpf(null, ["events", "verify", "--file", file, "-o", "json"]);
    },
  };
}

test("an export says at its end that it is whole; one whose first or last events were taken out, or all but one, does not verify", async () => {
  const { lines, verify } = await exported();
  assert.deepEqual(JSON.parse(lines.at(-1) ?? ""), { end: { lastSeq: 5, count: 5 } });
  const whole = await verify(lines);
  assert.deepEqual([whole.code, JSON.parse(whole.stdout).complete, JSON.parse(whole.stdout).wrong], [0, true, 0]);
  const end = lines.slice(-1);
  for (const [what, left, gaps] of [
    ["the first three", lines.slice(3), ["#4: 3 events before it are gone from the log"]],
    ["the last two", [...lines.slice(0, 3), ...end], ["#4: the log goes to #5: 2 events from here on are gone"]],
    [
      "all but the third",
      [...lines.slice(2, 3), ...end],
      ["#3: 2 events before it are gone from the log", "#4: the log goes to #5: 2 events from here on are gone"],
    ],
  ] as const) {
    const { code, stdout } = await verify(left);
    const { complete, wrong, problems } = JSON.parse(stdout) as { complete: boolean; wrong: number; problems: Record<string, unknown>[] };
    assert.deepEqual([code, complete, wrong], [1, false, gaps.length], what);
    assert.deepEqual(
      problems.map(({ seq, message }) => `#${seq}: ${message}`),
      gaps,
      what,
    );
  }
});

test("an export without its last line is checked, is said not to be known as whole, and is not 0: it was cut off, or is of an older mcpf", async () => {
  const { lines, verify } = await exported();
  for (const left of [lines.slice(0, -1), lines.slice(0, 3)]) {
    const { code, stdout, stderr } = await verify(left);
    const { complete, wrong, messages } = JSON.parse(stdout);
    assert.deepEqual([code, complete, wrong, messages], [1, false, 0, left.length]);
    assert.match(stderr, /last line of this export does not say that it is whole: it was cut off, or is of an older mcpf/);
  }
  const after = await verify([...lines, lines[0] ?? ""]);
  assert.equal(after.code, 1);
  assert.match(after.stderr, /line 7 .* is not a line of an export/);
});

test("all that is wrong is counted, and where not all is shown it is said how much is", async () => {
  const { broker, bus } = await configured();
  for (let count = 0; count < 1200; count += 1) publishRawToMemory(broker, "config.applied", "{ torn");
  const { code, stdout } = await runMcpf(bus, ["events", "verify", "-o", "json"]);
  const { wrong, problems, problemsMax } = JSON.parse(stdout);
  assert.ok(wrong >= 1200, `${wrong} are counted`);
  assert.deepEqual([code, problems.length, problemsMax], [1, 1000, 1000]);
  const said = (await runMcpf(bus, ["events", "verify"])).stdout.trimEnd().split("\n");
  assert.deepEqual([said.length, said.at(-2)], [1002, `the first 1000 of ${wrong} are shown`]);
  await bus.close();
});

test("a vote that points behind all that SIGNALS ever held is a forgery; of a SIGNALS that is younger than the vote it is expired", async () => {
  for (const [afterMs, expected] of [
    [60_000, [1, 1, 0]],
    [0, [0, 0, 1]],
  ] as const) {
    const { bus, clock } = stackAt();
    clock.nowMs = atMs - afterMs;
    await probe(bus, "api", "probe-1");
    clock.nowMs = atMs;
    await decide(bus, 4242);
    const ran = await verified(bus);
    assert.deepEqual(ran.slice(0, 3), expected);
    if (afterMs > 0) assert.match(ran[3].stdout, /is not what SIGNALS 4242 says/);
    await bus.close();
  }
});

test("an export into a folder that is not there ends with one sentence", async () => {
  const { bus } = await configured();
  const file = join(folder, "not-there", "x.ndjson");
  const { code, stderr } = await runMcpf(bus, ["events", "export", "--file", file, "-o", "json"]);
  assert.deepEqual([code, JSON.parse(stderr).error.code, existsSync(file)], [1, "file_not_written", false]);
  assert.match(stderr, /cannot be written \(ENOENT\)/);
  await bus.close();
});
