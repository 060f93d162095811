/** The straight line nearest to some points (least squares), and by how much the farthest is off it, as a share of the largest value. */
export function lineThrough(points: readonly (readonly [number, number])[]): { fixed: number; slope: number; departure: number } {
  const meanOf = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
  const x = meanOf(points.map(([at]) => at));
  const y = meanOf(points.map(([, value]) => value));
  const slope = points.reduce((sum, [at, value]) => sum + (at - x) * (value - y), 0) / points.reduce((sum, [at]) => sum + (at - x) ** 2, 0);
  const fixed = y - slope * x;
  const largest = Math.max(...points.map(([, value]) => value));
  return { fixed, slope, departure: Math.max(...points.map(([at, value]) => Math.abs(value - fixed - slope * at))) / largest };
}
