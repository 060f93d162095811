import { endpointKey } from "@mcp-failover/contracts";
import { type Kit, MissingSecretError } from "@mcp-failover/service-kit";
import type { ProberEnvironment } from "./config.ts";
import { openReports, type Reports } from "./probes/heartbeat.ts";
import { type ReportServer, startReportServer } from "./report-server.ts";
import type { Target } from "./targets.ts";

/** What endpoints report of themselves: taken in here or by another prober, and told to all of them, without the token. */
export interface Reporting {
  readonly reports: Reports;
  /** Where reports are taken in; null: nowhere here (MCPF_REPORT_PORT is not set). */
  readonly url: string | null;
  stop(): Promise<void>;
}

export async function openReporting(kit: Kit<ProberEnvironment>, targets: () => ReadonlyMap<string, Target>): Promise<Reporting> {
  const { bus, log, config, secrets } = kit;
  const reports = openReports();

  function tokenOf(upstream: string, endpoint: string): string | null {
    const checks = targets().get(endpointKey(upstream, endpoint))?.checks ?? [];
    const token = checks.find(({ type }) => type === "heartbeat")?.heartbeat?.token;
    try {
      return token === undefined ? null : secrets.resolve(token);
    } catch (error) {
      if (!(error instanceof MissingSecretError)) throw error;
      log.warn({ upstream, endpoint }, error.message);
      return null;
    }
  }

  const heard = bus.subscribe("endpoint.reported", ({ data }) => {
    reports.take(endpointKey(data.upstream, data.endpoint), {
      status: data.status,
      detail: data.detail === null ? null : secrets.redact(data.detail),
      // The receiver's own clock: two machines may differ by more than a heartbeat's age.
      atMs: kit.nowMs(),
    });
  });
  let server: ReportServer | null = null;
  if (config.MCPF_REPORT_PORT !== undefined) {
    server = await startReportServer({
      host: config.MCPF_REPORT_HOST ?? "127.0.0.1",
      port: config.MCPF_REPORT_PORT,
      tokenOf,
      onReport: (upstream, endpoint, { status, detail }) => {
        const report = { upstream, endpoint, status, detail: detail === null ? null : secrets.redact(detail) };
        // Here at once, and also while NATS is gone; the others by the bus.
        reports.take(endpointKey(upstream, endpoint), { ...report, atMs: kit.nowMs() });
        if (bus.status.kind === "connected") bus.publish(kit.event("endpoint.reported", [], { ...report, receivedBy: kit.instance }));
      },
    });
    log.info({ url: server.url }, "heartbeats of endpoints are taken in here");
  }
  return {
    reports,
    url: server?.url ?? null,
    async stop() {
      heard.stop();
      await server?.close();
    },
  };
}
