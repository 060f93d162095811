import { BusError, RefusedError } from "@mcp-failover/bus";
import type { Actor, Event } from "@mcp-failover/contracts";
import type { Kit } from "../kit.ts";
import type { FencedDecider } from "./fenced-decider.ts";

/**
 * Commands are recorded before they act, and act once: a repeat (a client that lost the answer and asked again, perhaps another
 * instance) gets the first answer.
 *
 * C1  No command acts before its `command.accepted` is stored.
 * C2  A repeated `commandId` never acts a second time while the first one's outcome is in the log or can still come.
 * C3  No decision of an operator is published behind one that another operator took since that order was given (`requireLast`, together
 *     with the fence of the decision): one that comes late, long after whoever gave it had given up, undoes nothing.
 */
export interface CommandDesk {
  /** Takes in an event of AUDIT: accepted commands, and outcomes by their `commandId`. */
  fold(event: Event, at: { seq: number }): void;
  /** Reads which commands were accepted before this process began; call it once both streams are read. */
  load(): Promise<void>;
  /** Where the `command.accepted` of a command stands; null: it was not heard of, or is forgotten. */
  acceptedSeq(commandId: string): number | null;
  /**
   * Throws {@link RefusedError} `overtaken` where another operator's decision stands on the subject since the command was given: since the
   * sequence that it says itself, or where it says none, by an order that was recorded after it. Ask right before the decision is published.
   */
  requireLast(command: Pick<Command, "commandId" | "givenAtSeq">, subject: string): Promise<void>;
  /** Runs a command, or gives the answer of its first run. Throws {@link RefusedError}. */
  run<A>(command: Command, actions: CommandActions<A>): Promise<A>;
}
export interface Command {
  /** Its request without `command.`: `failover`. */
  readonly name: string;
  readonly commandId: string;
  readonly by: Actor;
  readonly reason: string;
  readonly parameters: Record<string, unknown>;
  /** The last sequence of AUDIT when it was given; undefined: not known. */
  readonly givenAtSeq?: number | undefined;
}
export interface CommandActions<A> {
  /** `done`: the outcome that this command has in the log meanwhile, from another instance that took it over; ask before each decision. */
  act(done: () => Event | null): Promise<A>;
  /** The answer that an outcome in the log stands for; throws {@link RefusedError} for a refusal. */
  answerOf(outcome: Event): Promise<A>;
  /** Subjects on which an outcome may stand. */
  readonly outcomeSubjects: readonly string[];
}

/** So many commands are remembered; older repeats are looked up in the log while the store remembers their ids. */
const rememberedMax = 2000;
/** How far back in AUDIT accepted commands are read at the start. */
const backSeqs = 100_000;
/** How long a repeat waits for the outcome of the first run before it runs the command itself. */
const firstRunMs = 5000;
/** How long a command waits to be heard of in the log, where the store's clock is not known by anything else. */
const hearMsMax = 2000;
const hearStepMs = 100;

