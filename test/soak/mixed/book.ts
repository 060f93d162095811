/**
 * What became of every request of the mixed soak. It says (issue 4, must show 4):
 * S1  Every request got exactly one answer: none stayed without, none got two.
 * S2  A connection broke only when a router process was ended under it. So it is with a call on which the server asked the client something: what
 *     the client answered may have been on such a connection, clients do not say it again, and the process that kept the call's deadline is gone.
 * S3  What was answered was the answer to that request.
 * S4  No write ran twice, and each that was said to be done was done.
 */
export type Outcome =
  | "ok"
  /** An answer that belongs to something else. */
  | "wrong"
  /** Its time and some more was over. */
  | "unanswered"
  /** The connection broke. */
  | "broken"
  /** The client hung up on purpose. */
  | "left"
  | `${"error" | "http"} ${string}`;

export interface Entry {
  readonly kind: string;
  readonly mark: string;
  readonly begunMs: number;
  readonly endedMs: number;
  readonly outcome: Outcome;
  readonly detail: string;
}

export const askKind = "session ask";
const badKept = 200;
/** A connection may break so long before and after a router's end is noted. */
const breakMs = 6000;

export class Book {
  /** By kind, then by outcome. */
  readonly counts = new Map<string, Map<string, number>>();
  /** What was said with the first of each kind and outcome that was not good. */
  readonly samples: Record<string, string> = {};
  /** Those that break S1 to S3, or might; at most {@link badKept} of a kind of badness. */
  readonly bad: Entry[] = [];
  readonly #twice: string[] = [];
  readonly #open = new Map<string, string>();
  /** Marks of writes that were answered with success. */
  readonly #written = new Set<string>();
  readonly #routerEndsMs: number[] = [];
  readonly #seed: string;
  readonly #deadlineMs: number;
  #last = 0;
  #late = 0;
  #slowestMs = 0;

  constructor(seed: string, deadlineMs: number) {
    this.#seed = seed;
    this.#deadlineMs = deadlineMs;
  }
  /** Answers that came after the deadline; told, and not judged. */
  get late(): number {
    return this.#late;
  }
  get slowestMs(): number {
    return this.#slowestMs;
  }
  get inFlight(): number {
    return this.#open.size;
  }
  get sent(): number {
    return this.#last;
  }
  get openKinds(): readonly string[] {
    return [...this.#open.values()];
  }

  /** Begins a request; gives it the mark by which it is known everywhere. */
  begin(kind: string): string {
    this.#last += 1;
    const mark = `${this.#seed}-${this.#last}`;
    this.#open.set(mark, kind);
    return mark;
  }
  end(kind: string, mark: string, begunMs: number, outcome: Outcome, detail = ""): void {
    if (!this.#open.delete(mark)) this.answeredTwice(kind, mark);
    const tookMs = Date.now() - begunMs;
    this.#slowestMs = Math.max(this.#slowestMs, tookMs);
    if (tookMs > this.#deadlineMs) this.#late += 1;
    const of = this.counts.get(kind) ?? new Map<string, number>();
    this.counts.set(kind, of.set(outcome, (of.get(outcome) ?? 0) + 1));
    if (outcome !== "ok" && outcome !== "left") this.samples[`${kind}: ${outcome}`] ??= detail.slice(0, 300);
    if (outcome === "ok" && isWrite(kind)) this.#written.add(mark);
    const isBad = outcome === "wrong" || outcome === "unanswered" || outcome === "broken";
    if (!isBad || this.bad.filter((entry) => entry.outcome === outcome).length >= badKept) return;
    this.bad.push({ kind, mark, begunMs, endedMs: Date.now(), outcome, detail: detail.slice(0, 300) });
  }
  /** A second answer to one request, or one to a request that nobody made. */
  answeredTwice(kind: string, what: string): void {
    if (this.#twice.length < badKept) this.#twice.push(`${kind}: ${what}`);
  }
  /** A router process was ended, orderly or not. */
  routerEnded(nowMs: number): void {
    this.#routerEndsMs.push(nowMs);
  }

  total(outcome: (outcome: string) => boolean): number {
    let total = 0;
    for (const of of this.counts.values()) for (const [name, count] of of) if (outcome(name)) total += count;
    return total;
  }

  /** What does not hold. `ops`: the marks of the writes that servers ran, in their order. */
  problems(ops: readonly string[]): string[] {
    const problems = this.#twice.map((what) => `S1: answered twice, or to nobody: ${what}`);
    for (const [mark, kind] of this.#open) problems.push(`S1: nothing is known of ${kind} ${mark}`);
    for (const entry of this.bad) {
      const { kind, mark, begunMs, endedMs, outcome, detail } = entry;
      const said = `${kind} ${mark} after ${endedMs - begunMs} ms, ${new Date(endedMs).toISOString()}: ${detail}`;
      if (outcome === "wrong") problems.push(`S3: another answer: ${said}`);
      else if (outcome === "unanswered" && !(kind === askKind && this.isByRouterEnd(entry))) problems.push(`S1: no answer: ${said}`);
      else if (outcome === "broken" && !this.isByRouterEnd(entry)) problems.push(`S2: the connection broke: ${said}`);
    }
    const ran = new Map<string, number>();
    for (const mark of ops) ran.set(mark, (ran.get(mark) ?? 0) + 1);
    for (const [mark, times] of ran) if (times > 1) problems.push(`S4: ${mark} ran ${times} times`);
    for (const mark of this.#written) if (!ran.has(mark)) problems.push(`S4: ${mark} was said to be done, and never ran`);
    return problems;
  }
  isByRouterEnd({ begunMs, endedMs }: Pick<Entry, "begunMs" | "endedMs">): boolean {
    return this.#routerEndsMs.some((atMs) => atMs > begunMs - breakMs && atMs < endedMs + breakMs);
  }
}

const isWrite = (kind: string): boolean => kind.endsWith("write");
