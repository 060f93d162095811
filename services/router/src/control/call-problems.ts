import { legacyPlaces } from "./legacy-places.ts";
import type { CallProblem } from "./port.ts";

export const deadlineProblem: CallProblem = { code: "deadline", message: "the time for the call was over", retriable: true };
export const sessionLostProblem: CallProblem = {
  code: "session_lost",
  message: "the endpoint that holds the session is gone, and the session must not move: begin a new one",
  retriable: false,
};

/**
 * What goes on with a call that no server took is not to be begun anew by itself (R14): a new call may run where nobody asks again. One that was
 * refused under the limits is, as it is.
 */
export function goesOnProblem(problem: CallProblem): CallProblem {
  if (problem.code === "outcome_unknown" || problem.code === "overloaded") return problem;
  const message = `the server that asked was lost, and what was answered is with nobody: what the call has done before is not known (${problem.message})`;
  return { code: "outcome_unknown", message, retriable: false };
}

/** No connection to the legacy API was free in time. */
export function noPlaceProblem(tool: string): CallProblem {
  const message = `the legacy API of ${tool} has as many calls under way and waiting as it may have; the call was not sent`;
  return { code: "overloaded", message, retriable: true, retryAfterMs: legacyPlaces.queueMsMax, httpStatus: 503 };
}

/** Why a call of this upstream is not sent again after a failure. */
export function problemOf(upstream: string, rule: "outcome_unknown" | "deadline" | "budget", last: string): CallProblem {
  if (rule === "outcome_unknown") {
    const message = `the call to ${upstream} was sent and may have run (${last}); look whether it did before you send it again`;
    return { code: "outcome_unknown", message, retriable: false };
  }
  if (rule === "deadline") return { ...deadlineProblem, message: `${deadlineProblem.message} (${last})` };
  return {
    code: "budget",
    message: `${upstream} fails, and too many calls were sent again already (${last}); try again later`,
    retriable: true,
  };
}
