import type { Certificate } from "@mcp-failover/contracts";
import { initialFailoverState } from "@mcp-failover/domain";
import type { Check, Entry } from "../world-types.ts";

/** What the log and the routers hold for one epoch of one upstream. */
const keyOf = (upstream: string, generation: number, epoch: number): string => `${upstream} ${generation}.${epoch}`;

/** An epoch means one endpoint (in a pool: one tier), wherever it is read. */
export const oneActiveEndpointAnEpoch: Check = {
  guarantee: "one_active_endpoint_an_epoch",
  says: "in every epoch of an upstream one endpoint (in a pool: one tier) is active, in the log and in every router, and no router goes back to an older one",
  start(world) {
    const activeAt = new Map<string, string>();
    const heldBy = new Map<string, { generation: number; epoch: number }>();
    const groupOf = (upstream: string, endpoint: string): string => {
      const { mode, endpoints } = world.topology.upstreams[upstream] ?? { mode: "active_standby", endpoints: [] };
      return mode === "pool" ? `tier ${endpoints.find(({ name }) => name === endpoint)?.tier}` : endpoint;
    };
    for (const upstream of Object.keys(world.topology.upstreams)) {
      const { active, generation, epoch } = initialFailoverState(world.topology, upstream, 1);
      activeAt.set(keyOf(upstream, generation, epoch), groupOf(upstream, active));
    }
    return {
      onAudit({ seq, event }) {
        if (event.type !== "failover.decided") return;
        const { service, state, currentEndpoint } = event.data;
        if (state.active !== currentEndpoint) {
          world.fail("one_active_endpoint_an_epoch", `the log says ${currentEndpoint} and ${state.active} of epoch ${state.epoch}`, {
            seq,
          });
        }
        const key = keyOf(service, state.generation, state.epoch);
        const before = activeAt.get(key);
        if (before !== undefined) {
          world.fail("one_active_endpoint_an_epoch", `the log has two decisions for ${key}: ${before} and ${state.active}`, { seq });
        }
        activeAt.set(key, groupOf(service, state.active));
      },
      onRoute({ router, upstream, active, epoch, generation }) {
        const key = keyOf(upstream, generation, epoch);
        const decided = activeAt.get(key);
        if (decided !== groupOf(upstream, active)) {
          world.fail("one_active_endpoint_an_epoch", `${router} holds ${active} for ${key}, which the log gives to ${decided ?? "nobody"}`);
        }
        const held = heldBy.get(`${router} ${upstream}`);
        if (held !== undefined && (generation < held.generation || (generation === held.generation && epoch < held.epoch))) {
          world.fail("one_active_endpoint_an_epoch", `${router} went back from epoch ${held.epoch} to ${epoch} of ${upstream}`);
        }
        heldBy.set(`${router} ${upstream}`, { generation, epoch });
      },
      onHappening({ what, process }) {
        // A new process begins with what is on its disk.
        if (what !== "started" || process === null) return;
        for (const key of [...heldBy.keys()]) if (key.startsWith(`${process} `)) heldBy.delete(key);
      },
    };
  },
};

/** The log counts what it decides. */
export const epochsWithoutGap: Check = {
  guarantee: "epochs_without_gap",
  says: "the epochs of an upstream, and of a rollback scope, go up by exactly one at each decision",
  start(world) {
    const epochs = new Map<string, number>();
    return {
      onAudit({ seq, subject, event }) {
        if (event.type !== "failover.decided" && event.type !== "rollback.decided") return;
        const { epoch } = event.data.state;
        const before = epochs.get(subject) ?? 0;
        if (epoch !== before + 1) world.fail("epochs_without_gap", `${subject} went from epoch ${before} to ${epoch}`, { seq });
        epochs.set(subject, epoch);
      },
    };
  },
};

/** A fenced subject has one history. */
export const fencedWithoutGap: Check = {
  guarantee: "every_decision_is_fenced",
  says: "a decision stands right behind the one that it was taken on: two deciders never both win",
  start(world) {
    const last = new Map<string, Entry>();
    return {
      onAudit(entry) {
        const { seq, subject, expectedSeq, event } = entry;
        const before = last.get(subject);
        last.set(subject, entry);
        if (!("certificate" in event.data) || event.type === "failover.rejected" || event.type === "rollback.rejected") return;
        const knownSeq = (event.data.certificate as Certificate).folded.AUDIT?.last ?? 0;
        if (before !== undefined && knownSeq < before.seq) {
          world.fail(
            "every_decision_is_fenced",
            `${subject} was decided with the log known up to #${knownSeq}, and #${before.seq} was there`,
            { seq },
          );
        }
        if (expectedSeq === null) world.fail("every_decision_is_fenced", `${subject} was published without a fence`, { seq });
        if (expectedSeq !== (before?.seq ?? 0)) {
          world.fail("every_decision_is_fenced", `${subject} expected #${expectedSeq}, and #${before?.seq ?? 0} was there`, { seq });
        }
      },
    };
  },
};
