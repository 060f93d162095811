import type { FailoverState, UpstreamConfig } from "@mcp-failover/contracts";
import {
  chargeRetry,
  classifyHttpStatus,
  creditCall,
  initialRetryBudget,
  mayRetry,
  type Policy,
  planRoute,
  type RetryBudget,
  type RouteQuestion,
  type Safety,
} from "@mcp-failover/domain";
import { type AttemptEnd, attempt, foreverMs } from "./attempt.ts";
import { ClientEndpoint, type ClientPermit, type FleetWord } from "./endpoint.ts";
import {
  BreakerOpenError,
  BulkheadFullError,
  CallTimeoutError,
  ClientClosedError,
  NoEndpointError,
  OutcomeUnknownError,
} from "./errors.ts";
import { type Failure, failureOf } from "./failure.ts";
import { WaitingLine } from "./waiting-line.ts";

/** What the function of a call is given. */
export interface CallContext {
  readonly endpoint: { readonly name: string; readonly url: string };
  /** Aborted when the time of the call is over, or the caller cancels. Pass it on to whatever the function waits for. */
  readonly signal: AbortSignal;
  /** Of the route that the call goes by. */
  readonly epoch: number;
  readonly generation: number;
  /** 1 for the first. */
  readonly attempt: number;
}
export interface CallOptions {
  /** For the call with all its attempts. Default: the configuration's, 55 s without one. */
  readonly timeoutMs?: number | undefined;
  /** For one attempt of a call that may be repeated; the next one goes elsewhere. */
  readonly attemptTimeoutMs?: number | undefined;
  /** A repeat changes nothing that the first did not: the call may be sent again, in `active_standby` to the then active endpoint. */
  readonly idempotent?: boolean | undefined;
  /** The call changes nothing: it may be sent again, and in `active_standby` to a standby too. */
  readonly readOnly?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  /** What an error says about the endpoint, where the default (`failureOf`) does not know it. */
  readonly classify?: ((error: unknown) => Failure | null) | undefined;
}

/** What the function threw last: an error's class does not say whose it is, as the function may have a breaker or a client of its own. */
export interface CallNote {
  thrown: unknown;
}

/** What the calls of one upstream need to know at each step; read anew each time, because the fleet may move meanwhile. */
export interface UpstreamWorld {
  readonly upstream: string;
  /** Null: not configured (any more). */
  config(): UpstreamConfig | null;
  policy(): Policy;
  route(): FailoverState | null;
  word(endpoint: string): FleetWord;
  logReachable(): boolean;
  /** The controller says that there is nowhere to go. */
  failing(): boolean;
  readonly concurrencyMax: number;
  readonly queueMax: number;
  /** For all that this client times itself: no call is longer, and no endpoint out, for a clock that was set. */
  nowMs(): number;
  /** For what the fleet says. */
  wallMs(): number;
  random(): number;
}

/**
 * The calls of one client to one upstream.
 *
 * A1  At most `concurrencyMax` functions run at once, and at most `queueMax` calls wait for a place; waiting counts against a call's time.
 * A2  A call that is neither idempotent nor read-only is sent again only after proof that it did not run.
 * A3  No call takes longer than its time; at its end the function's signal is aborted.
 * A4  An endpoint that is out gets one trial call at a time, however many callers there are; the others are told at once.
 * A5  A result counts only for the generation of the local breaker, and of the fleet's, under which the call began.
 * A6  Through a half-open breaker of the fleet goes one trial at a time: permits are the routers' alone. Surplus calls never queue.
 */
export class UpstreamCalls {
  readonly #world: UpstreamWorld;
  #endpoints: ClientEndpoint[] = [];
  #config: UpstreamConfig | null = null;
  #running = 0;
  #turn = 0;
  #budget: RetryBudget | null = null;
  readonly #waiting = new Set<() => void>();
  #closed = false;

  readonly #line: WaitingLine;

  constructor(world: UpstreamWorld) {
    this.#world = world;
    this.#line = new WaitingLine(world.queueMax);
  }

