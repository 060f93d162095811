import { randomUUID } from "node:crypto";
import { LocalResponse } from "../bridge/local-exchange.ts";
import { clientMessageOf, refusal, unknownSession } from "../bridge/message-pipe.ts";
import { PipeSession, restingLongest } from "../bridge/pipe-session.ts";
import { SharedPipe } from "../bridge/shared-pipe.ts";
import { isObject, versionKey } from "../mcp/envelope.ts";
import type { DataPlaneLog } from "../mcp/inbound.ts";
import { UpstreamError, type UpstreamRequest, type UpstreamResponse } from "../upstream-client.ts";
import { StdioChild } from "./child.ts";
import type { Guard } from "./guard.ts";
import type { StdioLimits } from "./limits.ts";

/** A stdio server as the configuration has it, its secrets resolved. */
export interface StdioSpec {
  readonly command: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd?: string | undefined;
  readonly sessionsMax?: number | undefined;
}
/** Programs with their first arguments, by name: what the router's operator lets it start. */
export type StdioAllow = ReadonlyMap<string, readonly [string, ...string[]]>;

export interface StdioDeps {
  readonly allow: StdioAllow;
  /** What every process gets of this router's own environment: `PATH`. */
  readonly baseEnv: Readonly<Record<string, string>>;
  readonly guard: Guard;
  readonly limits: StdioLimits;
  readonly log: DataPlaneLog;
  readonly nowMs: () => number;
}

/**
 * One stdio endpoint: its processes, spoken to as a server with Streamable HTTP is. Guarantees:
 * T1  A session of the legacy era has a process of its own, and ends with it; clients of the modern era share one.
 * T2  One process is kept ready beside those in use, so that a session does not wait for a start.
 * T3  A process that ends before it said anything is started again after 250 ms, doubling to 30 s; meanwhile requests that need a new one are
 *     refused, which is proof that they did not run. One that ends while it stands by is followed by the next after the same pauses.
 * T4  Processes, sessions and what waits are bounded; a session that nobody uses is ended, and introduced again when it is needed.
 * T5  A process that hangs is ended, once nobody waits any more for what it was given before it fell silent: a long call is no hang.
 */
export class StdioServer {
  readonly #name: string;
  readonly #spec: StdioSpec;
  readonly #deps: StdioDeps;
  readonly #children = new Set<StdioChild>();
  readonly #sessions = new Map<string, { readonly session: PipeSession; readonly child: StdioChild }>();
  #shared: { readonly pipe: SharedPipe; readonly child: StdioChild } | null = null;
  #spare: StdioChild | null = null;
  #failures = 0;
  #notBeforeMs = Number.NEGATIVE_INFINITY;
  /** Of processes that stood by and ended by themselves, one after another. */
  #spareFailures = 0;
  #spareNotBeforeMs = Number.NEGATIVE_INFINITY;
  #spareTimer: NodeJS.Timeout | undefined;
  #retired = false;
  /** Whether they hang is being asked. */
  readonly #looking = new Set<StdioChild>();

  constructor(name: string, spec: StdioSpec, deps: StdioDeps) {
    this.#name = name;
    this.#spec = spec;
    this.#deps = deps;
    this.#keepSpare();
  }

