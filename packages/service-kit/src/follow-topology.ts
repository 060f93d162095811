import type { Following } from "@mcp-failover/bus";
import { requestFixOf, sayIssues, type Topology, topology } from "@mcp-failover/contracts";
import type { Kit } from "./kit.ts";

/** A version of the configuration, as it is in the log. */
export interface AppliedTopology {
  readonly version: number;
  readonly hash: string;
  readonly environment: "development" | "production";
  readonly topology: Topology;
  /** Sequence in AUDIT. */
  readonly seq: number;
}

/** Hands over the configuration that is in force, and every later one. A version that does not parse is skipped: the last good one stays. */
export function followTopology(kit: Pick<Kit, "bus" | "log">, onTopology: (applied: AppliedTopology) => void | Promise<void>): Following {
  return kit.bus.follow("AUDIT", { from: "last_per_subject", filter: "config.applied" }, async (stored) => {
    const applied = readTopology(stored, kit.log);
    if (applied) await onTopology(applied);
  });
}

/** The configuration in a `config.applied` event, or null when the event is another one or does not hold a topology. */
export function readTopology(
  stored: { readonly seq: number; readonly content: { kind: string; event?: { type: string; data: unknown } } },
  log: { error(details: object, message: string): void },
): AppliedTopology | null {
  if (stored.content.kind !== "event" || stored.content.event?.type !== "config.applied") return null;
  const data = stored.content.event.data as { version: number; hash: string; environment: "development" | "production"; topology: unknown };
  const parsed = topology.safeParse(data.topology, { error: requestFixOf });
  if (!parsed.success) {
    log.error(
      { version: data.version, seq: stored.seq, problem: sayIssues(parsed.error) },
      "a configuration in the log does not parse; the last good one stays in force",
    );
    return null;
  }
  return { version: data.version, hash: data.hash, environment: data.environment, topology: parsed.data, seq: stored.seq };
}
