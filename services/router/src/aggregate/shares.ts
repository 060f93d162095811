/**
 * What has to go when an agent's things and those of others are too many together: the first that may, of the agent that has the most. So one
 * that takes all there is takes it from itself.
 */
export function oldestOfMost<T>(all: Iterable<T>, agentOf: (one: T) => string, mayGo: (one: T) => boolean): T | undefined {
  const shares = new Map<string, { count: number; oldest: T | undefined }>();
  for (const one of all) {
    const agent = agentOf(one);
    const share = shares.get(agent) ?? { count: 0, oldest: undefined };
    share.count += 1;
    if (share.oldest === undefined && mayGo(one)) share.oldest = one;
    shares.set(agent, share);
  }
  let most: { readonly count: number; readonly oldest: T | undefined } = { count: 0, oldest: undefined };
  for (const share of shares.values()) if (share.oldest !== undefined && share.count > most.count) most = share;
  return most.oldest;
}
