import { canonicalJson, type Event, endpointKey, type Topology, type TrafficEndpoint } from "@mcp-failover/contracts";
import { type BacktestDeadEnd, DeadEnds } from "./backtest-dead-ends.ts";
import { type Condition, GroundTruth, type Outage, ProbeRecord } from "./backtest-record.ts";
import { type BacktestMove, BacktestWorld, servingOf } from "./backtest-world.ts";
import { type FailoverAudit, foldFailoverAudit, noFailoverAudit } from "./failover-input.ts";
import { defaultPolicy, policyFor } from "./policy.ts";

/**
 * Another policy on what the log recorded: `mcpf events backtest`. Three sides are compared second by second: what was decided (`recorded`), what the
 * deciders decide here under the configurations that were in force (`replayed`), and under the wanted one (`wanted`).
 *
 * BT1 All sides are measured by one truth: what the recorded probes say of the endpoints (R2), whoever was active.
 * BT2 `replayed` shows what the method itself is worth: where it differs from `recorded`, so may `wanted` for the same reason. The part of the moves that it
 *     takes again, to the same endpoint within `sameMoveMs`, is told.
 * BT3 A call that was recorded at an endpoint which a side does not use counts for that side by the condition of what it uses; where that is not
 *     known it is counted apart. Nobody knows what it would have been, so this is a bound, not a figure.
 * BT4 Where nothing was recorded for over `gapMs` nothing is judged, and the time is told.
 * BT5 What cannot be tried on a record is named (`untried`): probes of another interval, time-out or kind, and endpoints that were never probed.
 * BT6 Equal records and policies give equal results.
 */
export interface BacktestMessage {
  readonly stream: "AUDIT" | "SIGNALS";
  readonly seq: number;
  /** The store's. */
  readonly timeMs: number;
  readonly event: Event;
}
export interface BacktestOptions {
  /** `environment` null: the one that was in force at the beginning. */
  readonly wanted: { readonly topology: Topology; readonly environment: "development" | "production" | null };
  /** Nothing before it is judged, nor before the first signal and the first configuration. What came {@link backtestWarmUpMs} before it is to be given too, and AUDIT from its start. */
  readonly fromMs: number;
  /** Nothing after it is judged; what came within minutes after it answers probes. Default: no end. */
  readonly toMs?: number;
}
/** `stillDownMs`: for how long the endpoint that was left was down after the move; 0: it was well; null: it was down at the end. */
export type JudgedMove = BacktestMove & { readonly stillDownMs: number | null };
export interface BacktestCounts {
  moves: number;
  /** Automatic moves because of probes, off an endpoint that was not down. */
  unneeded: number;
  deadEnds: number;
  /** For how long what served was down, up, or not known to be either, ms. */
  downMs: number;
  upMs: number;
  unknownMs: number;
  /** Calls at endpoints, of which so many failed or would have, and of so many nobody knows (BT3). */
  calls: number;
  failed: number;
  failedUnknown: number;
}
export interface BacktestSide {
  readonly total: BacktestCounts;
  readonly upstreams: Readonly<Record<string, BacktestCounts>>;
  readonly moves: readonly JudgedMove[];
  /** The first ones; `total.deadEnds` counts all. */
  readonly deadEnds: readonly BacktestDeadEnd[];
}
export interface BacktestResult {
  readonly environment: "development" | "production";
  /** Of what was judged, the store's time; null: nothing was. */
  readonly fromMs: number | null;
  readonly toMs: number | null;
  readonly signals: number;
  /** How much of the time nothing was recorded (BT4). */
  readonly silentMs: number;
  readonly sides: { readonly recorded: BacktestSide; readonly replayed: BacktestSide; readonly wanted: BacktestSide };
  /** BT2. `medianLagMs`: of the moves that were taken again; positive: later than the recorded one. Null: there was none. */
  readonly fidelity: { readonly recorded: number; readonly again: number; readonly added: number; readonly medianLagMs: number | null };
  /** BT5. */
  readonly untried: readonly string[];
  /** Endpoints were down more often than is kept; of so many times the oldest are not in `stillDownMs`. */
  readonly outagesLeftOut: number;
}

/** What a decision may look back to. */
export const backtestWarmUpMs = Math.max(defaultPolicy.failover.observerWindowMs, defaultPolicy.breaker.baselineMs);
const secondMs = 1000;
const gapMs = 30_000;
const sameMoveMs = 10_000;
/** Probes are looked for so far around a moment at least. */
const aroundMsMin = 10_000;
const aroundMsMax = 300_000;
/** A probe that began before the move and ended after it says that the endpoint was down then; so does one that had ended a moment before. */
const moveSlackMs = 2000;
/** What else but probes makes a move needed, of which the truth of probes (BT1) says nothing. */
const otherwiseNeeded: readonly string[] = ["failback", "calls_failing", "breaker_forced_open", "verify_failed", "active_vanished"];

