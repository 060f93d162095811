import { JSONPathEnvironment, type JSONValue } from "json-p3";

/**
 * JSONPath as RFC 9535 defines it. The library evaluates no code of the path, has no dependencies, and passes the standard's own test suite.
 * Depth is bounded, so that a document made for the purpose cannot exhaust the stack.
 */
const environment = new JSONPathEnvironment({ strict: true, maxRecursionDepth: 50 });
const foundMax = 1000;

/** Why a text is no JSONPath, in a few words; null: it is one. */
export function jsonPathProblem(path: string): string | null {
  try {
    environment.compile(path);
    return null;
  } catch (error) {
    return error instanceof Error ? error.message.slice(0, 160) : "it cannot be read";
  }
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
