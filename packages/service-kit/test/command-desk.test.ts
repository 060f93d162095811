import assert from "node:assert/strict";
import { after, test } from "node:test";
import { memoryBroker } from "@mcp-failover/bus";
import { eventually } from "@mcp-failover/testkit";
import { type Command, type CommandDesk, openCommandDesk } from "../src/decider/command-desk.ts";
import { type FencedDecider, startFencedDecider } from "../src/decider/fenced-decider.ts";
import { testKit } from "../src/testing.ts";

const cleanups: (() => Promise<void>)[] = [];
after(async () => {
  for (const cleanup of cleanups.reverse()) await cleanup();
});

const by = { kind: "operator", id: "test" } as const;
const commandOf = (name: string): Command => ({ name, commandId: "c-1", by, reason: "test", parameters: {} });

/** One instance; `hears` false: it is told of no event, as where another one is a moment ahead. */
async function desk(broker: ReturnType<typeof memoryBroker>, name: string, hears = true): Promise<CommandDesk> {
  const kit = testKit({ service: "failover-controller", bus: broker.connect(), instance: name });
  const made = openCommandDesk(kit, () => decider);
  const decider: FencedDecider = startFencedDecider(kit, {
    foldAudit: (event, at) => {
      if (hears) made.fold(event, at);
    },
    foldSignal: () => undefined,
    evaluate: () => undefined,
    signalsBackMs: 60_000,
    clockGapMs: 2000,
    tiltMs: 30_000,
  });
  cleanups.push(() => decider.stop());
  await eventually(() => decider.settled, { withinMs: 5000, everyMs: 10 });
  return made;
}

test("C2: a commandId that belongs to another command is refused, also while that one runs and at an instance that has not heard of it", async () => {
  const broker = memoryBroker();
  const first = await desk(broker, "a");
  const other = await desk(broker, "b", false);
  const acting = Promise.withResolvers<string>();
  const actions = (act: () => Promise<string>) => ({ act, answerOf: async () => "an answer of another", outcomeSubjects: [] });
  const moved = first.run(
    commandOf("failover"),
    actions(() => acting.promise),
  );
  await eventually(async () => (await broker.connect().info("AUDIT")).messages === 1, { withinMs: 5000, everyMs: 10 });
  let held = 0;
  const hold = actions(async () => {
    held += 1;
    return "held";
  });
  const reused = { code: "command_id_reused" };
  const refusals = Promise.all([
    assert.rejects(first.run(commandOf("hold"), hold), reused),
    assert.rejects(other.run(commandOf("hold"), hold), reused),
  ]);
  setTimeout(() => acting.resolve("moved"), 200);
  await refusals;
  assert.deepEqual([await moved, held], ["moved", 0]);
  await assert.rejects(first.run(commandOf("hold"), hold), reused);
});
