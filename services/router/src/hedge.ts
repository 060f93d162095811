import type { Attempt, AttemptResult, CallControl } from "./control/port.ts";
import { Ending } from "./ending.ts";
import { AbortedByRouter } from "./upstream-client.ts";

/**
 * A read that is late is made at a second endpoint too; the first final answer is the client's (requirement R19). Guarantees:
 * H1  As soon as one of the attempts has something for the client, the other one is ended, told as `cancelled`, and gives the client nothing.
 * H2  The second attempt says nothing before its final answer, and that is given only when it is no error: until then the first goes on. Once
 *     the first has failed, this holds no more.
 * H3  Where one fails, the call waits for the other, and how that ends is how the call ends, with an error too. One that failed is not told again.
 */
export class Lane {
  /** The one that began later. */
  readonly isSecond: boolean;
  /** Ended when the other attempt has the answer. */
  readonly cancelled = new Ending();
  /** The other one is over and had nothing for the client (H3). */
  isLast = false;
  readonly #race: Race;

  constructor(race: Race, isSecond: boolean) {
    this.#race = race;
    this.isSecond = isSecond;
  }

  /** Whether the client gets what this attempt has for it now; from then on it gets nothing of the other one. */
  takes(what: "answer" | "error" | "before_answer"): boolean {
    if (this.cancelled.aborted) return false;
    if (this.isSecond && !this.isLast && what !== "answer") return false;
    this.#race.taken(this);
    return true;
  }
}

/** An attempt without another one beside it. */
export const alone: Pick<Lane, "isSecond" | "takes"> & { readonly cancelled: null } = {
  isSecond: false,
  cancelled: null,
  takes: () => true,
};

export type AnyLane = Lane | typeof alone;

class Race {
  taker: Lane | null = null;
  onTaken: ((by: Lane) => void) | null = null;

  taken(by: Lane): void {
    if (this.taker !== null) return;
    this.taker = by;
    this.onTaken?.(by);
  }
}

export interface HedgedRuns<Ran> {
  readonly call: CallControl;
  run(attempt: Attempt, lane: Lane): Promise<Ran>;
  toldOf(ran: Ran): AttemptResult;
  /** The client has its answer by it, or wants none any more. */
  isFinal(ran: Ran): boolean;
  /** An attempt that was told already: one that failed while the other went on, or was cancelled (`ran: null`). */
  onOver(attempt: Attempt, told: AttemptResult, ran: Ran | null): void;
  /** An error of the router's own in an attempt whose result nobody waits for. */
  onTrouble(error: unknown): void;
}

interface Runner<Ran> {
  readonly attempt: Attempt;
  readonly lane: Lane;
  readonly ran: Promise<Ran>;
}

/** Runs an attempt, with a second one beside it where it is late; returns the one that the call ends by, or goes on from. It is not told yet. */
export async function runHedged<Ran>(first: Attempt, runs: HedgedRuns<Ran>): Promise<{ readonly attempt: Attempt; readonly ran: Ran }> {
  const race = new Race();
  const begin = (attempt: Attempt, isSecond: boolean): Runner<Ran> => {
    const lane = new Lane(race, isSecond);
    return { attempt, lane, ran: runs.run(attempt, lane) };
  };
  const one = begin(first, false);
  const late = new Promise<null>((resolve) => first.whenLate?.(() => resolve(null)));
  const early = await Promise.race([one.ran, late]);
  if (early !== null) return { attempt: first, ran: early };
  const second = race.taker === null ? (runs.call.hedge?.() ?? null) : null;
  if (second === null) return { attempt: first, ran: await one.ran };

  const two = begin(second, true);
  let failed: Runner<Ran> | null = null;
  const cancel = (runner: Runner<Ran>): void => {
    if (runner === failed || runner.lane.cancelled.aborted) return;
    const told = { outcome: "cancelled" } as const;
    runner.attempt.done(told);
    runner.lane.cancelled.abort(new AbortedByRouter("given_up"));
    runner.ran.catch(runs.onTrouble);
    runs.onOver(runner.attempt, told, null);
  };
  race.onTaken = (by) => cancel(by === one.lane ? two : one);
  if (race.taker !== null) cancel(two);
  try {
    const ended = await Promise.race([one, two].map(async (runner) => ({ runner, ran: await runner.ran })));
    const other = ended.runner === one ? two : one;
    if (ended.runner.lane.cancelled.aborted) return { attempt: other.attempt, ran: await other.ran };
    if (other.lane.cancelled.aborted) return { attempt: ended.runner.attempt, ran: ended.ran };
    if (runs.isFinal(ended.ran)) {
      cancel(other);
      return { attempt: ended.runner.attempt, ran: ended.ran };
    }
    failed = ended.runner;
    other.lane.isLast = true;
    const told = runs.toldOf(ended.ran);
    ended.runner.attempt.done(told);
    runs.onOver(ended.runner.attempt, told, ended.ran);
    return { attempt: other.attempt, ran: await other.ran };
  } catch (error) {
    for (const runner of [one, two]) cancel(runner);
    throw error;
  }
}
