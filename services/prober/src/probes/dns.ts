import { Resolver } from "node:dns/promises";
import type { CheckContext, CheckFound } from "./check.ts";
import { hardResult, okResult } from "./result.ts";

/** Codes by which a resolver answers that there is nothing, or that it will not say. */
const answered = new Set(["ENODATA", "ENOTFOUND", "EREFUSED", "ESERVFAIL", "EFORMERR", "ENOTIMP"]);

/** Longer than any probe. */
const patienceMs = 600_000;

/** Probes a name server: that it answers with records. The document for assertions is `{ answers }`, each record as a text. */
export async function probeDns({ check, signal }: CheckContext): Promise<CheckFound> {
  const { name, record, server } = check.dns ?? { name: "", record: "A", server: null };
  // Who is named is waited for as long as the probe may take, which cancels it; of the machine's resolvers the next one is asked after a while.
  const resolver = new Resolver({ tries: 1, timeout: server === null ? -1 : patienceMs });
  if (server !== null) resolver.setServers([server]);
  const cancel = (): void => resolver.cancel();
  signal.addEventListener("abort", cancel, { once: true });
  const startedMs = performance.now();
  try {
    const records: unknown = await resolver.resolve(name, record);
    const answers = (Array.isArray(records) ? records : []).map(textOf);
    const latencyMs = performance.now() - startedMs;
    const seen = { latencyMs, json: { answers }, jsonProblem: null };
    return { result: answers.length === 0 ? hardResult("dns", `no ${record} record of ${name}`) : okResult(latencyMs), seen };
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "unknown";
    if (!answered.has(code) || signal.aborted) throw error;
    return { result: hardResult("dns", `no ${record} record of ${name}: ${code}`), seen: { json: { answers: [] }, jsonProblem: null } };
  } finally {
    signal.removeEventListener("abort", cancel);
  }
}

/** MX, SRV and TXT records are structures. */
function textOf(record: unknown): string {
  if (typeof record === "string") return record;
  if (Array.isArray(record)) return record.join("");
  const { exchange, priority, name, port } = record as { exchange?: string; priority?: number; name?: string; port?: number };
  if (exchange !== undefined) return `${priority} ${exchange}`;
  return name === undefined ? JSON.stringify(record) : `${name}:${port}`;
}
