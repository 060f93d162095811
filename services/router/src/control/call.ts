import type { FailureCode } from "@mcp-failover/contracts";
import {
  chargeRetry,
  hedgeKeyOf,
  type LegacyFace,
  legacyFaceOf,
  mayRetry,
  planRoute,
  type RoutePlan,
  type RouteQuestion,
  type Safety,
  whyNot,
} from "@mcp-failover/domain";
import { CallAttempt } from "./attempt.ts";
import { CallEntry } from "./call-entry.ts";
import { hedgeEndpoint } from "./call-hedge.ts";
import { deadlineProblem, goesOnProblem, noPlaceProblem, problemOf, sessionLostProblem } from "./call-problems.ts";
import type { CallWorld } from "./call-world.ts";
import type { EndpointState } from "./endpoint-state.ts";
import { LegacyError, type LegacyTool } from "./legacy.ts";
import type { Attempt, AttemptResult, CallControl, CallDescription, CallProblem, EndpointView, LegacyResult } from "./port.ts";
import type { UpstreamState } from "./upstream-state.ts";

/**
 * One call of a client, from its first attempt to its end.
 *
 * Invariants, cited by the tests:
 * A1  After an attempt of an `unsafe` call that may have run, nothing is sent any more: not to another endpoint, not to the legacy API.
 * A2  At most one attempt is out at a time, two of a hedged read, each is told once, and what is told twice is ignored.
 * A3  Whatever happens, in-flight counts, permits and waits of a call are given back when it ends.
 * A5  A call that was let in leaves once, whatever becomes of it; one that was refused was not sent anywhere. Legacy is entered as MCP is (Q7).
 * A4  A tool's call is counted once for MCP, and once for legacy where that served it. One that its client has given up counts as slow where it took
 *     longer than `response_time`, as a failure never, and else nowhere.
 */
export class Call implements CallControl {
  readonly deadlineMs: number;
  readonly fallbackDeadlineMs: number;
  readonly implementation: "mcp" | "legacy";
  readonly safety: Safety;
  readonly stale: boolean;
  readonly #world: CallWorld;
  readonly #upstream: UpstreamState;
  readonly #call: CallDescription;
  readonly #begunMs: number;
  /** What the wall clock was ahead of the one that does not jump when the call began: its time goes on by that one, whatever the machine's is set to. */
  readonly #aheadMs: number;
  readonly #tried: string[] = [];
  readonly #failures: string[] = [];
  #open: CallAttempt | null = null;
  /** Of a hedged read: the attempt that was out first, the one beside it, and whether both are out. */
  #hedge: { readonly first: CallAttempt; readonly second: CallAttempt; both: boolean } | null = null;
  #again = false;
  #mayHaveRun = false;
  #legacyUsed = false;
  #legacyRuns = false;
  #ended = false;
  #lastCode: FailureCode | null = null;
  /** Set once no further attempt is made; null also after an answer. */
  #problem: CallProblem | null = null;
  #answered = false;
  #fallbackBarred = false;
  #waitUntilMs: number | null = null;
  #waitOver = false;
  #wake: (() => void) | null = null;
  #entry: CallEntry | null = null;
  /** The retry was granted and paid for when the attempt was given up. */
  #leftFor = false;

  constructor(world: CallWorld, upstream: UpstreamState, call: CallDescription, begunMs: number) {
    const { policy } = upstream;
    this.#world = world;
    this.#upstream = upstream;
    this.#call = call;
    this.#begunMs = begunMs;
    this.#aheadMs = world.nowMs() - begunMs;
    this.safety = upstream.safetyOf(call);
    const legacy = this.#legacyTool;
    this.implementation = world.implementationOf(upstream, call, legacy !== null);
    const totalMs = legacy === null ? policy.router.callMs : Math.max(policy.router.callMs, policy.router.fallbackMs);
    const clientMs = Math.max(0, call.deadlineMs - call.startedAtMs);
    // The margin leaves a client with a short deadline most of it.
    const marginMs = Number.isFinite(clientMs) ? Math.min(policy.router.deadlineMarginMs, clientMs / 5) : 0;
    const allMs = Math.min(totalMs, clientMs - marginMs);
    this.fallbackDeadlineMs = call.startedAtMs + allMs;
    // Where there is a fallback, the attempts leave it a fifth of the time, at most what it may take.
    const reserveMs = legacy === null || this.implementation === "legacy" ? 0 : Math.min(legacy.timeoutMs ?? legacyMsUsual, allMs / 5);
    const attemptsMs = this.implementation === "legacy" ? allMs : Math.min(policy.router.callMs, allMs - reserveMs);
    this.deadlineMs = call.startedAtMs + attemptsMs;
    this.stale = upstream.config.mode === "active_standby" && this.safety !== "read_only" && world.isStale(policy.router.staleMsMax);
  }

