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

/** W2. */
function covers(window: MaintenanceWindow, upstream: string, endpoint: string | null): boolean {
  if (window.upstreams === undefined && window.endpoints === undefined) return true;
  if (window.upstreams?.includes(upstream)) return true;
  return endpoint !== null && (window.endpoints?.includes(`${upstream}/${endpoint}`) ?? false);
}

/** When the window that holds now ends; null: it does not hold (W1, W3). */
function holdsUntilMs({ from, until, daily, weekly }: MaintenanceWindow, nowMs: number): number | null {
  if (from !== undefined && until !== undefined) {
    const endMs = Date.parse(until);
    return Date.parse(from) <= nowMs && nowMs < endMs ? endMs : null;
  }
  const repeated = daily ?? weekly;
  if (repeated === undefined) return null;
  const today = Math.floor(nowMs / dayMs);
  // The newest beginning first: it ends last.
  for (let day = today; day >= today - Math.ceil(repeated.for_ms / dayMs); day -= 1) {
    if (weekly !== undefined && !weekly.days.includes(weekdays[((day % 7) + 7) % 7] as Weekday)) continue;
    const beginMs = day * dayMs + minuteOf(repeated.at) * minuteMs;
    if (beginMs <= nowMs && nowMs < beginMs + repeated.for_ms) return beginMs + repeated.for_ms;
  }
  return null;
}

function minuteOf(at: string): number {
  return Number(at.slice(0, 2)) * 60 + Number(at.slice(3, 5));
}
