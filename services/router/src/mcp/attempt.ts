import type { Attempt, AttemptResult, CallControl, EndpointView } from "../control/port.ts";
import { type Ending, type EndSignal, eitherOf } from "../ending.ts";
import { type RouterError, rpcErrorBody, rpcErrorMessage } from "../errors.ts";
import { type AnyLane, alone } from "../hedge.ts";
import { retryAfterMsOf, UpstreamError, type UpstreamResponse } from "../upstream-client.ts";
import type { CallAnswer, Failed, Relayed } from "./call-answer.ts";
import type { CallClock } from "./call-clock.ts";
import { type Cursor, endpointTag } from "./cursor.ts";
import type { Envelope } from "./envelope.ts";
import { DiscoverRefused } from "./era.ts";
import { forwardedHeaders, type Inbound, type McpContext, sessionNotFound } from "./inbound.ts";
import { learnTools } from "./learn-tools.ts";
import { credentialRefused, loadShed } from "./refusals.ts";
import { ReplayError, replayTold } from "./replay.ts";
import { type Hold, parkedMax, runningMax, type Session } from "./session.ts";
import { streamHeaders, streamOutcome } from "./session-stream.ts";
import { isSessionUnknown } from "./session-unknown.ts";
import { hard, notAnswered, type Tried, withheld } from "./tried.ts";

/** Takes a successful answer of the upstream instead of the plain relay (`initialize`). */
export type RelayAnswer = (response: UpstreamResponse, endpoint: EndpointView, answer: CallAnswer) => Promise<Relayed>;

/** One call, as its attempts see it. */
export interface CallParts {
  readonly context: McpContext;
  readonly inbound: Inbound;
  readonly envelope: Extract<Envelope, { kind: "request" }>;
  readonly body: Buffer;
  readonly session: Session | null;
  readonly call: CallControl;
  readonly clock: CallClock;
  readonly answer: CallAnswer;
  readonly relay: RelayAnswer | null;
  /** Of a list that one endpoint began. */
  readonly cursor: Cursor | null;
  /** The endpoint of the task that is asked for. */
  readonly runsOn: string | null;
  /** Ends attempts: at the deadline, or when the client is gone. */
  readonly signal: Ending;
  /** Ends the fallback too, which may take longer than the attempts. */
  readonly gone: Ending;
}

/** What had to come before the call was refused. */
const notSent = { executed: "no" } as const;
const resumesMax = 3;
const resumeConnectMs = 500;

/** One attempt of a call at one endpoint (C2). */
export class AttemptRun {
  readonly #parts: CallParts;
  readonly #attempt: Attempt;
  /** Ends this attempt: with the call, or because its endpoint hangs and another one can take the call. */
  readonly #signal: EndSignal;
  readonly #lane: AnyLane;
  /** Where it was sent within a session. */
  sentOn: Hold | null = null;
  constructor(parts: CallParts, attempt: Attempt, lane: AnyLane = alone) {
    this.#parts = parts;
    this.#attempt = attempt;
    this.#lane = lane;
    const signal = attempt.givenUp === null ? parts.signal : eitherOf(parts.signal, attempt.givenUp);
    this.#signal = lane.cancelled === null ? signal : eitherOf(signal, lane.cancelled);
  }

  run(): Promise<Tried> {
    return this.#attempt.givenUp === null ? this.#run() : this.#runUntilGivenUp(this.#attempt.givenUp);
  }

