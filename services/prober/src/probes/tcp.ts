import { probeCheckPolicy } from "@mcp-failover/domain";
import type { CheckContext, CheckFound } from "./check.ts";
import { okResult } from "./result.ts";
import { withConnection } from "./socket.ts";

/** Probes a TCP port: that it takes a connection. */
export async function probeTcp(context: CheckContext): Promise<CheckFound> {
  const { hostname, port } = new URL(context.check.url);
  const startedMs = performance.now();
  const latencyMs = await withConnection(
    { host: hostname, port: Number(port), isTls: false },
    context,
    async () => performance.now() - startedMs,
  );
  return { result: okResult(latencyMs), seen: { latencyMs } };
}

/**
 * Probes a TLS port: the handshake, and that its certificate verifies and stays valid. Where no assertion names `certificate_days`, the
 * last days of a certificate degrade.
 */
export async function probeTls(context: CheckContext): Promise<CheckFound> {
  const { hostname, port } = new URL(context.check.url);
  const startedMs = performance.now();
  return withConnection(
    { host: hostname, port: port === "" ? 443 : Number(port), isTls: true },
    context,
    async ({ certificateDays, socket }) => {
      const latencyMs = performance.now() - startedMs;
      const protocolVersion = "getProtocol" in socket && typeof socket.getProtocol === "function" ? String(socket.getProtocol()) : null;
      const isOwn = context.check.expect.some(({ of }) => of === "certificate_days");
      const endsSoon = !isOwn && certificateDays !== null && certificateDays < probeCheckPolicy.certificateDaysMin;
      return {
        result: {
          ...okResult(latencyMs),
          ...(endsSoon
            ? {
                degraded: {
                  code: "certificate",
                  detail: `the certificate ends in ${certificateDays} days; expected at least ${probeCheckPolicy.certificateDaysMin}`,
                },
              }
            : {}),
        },
        seen: { latencyMs, certificateDays, protocolVersion },
      };
    },
  );
}
