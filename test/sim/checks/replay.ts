import { isDeepStrictEqual } from "node:util";
import { decideBreaker, decideFailover, decideHealth, decideReservation, decideRollback, type Recompute } from "@mcp-failover/domain";
import type { Check } from "../world-types.ts";

const deciders: Readonly<Record<string, Recompute>> = {
  decideHealth: (input) => decideHealth(input as Parameters<typeof decideHealth>[0]),
  decideBreaker: (input) => decideBreaker(input as Parameters<typeof decideBreaker>[0]),
  decideFailover: (input) => decideFailover(input as Parameters<typeof decideFailover>[0]),
  decideReservation: (input) => decideReservation(input as Parameters<typeof decideReservation>[0]),
  decideRollback: (input) => decideRollback(input as Parameters<typeof decideRollback>[0]),
};

/** As JSON has it: what is not there and what is undefined are the same. */
const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value ?? null));

export const decisionsReplay: Check = {
  guarantee: "every_decision_replays",
  says: "a decision, taken again on the input that its certificate holds, is the same decision, and its input's state is what the event before it left",
  start(world) {
    const states = new Map<string, unknown>();
    return {
      onAudit({ seq, subject, event }) {
        const data = event.data as { state?: unknown; certificate?: { decider: string; rule: string; input: unknown } };
        const { certificate } = data;
        if (certificate === undefined) return;
        const decide = deciders[certificate.decider];
        if (decide === undefined) return world.fail("every_decision_replays", `${subject} was decided by ${certificate.decider}`, { seq });
        const input = plain(certificate.input) as { state?: unknown };
        const again = decide(input);
        if (again.rule !== certificate.rule) {
          world.fail("every_decision_replays", `${subject} was decided by ${certificate.rule}, and by ${again.rule} in the replay`, {
            seq,
          });
        }
        if (data.state === undefined) return;
        if (!isDeepStrictEqual(plain(again.state), plain(data.state))) {
          world.fail("every_decision_replays", `${subject} has another state in the replay`, { seq, said: data.state, again: again.state });
        }
        const before = states.get(subject);
        if (before !== undefined && !isDeepStrictEqual(plain(input.state), before)) {
          world.fail("every_decision_replays", `${subject} was decided on a state that is not the one before it`, { seq });
        }
        states.set(subject, plain(data.state));
      },
    };
  },
};
