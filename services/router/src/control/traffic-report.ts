import { type Bus, BusError } from "@mcp-failover/bus";
import type { Event, TrafficObserved, TrafficUnknown } from "@mcp-failover/contracts";
import type { Held } from "./route-table.ts";
import {
  type ClosedWindow,
  countCall,
  countHedge,
  countTool,
  type EndedCall,
  type EndedTool,
  emptyWindow,
  endpointsOf,
  InFlight,
  InFlightCalls,
  mergeWindows,
  noteUnknown,
  type Remarks,
} from "./traffic-window.ts";

export interface ReportOptions {
  readonly bus: Pick<Bus, "append" | "status">;
  readonly router: string;
  readonly nowMs: () => number;
  readonly makeEvent: (data: TrafficObserved) => Event<"traffic.observed">;
  /** What this router holds now. */
  readonly held: () => Held;
  /** What is said of an endpoint besides its calls. */
  readonly remarksOn?: (upstream: string, endpoint: string) => Remarks;
  readonly windowMs: number;
  readonly onProblem: (error: unknown) => void;
}

/** Without traffic a router says what it holds this often: others count it as live by it. */
const idleMs = 2000;
/** Urgent reports (a route applied, an endpoint ejected) come at most this often. */
const urgentGapMs = 20;
/** While the log is away, windows are joined into ones this long, and at most so many are kept: 30 s, the breakers' own window. */
const joinedMs = 1000;
const joinedMax = 30;
/** So many entries stay well under NATS's 1 MiB: about 450 bytes an endpoint, 250 a tool. */
const entriesPerMessage = 800;

/**
 * Sends `traffic.observed` windows. A call never waits for it, and it never holds more than {@link joinedMax} windows.
 * A message whose fate is unknown is sent again with the same id, so that the log counts it once (W1).
 */
export class TrafficReport {
  /** Windows that were dropped because the log was away too long. */
  dropped = 0;
  readonly #options: ReportOptions;
  readonly #inFlight = new InFlightCalls();
  #open: ClosedWindow;
  #waiting: ClosedWindow[] = [];
  #unsent: Event<"traffic.observed">[] = [];
  #sending: Promise<void> | null = null;
  #lastSentMs = 0;
  #sentInFlight = false;
  #again = false;
  /** Every `windowMs` while there is something to say; else it rests until it has to say that it lives. */
  #timer: NodeJS.Timeout;
  #resting = false;
  #urgent: NodeJS.Timeout | undefined;
  #stopped = false;

  constructor(options: ReportOptions) {
    this.#options = options;
    this.#open = emptyWindow(options.nowMs());
    this.#timer = this.#tickIn(options.windowMs);
  }