  /** Process ids, for tests and metrics. */
  get pids(): number[] {
    return [...this.#children].flatMap(({ pid }) => (pid === undefined ? [] : [pid]));
  }

  async handle(request: UpstreamRequest): Promise<UpstreamResponse> {
    const sessionId = request.headers["mcp-session-id"];
    if (typeof sessionId === "string") return this.#sessions.get(sessionId)?.session.handle(request) ?? unknownSession();
    const message = clientMessageOf(request.body);
    if (request.method !== "POST") return refusal(405, -32000, "Method not allowed.", { allow: "POST" });
    if (message?.method === "initialize" && message.kind === "request") return this.#begin(request);
    const params = isObject(message?.value["params"]) ? message.value["params"] : {};
    const meta = isObject(params["_meta"]) ? params["_meta"] : {};
    if (typeof meta[versionKey] !== "string") return refusal(400, -32000, "Bad Request: Server not initialized");
    if (message?.kind === "request" && message.method === "server/discover") return this.#discover(message, request);
    return this.#sharedPipe().handle(request);
  }

  /** Whether a process answers now; `reason` says why not. */
  async probe(timeoutMs: number): Promise<{ readonly ok: boolean; readonly reason: string; readonly tookMs: number }> {
    const begunMs = performance.now();
    const told = (ok: boolean, reason: string) => ({ ok, reason, tookMs: performance.now() - begunMs });
    try {
      this.#spare ??= this.#start();
      const ok = await this.#spare.answers("discover", timeoutMs);
      return told(ok, ok ? "" : `the process of ${this.#name} does not answer within ${timeoutMs} ms`);
    } catch (error) {
      if (!(error instanceof UpstreamError)) throw error;
      return told(false, error.message);
    }
  }

  /** Whether those processes that owe an answer answer at all. */
  async look(timeoutMs: number): Promise<"answers" | "silent" | "unclear"> {
    const busy = [...this.#sessions.values()].filter(({ session, child }) => session.inFlight > 0 && !child.isHeld).slice(0, looksMax);
    const looks = busy.map(({ child }) => lookAt(child, "ping", timeoutMs));
    if (this.#shared !== null && this.#shared.pipe.inFlight > 0) looks.push(lookAt(this.#shared.child, "discover", timeoutMs));
    const found = await Promise.all(looks);
    return found.find((one) => one === "answers") ?? found.find((one) => one === "silent") ?? "unclear";
  }

  /** Whether a new process could be had now. */
  reach(): "listens" | "refused" {
    if (this.#spare !== null && !this.#spare.over) return "listens";
    return this.#deps.allow.has(this.#spec.command) && this.#deps.nowMs() >= this.#notBeforeMs ? "listens" : "refused";
  }

  /** Ends sessions that nobody uses, and processes that hang (T5). */
  async sweep(): Promise<void> {
    const { nowMs, limits } = this.#deps;
    const beforeMs = nowMs() - limits.idleMs;
    for (const { session } of [...this.#sessions.values()]) if (!session.busy && session.usedAtMs < beforeMs) session.end();
    const looks = [...this.#sessions.values()].map(({ session, child }) =>
      this.#endHung(child, "ping", limits.hungMs, () => session.oldestBegunMs),
    );
    const [shared, spare] = [this.#shared, this.#spare];
    if (shared !== null) looks.push(this.#endHung(shared.child, "discover", limits.hungMs, () => shared.pipe.oldestBegunMs));
    if (spare !== null) looks.push(this.#endHung(spare, "discover", spare.heard ? limits.spareHungMs : limits.readyMs, () => null));
    await Promise.all(looks);
  }

  /** `oldestBegunMs`: of what somebody waits for there. */
  async #endHung(child: StdioChild, by: "ping" | "discover", silentMsMax: number, oldestBegunMs: () => number | null): Promise<void> {
    if (child.over || !child.isSilent || this.#looking.has(child)) return;
    this.#looking.add(child);
    try {
      if (await child.answers(by, this.#deps.limits.hungAskMs)) return;
      const sinceMs = child.unansweredSinceMs;
      if (child.over || sinceMs === null || performance.now() - sinceMs < silentMsMax) return;
      if ((oldestBegunMs() ?? Number.POSITIVE_INFINITY) <= sinceMs) return;
      this.#deps.log.warn({ endpoint: this.#name, pid: child.pid }, "a process of a stdio server hangs and is ended");
      child.kill();
    } finally {
      this.#looking.delete(child);
    }
  }

  /** Takes nothing new, lets what runs end for `graceMs`, and ends every process. */
  async retire(graceMs: number): Promise<void> {
    this.#retired = true;
    clearTimeout(this.#spareTimer);
    this.#spare?.close();
    const endMs = performance.now() + graceMs;
    const inFlight = (): boolean =>
      [...this.#sessions.values()].some(({ session }) => session.inFlight > 0) || (this.#shared?.pipe.inFlight ?? 0) > 0;
    while (inFlight() && performance.now() < endMs) await new Promise((resolve) => setTimeout(resolve, 20));
    for (const child of this.#children) child.close();
    await Promise.all([...this.#children].map((child) => child.ended));
  }

  async #begin(request: UpstreamRequest): Promise<UpstreamResponse> {
    const { limits, nowMs } = this.#deps;
    if (this.#sessions.size >= (this.#spec.sessionsMax ?? limits.sessionsMax) && !this.#makeRoom()) {
      return refusal(429, -32000, `${this.#name} has as many sessions as it may; try again later`, { "retry-after": "1" });
    }
    const child = this.#take();
    const id = randomUUID();
    const session = new PipeSession(id, {
      ...limits,
      nowMs,
      onEnd: () => this.#sessions.delete(id),
    });
    this.#sessions.set(id, { session, child });
    session.attach(child);
    child.attach(session);
    return session.begin(request);
  }

  /** A session that has rested longest gives its place to a new one; it is introduced again when its client comes back. */
  #makeRoom(): boolean {
    const beforeMs = this.#deps.nowMs() - this.#deps.limits.roomIdleMs;
    const sessions = [...this.#sessions.values()].map(({ session }) => session);
    const oldest = restingLongest(sessions, beforeMs);
    oldest?.end();
    return oldest !== undefined;
  }

  /** The process that stands by answers for what all of them are. */
  async #discover(
    message: { readonly id: string | number; readonly value: Record<string, unknown> },
    request: UpstreamRequest,
  ): Promise<UpstreamResponse> {
    this.#spare ??= this.#start();
    const answer = await this.#spare.ask(message.value, Math.max(request.connectMs, this.#deps.limits.discoverMs));
    if (request.signal?.aborted || answer === null) throw new UpstreamError("timeout", `${this.#name} did not answer in time`, true);
    return LocalResponse.whole(200, { "content-type": "application/json" }, JSON.stringify({ ...answer, id: message.id }));
  }

  #sharedPipe(): SharedPipe {
    if (this.#shared !== null) return this.#shared.pipe;
    const child = this.#take();
    const pipe = new SharedPipe(this.#deps.limits.pendingMax, () => {
      if (this.#shared?.pipe === pipe) this.#shared = null;
    });
    this.#shared = { pipe, child };
    pipe.attach(child);
    child.attach(pipe);
    return pipe;
  }

  /** The process that stands by, or a new one. Throws {@link UpstreamError} where none can be had (T3). */
  #take(): StdioChild {
    const spare = this.#spare;
    this.#spare = null;
    const child = spare !== null && !spare.over ? spare : this.#start();
    this.#planSpare(Math.max(this.#deps.limits.spareAfterMs, this.#spareNotBeforeMs - this.#deps.nowMs()));
    return child;
  }

  #start(): StdioChild {
    const { allow, baseEnv, guard, limits, log, nowMs } = this.#deps;
    const { command, args, env, cwd } = this.#spec;
    const line = allow.get(command);
    if (line === undefined) {
      throw new UpstreamError(
        "refused",
        `the command ${command} of ${this.#name} is not in the router's MCPF_STDIO_ALLOW; add it there`,
        false,
      );
    }
    if (this.#retired) throw new UpstreamError("refused", `${this.#name} is no longer configured`, false);
    if (nowMs() < this.#notBeforeMs) {
      throw new UpstreamError(
        "refused",
        `the process of ${this.#name} ended at its start ${this.#failures} times and rests before the next`,
        false,
      );
    }
    const [program, ...first] = line;
    const child = new StdioChild(
      { name: this.#name, program, args: [...first, ...args], env: { ...baseEnv, ...env }, cwd },
      limits,
      log,
      guard,
    );
    this.#children.add(child);
    child.ended
      .then(() => this.#gone(child))
      .catch((error: unknown) => log.error({ err: error }, "the end of a process could not be noted"));
    return child;
  }

  #gone(child: StdioChild): void {
    const { limits, nowMs } = this.#deps;
    this.#children.delete(child);
    const wasSpare = this.#spare === child;
    if (wasSpare) this.#spare = null;
    const restMs = (failures: number): number => Math.min(limits.restMsMax, limits.restMsMin * 2 ** (failures - 1));
    if (child.heard) this.#failures = 0;
    else if (!child.closing) {
      this.#failures += 1;
      this.#notBeforeMs = nowMs() + restMs(this.#failures);
    }
    if (wasSpare && child.heard && !child.closing) {
      this.#spareFailures = performance.now() - child.bornAtMs < limits.restMsMax ? this.#spareFailures + 1 : 1;
      this.#spareNotBeforeMs = nowMs() + restMs(this.#spareFailures);
    }
    this.#planSpare(Math.max(limits.spareAfterMs, this.#notBeforeMs - nowMs(), this.#spareNotBeforeMs - nowMs()));
  }

  #planSpare(afterMs: number): void {
    clearTimeout(this.#spareTimer);
    if (this.#retired) return;
    this.#spareTimer = setTimeout(() => this.#keepSpare(), afterMs);
    this.#spareTimer.unref();
  }

  /** T2. One that does not get ready counts as one that ended at its start. */
  #keepSpare(): void {
    if (this.#retired || (this.#spare !== null && !this.#spare.over)) return;
    const { log, limits } = this.#deps;
    let spare: StdioChild;
    try {
      spare = this.#start();
    } catch (error) {
      if (!(error instanceof UpstreamError)) throw error;
      log.warn({ endpoint: this.#name, err: error }, "no process could be started to stand by");
      // The list of what is allowed stays as it is until the router is started anew.
      if (this.#deps.allow.has(this.#spec.command)) this.#planSpare(Math.max(limits.restMsMin, this.#notBeforeMs - this.#deps.nowMs()));
      return;
    }
    this.#spare = spare;
    spare.answers("discover", limits.readyMs).then(
      (ready) => {
        if (ready || spare.over || this.#spare !== spare) return;
        log.warn({ endpoint: this.#name, pid: spare.pid }, "a process did not get ready and is ended");
        spare.kill();
      },
      (error: unknown) => log.error({ err: error }, "a process could not be asked"),
    );
  }
}

const looksMax = 8;

/** Its answer may wait behind what a slow client does not read: then its silence is not its own. */
async function lookAt(child: StdioChild, by: "ping" | "discover", timeoutMs: number): Promise<"answers" | "silent" | "unclear"> {
  const { holds } = child;
  if (await child.answers(by, timeoutMs)) return "answers";
  return child.isHeld || child.holds !== holds ? "unclear" : "silent";
}
