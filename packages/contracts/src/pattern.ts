import { RE2JS } from "re2js";

/** Compiled once; a configuration has far fewer. */
const keptMax = 1000;
/** Of a longer text so many characters are looked at: matching takes a time in proportion, and a probe's answer may be large. */
const patternCharsMax = 64 * 1024;
/** Steps that a pattern has: each costs its time for each character, half a second for so many and the longest text. Counted repetitions make them. */
const stepsMax = 200;
const kept = new Map<string, RE2JS>();

/** Throws what is wrong with the pattern. */
function compiled(pattern: string): RE2JS {
  const known = kept.get(pattern);
  if (known !== undefined) return known;
  const made = RE2JS.compile(RE2JS.translateRegExp(pattern));
  const steps = made.programSize();
  if (steps > stepsMax) throw new RangeError(`it has ${steps} steps, and at most ${stepsMax} may be: repeat less often, or use contains`);
  if (kept.size >= keptMax) kept.clear();
  kept.set(pattern, made);
  return made;
}

/**
 * What is wrong with a regular expression, or null. Only those are taken that are matched in a time in proportion to the text (RE2's syntax, which has no
 * look-around and no back-references): what a server answers must not be able to hold up the prober of a whole fleet, as `(a+)+$` would.
 */
export function patternProblem(pattern: string): string | null {
  try {
    compiled(pattern);
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** Whether the pattern is found anywhere in the text. Throws for a pattern of which {@link patternProblem} says one. */
export function patternFinds(pattern: string, text: string): boolean {
  return compiled(pattern).matcher(text.slice(0, patternCharsMax)).find();
}