export function openCommandDesk(kit: Kit<unknown>, decider: () => FencedDecider): CommandDesk {
  const accepted = new Map<string, { name: string; seq: number }>();
  const outcomes = new Map<string, Event>();
  const running = new Map<string, { readonly name: string; readonly answer: Promise<unknown> }>();
  const remember = <V>(map: Map<string, V>, key: string, value: V): void => {
    map.set(key, value);
    while (map.size > rememberedMax) map.delete(map.keys().next().value as string);
  };
  const fold: CommandDesk["fold"] = (event, { seq }) => {
    if (event.type === "command.accepted") {
      if (!accepted.has(event.data.commandId)) remember(accepted, event.data.commandId, { name: event.data.command, seq });
      return;
    }
    const commandId = (event.data as { commandId?: unknown } | null)?.commandId;
    if (typeof commandId === "string" && !outcomes.has(commandId)) remember(outcomes, commandId, event);
  };

  const requireOwn = ({ commandId, name }: Command, of: string): void => {
    if (of === name) return;
    const why = `the commandId ${commandId} belongs to a ${of} command already; give every command an id of its own`;
    throw new RefusedError("command_id_reused", why);
  };
  /** Of a record that another instance stored, and that was not heard of here yet. */
  const nameAt = async (seq: number): Promise<string | null> => {
    const content = (await kit.bus.at("AUDIT", seq))?.content;
    return content?.kind === "event" && content.event.type === "command.accepted" ? content.event.data.command : null;
  };
  /** Records the command; says where the first record of its id stands, and whether that is another than this. */
  const record = async (command: Command): Promise<{ seq: number; repeated: boolean }> => {
    const known = accepted.get(command.commandId);
    if (known !== undefined) {
      requireOwn(command, known.name);
      return { seq: known.seq, repeated: true };
    }
    const { name, commandId, by, reason, parameters } = command;
    const data = { commandId, command: name, by, reason, timestamp: new Date(kit.nowMs()).toISOString(), parameters };
    const event = kit.event("command.accepted", [name], data, { id: `command-${commandId}` });
    const { seq, duplicate } = await kit.bus.append(event);
    const first = duplicate ? ((await nameAt(seq)) ?? name) : name;
    remember(accepted, commandId, { name: first, seq });
    requireOwn(command, first);
    return { seq, repeated: duplicate };
  };
  const findOutcome = async (commandId: string, fromSeq: number, subjects: readonly string[]): Promise<Event | null> => {
    const untilMs = performance.now() + firstRunMs;
    for (;;) {
      const found = outcomes.get(commandId);
      if (found !== undefined) return found;
      const leftMs = untilMs - performance.now();
      if (leftMs <= 0) break;
      await decider().changed(Math.min(leftMs, 250));
    }
    for (const filter of subjects) {
      for await (const stored of kit.bus.read("AUDIT", { fromSeq, filter })) {
        if (stored.content.kind === "event" && (stored.content.event.data as { commandId?: unknown }).commandId === commandId) {
          return stored.content.event;
        }
      }
    }
    return null;
  };
  /** Where nothing was said since the start, the record is what tells the time that the command is decided for. */
  const hearClock = async (): Promise<void> => {
    const untilMs = performance.now() + hearMsMax;
    while (!decider().heardClock && performance.now() < untilMs) await decider().changed(hearStepMs);
  };
  const runOnce = async <A>(command: Command, actions: CommandActions<A>): Promise<A> => {
    const { seq, repeated } = await record(command);
    if (!repeated) await hearClock();
    const done = (): Event | null => outcomes.get(command.commandId) ?? null;
    if (!repeated) return actions.act(done);
    const outcome = await findOutcome(command.commandId, seq, actions.outcomeSubjects);
    return outcome === null ? actions.act(done) : actions.answerOf(outcome);
  };

  return {
    fold,
    acceptedSeq: (commandId) => accepted.get(commandId)?.seq ?? null,
    async requireLast({ commandId, givenAtSeq }, subject) {
      const acceptedSeq = accepted.get(commandId)?.seq ?? null;
      const sinceSeq = givenAtSeq ?? acceptedSeq;
      if (sinceSeq === null) return;
      for await (const { content } of kit.bus.read("AUDIT", { fromSeq: sinceSeq + 1, filter: subject })) {
        const other = content.kind === "event" ? (content.event.data as { commandId?: unknown }).commandId : null;
        if (typeof other !== "string" || other === commandId) continue;
        const otherSeq = accepted.get(other)?.seq ?? null;
        if (givenAtSeq === undefined && acceptedSeq !== null) {
          if (otherSeq === null)
            throw new RefusedError("contended", "another order came in just now: ask again with the same commandId", true);
          if (otherSeq < acceptedSeq) continue;
        }
        const why = "another order was carried out since this one was given, and stands";
        throw new RefusedError("overtaken", `${why}: look at the state, and give this one anew to have it all the same`);
      }
    },
    async load() {
      const { lastSeq } = await kit.bus.info("AUDIT");
      const range = { fromSeq: Math.max(1, lastSeq - backSeqs), filter: "command.accepted.>" };
      for await (const { content, seq } of kit.bus.read("AUDIT", range)) if (content.kind === "event") fold(content.event, { seq });
    },
    async run(command, actions) {
      const busy = running.get(command.commandId);
      if (busy !== undefined) {
        requireOwn(command, busy.name);
        return busy.answer as Promise<Awaited<ReturnType<typeof actions.act>>>;
      }
      if (!decider().settled) {
        throw new RefusedError("not_ready", `${kit.service} is still reading the log, or cannot reach it: ask again in a second`, true);
      }
      const run = runOnce(command, actions).catch((error: unknown) => {
        if (error instanceof BusError) throw new RefusedError("log_unreachable", `nothing is known to be done: ${error.message}`, true);
        throw error;
      });
      running.set(command.commandId, { name: command.name, answer: run });
      try {
        return await run;
      } finally {
        running.delete(command.commandId);
      }
    },
  };
}
