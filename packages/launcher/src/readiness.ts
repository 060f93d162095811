import { type Bus, RefusedError, readFleetStatus } from "@mcp-failover/bus";
import type { PlannedProcess } from "./plan.ts";
import { askHttp } from "./probe-up.ts";
import type { Supervised } from "./supervised.ts";

/**
 * What is not ready yet, one sentence each; nothing when all is: services, local processes, and the active endpoint of each upstream.
 * Without `thorough` nobody is asked while a process is not even up: on two cores the asking would slow the start down.
 */
export async function notReady(
  planned: readonly PlannedProcess[],
  supervised: readonly Supervised[],
  bus: Bus,
  thorough: boolean,
): Promise<string[]> {
  const down = supervised.map((one) => one.info()).filter(({ state }) => state !== "running");
  const problems = down.map(({ name, state, restarts }) => `${name} is ${state}${restarts > 0 ? ` after ${restarts} restarts` : ""}`);
  if (problems.length > 0 && !thorough) return problems;
  const downNames = new Set(down.map(({ name }) => name));
  const answers = await Promise.all(
    planned.map(async ({ spec, healthUrl }) =>
      healthUrl === null || downNames.has(spec.name) ? null : unreadyService(spec.name, await askHttp(`${healthUrl}/readyz`)),
    ),
  );
  problems.push(...answers.filter((answer) => answer !== null));
  return problems.length > 0 ? problems : unhealthyUpstreams(bus);
}

function unreadyService(name: string, answer: { status: number; body: string } | null): string | null {
  if (answer?.status === 200) return null;
  if (answer === null) return `${name} does not answer /readyz`;
  return `${name} is not ready${reasonsIn(answer.body)}`;
}

/** ": bus (NATS is out of reach)" of a `/readyz` body. */
function reasonsIn(body: string): string {
  let conditions: Record<string, { ok?: boolean; reason?: string }>;
  try {
    conditions = (JSON.parse(body) as { conditions?: typeof conditions }).conditions ?? {};
  } catch {
    return ""; // Not our JSON; that it is not ready is said already.
  }
  const failing = Object.entries(conditions).filter(([, condition]) => condition.ok === false);
  return failing.length === 0 ? "" : `: ${failing.map(([name, { reason }]) => (reason ? `${name} (${reason})` : name)).join(", ")}`;
}

async function unhealthyUpstreams(bus: Bus): Promise<string[]> {
  try {
    const { status } = await readFleetStatus(bus, { timeoutMs: 1000 });
    if (status.upstreams.length === 0) return ["state-store knows no upstream yet"];
    return status.upstreams.flatMap(({ name, active, endpoints }) => {
      const endpoint = endpoints.find((candidate) => candidate.name === active);
      if (endpoint?.health === "healthy") return [];
      return [
        `${name}: its active endpoint ${active} is ${endpoint?.health ?? "not configured"}${endpoint?.reason ? ` (${endpoint.reason})` : ""}`,
      ];
    });
  } catch (error) {
    if (error instanceof RefusedError) return [`state-store refuses state.status: ${error.message}`];
    return [`the status is not to be had: ${error instanceof Error ? error.message : String(error)}`];
  }
}
