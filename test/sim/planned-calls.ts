import type { Topology } from "@mcp-failover/contracts";
import type { PlannedCall } from "./calls.ts";
import type { Random } from "./random.ts";
import type { Schedule } from "./world-types.ts";

const secondMs = 1000;
/** Part of the calls that come in bursts, most of them where something is about to go wrong. */
const burstShare = 0.7;
const burstCalls = { min: 20, max: 120 } as const;

/** All calls of a run: a trickle, and bursts that meet the faults. */
export function planCalls(schedule: Schedule, topology: Topology, random: Random): PlannedCall[] {
  const { calls, durationMs } = schedule.world;
  const upstreams = Object.keys(topology.upstreams);
  const planned: PlannedCall[] = [];
  const callOf = (upstream: string, atMs: number): PlannedCall => {
    const config = topology.upstreams[upstream];
    if (config === undefined) throw new RangeError(`no upstream ${upstream}`);
    const tools = Object.keys(config.tools);
    const isMcp = config.kind === "mcp";
    return {
      atMs,
      upstream,
      kind: config.kind,
      method: isMcp ? "tools/call" : random.pick(["GET", "GET", "POST", "PUT"]),
      tool: isMcp && tools.length > 0 ? random.pick(tools) : null,
      agent: random.chance(0.3) ? "clerk" : null,
      deadlineMs: random.chance(0.3) ? random.pick([500, 2000, 10_000, 30_000]) : Number.POSITIVE_INFINITY,
      leavesAfterMs: random.chance(0.02) ? random.whole(5, 5000) : null,
    };
  };
  for (let left = Math.round(calls * burstShare); left > 0; ) {
    const count = Math.min(left, random.whole(burstCalls.min, burstCalls.max));
    left -= count;
    const fault = schedule.faults.length > 0 && random.chance(0.75) ? random.pick(schedule.faults) : null;
    const startMs = fault === null ? random.next() * durationMs * 0.95 : Math.max(5 * secondMs, fault.atMs - random.next() * 2 * secondMs);
    const upstream = fault?.kind === "endpoint" && random.chance(0.8) ? (fault.endpoint.split("/")[0] ?? "") : random.pick(upstreams);
    const lengthMs = random.pick([2, 10, 40]) * secondMs;
    for (let index = 0; index < count; index += 1) {
      const atMs = startMs + random.next() * lengthMs;
      planned.push(callOf(random.chance(0.9) ? upstream : random.pick(upstreams), Math.min(atMs, durationMs - secondMs)));
    }
  }
  while (planned.length < calls) planned.push(callOf(random.pick(upstreams), 5 * secondMs + random.next() * (durationMs - 6 * secondMs)));
  return planned.sort((a, b) => a.atMs - b.atMs);
}
