import type { AttemptResult } from "../control/port.ts";
import type { CallAnswer } from "./call-answer.ts";

/** How one attempt ended: the client has its answer, or what it gets unless another attempt is made. */
export type Tried =
  | { readonly kind: "answered"; readonly told: AttemptResult }
  | { readonly kind: "not_answered"; readonly told: AttemptResult; readonly giveUp: ((answer: CallAnswer) => void) | null };

type HardResult = Extract<AttemptResult, { outcome: "hard" }>;

export function hard(code: HardResult["code"], executed: "no" | "unknown", message: string): HardResult {
  return { outcome: "hard", code, executed, message };
}

/** Of two attempts, one has something for the client that it is not to get. */
export const withheld: Tried = { kind: "not_answered", told: { outcome: "cancelled" }, giveUp: null };

export function notAnswered(told: AttemptResult): Tried {
  return { kind: "not_answered", told, giveUp: null };
}
