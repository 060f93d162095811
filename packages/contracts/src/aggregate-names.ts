/** Between the name of an upstream and that of its tool, where `router.aggregate` says nothing else. */
export const separatorDefault = "__";

/** The upstream for whose tools those of `name` could be taken, or null: `a` with a tool `_b` reads like `a_` with a tool `b`. */
export function ambiguousWith(name: string, others: readonly string[], separator: string): string | null {
  return others.find((other) => other !== name && (name + separator).startsWith(other + separator)) ?? null;
}
