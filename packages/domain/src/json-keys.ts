/**
 * Readers of JSON disagree on keys that come twice (RFC 8259, 4: "unpredictable"), and some take `Name` for `name`. Where a decision hangs
 * on a message whose bytes go on as they came, such a message could be one call here and another one there.
 *
 * J2  Text that is nested deeper than a limit is known as such before anything walks through what it means: to write such a value as text again
 *     would end the stack.
 * J1  True for every valid JSON text in which one of `keys` stands more than once, in any case of letters or escaped, or once in letters of
 *     another case, in the top object or in the object of its key `params`; false for every other one.
 */
export function hasAmbiguousKeys(text: string, keys: ReadonlySet<string>): boolean {
  let depth = 0;
  /** Objects that are looked at by depth: the top one, and that of `params`. */
  const seen: (Set<string> | null)[] = [];
  let key = "";
  let expectsKey = false;
  for (let at = 0; at < text.length; at++) {
    const char = text[at];
    if (char === '"') {
      const from = at;
      for (at++; text[at] !== '"' && at < text.length; at++) if (text[at] === "\\") at++;
      const inside = seen[depth];
      if (!expectsKey || inside === undefined || inside === null) continue;
      expectsKey = false;
      const name = nameOf(text.slice(from, at + 1));
      // Upper case first: some letters that are no ASCII become one so ('ſ' an S), and readers that take `Name` for `name` know that.
      key = name.toUpperCase().toLowerCase();
      if (!keys.has(key)) continue;
      if (name !== key || inside.has(key)) return true;
      inside.add(key);
    } else if (char === "{" || char === "[") {
      depth++;
      const looked = char === "{" && (depth === 1 || (depth === 2 && key === "params"));
      seen[depth] = looked ? new Set() : null;
      expectsKey = looked;
    } else if (char === "}" || char === "]") {
      depth--;
      expectsKey = false;
    } else if (char === ",") {
      const looked = seen[depth] !== null && seen[depth] !== undefined;
      expectsKey = looked;
      if (looked) key = "";
    }
  }
  return false;
}

function nameOf(literal: string): string {
  try {
    return JSON.parse(literal) as string;
  } catch {
    // No JSON: whoever reads the whole text says so.
    return "";
  }
}

/** Whether arrays and objects of the text are nested deeper than `depthMax` (J2). */
export function isDeeperThan(text: string, depthMax: number): boolean {
  if (text.length <= depthMax) return false;
  let depth = 0;
  for (let at = 0; at < text.length; at++) {
    const char = text.charCodeAt(at);
    if (char === 0x22) {
      for (at++; at < text.length && text.charCodeAt(at) !== 0x22; at++) if (text.charCodeAt(at) === 0x5c) at++;
    } else if (char === 0x5b || char === 0x7b) {
      depth++;
      if (depth > depthMax) return true;
    } else if (char === 0x5d || char === 0x7d) depth--;
  }
  return false;
}
