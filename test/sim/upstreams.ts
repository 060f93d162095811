import type { SimProcess } from "./clock.ts";
import type { EventQueue } from "./event-queue.ts";
import type { Random } from "./random.ts";
import type { EndpointKey, EndpointMode, Fault, TruthRecord } from "./world-types.ts";

/**
 * Endpoints as those meet them who speak to them: what is written, what runs, what is answered.
 *
 * E1  Whether a request ran is a fact of the endpoint: it may run after its caller has given it up, and while its caller is dead.
 * E2  `written` is false only where no byte left: a refused or unfinished connect.
 * E3  What was held (a stopped server, a cut line) goes on when the fault ends.
 */

export type EndpointFault = Extract<Fault, { kind: "endpoint" }>;
/** Who asks; probes and calls can meet different things. */
export type Lane = "probes" | "calls";

export type Answer =
  | { readonly kind: "status"; readonly status: number; readonly toolError: boolean; readonly retryAfterMs: number | null }
  | { readonly kind: "error"; readonly code: "refused" | "reset" | "timeout" };

export interface Exchange {
  written: boolean;
  /** The caller gives up; the endpoint may run it all the same. */
  abort(): void;
}
interface UnderWay extends Exchange {
  readonly process: SimProcess;
  readonly lane: Lane;
  readonly onAnswer: (answer: Answer) => void;
  readonly onExecuted: (() => void) | null;
  readonly latencyMs: number;
  ran: boolean;
  over: boolean;
  given: boolean;
  timers: { cancelled: boolean }[];
}

interface EndpointState {
  readonly key: EndpointKey;
  readonly baseMs: number;
  faults: { readonly fault: EndpointFault; on: boolean }[];
  readonly underWay: Set<UnderWay>;
  /** What waits for a fault to end. */
  held: UnderWay[];
  /** Raised when its connections break; kept ones of before are gone. */
  life: number;
}

const connectMs = 0.4;
const ranShareReset = 0.5;
const ranShare503 = 0.3;
/** A stopped server runs what it finds in its sockets, unless it notices that nobody waits. */
const ranShareHeld = 0.7;
/** Connections that are kept between calls. */
const keptShare = 0.8;

export class Upstreams {
  readonly #queue: EventQueue;
  readonly #random: Random;
  readonly #endpoints = new Map<EndpointKey, EndpointState>();
  /** By process and lane: the life of the endpoint that a connection is kept to. */
  readonly #kept = new Map<SimProcess, Record<Lane, Map<EndpointState, number>>>();
  /** By machine and endpoint ("every" for all): how many cuts, each way. */
  readonly #cuts = new Map<string, { out: number; in: number }>();
  readonly #onTruth: (truth: Omit<TruthRecord, "atMs">) => void;

  constructor(queue: EventQueue, random: Random, keys: readonly EndpointKey[], onTruth: (truth: Omit<TruthRecord, "atMs">) => void) {
    this.#queue = queue;
    this.#random = random;
    this.#onTruth = onTruth;
    for (const key of keys) {
      const baseMs = random.between(3, 60);
      this.#endpoints.set(key, { key, baseMs, faults: [], underWay: new Set(), held: [], life: 1 });
    }
  }

  // -------------------------------------------------------------------------------------------------------------------- faults

  begin(fault: EndpointFault): void {
    const endpoint = this.#of(fault.endpoint);
    const entry = { fault, on: true };
    endpoint.faults.push(entry);
    this.#turned(endpoint, fault);
    if (fault.periodMs === null) return;
    const flip = (): void => {
      if (!endpoint.faults.includes(entry)) return;
      entry.on = !entry.on;
      if (entry.on) this.#turned(endpoint, fault);
      else this.#goOn(endpoint);
      this.#queue.after((fault.periodMs ?? 0) / 2, null, flip);
    };
    this.#queue.after(fault.periodMs / 2, null, flip);
  }

  end(fault: EndpointFault): void {
    const endpoint = this.#of(fault.endpoint);
    endpoint.faults = endpoint.faults.filter((entry) => entry.fault !== fault);
    this.#goOn(endpoint);
  }

  /** A line between a machine and an endpoint (or every one) is cut, or whole again. */
  cut(host: string, key: EndpointKey | "every", direction: "both" | "out" | "in", by: 1 | -1): void {
    const place = `${host} ${key}`;
    const cuts = this.#cuts.get(place) ?? { out: 0, in: 0 };
    if (direction !== "in") cuts.out += by;
    if (direction !== "out") cuts.in += by;
    this.#cuts.set(place, cuts);
    for (const endpoint of this.#endpoints.values()) {
      if (key !== "every" && endpoint.key !== key) continue;
      if (by === -1) this.#goOn(endpoint);
      else for (const one of [...endpoint.underWay]) if (one.process.host.name === host) this.#hold(endpoint, one);
    }
  }

