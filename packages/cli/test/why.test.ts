import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { publishRawToMemory } from "@mcp-failover/bus/internal";
import { type DataOf, type EventType, makeEvent } from "@mcp-failover/contracts";
import { configured, runMcpf } from "./support.ts";

const timestamp = "2026-01-01T00:00:00.000Z";
const folded = { AUDIT: null, SIGNALS: null };
const certificate = { decider: "decideFailover", rule: "test", policyHash: "p", nowMs: 0, folded, input: {}, rejected: [] };

/** A log with a configuration, in which one can say what a failover-controller says of `api`, and how `mcpf why` tells it. */
async function world(t: TestContext) {
  const { broker, bus } = await configured();
  t.after(() => bus.close());
  let count = 0;
  const say = async <T extends EventType>(type: T, data: DataOf<T>): Promise<number> => {
    count += 1;
    const from = { id: `e-${count}`, service: "failover-controller", instance: "test", timeMs: Date.now() } as const;
    return (await bus.append(makeEvent({ type, keys: ["api"], data, ...from }))).seq;
  };
  const common = (from: string, to: string) => {
    const by = { kind: "service", id: "failover-controller" } as const;
    return { service: "api", timestamp, automatic: true, by, reason: "test", previousEndpoint: from, currentEndpoint: to };
  };
  return {
    decide: (action: "moved" | "held", epoch: number, [from, active]: readonly [string, string]) => {
      const state = { generation: 1, epoch, active, tier: 0, sinceMs: 1, held: null, moves: [] };
      return say("failover.decided", { ...common(from, active), action, commandId: null, overrode: [], state, certificate });
    },
    execute: (epoch: number, [from, to]: readonly [string, string]) =>
      say("failover.executed", { ...common(from, to), epoch, decisionId: "d", appliedBy: ["router-1"], notAppliedBy: [] }),
    raw: (type: string, text: string) => publishRawToMemory(broker, `${type}.api`, text),
    async why() {
      const [shown, asJson] = [await runMcpf(bus, ["why", "api"]), await runMcpf(bus, ["why", "api", "-o", "json"])];
      assert.equal(shown.code, asJson.code);
      return { code: shown.code, text: shown.stdout, json: JSON.parse(asJson.stdout) };
    },
  };
}

test("who applied a decision is told of that decision alone: between a move and its notice nobody has told, and a hold has none", async (t) => {
  const { decide, execute, why } = await world(t);
  await decide("moved", 1, ["one", "two"]);
  await execute(1, ["one", "two"]);
  const first = await why();
  assert.deepEqual([first.code, first.json.executed.appliedBy], [0, ["router-1"]]);
  await decide("moved", 2, ["two", "one"]);
  const between = await why();
  assert.deepEqual([between.code, between.json.executed, between.json.decision.epoch], [0, null, 2]);
  assert.match(between.text, /^Moved two -> one \(epoch 2\)/);
  assert.match(between.text, /^not yet executed/m);
  assert.doesNotMatch(between.text, /router-1/);
  await execute(2, ["two", "one"]);
  assert.deepEqual((await why()).json.executed.appliedBy, ["router-1"]);
  await decide("held", 3, ["one", "one"]);
  const held = await why();
  assert.equal(held.json.executed, null);
  assert.doesNotMatch(held.text, /executed/);
});

test("a last decision that cannot be read is said with its sequence, and is never told as nothing decided; so is a refusal or a dead end", async (t) => {
  const { decide, raw, why } = await world(t);
  const nothing = await why();
  assert.deepEqual([nothing.code, nothing.json.unreadable], [0, []]);
  assert.match(nothing.text, /nothing has been decided yet/);
  raw("failover.failed", "{ torn");
  const seq = await decide("moved", 1, ["one", "two"]);
  raw("failover.rejected", "{ torn");
  const [failed, rejected] = [
    { seq: seq - 1, subject: "failover.failed.api" },
    { seq: seq + 1, subject: "failover.rejected.api" },
  ];
  const places = async (): Promise<object[]> => {
    const { code, json } = await why();
    assert.equal(code, 1);
    return json.unreadable.map(({ seq: at, subject, reason }: { seq: number; subject: string; reason: string }) => {
      assert.ok(reason.length > 0);
      return { seq: at, subject };
    });
  };
  assert.deepEqual(await places(), [rejected, failed]);
  assert.match((await why()).text, /Moved one -> two/);
  raw("failover.decided", '{ "of": "the next version" }');
  const decided = { seq: seq + 2, subject: "failover.decided.api" };
  assert.deepEqual(await places(), [decided, failed]);
  const { text, json } = await why();
  assert.match(text, new RegExp(`^#${decided.seq} failover\\.decided\\.api cannot be read \\(`));
  assert.doesNotMatch(text, /nothing has been decided|Moved|executed/);
  assert.equal(json.decision, null);
});
