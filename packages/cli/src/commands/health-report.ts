import { BusError } from "@mcp-failover/bus";
import { type HealthReport, healthReport as schema } from "@mcp-failover/contracts";
import { healthReport } from "@mcp-failover/domain";
import type { Context } from "../context.ts";
import type { ExitCode } from "../errors.ts";
import { table } from "../output.ts";
import { foldLog, storedMs } from "../read-log.ts";

/** `mcpf status --report`: the reference's health report; 3 when a critical service is unhealthy. */
export async function statusReport(context: Context): Promise<ExitCode> {
  const report = await readReport(context);
  context.out.print(report, () => show(report), report.services);
  return report.overall === "unhealthy" ? 3 : 0;
}

/** The state-store's answer; without one, out of the log itself. */
async function readReport(context: Context): Promise<HealthReport> {
  const bus = await context.bus();
  try {
    const reply = await bus.request("state.health_report", {}, { timeoutMs: 3000 });
    if (reply.ok) return schema.parse(reply.result);
    context.out.note(`the state-store refused (${reply.error.message}); this is folded from the log`);
  } catch (error) {
    if (!(error instanceof BusError)) throw error;
    context.out.note(`no state-store answers (${error.code}); this is folded from the log`);
  }
  const { model } = await foldLog(bus);
  return healthReport(model, (await storedMs(bus)) ?? context.nowMs());
}

function show(report: HealthReport): string {
  const rows = report.services.map((service) => [
    service.service,
    service.status,
    service.critical ? "critical" : "",
    service.endpoint,
    service.responseTime === null ? "-" : `${service.responseTime.toFixed(1)} ms`,
    service.timestamp ?? "-",
    [service.maintenance === null ? "" : `maintenance ${service.maintenance.name} until ${service.maintenance.until}`, service.error ?? ""]
      .filter(Boolean)
      .join(" | "),
  ]);
  return [table(["SERVICE", "STATUS", "", "ENDPOINT", "RESPONSE", "SINCE", "ERROR"], rows), "", `overall: ${report.overall}`].join("\n");
}
