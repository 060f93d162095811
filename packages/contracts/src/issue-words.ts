import type { z } from "zod";

type Issue = Parameters<z.core.$ZodErrorMap>[0];

/** How people call what zod expects. */
const nouns: Readonly<Record<string, string>> = {
  string: "text",
  number: "a number",
  int: "a whole number",
  boolean: "true or false",
  array: "a list",
  tuple: "a list",
  object: "a mapping (key: value)",
  record: "a mapping (key: value)",
};

/**
 * What to write instead, in words for people. For `safeParse(value, { error: fixOf })`: a schema that has words of its own keeps them. It quotes
 * nothing of what was found, which may be a secret.
 */
export function fixOf(issue: Issue): string {
  switch (issue.code) {
    case "invalid_type":
      return `give ${nouns[issue.expected] ?? `a ${issue.expected}`}`;
    case "too_small":
    case "too_big": {
      const isSmall = issue.code === "too_small";
      const limit = String(isSmall ? issue["minimum"] : issue["maximum"]);
      if (isSmall && limit === "1" && issue.origin === "string") return "it is empty; give a text";
      const [atLimit, beyond] = isSmall ? ["at least", "more than"] : ["at most", "less than"];
      const unit = issue.origin === "string" ? " characters" : issue.origin === "array" ? " of them" : "";
      return `give ${issue.inclusive === false ? beyond : atLimit} ${limit}${unit}`;
    }
    case "invalid_value":
      return `give ${oneOf(issue.values)}`;
    case "invalid_format":
      return issue.format === "datetime"
        ? "give a time as 2026-03-01T02:00:00Z"
        : `it does not have the form of its kind (${issue.format})`;
    case "not_multiple_of":
      return `give a multiple of ${issue.divisor}`;
    case "unrecognized_keys":
      return `unknown key ${issue.keys.map((key) => JSON.stringify(key)).join(", ")}; remove it or correct its spelling`;
    case "invalid_union": {
      if ("options" in issue && Array.isArray(issue["options"])) return `give ${oneOf(issue["options"])}`;
      const ways = issue.errors.flatMap((errors) => errors.filter(({ path }) => path.length === 0).map(({ message }) => message));
      return [...new Set(ways)].join(", or ") || "it is of none of the kinds that it may be";
    }
    default:
      return "it cannot be this";
  }
}

/** The same for what is not shown beside it: the body of a request, an event, the environment. */
export function requestFixOf(issue: Issue): string {
  const fix = fixOf(issue);
  return issue.input === undefined && issue.code !== "unrecognized_keys" ? `it is missing; ${fix}` : fix;
}

function oneOf(values: readonly unknown[]): string {
  const words = values.map(String);
  return words.length === 1 ? String(words[0]) : `one of ${words.join(", ")}`;
}
