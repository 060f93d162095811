import { probeCheckPolicy, type Seen } from "@mcp-failover/domain";
import { type CheckContext, type CheckFound, documentOf } from "./check.ts";
import { hardResult, resultOfStatus } from "./result.ts";
import type { Wire, WireAnswer, WireLook } from "./wire.ts";

/** So much of an answer is read where nobody looks at its body; who sends more has answered. */
const unreadBytesMax = 64 * 1024;

/**
 * Probes an HTTP API by the status of its answer. The body has to end, or to have come to its limit, in time: what sends its headers and
 * then hangs would hang callers too.
 */
export async function probeHttp(wire: Wire, context: CheckContext): Promise<CheckFound> {
  const { check, headers, fresh, signal } = context;
  const startedMs = performance.now();
  const wantsBody = check.expect.some(({ of }) => of === "json" || of === "body");
  const { url, method } = check;
  const request = { url, method, headers, fresh, signal, ...(check.body === null ? {} : { body: check.body }) };
  let answer: WireLook;
  let seen: Partial<Seen> = {};
  if (wantsBody) {
    const whole = await wire.send(request);
    answer = whole;
    try {
      seen = await readBody(whole);
    } finally {
      whole.release();
    }
  } else answer = await wire.look(request, unreadBytesMax);
  const latencyMs = performance.now() - startedMs;
  if (answer.status < 200) return { result: hardResult("malformed", `HTTP ${answer.status} is not an answer`, answer.status), seen: {} };
  const wanted = check.expect.flatMap(({ name }) => (name === undefined ? [] : [name.toLowerCase()]));
  const found = wanted.flatMap((name) => {
    const value = answer.header(name);
    return value === null ? [] : [[name, value] as const];
  });
  return {
    result: resultOfStatus(answer.status, answer.header("retry-after"), latencyMs, null),
    seen: { ...seen, status: answer.status, latencyMs, headers: Object.fromEntries(found) },
  };
}

async function readBody(answer: WireAnswer): Promise<Partial<Seen>> {
  const decoder = new TextDecoder();
  let text = "";
  let bytes = 0;
  for await (const chunk of answer.chunks()) {
    bytes += chunk.byteLength;
    text += decoder.decode(chunk, { stream: true });
    if (bytes > probeCheckPolicy.documentBytesMax) {
      return { body: text, jsonProblem: `a body of over ${probeCheckPolicy.documentBytesMax} bytes` };
    }
  }
  return { body: text, ...documentOf(text) };
}
