import {
  type Event,
  endpointKey,
  type FailureCode,
  type LogRef,
  type OutcomeClass,
  type RouteHeld,
  type TrafficEndpoint,
} from "@mcp-failover/contracts";
import { secondsAfter, type TrafficSecond } from "./evidence-traffic.ts";
import { defaultPolicy, type FailoverPolicy } from "./policy.ts";
import { isOfAnotherClock, type SetBack } from "./store-time.ts";

/**
 * What the observers say of the endpoints: SIGNALS folded, AUDIT never read.
 *
 * E1  One observer has one word on one endpoint: its latest. A probe that began before the one already counted changes nothing,
 *     so that the late end of a hung probe does not undo an answer; unless its clock was set back, which costs its words for seconds.
 * E2  Silence is no word: a word older than `evidenceFreshMs` is `unknown`, never `unhealthy`.
 * E3  Only `hard` is a word against an endpoint and only `ok` one for it; `soft`, `auth` and `caller` are answers of something alive
 *     that prove nothing.
 * E4  Observers of an endpoint are all probers heard within `observerWindowMs` and the routers that had traffic to it then. A router
 *     that is live now and sends it nothing abstains; one that has gone silent still counts, because it may be on the other
 *     side of a partition.
 * E5  An observer whose every fresh word, on two endpoints or more, is against them, is suspect itself when another has reached one of
 *     them after it began to say so.
 * E6  Whatever is folded, the state stays within its limits; the words heard longest ago go first. Endpoints that are forgotten though somebody
 *     has spoken on them lately are counted: nothing moves by itself any more where votes go missing.
 * E7  Folding reads nothing but its arguments. {@link foldSignal} alters none of them; {@link takeSignal} alters only the evidence that it
 *     is given, at the cost of the signal's items, however many endpoints there are.
 * E8  Of a window with calls of two generations of the breaker the newer one is the word.
 * E9  A single call that takes long is no word: it may be a slow tool. Several are, and so is one where a look at the endpoint had no
 *     answer either (`hung`).
 * E10 A prober that said that it leaves is no observer (E4) from then on, until another process has its name. Only that very process can say so, which its
 *     name and its start tell: the word of one that had the name before strikes nobody out, and one that comes again changes nothing. Who ends
 *     without a word is silent.
 */
export interface Evidence {
  /** By `upstream/endpoint`, then by observer (`prober:a`, `router:b`). */
  readonly words: ReadonlyMap<string, ReadonlyMap<string, Word>>;
  readonly probers: ReadonlyMap<string, ProberSeen>;
  readonly routers: ReadonlyMap<string, RouterSeen>;
  /** First and last sequence folded; 0 before the first. */
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly lastTimeMs: number;
  /** The last time that the store's clock was set back (ST3); null: it was not, since this began. */
  readonly setBack: SetBack | null;
  /** How often an endpoint was forgotten for others though somebody had spoken on it within `observerWindowMs` (E6). */
  readonly displaced: number;
}

interface ProberSeen {
  /** When it was last heard, store time. */
  readonly atMs: number;
  /** When the process that has the name began, and the one before it; null: it does not say, or there was none. */
  readonly startedAtMs: number | null;
  readonly beforeMs: number | null;
  /** E10. */
  readonly left: boolean;
}

export interface RouterSeen {
  readonly atMs: number;
  readonly routes: Readonly<Record<string, RouteHeld>>;
  readonly rollbacks: Readonly<Record<string, number>>;
}

/** One observer's latest word on one endpoint. Times are the store's, but `startedAtMs`, which only orders one observer's own probes. */
interface Word {
  readonly observer: string;
  readonly kind: "prober" | "router";
  /** Null: nothing has ended yet. */
  readonly outcome: OutcomeClass | null;
  readonly code: FailureCode | null;
  readonly atMs: number;
  readonly seq: number;
  readonly startedAtMs: number;
  readonly responseTimeMs: number | null;
  readonly purpose: string | null;
  /** Hard failures in a row, and when the first of them was stored. */
  readonly hardRun: number;
  readonly hardSinceMs: number | null;
  readonly lastOkAtMs: number | null;
  /** The last probe made for the purpose that ended `ok`. */
  readonly proof: Proof | null;
  /** Routers: when it last had traffic there, and the age of its oldest call in flight then. */
  readonly trafficAtMs: number | null;
  readonly trafficSeq: number;
  readonly oldestInFlightMs: number;
  /** Whether several calls have been in flight for too long, or the router has found that the endpoint hangs. */
  readonly stuckCalls: number;
  readonly hung: boolean;
  /** Its calls of the last minute, a second each, oldest first. */
  readonly seconds: readonly TrafficSecond[];
}
type Proof = { readonly atMs: number; readonly seq: number };

