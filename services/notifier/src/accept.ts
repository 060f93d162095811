import { BusError, RefusedError } from "@mcp-failover/bus";
import type { Actor } from "@mcp-failover/contracts";
import type { Kit } from "@mcp-failover/service-kit";

/** Puts a command on record before it acts; gives where its first record stands. Throws {@link RefusedError} and {@link BusError}. */
export async function accept(
  kit: Kit,
  name: string,
  { commandId, by, reason }: { readonly commandId: string; readonly by: Actor; readonly reason: string },
  parameters: Record<string, unknown>,
): Promise<number> {
  const timestamp = new Date(kit.nowMs()).toISOString();
  const data = { commandId, command: name, by, reason, timestamp, parameters };
  const { seq, duplicate } = await kit.bus.append(kit.event("command.accepted", [name], data, { id: `command-${commandId}` }));
  if (!duplicate) return seq;
  const first = (await kit.bus.at("AUDIT", seq))?.content;
  const of = first?.kind === "event" && first.event.type === "command.accepted" ? first.event.data.command : name;
  if (of === name) return seq;
  const why = `the commandId ${commandId} belongs to a ${of} command already; give every command an id of its own`;
  throw new RefusedError("command_id_reused", why);
}

/** Who asks is told that the log is out of reach, and not that something failed. Throws {@link RefusedError}. */
export async function refusing<A>(act: () => Promise<A>): Promise<A> {
  try {
    return await act();
  } catch (error) {
    if (error instanceof BusError) throw new RefusedError("log_unreachable", `nothing is known to be done: ${error.message}`, true);
    throw error;
  }
}
