import { ambiguousWith, separatorDefault } from "@mcp-failover/contracts";
import type { RouterControl } from "../control/port.ts";

/** Which upstreams `/mcp` offers as one server, and how. `router.aggregate` of the configuration; these are its defaults. */
export interface AggregateSettings {
  readonly upstreams: readonly string[];
  readonly separator: string;
  /** How long the parts of an upstream that cannot be asked stay listed: tools that vanish at every hiccup confuse agents more than an error. */
  readonly graceMs: number;
}

const graceMsDefault = 10 * 60_000;

/** Null: switched off. */
export function aggregateSettings(control: RouterControl): AggregateSettings | null {
  const given = control.configuration?.()?.router.aggregate;
  if (given?.enabled === false) return null;
  const mcp = control.upstreams().filter((name) => control.upstream(name)?.kind === "mcp");
  const wanted = given?.upstreams;
  const separator = given?.separator ?? separatorDefault;
  const chosen = wanted === undefined ? mcp : mcp.filter((name) => wanted.includes(name));
  return {
    upstreams: chosen.filter((name) => ambiguousWith(name, chosen, separator) === null),
    separator,
    graceMs: given?.grace_ms ?? graceMsDefault,
  };
}