/** A vote as it is weighed; extends the contract's `vote`. */
export type WeighedVote = {
  observer: string;
  kind: "prober" | "router";
  verdict: "healthy" | "unhealthy" | "unknown";
  outcome: OutcomeClass;
  code: FailureCode | null;
  atMs: number;
  responseTimeMs: number | null;
  ref: LogRef | null;
  /** Of a probe: what it was made for. */
  purpose: string | null;
  hardRun: number;
  hardSinceMs: number | null;
  proof: Proof | null;
};
export type Testimony = { observers: string[]; votes: WeighedVote[] };

export type Signal = {
  readonly seq: number;
  /** The store's timestamp. */
  readonly timeMs: number;
  readonly event: Event<"probe.observed"> | Event<"traffic.observed">;
};
export type EvidenceTimes = Pick<FailoverPolicy, "evidenceFreshMs" | "observerWindowMs" | "routerLiveMs" | "slowInFlightMs">;

/** Twice the fleet that is planned for, because AUDIT is not asked which endpoints are configured still. As `breaker-signals.ts`. */
const endpointsMax = 20_000;
const observersMax = 500;
/** So many calls that take too long are no slow tool. */
const stuckCallsMin = 2;
/**
 * A probe that is told late began before the one already counted by what it took itself, and by what it takes to send a batch again that
 * had no answer. One that began longer before was timed by a clock that was set back, and the probes are in order again from there.
 */
const toldLateMsMax = 8000;

export const noEvidence: Evidence = {
  words: new Map(),
  probers: new Map(),
  routers: new Map(),
  firstSeq: 0,
  lastSeq: 0,
  lastTimeMs: 0,
  setBack: null,
  displaced: 0,
};

interface OwnEvidence extends Evidence {
  words: Map<string, Map<string, Word>>;
  probers: Map<string, ProberSeen>;
  routers: Map<string, RouterSeen>;
  firstSeq: number;
  lastSeq: number;
  lastTimeMs: number;
  setBack: SetBack | null;
  displaced: number;
}

/** No evidence yet, to be changed by {@link takeSignal} alone. */
export function openEvidence(): Evidence {
  return copyOf(noEvidence);
}

/** The evidence with one message of SIGNALS more; what was given stays as it was (E7). For whoever keeps both. */
export function foldSignal(evidence: Evidence, signal: Signal): Evidence {
  const next = copyOf(evidence);
  takeSignal(next, signal);
  return next;
}

function copyOf(evidence: Evidence): OwnEvidence {
  const words = new Map([...evidence.words].map(([key, spoken]) => [key, new Map(spoken)] as const));
  return { ...evidence, words, probers: new Map(evidence.probers), routers: new Map(evidence.routers) };
}

