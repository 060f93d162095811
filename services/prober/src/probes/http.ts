import type { Target } from "../targets.ts";
import { hardResult, type ProbeResult, resultOfStatus } from "./result.ts";
import type { Wire } from "./wire.ts";

/** So much of an answer is read; who sends more has answered. */
const bodyBytesMax = 64 * 1024;

/**
 * Probes an HTTP API by the status of its answer. The body has to end, or to have come to 64 KiB, in time: what sends its headers and
 * then hangs would hang callers too.
 */
export async function probeHttp(
  wire: Wire,
  target: Target,
  options: { headers: Readonly<Record<string, string>>; fresh: boolean; signal: AbortSignal },
): Promise<ProbeResult> {
  const startedMs = performance.now();
  const answer = await wire.send({ url: target.url, method: target.method, ...options });
  try {
    let bytes = 0;
    for await (const chunk of answer.chunks()) {
      bytes += chunk.byteLength;
      if (bytes > bodyBytesMax) break;
    }
  } finally {
    answer.release();
  }
  if (answer.status < 200) return hardResult("malformed", `HTTP ${answer.status} is not an answer`, answer.status);
  return resultOfStatus(answer.status, answer.header("retry-after"), performance.now() - startedMs, null);
}
