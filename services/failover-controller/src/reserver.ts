import {
  compareWants,
  decideReservation,
  type FleetAnswer,
  type ReservationAnswer,
  type ReservationInput,
  reservationInput,
  type Want,
  wantsMax,
} from "@mcp-failover/domain";
import type { FencedDecider } from "@mcp-failover/service-kit";
import type { Knowledge } from "./knowledge.ts";

/** The fleet's answer to one move, and when a place may be free again where none was. */
export type Reserved = FleetAnswer & { readonly retryAtMs: number | null };
type Publish = (
  input: ReservationInput,
  decision: ReturnType<typeof decideReservation>,
  expectedSeq: number,
) => Promise<{ outcome: "won" | "lost" }>;
interface Waiting {
  readonly want: Want;
  readonly resolve: (answer: Reserved) => void;
  readonly reject: (error: unknown) => void;
}

/** Lost races after which an asker is sent away to try again within the second. */
const racesMax = 20;

/**
 * Reserves places among the fleet's moves. All that ask at once are answered by one decision on the one fenced subject: when a thousand
 * upstreams fail together, a thousand publishes there would race each other.
 */
export class Reserver {
  readonly #knowledge: Knowledge;
  readonly #decider: Pick<FencedDecider, "decisionMs" | "foldedSeq">;
  readonly #publish: Publish;
  #queue: Waiting[] = [];
  #running = false;

  constructor(parts: { knowledge: Knowledge; decider: Pick<FencedDecider, "decisionMs" | "foldedSeq">; publish: Publish }) {
    this.#knowledge = parts.knowledge;
    this.#decider = parts.decider;
    this.#publish = parts.publish;
  }

  reserve(want: Want): Promise<Reserved> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ want, resolve, reject });
      if (this.#running) return;
      this.#running = true;
      // Whoever asks in the same turn is in the same decision.
      queueMicrotask(() => void this.#run());
    });
  }

  /** What the fleet would answer now; reserves nothing. */
  look(want: Want): Reserved {
    const [answer] = decideReservation(this.#inputOf([want])).answers;
    return asReserved(answer, want);
  }

  /** Never rejects: whoever asked is told. */
  async #run(): Promise<void> {
    while (this.#queue.length > 0) {
      const sorted = this.#queue.sort((a, b) => compareWants(a.want, b.want));
      const batch = sorted.slice(0, wantsMax);
      this.#queue = sorted.slice(wantsMax);
      try {
        const answers = await this.#decide(batch.map(({ want }) => want));
        // In the order of the batch: an operator and this process by itself may ask for one move, and be answered differently.
        for (const [index, { want, resolve }] of batch.entries()) resolve(asReserved(answers?.[index], want));
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
    }
    this.#running = false;
  }

  /** One answer a want; undefined for who was taken out of the configuration meanwhile, which the others are not to wait for. */
  async #decide(wants: readonly Want[]): Promise<readonly (ReservationAnswer | undefined)[] | null> {
    for (let races = 0; races < racesMax; races += 1) {
      const known = wants.filter(({ upstream }) => this.#knowledge.isConfigured(upstream));
      if (known.length === 0) return [];
      const expectedSeq = this.#decider.foldedSeq("fleet.reserved", []);
      const input = this.#inputOf(known);
      const decision = decideReservation(input);
      const won = !decision.publish || (await this.#publish(input, decision, expectedSeq)).outcome === "won";
      if (won) return wants.map((want) => decision.answers[known.indexOf(want)]);
    }
    return null;
  }

  #inputOf(wants: readonly Want[]): ReservationInput {
    return reservationInput(this.#knowledge.audit, wants, this.#decider.decisionMs());
  }
}

function asReserved(answer: ReservationAnswer | undefined, { to }: Want): Reserved {
  if (answer === undefined) {
    const reason = "the fleet's reservations change too fast; the move is tried again";
    return { granted: false, rule: "fleet_limit", reason, expiresAtMs: 0, to, overrode: [], retryAtMs: null };
  }
  const { granted, rule, reason, expiresAtMs, overrode, retryAtMs } = answer;
  return { granted, rule, reason, expiresAtMs, to, overrode, retryAtMs };
}
