import type { Incident } from "./incidents.ts";

/**
 * Inhibition: what follows from a told cause is not told again (Alertmanager's inhibit rules).
 *
 * N1  A tool's rollback is not told while people know that its upstream has nowhere to go: there the tool cannot but fail. Nothing less
 *     inhibits it: with a standby that serves, a tool that fails is news, whatever else is sick.
 * N2  A page is not inhibited by what was told as a notification.
 * N3  It is told once there is somewhere to go again and the tool is not back on MCP; what was over by then is told nobody. The end of what
 *     was told before is told in any case.
 */

/**
 * What is left to be told of an incident. `cause`: the last incident of the upstream that it belongs to. Null: it waits. It is changed, to be
 * put on record, where nothing of it is to be told any more. Pure.
 */
export function inhibitIncident(incident: Incident, cause: Incident | null): Incident | null {
  return follows(incident, cause) ? leftWhileMuted(incident) : incident;
}

/** The same of an incident that nothing is told of now, because of its cause or because of a silence. */
export function leftWhileMuted(incident: Incident): Incident | null {
  if (incident.status !== "resolved") return null;
  return incident.notified.includes("opened") || incident.notifyAtMs === null ? incident : { ...incident, notifyAtMs: null };
}

function follows({ dedupKey, severity }: Incident, cause: Incident | null): boolean {
  if (cause === null || !dedupKey.startsWith("rollback/tool/")) return false;
  const { status, deadEnd, told } = cause;
  return status !== "resolved" && deadEnd === true && told?.deadEnd === true && (severity === "notify" || told.severity === "page");
}
