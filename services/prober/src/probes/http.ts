import { probeCheckPolicy, type Seen } from "@mcp-failover/domain";
import { type CheckContext, type CheckFound, documentOf } from "./check.ts";
import { resultOfStatus } from "./result.ts";
import type { Wire, WireLook } from "./wire.ts";

/** So much of an answer is read where nobody looks at its body; who sends more has answered. */
const unreadBytesMax = 64 * 1024;

/**
 * Probes an HTTP API by the status of its answer. The body has to end, or to have come to its limit, in time: what sends its headers and
 * then hangs would hang callers too.
 */
export async function probeHttp(wire: Wire, context: CheckContext): Promise<CheckFound> {
  const { check, headers, fresh, deadline } = context;
  const startedMs = performance.now();
  const { expect, url, method, body } = check;
  const keepsBody = expect.some(({ of }) => of === "json" || of === "body");
  const request = { url, method, headers, fresh, signal: deadline, ...(body === null ? {} : { body }) };
  const answer = await wire.look(request, { bytesMax: keepsBody ? probeCheckPolicy.documentBytesMax : unreadBytesMax, keepsBody });
  const latencyMs = performance.now() - startedMs;
  const result = resultOfStatus(answer.status, answer.header("retry-after"), latencyMs, null);
  if (expect.length === 0) return { result, seen: {} };
  const wanted = expect.flatMap(({ name }) => (name === undefined ? [] : [name.toLowerCase()]));
  const found = wanted.flatMap((name) => {
    const value = answer.header(name);
    return value === null ? [] : [[name, value] as const];
  });
  return {
    result,
    seen: { ...(keepsBody ? bodyOf(answer) : {}), status: answer.status, latencyMs, headers: Object.fromEntries(found) },
  };
}

function bodyOf(answer: WireLook): Partial<Seen> {
  const text = new TextDecoder().decode(answer.body);
  if (answer.enough) return { body: text, jsonProblem: `a body of over ${probeCheckPolicy.documentBytesMax} bytes` };
  return { body: text, ...documentOf(text) };
}
