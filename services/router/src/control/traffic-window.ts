import {
  endpointKey,
  type FailureCode,
  type Implementation,
  latencyBucketsMs,
  type OutcomeClass,
  type TrafficEndpoint,
  type TrafficTool,
  type TrafficUnknown,
} from "@mcp-failover/contracts";
import { defaultPolicy } from "@mcp-failover/domain";
import { InOrder, type Linked } from "../in-order.ts";

/**
 * Counts what this process saw of endpoints and tools, a window at a time.
 *
 * Invariants, cited by the tests:
 * W1  Every ended call is in exactly one window, or in none when its window was dropped: nothing is counted twice.
 * W2  `hardRunHead` and `hardRunTail` are exact, also after windows were merged: runs of failures are carried over windows.
 * W3  A window holds at most `entriesMax` endpoints and as many tools; what is beyond is counted as left out, not kept.
 */
interface EndpointCounts {
  readonly upstream: string;
  readonly endpoint: string;
  /** Of the fleet's breaker, under which the calls were let through: results of an older one are not counted by it. */
  readonly generation: number;
  ok: number;
  hard: number;
  soft: number;
  auth: number;
  caller: number;
  hardRunHead: number;
  hardRunTail: number;
  hedged: number;
  hedgeWon: number;
  lastCode: FailureCode | null;
  lastHardAtMs: number | null;
  lastOkAtMs: number | null;
  latency: number[];
  latencyMsSum: number;
  latencyMsMax: number;
}

/** What of one window can be merged with the next one: everything but what is in flight. */
export interface ClosedWindow {
  readonly fromMs: number;
  toMs: number;
  readonly endpoints: Map<string, EndpointCounts>;
  readonly tools: Map<string, TrafficTool>;
  readonly unknown: TrafficUnknown[];
  /** Beyond {@link unknownMax}. */
  unknownMore: number;
  leftOut: number;
}

export interface EndedCall {
  readonly outcome: OutcomeClass;
  readonly code: FailureCode | null;
  readonly latencyMs: number;
  readonly atMs: number;
}

export interface EndedTool {
  readonly upstream: string;
  readonly tool: string;
  readonly agent: string | null;
  readonly implementation: Implementation;
  readonly error: boolean;
  readonly latencyMs: number;
}

/** As many as `traffic.observed` takes. */
export const entriesMax = 5000;
/** Some 100 KB, so that they fit beside everything else in a message. */
const unknownMax = 200;
/** Names that clients give; what is longer would keep a whole window out of the log, because no message takes it. */
const nameCharsMax = 128;
// biome-ignore lint/suspicious/noControlCharactersInRegex: each of them takes six bytes in JSON.
const controls = /[\u0000-\u001f]/g;
const shortened = <N extends string | null>(name: N): N => {
  if (name === null || (name.length <= nameCharsMax && name.search(controls) === -1)) return name;
  return name.slice(0, nameCharsMax).replaceAll(controls, "?") as N;
};

const emptyLatency = (): number[] => new Array<number>(latencyBucketsMs.length + 1).fill(0);

function bucketOf(latencyMs: number): number {
  let index = 0;
  while (index < latencyBucketsMs.length && latencyMs > (latencyBucketsMs[index] as number)) index += 1;
  return index;
}

export function emptyWindow(fromMs: number): ClosedWindow {
  return { fromMs, toMs: fromMs, endpoints: new Map(), tools: new Map(), unknown: [], unknownMore: 0, leftOut: 0 };
}

/** Whose calls: counts are kept apart by it. */
export interface CallPlace {
  readonly upstream: string;
  readonly endpoint: string;
  readonly generation: number;
}

/** The calls of a moment are at few places: a key that is made anew for each has to be hashed anew, too. */
const placeKeys = new Map<string, Map<string, { readonly generation: number; readonly key: string }>>();
let placeKeysKept = 0;
const placeKeysMax = 10_000;