/** Takes one message of SIGNALS into evidence from {@link openEvidence} (E1, E3, E6, E7); where the store's clock was set back, all else is forgotten (ST1). */
export function takeSignal(into: Evidence, signal: Signal): void {
  const evidence = into as OwnEvidence;
  const { event, seq, timeMs } = signal;
  if (isOfAnotherClock(evidence.lastTimeMs, timeMs)) {
    for (const known of [evidence.words, evidence.probers, evidence.routers]) known.clear();
    evidence.setBack = { fromMs: Math.max(evidence.lastTimeMs, evidence.setBack?.fromMs ?? 0), toMs: timeMs };
  }
  if (event.type === "probe.observed") {
    const { observer, observations } = event.data;
    bounded(
      evidence.probers.set(observer, proberAfter(evidence.probers.get(observer), event.data, timeMs)),
      observersMax,
      ({ atMs }) => atMs,
    );
    for (const seen of observations) {
      const spoken = spokenOn(evidence, endpointKey(seen.upstream, seen.endpoint));
      const key = `prober:${observer}`;
      spoken.set(key, wordOfProbe(spoken.get(key), observer, seen, signal));
      bounded(spoken, observersMax, (word) => word.atMs);
    }
  } else {
    const { router, endpoints, routes, rollbacks } = event.data;
    bounded(evidence.routers.set(router, { atMs: timeMs, routes, rollbacks }), observersMax, (seen) => seen.atMs);
    const byGeneration = endpoints.length < 2 ? endpoints : [...endpoints].sort(olderGenerationFirst);
    for (const window of byGeneration) {
      const spoken = spokenOn(evidence, endpointKey(window.upstream, window.endpoint));
      const key = `router:${router}`;
      spoken.set(key, wordOfWindow(spoken.get(key), router, window, routes[window.upstream], signal));
      bounded(spoken, observersMax, (word) => word.atMs);
    }
  }
  while (evidence.words.size > endpointsMax) displaceOne(evidence, timeMs);
  if (evidence.firstSeq === 0) evidence.firstSeq = seq;
  evidence.lastSeq = seq;
  evidence.lastTimeMs = timeMs;
}

/** What is known of a prober after one more batch in its name (E10). */
function proberAfter(before: ProberSeen | undefined, batch: Event<"probe.observed">["data"], timeMs: number): ProberSeen {
  const startedAtMs = batch.startedAtMs ?? null;
  const leaves = batch.leaving === true && startedAtMs !== null;
  if (before === undefined) return { atMs: timeMs, startedAtMs, beforeMs: null, left: leaves };
  // What it said before it left may come after that.
  if (startedAtMs === before.startedAtMs) return { ...before, atMs: timeMs, left: before.left || leaves };
  if (leaves) return before;
  if (startedAtMs !== null && startedAtMs === before.beforeMs) return { ...before, atMs: timeMs, left: false };
  return { atMs: timeMs, startedAtMs, beforeMs: before.startedAtMs, left: false };
}

/** Who has spoken on an endpoint, which is now the one heard of last. */
function spokenOn({ words }: OwnEvidence, key: string): Map<string, Word> {
  const spoken = words.get(key) ?? new Map<string, Word>();
  words.delete(key);
  words.set(key, spoken);
  return spoken;
}

/** Forgets the endpoint that was spoken on longest ago. */
function displaceOne(evidence: OwnEvidence, timeMs: number): void {
  const [oldest] = evidence.words;
  if (oldest === undefined) return;
  const [key, spoken] = oldest;
  evidence.words.delete(key);
  const fromMs = timeMs - defaultPolicy.failover.observerWindowMs;
  for (const { atMs, trafficAtMs } of spoken.values()) {
    if (Math.max(atMs, trafficAtMs ?? 0) < fromMs) continue;
    evidence.displaced += 1;
    return;
  }
}

function olderGenerationFirst(a: TrafficEndpoint, b: TrafficEndpoint): number {
  return (a.breakerGeneration ?? 0) - (b.breakerGeneration ?? 0);
}

type Probe = Event<"probe.observed">["data"]["observations"][number];

function wordOfProbe(before: Word | undefined, observer: string, probe: Probe, { seq, timeMs }: Signal): Word {
  if (before !== undefined) {
    const behindMs = before.startedAtMs - probe.startedAtMs;
    if (behindMs > 0 && behindMs <= probe.responseTimeMs + toldLateMsMax) return before;
  }
  const hard = probe.outcome === "hard";
  // Each field by name: what is spread into the middle of an object is copied one by one.
  return {
    observer,
    kind: "prober",
    outcome: probe.outcome,
    code: probe.code,
    atMs: timeMs,
    seq,
    startedAtMs: probe.startedAtMs,
    responseTimeMs: probe.responseTimeMs,
    purpose: probe.purpose,
    hardRun: hard ? (before?.hardRun ?? 0) + 1 : 0,
    hardSinceMs: hard ? (before?.hardSinceMs ?? timeMs) : null,
    lastOkAtMs: probe.outcome === "ok" ? timeMs : (before?.lastOkAtMs ?? null),
    proof: probe.purpose === "confirm" && probe.outcome === "ok" ? { atMs: timeMs, seq } : (before?.proof ?? null),
    trafficAtMs: null,
    trafficSeq: 0,
    oldestInFlightMs: 0,
    stuckCalls: 0,
    hung: false,
    seconds: noSeconds,
  };
}

