import type { FailureCode, ProbeCheck } from "@mcp-failover/contracts";
import { failedExpectation, nothingSeen, type Seen } from "@mcp-failover/domain";
import { okResult, type ProbeResult } from "./result.ts";

type Result = ProbeResult & { readonly responseTimeMs: number };

const codeOf: Partial<Record<ProbeCheck["expect"][number]["of"], FailureCode>> = { latency_ms: "other", certificate_days: "tls" };

/**
 * What assertions make of a result. What is down, refuses credentials or limits the rate stays so; an expected status is well whatever it
 * would be otherwise. The first failed assertion is told, a hard one before others.
 */
export function withExpectations<R extends ProbeResult>(
  result: R,
  seen: Partial<Seen>,
  expect: ProbeCheck["expect"],
  redact: (text: string) => string,
): R {
  if (expect.length === 0) return result;
  const whole = { ...nothingSeen, ...seen };
  const statuses = expect.filter(({ of }) => of === "status");
  const isExpected =
    seen.status !== null &&
    seen.status !== undefined &&
    statuses.length > 0 &&
    statuses.every((one) => failedExpectation(one, whole) === null);
  const judged = isExpected && result.outcome !== "ok" ? { ...result, ...answeredAs(result) } : result;
  if (judged.outcome === "hard" || judged.outcome === "auth" || judged.outcome === "soft") return judged;
  const failed = expect.flatMap((expectation) => {
    const why = failedExpectation(expectation, whole);
    return why === null ? [] : [{ expectation, why: redact(why) }];
  });
  const hard = failed.find(({ expectation }) => expectation.severity === "hard");
  if (hard !== undefined) return { ...judged, outcome: "hard", code: codeOf[hard.expectation.of] ?? "malformed", error: hard.why };
  const [first] = failed;
  if (first === undefined || judged.degraded !== undefined) return judged;
  const code = first.expectation.of === "certificate_days" ? "certificate" : "assertion";
  return { ...judged, degraded: { code, detail: first.why } };
}

function answeredAs({ httpStatus, era, responseTimeMs }: ProbeResult): Partial<ProbeResult> {
  return { ...okResult(responseTimeMs), httpStatus, era };
}

const rank = { hard: 4, auth: 3, soft: 2, caller: 1, ok: 0 } as const;

/** One result of the main check and the further ones: the worst counts, and is named by its type. */
export function worstOf(main: Result, further: readonly { readonly check: ProbeCheck; readonly result: ProbeResult }[]): Result {
  let worst = main;
  for (const { check, result } of further) {
    const named = `${check.type} check: ${result.error ?? result.degraded?.detail ?? ""}`.slice(0, 300);
    const isBad = rank[result.outcome] > rank.caller;
    if (isBad && check.severity === "hard" && rank[result.outcome] > rank[worst.outcome]) {
      const { outcome, code, httpStatus, retryAfterMs } = result;
      worst = { ...worst, outcome, code, httpStatus, retryAfterMs, error: named };
    } else if (worst.degraded === undefined && (isBad || result.degraded !== undefined)) {
      worst = { ...worst, degraded: { code: result.degraded?.code ?? "assertion", detail: named } };
    }
  }
  return worst;
}