  /** What a request of this lane would usually meet now. */
  truth(key: EndpointKey): Omit<TruthRecord, "atMs"> {
    const endpoint = this.#of(key);
    const of = (lane: Lane): EndpointFault | undefined => this.#faultOf(endpoint, lane);
    const [probes, calls] = [of("probes"), of("calls")];
    const share = Math.min(probes?.share ?? 1, calls?.share ?? 1);
    return { endpoint: key, probes: probes?.mode ?? "healthy", calls: calls?.mode ?? "healthy", share };
  }

  // ----------------------------------------------------------------------------------------------------------------- exchanges

  /** Whether a connect works: `refused`, `silent` (nothing comes back), or `listens`. */
  reach(process: SimProcess, key: EndpointKey): "listens" | "refused" | "silent" {
    if (this.#isCut(process, key)) return "silent";
    const mode = this.#meet(this.#of(key), "calls").mode;
    if (mode === "refused" || mode === "killed") return "refused";
    return mode === "blackhole" ? "silent" : "listens";
  }

  /** What a request that any server would answer at once meets. */
  look(process: SimProcess, key: EndpointKey, timeoutMs: number): "answers" | "silent" | "unclear" {
    if (this.#isCut(process, key)) return "silent";
    const { mode, fault } = this.#meet(this.#of(key), "calls");
    if (mode === "refused" || mode === "killed" || mode === "hung" || mode === "blackhole") return "silent";
    if (mode === "slow") return (fault?.latencyMs ?? 0) > timeoutMs ? "silent" : "answers";
    return mode === "reset" ? "unclear" : "answers";
  }

  /** One request to an endpoint. `onAnswer` is called at most once, in an event of the process. */
  send(
    process: SimProcess,
    key: EndpointKey,
    request: {
      readonly lane: Lane;
      readonly fresh: boolean;
      readonly connectMs: number;
      readonly onAnswer: (answer: Answer) => void;
      readonly onExecuted: (() => void) | null;
    },
  ): Exchange {
    const endpoint = this.#of(key);
    const random = this.#random;
    const { mode, fault } = this.#meet(endpoint, request.lane);
    const usualMs = endpoint.baseMs * (0.5 + random.next()) + (random.next() < 0.01 ? 100 * random.next() : 0);
    const latencyMs = usualMs + (mode === "slow" ? (fault?.latencyMs ?? 0) : 0);
    const one: UnderWay = {
      process,
      lane: request.lane,
      onAnswer: request.onAnswer,
      onExecuted: request.onExecuted,
      latencyMs,
      written: false,
      ran: false,
      over: false,
      given: false,
      timers: [],
      abort: () => this.#abort(endpoint, one),
    };
    const fail = (code: "refused" | "reset" | "timeout", afterMs: number): UnderWay => {
      this.#answer(endpoint, one, { kind: "error", code }, afterMs);
      return one;
    };
    const kept = !request.fresh && this.#hasKept(process, endpoint, request.lane) && random.chance(keptShare);
    if (this.#isCut(process, key) || mode === "blackhole") {
      if (!kept) return fail("timeout", request.connectMs);
      one.written = true;
      // Bytes may have come through before the line was noticed to be cut; answers do not.
      if (this.#cutsOf(process, key).out === 0 && mode !== "blackhole") this.#runSoon(endpoint, one, latencyMs / 2);
      endpoint.underWay.add(one);
      this.#hold(endpoint, one);
      return one;
    }
    if (mode === "refused" || mode === "killed") return fail("refused", connectMs * (0.5 + random.next()));
    one.written = true;
    endpoint.underWay.add(one);
    switch (mode) {
      case "hung":
        this.#hold(endpoint, one);
        return one;
      case "reset":
        if (random.chance(ranShareReset)) this.#runSoon(endpoint, one, latencyMs * 0.3);
        return fail("reset", latencyMs * 0.5);
      case "http_503":
        if (random.chance(ranShare503)) this.#runSoon(endpoint, one, latencyMs * 0.3);
        this.#answer(endpoint, one, status(503), latencyMs * 0.5);
        return one;
      case "rate_limited":
        this.#answer(
          endpoint,
          one,
          { ...status(429), retryAfterMs: random.chance(0.5) ? random.whole(1, 5) * 1000 : null },
          latencyMs * 0.3,
        );
        return one;
      case "auth":
        this.#answer(endpoint, one, status(401), latencyMs * 0.3);
        return one;
      case "tool_errors":
        this.#runSoon(endpoint, one, latencyMs * 0.5);
        this.#answer(endpoint, one, { ...status(200), toolError: true }, latencyMs);
        return one;
      case "slow":
      case "healthy":
        this.#runSoon(endpoint, one, latencyMs * 0.5);
        this.#answer(endpoint, one, status(200), latencyMs);
        return one;
    }
  }

  /** A process is gone: so are its connections. */
  forget(process: SimProcess): void {
    this.#kept.delete(process);
  }

  // ------------------------------------------------------------------------------------------------------------------- inside

  #of(key: EndpointKey): EndpointState {
    const endpoint = this.#endpoints.get(key);
    if (endpoint === undefined) throw new RangeError(`no endpoint ${key} in this world`);
    return endpoint;
  }

  #faultOf(endpoint: EndpointState, lane: Lane): EndpointFault | undefined {
    return endpoint.faults.findLast(({ fault, on }) => on && (fault.meets === "all" || fault.meets === lane))?.fault;
  }