  async #runUntilGivenUp(givenUp: EndSignal): Promise<Tried> {
    const tried = await this.#run();
    const { endpoint } = this.#attempt;
    if (!givenUp.aborted || tried.kind === "answered" || tried.told.outcome !== "hard") return tried;
    return notAnswered(hard("timeout", tried.told.executed, `${endpoint.name} hangs: it does not answer at all`));
  }

  #run(): Promise<Tried> {
    const { envelope, session, cursor, runsOn } = this.#parts;
    const { endpoint } = this.#attempt;
    if (runsOn !== null && runsOn !== endpoint.name) return Promise.resolve(this.#foreignTask(runsOn));
    if (cursor !== null && cursor.tag !== endpointTag(endpoint.name)) return Promise.resolve(this.#foreignCursor());
    // Nearly always its place is there, and nothing has to be waited for.
    const hold = session?.holds.get(endpoint.name) ?? null;
    const isPlaced = envelope.era === "legacy" && (session === null || hold !== null);
    return isPlaced ? this.#sendLike(hold) : this.#place();
  }

  /** Finds out whether the endpoint can take it, and where. */
  async #place(): Promise<Tried> {
    const { envelope, context, session } = this.#parts;
    const attempt = this.#attempt;
    let hold: Hold | null = null;
    try {
      if (envelope.era === "modern" && envelope.method !== "server/discover") {
        const era = await context.eras.ask(attempt.endpoint, attempt.connectMs, this.#signal);
        if (era !== "modern")
          return notAnswered({ outcome: "ineligible", message: `${attempt.endpoint.name} does not speak ${envelope.era}` });
      }
      if (session !== null) hold = session.holds.get(attempt.endpoint.name) ?? (await this.#hold(session, null));
    } catch (error) {
      return this.#unplaced(error);
    }
    return this.#sendLike(hold);
  }

  #sendLike(hold: Hold | null): Promise<Tried> {
    const unlike = this.#unlike();
    return unlike === null ? this.#send(hold) : Promise.resolve(notAnswered({ outcome: "ineligible", message: unlike }));
  }

  /** Another endpoint began this list: the client has to begin it again (requirement R16). */
  #foreignCursor(): Tried {
    const { envelope } = this.#parts;
    const message = "Invalid params: the server that gave this cursor cannot be asked now; list again from the start";
    const body = Buffer.from(JSON.stringify(rpcErrorBody(envelope.id, -32602, message)));
    return { kind: "not_answered", told: { outcome: "ineligible", message }, giveUp: (answer) => answer.whole(body, {}) };
  }

  /** Another endpoint runs the task, and this one could only make another one of it (requirement R17). */
  #foreignTask(runsOn: string): Tried {
    const message = `the task runs on ${runsOn}, which cannot be asked now; it was not made again, and may have finished`;
    const error: RouterError = { code: "outcome_unknown", message, retriable: false };
    return { kind: "not_answered", told: { outcome: "ineligible", message }, giveUp: () => this.#refuse(error) };
  }

  /** Why this endpoint's tool is not the one that the client means, where both are known; the active endpoint is always right (R16). */
  #unlike(): string | null {
    const { context, inbound, envelope, session } = this.#parts;
    const { view } = inbound;
    const { endpoint } = this.#attempt;
    const known = session?.listedOn ?? view.active;
    if (envelope.tool === null || known === endpoint.name || (view.mode === "active_standby" && view.active === endpoint.name)) return null;
    if (!context.tools.differing(view.name, known, endpoint.name).includes(envelope.tool)) return null;
    return `${endpoint.name} has not the ${envelope.tool} of ${known}: another schema, or none`;
  }

  #hold(session: Session, lost: Hold | null): Promise<Hold> {
    const { context, inbound, clock } = this.#parts;
    const how = { lost, connectMs: this.#attempt.connectMs, dueAtMs: clock.dueAtMs, initialized: true };
    return beforeAbort(context.replay.holdOn(session, inbound.view, this.#attempt.endpoint, how), this.#signal);
  }

  /** The session could not be had on the endpoint: the call itself was not sent, which is proof (C2). */
  #unplaced(error: unknown): Tried {
    const { context, session, answer } = this.#parts;
    if (error instanceof UpstreamError) {
      if (this.#clientGone()) return { kind: "answered", told: { outcome: "aborted" } };
      return notAnswered(hard(error.code, "no", error.message));
    }
    if (error instanceof DiscoverRefused) {
      return error.httpStatus === 429 ? this.#loadShed(error.retryAfterMs, notSent) : this.#credentialRefused(error.httpStatus, notSent);
    }
    if (!(error instanceof ReplayError)) throw error;
    if (error.code === "ended") {
      if (!this.#lane.takes("error")) return withheld;
      // Another router process took the DELETE; here too the session is over from now on.
      if (session !== null) context.sessions.end(session);
      answer.refuse(sessionNotFound());
      return { kind: "answered", told: { outcome: "aborted" } };
    }
    if (error.code === "sticky") {
      return {
        kind: "not_answered",
        told: { outcome: "aborted" },
        giveUp: () => this.#refuse({ code: "session_lost", message: error.message, retriable: false }),
      };
    }
    if (error.status === 401 || error.status === 403) return this.#credentialRefused(error.status, notSent);
    if (error.status === 429) return this.#loadShed(error.retryAfterMs, notSent);
    return notAnswered(replayTold(error));
  }

  /** Once more in a new session, where the server does not know the one that it was sent in: then it did not run. */
  async #send(given: Hold | null): Promise<Tried> {
    const { session, envelope } = this.#parts;
    const running = session === null ? null : this.#lane.isSecond ? session.hedged : session.running;
    let hold = given;
    for (let isAgain = false; ; isAgain = true) {
      let tried: Tried | "session_lost";
      if (hold !== null && session !== null) this.#enter(hold, session);
      try {
        let response: UpstreamResponse;
        try {
          response = await this.#request(hold);
        } catch (error) {
          return this.#notSent(error);
        }
        if (response.status === 200) {
          const relayed = this.#relay(response, hold);
          tried = relayed instanceof Promise ? await relayed : relayed;
        } else tried = await this.#notOk(response, hold);
      } finally {
        if (hold !== null) {
          hold.inFlight--;
          running?.delete(envelope.id);
        }
      }
      if (tried !== "session_lost") return tried;
      if (isAgain) {
        // It contradicts itself: what it says of the session proves nothing any more.
        return notAnswered(hard("other", "unknown", `${this.#attempt.endpoint.name} does not know the session that it has just given`));
      }
      try {
        hold = await this.#hold(session as Session, hold);
      } catch (error) {
        return this.#unplaced(error);
      }
    }
  }

  /** It runs there from now on. */
  #enter(hold: Hold, session: Session): void {
    const { context, envelope } = this.#parts;
    const running = this.#lane.isSecond ? session.hedged : session.running;
    hold.inFlight++;
    hold.usedAtMs = context.nowMs();
    this.sentOn = hold;
    // A second attempt is a guest there: the session stays where it is, and is told of a cancellation in both places.
    if (!this.#lane.isSecond) session.home = this.#attempt.endpoint.name;
    if (running.size < runningMax) running.set(envelope.id, hold);
  }

  #request(hold: Hold | null): Promise<UpstreamResponse> {
    const { context, inbound, session, cursor } = this.#parts;
    const body = cursor === null ? this.#parts.body : bodyWithCursor(this.#parts.body, cursor);
    const { endpoint, connectMs } = this.#attempt;
    const headers = forwardedHeaders(inbound.request.headers);
    if (hold !== null && session !== null) {
      if (hold.upstreamSession !== null) headers["mcp-session-id"] = hold.upstreamSession;
      headers["mcp-protocol-version"] ??= session.sealed.version;
    }
    return context.client.send({ endpoint, method: "POST", headers, body, connectMs, signal: this.#signal, lane: "call" });
  }

  #notSent(error: unknown): Tried {
    if (!(error instanceof UpstreamError)) throw error;
    if (this.#clientGone()) return { kind: "answered", told: { outcome: "aborted" } };
    return notAnswered(hard(error.code, error.written ? "unknown" : "no", error.message));
  }

  /** A promise only where the answer is not there yet. */
  #relay(response: UpstreamResponse, hold: Hold | null): Tried | Promise<Tried> {
    const { relay, answer } = this.#parts;
    const { endpoint } = this.#attempt;
    const relayed = relay === null ? answer.relay(response, hold, endpoint.name, this.#lane) : relay(response, endpoint, answer);
    if (!(relayed instanceof Promise) && relayed.kind !== "failed") return this.#relayed(relayed, hold);
    return this.#relayedLate(relayed, hold);
  }

  async #relayedLate(late: Relayed | Promise<Relayed>, hold: Hold | null): Promise<Tried> {
    const relayed = await late;
    return this.#relayed(relayed.kind === "failed" ? await this.#resume(hold, relayed) : relayed, hold);
  }

  #relayed(relayed: Relayed, hold: Hold | null): Tried {
    const { context, inbound, envelope, session } = this.#parts;
    const { endpoint } = this.#attempt;
    if (relayed.kind === "failed")
      return this.#clientGone() ? { kind: "answered", told: { outcome: "aborted" } } : notAnswered(relayed.told);
    if (relayed.kind === "withheld") return withheld;
    if (relayed.kind === "parked") {
      if (!this.#lane.takes("error")) return withheld;
      this.#park(hold);
    }
    // Only the router's own question tells that an endpoint is of the legacy era: a client may ask in a way that any server refuses.
    if (envelope.method === "server/discover" && relayed.told.outcome === "ok") {
      context.eras.learn(endpoint, "modern");
      if (relayed.kind === "answered") context.faces.learnDiscovered(inbound.view.name, relayed.message.value["result"]);
    }
    if (envelope.method === "tools/list" && relayed.kind === "answered") {
      learnTools(context, inbound.view.name, relayed.message.value);
      if (envelope.params["cursor"] === undefined) {
        context.faces.learnTools(inbound.view.name, relayed.message.value["result"]);
        context.tools.learn(inbound.view.name, endpoint.name, relayed.message.value["result"]);
        if (session !== null && relayed.told.outcome === "ok") session.listedOn = endpoint.name;
      }
    }
    return { kind: "answered", told: relayed.told };
  }

  /**
   * A stream that broke after an event with an id is gone on with on the same endpoint: the line broke, and the call may still run. That
   * is no second attempt: it asks for the rest of the first.
   */
  async #resume(hold: Hold | null, broken: Failed): Promise<Relayed> {
    const { context, session, answer } = this.#parts;
    const signal = this.#signal;
    const attempt = this.#attempt;
    let last: Relayed = broken;
    for (let tries = 0; tries < resumesMax && last.kind === "failed" && !signal.aborted; tries++) {
      if (session === null || hold === null || last.lastEventId === null) return last;
      try {
        const response = await context.client.send({
          endpoint: attempt.endpoint,
          method: "GET",
          headers: { ...streamHeaders(session, hold), "last-event-id": last.lastEventId },
          body: null,
          connectMs: Math.min(attempt.connectMs, resumeConnectMs),
          signal,
          lane: "stream",
        });
        if ((await streamOutcome(response)).kind !== "open") return last;
        const next = await answer.relay(response, hold, attempt.endpoint.name, this.#lane);
        last = next.kind === "failed" ? { ...next, lastEventId: next.lastEventId ?? last.lastEventId } : next;
      } catch (error) {
        if (error instanceof UpstreamError) return last;
        throw error;
      }
    }
    return last;
  }

  /** An answer with a status other than 200. */
  async #notOk(response: UpstreamResponse, hold: Hold | null): Promise<Tried | "session_lost"> {
    const { context } = this.#parts;
    const { endpoint } = this.#attempt;
    const { status } = response;
    if (status === 401 || status === 403) {
      response.discard(250);
      return this.#credentialRefused(status);
    }
    if (status === 429) {
      response.discard(250);
      return this.#loadShed(retryAfterMsOf(response.headers, context.nowMs()));
    }
    if (status >= 500) {
      response.discard(250);
      const retryAfterMs = status === 503 ? retryAfterMsOf(response.headers, context.nowMs()) : null;
      const told = { ...hard("http_5xx", "unknown", `${endpoint.name} answered ${status}`), httpStatus: status };
      return notAnswered(retryAfterMs === null ? told : { ...told, retryAfterMs });
    }
    if (status < 400) {
      response.discard(250);
      return notAnswered(hard("malformed", "unknown", `${endpoint.name} answered a request with status ${status}`));
    }
    let body: Buffer;
    try {
      body = await response.collect(1024 * 1024);
    } catch (error) {
      if (!(error instanceof UpstreamError)) throw error;
      return notAnswered(hard(error.code, "unknown", error.message));
    }
    // A server that never gave an id cannot mean the session: its 404 is the answer of a call that has run.
    if (hold !== null && hold.upstreamSession !== null && isSessionUnknown(status, body)) return "session_lost";
    if (!this.#lane.takes("error")) return withheld;
    this.#parts.answer.pass(status, body, response);
    return { kind: "answered", told: { outcome: "caller", httpStatus: status, toolError: false } };
  }

  /** The upstream's 401 names another resource than the client asked: it is not passed on (requirement R24). */
  #credentialRefused(httpStatus: number, sent: typeof notSent | null = null): Tried {
    const error = credentialRefused(this.#attempt.endpoint.name, httpStatus);
    return { kind: "not_answered", told: { outcome: "auth", httpStatus, toolError: false, ...sent }, giveUp: () => this.#refuse(error) };
  }
  #loadShed(retryAfterMs: number | null, sent: typeof notSent | null = null): Tried {
    const error = loadShed(this.#attempt.endpoint.name, retryAfterMs);
    const rest = retryAfterMs === null ? {} : { retryAfterMs };
    const told: AttemptResult = { outcome: "soft", httpStatus: 429, toolError: false, ...rest, ...sent };
    return { kind: "not_answered", told, giveUp: () => this.#refuse(error) };
  }
  #refuse(error: RouterError): void {
    const { answer, inbound } = this.#parts;
    answer.error(error, { upstream: inbound.view.name, operationId: inbound.operationId });
  }

  /** The client fetches the answer with its last event id; should the endpoint be lost first, it gets the error that is kept here. */
  #park(hold: Hold | null): void {
    const { answer, session, envelope, inbound, call } = this.#parts;
    answer.park();
    if (hold === null || session === null || session.parked.size >= parkedMax) return;
    const error: RouterError = {
      code: "outcome_unknown",
      message: `${hold.endpoint} was lost before it gave the answer; the call may have run`,
      retriable: call.safety !== "unsafe",
    };
    const place = { upstream: inbound.view.name, operationId: inbound.operationId };
    session.parked.set(envelope.id, { tag: hold.tag, error: rpcErrorMessage(envelope.id, error, place) });
  }

  #clientGone(): boolean {
    return this.#parts.gone.aborted;
  }
}

function bodyWithCursor(body: Buffer, { cursor }: Cursor): Buffer {
  const message = JSON.parse(body.toString("utf8")) as { params: object };
  return Buffer.from(JSON.stringify({ ...message, params: { ...message.params, cursor } }));
}

/** The session is shared by many calls: one that is given up leaves the others their replay. Nothing of the call was sent. */
function beforeAbort(hold: Promise<Hold>, signal: EndSignal): Promise<Hold> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(new UpstreamError("timeout", "the session could not be introduced in time", false));
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    hold.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}