const noSeconds: readonly TrafficSecond[] = [];
const nothingInFlight = { oldestInFlightMs: 0, stuckCalls: 0, hung: false } as const;

function wordOfWindow(
  before: Word | undefined,
  router: string,
  window: TrafficEndpoint,
  route: RouteHeld | undefined,
  { seq, timeMs }: Signal,
): Word {
  const alive = window.ok + window.soft + window.auth + window.caller;
  // An older generation's part of the same window came before.
  const part = before?.trafficSeq === seq ? before : nothingInFlight;
  const base = {
    observer: router,
    kind: "router",
    startedAtMs: 0,
    purpose: null,
    proof: null,
    trafficAtMs: timeMs,
    trafficSeq: seq,
    oldestInFlightMs: Math.max(window.oldestInFlightMs, part.oldestInFlightMs),
    stuckCalls: (window.slowInFlight ?? window.inFlight) + part.stuckCalls,
    hung: window.hung === true || part.hung,
    seconds: secondsAfter(before?.seconds ?? [], window, alive, route, timeMs),
  } as const;
  if (alive + window.hard === 0) {
    const kept = before ?? { outcome: null, code: null, responseTimeMs: null, hardRun: 0, hardSinceMs: null, lastOkAtMs: null };
    return { atMs: timeMs, seq, ...kept, ...base };
  }
  const hard = window.hardRunTail > 0 || alive === 0;
  const outcome = hard ? "hard" : window.ok > 0 ? "ok" : window.soft > 0 ? "soft" : window.auth > 0 ? "auth" : "caller";
  return {
    ...base,
    outcome,
    code: hard ? (window.lastCode ?? "other") : null,
    atMs: timeMs,
    seq,
    responseTimeMs: window.latencyMsSum / (alive + window.hard),
    ...runOf(alive === 0 ? before : undefined, hard, alive === 0 ? window.hard : window.hardRunTail, timeMs),
    lastOkAtMs: window.ok > 0 ? timeMs : (before?.lastOkAtMs ?? null),
  };
}

/** The run of hard failures after `count` more of them, carried on from the word before where nothing ended well between. */
function runOf(carried: Word | undefined, hard: boolean, count: number, timeMs: number): Pick<Word, "hardRun" | "hardSinceMs"> {
  if (!hard) return { hardRun: 0, hardSinceMs: null };
  return { hardRun: (carried?.hardRun ?? 0) + count, hardSinceMs: carried?.hardSinceMs ?? timeMs };
}

const nobodysWords: ReadonlyMap<string, Word> = new Map();

/** Who observes an endpoint now (E4), and what each says (E2, E3), in the order of the observers' names. */
export function testimonyOn(evidence: Evidence, upstream: string, endpoint: string, times: EvidenceTimes, nowMs: number): Testimony {
  const words = evidence.words.get(endpointKey(upstream, endpoint)) ?? nobodysWords;
  const routers: string[] = [];
  for (const [key, word] of words) if (word.kind === "router" && routerObserves(evidence, word, times, nowMs)) routers.push(key);
  if (routers.length > 1) routers.sort();
  // In the order of their names, because the kind comes first in these.
  const observers = [...livingProbers(evidence, times.observerWindowMs, nowMs), ...routers];
  const votes: WeighedVote[] = [];
  for (const observer of observers) {
    const word = words.get(observer);
    const vote = word === undefined ? null : voteOf(word, times, nowMs);
    if (vote !== null) votes.push(vote);
  }
  return { observers, votes };
}