  #meet(endpoint: EndpointState, lane: Lane): { readonly mode: EndpointMode; readonly fault: EndpointFault | null } {
    const fault = this.#faultOf(endpoint, lane);
    if (fault === undefined || (fault.share < 1 && this.#random.next() >= fault.share)) return { mode: "healthy", fault: null };
    return { mode: fault.mode, fault };
  }

  #cutsOf(process: SimProcess, key: EndpointKey): { out: number; in: number } {
    const one = this.#cuts.get(`${process.host.name} ${key}`);
    const every = this.#cuts.get(`${process.host.name} every`);
    return { out: (one?.out ?? 0) + (every?.out ?? 0), in: (one?.in ?? 0) + (every?.in ?? 0) };
  }

  #isCut(process: SimProcess, key: EndpointKey): boolean {
    if (this.#cuts.size === 0) return false;
    const cuts = this.#cutsOf(process, key);
    return cuts.out + cuts.in > 0;
  }

  #hasKept(process: SimProcess, endpoint: EndpointState, lane: Lane): boolean {
    return this.#kept.get(process)?.[lane].get(endpoint) === endpoint.life;
  }

  #keep(one: UnderWay, endpoint: EndpointState): void {
    let kept = this.#kept.get(one.process);
    if (kept === undefined) {
      kept = { probes: new Map(), calls: new Map() };
      this.#kept.set(one.process, kept);
    }
    kept[one.lane].set(endpoint, endpoint.life);
  }

  #runSoon(endpoint: EndpointState, one: UnderWay, afterMs: number): void {
    if (one.onExecuted === null) return;
    one.timers.push(
      this.#queue.after(afterMs, null, () => {
        this.#run(endpoint, one);
      }),
    );
  }

  #run(_endpoint: EndpointState, one: UnderWay): void {
    if (one.ran) return;
    one.ran = true;
    one.onExecuted?.();
  }

  #answer(endpoint: EndpointState, one: UnderWay, answer: Answer, afterMs: number): void {
    one.timers.push(
      this.#queue.after(afterMs, one.process, () => {
        endpoint.underWay.delete(one);
        if (one.over) return;
        one.over = true;
        if (answer.kind === "status") this.#keep(one, endpoint);
        one.onAnswer(answer);
      }),
    );
  }

  #abort(endpoint: EndpointState, one: UnderWay): void {
    if (one.over) return;
    one.over = true;
    one.given = true;
    endpoint.underWay.delete(one);
    // What is on its way to run mostly runs: servers seldom notice that their caller has gone.
    if (!one.ran && !this.#random.chance(ranShareHeld)) for (const timer of one.timers) timer.cancelled = true;
  }

  /** A fault takes hold of what is under way. */
  #turned(endpoint: EndpointState, fault: EndpointFault): void {
    this.#onTruth(this.truth(endpoint.key));
    if (fault.mode === "killed" || fault.mode === "refused") endpoint.life += 1;
    if (fault.mode !== "killed" && fault.mode !== "hung" && fault.mode !== "blackhole") return;
    for (const one of [...endpoint.underWay]) {
      if (fault.meets !== "all" && fault.meets !== one.lane) continue;
      if (fault.mode !== "killed") {
        this.#hold(endpoint, one);
        continue;
      }
      const ran = one.ran || this.#random.chance(ranShareReset);
      for (const timer of one.timers) timer.cancelled = true;
      endpoint.underWay.delete(one);
      endpoint.held = endpoint.held.filter((other) => other !== one);
      if (ran) this.#run(endpoint, one);
      this.#answer(endpoint, one, { kind: "error", code: "reset" }, 0.2);
    }
  }

  /** No answer comes before the fault ends; a stopped server does not run it either. */
  #hold(endpoint: EndpointState, one: UnderWay): void {
    for (const timer of one.timers) timer.cancelled = true;
    one.timers = [];
    if (!endpoint.held.includes(one)) endpoint.held.push(one);
  }

  /** A fault has ended: what it held goes on, where nothing else holds it. */
  #goOn(endpoint: EndpointState): void {
    this.#onTruth(this.truth(endpoint.key));
    const held = endpoint.held.splice(0);
    for (const one of held) {
      const mode = this.#faultOf(endpoint, one.lane)?.mode;
      if (mode === "hung" || mode === "blackhole" || this.#isCut(one.process, endpoint.key)) {
        endpoint.held.push(one);
        continue;
      }
      const afterMs = this.#random.next() * 300;
      if (!one.ran && (!one.given || this.#random.chance(ranShareHeld))) this.#runSoon(endpoint, one, afterMs + one.latencyMs / 2);
      if (!one.over) this.#answer(endpoint, one, status(200), afterMs + one.latencyMs);
    }
  }
}

function status(code: number): Extract<Answer, { kind: "status" }> {
  return { kind: "status", status: code, toolError: false, retryAfterMs: null };
}
