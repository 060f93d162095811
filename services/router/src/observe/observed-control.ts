import type { Attempt, AttemptResult, CallControl, CallDescription, RouterControl } from "../control/port.ts";
import type { RequestTrace, TraceContext } from "./trace.ts";

/** What can be said of a call when it is over. */
export interface CallRecord {
  readonly upstream: string;
  /** Of the last attempt; null: none was made. */
  readonly endpoint: string | null;
  readonly method: string;
  readonly tool: string | null;
  readonly agent: string | null;
  /** Of the last attempt; `legacy` and `none` where none was made. `aborted` whenever the client gave it up. */
  readonly outcome: AttemptResult["outcome"] | "legacy" | "none";
  /** Of a hard failure. */
  readonly code: string | null;
  readonly attempts: number;
  readonly tookMs: number;
  readonly operationId: string | null;
}
export interface CallObserver {
  over(record: CallRecord): void;
}

/** A control that tells an observer of each call once it is over, and names each step in the trace of its request. It changes nothing else. */
export function observedControl(control: RouterControl, observer: CallObserver, nowMs: () => number): RouterControl {
  const observed: RouterControl = Object.create(control) as RouterControl;
  // What belongs to the control is asked of the control itself: its methods may use private fields.
  for (const name of ["upstream", "upstreams", "ready", "access", "configuration", "learnTools", "onRouteChange"] as const) {
    const method = control[name];
    if (method !== undefined) Object.defineProperty(observed, name, { value: method.bind(control) });
  }
  Object.defineProperty(observed, "begin", {
    value: (call: CallDescription) => new ObservedCall(control.begin(call), call, observer, nowMs),
  });
  return observed;
}

class ObservedCall implements CallControl {
  readonly #inner: CallControl;
  readonly #call: CallDescription;
  readonly #observer: CallObserver;
  readonly #nowMs: () => number;
  #attempts = 0;
  #endpoint: string | null = null;
  #last: AttemptResult | null = null;
  #over = false;

  constructor(inner: CallControl, call: CallDescription, observer: CallObserver, nowMs: () => number) {
    this.#inner = inner;
    this.#call = call;
    this.#observer = observer;
    this.#nowMs = nowMs;
  }

  get deadlineMs() {
    return this.#inner.deadlineMs;
  }
  get fallbackDeadlineMs() {
    return this.#inner.fallbackDeadlineMs;
  }
  get implementation() {
    return this.#inner.implementation;
  }
  get safety() {
    return this.#inner.safety;
  }
  get stale() {
    return this.#inner.stale;
  }
  get legacy() {
    return this.#inner.legacy;
  }
  problem() {
    return this.#inner.problem();
  }
  legacyFace() {
    return this.#inner.legacyFace?.() ?? { tools: [], inForce: false };
  }

  next(): Attempt | null | Promise<Attempt | null> {
    const next = this.#inner.next();
    return next instanceof Promise ? next.then((attempt) => this.#begun(attempt)) : this.#begun(next);
  }

  hedge(): Attempt | null {
    return this.#begun(this.#inner.hedge?.() ?? null);
  }

  #begun(attempt: Attempt | null): Attempt | null {
    if (attempt === null) return null;
    this.#attempts++;
    this.#endpoint = attempt.endpoint.name;
    return new ObservedAttempt(attempt, this.#call, this.#nowMs, (result) => {
      this.#last = result;
      if (result.outcome !== "cancelled") this.#endpoint = attempt.endpoint.name;
    });
  }

  end(outcome: "ok" | "error" | "given_up"): void {
    this.#inner.end(outcome);
    if (this.#over) return;
    this.#over = true;
    const { upstream, method, tool, agent, startedAtMs, operationId, trace } = this.#call;
    const last = this.#last;
    const unattempted = this.#inner.implementation === "legacy" && outcome === "ok" ? "legacy" : "none";
    const outcomeSaid = outcome === "given_up" ? "aborted" : (last?.outcome ?? unattempted);
    const code = outcomeSaid === "hard" && last?.outcome === "hard" ? last.code : null;
    const endMs = this.#nowMs();
    this.#observer.over({
      upstream,
      endpoint: this.#endpoint,
      method,
      tool,
      agent,
      outcome: outcomeSaid,
      code,
      attempts: this.#attempts,
      tookMs: endMs - startedAtMs,
      operationId: operationId ?? null,
    });
    trace?.ended({
      name: spanNameOf(method, tool),
      startMs: startedAtMs,
      endMs,
      failed: outcome === "error",
      attributes: {
        "mcpf.upstream": upstream,
        "mcpf.outcome": outcomeSaid,
        "mcpf.attempts": this.#attempts,
        "mcp.method.name": method.slice(0, 128),
        ...(tool === null ? {} : { "gen_ai.tool.name": tool.slice(0, 128) }),
        ...(agent === null ? {} : { "mcpf.agent": agent }),
        ...(operationId === undefined ? {} : { "mcpf.operation_id": operationId }),
        ...(code === null ? {} : { "error.type": code }),
      },
    });
  }
}

class ObservedAttempt implements Attempt {
  readonly endpoint: Attempt["endpoint"];
  readonly connectMs: number;
  readonly givenUp: Attempt["givenUp"];
  readonly whenLate: NonNullable<Attempt["whenLate"]> | null;
  readonly #inner: Attempt;
  readonly #told: (result: AttemptResult) => void;
  readonly #call: CallDescription;
  readonly #nowMs: () => number;
  readonly #step: TraceContext | null;
  readonly #startMs: number;

  constructor(inner: Attempt, call: CallDescription, nowMs: () => number, told: (result: AttemptResult) => void) {
    this.#inner = inner;
    this.#told = told;
    this.#call = call;
    this.#nowMs = nowMs;
    this.endpoint = inner.endpoint;
    this.connectMs = inner.connectMs;
    this.givenUp = inner.givenUp;
    this.whenLate = inner.whenLate ?? null;
    this.#step = call.trace?.enterAttempt() ?? null;
    this.#startMs = this.#step === null ? 0 : nowMs();
  }

  answering(): void {
    this.#inner.answering();
  }

  done(result: AttemptResult): { readonly retry: boolean } {
    this.#told(result);
    const answer = this.#inner.done(result);
    if (this.#step !== null) this.#export(this.#step, result, answer.retry);
    return answer;
  }

  #export(step: TraceContext, result: AttemptResult, retry: boolean): void {
    const { upstream, method, tool, trace } = this.#call;
    trace?.attemptEnded(step, {
      name: spanNameOf(method, tool),
      startMs: this.#startMs,
      endMs: this.#nowMs(),
      failed: result.outcome === "hard",
      attributes: {
        "mcpf.upstream": upstream,
        "mcpf.endpoint": this.endpoint.name,
        "mcpf.outcome": result.outcome,
        "mcpf.retry": retry ? "yes" : "no",
        ...(result.outcome === "hard" ? { "error.type": result.code, "mcpf.executed": result.executed } : {}),
      },
    });
  }
}

/** As the conventions for MCP name spans: the method, and the tool. */
export function spanNameOf(method: string, tool: string | null): string {
  return (tool === null ? method : `${method} ${tool}`).slice(0, 200);
}

/** For {@link CallDescription}. */
export type CallTrace = Pick<RequestTrace, "enterAttempt" | "attemptEnded" | "ended">;
