import { endpointKey } from "@mcp-failover/contracts";
import { type Kit, MissingSecretError } from "@mcp-failover/service-kit";
import type { ProberEnvironment } from "./config.ts";
import { openReports, type Reports } from "./probes/heartbeat.ts";
import { type ReportServer, startReportServer } from "./report-server.ts";
import type { Target } from "./targets.ts";

/** What endpoints report of themselves: taken in here or by another prober, and told to all of them, without the token. */
export interface Reporting {
  readonly reports: Reports;
  /** Where reports are taken in; null: not here, or not yet. */
  readonly url: string | null;
  stop(): Promise<void>;
}

/** The address for heartbeats cannot be had, whoever waits for it. */
export class ReportAddressError extends Error {
  override readonly name = "ReportAddressError";
  readonly code = "report_address";
  readonly retriable = false;
  constructor(host: string, port: number, cause: NodeJS.ErrnoException) {
    const fix =
      cause.code === "EACCES"
        ? "ports under 1024 take a privilege (CAP_NET_BIND_SERVICE): give a higher one in MCPF_REPORT_PORT"
        : "give an address of this machine in MCPF_REPORT_HOST, and a free port in MCPF_REPORT_PORT";
    super(`heartbeats cannot be taken in on ${host}:${port} (${cause.code ?? cause.message}): ${fix}`, { cause });
  }
}

/** `clockMs`: one that nobody sets. Throws {@link ReportAddressError}. */
export async function openReporting(
  kit: Kit<ProberEnvironment>,
  targets: () => ReadonlyMap<string, Target>,
  clockMs: () => number = () => performance.now(),
): Promise<Reporting> {
  const { bus, log, config, secrets } = kit;
  const reports = openReports(clockMs);
  const noteConnection = (): void => reports.connected(bus.status.kind === "connected");
  const unlisten = bus.onStatus(noteConnection);
  noteConnection();

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
    });
  });
  let server: ReportServer | null = null;
  let retry: NodeJS.Timeout | null = null;
  let stopped = false;
  async function listen(port: number): Promise<void> {
    const opened = await startReportServer({
      host: config.MCPF_REPORT_HOST ?? "127.0.0.1",
      port,
      tokenOf,
      onError: (err) => log.warn({ err }, "a connection for a heartbeat could not be taken"),
      onReport: (upstream, endpoint, { status, detail }) => {
        const report = { upstream, endpoint, status, detail: detail === null ? null : secrets.redact(detail) };
        // Here at once, and also while NATS is gone; the others by the bus.
        reports.take(endpointKey(upstream, endpoint), report);
        if (bus.status.kind === "connected") bus.publish(kit.event("endpoint.reported", [], { ...report, receivedBy: kit.instance }));
      },
    });
    if (stopped) {
      await opened.close();
      return;
    }
    server = opened;
    log.info({ url: opened.url }, "heartbeats of endpoints are taken in here");
  }

  /** Probers of one machine may share the address: one has it, the others hear from it, and one of them takes it when it is gone. */
  async function listenOrWait(port: number): Promise<void> {
    try {
      await listen(port);
    } catch (error) {
      const cause = error as NodeJS.ErrnoException;
      if (cause.code !== "EADDRINUSE") throw new ReportAddressError(config.MCPF_REPORT_HOST ?? "127.0.0.1", port, cause);
      log.debug({ port }, "the address for heartbeats of endpoints is taken; it is tried again");
      if (!stopped)
        retry = setTimeout(
          () => void listenOrWait(port).catch((err: unknown) => log.error({ err }, "heartbeats cannot be taken in")),
          retryMs,
        );
    }
  }
  if (config.MCPF_REPORT_PORT !== undefined) await listenOrWait(config.MCPF_REPORT_PORT);

  return {
    reports,
    get url() {
      return server?.url ?? null;
    },
    async stop() {
      stopped = true;
      if (retry !== null) clearTimeout(retry);
      heard.stop();
      unlisten();
      await server?.close();
    },
  };
}

const retryMs = 1000;
