import { type Event, subjectFor } from "@mcp-failover/contracts";
import { policyFor, routersHolding } from "@mcp-failover/domain";
import {
  type FencedDecider,
  type Folded,
  type Kit,
  type Notice,
  type NoticeDesk,
  openNoticeDesk,
  type ToldDecision,
} from "@mcp-failover/service-kit";
import type { Knowledge } from "./knowledge.ts";

type Decision = ToldDecision & { readonly data: Event<"failover.decided">["data"] };
interface Applied {
  readonly appliedBy: readonly string[];
  readonly notAppliedBy: readonly string[];
}
type NoticeType = "failover.executed" | "failover.held" | "failover.released";
const noticeTypes = { moved: "failover.executed", held: "failover.held", released: "failover.released" } as const;

/** Tells of each decision: `failover.executed` once the live routers have applied it or `applyWaitMs` is over, the others at once. */
export class Notices {
  readonly #kit: Pick<Kit, "nowMs" | "log" | "bus">;
  readonly #knowledge: Knowledge;
  readonly #desk: NoticeDesk<Decision>;
  /** The last notice of each upstream, for the answers of commands. */
  readonly #told = new Map<string, { epoch: number } & Applied>();

  constructor(kit: Pick<Kit, "nowMs" | "log" | "bus">, decider: () => FencedDecider, knowledge: Knowledge) {
    this.#kit = kit;
    this.#knowledge = knowledge;
    this.#desk = openNoticeDesk<Decision>(kit, decider, {
      subjectOf: (upstream) => subjectFor("failover.decided", upstream),
      read: readDecision,
      noticeOf: (upstream, decision) => this.#noticeOf(upstream, decision),
    });
  }

  fold(event: Event, at: Folded): void {
    const decision = readDecision(event, at);
    if (decision !== null) this.#desk.decided(decision.data.service, decision);
    if (event.type === "failover.executed" || event.type === "failover.held" || event.type === "failover.released") {
      const { service: upstream, epoch } = event.data;
      this.#desk.told(upstream, epoch);
      const applied = event.type === "failover.executed" ? event.data : { appliedBy: [], notAppliedBy: [] };
      if (epoch >= (this.#told.get(upstream)?.epoch ?? 0)) {
        this.#told.set(upstream, { epoch, appliedBy: applied.appliedBy, notAppliedBy: applied.notAppliedBy });
      }
    }
  }

  /** Who had applied an epoch when it was told; null: it was not yet. */
  toldOf(upstream: string, epoch: number): Applied | null {
    const told = this.#told.get(upstream);
    return told !== undefined && told.epoch >= epoch ? { appliedBy: told.appliedBy, notAppliedBy: told.notAppliedBy } : null;
  }

  async findMissing(upstreams: readonly string[]): Promise<void> {
    for (const upstream of upstreams) await this.#desk.findMissing(upstream);
  }

  pump(): void {
    this.#desk.pump();
  }

  #noticeOf(upstream: string, { id, epoch, timeMs, data }: Decision): Notice<NoticeType> | null {
    const nowMs = this.#kit.nowMs();
    const { config, generation } = this.#knowledge.audit;
    const configured = config !== null && Object.hasOwn(config.topology.upstreams, upstream);
    const policy = configured ? policyFor(config.topology, upstream, config.environment).failover : null;
    const applied = routersHolding(this.#knowledge.evidence, upstream, { generation, epoch }, policy?.routerLiveMs ?? 0, nowMs);
    const waiting = applied.notAppliedBy.length > 0 && nowMs - timeMs < (policy?.applyWaitMs ?? 0);
    if (data.action === "moved" && waiting) return null;
    const { previousEndpoint, currentEndpoint, automatic, reason, by, state } = data;
    const common = { service: upstream, epoch, decisionId: id, timestamp: new Date(nowMs).toISOString(), reason, by };
    const more =
      data.action === "moved"
        ? { previousEndpoint, currentEndpoint, automatic, ...applied }
        : data.action === "held"
          ? { untilMs: state.held?.untilMs ?? null }
          : {};
    return { type: noticeTypes[data.action], keys: [upstream], data: { ...common, ...more } as never };
  }
}

function readDecision(event: Event, { seq, timeMs }: Folded): Decision | null {
  if (event.type !== "failover.decided") return null;
  return { id: event.id, epoch: event.data.state.epoch, seq, timeMs, data: event.data };
}