  /** `generation`: of the fleet's breaker, under which the call is let through. */
  begin(upstream: string, endpoint: string, generation: number): InFlight {
    const call = new InFlight({ upstream, endpoint, generation }, this.#options.nowMs());
    this.#inFlight.begin(call);
    this.#wake();
    return call;
  }

  /** `ended: null`: the client went away, or nothing was sent; the call counts as nothing. */
  end(call: InFlight, ended: EndedCall | null): void {
    this.#inFlight.end(call);
    if (ended !== null) countCall(this.#open, call, ended);
    this.#wake();
  }

  /** Beside the calls themselves: a read that was late there was made at another endpoint too, or `won` by that. */
  hedge(call: InFlight, won: boolean): void {
    countHedge(this.#open, call, won);
    this.#wake();
  }

  tool(call: EndedTool): void {
    countTool(this.#open, call);
    this.#wake();
  }

  /** Nobody knows whether a call ran: said, so that its operation id is found in the log. */
  unknown(call: TrafficUnknown): void {
    noteUnknown(this.#open, call);
    this.#wake();
  }

  /** A route was applied or an endpoint ejected: said at once, not at the next tick. */
  hurry(): void {
    if (this.#stopped) return;
    this.#urgent ??= setTimeout(() => {
      this.#urgent = undefined;
      this.#send();
    }, urgentGapMs);
    this.#urgent.unref();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#urgent);
    await this.#sending;
    if (this.#options.bus.status.kind !== "connected") return;
    this.#send();
    await this.#sending;
  }

  /** How much is held back now: for tests and metrics. */
  get backlog(): { readonly windows: number; readonly messages: number } {
    return { windows: this.#waiting.length, messages: this.#unsent.length };
  }

  #tick(): void {
    const { nowMs, windowMs } = this.#options;
    const sinceMs = nowMs() - this.#lastSentMs;
    // A clock that was set back must not silence this router.
    const idleOver = sinceMs >= idleMs - windowMs / 2 || sinceMs < 0;
    const { endpoints, tools, unknown } = this.#open;
    if (endpoints.size > 0 || tools.size > 0 || unknown.length > 0 || this.#hasMore() || idleOver) this.#send();
    this.#resting = !this.#hasMore();
    this.#timer = this.#tickIn(this.#resting ? Math.max(windowMs, idleMs - Math.max(0, nowMs() - this.#lastSentMs)) : windowMs);
  }

  /** Besides what has ended in the open window. */
  #hasMore(): boolean {
    return this.#inFlight.any || this.#sentInFlight || this.#waiting.length > 0 || this.#unsent.length > 0;
  }

  #wake(): void {
    if (!this.#resting || this.#stopped) return;
    this.#resting = false;
    clearTimeout(this.#timer);
    this.#timer = this.#tickIn(this.#options.windowMs);
  }

  #tickIn(ms: number): NodeJS.Timeout {
    return setTimeout(() => this.#tick(), ms).unref();
  }

  #send(): void {
    this.#close();
    if (this.#sending !== null) {
      // What is on its way may not have it yet: it is said right after.
      this.#again = true;
      return;
    }
    if (this.#options.bus.status.kind !== "connected") return;
    this.#sending = this.#drain().finally(() => {
      this.#sending = null;
      if (!this.#again || this.#stopped) return;
      this.#again = false;
      this.#send();
    });
  }

  /** Ends the open window and puts it behind those that wait; the oldest goes when there are too many. */
  #close(): void {
    const nowMs = this.#options.nowMs();
    this.#open.toMs = Math.max(nowMs, this.#open.fromMs);
    const last = this.#waiting.at(-1);
    if (last !== undefined && this.#open.toMs - last.fromMs <= joinedMs)
      this.#waiting[this.#waiting.length - 1] = mergeWindows(last, this.#open);
    else this.#waiting.push(this.#open);
    this.#open = emptyWindow(nowMs);
    while (this.#waiting.length > joinedMax) {
      this.#waiting.shift();
      this.dropped += 1;
    }
  }

  async #drain(): Promise<void> {
    try {
      if (this.#unsent.length === 0) this.#unsent = this.#messages();
      for (let event = this.#unsent[0]; event !== undefined; event = this.#unsent[0]) {
        await this.#options.bus.append(event);
        this.#unsent.shift();
      }
    } catch (error) {
      // What the log will never take must not hold back what comes after it.
      if (error instanceof BusError && !error.retriable) {
        this.#unsent.shift();
        this.dropped += 1;
      }
      this.#options.onProblem(error);
    }
  }

  /** Everything that waits, in as few messages as fit: each carries the routes, so that a reader of the last one knows them. */
  #messages(): Event<"traffic.observed">[] {
    const [first, ...others] = this.#waiting;
    this.#waiting = [];
    const nowMs = this.#options.nowMs();
    const window = others.reduce(mergeWindows, first ?? emptyWindow(nowMs));
    const endpoints = endpointsOf(window, this.#inFlight.at(nowMs), this.#options.remarksOn);
    const tools = [...window.tools.values()];
    this.#lastSentMs = nowMs;
    this.#sentInFlight = this.#inFlight.any;
    const { routes, rollbacks, rollbackIds } = this.#options.held();
    const parts = Math.max(1, Math.ceil(Math.max(endpoints.length, tools.length) / entriesPerMessage));
    return Array.from({ length: parts }, (_, part) => {
      const [from, to] = [part * entriesPerMessage, (part + 1) * entriesPerMessage];
      return this.#options.makeEvent({
        router: this.#options.router,
        fromMs: window.fromMs,
        toMs: window.toMs,
        endpoints: endpoints.slice(from, to),
        tools: tools.slice(from, to),
        ...(part === 0 && window.unknown.length > 0 ? { unknown: window.unknown } : {}),
        ...(part === 0 && window.unknownMore > 0 ? { unknownMore: window.unknownMore } : {}),
        routes,
        rollbacks,
        rollbackIds,
      });
    });
  }
}