  next(): Attempt | null | Promise<Attempt | null> {
    if (this.#ended || this.#answered || this.#problem !== null || this.implementation === "legacy") return null;
    if (this.#hedge?.both) this.#hedge.second.done({ outcome: "cancelled" });
    if (this.#open !== null) {
      // Nobody told how the last attempt ended, so it may have run.
      this.#open.done({ outcome: "hard", code: "other", executed: "unknown", message: "the attempt was left without a result" });
      if (this.#problem !== null) return null;
    }
    const leftMs = this.#leftMs();
    if (leftMs <= 0) return this.#giveUp(deadlineProblem);
    if (this.#entry === null) {
      this.#entry = new CallEntry(this.#world, this.#upstream, this.#call);
      const refusal = this.#entry.enter(leftMs);
      if (refusal instanceof Promise) return refusal.then((late) => this.#afterEntry(late));
      if (refusal !== null) return this.#refused(refusal);
    }
    return this.#first();
  }

  #afterEntry(refusal: CallProblem | null): Attempt | null | Promise<Attempt | null> {
    if (refusal !== null) return this.#refused(refusal);
    return this.#ended ? null : this.#first();
  }

  #first(): Attempt | null | Promise<Attempt | null> {
    const plan = this.#plan();
    return plan.rule === "wait" ? this.#await() : this.#take(plan);
  }

  /** Refused under the limits: nothing was sent, and the legacy API must not get what is too much. */
  #refused(problem: CallProblem): null {
    this.#problem = problem;
    this.#fallbackBarred = true;
    return null;
  }

  problem(): CallProblem {
    const problem = this.#problem ?? { code: "no_endpoint", message: `no attempt at ${this.#upstream.name} was made`, retriable: true };
    return this.#call.mcpOnly === "goes_on" ? goesOnProblem(problem) : problem;
  }

  legacyFace(): LegacyFace {
    const { legacyMode, fallback } = this.#upstream.policy.router;
    const { agent } = this.#call;
    return legacyFaceOf({
      tools: this.#upstream.legacyTools().map((name) => ({ name, mcpPercents: this.#world.mcpPercents(name, agent) })),
      legacyMode,
      fallback: fallback.tool || fallback.system || (fallback.agent && agent !== null),
    });
  }

  /** What could serve it instead of MCP. */
  get #legacyTool(): LegacyTool | null {
    return (this.#call.mcpOnly ?? null) === null ? (this.#upstream.tool(this.#call.tool)?.legacy ?? null) : null;
  }

  get legacy(): CallControl["legacy"] {
    const tool = this.#legacyTool;
    if (tool === null || this.#legacyUsed || this.#ended || this.#open !== null) return null;
    if (this.implementation === "mcp" && !this.#mayFallBack()) return null;
    return async (args, signal, operationId) => {
      this.#legacyRuns = true;
      try {
        return await this.#callLegacy(args, signal, operationId);
      } finally {
        this.#legacyRuns = false;
      }
    };
  }

  end(outcome: "ok" | "error" | "given_up"): void {
    // Its signal ends what runs at the legacy API, and that knows whether it was sent.
    if (this.#ended || (outcome === "given_up" && this.#legacyRuns)) return;
    if (outcome === "given_up" && this.#tried.length > 0 && !this.#answered && this.#problem === null)
      this.#countSlow("mcp", this.#begunMs);
    // Of two it ends the other one, too.
    this.#open?.done({ outcome: "aborted" });
    this.#noteUnknown();
    this.#ended = true;
    this.#wake?.();
    this.#entry?.leave();
  }

  /** So that the operation id that the client got is found in the log. */
  #noteUnknown(): void {
    const { operationId, method, tool, agent } = this.#call;
    if (operationId === undefined || this.#problem === null || this.safety === "read_only") return;
    if (this.problem().code !== "outcome_unknown") return;
    const endpoint = this.#legacyUsed ? null : (this.#tried.at(-1) ?? null);
    const place = { operationId, upstream: this.#upstream.name, endpoint, method, tool, agent };
    this.#world.report.unknown({ ...place, code: this.#lastCode, atMs: this.#world.nowMs() });
  }

  /** How an attempt of this call ended. Called by the attempt, once. */
  settle(attempt: CallAttempt, result: AttemptResult): { readonly retry: boolean } {
    if (this.#hedge?.both && this.#settleOneOfTwo(this.#hedge, attempt, result)) return { retry: false };
    this.#open = null;
    const { endpoint } = attempt;
    switch (result.outcome) {
      case "ok":
      case "caller":
        this.#answered = true;
        if (attempt === this.#hedge?.second) this.#hedgeWon(this.#hedge.first);
        this.#countTool(result.toolError);
        return { retry: false };
      case "cancelled":
        return { retry: false };
      case "aborted":
        this.#fallbackBarred = true;
        this.#problem = { code: "outcome_unknown", message: "the client went away", retriable: false };
        return { retry: false };
      case "ineligible":
        this.#again = false;
        this.#failures.push(`${endpoint.name}: ${result.message}`);
        return this.#retryWhere({ executed: "no", message: result.message });
      case "soft":
      case "auth":
        return this.#settleRefused(endpoint, result);
      case "hard":
        if (this.#executed(result) === "unknown") this.#mayHaveRun = true;
        this.#again = true;
        this.#lastCode = result.code === "exhausted" ? "other" : result.code;
        this.#failures.push(result.code === "exhausted" ? result.message : `${endpoint.name}: ${result.code}`);
        if (result.code === "exhausted") this.#world.exhausted(this.#upstream.name);
        return this.#retryWhere({ executed: this.#executed(result), message: `${endpoint.name}: ${result.code}` });
    }
  }

  /**
   * While both attempts of a hedged read are out, one that fails or is cancelled leaves the call to the other. False: its result is the call's; the
   * other one is over with it.
   */
  #settleOneOfTwo(hedge: { first: CallAttempt; second: CallAttempt; both: boolean }, attempt: CallAttempt, result: AttemptResult): boolean {
    const other = attempt === hedge.first ? hedge.second : hedge.first;
    hedge.both = false;
    if (result.outcome === "ok" || result.outcome === "caller" || result.outcome === "aborted") {
      this.#open = attempt;
      other.done({ outcome: "cancelled" });
      return false;
    }
    this.#open = other;
    if (result.outcome === "hard") this.#failures.push(`${attempt.endpoint.name}: ${result.code}`);
    else if (result.outcome !== "cancelled") this.#failures.push(`${attempt.endpoint.name}: ${result.outcome}`);
    return true;
  }

  #hedgeWon(first: CallAttempt): void {
    this.#world.hedgeWon(this.#upstream.name);
    this.#world.report.hedge(first.inFlight, true);
  }

  hedge(): Attempt | null {
    const first = this.#open;
    if (first === null || this.#hedge !== null || this.#ended || this.#answered || this.#problem !== null || this.#leftFor) return null;
    const endpoint = hedgeEndpoint(this.#world, this.#upstream, first, this.#leftMs(), () => this.#question());
    if (endpoint === null) return null;
    this.#charge();
    const second = this.#attemptAt(endpoint, this.#upstream.policy.router.connectMs);
    this.#hedge = { first, second, both: true };
    this.#world.hedged(this.#upstream.name);
    this.#world.report.hedge(first.inFlight, false);
    return second;
  }

  /** A status is proof only where the operator says so. */
  #executed({ executed, httpStatus }: Pick<Extract<AttemptResult, { outcome: "hard" }>, "executed" | "httpStatus">): "no" | "unknown" {
    return httpStatus !== undefined && this.#upstream.policy.router.notExecutedStatuses.includes(httpStatus) ? "no" : executed;
  }

  #retryWhere(failed: { readonly executed: "no" | "unknown"; readonly message: string }): { readonly retry: boolean } {
    const { policy } = this.#upstream;
    const executed = this.safety === "unsafe" && this.#mayHaveRun ? "unknown" : failed.executed;
    const { attemptsMax } = policy.router;
    const answer = this.#leftFor
      ? ({ retry: true, charged: false } as const)
      : mayRetry({ safety: this.safety, executed, attempts: this.#tried.length, attemptsMax, ...this.#times() });
    this.#leftFor = false;
    if (!answer.retry) {
      this.#world.refusedRetry(this.#upstream.name, answer.rule);
      this.#giveUp(answer.rule === "attempts" ? this.#noEndpoint() : problemOf(this.#upstream.name, answer.rule, failed.message));
      return { retry: false };
    }
    const plan = this.#plan();
    if (plan.endpoint === null && plan.rule !== "wait") {
      this.#giveUp(this.#noEndpoint());
      return { retry: false };
    }
    if (answer.charged) this.#charge();
    return { retry: true };
  }

  /** 429, 401, 403: the endpoint answered. Another one may do better, but the same one will not, and a write that was sent may have been done. */
  #settleRefused(endpoint: EndpointView, result: Refused): { readonly retry: boolean } {
    const executed = this.#executed({ ...result, executed: result.executed ?? "unknown" });
    if (executed === "unknown") this.#mayHaveRun = true;
    this.#again = false;
    const why = result.outcome === "soft" ? "it sheds load (429)" : "it refused the router's credential";
    this.#failures.push(`${endpoint.name}: ${why}`);
    const { attemptsMax } = this.#upstream.policy.router;
    const known = this.#mayHaveRun ? "unknown" : executed;
    const answer = mayRetry({ safety: this.safety, executed: known, attempts: this.#tried.length, attemptsMax, ...this.#times() });
    const plan = answer.retry ? this.#plan() : null;
    if (plan === null || plan.endpoint === null || plan.rule === "panic") {
      this.#answered = true;
      this.#countTool(false);
      this.#problem = { code: "no_endpoint", message: `${endpoint.name}: ${why}`, retriable: true };
      return { retry: false };
    }
    if (answer.retry && answer.charged) this.#charge();
    return { retry: true };
  }

  /** An attempt at an endpoint that hangs is left only for another one that is believed to work: by an idempotent write for the new active one. */
  mayLeave(): boolean {
    if (this.safety === "unsafe" || this.#leftFor || this.#ended || this.#hedge?.both) return false;
    const { attemptsMax } = this.#upstream.policy.router;
    const answer = mayRetry({ safety: this.safety, executed: "unknown", attempts: this.#tried.length, attemptsMax, ...this.#times() });
    if (!answer.retry) return false;
    this.#again = false;
    const plan = this.#plan();
    if (plan.endpoint === null || plan.rule === "panic") return false;
    if (answer.charged) this.#charge();
    this.#leftFor = true;
    return true;
  }

  #plan(): RoutePlan {
    return planRoute(this.#question(), this.#upstream.policy.router);
  }

  #question(): RouteQuestion {
    const upstream = this.#upstream;
    const moment = this.#world.moment();
    for (const endpoint of upstream.endpoints) endpoint.refresh(moment);
    return {
      mode: upstream.config.mode,
      active: upstream.active,
      activeTier: upstream.activeTier,
      strategy: upstream.config.balancing,
      zone: this.#world.zone,
      safety: this.safety,
      sessions: upstream.config.sessions,
      sessionEndpoint: this.#call.sessionEndpoint,
      tried: this.#tried,
      again: this.#again,
      mayWait: this.#mayWait(moment.monotonicMs),
      mayWaitVerdict: this.#mayWaitVerdict(),
      endpoints: upstream.endpoints,
      random: this.#world.random(),
      turn: upstream.turn,
      nowMs: moment.nowMs,
    };
  }

  /** A wait helps only where the fleet may move the upstream by itself, soon, to somewhere, and this router would hear of it. */
  #mayWait(monotonicMs: number): boolean {
    const { config, policy, held, failing, waiters } = this.#upstream;
    if (this.safety === "read_only" || config.mode !== "active_standby" || this.#waitOver) return false;
    if (held || failing || !policy.failover.automatic || !this.#world.logReachable()) return false;
    if (this.#wake === null && waiters.size >= policy.router.epochWaitersMax) return false;
    return this.#upstream.hasCandidate(monotonicMs);
  }

  /** The verdict on a half-open breaker comes by the log, soon. */
  #mayWaitVerdict(): boolean {
    if (this.#waitOver || !this.#world.logReachable()) return false;
    const { policy, waiters } = this.#upstream;
    return this.#wake !== null || waiters.size < policy.router.epochWaitersMax;
  }

  async #await(): Promise<Attempt | null> {
    const { policy, waiters } = this.#upstream;
    // What is waited for in vain must leave time to try what there is.
    const waitMs = Math.min(policy.router.epochWaitMs, this.#leftMs() / 2);
    this.#waitUntilMs ??= this.#world.monotonicMs() + waitMs;
    const untilMs = this.#waitUntilMs;
    if (this.#mayWait(this.#world.monotonicMs())) this.#world.lookAtCandidates(this.#upstream);
    for (;;) {
      const wait = waiters.wait(untilMs - this.#world.monotonicMs());
      this.#wake = wait.wake;
      await wait.over;
      this.#wake = null;
      if (this.#ended) return null;
      if (this.#leftMs() <= 0) return this.#giveUp(deadlineProblem);
      if (this.#world.monotonicMs() >= untilMs) this.#waitOver = true;
      const plan = this.#plan();
      if (plan.rule !== "wait") return this.#take(plan);
    }
  }

  #leftMs(): number {
    return this.deadlineMs - this.#nowMs();
  }

  /** By the clock of the deadlines, as it went when the call began. */
  #nowMs(): number {
    return this.#world.monotonicMs() + this.#aheadMs;
  }

  /** The budget is kept by the clock that does not jump, so the deadline is put on that too. */
  #times() {
    const nowMs = this.#world.monotonicMs();
    return { budget: this.#upstream.budget, nowMs, deadlineMs: nowMs + this.#leftMs() };
  }

  #charge(): void {
    this.#upstream.budget = chargeRetry(this.#upstream.budget, this.#world.monotonicMs());
  }

  #take(plan: RoutePlan): Attempt | null {
    const upstream = this.#upstream;
    const endpoint = plan.endpoint === null ? undefined : upstream.endpoints.find(({ name }) => name === plan.endpoint);
    if (endpoint === undefined) return this.#giveUp(plan.rule === "session_lost" ? sessionLostProblem : this.#noEndpoint());
    const remembered = plan.rule === "panic" || endpoint.ejected;
    const { connectMs: usualMs, panicConnectMs } = upstream.policy.router;
    const connectMs = remembered ? Math.min(panicConnectMs, usualMs) : usualMs;
    if (plan.rule === "panic") this.#world.panicked(upstream.name);
    this.#open = this.#attemptAt(endpoint, connectMs);
    return this.#open;
  }

  #attemptAt(endpoint: EndpointState, connectMs: number): CallAttempt {
    const upstream = this.#upstream;
    this.#tried.push(endpoint.name);
    const begunMs = this.#world.monotonicMs();
    const { kind, method, tool } = this.#call;
    // Where there is one endpoint only, nothing is kept of what such calls take.
    const isHedged = this.safety === "read_only" && upstream.endpoints.length > 1 && upstream.policy.router.hedge.enabled;
    return new CallAttempt(this, this.#world, upstream, {
      endpoint: endpoint.view,
      state: endpoint,
      connectMs: Math.max(1, Math.min(connectMs, this.#leftMs())),
      permit: endpoint.acquire(begunMs),
      inFlight: this.#world.report.begin(upstream.name, endpoint.name, endpoint.breakerGeneration),
      begunMs,
      leavable: this.safety !== "unsafe",
      hedgeKey: isHedged ? hedgeKeyOf({ kind, method, tool, safety: this.safety }) : null,
    });
  }

  #giveUp(problem: CallProblem): null {
    this.#problem = this.#unlessItRan(problem);
    this.#fallbackBarred = problem === sessionLostProblem;
    // A call that never reached anything because its own time was over, or its session, says nothing about the tool.
    if (problem !== sessionLostProblem && !(problem === deadlineProblem && this.#tried.length === 0)) this.#countTool(true);
    return null;
  }

  /** Another run of an idempotent call does no harm, but what the first one did is not known. */
  #unlessItRan(problem: CallProblem): CallProblem {
    if (!this.#mayHaveRun || this.safety !== "idempotent") return problem;
    return { code: "outcome_unknown", message: `${problem.message}; it may have run`, retriable: true };
  }

  #noEndpoint(): CallProblem {
    const upstream = this.#upstream;
    const others = upstream.endpoints.filter(({ name }) => !this.#tried.includes(name));
    const reasons = others.map(
      (endpoint) => `${endpoint.name}: ${endpoint.problem ?? whyNot(endpoint, upstream.policy.router) ?? standbyReason}`,
    );
    const why = [...this.#failures, ...reasons].slice(0, reasonsMax).join("; ");
    return { code: "no_endpoint", message: `no endpoint of ${upstream.name} can take the call (${why}); try again soon`, retriable: true };
  }

  #mayFallBack(): boolean {
    if (this.#problem === null || this.#fallbackBarred || (this.safety === "unsafe" && this.#mayHaveRun)) return false;
    const { tool, agent, system } = this.#upstream.policy.router.fallback;
    if (tool || (agent && this.#call.agent !== null)) return true;
    return system && this.#upstream.endpoints.every((endpoint) => whyNot(endpoint, this.#upstream.policy.router) !== null);
  }

  async #callLegacy(args: unknown, signal: AbortSignal, operationId: string): Promise<LegacyResult> {
    const tool = this.#legacyTool;
    if (tool === null || this.#legacyUsed) throw new LegacyError("the legacy API was called already", { executed: "unknown" });
    this.#legacyUsed = true;
    const leave = await this.#enterLegacy(tool, signal);
    const begunMs = this.#world.monotonicMs();
    const count = (error: boolean) => this.#countOne("legacy", error, begunMs);
    const leftMs = this.fallbackDeadlineMs - this.#nowMs();
    try {
      const result = await this.#world.callLegacy({
        tool,
        args,
        signal,
        operationId,
        timeoutMs: Math.min(tool.timeoutMs ?? Number.POSITIVE_INFINITY, leftMs),
        bodyBytesMax: this.#upstream.view.bodyBytesMax,
        agent: this.#world.legacyAgent,
        redact: this.#world.redact,
      });
      count(result.isError === true);
      return result;
    } catch (error) {
      if (signal.aborted) this.#countSlow("legacy", begunMs);
      else count(true);
      if (error instanceof LegacyError) this.#problem = this.#legacyProblem(error);
      throw error;
    } finally {
      leave();
    }
  }

  /**
   * Its turn under the limits of its agent and upstream, unless it had that for MCP, and a connection to the API. Throws {@link LegacyError} where it
   * got neither; nothing was sent then, and nothing is said of the tool. Whoever was let in leaves the API once.
   */
  async #enterLegacy(tool: LegacyTool, signal: AbortSignal): Promise<() => void> {
    const refusal = this.#entry === null ? await this.#enterFirst(signal) : null;
    if (refusal !== null) throw this.#notLetIn(refusal);
    const monotonicMs = () => this.#world.monotonicMs();
    const { name } = this.#upstream;
    const call = {
      critical: this.#entry?.isCritical ?? false,
      deadlineMs: monotonicMs() + this.fallbackDeadlineMs - this.#nowMs(),
      signal,
      onWait: () => this.#world.waitsForLegacy(name),
    };
    const place = await this.#world.legacyPlaces.enter(tool.url, call, monotonicMs);
    if (typeof place !== "string") return place;
    if (!signal.aborted) this.#world.shed(name, place);
    throw this.#notLetIn(noPlaceProblem(tool.name));
  }

  /** Its turn, for a call that has been nowhere. One whose client leaves waits no more. */
  async #enterFirst(signal: AbortSignal): Promise<CallProblem | null> {
    const entry = new CallEntry(this.#world, this.#upstream, this.#call);
    this.#entry = entry;
    const onAbort = (): void => entry.leave();
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      return await entry.enter(this.fallbackDeadlineMs - this.#nowMs());
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }

  #notLetIn(problem: CallProblem): LegacyError {
    this.#refused(this.#unlessItRan(problem));
    return new LegacyError(problem.message, { executed: "no" });
  }

  #legacyProblem(error: LegacyError): CallProblem {
    if (error.executed === "unknown" && this.safety === "unsafe") {
      return { code: "outcome_unknown", message: `${error.message}; it may have run: look before you send it again`, retriable: false };
    }
    return this.#unlessItRan({ code: error.timedOut ? "deadline" : "no_endpoint", message: error.message, retriable: true });
  }

  #countTool(error: boolean): void {
    this.#countOne("mcp", error, this.#begunMs);
  }

  /** For a call that its client has given up: after longer than `response_time` the tool was slow, whatever was to come. Sooner it says nothing. */
  #countSlow(implementation: "mcp" | "legacy", begunMs: number): void {
    if (this.#world.monotonicMs() - begunMs > this.#upstream.policy.rollback.responseMsMax) this.#countOne(implementation, false, begunMs);
  }

  #countOne(implementation: "mcp" | "legacy", error: boolean, begunMs: number): void {
    const { tool, agent } = this.#call;
    if (tool === null) return;
    const latencyMs = Math.max(0, this.#world.monotonicMs() - begunMs);
    this.#world.report.tool({ upstream: this.#upstream.name, tool, agent, implementation, error, latencyMs });
  }
}

/** 429, 401, 403. */
type Refused = Extract<AttemptResult, { toolError: boolean }>;

const legacyMsUsual = 5000;
const reasonsMax = 8;
const standbyReason = "not active, and only the active endpoint takes calls that may write";
