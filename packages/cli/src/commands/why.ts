import type { Bus, Stored } from "@mcp-failover/bus";
import { type Certificate, subjectFor, type Vote } from "@mcp-failover/contracts";
import type { Context } from "../context.ts";
import { type ExitCode, usageError } from "../errors.ts";
import { table } from "../output.ts";
import { configuredUpstreams } from "../read-log.ts";

/** What `mcpf why -o json` prints. */
export interface Why {
  readonly upstream: string;
  readonly decision: Told | null;
  /** Notice that the routers had applied this very decision; null: not yet, or it moves nothing. */
  readonly executed: {
    readonly timestamp: string;
    readonly appliedBy: readonly string[];
    readonly notAppliedBy: readonly string[];
    readonly seq: number;
  } | null;
  readonly rejected: Told | null;
  readonly failing: Told | null;
  /** What stands where a decision or a notice of it should, and is none that this version can read. */
  readonly unreadable: readonly { readonly seq: number; readonly subject: string; readonly reason: string }[];
}

interface Told {
  readonly seq: number;
  readonly subject: string;
  readonly timestamp: string;
  readonly rule: string;
  readonly reason: string;
  /** What was decided: `moved`, `held` or `released`; null for a refusal and a dead end. */
  readonly action: string | null;
  readonly automatic: boolean;
  readonly by: string;
  readonly epoch: number | null;
  readonly from: string | null;
  readonly to: string | null;
  readonly overrode: readonly string[];
  readonly policyHash: string;
  readonly folded: Certificate["folded"];
  readonly votes: readonly (Pick<Vote, "observer" | "kind" | "verdict" | "outcome" | "code" | "atMs" | "ref"> & { endpoint: string })[];
  /** Calls at the active endpoint since it became active, by router: what a verification was judged by. */
  readonly traffic: readonly { router: string; ok: number; hard: number; run: number }[];
  /** Until when the move is verified by real traffic; null: it is not. */
  readonly verifiedUntilMs: number | null;
  readonly alternatives: readonly { option: string; why: string }[];
}

/** `mcpf why <upstream>`: the last decision, and the last refusal or dead end after it; 1 when one of them cannot be read. */
export async function why(context: Context, upstream: string): Promise<ExitCode> {
  const bus = await context.bus();
  const known = await configuredUpstreams(bus);
  if (!known.includes(upstream))
    throw usageError(`no upstream ${JSON.stringify(upstream)} is configured; known: ${known.join(", ") || "none"}`, "unknown_upstream");
  const answer = await explain(bus, upstream);
  context.out.print(answer, () => say(answer));
  return answer.unreadable.length === 0 ? 0 : 1;
}

/** Reads what the log says of an upstream's last decisions. */
export async function explain(bus: Bus, upstream: string): Promise<Why> {
  const last = (type: "failover.decided" | "failover.executed" | "failover.rejected" | "failover.failed") =>
    bus.lastOf("AUDIT", subjectFor(type, upstream));
  const [decided, executed, rejected, failed] = await Promise.all([
    last("failover.decided"),
    last("failover.executed"),
    last("failover.rejected"),
    last("failover.failed"),
  ]);
  const after = decided?.seq ?? 0;
  const event = decided?.content.kind === "event" ? decided.content.event : null;
  // Between a decision and its notice the last notice is of another one: of a move that this one may have undone.
  const notice =
    executed?.content.kind === "event" && executed.content.event.type === "failover.executed" ? executed.content.event.data : null;
  const isOfIt =
    notice !== null && event?.type === "failover.decided" && notice.epoch === event.data.state.epoch && (executed?.seq ?? 0) > after;
  const isFailing =
    failed?.content.kind === "event" && failed.content.event.type === "failover.failed" && failed.content.event.data.failing;
  return {
    upstream,
    decision: tell(decided),
    executed:
      isOfIt && executed
        ? { timestamp: notice.timestamp, appliedBy: notice.appliedBy, notAppliedBy: notice.notAppliedBy, seq: executed.seq }
        : null,
    rejected: rejected && rejected.seq > after ? tell(rejected) : null,
    failing: isFailing ? tell(failed) : null,
    // Whether there is somewhere to go, the last word says, however old it is.
    unreadable: [decided, executed, rejected, failed].flatMap((stored) =>
      stored?.content.kind === "malformed" && (stored.seq >= after || stored === failed)
        ? [{ seq: stored.seq, subject: stored.subject, reason: stored.content.reason }]
        : [],
    ),
  };
}

