import {
  type Certificate,
  canonicalJson,
  type Event,
  events,
  integrityHeader,
  parseEvent,
  sha256,
  subjectFor,
  type Vote,
} from "@mcp-failover/contracts";
import { emptyMap, type ShardedMap } from "./sharded-map.ts";

/**
 * Checks the log against itself: `mcpf events verify`.
 *
 * V1  The stored bytes have the hash that their publisher gave them: one altered byte is found and named.
 * V2  Every event parses as what its subject says it is; what does not is named (it is in QUARANTINE too).
 * V3  A fenced event expected exactly the event before it on its subject: nothing was taken out, put in or decided twice. What has to be
 *     fenced is, and no place in the log is empty, from its first to its last: AUDIT drops nothing by itself.
 * V4  Epochs of an upstream or a rollback scope begin with 1 and go up by one, or more only with another generation or after a route seen
 *     above the log's.
 * V5  A decision, taken again on the input that it recorded, is the same decision, in all that the event says of it; it is about the
 *     subject that it stands on; and its input's state is what the event before left.
 * V6  The votes of a decision are the observations that SIGNALS holds where they point, and its proofs are probes made for the purpose
 *     that ended well; where those have expired that is counted, not condemned. None lies behind what the decider had read, or
 *     where SIGNALS has never come to.
 */

/** A message of AUDIT as it is stored. */
export interface LogMessage {
  readonly seq: number;
  readonly subject: string;
  readonly timeMs: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly bytes: Uint8Array;
  /** What it points at cannot be used, and why. */
  readonly unusable?: string;
}

export interface Problem {
  readonly seq: number;
  /** `AUDIT` for what is wrong about the log as a whole. */
  readonly subject: string;
  readonly check: "bytes" | "event" | "gap" | "fence" | "epoch" | "decision" | "state" | "evidence";
  readonly message: string;
}

/** A pure function that took decisions, by the name in the certificate; undefined: not known here. */
export type Recompute = (input: unknown) => { readonly rule: string; readonly state?: unknown; readonly kind?: string };

/** What stands in SIGNALS at a sequence that was read at `atMs`; null: expired; `never`: nothing that could be read then has ever stood there. */
export type SignalAt = (seq: number, atMs: number) => Event | null | "never";

export interface VerifyState {
  readonly messages: number;
  /** Sequence of the last message; 0 before the first. */
  readonly lastSeq: number;
  readonly decisions: number;
  readonly inputsExpired: number;
  /** Places of the log that are empty. */
  readonly missing: number;
  /** All problems, also those that were not kept. */
  readonly wrong: number;
  /** The first {@link problemsMax}. */
  readonly problems: readonly Problem[];
  /** Last sequence and state of each subject. */
  readonly last: ShardedMap<{
    readonly seq: number;
    readonly state: unknown;
    readonly epoch: number | null;
    readonly generation: number | null;
  }>;
}

export const nothingVerified: VerifyState = {
  messages: 0,
  lastSeq: 0,
  decisions: 0,
  inputsExpired: 0,
  missing: 0,
  wrong: 0,
  problems: [],
  last: emptyMap(),
};
/** Problems that are kept; all are counted. */
export const problemsMax = 1000;
const expectedHeader = "Nats-Expected-Last-Subject-Sequence";

/** Sequences in SIGNALS that a message's decision points at; the caller reads them before {@link verifyNext}. */
export function evidenceRefs(message: Pick<LogMessage, "subject" | "bytes">): number[] {
  const parsed = parseEvent(message.subject, message.bytes);
  if (!parsed.ok) return [];
  return [
    ...votesOf(parsed.event).flatMap(({ vote }) => (vote.ref?.stream === "SIGNALS" ? [vote.ref.seq] : [])),
    ...proofsOf(parsed.event).map(({ seq }) => seq),
  ];
}

/**
 * Checks one more message, in the order of the log. `complete`: the log is there from its first event on. Of one that is not, the gap is told, and what its subjects
 * held before is not known.
 */
