import { type Event, subjectFor } from "@mcp-failover/contracts";
import { defaultPolicy, policyFor, routersApplying } from "@mcp-failover/domain";
import { type FencedDecider, type Kit, type Notice, type NoticeDesk, openNoticeDesk, type ToldDecision } from "@mcp-failover/service-kit";
import { type Knowledge, keyOf } from "./knowledge.ts";

const noticeTypes = {
  rolled_back: "rollback.executed",
  advanced: "rollback.advanced",
  paused: "rollback.paused",
  recovered: "rollback.recovered",
} as const;
type NoticeType = (typeof noticeTypes)[keyof typeof noticeTypes];
const isNotice = (event: Event): event is Event<NoticeType> => (Object.values(noticeTypes) as string[]).includes(event.type);

/** Tells of each decision once the live routers have applied it, or `rollback.fallback_timeout` is over. */
export function openRollbackNotices(kit: Kit<unknown>, decider: () => FencedDecider, knowledge: Knowledge): NoticeDesk {
  return openNoticeDesk<"rollback.decided">(kit, decider, {
    subjectOf: (key) => subjectFor("rollback.decided", ...splitKey(key)),
    decisionOf: (event) => (event.type === "rollback.decided" ? { key: keyOf(event.data), epoch: event.data.state.epoch, event } : null),
    noticeOfEvent: (event) => {
      if (!isNotice(event)) return null;
      const { epoch, appliedBy, notAppliedBy } = event.data;
      return { key: keyOf(event.data), epoch, appliedBy, notAppliedBy };
    },
    noticeFor: (key, decision) => noticeFor(knowledge, key, decision, decider().nowMs()),
  });
}

function noticeFor(
  { audit, traffic }: Knowledge,
  key: string,
  { event, epoch, timeMs }: ToldDecision<"rollback.decided">,
  nowMs: number,
): Notice<NoticeType> | null {
  const { scope, name, action, implementation, reason, by, certificate } = event.data;
  const switchMs = switchMsOf(audit.config);
  const places = { decision: { epoch, id: event.id }, newest: audit.newest.get(key) ?? null };
  const applied = routersApplying(traffic, key, places, defaultPolicy.failover.routerLiveMs, nowMs);
  if (applied.notAppliedBy.length > 0 && nowMs - timeMs < switchMs) return null;
  const timestamp = new Date(nowMs).toISOString();
  const data = { scope, name, epoch, decisionId: event.id, implementation, timestamp, reason, rule: certificate.rule, by, ...applied };
  return { type: noticeTypes[action], keys: [scope, name], data };
}

/** `rollback.fallback_timeout` is one for all upstreams: the policy of any of them says it. Without any there is nothing to wait for. */
function switchMsOf(config: Knowledge["audit"]["config"]): number {
  const [upstream] = Object.keys(config?.topology.upstreams ?? {});
  return config === null || upstream === undefined ? 0 : policyFor(config.topology, upstream, config.environment).rollback.switchMs;
}

/** `scope/name`; only the name may have "/" in it. */
function splitKey(key: string): [string, string] {
  const at = key.indexOf("/");
  return [key.slice(0, at), key.slice(at + 1)];
}