function placeKey({ upstream, endpoint, generation }: CallPlace): string {
  const known = placeKeys.get(upstream)?.get(endpoint);
  if (known?.generation === generation) return known.key;
  const key = `${endpointKey(upstream, endpoint)} ${generation}`;
  if (known === undefined && ++placeKeysKept > placeKeysMax) {
    placeKeys.clear();
    placeKeysKept = 1;
  }
  const ofUpstream = placeKeys.get(upstream) ?? new Map<string, { readonly generation: number; readonly key: string }>();
  ofUpstream.set(endpoint, { generation, key });
  placeKeys.set(upstream, ofUpstream);
  return key;
}

export function countCall(window: ClosedWindow, place: CallPlace, call: EndedCall): void {
  const key = placeKey(place);
  let counts = window.endpoints.get(key);
  if (counts === undefined) {
    if (window.endpoints.size >= entriesMax) {
      window.leftOut += 1;
      return;
    }
    counts = emptyCounts(place);
    window.endpoints.set(key, counts);
  }
  const onlyHardSoFar = counts.hard === endedOf(counts);
  counts[call.outcome] += 1;
  if (call.outcome === "hard") {
    if (onlyHardSoFar) counts.hardRunHead += 1;
    counts.hardRunTail += 1;
    counts.lastCode = call.code;
    counts.lastHardAtMs = call.atMs;
  } else {
    counts.hardRunTail = 0;
    if (call.outcome === "ok") counts.lastOkAtMs = call.atMs;
  }
  const bucket = bucketOf(call.latencyMs);
  counts.latency[bucket] = (counts.latency[bucket] ?? 0) + 1;
  counts.latencyMsSum += call.latencyMs;
  counts.latencyMsMax = Math.max(counts.latencyMsMax, call.latencyMs);
}

/** A read that waits here was made at another endpoint too; `won`: it was answered there. */
export function countHedge(window: ClosedWindow, place: CallPlace, won: boolean): void {
  const key = placeKey(place);
  let counts = window.endpoints.get(key);
  if (counts === undefined) {
    if (window.endpoints.size >= entriesMax) return;
    counts = emptyCounts(place);
    window.endpoints.set(key, counts);
  }
  if (won) counts.hedgeWon += 1;
  else counts.hedged += 1;
}

/** Whose calls of a tool were counted last: mostly the same agent's. */
const toolKeys = new Map<string, Pick<EndedTool, "upstream" | "agent" | "implementation"> & { readonly key: string }>();

function toolKey({ upstream, tool, agent, implementation }: EndedTool): string {
  const last = toolKeys.get(tool);
  if (last?.upstream === upstream && last.agent === agent && last.implementation === implementation) return last.key;
  const ofAgent = agent === null ? "" : `=${shortened(agent)}`;
  // What is shortened has no line breaks.
  const key = `${implementation}\n${upstream}\n${ofAgent}\n${shortened(tool)}`;
  if (last === undefined && toolKeys.size >= placeKeysMax) toolKeys.clear();
  if (tool.length <= nameCharsMax) toolKeys.set(tool, { upstream, agent, implementation, key });
  return key;
}

export function countTool(window: ClosedWindow, call: EndedTool): void {
  const key = toolKey(call);
  let tool = window.tools.get(key);
  if (tool === undefined) {
    if (window.tools.size >= entriesMax) {
      window.leftOut += 1;
      return;
    }
    const { upstream, implementation } = call;
    const [name, agent] = [shortened(call.tool), shortened(call.agent)];
    tool = { upstream, tool: name, agent, implementation, calls: 0, errors: 0, latency: emptyLatency() };
    window.tools.set(key, tool);
  }
  tool.calls += 1;
  if (call.error) tool.errors += 1;
  const bucket = bucketOf(call.latencyMs);
  tool.latency[bucket] = (tool.latency[bucket] ?? 0) + 1;
}

