import assert from "node:assert/strict";
import { test } from "node:test";
import { RefusedError } from "@mcp-failover/bus";
import { makeEvent, type NotifySilenced, type SilenceCommand } from "@mcp-failover/contracts";
import { configured, type Ran, runMcpf } from "./support.ts";

const stack = async () => {
  const { bus } = await configured();
  const asked: SilenceCommand[] = [];
  const served = await bus.serve({
    name: "notifier",
    instance: "n",
    version: "0.1.0",
    description: "silences",
    handlers: {
      "command.silence": async (body) => {
        asked.push(body);
        if (body.target === "nope") throw new RefusedError("unknown_target", "nothing is named nope; write an upstream (api)");
        return { id: "i", target: body.target, status: "active", since: "2026-03-01T00:00:00.000Z", until: "2026-03-01T02:00:00.000Z" };
      },
      "command.unsilence": async ({ target }) => ({ id: "i", target, status: "ended", since: "", until: "" }),
    },
  });
  let seq = 0;
  const say = async (more: Partial<NotifySilenced>): Promise<void> => {
    const nowMs = Date.now();
    const silence: NotifySilenced = {
      id: `i-${seq}`,
      target: "api",
      status: "active",
      by: { kind: "operator", id: "ann" },
      reason: "its provider moves house",
      commandId: "c",
      acceptedSeq: 1,
      sinceMs: nowMs,
      untilMs: nowMs + 60_000,
      changedAtMs: nowMs,
      endedBy: null,
      outbox: {},
      telling: null,
      ...more,
    };
    seq += 1;
    const from = { id: `e-${seq}`, service: "notifier", instance: "n", timeMs: nowMs } as const;
    await bus.append(makeEvent({ type: "notify.silenced", keys: [silence.target], data: silence, ...from }));
  };
  const close = async (): Promise<void> => {
    await served.stop();
    await bus.close();
  };
  return { asked, say, close, mcpf: (...argv: string[]): Promise<Ran> => runMcpf(bus, argv) };
};

test("mcpf silence asks with who, why and until when, and says when it ends; unsilence ends it", async (t) => {
  const { asked, mcpf, close } = await stack();
  t.after(close);
  const ran = await mcpf("silence", "api", "--for", "2h", "--reason", "it moves", "--yes");
  assert.deepEqual([ran.code, ran.stdout], [0, "api is silenced until 2026-03-01T02:00:00.000Z\n"], ran.stderr);
  await mcpf("silence", "upstream/api", "--until", "2026-03-01T02:00:00Z", "--reason", "it moves", "--yes");
  assert.deepEqual(
    asked.map(({ target, forMs, untilMs, reason, givenAtSeq }) => [target, forMs, untilMs, reason, givenAtSeq]),
    [
      ["api", 7_200_000, undefined, "it moves", 1],
      ["upstream/api", null, Date.parse("2026-03-01T02:00:00Z"), "it moves", 1],
    ],
  );
  const over = await mcpf("unsilence", "api", "--reason", "done", "--yes");
  assert.deepEqual([over.code, over.stdout], [0, "api is not silenced any more\n"], over.stderr);
});

test("mcpf silence without an end, a target or a reason, or for what is not there, is wrong usage and asks nothing of anybody", async (t) => {
  const { asked, mcpf, close } = await stack();
  t.after(close);
  const cases: [string[], RegExp][] = [
    [["silence"], /name what to silence/],
    [["silence", "api", "--reason", "r", "--yes"], /say when it ends/],
    [["silence", "api", "--for", "1h", "--until", "2026-03-01T02:00:00Z", "--reason", "r", "--yes"], /say when it ends/],
    [["silence", "api", "--for", "soon", "--reason", "r", "--yes"], /no duration/],
    [["silence", "api", "--for", "1h", "--yes"], /--reason/],
    [["silence", "api", "--for", "1h", "--reason", "r"], /--yes/],
    [["unsilence", "api", "--yes"], /--reason/],
  ];
  for (const [argv, said] of cases) {
    const ran = await mcpf(...argv);
    assert.deepEqual([ran.code, said.test(ran.stderr)], [2, true], `${argv.join(" ")}: ${ran.stderr}`);
  }
  assert.equal(asked.length, 0);
  const nope = await mcpf("silence", "nope", "--for", "1h", "--reason", "r", "--yes");
  assert.deepEqual([nope.code, nope.stderr], [2, "mcpf: nothing is named nope; write an upstream (api)\n"]);
});

test("mcpf silence --list shows from the log what is silenced now, and nothing that is over", async (t) => {
  const { say, mcpf, close } = await stack();
  t.after(close);
  assert.equal((await mcpf("silence", "--list")).stdout, "nothing is silenced\n");
  const untilMs = Date.now() + 60_000;
  await say({ untilMs });
  await say({ target: "rollback/tool/stock", untilMs: Date.now() - 1 });
  await say({ target: "upstream/api" });
  await say({ target: "upstream/api", status: "ended" });
  const shown = await mcpf("silence", "--list");
  assert.match(shown.stdout, /^TARGET +UNTIL +SINCE +BY +WHY\napi +20\S+Z +20\S+Z +ann +its provider moves house\n$/);
  const [row, more] = JSON.parse((await mcpf("silence", "--list", "-o", "json")).stdout) as Record<string, unknown>[];
  assert.deepEqual(Object.keys(row ?? {}), ["target", "since", "until", "by", "reason"]);
  assert.deepEqual([row?.["until"], more], [new Date(untilMs).toISOString(), undefined]);
});

test("mcpf status says what is silenced, on standard error in every format, until it is over", async (t) => {
  const { say, mcpf, close } = await stack();
  t.after(close);
  assert.doesNotMatch((await mcpf("status")).stderr, /silenced/);
  const untilMs = Date.now() + 60_000;
  await say({ untilMs });
  const line = `api is silenced until ${new Date(untilMs).toISOString()} by ann (its provider moves house): nobody is told of what happens to it`;
  for (const format of ["table", "json"]) {
    const { stderr, stdout } = await mcpf("status", "-o", format);
    assert.ok(stderr.split("\n").includes(line), stderr);
    assert.doesNotMatch(stdout, /silenced/);
  }
  await say({ status: "ended" });
  assert.doesNotMatch((await mcpf("status")).stderr, /silenced/);
});
