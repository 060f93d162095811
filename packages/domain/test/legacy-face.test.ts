import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { chooseImplementation, legacyFaceOf } from "../src/index.ts";

const tool = (name: string, ...mcpPercents: number[]) => ({ name, mcpPercents });

test("V1: without a fallback an agent is offered what a rollback sends to legacy, and nothing that a ramp may still send to MCP", () => {
  const tools = [tool("a", 100, 0), tool("b", 5), tool("c"), tool("d", 0)];
  assert.deepEqual(legacyFaceOf({ tools, legacyMode: false, fallback: false }), { tools: ["a", "d"], inForce: false });
  assert.deepEqual(legacyFaceOf({ tools, legacyMode: false, fallback: true }), { tools: ["a", "b", "c", "d"], inForce: false });
  assert.deepEqual(legacyFaceOf({ tools, legacyMode: true, fallback: false }), { tools: ["a", "b", "c", "d"], inForce: true });
});

test("V2: a rollback is in force for whoever begins when it has every tool that has a legacy implementation, and there is one", () => {
  assert.equal(legacyFaceOf({ tools: [tool("a", 0), tool("b", 100, 0)], legacyMode: false, fallback: false }).inForce, true);
  assert.equal(legacyFaceOf({ tools: [], legacyMode: true, fallback: true }).inForce, false);
});

test("V1, V2: it agrees with where each call goes", () => {
  const percents = fc.array(fc.constantFrom(0, 1, 5, 99, 100), { maxLength: 3 });
  fc.assert(
    fc.property(
      fc.array(percents, { maxLength: 4 }),
      fc.boolean(),
      fc.array(fc.string(), { minLength: 20, maxLength: 20, size: "max" }),
      (all, legacyMode, keys) => {
        const tools = all.map((mcpPercents, index) => tool(`t${index}`, ...mcpPercents));
        const face = legacyFaceOf({ tools, legacyMode, fallback: false });
        for (const { name, mcpPercents } of tools) {
          const served = keys.map((callKey) => chooseImplementation({ hasLegacy: true, legacyMode, mcpPercents, callKey }));
          if (face.tools.includes(name)) assert.ok(served.every((one) => one === "legacy"));
          if (face.inForce) assert.ok(served.every((one) => one === "legacy"));
        }
        assert.equal(face.inForce, tools.length > 0 && face.tools.length === tools.length);
      },
    ),
  );
});
