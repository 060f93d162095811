import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryBroker } from "@mcp-failover/bus";
import type { FailoverDecision, FailoverInput } from "@mcp-failover/domain";
import type { FencedDecider } from "@mcp-failover/service-kit";
import { testKit } from "@mcp-failover/service-kit/testing";
import { Knowledge } from "../src/knowledge.ts";
import { Performer } from "../src/perform.ts";

test("a refusal is told again a minute later for a new failure, and at once where it was told by the store's clock before that was set back", async () => {
  const nowMs = 1_800_000_000_000;
  const bus = memoryBroker().connect();
  const knowledge = new Knowledge();
  const said: unknown[] = [];
  const decider: Partial<FencedDecider> = {
    foldedSeq: () => 0,
    folded: () => ({ AUDIT: null, SIGNALS: null }),
    publish: async (type) => {
      said.push(type);
      return { outcome: "won", seq: 1, id: "e" };
    },
  };
  const performer = new Performer(testKit({ service: "failover-controller", bus, instance: "fc-1" }), decider as FencedDecider, knowledge);
  const input = { upstream: "shop", command: null, state: { epoch: 1 }, policy: {}, nowMs } as FailoverInput;
  const refused: Extract<FailoverDecision, { kind: "rejected" }> = {
    kind: "rejected",
    rule: "held",
    reason: "r",
    automatic: true,
    sinceMs: nowMs - 1000,
    rejected: [],
    targets: [],
  };
  const isTold = async (timeMs: number, more: Partial<typeof refused> = {}): Promise<boolean> => {
    knowledge.rejected.set("shop", { rule: "held", epoch: 1, timeMs });
    said.length = 0;
    await performer.rejected(input, { ...refused, ...more });
    return said.length > 0;
  };
  assert.equal(await isTold(nowMs - 60_000), true, "a new failure");
  assert.equal(await isTold(nowMs - 60_000, { sinceMs: nowMs - 120_000 }), false, "the same one");
  assert.equal(await isTold(nowMs - 59_000), false, "too soon");
  assert.equal(await isTold(nowMs + 3_600_000), true, "the clock was set back by an hour");
  assert.equal(await isTold(nowMs + 3_000), false, "another reader is a little ahead");
  await bus.close();
});
