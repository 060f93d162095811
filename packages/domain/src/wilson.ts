/** z of the one-sided 95 % confidence level. */
const z95 = 1.6448536269514722;

/**
 * Lower bound of the one-sided 95 % Wilson score interval of a ratio: with this confidence the true ratio is above it. 0 with no calls.
 * Wilson 1927; against the plain ratio it hardly ever trips on few calls (research, "Breaker": 33 % against 0 % of runs at 2 % errors).
 */
export function wilsonLowerBound(events: number, calls: number): number {
  // Exactly 0 without events: a rounding error above it would be a ratio over a threshold of 0.
  return calls === 0 || events === 0 ? 0 : Math.max(0, bound(events, calls, -1));
}

/** The upper bound: with 95 % confidence the true ratio is below it. 1 with no calls. */
export function wilsonUpperBound(events: number, calls: number): number {
  return calls === 0 ? 1 : Math.min(1, bound(events, calls, 1));
}

function bound(events: number, calls: number, side: 1 | -1): number {
  if (!(events >= 0 && events <= calls)) throw new RangeError(`${events} of ${calls}: count at most as many events as calls`);
  const ratio = events / calls;
  const zz = z95 * z95;
  const spread = z95 * Math.sqrt((ratio * (1 - ratio)) / calls + zz / (4 * calls * calls));
  return (ratio + zz / (2 * calls) + side * spread) / (1 + zz / calls);
}
