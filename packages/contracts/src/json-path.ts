import { FunctionExpressionType, JSONPathEnvironment, type JSONValue } from "json-p3";
import { patternFinds } from "./pattern.ts";

/**
 * JSONPath as RFC 9535 defines it. The library evaluates no code of the path, has no dependencies, and passes the standard's own test suite.
 * Depth is bounded, so that a document made for the purpose cannot exhaust the stack; and `match` and `search` take a time in proportion to the text,
 * as {@link patternFinds} does: the library's own take one that doubles with each character of what an endpoint answers.
 */
const environment = new JSONPathEnvironment({ strict: true, maxRecursionDepth: 50 });
const foundMax = 1000;
for (const [name, around] of [
  ["match", (pattern: string) => `^(?:${pattern})$`],
  ["search", (pattern: string) => pattern],
] as const) {
  environment.functionRegister.set(name, {
    argTypes: [FunctionExpressionType.ValueType, FunctionExpressionType.ValueType],
    returnType: FunctionExpressionType.LogicalType,
    call: (text: unknown, pattern: unknown) =>
      typeof text === "string" && typeof pattern === "string" && finds(around(asRe2(pattern)), text),
  });
}

/** What is no pattern fits nothing (RFC 9535, 2.4.6). */
function finds(pattern: string, text: string): boolean {
  try {
    return patternFinds(pattern, text);
  } catch {
    return false;
  }
}

/** In an I-Regexp the dot is neither of the line ends (RFC 9485, 5.3). */
function asRe2(pattern: string): string {
  return pattern.replace(/\\.|\[(?:\\.|[^\]\\])*\]|\./gsu, (part) => (part === "." ? "[^\\n\\r]" : part));
}

/** Why a text is no JSONPath, in a few words; null: it is one. */
export function jsonPathProblem(path: string): string | null {
  try {
    environment.compile(path);
    return null;
  } catch (error) {
    return error instanceof Error ? error.message.slice(0, 160) : "it cannot be read";
  }
}

const quotedText = /'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"/gsu;
/** A query from the root that finds more than one value: after names and indexes comes something else. */
const manyOfRoot = /\$(?:\.[^\s.[\]*()=<>!&|,?]+|\[(?:''|-?\d+)\])*(?:\.\.|\.\*|\[(?!(?:''|-?\d+)\]))/u;

/**
 * Whether a filter of a path looks through the document for each value that it judges. That takes a time with the square of its size: ten seconds for
 * 500 small objects, in which a prober does nothing else.
 */
export function isQuadratic(path: string): boolean {
  return manyOfRoot.test(path.slice(1).replace(quotedText, "''"));
}

/** The values that a path finds in a document, at most a thousand. Throws what the library throws of a path that is none. */
export function findJson(path: string, document: unknown): unknown[] {
  const found: unknown[] = [];
  for (const node of environment.compile(path).lazyQuery(document as JSONValue)) {
    if (found.length >= foundMax) break;
    found.push(node.value);
  }
  return found;
}
