import assert from "node:assert/strict";
import { test } from "node:test";
import type { Event, RollbackState } from "@mcp-failover/contracts";
import {
  type DecisionPlace,
  decideRollback,
  defaultPolicy,
  foldRollbackAudit,
  initialRollbackState,
  noRollbackAudit,
  type RollbackInput,
  rollbacksAhead,
  routersApplying,
  seenRollback,
} from "@mcp-failover/domain";
import fc from "fast-check";

const nowMs = 1_000_000_000;
const ann = { kind: "operator", id: "ann" } as const;
const none = { calls: 0, errors: 0, slow: 0 };
const key = "tool/stock";
const router = (epoch: number, id?: string) => ({
  atMs: nowMs,
  rollbacks: { [key]: epoch },
  ...(id === undefined ? {} : { rollbackIds: { [key]: id } }),
});
const fleet = (...routers: ReturnType<typeof router>[]) => ({ routers: new Map(routers.map((held, index) => [`r${index + 1}`, held])) });
const world = (state: Partial<RollbackState>, more: Partial<RollbackInput> = {}): RollbackInput => ({
  scope: "tool",
  name: "stock",
  policy: defaultPolicy.rollback,
  hasLegacy: true,
  state: { ...initialRollbackState, ...state },
  evaluations: [{ mcp: none, legacy: none }],
  samples: [none, none, none, none, none],
  step: { mcp: none, legacy: none },
  command: null,
  clock: { tilted: false },
  nowMs,
  ...more,
});

test("R8: a router that holds a higher epoch than the log gets a decision above it at once, as the log has it", () => {
  const held = (state: Partial<RollbackState>) => {
    const input = world({ epoch: 2, ...state }, { seenEpoch: 7, clock: { tilted: true } });
    const decision = decideRollback(input);
    assert.ok(decision.kind === "decided");
    assert.deepEqual([decision.rule, decision.automatic, decision.state.epoch], ["routers_ahead", true, 8]);
    assert.equal(decision.state.mcpPercent, input.state.mcpPercent);
    assert.equal(decision.state.implementation, input.state.implementation);
    return decision;
  };
  const ramp = { stepSinceMs: 5, paused: false };
  assert.equal(held({}).action, "recovered");
  assert.equal(held({ implementation: "legacy", mcpPercent: 0 }).action, "rolled_back");
  assert.equal(held({ implementation: "legacy", mcpPercent: 25, ramp: { ...ramp, paused: true } }).action, "paused");
  const going = held({ implementation: "legacy", mcpPercent: 25, ramp });
  assert.deepEqual([going.action, going.state.ramp], ["advanced", { stepSinceMs: nowMs, paused: false }]);
});

test("R8: at most once in ten seconds after a decision, because a router that makes up its epochs would fill the log", () => {
  const again = (agoMs: number) => decideRollback(world({ epoch: 2, sinceMs: nowMs - agoMs }, { seenEpoch: 7 })).rule;
  assert.deepEqual([again(9999), again(10_000), again(-3_600_000)], ["sound", "routers_ahead", "routers_ahead"]);
});

test("R8: an operator's order is above what routers hold, too; where they hold nothing else there is nothing to say again", () => {
  const command = { kind: "rollback", commandId: "c", by: { kind: "operator", id: "ann" }, reason: "r", force: true } as const;
  const decision = decideRollback(world({ epoch: 0 }, { seenEpoch: 3, command }));
  assert.ok(decision.kind === "decided");
  assert.deepEqual([decision.rule, decision.state.epoch, decision.state.mcpPercent], ["operator_forced", 4, 0]);
  for (const seenEpoch of [null, undefined]) {
    assert.equal(decideRollback(world({ epoch: 3 }, seenEpoch === undefined ? {} : { seenEpoch })).rule, "sound");
  }
});

test("R8: what the log does not know is what stands at its epoch or above and is not its own, and once decided again that is over", () => {
  const log: DecisionPlace = { epoch: 3, id: "ours" };
  assert.equal(seenRollback(fleet(router(3, "ours"), router(2, "older"), router(3)), key, log), null);
  assert.equal(seenRollback(fleet(router(3, "theirs"), router(3, "ours")), key, log), 3);
  assert.equal(seenRollback(fleet(router(4), router(9, "theirs")), key, log), 9);
  assert.equal(seenRollback(fleet(router(1, "theirs")), key, null), 1, "a log without any decision");
  assert.equal(seenRollback(fleet(router(9, "theirs")), "tool/other", log), null);
  const epochs = fc.record({ epoch: fc.integer({ min: 1, max: 5 }), id: fc.constantFrom("a", "b", undefined) });
  fc.assert(
    fc.property(fc.array(epochs, { maxLength: 4 }), fc.option(epochs), (routers, last) => {
      const heard = fleet(...routers.map(({ epoch, id }) => router(epoch, id)));
      const newest = last === null ? null : { epoch: last.epoch, id: last.id ?? "c" };
      const seenEpoch = seenRollback(heard, key, newest);
      const known = new Map(newest === null ? [] : [[key, newest]]);
      assert.equal(rollbacksAhead(heard, known).has(key), seenEpoch !== null);
      if (seenEpoch === null) return;
      const decision = decideRollback(world({ epoch: newest?.epoch ?? 0 }, { seenEpoch }));
      assert.ok(decision.kind === "decided");
      const { epoch } = decision.state;
      assert.ok(routers.every((held) => held.epoch < epoch));
      assert.equal(seenRollback(heard, key, { epoch, id: "new" }), null);
    }),
  );
});

test("R8: after an adoption whatever routers hold beside the log's decision is decided again, once", () => {
  const at = (generation: number): Event =>
    ({ type: "log.started", data: { generation, timestamp: new Date(nowMs).toISOString(), by: ann, reason: "r" } }) as Event;
  const decision = (epoch: number, id: string): Event =>
    ({ type: "rollback.decided", id, data: { scope: "tool", name: "stock", state: { ...initialRollbackState, epoch } } }) as Event;
  const audit = [at(1), decision(4, "ours")].reduce(foldRollbackAudit, noRollbackAudit);
  const newest = (of: typeof audit) => of.newest.get(key) ?? null;
  assert.equal(seenRollback(fleet(router(3, "theirs")), key, newest(audit)), null, "it will be given the log's, which is later");
  const adopted = foldRollbackAudit(audit, at(3));
  assert.equal(seenRollback(fleet(router(3, "theirs")), key, newest(adopted)), 3, "of a later generation it would never take the log's");
  assert.equal(seenRollback(fleet(router(4, "ours"), router(0)), key, newest(adopted)), null);
  assert.deepEqual([...rollbacksAhead(fleet(router(3, "theirs")), adopted.newest)], [key]);
  const again = foldRollbackAudit(adopted, decision(5, "again"));
  assert.equal(seenRollback(fleet(router(3, "theirs")), key, newest(again)), null);
});

test("a router that holds another decision of a higher epoch has not applied this one; one that has gone on in this log has", () => {
  const decision = { epoch: 2, id: "ours" };
  const heard = fleet(router(2, "ours"), router(2, "theirs"), router(3, "theirs"), router(3, "next"), router(2), router(1, "before"));
  const by = (newest: DecisionPlace | null) => routersApplying(heard, key, { decision, newest }, 1000, nowMs);
  assert.deepEqual(by(decision), { appliedBy: ["r1", "r5"], notAppliedBy: ["r2", "r3", "r4", "r6"] });
  assert.deepEqual(by({ epoch: 3, id: "next" }).appliedBy, ["r1", "r4", "r5"]);
});
