import { probeCheckPolicy } from "@mcp-failover/domain";
import type { CheckContext } from "./check.ts";
import { withConnection } from "./socket.ts";

/**
 * The days that a certificate has left, for assertions of probes that use kept connections: a handshake of its own, at most once a minute an
 * address, because a certificate changes with the days.
 */
export interface Certificates {
  daysOf(context: CheckContext): Promise<number | null>;
  retain(keys: ReadonlySet<string>): void;
}

export function openCertificates(): Certificates {
  const known = new Map<string, { readonly identity: string; readonly untilMs: number; readonly days: number | null }>();
  return {
    async daysOf(context) {
      const { key, identity, nowMs } = context;
      const kept = known.get(key);
      if (kept?.identity === identity && nowMs < kept.untilMs) return kept.days;
      const { hostname, port } = new URL(context.check.url);
      const days = await withConnection(
        { host: hostname, port: port === "" ? 443 : Number(port), isTls: true },
        context,
        async ({ certificateDays }) => certificateDays,
      );
      known.set(key, { identity, untilMs: nowMs + probeCheckPolicy.certificateEveryMs, days });
      return days;
    },
    retain(keys) {
      for (const key of known.keys()) if (!keys.has(key)) known.delete(key);
    },
  };
}
