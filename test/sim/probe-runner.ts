import { hardResult, type ProbeResult, resultOfStatus } from "../../services/prober/src/probes/result.ts";
import type { ProbeRunner } from "../../services/prober/src/probes/run-probe.ts";
import type { SimProcess } from "./clock.ts";
import type { Answer, Upstreams } from "./upstreams.ts";

/** What an observer that lies says; null: it tells what it saw. */
export type Lie = (key: string, isGood: boolean) => "healthy" | "unhealthy" | null;

/** As the real runner: a time-out that fires later was not the endpoint's. */
const lateMs = 250;

/** Makes probes against simulated endpoints, in place of the one that opens sockets. */
export function simProbeRunner(process: SimProcess, upstreams: Upstreams, lie: Lie, nowMs: () => number): ProbeRunner {
  const underWay = new Set<() => void>();
  return {
    probe: (target, { fresh, timeoutMs }) =>
      new Promise((resolve) => {
        const startedAtMs = nowMs();
        const startedMs = performance.now();
        const end = (result: ProbeResult): void => {
          underWay.delete(stop);
          clearTimeout(timer);
          const responseTimeMs = Math.round((performance.now() - startedMs) * 1000) / 1000;
          const lied = lie(target.key, result.outcome !== "hard");
          resolve({ kind: "made", startedAtMs, result: { ...(lied === null ? result : lies(lied)), responseTimeMs } });
        };
        const exchange = upstreams.send(process, target.key, {
          lane: "probes",
          fresh,
          connectMs: timeoutMs + 1000,
          onExecuted: null,
          onAnswer: (answer) => end(resultOf(answer, target.type === "mcp")),
        });
        const stop = (): void => {
          exchange.abort();
          clearTimeout(timer);
          resolve({ kind: "not_made", reason: "stopped", detail: "the prober stops" });
        };
        const timer = setTimeout(() => {
          exchange.abort();
          const tookMs = performance.now() - startedMs;
          if (tookMs <= timeoutMs + lateMs) return end(hardResult("timeout", `no answer within ${timeoutMs} ms`));
          underWay.delete(stop);
          resolve({ kind: "not_made", reason: "late", detail: `the time-out of ${timeoutMs} ms fired after ${Math.round(tookMs)} ms` });
        }, timeoutMs);
        underWay.add(stop);
      }),
    retain: () => undefined,
    openSessions: 0,
    async close() {
      for (const stop of [...underWay]) stop();
      underWay.clear();
    },
  };
}

function resultOf(answer: Answer, mcp: boolean): ProbeResult {
  if (answer.kind === "error") return hardResult(answer.code, `no answer: ${answer.code}`);
  return { ...resultOfStatus(answer.status, null, 0, mcp ? "modern" : null), retryAfterMs: answer.retryAfterMs };
}

function lies(as: "healthy" | "unhealthy"): ProbeResult {
  return as === "healthy" ? resultOfStatus(200, null, 0, null) : hardResult("refused", "no answer: refused");
}
