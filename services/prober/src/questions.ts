import { randomUUID } from "node:crypto";
import type { Event, ProbeRequested } from "@mcp-failover/contracts";
import { endpointKey } from "@mcp-failover/contracts";
import type { ProberPolicy } from "@mcp-failover/domain";
import type { Word } from "./keeper.ts";
import { type Performer, voteOf } from "./perform.ts";
import type { Probing } from "./probing.ts";
import type { Target } from "./targets.ts";

/** Asks the other probers before an endpoint is called down, and answers when others ask. */
export interface Questions {
  /** Probes a target here and at every peer, at once. Null: too many questions are under way, or our own word would be worth nothing. */
  ask(target: Target): Promise<Word | null>;
  answer(event: Event<"probe.requested">, respond: (event: Event) => void): Promise<void>;
}

export function createQuestions(options: {
  readonly instance: string;
  readonly policy: Pick<ProberPolicy, "questionsMax" | "answerMarginMs">;
  readonly targets: () => ReadonlyMap<string, Target>;
  readonly probing: Probing;
  readonly performer: Performer;
  readonly peers: () => readonly string[];
  readonly zoneOf: (prober: string) => string | null;
  readonly isolated: () => boolean;
}): Questions {
  const { instance, policy, probing, performer } = options;
  let asking = 0;

  return {
    async ask(target) {
      if (asking >= policy.questionsMax || options.isolated()) return null;
      asking += 1;
      try {
        const { upstream, endpoint } = target;
        const peers = options.peers();
        const timeoutMs = probing.confirmTimeoutMs(target);
        const requestId = `${instance}-${randomUUID()}`;
        const request: ProbeRequested = {
          requestId,
          targets: [{ upstream, endpoint }],
          purpose: "confirm",
          timeoutMs,
          requestedBy: instance,
        };
        const [own, replies] = await Promise.all([
          probing.now(target, { purpose: "confirm", requestId, timeoutMs, decide: false }),
          performer.askPeers(request, peers, timeoutMs + policy.answerMarginMs),
        ]);
        const theirs = replies.filter(
          (reply) => reply.requestId === requestId && reply.upstream === upstream && reply.endpoint === endpoint,
        );
        const words = own === null ? theirs : [own, ...theirs];
        return { asked: 1 + peers.length, votes: words.map((word) => voteOf(word, options.zoneOf(word.observer))) };
      } finally {
        asking -= 1;
      }
    },
    async answer({ data }, respond) {
      if (data.requestedBy === instance) return;
      const targets = data.targets.flatMap(({ upstream, endpoint }) => options.targets().get(endpointKey(upstream, endpoint)) ?? []);
      const observations = await Promise.all(
        targets.map((target) =>
          probing.now(target, {
            purpose: data.purpose,
            requestId: data.requestId,
            timeoutMs: data.purpose === "confirm" ? probing.confirmTimeoutMs(target, data.timeoutMs) : data.timeoutMs,
            decide: true,
          }),
        ),
      );
      const made = observations.filter((observation) => observation !== null);
      if (made.length > 0) respond(performer.observed(made));
    },
  };
}