export function verifyNext(
  state: VerifyState,
  message: LogMessage,
  context: { readonly deciders: Readonly<Record<string, Recompute>>; readonly signalAt: SignalAt; readonly complete: boolean },
): VerifyState {
  const problems: Problem[] = [];
  const report = (check: Problem["check"], text: string): void => {
    problems.push({ seq: message.seq, subject: message.subject, check, message: text });
  };
  const header = (name: string): string | undefined =>
    Object.entries(message.headers).find(([key]) => key.toLowerCase() === name.toLowerCase())?.[1];

  const missing = message.seq - state.lastSeq - 1;
  if (missing < 0) report("gap", `it stands behind #${state.lastSeq}, which comes later`);
  else if (missing > 0) report("gap", `${missing} events before it are gone from the log`);

  const hash = header(integrityHeader);
  if (hash === undefined) report("bytes", `has no ${integrityHeader}: it was not published by this system`);
  else if (hash !== sha256(message.bytes)) report("bytes", "its bytes are not those that were published");

  const parsed = parseEvent(message.subject, message.bytes);
  if (!parsed.ok) report("event", parsed.reason);
  else if (message.unusable !== undefined) report("event", message.unusable);
  const before = state.last.get(message.subject);
  let now: { seq: number; state: unknown; epoch: number | null; generation: number | null };
  let decisions = state.decisions;
  let inputsExpired = state.inputsExpired;

  if (parsed.ok) {
    const { event } = parsed;
    if (subjectOfEvent(event) !== message.subject) report("event", `its envelope names ${subjectOfEvent(event)}`);
    const expected = header(expectedHeader);
    if (expected !== undefined && (before !== undefined || context.complete) && Number(expected) !== (before?.seq ?? 0)) {
      report("fence", `expected ${expected} as the last event of its subject, which was ${before?.seq ?? 0}`);
    }
    if (expected === undefined && events[event.type].fenced) report("fence", "it was published without a fence, as no service does");
    const after = stateOf(event);
    const epochs = epochOf(event);
    if (epochs !== null && before?.epoch != null && epochs.epoch !== before.epoch + 1 && !epochMayJump(event, epochs, before)) {
      report("epoch", `epoch ${epochs.epoch} follows epoch ${before.epoch}`);
    }
    if (epochs !== null && before === undefined && context.complete && epochs.epoch !== 1 && epochs.epoch !== seenEpochOf(event) + 1) {
      report("epoch", `epoch ${epochs.epoch} is the first of its subject`);
    }
    const certificate = certificateOf(event);
    if (certificate !== null) {
      decisions += 1;
      verifyDecision(event, certificate, before?.state, context, report);
      const readTo = certificate.folded.SIGNALS?.last ?? Number.POSITIVE_INFINITY;
      const behind = isFailover(event) ? evidenceRefs(message).filter((seq) => seq > readTo) : [];
      if (behind.length > 0) report("evidence", `it points at SIGNALS ${behind[0]}, and its decider had read them to ${readTo}`);
      for (const { observer, endpoint, upstream, seq, atMs } of proofsOf(event)) {
        const signal = context.signalAt(seq, atMs);
        if (signal === null) inputsExpired += 1;
        else if (!proves(signal, observer, upstream, endpoint)) {
          report("evidence", `SIGNALS ${seq} is no proof by ${observer} that ${upstream}/${endpoint} answers`);
        }
      }
      for (const { vote, endpoint, upstream } of votesOf(event)) {
        if (vote.ref?.stream !== "SIGNALS") continue;
        const signal = context.signalAt(vote.ref.seq, vote.atMs);
        if (signal === null) inputsExpired += 1;
        else if (!saidBy(signal, vote, upstream, endpoint)) {
          report("evidence", `the vote of ${vote.observer} on ${upstream}/${endpoint} is not what SIGNALS ${vote.ref.seq} says`);
        }
      }
    }
    now = { seq: message.seq, state: after, epoch: epochs?.epoch ?? null, generation: epochs?.generation ?? null };
  } else {
    now = { seq: message.seq, state: undefined, epoch: before?.epoch ?? null, generation: before?.generation ?? null };
  }
  return {
    ...withProblems(state, problems),
    messages: state.messages + 1,
    lastSeq: Math.max(state.lastSeq, message.seq),
    decisions,
    inputsExpired,
    missing: state.missing + Math.max(0, missing),
    last: state.last.with(message.subject, now),
  };
}

/**
 * After the last message: whether the log reaches as far as it is said to. With `count`, as an export has it, it holds exactly so many events; without, more may have
 * come since it was looked at.
 */
