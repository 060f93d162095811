import type { RouterControl } from "../control/port.ts";
import type { StdioBridge } from "./bridge.ts";

/** Shorter than the time-out of a prober, so that the reason is heard. */
const answerMs = 3000;

/**
 * `/probe/<upstream>/<endpoint>`: how a prober looks at a process that only its router can reach. 200 when a process of the endpoint answers,
 * 503 with the reason when none does. `/probe/<upstream>/<endpoint>/memory`: what its processes use (`StdioMemory`). Null for other paths, and for what is
 * no process of this router.
 */
export async function probeAnswer(
  path: string,
  control: Pick<RouterControl, "upstream">,
  stdio: Pick<StdioBridge, "probe" | "memory">,
): Promise<{ status: number; type: string; body: string } | null> {
  const [, face, upstream, name, what, ...rest] = path.split("/");
  if (face !== "probe" || upstream === undefined || rest.length > 0 || (what !== undefined && what !== "memory")) return null;
  const endpoint = control.upstream(upstream)?.endpoints.find((one) => one.name === name);
  if (endpoint?.via?.kind !== "stdio") return null;
  const answer = (status: number, more: object) => ({
    status,
    type: "application/json",
    body: JSON.stringify({ upstream, endpoint: name, ...more }),
  });
  if (what === "memory") return answer(200, await stdio.memory(endpoint.url));
  const probed = await (stdio.probe(endpoint.url, answerMs) ?? Promise.resolve({ ok: false, reason: "not started yet", tookMs: 0 }));
  return answer(probed.ok ? 200 : 503, probed);
}