interface KnownProbers {
  readonly seq: number;
  readonly windowMs: number;
  readonly nowMs: number;
  readonly keys: readonly string[];
}
/** One answer for all endpoints that are looked at at one moment. */
const probersOf = new WeakMap<Evidence, KnownProbers>();

/** The keys of the probers heard within the window that have not left, sorted. */
function livingProbers(evidence: Evidence, windowMs: number, nowMs: number): readonly string[] {
  const known = probersOf.get(evidence);
  if (known?.nowMs === nowMs && known.seq === evidence.lastSeq && known.windowMs === windowMs) return known.keys;
  const keys: string[] = [];
  for (const [id, { atMs, left }] of evidence.probers) if (!left && nowMs - atMs <= windowMs) keys.push(`prober:${id}`);
  keys.sort();
  probersOf.set(evidence, { seq: evidence.lastSeq, windowMs, nowMs, keys });
  return keys;
}

function routerObserves(evidence: Evidence, word: Word, times: EvidenceTimes, nowMs: number): boolean {
  const trafficAtMs = word.trafficAtMs ?? 0;
  if (nowMs - trafficAtMs > times.observerWindowMs) return false;
  const live = nowMs - (evidence.routers.get(word.observer)?.atMs ?? 0) <= times.routerLiveMs;
  return !live || nowMs - trafficAtMs <= times.evidenceFreshMs;
}

/** A word as a vote; null where nothing was said yet. */
function voteOf(word: Word, times: EvidenceTimes, nowMs: number): WeighedVote | null {
  const stuck = isStuck(word, times, nowMs);
  const verdict = verdictOf(word, stuck, times, nowMs);
  if (verdict === null) return null;
  const atMs = saidAtMs(word, stuck);
  return {
    observer: word.observer,
    kind: word.kind,
    verdict,
    outcome: stuck ? "hard" : (word.outcome ?? "hard"),
    code: stuck ? "timeout" : word.code,
    atMs,
    responseTimeMs: word.responseTimeMs,
    ref: { stream: "SIGNALS", seq: stuck ? word.trafficSeq : word.seq },
    purpose: word.purpose,
    hardRun: stuck ? Math.max(1, word.hardRun) : word.hardRun,
    hardSinceMs: stuck ? (word.hardSinceMs ?? atMs) : word.hardSinceMs,
    proof: word.proof,
  };
}

export function saidAtMs(word: Word, stuck: boolean): number {
  return stuck ? (word.trafficAtMs ?? word.atMs) : word.atMs;
}

/** What a word says now; null where nothing was said yet. */
export function verdictOf(word: Word, stuck: boolean, times: EvidenceTimes, nowMs: number): WeighedVote["verdict"] | null {
  if (word.outcome === null && !stuck) return null;
  if (nowMs - saidAtMs(word, stuck) > times.evidenceFreshMs) return "unknown";
  const outcome = stuck ? "hard" : word.outcome;
  return outcome === "ok" ? "healthy" : outcome === "hard" ? "unhealthy" : "unknown";
}

/** Calls have been in flight for too long, and nothing has come back since the oldest of them began (E9). */
export function isStuck(word: Word, times: EvidenceTimes, nowMs: number): boolean {
  if (word.trafficAtMs === null || nowMs - word.trafficAtMs > times.evidenceFreshMs) return false;
  // The router has looked since it heard anything, so a call that had overlapped with the last answer says nothing against that.
  if (word.hung) return true;
  if (word.stuckCalls < stuckCallsMin || word.oldestInFlightMs <= times.slowInFlightMs) return false;
  return word.lastOkAtMs === null || word.lastOkAtMs < word.trafficAtMs - word.oldestInFlightMs;
}

/** Drops the entries heard longest ago until the map is within its limit. Alters and returns the map that it is given. */
function bounded<V>(map: Map<string, V>, max: number, heardAtMs: (value: V) => number): Map<string, V> {
  while (map.size > max) {
    let oldest: [string, number] | null = null;
    for (const [key, value] of map) if (oldest === null || heardAtMs(value) < oldest[1]) oldest = [key, heardAtMs(value)];
    if (oldest === null) break;
    map.delete(oldest[0]);
  }
  return map;
}