const sideNames = ["recorded", "replayed", "wanted"] as const;
type SideName = (typeof sideNames)[number];

/** Takes messages in the order of their store times, whichever stream they are of, and compares at the end. */
export class Backtest {
  readonly #options: BacktestOptions;
  readonly #aroundMs: number;
  readonly #record: ProbeRecord;
  readonly #truth: GroundTruth;
  readonly #replayed: BacktestWorld;
  readonly #wanted: BacktestWorld;
  readonly #counts: Readonly<Record<SideName, Map<string, BacktestCounts>>> = {
    recorded: new Map(),
    replayed: new Map(),
    wanted: new Map(),
  };
  readonly #recordedMoves: BacktestMove[] = [];
  readonly #recordedDeadEnds = new DeadEnds();
  readonly #untried = new Set<string>();
  /** What is read ahead, for answers to probes (R1). */
  #ahead: BacktestMessage[] = [];
  #aheadFrom = 0;
  #audit: FailoverAudit = noFailoverAudit;
  #environment: "development" | "production" = "production";
  #begun = false;
  #nowMs = 0;
  #firstMs: number | null = null;
  #signals = 0;
  #silentMs = 0;

  constructor(options: BacktestOptions) {
    this.#options = options;
    const { topology } = options.wanted;
    // No environment changes how often is probed.
    const intervals = Object.keys(topology.upstreams).map((upstream) => policyFor(topology, upstream, "production").health);
    const freshMs = Math.max(
      2 * defaultPolicy.health.intervalMs + defaultPolicy.health.timeoutMs,
      ...intervals.map((health) => health.freshMs),
    );
    this.#aroundMs = Math.min(aroundMsMax, Math.max(aroundMsMin, ...intervals.map(({ intervalMs }) => 2 * intervalMs)));
    this.#record = new ProbeRecord(this.#aroundMs);
    this.#truth = new GroundTruth(freshMs);
    this.#replayed = new BacktestWorld(this.#record);
    this.#wanted = new BacktestWorld(this.#record);
  }

  take(message: BacktestMessage): void {
    const { event, timeMs } = message;
    if (event.type === "probe.observed") for (const one of event.data.observations) this.#record.add(one, timeMs);
    this.#ahead.push(message);
    while (this.#aheadFrom < this.#ahead.length && (this.#ahead[this.#aheadFrom] as BacktestMessage).timeMs <= timeMs - this.#aroundMs)
      this.#next();
  }

  end(): BacktestResult {
    while (this.#aheadFrom < this.#ahead.length) this.#next();
    const outages = this.#truth.outages();
    const sides = {
      recorded: this.#sideOf("recorded", this.#recordedMoves, this.#recordedDeadEnds, outages),
      replayed: this.#sideOf("replayed", this.#replayed.moves, this.#replayed.deadEnds, outages),
      wanted: this.#sideOf("wanted", this.#wanted.moves, this.#wanted.deadEnds, outages),
    };
    return {
      environment: this.#environment,
      fromMs: this.#firstMs,
      toMs: this.#firstMs === null ? null : this.#nowMs,
      signals: this.#signals,
      silentMs: this.#silentMs,
      sides,
      fidelity: fidelityOf(sides.recorded.moves, sides.replayed.moves),
      untried: [...this.#untried],
      outagesLeftOut: this.#truth.leftOut,
    };
  }

  #next(): void {
    const message = this.#ahead[this.#aheadFrom] as BacktestMessage;
    this.#aheadFrom += 1;
    if (this.#aheadFrom > 10_000) {
      this.#ahead = this.#ahead.slice(this.#aheadFrom);
      this.#aheadFrom = 0;
    }
    const { event, seq, timeMs } = message;
    if (timeMs > (this.#options.toMs ?? Number.POSITIVE_INFINITY)) return;
    // Without signals, or without a configuration, nothing can be decided here: what was decided then is followed (W1).
    const known = message.stream === "SIGNALS" && this.#audit.config !== null;
    if (!this.#begun && known && timeMs >= this.#options.fromMs) this.#begin(timeMs);
    if (this.#begun) this.#advance(timeMs);
    if (message.stream === "AUDIT") this.#takeAudit(event, timeMs);
    else if (event.type === "probe.observed" || event.type === "traffic.observed") this.#takeSignal(event, seq, timeMs);
  }

  #takeSignal(event: Event<"probe.observed"> | Event<"traffic.observed">, seq: number, timeMs: number): void {
    if (event.type === "probe.observed") for (const one of event.data.observations) this.#truth.hear(one, timeMs);
    else if (this.#begun) for (const item of event.data.endpoints) this.#countCalls(item, timeMs);
    if (this.#begun) {
      this.#signals += 1;
      this.#firstMs ??= timeMs;
    }
    this.#replayed.signal(event, seq, timeMs);
    this.#wanted.signal(event, seq, timeMs);
  }

  #begin(timeMs: number): void {
    this.#begun = true;
    this.#nowMs = timeMs;
    this.#replayed.begin(null);
    const { topology, environment } = this.#options.wanted;
    this.#environment = environment ?? this.#audit.config?.environment ?? "production";
    this.#wanted.begin({ topology, environment: this.#environment });
    this.#compareProbes();
  }

  #takeAudit(event: Event, timeMs: number): void {
    this.#audit = foldFailoverAudit(this.#audit, event, timeMs);
    this.#replayed.recorded(event, timeMs);
    this.#wanted.recorded(event, timeMs);
    if (!this.#begun) return;
    if (event.type === "config.applied") this.#compareProbes();
    if (event.type === "failover.decided") {
      const { service: upstream, action, previousEndpoint: from, currentEndpoint: to, automatic, reason, certificate } = event.data;
      const { rule } = certificate;
      this.#recordedDeadEnds.over(upstream);
      if (action === "moved") this.#recordedMoves.push({ atMs: timeMs, upstream, from, to, rule, reason, automatic });
      else if (action === "held" && automatic) this.#recordedDeadEnds.tell({ atMs: timeMs, upstream, rule, reason });
    }
    if (event.type === "failover.failed" && !event.data.failing) this.#recordedDeadEnds.over(event.data.service);
    if ((event.type === "failover.failed" && event.data.failing) || (event.type === "failover.rejected" && event.data.automatic)) {
      const { service: upstream, rule, reason } = event.data;
      this.#recordedDeadEnds.tell({ atMs: timeMs, upstream, rule, reason });
    }
  }

  /** BT5. */
  #compareProbes(): void {
    const recorded = this.#audit.config;
    if (recorded === null) return;
    const { topology } = this.#options.wanted;
    for (const [upstream, { probe, endpoints }] of Object.entries(topology.upstreams)) {
      const before = recorded.topology.upstreams[upstream];
      if (before === undefined) {
        this.#untried.add(`${upstream}: nothing of it was recorded`);
        continue;
      }
      for (const { name, url } of endpoints) {
        const known = before.endpoints.find((endpoint) => endpoint.name === name);
        if (known === undefined) this.#untried.add(`${upstream}/${name}: it was not probed, so nothing is ever proven of it`);
        else if (known.url !== url) this.#untried.add(`${upstream}/${name}: what was recorded is of another address`);
      }
      const mine = policyFor(topology, upstream, this.#environment).health;
      const theirs = policyFor(recorded.topology, upstream, recorded.environment).health;
      for (const [field, what] of [
        ["intervalMs", "interval"],
        ["timeoutMs", "time-out"],
      ] as const)
        if (mine[field] !== theirs[field])
          this.#untried.add(`${upstream}: probes with a ${what} of ${mine[field]} ms; they were made with ${theirs[field]} ms`);
      const kind = ({
        interval_ms: _,
        timeout_ms: __,
        failures_down: ___,
        successes_up: ____,
        hold_down_ms: _____,
        ...rest
      }: typeof probe): string => canonicalJson(rest);
      if (kind(probe) !== kind(before.probe))
        this.#untried.add(`${upstream}: probes that look at something else than those that were made`);
    }
  }

  /** From the last moment to this one, second by second. */
  #advance(timeMs: number): void {
    const fromMs = this.#nowMs;
    if (timeMs < fromMs) {
      // The store's clock was set back: the same time again is not judged twice.
      this.#nowMs = timeMs;
      this.#skip();
      return;
    }
    this.#nowMs = timeMs;
    if (timeMs - fromMs > gapMs) {
      if (this.#firstMs !== null) this.#silentMs += timeMs - fromMs;
      this.#skip();
      return;
    }
    for (let atMs = (Math.floor(fromMs / secondMs) + 1) * secondMs; atMs <= timeMs; atMs += secondMs) {
      this.#truth.second(atMs);
      this.#replayed.advance(atMs, true);
      this.#wanted.advance(atMs, true);
      if (this.#firstMs !== null) this.#countSecond(atMs);
    }
    this.#replayed.advance(timeMs, false);
    this.#wanted.advance(timeMs, false);
  }

  #skip(): void {
    this.#replayed.skip();
    this.#wanted.skip();
  }

  #servingOf(side: SideName, upstream: string): readonly string[] {
    if (side === "replayed") return this.#replayed.serving(upstream);
    return side === "wanted" ? this.#wanted.serving(upstream) : servingOf(this.#audit, upstream);
  }

  #upstreamsOf(side: SideName): readonly string[] {
    if (side === "replayed") return this.#replayed.upstreams;
    return side === "wanted" ? this.#wanted.upstreams : Object.keys(this.#audit.config?.topology.upstreams ?? {});
  }

  /** Of what serves: down where all of it is. */
  #conditionOf(upstream: string, serving: readonly string[], nowMs: number): Condition {
    let found: Condition = serving.length === 0 ? "unknown" : "down";
    for (const endpoint of serving) {
      const condition = this.#truth.condition(endpointKey(upstream, endpoint), nowMs);
      if (condition === "up") return "up";
      if (condition === "unknown") found = "unknown";
    }
    return found;
  }

  #countSecond(nowMs: number): void {
    for (const side of sideNames)
      for (const upstream of this.#upstreamsOf(side)) {
        const condition = this.#conditionOf(upstream, this.#servingOf(side, upstream), nowMs);
        this.#countsOf(side, upstream)[`${condition}Ms`] += secondMs;
      }
  }

  /** BT3. */
  #countCalls({ upstream, endpoint, ok, hard, soft, auth, caller }: TrafficEndpoint, nowMs: number): void {
    const calls = ok + hard + soft + auth + caller;
    if (calls === 0) return;
    const used = this.#servingOf("recorded", upstream);
    for (const side of sideNames) {
      const serving = this.#servingOf(side, upstream);
      if (serving.length === 0) continue;
      const counts = this.#countsOf(side, upstream);
      counts.calls += calls;
      // Where both use the same, what was recorded is what would have been; so it is where the call went to what this side uses.
      const same =
        side === "recorded" || serving.includes(endpoint) || (serving.length === used.length && serving.every((one) => used.includes(one)));
      const condition = same ? null : this.#conditionOf(upstream, serving, nowMs);
      if (condition === null) counts.failed += hard;
      else if (condition === "down") counts.failed += calls;
      else if (condition === "unknown") counts.failedUnknown += calls;
    }
  }

  #countsOf(side: SideName, upstream: string): BacktestCounts {
    const known = this.#counts[side].get(upstream) ?? noCounts();
    this.#counts[side].set(upstream, known);
    return known;
  }

  #sideOf(side: SideName, moves: readonly BacktestMove[], deadEnds: DeadEnds, outages: readonly Outage[]): BacktestSide {
    const judged = moves.map((move) => judge(move, outages));
    for (const { upstream, automatic, stillDownMs, rule } of judged) {
      const counts = this.#countsOf(side, upstream);
      counts.moves += 1;
      if (automatic && stillDownMs === 0 && !otherwiseNeeded.includes(rule)) counts.unneeded += 1;
    }
    for (const [upstream, count] of deadEnds.counts) this.#countsOf(side, upstream).deadEnds = count;
    const total = noCounts();
    for (const counts of this.#counts[side].values())
      for (const [field, count] of Object.entries(counts)) total[field as keyof BacktestCounts] += count;
    return { total, upstreams: Object.fromEntries(this.#counts[side]), moves: judged, deadEnds: deadEnds.kept };
  }
}

function noCounts(): BacktestCounts {
  return { moves: 0, unneeded: 0, deadEnds: 0, downMs: 0, upMs: 0, unknownMs: 0, calls: 0, failed: 0, failedUnknown: 0 };
}

function judge(move: BacktestMove, outages: readonly Outage[]): JudgedMove {
  const left = endpointKey(move.upstream, move.from);
  const found = outages.find(
    ({ endpoint, fromMs, toMs }) =>
      endpoint === left && fromMs - moveSlackMs <= move.atMs && (toMs === null || toMs + moveSlackMs >= move.atMs),
  );
  if (found === undefined) return { ...move, stillDownMs: 0 };
  return { ...move, stillDownMs: found.toMs === null ? null : Math.max(1, found.toMs - move.atMs) };
}

/** BT2. Each move of the one is taken for one of the other at most. */
function fidelityOf(recorded: readonly BacktestMove[], replayed: readonly BacktestMove[]): BacktestResult["fidelity"] {
  const left = replayed.filter(({ automatic }) => automatic);
  const own = recorded.filter(({ automatic }) => automatic);
  const lags: number[] = [];
  for (const move of own) {
    const index = left.findIndex(
      ({ upstream, to, atMs }) => upstream === move.upstream && to === move.to && Math.abs(atMs - move.atMs) <= sameMoveMs,
    );
    if (index === -1) continue;
    lags.push((left[index] as BacktestMove).atMs - move.atMs);
    left.splice(index, 1);
  }
  lags.sort((a, b) => a - b);
  return { recorded: own.length, again: lags.length, added: left.length, medianLagMs: lags[Math.floor(lags.length / 2)] ?? null };
}