export function verifyEnd(state: VerifyState, said: { readonly lastSeq: number; readonly count?: number }): VerifyState {
  const problems: Problem[] = [];
  const report = (seq: number, message: string): void => {
    problems.push({ seq, subject: "AUDIT", check: "gap", message });
  };
  const missing = Math.max(0, said.lastSeq - state.lastSeq);
  if (missing > 0) report(state.lastSeq + 1, `the log goes to #${said.lastSeq}: ${missing} events from here on are gone`);
  // What is gone has been told where it is gone.
  else if (said.count !== undefined && (said.count < state.messages || said.count > state.messages + state.missing))
    report(state.lastSeq, `${said.count} events were said to be here, and there are ${state.messages}`);
  return { ...withProblems(state, problems), missing: state.missing + missing };
}

function withProblems(state: VerifyState, more: readonly Problem[]): VerifyState {
  const room = problemsMax - state.problems.length;
  const problems = more.length === 0 || room === 0 ? state.problems : [...state.problems, ...more.slice(0, room)];
  return { ...state, wrong: state.wrong + more.length, problems };
}

function verifyDecision(
  event: Event,
  certificate: Certificate,
  stateBefore: unknown,
  context: { readonly deciders: Readonly<Record<string, Recompute>> },
  report: (check: Problem["check"], text: string) => void,
): void {
  // "constructor" is no decider, and would give back what it is given.
  const recompute = Object.hasOwn(context.deciders, certificate.decider) ? context.deciders[certificate.decider] : undefined;
  if (recompute === undefined) {
    report("decision", `no decider ${JSON.stringify(certificate.decider).slice(0, 60)} is known here`);
    return;
  }
  let again: ReturnType<Recompute>;
  try {
    again = recompute(certificate.input);
  } catch (error) {
    report(
      "decision",
      `${certificate.decider} cannot read the input that was recorded: ${error instanceof Error ? error.message.slice(0, 160) : "unknown"}`,
    );
    return;
  }
  if (again.rule !== certificate.rule)
    report("decision", `${certificate.decider} now decides by ${again.rule}, and the event says ${certificate.rule}`);
  const input = certificate.input as { state?: unknown; nowMs?: unknown; upstream?: unknown; scope?: unknown; name?: unknown } | null;
  if (input?.nowMs !== certificate.nowMs) report("decision", "the time that it names is not the one that it was decided for");
  const data = event.data as Readonly<Record<string, unknown>>;
  const about = [
    [input?.upstream, data["service"]],
    [input?.scope, data["scope"]],
    [input?.name, data["name"]],
  ];
  if (about.some(([mine, said]) => mine !== undefined && said !== undefined && mine !== said))
    report("decision", "its input is about something else than its subject");
  // What ends a failing is told in other words than the decision's.
  const told = event.type === "failover.failed" ? [] : toldFields;
  const otherwise = told.filter(
    (field) => field in again && field in data && canonicalJson(again[field as keyof typeof again]) !== canonicalJson(data[field]),
  );
  if (otherwise.length > 0) report("decision", `${certificate.decider} now says otherwise: ${otherwise.join(", ")}`);
  const after = stateOf(event);
  if (after === undefined) return;
  if (canonicalJson(again.state) !== canonicalJson(after))
    report("decision", `${certificate.decider} now comes to another state than the event holds`);
  if (stateBefore !== undefined && canonicalJson(input?.state) !== canonicalJson(stateBefore)) {
    report("state", "it was decided from a state that the event before it did not leave");
  }
}

/** What events repeat of a decision, beside its rule and state. */
const toldFields = [
  "action",
  "automatic",
  "by",
  "reason",
  "previousEndpoint",
  "currentEndpoint",
  "overrode",
  "implementation",
  "previousImplementation",
] as const;

/** The whole state after an event that carries one. */
function stateOf(event: Event): unknown {
  switch (event.type) {
    case "health.changed":
    case "breaker.changed":
    case "failover.decided":
    case "rollback.decided":
      return event.data.state;
    case "fleet.reserved":
      return { reservations: event.data.reservations };
    default:
      return undefined;
  }
}

function certificateOf(event: Event): Certificate | null {
  return "certificate" in event.data ? (event.data.certificate as Certificate) : null;
}

