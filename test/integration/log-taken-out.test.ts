import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type Bus, connectBus } from "@mcp-failover/bus";
import { jetStreamApi } from "@mcp-failover/bus/internal";
import { makeEvent, streams } from "@mcp-failover/contracts";
import { eventually, type RunningServer, startNats, tempDir } from "@mcp-failover/testkit";
import { node24, ROOT } from "../../scripts/lib/repo.mjs";
import { type CommandResult, run } from "../harness/stack.ts";

const events = 1000;
const ends: (() => Promise<unknown>)[] = [];
let nats: RunningServer;
let bus: Bus;
let folder: string;

before(async () => {
  const dir = await tempDir("mcpf-log-");
  folder = dir.path;
  ends.unshift(() => dir.remove());
  nats = await startNats();
  ends.unshift(() => nats.stop());
  bus = connectBus({ servers: nats.url, name: "test", instance: "test" });
  ends.unshift(() => bus.close());
  await eventually(() => bus.status.kind === "connected", { withinMs: 10_000, what: () => "the test's own connection" });
  await bus.ensureStreams(streams, { replicas: 1 });
  const by = { kind: "operator" as const, id: "ann" };
  for (let number = 1; number <= events; number += 1) {
    const timestamp = new Date().toISOString();
    const data = { commandId: `c${number}`, command: "hold" as const, by, reason: "x".repeat(200), timestamp, parameters: {} };
    const common = { id: `c${number}`, service: "cli", instance: "test", timeMs: Date.now() } as const;
    await bus.append(makeEvent({ type: "command.accepted", keys: ["hold"], data, ...common }));
  }
});
after(async () => {
  for (const end of ends) await end();
});

const mcpf = join(ROOT, "packages/cli/bin/mcpf.mjs");
const inFolder = (): Record<string, string | undefined> => ({
  PATH: process.env["PATH"],
  NATS_URL: nats.url,
  MCPF_DATA_DIR: join(folder, "none"),
});
const verify = (...more: string[]): Promise<CommandResult> => {
  return run(node24(), [mcpf, "events", "verify", "-o", "json", ...more], inFolder(), 30_000);
};
/** A line of the shell, in which `$MCPF` is the command. */
const shell = (line: string): Promise<CommandResult> => {
  return run("sh", ["-c", line], { ...inFolder(), MCPF: `${node24()} ${mcpf}`, FOLDER: folder }, 30_000);
};

test("what cannot be written to the end ends with one sentence and 1: a full disk, a folder that is not there, a reader that stops", async () => {
  for (const [line, sentence] of [
    ["$MCPF events export --file $FOLDER/none/x; echo $?", /^mcpf: .*none\/x cannot be written \(ENOENT\)[^\n]*\n$/],
    ["$MCPF events export --file /dev/full; echo $?", /^mcpf: \/dev\/full cannot be written \(ENOSPC\)[^\n]*\n$/],
    ["$MCPF events export > /dev/full; echo $?", /^mcpf: standard output cannot be written \(ENOSPC\)[^\n]*\n$/],
    [
      "{ { $MCPF events export; echo $? >&3; } | head -n 1 > $FOLDER/first; } 3>&1",
      /^mcpf: standard output cannot be written \(EPIPE\)[^\n]*\n$/,
    ],
    ["{ { $MCPF events tail -f --since 1h; echo $? >&3; } | head -n 1 > $FOLDER/first; } 3>&1", /^mcpf: standard output .*EPIPE[^\n]*\n$/],
  ] as const) {
    const { stdout, stderr } = await shell(line);
    assert.equal(stdout, "1\n", `${line}: ${stderr}`);
    assert.match(stderr, sentence, line);
  }
  assert.ok(existsSync(join(folder, "first")));
});

test("a log and its export verify as they are, and both no more when the newest or the oldest events were taken out of the log", async () => {
  const file = join(folder, "log.ndjson");
  const whole = await verify();
  assert.deepEqual([whole.code, whole.json().complete, whole.json().messages], [0, true, events], whole.stderr);

  for (const seq of [events - 1, events]) await jetStreamApi(bus, "STREAM.MSG.DELETE.AUDIT", { seq });
  const gaps = async (...more: string[]): Promise<string[]> => {
    const ran = await verify(...more);
    const { complete, problems } = ran.json() as { complete: boolean; problems: { seq: number; check: string; message: string }[] };
    assert.deepEqual([ran.code, complete], [1, false], ran.stdout);
    return problems.map(({ seq, check, message }) => `#${seq} ${check}: ${message}`);
  };
  const tail = `#${events - 1} gap: the log goes to #${events}: 2 events from here on are gone`;
  assert.deepEqual(await gaps(), [tail]);
  assert.equal((await shell(`$MCPF events export --file ${file}`)).code, 0);
  assert.deepEqual(await gaps("--file", file), [tail], "the export is of the log as it is");

  await jetStreamApi(bus, "STREAM.PURGE.AUDIT", { seq: 100 });
  const head = "#100 gap: 99 events before it are gone from the log";
  assert.deepEqual(await gaps(), [head, tail]);
  await writeFile(file, (await shell("$MCPF events export")).stdout);
  assert.deepEqual(await gaps("--file", file), [head, tail]);
});
