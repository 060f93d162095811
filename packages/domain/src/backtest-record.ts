import { endpointKey, type Observation } from "@mcp-failover/contracts";
import { isAlive } from "./health.ts";

/**
 * What the record says that an endpoint was like at a time, whoever asks: a backtest cannot probe the past, so it looks at what was probed.
 *
 * R1  A probe at a moment would have heard what the recorded probe nearest to that moment heard: the asker's own where there is one within
 *     `aroundMs`, else anybody's. Where nobody has probed within that time nobody answers.
 * R2  An endpoint was down while most of the probers that spoke within `togetherMs` of the last word had no answer from it: what others said before that is
 *     overtaken, because one alone looks at it mostly. Where nobody has spoken within `freshMs` it is not known.
 * R3  What is kept is bounded: of each endpoint the results of twice `aroundMs` and of each prober the last one; of what was down the newest
 *     `outagesMax` times, and what was left out is counted.
 */
interface Result {
  readonly startMs: number;
  readonly observation: Observation;
}
interface LastWord {
  readonly alive: boolean;
  readonly atMs: number;
}

/** A time in which an endpoint was down (R2), in the store's time; `toMs` null: it still is. */
export interface Outage {
  readonly endpoint: string;
  readonly fromMs: number;
  readonly toMs: number | null;
}
export type Condition = "up" | "down" | "unknown";

/** Probers that are asked together answer within this. */
const togetherMs = 2000;
const outagesMax = 100_000;
/** More probers than this speak of no endpoint; those heard of longest ago are left out. */
const probersMax = 500;

export class ProbeRecord {
  readonly #aroundMs: number;
  readonly #results = new Map<string, Result[]>();

  constructor(aroundMs: number) {
    this.#aroundMs = aroundMs;
  }

  /** Results come in the order of the log; `timeMs` is the store's. */
  add(observation: Observation, timeMs: number): void {
    const key = endpointKey(observation.upstream, observation.endpoint);
    const results = this.#results.get(key) ?? [];
    this.#results.set(key, results);
    results.push({ startMs: timeMs - observation.responseTimeMs, observation });
    // Read ahead by `aroundMs`, and asked back to as far.
    const old = results.findIndex(({ startMs }) => startMs >= timeMs - 2 * this.#aroundMs - observation.responseTimeMs);
    if (old > 0) results.splice(0, old);
  }

  /** What a probe of an endpoint (`upstream/name`) by this prober would have heard at this moment (R1). */
  answer(endpoint: string, prober: string, atMs: number): Observation | null {
    let own: Result | null = null;
    let any: Result | null = null;
    for (const result of this.#results.get(endpoint) ?? []) {
      const farMs = Math.abs(result.startMs - atMs);
      if (farMs > this.#aroundMs) continue;
      if (any === null || farMs <= Math.abs(any.startMs - atMs)) any = result;
      if (result.observation.observer === prober && (own === null || farMs <= Math.abs(own.startMs - atMs))) own = result;
    }
    return (own ?? any)?.observation ?? null;
  }
}

/** What a probe that was asked for heard, and when that is known. */
export interface ProbeAnswer {
  readonly atMs: number;
  readonly observation: Observation;
}

/** Answers that are on their way at most; what is asked beyond it goes unanswered. */
const answersMax = 100_000;

/** Probes that are asked for, answered from the record (R1): after as long as the recorded one took, and by a time-out at the latest. */
export class ProbeAnswers {
  readonly #record: ProbeRecord;
  /** What is known first at the front. */
  #waiting: ProbeAnswer[] = [];

  constructor(record: ProbeRecord) {
    this.#record = record;
  }

  /** What these probers hear of an endpoint (`upstream/name`); {@link take} gives each when it is known. */
  ask(
    endpoint: string,
    probers: readonly string[],
    { nowMs, timeoutMs }: { readonly nowMs: number; readonly timeoutMs: number },
  ): readonly Observation[] {
    const found: Observation[] = [];
    for (const prober of probers) {
      const said = this.#record.answer(endpoint, prober, nowMs);
      if (said === null) continue;
      const late = said.responseTimeMs > timeoutMs;
      const responseTimeMs = Math.min(said.responseTimeMs, timeoutMs);
      const observation: Observation = {
        ...said,
        observer: prober,
        purpose: "confirm",
        requestId: null,
        startedAtMs: nowMs,
        responseTimeMs,
        ...(late ? { outcome: "hard", code: "timeout", degraded: null } : {}),
      };
      found.push(observation);
      const atMs = Math.ceil(nowMs + responseTimeMs);
      if (this.#waiting.length >= answersMax) continue;
      const index = this.#waiting.findLastIndex((answer) => answer.atMs <= atMs) + 1;
      this.#waiting.splice(index, 0, { atMs, observation });
    }
    return found;
  }

  /** The next one that is known by now; null: there is none. */
  take(nowMs: number): ProbeAnswer | null {
    const [first] = this.#waiting;
    if (first === undefined || first.atMs > nowMs) return null;
    this.#waiting.shift();
    return first;
  }

  /** None comes any more. */
  clear(): void {
    this.#waiting = [];
  }
}

/** Which endpoints were down, when (R2). */
export class GroundTruth {
  readonly #freshMs: number;
  readonly #words = new Map<string, Map<string, LastWord>>();
  readonly #down = new Map<string, number>();
  readonly #outages: Outage[] = [];
  /** How many times of being down were left out (R3). */
  leftOut = 0;

  constructor(freshMs: number) {
    this.#freshMs = freshMs;
  }

  hear(observation: Observation, timeMs: number): void {
    const key = endpointKey(observation.upstream, observation.endpoint);
    const words = this.#words.get(key) ?? new Map<string, LastWord>();
    this.#words.set(key, words);
    words.delete(observation.observer);
    words.set(observation.observer, { alive: isAlive(observation.outcome), atMs: timeMs });
    if (words.size > probersMax) words.delete(words.keys().next().value as string);
    this.#note(key, timeMs);
  }

  /** Of an endpoint (`upstream/name`). */
  condition(endpoint: string, nowMs: number): Condition {
    const words = this.#words.get(endpoint);
    if (words === undefined) return "unknown";
    let lastMs = Number.NEGATIVE_INFINITY;
    for (const { atMs } of words.values()) if (atMs > lastMs) lastMs = atMs;
    if (nowMs - lastMs > this.#freshMs) return "unknown";
    let more = 0;
    for (const { alive, atMs } of words.values()) if (lastMs - atMs <= togetherMs) more += alive ? -1 : 1;
    return more > 0 ? "down" : "up";
  }

  /** What was said of endpoints that nobody speaks of any more is not known from here on. Costs as much as there are that are down. */
  second(nowMs: number): void {
    for (const key of [...this.#down.keys()]) this.#note(key, nowMs);
  }

  /** Oldest first; those that are down still at the end. */
  outages(): readonly Outage[] {
    const open = [...this.#down].map(([endpoint, fromMs]): Outage => ({ endpoint, fromMs, toMs: null }));
    return [...this.#outages, ...open].sort((a, b) => a.fromMs - b.fromMs);
  }

  #note(key: string, nowMs: number): void {
    const fromMs = this.#down.get(key);
    const isDown = this.condition(key, nowMs) === "down";
    if (isDown && fromMs === undefined) this.#down.set(key, nowMs);
    if (isDown || fromMs === undefined) return;
    this.#down.delete(key);
    this.#outages.push({ endpoint: key, fromMs, toMs: nowMs });
    if (this.#outages.length <= outagesMax) return;
    this.#outages.shift();
    this.leftOut += 1;
  }
}