function epochOf(event: Event): { epoch: number; generation: number | null } | null {
  if (event.type === "failover.decided") return { epoch: event.data.state.epoch, generation: event.data.state.generation };
  if (event.type === "rollback.decided") return { epoch: event.data.state.epoch, generation: null };
  return null;
}

/** After the log was lost, the next epoch is above all that routers hold (design, "When the log is lost or restored"), and above the last one as ever. */
function epochMayJump(
  event: Event,
  { epoch, generation }: { epoch: number; generation: number | null },
  before: { epoch: number | null; generation: number | null },
): boolean {
  if (generation !== before.generation) return true;
  return epoch > (before.epoch ?? 0) && epoch === seenEpochOf(event) + 1;
}

/** The highest epoch that a router held when it was decided; NaN where that was not looked at. */
function seenEpochOf(event: Event): number {
  const seen = (certificateOf(event)?.input as { seenEpoch?: unknown } | undefined)?.seenEpoch;
  return typeof seen === "number" ? seen : Number.NaN;
}

const isFailover = (event: Event): event is Event<"failover.decided" | "failover.rejected" | "failover.failed"> =>
  event.type === "failover.decided" || event.type === "failover.rejected" || event.type === "failover.failed";

/** The probes that a failover rests on (F5), by where SIGNALS holds them. */
function proofsOf(event: Event): { observer: string; upstream: string; endpoint: string; seq: number; atMs: number }[] {
  if (!isFailover(event)) return [];
  return votesOf(event).flatMap(({ vote, upstream, endpoint }) => {
    const { seq, atMs } = (vote as { proof?: { seq?: unknown; atMs?: unknown } | null }).proof ?? {};
    return typeof seq === "number" ? [{ observer: vote.observer, upstream, endpoint, seq, atMs: Number(atMs) }] : [];
  });
}

function proves(signal: Event | "never", observer: string, upstream: string, endpoint: string): boolean {
  if (signal === "never" || signal.type !== "probe.observed") return false;
  return signal.data.observations.some(
    (one) =>
      one.upstream === upstream &&
      one.endpoint === endpoint &&
      one.observer === observer &&
      one.purpose === "confirm" &&
      one.outcome === "ok",
  );
}

function votesOf(event: Event): { vote: Vote; upstream: string; endpoint: string }[] {
  if (event.type === "health.changed") {
    return event.data.votes.map((vote) => ({ vote, upstream: event.data.service, endpoint: event.data.endpoint }));
  }
  if (!isFailover(event)) return [];
  const evidence = (event.data.certificate.input as { evidence?: Record<string, { votes?: Vote[] }> } | null)?.evidence ?? {};
  return Object.entries(evidence).flatMap(([endpoint, { votes = [] }]) =>
    votes.map((vote) => ({ vote, upstream: event.data.service, endpoint })),
  );
}

function saidBy(signal: Event | "never", vote: Vote, upstream: string, endpoint: string): boolean {
  if (signal === "never") return false;
  if (signal.type === "probe.observed") {
    return signal.data.observations.some(
      (one) =>
        one.upstream === upstream &&
        one.endpoint === endpoint &&
        one.observer === vote.observer &&
        one.outcome === vote.outcome &&
        one.code === vote.code,
    );
  }
  if (signal.type === "traffic.observed") {
    return (
      signal.data.router === vote.observer && signal.data.endpoints.some((one) => one.upstream === upstream && one.endpoint === endpoint)
    );
  }
  return false;
}

function subjectOfEvent(event: Event): string {
  return subjectFor(event.type, ...(event.subject === undefined ? [] : splitKeys(event)));
}

/** The envelope's subject joins the keys by "/", and a key may hold one itself: only the number of keys tells them apart. */
function splitKeys(event: Event): string[] {
  const parts = (event.subject ?? "").split("/");
  const count = keyCounts[event.type] ?? 1;
  return parts.length <= count ? parts : [...parts.slice(0, count - 1), parts.slice(count - 1).join("/")];
}

const keyCounts: Partial<Record<Event["type"], number>> = {
  "health.changed": 2,
  "breaker.changed": 2,
  "rollback.decided": 2,
  "rollback.executed": 2,
  "rollback.advanced": 2,
  "rollback.paused": 2,
  "rollback.recovered": 2,
  "rollback.rejected": 2,
};
