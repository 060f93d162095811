import type { MaintenanceWindow, Topology, Weekday } from "@mcp-failover/contracts";

/**
 * Whether planned work is under way.
 *
 * W1  A window holds from its beginning, inclusive, to its end, exclusive; outside of it there is no maintenance.
 * W2  A window that names endpoints holds for these alone; one that names upstreams for all of their endpoints; one that names neither
 *     for everything. An upstream is in maintenance itself only by a window that holds for all of it.
 * W3  Daily and weekly windows begin by UTC, so that no change of clocks moves or repeats them; they may run over midnight and the week's end.
 * W4  Where several hold, the one that ends last is named. Of overlapping days of one window the last to end counts too.
 * W5  Nothing is read but the arguments.
 * W6  Maintenance that has ended ended last when the last of its windows did.
 */
export interface Maintenance {
  readonly name: string;
  readonly reason: string;
  readonly untilMs: number;
}

const minuteMs = 60_000;
const dayMs = 86_400_000;
/** Day 0 of Unix time was a Thursday. */
const weekdays: readonly Weekday[] = ["thu", "fri", "sat", "sun", "mon", "tue", "wed"];

/** The maintenance that an endpoint, or with `null` a whole upstream, is in (W1 to W5). Pure. */
export function maintenanceAt(
  topology: Pick<Topology, "maintenance">,
  upstream: string,
  endpoint: string | null,
  nowMs: number,
): Maintenance | null {
  let longest: Maintenance | null = null;
  for (const window of topology.maintenance ?? []) {
    if (!covers(window, upstream, endpoint)) continue;
    const untilMs = holdsUntilMs(window, nowMs);
    if (untilMs === null || untilMs <= (longest?.untilMs ?? 0)) continue;
    longest = { name: window.name, reason: window.reason, untilMs };
  }
  return longest;
}

/** When the last window that held for an endpoint, or with `null` for a whole upstream, ended, in milliseconds; null: none has (W1 to W6). Pure. */
export function maintenanceEndedMs(
  topology: Pick<Topology, "maintenance">,
  upstream: string,
  endpoint: string | null,
  nowMs: number,
): number | null {
  let lastMs: number | null = null;
  for (const window of topology.maintenance ?? []) {
    if (!covers(window, upstream, endpoint)) continue;
    const endMs = endedMs(window, nowMs);
    if (endMs !== null && endMs > (lastMs ?? Number.NEGATIVE_INFINITY)) lastMs = endMs;
  }
  return lastMs;
}

/** W2. */
function covers(window: MaintenanceWindow, upstream: string, endpoint: string | null): boolean {
  if (window.upstreams === undefined && window.endpoints === undefined) return true;
  if (window.upstreams?.includes(upstream)) return true;
  return endpoint !== null && (window.endpoints?.includes(`${upstream}/${endpoint}`) ?? false);
}

interface Span {
  readonly beginMs: number;
  readonly endMs: number;
}

/** When the window that holds now ends; null: it does not hold (W1, W3). */
function holdsUntilMs(window: MaintenanceWindow, nowMs: number): number | null {
  for (const { beginMs, endMs } of spansBefore(window, nowMs)) if (beginMs <= nowMs && nowMs < endMs) return endMs;
  return null;
}

/** When the window ended last; null: it has not (W1, W3). */
function endedMs(window: MaintenanceWindow, nowMs: number): number | null {
  for (const { endMs } of spansBefore(window, nowMs)) if (endMs <= nowMs) return endMs;
  return null;
}

/** A window's times that may hold now or have ended last, those first that end last. */
function* spansBefore({ from, until, daily, weekly }: MaintenanceWindow, nowMs: number): Generator<Span> {
  if (from !== undefined && until !== undefined) yield { beginMs: Date.parse(from), endMs: Date.parse(until) };
  const repeated = daily ?? weekly;
  if (repeated === undefined) return;
  const today = Math.floor(nowMs / dayMs);
  // Back to the beginning of what ended a whole round ago.
  const rounds = Math.ceil(repeated.for_ms / dayMs) + (daily === undefined ? 7 : 1);
  for (let day = today; day >= today - rounds; day -= 1) {
    if (weekly !== undefined && !weekly.days.includes(weekdays[((day % 7) + 7) % 7] as Weekday)) continue;
    const beginMs = day * dayMs + minuteOf(repeated.at) * minuteMs;
    yield { beginMs, endMs: beginMs + repeated.for_ms };
  }
}

function minuteOf(at: string): number {
  return Number(at.slice(0, 2)) * 60 + Number(at.slice(3, 5));
}
