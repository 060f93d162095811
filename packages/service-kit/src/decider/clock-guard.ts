/** One reading of both clocks of this machine, in milliseconds. */
export interface ClockReading {
  readonly wallMs: number;
  readonly monotonicMs: number;
}

/**
 * What two readings of the clocks say about the time between them, of which `waitMs` was meant to be slept through.
 * `jumped`: the wall clock was set (it went back, or ran apart from the monotonic one): Redis Sentinel's TILT.
 * `paused`: this process stood still (SIGSTOP, a frozen machine): what it knows is old, but the clock is sound.
 */
export function compareClocks(before: ClockReading, now: ClockReading, gapMs: number, waitMs = 0): "even" | "jumped" | "paused" {
  const wall = now.wallMs - before.wallMs;
  const monotonic = now.monotonicMs - before.monotonicMs;
  if (wall < -gapMs || Math.abs(wall - monotonic) >= gapMs) return "jumped";
  return monotonic - waitMs >= gapMs ? "paused" : "even";
}
