import { type Expectation, findJson, patternFinds } from "@mcp-failover/contracts";

/**
 * Whether what a probe saw is what the configuration expects of it.
 *
 * X1  An expectation with several demands holds only where one and the same value fulfils all of them.
 * X2  What could not be seen fulfils nothing but `exists: false`.
 * X3  A failed expectation says what was expected and what was seen, in at most 300 characters; nothing of a body but single values.
 * X4  Nothing throws, whatever a server sent.
 * X5  It takes a time in proportion to what the server sent: `matches` is no backtracking expression.
 */
export interface Seen {
  readonly status: number | null;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  /** Undefined: there is no JSON document, because of `jsonProblem`. */
  readonly json: unknown;
  readonly jsonProblem: string | null;
  readonly body: string | null;
  readonly latencyMs: number;
  /** Days until the certificate ends; null: there is none. */
  readonly certificateDays: number | null;
  readonly protocolVersion: string | null;
}

export const nothingSeen: Seen = {
  status: null,
  headers: {},
  json: undefined,
  jsonProblem: "there is no document",
  body: null,
  latencyMs: 0,
  certificateDays: null,
  protocolVersion: null,
};

const shownMax = 60;

/** Null where it holds; else a sentence: `status: expected one of 200, 204; saw 500`. Pure. */
export function failedExpectation(expectation: Expectation, seen: Seen): string | null {
  const found = valuesOf(expectation, seen);
  if (found.values.some((value) => fulfils(expectation, value))) return null;
  if (expectation.exists === false && found.values.length === 0 && (expectation.of !== "json" || seen.json !== undefined)) return null;
  const saw =
    found.values.length === 0
      ? (found.why ?? "nothing")
      : found.values
          .slice(0, 3)
          .map((value) => shown(expectation, value))
          .join(", ");
  return `${whatOf(expectation)}: expected ${demandsOf(expectation)}; saw ${saw}`.slice(0, 300);
}

function valuesOf({ of, name, path }: Expectation, seen: Seen): { readonly values: readonly unknown[]; readonly why: string | null } {
  const one = (value: unknown, why: string) =>
    value === null || value === undefined ? { values: [], why } : { values: [value], why: null };
  switch (of) {
    case "status":
      return one(seen.status, "no status");
    case "header":
      return one(seen.headers[(name ?? "").toLowerCase()], "no such header");
    case "body":
      return one(seen.body, "no body");
    case "latency_ms":
      return { values: [Math.round(seen.latencyMs)], why: null };
    case "certificate_days":
      return one(seen.certificateDays, "no certificate");
    case "protocol_version":
      return one(seen.protocolVersion, "no version");
    case "json":
      return valuesAt(path ?? "$", seen);
  }
}

function valuesAt(path: string, seen: Seen): { readonly values: readonly unknown[]; readonly why: string | null } {
  if (seen.json === undefined) return { values: [], why: seen.jsonProblem ?? "no JSON" };
  try {
    return { values: findJson(path, seen.json), why: "nothing at that path" };
  } catch {
    // X4: a document nested deeper than the library descends.
    return { values: [], why: "a document that is nested too deeply" };
  }
}

/** X1. */
function fulfils(expectation: Expectation, value: unknown): boolean {
  const { exists, equals, min, max, contains, not_contains, matches } = expectation;
  if (exists === false) return false;
  if (equals !== undefined && !isSame(value, equals)) return false;
  if (expectation.in !== undefined && !expectation.in.some((allowed) => isSame(value, allowed))) return false;
  if (min !== undefined && !(typeof value === "number" && value >= min)) return false;
  if (max !== undefined && !(typeof value === "number" && value <= max)) return false;
  const text = textOf(value);
  if (contains !== undefined && !(text?.includes(contains) ?? false)) return false;
  if (not_contains !== undefined && (text?.includes(not_contains) ?? true)) return false;
  if (matches !== undefined && !(text !== null && patternFinds(matches, text))) return false;
  return true;
}

/** A header's number is written as text, as are versions. */
function isSame(value: unknown, expected: string | number | boolean | null): boolean {
  if (value === expected) return true;
  return typeof value === "string" && typeof expected === "number" && value === String(expected);
}

function textOf(value: unknown): string | null {
  if (typeof value === "string") return value;
  return typeof value === "number" || typeof value === "boolean" ? String(value) : null;
}

function whatOf({ of, name, path }: Expectation): string {
  return of === "header" ? `header ${name}` : of === "json" ? `JSON ${path}` : of.replaceAll("_", " ");
}

function demandsOf(expectation: Expectation): string {
  const { exists, equals, min, max, contains, not_contains, matches } = expectation;
  const demands = [
    exists === undefined ? null : exists ? "that it is there" : "that it is not there",
    equals === undefined ? null : JSON.stringify(equals),
    expectation.in === undefined ? null : `one of ${expectation.in.join(", ").slice(0, 80)}`,
    contains === undefined ? null : `${JSON.stringify(contains.slice(0, shownMax))} in it`,
    not_contains === undefined ? null : `no ${JSON.stringify(not_contains.slice(0, shownMax))} in it`,
    matches === undefined ? null : `a match of /${matches.slice(0, shownMax)}/`,
    min === undefined ? null : `at least ${min}`,
    max === undefined ? null : `at most ${max}`,
  ];
  return demands.filter((demand) => demand !== null).join(" and ");
}

/** X3: of a body and of whole structures only their size and kind. */
function shown({ of }: Expectation, value: unknown): string {
  if (of === "body") return `${String(value).length} characters without it`;
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (value !== null && typeof value === "object") return `an object of ${Object.keys(value).length} fields`;
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > shownMax ? `${text.slice(0, shownMax)}…` : text;
}