function tell(stored: Stored | null): Told | null {
  if (stored?.content.kind !== "event") return null;
  const data = stored.content.event.data as Record<string, unknown> & { certificate: Certificate; timestamp: string; reason: string };
  const { certificate } = data;
  const input = certificate.input as { evidence?: Record<string, { votes?: Vote[] }>; traffic?: { after?: Told["traffic"] } } | null;
  const evidence = input?.evidence ?? {};
  const state = data["state"] as { epoch?: number; trial?: { untilMs: number; epoch: number } | null } | undefined;
  const trial = state?.trial?.epoch === state?.epoch ? state?.trial : null;
  const by = data["by"] as { id?: string } | undefined;
  return {
    seq: stored.seq,
    subject: stored.subject,
    timestamp: data.timestamp,
    rule: certificate.rule,
    reason: data.reason,
    action: typeof data["action"] === "string" ? data["action"] : null,
    automatic: data["automatic"] !== false,
    by: by?.id ?? "failover-controller",
    epoch: state?.epoch ?? null,
    from: typeof data["previousEndpoint"] === "string" ? data["previousEndpoint"] : null,
    to: typeof data["currentEndpoint"] === "string" ? data["currentEndpoint"] : null,
    overrode: Array.isArray(data["overrode"]) ? data["overrode"].map(String) : [],
    policyHash: certificate.policyHash,
    folded: certificate.folded,
    votes: Object.entries(evidence).flatMap(([endpoint, { votes = [] }]) =>
      votes.map(({ observer, kind, verdict, outcome, code, atMs, ref }) => ({
        endpoint,
        observer,
        kind,
        verdict,
        outcome,
        code,
        atMs,
        ref,
      })),
    ),
    traffic: certificate.rule === "verify_failed" ? (input?.traffic?.after ?? []) : [],
    verifiedUntilMs: trial?.untilMs ?? null,
    alternatives: certificate.rejected.map(({ option, why: text }) => ({ option, why: text })),
  };
}

function say(answer: Why): string {
  const parts = answer.unreadable.map(
    ({ seq, subject, reason }) =>
      `#${seq} ${subject} cannot be read (${reason}): a newer version wrote it, or it is damaged. \`mcpf events verify\` checks it`,
  );
  const isUnreadable = answer.unreadable.some(({ subject }) => subject === subjectFor("failover.decided", answer.upstream));
  if (answer.decision !== null) parts.push(sayTold(titleOf(answer.decision), answer.decision));
  else if (!isUnreadable)
    parts.push(`${answer.upstream}: nothing has been decided yet; the first endpoint of the configuration is active (epoch 0).`);
  if (answer.executed) {
    const missing = answer.executed.notAppliedBy.length > 0 ? `, not by ${answer.executed.notAppliedBy.join(", ")}` : "";
    parts.push(
      `executed ${answer.executed.timestamp} (#${answer.executed.seq}): applied by ${answer.executed.appliedBy.join(", ") || "no router"}${missing}`,
    );
  } else if (answer.decision?.action === "moved") parts.push("not yet executed: nobody has told of a router that applied it");
  if (answer.failing) parts.push(sayTold("FAILING, nowhere to go", answer.failing));
  if (answer.rejected) parts.push(sayTold("Refused since", answer.rejected));
  return parts.join("\n\n");
}

function titleOf({ action, from, to }: Told): string {
  if (action === "held") return `Held at ${to}`;
  if (action === "released") return `Released at ${to}`;
  return from === to ? "Decided" : `Moved ${from} -> ${to}`;
}

function sayTold(title: string, told: Told): string {
  const votes = told.votes.map((vote) => [
    `  ${vote.endpoint}`,
    vote.observer,
    vote.verdict,
    vote.code ?? vote.outcome,
    new Date(vote.atMs).toISOString(),
    vote.ref ? `${vote.ref.stream} #${vote.ref.seq}` : "-",
  ]);
  return [
    `${title}${told.epoch === null ? "" : ` (epoch ${told.epoch})`}, ${told.timestamp}, #${told.seq} ${told.subject}`,
    `  because   ${told.reason}`,
    `  rule      ${told.rule}, ${told.automatic ? "automatic" : `by ${told.by}`}; policy ${told.policyHash}`,
    ...(told.overrode.length > 0 ? [`  overrode  ${told.overrode.join(", ")}`] : []),
    ...(told.verifiedUntilMs === null ? [] : [`  verified  by real traffic until ${new Date(told.verifiedUntilMs).toISOString()}`]),
    ...told.traffic.map(({ router, ok, hard, run }) => `  traffic   ${router}: ${ok} calls well, ${hard} failed, the last ${run} in a row`),
    `  read      AUDIT ${range(told.folded.AUDIT)}, SIGNALS ${range(told.folded.SIGNALS)}`,
    ...(votes.length > 0 ? ["", table(["  ENDPOINT", "OBSERVER", "SAYS", "BECAUSE", "AT", "EVIDENCE"], votes)] : []),
    ...(told.alternatives.length > 0 ? ["", ...told.alternatives.map(({ option, why: text }) => `  not ${option}: ${text}`)] : []),
  ].join("\n");
}

const range = (folded: Certificate["folded"]["AUDIT"]): string => (folded === null ? "-" : `${folded.first}..${folded.last}`);
