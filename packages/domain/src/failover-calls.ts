import { endpointKey } from "@mcp-failover/contracts";
import type { Evidence, WeighedVote } from "./evidence.ts";
import type { RouterCalls } from "./failover-verify.ts";
import type { FailoverPolicy } from "./policy.ts";
import { wilsonLowerBound } from "./wilson.ts";

/**
 * Whether calls fail at an endpoint, whatever probes say of it (ADR 7): a question of its own, with its own electorate. F19 of `failover.ts`.
 *
 * N1  The electorate are the routers that made at least `verifyFailures` calls there in the last 30 s under the route in force. Probers
 *     have no vote on it, and one router alone has none either.
 * N2  A router says so when its last calls failed hard, `verifyFailures` in a row, three at least, or beyond the breaker's ratio (Wilson),
 *     and its word is fresh: as every word that may move something. One that is suspect, or silent by now, counts in the electorate and
 *     says nothing. One that was not heard of since another's calls began to fail (in these 30 s, whatever was answered between) says
 *     nothing either: a router that restarts under another name is one router.
 * N3  Calls fail where a strict majority of the electorate, and at least two of it, say so.
 */
export type CallsHeard = Record<string, RouterCalls[]>;

/** The breaker's window (Polly, Finagle: 30 s). */
const callsWindowMs = 30_000;
const routersMax = 20;
/** A move costs sessions and a verification: an operator who lets a breaker open after one or two failures does not ask for that. */
const runMin = 3;

export interface CallsContext {
  readonly policy: Pick<FailoverPolicy, "verifyFailures" | "verifyCallsMin" | "verifyRatio">;
  readonly calls?: CallsHeard;
}

/** Why calls fail at an endpoint, by the routers whose `words` against it may move something; null: nothing says so (N1 to N3). */
export function judgeCalls(endpoint: string, { policy, calls }: CallsContext, words: readonly WeighedVote[]): string | null {
  const speaking = (calls?.[endpoint] ?? []).filter(({ ok, hard }) => ok + hard >= policy.verifyFailures);
  const sinceMs = new Map(
    words
      .filter(({ kind, verdict }) => kind === "router" && verdict === "unhealthy")
      .map((word) => [word.observer, word.hardSinceMs ?? word.atMs]),
  );
  const failing = speaking.filter((router) => sinceMs.has(router.router) && isFailing(router, policy));
  // Inputs of before know no more than when the present run of failures began.
  const lastBegunMs = Math.max(...failing.map(({ router, failingSinceMs }) => failingSinceMs ?? sinceMs.get(router) ?? 0));
  const against = failing.filter(({ heardAtMs }) => heardAtMs === undefined || heardAtMs >= lastBegunMs);
  if (against.length < 2 || against.length * 2 <= speaking.length) return null;
  const sum = (of: (router: RouterCalls) => number): number => against.reduce((all, router) => all + of(router), 0);
  const hard = sum((router) => router.hard);
  const names = against.map(({ router }) => `router:${router}`).join(", ");
  return `calls fail there, whatever probes say: ${hard} of ${hard + sum((router) => router.ok)} of ${against.length} of the ${speaking.length} routers that call it (${names})`;
}

function isFailing({ ok, hard, run }: RouterCalls, policy: CallsContext["policy"]): boolean {
  const calls = ok + hard;
  return (
    run >= Math.max(runMin, policy.verifyFailures) || (calls >= policy.verifyCallsMin && wilsonLowerBound(hard, calls) > policy.verifyRatio)
  );
}

/** How the calls of each router to an endpoint ended lately under the route in force (N1); of more than 20 routers those with the most calls. */
export function callsOn(
  evidence: Evidence,
  upstream: string,
  endpoint: string,
  route: { readonly generation: number; readonly epoch: number },
  nowMs: number,
): RouterCalls[] {
  const heard: RouterCalls[] = [];
  for (const { kind, observer, seconds } of evidence.words.get(endpointKey(upstream, endpoint))?.values() ?? []) {
    if (kind !== "router" || seconds.length === 0) continue;
    const calls: RouterCalls = { router: observer, ok: 0, hard: 0, run: 0, heardAtMs: evidence.routers.get(observer)?.atMs ?? 0 };
    for (const { atMs, generation, epoch, alive, hard, tail, failedAtMs } of seconds) {
      if (nowMs - atMs > callsWindowMs || generation !== route.generation || epoch !== route.epoch) continue;
      calls.ok += alive;
      calls.hard += hard;
      calls.run = alive > 0 ? tail : calls.run + hard;
      if (failedAtMs !== null) calls.failingSinceMs ??= failedAtMs;
    }
    if (calls.ok + calls.hard > 0) heard.push(calls);
  }
  const size = ({ ok, hard }: RouterCalls): number => ok + hard;
  return heard.sort((a, b) => size(b) - size(a) || (a.router < b.router ? -1 : 1)).slice(0, routersMax);
}
