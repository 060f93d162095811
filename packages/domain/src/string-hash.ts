/**
 * A 53-bit hash of a string (cyrb53 by bryc, public domain: two lanes of xmur3 style mixing). Spreads well and is the same on every
 * machine; not for secrets. Every prober must get the same number for the same text, so this is pinned by a test.
 */
export function hashText(text: string): number {
  let high = 0xdeadbeef;
  let low = 0x41c6ce57;
  for (let index = 0; index < text.length; index += 1) {
    const code = text.charCodeAt(index);
    high = Math.imul(high ^ code, 2654435761);
    low = Math.imul(low ^ code, 1597334677);
  }
  high = Math.imul(high ^ (high >>> 16), 2246822507) ^ Math.imul(low ^ (low >>> 13), 3266489909);
  low = Math.imul(low ^ (low >>> 16), 2246822507) ^ Math.imul(high ^ (high >>> 13), 3266489909);
  return 4294967296 * (2097151 & low) + (high >>> 0);
}

/** The hash of a text as a number from 0 up to, but not, 1. */
export function fractionOf(text: string): number {
  return hashText(text) / 2 ** 53;
}
