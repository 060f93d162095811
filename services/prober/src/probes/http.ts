import { probeCheckPolicy, type Seen } from "@mcp-failover/domain";
import { type CheckContext, type CheckFound, documentOf } from "./check.ts";
import { resultOfStatus } from "./result.ts";
import { isCoded, type Wire, type WireLook } from "./wire.ts";

/** So much of an answer is read where nobody looks at its body; who sends more has answered. */
const unread = { bytesMax: 64 * 1024, keepsBody: false };
const nothingElse = {};
const isOfBody = ({ of }: CheckContext["check"]["expect"][number]): boolean => of === "json" || of === "body";

/**
 * Probes an HTTP API by the status of its answer. The body has to end, or to have come to its limit, in time: what sends its headers and
 * then hangs would hang callers too.
 */
export async function probeHttp(wire: Wire, context: Pick<CheckContext, "check" | "headers" | "fresh" | "deadline">): Promise<CheckFound> {
  const { check, headers, fresh, deadline } = context;
  const { expect, url, method, body } = check;
  const keepsBody = expect.some(isOfBody);
  const startedMs = performance.now();
  const answer = await wire.look(
    { url, method, headers, tls: check.tls, fresh, signal: deadline, body: body ?? undefined },
    keepsBody ? { bytesMax: probeCheckPolicy.documentBytesMax, keepsBody } : unread,
  );
  const latencyMs = performance.now() - startedMs;
  const result = resultOfStatus(answer.status, answer.status < 400 ? null : answer.header("retry-after"), latencyMs, null);
  if (expect.length === 0) return { result, seen: nothingElse };
  const wanted = expect.flatMap(({ name }) => (name === undefined ? [] : [name.toLowerCase()]));
  const found = wanted.flatMap((name) => {
    const value = answer.header(name);
    return value === null ? [] : [[name, value] as const];
  });
  return {
    result,
    isCut: answer.enough,
    seen: { ...(keepsBody ? bodyOf(answer) : {}), status: answer.status, latencyMs, headers: Object.fromEntries(found) },
  };
}

function bodyOf(answer: WireLook): Partial<Seen> {
  const text = new TextDecoder().decode(answer.body);
  if (answer.enough) return { body: text, jsonProblem: `a body of over ${probeCheckPolicy.documentBytesMax} bytes` };
  if (isCoded(answer)) return { body: text, jsonProblem: "a body that is compressed, which was not asked for" };
  return { body: text, ...documentOf(text) };
}
