import { RefusedError } from "@mcp-failover/bus";
import { type BreakerCommand, type Event, endpointKey, subjectFor } from "@mcp-failover/contracts";
import type { BreakerOrder } from "@mcp-failover/domain";
import type { CommandDesk, FencedDecider, Kit } from "@mcp-failover/service-kit";
import type { Breaker, Breakers } from "./breakers.ts";

/** What `command.breaker` answers, an item an endpoint. */
export interface BreakerAnswer {
  readonly upstream: string;
  readonly action: BreakerCommand["action"];
  readonly endpoints: readonly {
    readonly endpoint: string;
    readonly status: string;
    readonly generation: number;
    readonly eventId: string | null;
  }[];
}

/** Publishes the change that an operator ordered; gives back when it stands in the log, whoever put it there, or a later order does. */
export type Obey = (key: string, breaker: Breaker, order: BreakerOrder) => Promise<"done" | "overtaken">;

/** Which endpoints each command has been done to, so that a repeat does only what is missing. */
const rememberedMax = 2000;

/**
 * Serves `command.breaker`: recorded first, then one `breaker.changed` an endpoint. A repeat, also one that another instance gets in the
 * middle of the first, does what is still missing and nothing twice. An order that was recorded later and is done already stands: what came
 * late of the earlier one is refused, however often it is asked for.
 */
export class BreakerCommands {
  readonly #decider: FencedDecider;
  readonly #desk: CommandDesk;
  readonly #breakers: Breakers;
  readonly #kit: Pick<Kit, "bus">;
  readonly #obey: Obey;
  readonly #done = new Map<string, Set<string>>();
  /** The command that was done last, and where that stands, by endpoint. */
  readonly #last = new Map<string, { readonly commandId: string; readonly seq: number }>();

  constructor(parts: { kit: Pick<Kit, "bus">; decider: FencedDecider; desk: CommandDesk; breakers: Breakers; obey: Obey }) {
    this.#kit = parts.kit;
    this.#decider = parts.decider;
    this.#desk = parts.desk;
    this.#breakers = parts.breakers;
    this.#obey = parts.obey;
  }

  fold(event: Event, { seq }: { seq: number }): void {
    if (event.type !== "breaker.changed" || event.data.commandId === undefined) return;
    const { commandId, service, endpoint } = event.data;
    const key = endpointKey(service, endpoint);
    const done = this.#done.get(commandId) ?? new Set();
    done.add(key);
    remember(this.#done, commandId, done);
    if (seq >= (this.#last.get(key)?.seq ?? 0)) remember(this.#last, key, { commandId, seq });
  }

  /** Which order was the last one is a matter of one log. */
  forgetOrder(): void {
    this.#last.clear();
  }

  /** Whether one that was recorded after an order was done to the endpoint before it. Throws {@link RefusedError} where that is not known yet. */
  isOvertaken(commandId: string, key: string): boolean {
    const last = this.#last.get(key);
    const mineSeq = this.#desk.acceptedSeq(commandId);
    if (last === undefined || mineSeq === null || last.commandId === commandId || last.seq < mineSeq) return false;
    const acceptedSeq = this.#desk.acceptedSeq(last.commandId);
    if (acceptedSeq !== null) return acceptedSeq > mineSeq;
    throw new RefusedError("contended", `another order for ${key} came in just now: ask again with the same commandId`, true);
  }

  /** Whether the log has what a command ordered for one endpoint, by whichever instance. */
  async isDone(commandId: string, key: string, { upstream, endpoint }: Breaker): Promise<boolean> {
    if (!this.#done.get(commandId)?.has(key)) await this.#readDone([subjectFor("breaker.changed", upstream, endpoint)], commandId);
    return this.#done.get(commandId)?.has(key) === true;
  }

  async run(body: BreakerCommand): Promise<BreakerAnswer> {
    if (!this.#decider.settled) {
      throw new RefusedError("not_ready", "breaker-state is still reading the log, or cannot reach it: ask again in a second", true);
    }
    const { upstream, endpoint, action, commandId, by, reason } = body;
    const targets = this.#targets(upstream, endpoint);
    const order: BreakerOrder = { action, commandId, by, reason };
    const subjects = targets.map(([, breaker]) => subjectFor("breaker.changed", breaker.upstream, breaker.endpoint));
    const act = async (): Promise<BreakerAnswer> => {
      const overtaken: string[] = [];
      for (const [key, breaker] of targets) {
        if (this.#done.get(commandId)?.has(key)) continue;
        if ((await this.#obey(key, breaker, order)) === "overtaken") overtaken.push(key);
      }
      if (overtaken.length === 0) return this.#answer(body, targets);
      const why = `a later order for ${overtaken.join(", ")} was carried out first, and stands`;
      throw new RefusedError("overtaken", `${why}; give this one anew, with an id of its own, to have it all the same`);
    };
    return this.#desk.run(
      { name: "breaker", commandId, by, reason, parameters: { upstream, endpoint, action } },
      {
        act,
        answerOf: async () => {
          await this.#readDone(subjects, commandId);
          return act();
        },
        outcomeSubjects: subjects,
      },
    );
  }

  /** What this process did not hear, because it began later and each subject has had a newer event since. */
  async #readDone(subjects: readonly string[], commandId: string): Promise<void> {
    for (const filter of subjects) {
      for await (const { content, seq } of this.#kit.bus.read("AUDIT", { filter })) {
        if (content.kind === "event" && (content.event.data as { commandId?: unknown }).commandId === commandId)
          this.fold(content.event, { seq });
      }
    }
  }

  #targets(upstream: string, endpoint: string | null): readonly (readonly [string, Breaker])[] {
    const of = [...this.#breakers.configured].filter(([, breaker]) => breaker.upstream === upstream);
    if (of.length === 0) {
      const known = [...new Set([...this.#breakers.configured.values()].map((breaker) => breaker.upstream))];
      const said = known.length === 0 ? "no configuration has been applied yet" : `known: ${known.slice(0, 20).join(", ")}`;
      throw new RefusedError("unknown_upstream", `no upstream ${JSON.stringify(upstream)} is configured; ${said}`);
    }
    const wanted = endpoint === null ? of : of.filter(([, breaker]) => breaker.endpoint === endpoint);
    if (wanted.length > 0) return wanted;
    const known = of.map(([, breaker]) => breaker.endpoint).slice(0, 20);
    throw new RefusedError("unknown_endpoint", `${upstream} has no endpoint ${JSON.stringify(endpoint)}; known: ${known.join(", ")}`);
  }

  #answer({ upstream, action }: BreakerCommand, targets: readonly (readonly [string, Breaker])[]): BreakerAnswer {
    const endpoints = targets.map(([key, { endpoint }]) => {
      const { state, eventId } = this.#breakers.known(key);
      return { endpoint, status: state.status, generation: state.generation, eventId };
    });
    return { upstream, action, endpoints };
  }
}

function remember<V>(map: Map<string, V>, key: string, value: V): void {
  map.delete(key);
  map.set(key, value);
  while (map.size > rememberedMax) map.delete(map.keys().next().value as string);
}