  /** Calls that have not begun yet end now, and so does a call that waits for the fleet; functions that run are let run. */
  close(): void {
    this.#closed = true;
    this.#line.refuseAll(() => new ClientClosedError());
    this.wake();
  }

  /** The fleet has changed something: calls that wait for it look again. */
  wake(): void {
    for (const wake of [...this.#waiting]) wake();
  }

  async run<T>(call: (context: CallContext) => T | PromiseLike<T>, options: CallOptions, note: CallNote): Promise<T> {
    const beganMs = this.#world.nowMs();
    if (this.#running >= this.#world.concurrencyMax) await this.#place(options);
    else this.#running += 1;
    const leave = countDown(() => {
      this.#running -= 1;
      this.#line.next()?.start();
    });
    try {
      return await this.#attempts(call, options, { leave, beganMs, note });
    } finally {
      leave.done();
    }
  }

  /** Waits for a place and takes it. */
  #place({ timeoutMs = this.#world.policy().router.callMs, signal }: CallOptions): Promise<void> {
    const { upstream, concurrencyMax, queueMax } = this.#world;
    return new Promise((resolve, reject) => {
      const leave = (): void => {
        this.#line.leave(waiting);
        clearTimeout(timer);
        signal?.removeEventListener("abort", onAbort);
      };
      const refuse = (error: unknown): void => {
        leave();
        reject(error);
      };
      const waiting = {
        start: (): void => {
          leave();
          this.#running += 1;
          resolve();
        },
        refuse,
      };
      const onAbort = (): void => refuse(signal?.reason);
      const timer = setTimeout(() => refuse(new CallTimeoutError(upstream, timeoutMs, false)), Math.min(foreverMs, Math.max(0, timeoutMs)));
      signal?.addEventListener("abort", onAbort, { once: true });
      if (signal?.aborted) onAbort();
      else if (!this.#line.join(waiting)) refuse(new BulkheadFullError(upstream, concurrencyMax, queueMax));
    });
  }

  async #attempts<T>(
    call: (context: CallContext) => T | PromiseLike<T>,
    options: CallOptions,
    { leave, beganMs, note }: { readonly leave: CountDown; readonly beganMs: number; readonly note: CallNote },
  ): Promise<T> {
    const world = this.#world;
    const policy = world.policy();
    const timeoutMs = options.timeoutMs ?? policy.router.callMs;
    const deadlineMs = beganMs + timeoutMs;
    const safety: Safety = options.readOnly ? "read_only" : options.idempotent ? "idempotent" : "unsafe";
    const state: CallState = { tried: [], attempts: 0, again: false, failure: null, waitUntilMs: null };
    this.#budget = creditCall(this.#budget ?? initialRetryBudget(world.nowMs(), policy.router), world.nowMs());
    for (;;) {
      options.signal?.throwIfAborted();
      if (this.#closed) throw new ClientClosedError();
      const nowMs = world.nowMs();
      if (nowMs >= deadlineMs) throw new CallTimeoutError(world.upstream, timeoutMs, false);
      const plan = this.#plan(state, safety, nowMs);
      if (plan.wait) {
        state.waitUntilMs ??= Math.min(deadlineMs, nowMs + policy.router.epochWaitMs);
        await this.#change(state.waitUntilMs - nowMs, options.signal);
        continue;
      }
      if (plan.endpoint === null) throw this.#refusal(state, plan.why);
      const { endpoint } = plan;
      const permit = endpoint.acquire(nowMs, policy.localBreaker);
      state.tried.push(endpoint.name);
      if (permit === null) {
        state.busy = true;
        continue;
      }
      state.attempts += 1;
      const leftMs = deadlineMs - nowMs;
      const attemptMs = safety === "unsafe" ? leftMs : Math.min(leftMs, options.attemptTimeoutMs ?? leftMs);
      const timedOut = (): Error => new CallTimeoutError(world.upstream, attemptMs < leftMs ? attemptMs : timeoutMs, safety === "unsafe");
      const end = await this.#once(call, endpoint, { state, attemptMs, timedOut, signal: options.signal, leave });
      const latencyMs = world.nowMs() - nowMs;
      if (end.kind === "value") {
        this.#record(endpoint, permit, { ...judgeValue(end.value), latencyMs });
        return end.value;
      }
      if (end.kind === "cancelled") {
        endpoint.release(permit);
        throw end.reason;
      }
      if (end.kind === "error") note.thrown = end.error;
      let failure: Failure;
      try {
        failure = end.kind === "timeout" ? overtime : (options.classify?.(end.error) ?? failureOf(end.error));
      } catch (error) {
        endpoint.release(permit);
        throw error;
      }
      const error = end.kind === "timeout" ? timedOut() : end.error;
      this.#record(endpoint, permit, { ...failure, latencyMs });
      // The endpoint answered; what it said is the caller's business.
      if (failure.class === "caller" || failure.class === "auth") throw error;
      state.failure = { endpoint: endpoint.name, error };
      state.again = failure.code === "reset" || failure.code === "closed";
      this.#mayGoOn(state, { safety, failure, error, deadlineMs, policy });
    }
  }

  #once<T>(
    call: (context: CallContext) => T | PromiseLike<T>,
    endpoint: ClientEndpoint,
    by: { state: CallState; attemptMs: number; timedOut: () => Error; signal: AbortSignal | undefined; leave: CountDown },
  ): Promise<AttemptEnd<T>> {
    const { epoch = 0, generation = 0 } = this.#world.route() ?? {};
    const context = { endpoint: { name: endpoint.name, url: endpoint.url }, epoch, generation, attempt: by.state.attempts };
    by.leave.more();
    return attempt((signal) => call({ ...context, signal }), {
      timeoutMs: by.attemptMs,
      timeoutReason: by.timedOut,
      signal: by.signal,
      onSettled: () => {
        endpoint.leave();
        by.leave.done();
      },
    });
  }

  /** Returns where the call may be sent again, and throws what the caller gets where it may not (A2). */
  #mayGoOn(state: CallState, by: { safety: Safety; failure: Failure; error: unknown; deadlineMs: number; policy: Policy }): void {
    const { upstream } = this.#world;
    const nowMs = this.#world.nowMs();
    const budget = this.#budget ?? initialRetryBudget(nowMs, by.policy.router);
    const answer = mayRetry({
      safety: by.safety,
      executed: by.failure.executed,
      attempts: state.attempts,
      attemptsMax: by.policy.router.attemptsMax,
      budget,
      deadlineMs: by.deadlineMs,
      nowMs,
    });
    if (answer.retry) {
      if (answer.charged) this.#budget = chargeRetry(budget, nowMs);
      return;
    }
    if (by.error instanceof CallTimeoutError || by.failure.class === "soft") throw by.error;
    if (answer.rule === "outcome_unknown") throw new OutcomeUnknownError(upstream, state.failure?.endpoint ?? "", by.error);
    throw new NoEndpointError(upstream, `gave up after ${state.attempts} attempts: ${stopped[answer.rule]}`, by.error);
  }

  #plan(
    state: CallState,
    safety: Safety,
    nowMs: number,
  ): { wait: true } | { wait: false; endpoint: ClientEndpoint; why: null } | { wait: false; endpoint: null; why: string } {
    const world = this.#world;
    const config = world.config();
    const route = world.route();
    if (config === null || route === null) return { wait: false, endpoint: null, why: "its routes are not known" };
    this.#reconfigure(config);
    for (const endpoint of this.#endpoints) endpoint.refresh(world.word(endpoint.name), nowMs);
    this.#turn += 1;
    const question: RouteQuestion = {
      mode: config.mode,
      active: route.active,
      // As configured now, as the router has it: the decision may be older than the configuration.
      activeTier: this.#endpoints.find(({ name }) => name === route.active)?.tier ?? route.tier,
      strategy: config.balancing,
      safety,
      sessions: "stateless",
      sessionEndpoint: null,
      tried: state.tried,
      again: state.again,
      mayWait: safety !== "read_only" && this.#mayMove(config, route) && (state.waitUntilMs === null || nowMs < state.waitUntilMs),
      endpoints: this.#endpoints,
      random: world.random(),
      turn: this.#turn,
      nowMs,
    };
    const plan = planRoute(question, world.policy().router);
    if (plan.rule === "wait") return { wait: true };
    const endpoint = this.#endpoints.find(({ name }) => name === plan.endpoint);
    return endpoint === undefined
      ? { wait: false, endpoint: null, why: plan.rule.replaceAll("_", " ") }
      : { wait: false, endpoint, why: null };
  }

  /** Waiting helps only where the fleet may move the upstream by itself, and this client would hear of it. */
  #mayMove(config: UpstreamConfig, route: FailoverState): boolean {
    const { failover } = this.#world.policy();
    if (config.mode !== "active_standby" || !failover.automatic || !this.#world.logReachable() || this.#world.failing()) return false;
    if (route.held !== null && (route.held.untilMs === null || route.held.untilMs > this.#world.wallMs())) return false;
    return this.#endpoints.some(
      ({ name, role, health, closedBy }) => role === "write" && name !== route.active && health !== "unhealthy" && closedBy === null,
    );
  }

  #refusal(state: CallState, why: string): Error {
    const { upstream } = this.#world;
    if (state.failure !== null) {
      return new NoEndpointError(upstream, `${state.failure.endpoint} failed, and no other may be tried`, state.failure.error);
    }
    const closed = this.#endpoints.map((endpoint) => endpoint.closedBy).filter((one) => one !== null);
    return closed.length > 0 || state.busy ? new BreakerOpenError(upstream, closed.join("; ") || why) : new NoEndpointError(upstream, why);
  }

  #record(endpoint: ClientEndpoint, permit: ClientPermit, end: Pick<Failure, "class" | "code"> & { latencyMs: number }): void {
    endpoint.record(permit, end, this.#world.nowMs(), this.#world.policy().localBreaker);
  }

  #reconfigure(config: UpstreamConfig): void {
    if (config === this.#config) return;
    this.#config = config;
    const before = new Map(this.#endpoints.map((endpoint) => [endpoint.name, endpoint]));
    this.#endpoints = config.endpoints.map((endpoint) => {
      const known = before.get(endpoint.name);
      // Another address is another endpoint: what was learned of the old one says nothing about it.
      return known?.url === endpoint.url ? known.reconfigure(endpoint) : new ClientEndpoint(endpoint);
    });
  }