export function noteUnknown(window: ClosedWindow, call: TrafficUnknown): void {
  if (window.unknown.length >= unknownMax) {
    window.unknownMore += 1;
    return;
  }
  const { method, tool, agent } = call;
  window.unknown.push({ ...call, method: shortened(method), tool: shortened(tool), agent: shortened(agent) });
}

/** Adds a later window to an earlier one (W2). */
export function mergeWindows(earlier: ClosedWindow, later: ClosedWindow): ClosedWindow {
  const merged: ClosedWindow = {
    ...earlier,
    endpoints: new Map(earlier.endpoints),
    tools: new Map(earlier.tools),
    unknown: [...earlier.unknown],
    toMs: later.toMs,
  };
  merged.leftOut += later.leftOut;
  merged.unknownMore += later.unknownMore;
  for (const call of later.unknown) noteUnknown(merged, call);
  for (const [key, counts] of later.endpoints) {
    const before = merged.endpoints.get(key);
    if (before === undefined && merged.endpoints.size >= entriesMax) merged.leftOut += endedOf(counts);
    else merged.endpoints.set(key, before === undefined ? counts : addCounts(before, counts));
  }
  for (const [key, tool] of later.tools) {
    const before = merged.tools.get(key);
    if (before === undefined && merged.tools.size >= entriesMax) merged.leftOut += tool.calls;
    else merged.tools.set(key, before === undefined ? tool : addTools(before, tool));
  }
  return merged;
}

function addCounts(before: EndpointCounts, after: EndpointCounts): EndpointCounts {
  return {
    upstream: before.upstream,
    endpoint: before.endpoint,
    generation: before.generation,
    ok: before.ok + after.ok,
    hard: before.hard + after.hard,
    soft: before.soft + after.soft,
    auth: before.auth + after.auth,
    caller: before.caller + after.caller,
    hardRunHead: before.hard === endedOf(before) ? before.hard + after.hardRunHead : before.hardRunHead,
    hardRunTail: after.hard === endedOf(after) ? before.hardRunTail + after.hard : after.hardRunTail,
    hedged: before.hedged + after.hedged,
    hedgeWon: before.hedgeWon + after.hedgeWon,
    lastCode: after.lastCode ?? before.lastCode,
    lastHardAtMs: after.lastHardAtMs ?? before.lastHardAtMs,
    lastOkAtMs: after.lastOkAtMs ?? before.lastOkAtMs,
    latency: before.latency.map((count, index) => count + (after.latency[index] ?? 0)),
    latencyMsSum: before.latencyMsSum + after.latencyMsSum,
    latencyMsMax: Math.max(before.latencyMsMax, after.latencyMsMax),
  };
}

function addTools(before: TrafficTool, after: TrafficTool): TrafficTool {
  return {
    ...before,
    calls: before.calls + after.calls,
    errors: before.errors + after.errors,
    latency: before.latency.map((count, index) => count + (after.latency[index] ?? 0)),
  };
}

function endedOf(counts: EndpointCounts): number {
  return counts.ok + counts.hard + counts.soft + counts.auth + counts.caller;
}

function emptyCounts({ upstream, endpoint, generation }: CallPlace): EndpointCounts {
  return {
    upstream,
    endpoint,
    generation,
    ok: 0,
    hard: 0,
    soft: 0,
    auth: 0,
    caller: 0,
    hardRunHead: 0,
    hardRunTail: 0,
    hedged: 0,
    hedgeWon: 0,
    lastCode: null,
    lastHardAtMs: null,
    lastOkAtMs: null,
    latency: emptyLatency(),
    latencyMsSum: 0,
    latencyMsMax: 0,
  };
}

/** One call that is out now. Its identity is the object. */
export class InFlight implements Linked<InFlight> {
  before: InFlight | null = null;
  after: InFlight | null = null;
  within: object | null = null;
  readonly upstream: string;
  readonly endpoint: string;
  readonly generation: number;
  readonly startedAtMs: number;

  constructor({ upstream, endpoint, generation }: CallPlace, startedAtMs: number) {
    this.upstream = upstream;
    this.endpoint = endpoint;
    this.generation = generation;
    this.startedAtMs = startedAtMs;
  }
}

