import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Registry } from "prom-client";
import { dataPlaneMetrics } from "../src/metrics.ts";
import { callMetrics } from "../src/observe/call-metrics.ts";
import type { CallRecord } from "../src/observe/observed-control.ts";

const upstream = fc.constantFrom("u", "v");
const endpoint = fc.constantFrom("a", "b");
const outcome = fc.constantFrom("ok" as const, "hard" as const);

async function counted(registry: Registry, name: string): Promise<Record<string, number>> {
  const found = (await registry.metrics()).matchAll(new RegExp(`^${name}_count\\{(.*)\\} (\\d+)$`, "gm"));
  return Object.fromEntries([...found].map(([, labels, count]) => [String(labels), Number(count)]));
}

test("each call is counted under its own labels, whichever came before it", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(upstream, endpoint, outcome, fc.constantFrom("s", "t", null)), { maxLength: 40, size: "max" }),
      async (calls) => {
        const registry = new Registry();
        const [measure, attempts] = [
          callMetrics(registry),
          dataPlaneMetrics(registry, { sessions: () => 0, connections: () => ({ front: 0, node: 0 }) }),
        ];
        const [ofCalls, ofAttempts, known]: [Record<string, number>, Record<string, number>, Set<string>] = [{}, {}, new Set()];
        for (const [up, name, said, tool] of calls) {
          const record: CallRecord = {
            upstream: up,
            endpoint: name,
            method: "tools/call",
            tool,
            agent: null,
            outcome: said,
            code: null,
            attempts: 1,
            tookMs: 1,
            operationId: null,
          };
          measure(record);
          attempts.call({ upstream: up, endpoint: name, outcome: said }, 1);
          const own = tool ?? "tools/call";
          if (said === "ok") known.add(`${up} ${own}`);
          const shown = known.has(`${up} ${own}`) ? own : "other";
          const ofCall = `upstream="${up}",tool="${shown}",endpoint="${name}",outcome="${said}"`;
          const ofAttempt = `upstream="${up}",endpoint="${name}",outcome="${said}"`;
          ofCalls[ofCall] = (ofCalls[ofCall] ?? 0) + 1;
          ofAttempts[ofAttempt] = (ofAttempts[ofAttempt] ?? 0) + 1;
        }
        assert.deepEqual(await counted(registry, "mcpf_router_call_seconds"), ofCalls);
        assert.deepEqual(await counted(registry, "mcpf_router_attempt_seconds"), ofAttempts);
      },
    ),
    { numRuns: 60 },
  );
});
