import { endpointKey, type RouteHeld, type TrafficEndpoint } from "@mcp-failover/contracts";
import type { Evidence } from "./evidence.ts";
import type { RouterCalls, TrafficSlice } from "./failover-verify.ts";

/** Calls of one router to one endpoint in one second, under one route. */
export interface TrafficSecond {
  readonly atMs: number;
  readonly generation: number;
  readonly epoch: number;
  /** Ended with an answer of something alive. */
  readonly alive: number;
  readonly hard: number;
  /** Hard failures after the last answer. */
  readonly tail: number;
  /** When the first of the hard ones was stored; null: none failed. */
  readonly failedAtMs: number | null;
}

/** Calls are remembered for so long, for the verification of moves. */
const secondsKept = 60;
const secondMs = 1000;

/** The seconds of one router and endpoint with one more window in them. Nothing is altered. */
export function secondsAfter(
  seconds: readonly TrafficSecond[],
  { hard, hardRunTail }: TrafficEndpoint,
  alive: number,
  route: RouteHeld | undefined,
  timeMs: number,
): readonly TrafficSecond[] {
  if (alive + hard === 0) return seconds;
  const atMs = Math.floor(timeMs / secondMs) * secondMs;
  const { generation, epoch } = route ?? { generation: 0, epoch: -1 };
  const last = seconds.at(-1);
  const goesOn = last !== undefined && last.atMs === atMs && last.generation === generation && last.epoch === epoch;
  const tail = alive > 0 ? hardRunTail : hard + (goesOn ? last.tail : 0);
  const failedAtMs = (goesOn ? last.failedAtMs : null) ?? (hard > 0 ? timeMs : null);
  const before = goesOn ? last : { alive: 0, hard: 0 };
  const next = { atMs, generation, epoch, alive: alive + before.alive, hard: hard + before.hard, tail, failedAtMs };
  const kept = goesOn ? seconds.slice(0, -1) : seconds.slice(1 - secondsKept);
  return [...kept.filter((one) => atMs - one.atMs < secondsKept * secondMs), next];
}

const routersMax = 20;

/**
 * How calls ended at these endpoints together: by router since a route came into force (with the hard failures in a row at the end), and of
 * all routers in the last `windowMs`. Of more than 20 routers those with the most calls.
 */
export function trafficOn(
  evidence: Evidence,
  upstream: string,
  endpoints: readonly string[],
  since: { readonly generation: number; readonly epoch: number; readonly windowMs: number },
  nowMs: number,
): TrafficSlice {
  const byRouter = new Map<string, RouterCalls>();
  const before = { ok: 0, hard: 0 };
  for (const endpoint of endpoints) {
    for (const { kind, observer, seconds } of evidence.words.get(endpointKey(upstream, endpoint))?.values() ?? []) {
      if (kind !== "router") continue;
      for (const { atMs, generation, epoch, alive, hard, tail } of seconds) {
        if (nowMs - atMs > since.windowMs + secondMs) continue;
        before.ok += alive;
        before.hard += hard;
        if (generation !== since.generation || epoch < since.epoch) continue;
        const calls = byRouter.get(observer) ?? { router: observer, ok: 0, hard: 0, run: 0 };
        byRouter.set(observer, calls);
        calls.ok += alive;
        calls.hard += hard;
        calls.run = alive > 0 ? tail : calls.run + hard;
      }
    }
  }
  const size = ({ ok, hard }: RouterCalls): number => ok + hard;
  const after = [...byRouter.values()].sort((a, b) => size(b) - size(a) || (a.router < b.router ? -1 : 1)).slice(0, routersMax);
  return { after, before };
}