/** What is out now at one place. */
export interface Flying {
  readonly place: CallPlace;
  readonly count: number;
  readonly oldestMs: number;
  /** Of them, out for longer than the policy's `slowInFlightMs`. */
  readonly slow: number;
}

/** What is said of an endpoint besides its calls. */
export interface Remarks {
  readonly hung: boolean;
  readonly restMs: number | null;
}

/** The calls that are out now, the oldest of each place first. */
export class InFlightCalls {
  readonly #byPlace = new Map<string, InOrder<InFlight>>();

  begin(call: InFlight): void {
    const key = placeKey(call);
    let calls = this.#byPlace.get(key);
    if (calls === undefined) {
      calls = new InOrder();
      this.#byPlace.set(key, calls);
    }
    calls.add(call);
  }

  end(call: InFlight): void {
    const key = placeKey(call);
    const calls = this.#byPlace.get(key);
    calls?.delete(call);
    if (calls?.size === 0) this.#byPlace.delete(key);
  }

  get any(): boolean {
    return this.#byPlace.size > 0;
  }

  /** Only where there are any. */
  at(nowMs: number): Map<string, Flying> {
    const seen = new Map<string, Flying>();
    const slowBeforeMs = nowMs - defaultPolicy.failover.slowInFlightMs;
    for (const [key, calls] of this.#byPlace) {
      // They are put in as they start.
      const oldest = calls.first;
      if (oldest === null) continue;
      let slow = 0;
      for (let call: InFlight | null = oldest; call !== null && call.startedAtMs < slowBeforeMs; call = call.after) slow += 1;
      seen.set(key, { place: oldest, count: calls.size, oldestMs: Math.max(0, nowMs - oldest.startedAtMs), slow });
    }
    return seen;
  }
}

/** The endpoints of a message: those with calls in the window, and those with calls in flight; of one endpoint the older generation first. */
export function endpointsOf(
  window: ClosedWindow,
  inFlight: ReadonlyMap<string, Flying>,
  remarksOn?: (upstream: string, endpoint: string) => Remarks,
): TrafficEndpoint[] {
  const items: { readonly counts: EndpointCounts; readonly flying: Flying | undefined }[] = [];
  for (const [key, counts] of window.endpoints) items.push({ counts, flying: inFlight.get(key) });
  for (const [key, flying] of inFlight) {
    if (!window.endpoints.has(key)) items.push({ counts: emptyCounts(flying.place), flying });
  }
  items.sort((a, b) => a.counts.generation - b.counts.generation);
  return items.slice(0, entriesMax).map(({ counts, flying }) => {
    const { upstream, endpoint, hedged, hedgeWon } = counts;
    const remarks = remarksOn?.(upstream, endpoint);
    // Each count by name: to leave some out of a copy of all takes several times as long.
    return {
      upstream,
      endpoint,
      ok: counts.ok,
      hard: counts.hard,
      soft: counts.soft,
      auth: counts.auth,
      caller: counts.caller,
      hardRunHead: counts.hardRunHead,
      hardRunTail: counts.hardRunTail,
      lastCode: counts.lastCode,
      lastHardAtMs: counts.lastHardAtMs,
      lastOkAtMs: counts.lastOkAtMs,
      latency: counts.latency,
      latencyMsSum: counts.latencyMsSum,
      latencyMsMax: counts.latencyMsMax,
      breakerGeneration: counts.generation,
      inFlight: flying?.count ?? 0,
      oldestInFlightMs: flying?.oldestMs ?? 0,
      slowInFlight: flying?.slow ?? 0,
      ...(hedged === 0 && hedgeWon === 0 ? {} : { hedged, hedgeWon }),
      ...(remarks?.hung === true && flying !== undefined ? { hung: true } : {}),
      ...(remarks?.restMs == null ? {} : { retryAfterMs: remarks.restMs }),
    };
  });
}
