import type { Bus, Stored } from "@mcp-failover/bus";
import { emptyReadModel, foldReadModel, type ReadModel } from "@mcp-failover/domain";

/** Folds AUDIT into the read model, from its start. */
export async function foldLog(
  bus: Bus,
  toSeq?: number,
): Promise<{ model: ReadModel; messages: number; decisions: number; malformed: number }> {
  let model = emptyReadModel;
  let messages = 0;
  let decisions = 0;
  let malformed = 0;
  for await (const stored of bus.read("AUDIT", toSeq === undefined ? {} : { toSeq })) {
    messages += 1;
    if (stored.content.kind !== "event") {
      malformed += 1;
      continue;
    }
    if ("certificate" in stored.content.event.data) decisions += 1;
    model = foldReadModel(model, { seq: stored.seq, subject: stored.subject, timeMs: stored.timeMs, event: stored.content.event });
  }
  return { model, messages, decisions, malformed };
}

/** Names of the configured upstreams, from the log. */
export async function configuredUpstreams(bus: Bus): Promise<string[]> {
  const last = await bus.lastOf("AUDIT", "config.applied");
  if (last?.content.kind !== "event" || last.content.event.type !== "config.applied") return [];
  const { upstreams } = last.content.event.data.topology as { upstreams?: Record<string, unknown> };
  return Object.keys(upstreams ?? {});
}

/** One line for people. */
export function sayStored(stored: Stored): string {
  const time = new Date(stored.timeMs).toISOString();
  if (stored.content.kind === "malformed") return `${time} #${stored.seq} ${stored.subject} MALFORMED ${stored.content.reason}`;
  const data = stored.content.event.data as Record<string, unknown>;
  const move =
    typeof data["previousEndpoint"] === "string" && data["previousEndpoint"] !== data["currentEndpoint"]
      ? `${data["previousEndpoint"]} -> ${String(data["currentEndpoint"])}`
      : "";
  const parts = [move, data["status"], data["title"], data["reason"], data["error"]].filter(
    (part) => typeof part === "string" && part !== "",
  );
  return `${time} #${stored.seq} ${stored.subject} ${parts.join(" | ")}`.trimEnd();
}