  /** Resolves at the next change of the fleet, after `timeoutMs`, or when the caller cancels. */
  #change(timeoutMs: number, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        this.#waiting.delete(wake);
        clearTimeout(timer);
        signal?.removeEventListener("abort", wake);
        resolve();
      };
      const timer = setTimeout(wake, Math.min(foreverMs, Math.max(0, timeoutMs)));
      signal?.addEventListener("abort", wake, { once: true });
      this.#waiting.add(wake);
    });
  }
}

const overtime: Failure = { class: "hard", code: "timeout", executed: "unknown" };
const stopped = {
  attempts: "no more are allowed",
  deadline: "its time is over",
  budget: "too many calls are being repeated already",
} as const;

interface CallState {
  /** Names, in the order of the attempts. */
  readonly tried: string[];
  attempts: number;
  again: boolean;
  failure: { readonly endpoint: string; readonly error: unknown } | null;
  waitUntilMs: number | null;
  /** An endpoint was left to the call that tries it already. */
  busy?: boolean;
}

/** `fetch` resolves with a `Response` whatever its status; a bad one is the endpoint's failure all the same. */
function judgeValue(value: unknown): Pick<Failure, "class" | "code"> {
  if (!(value instanceof Response)) return { class: "ok", code: null };
  const { outcome, code } = classifyHttpStatus(value.status);
  return { class: outcome, code };
}

interface CountDown {
  more(): void;
  done(): void;
}
/** Calls `last` when every `more` and the beginning itself have been matched by a `done`. */
function countDown(last: () => void): CountDown {
  let open = 1;
  return {
    more() {
      open += 1;
    },
    done() {
      open -= 1;
      if (open === 0) last();
    },
  };
}
