import { allowedTools, hasAmbiguousKeys } from "@mcp-failover/domain";
import type { RouterError } from "../errors.ts";
import { plainText } from "../mcp/header-text.ts";
import type { Principal } from "./principal.ts";

/** A message as far as the check needs it. */
interface Message {
  readonly kind: "request" | "notification" | "response";
  readonly method?: string;
  readonly params?: Readonly<Record<string, unknown>>;
}

/** What two readers could take for two different calls. */
const decisive: ReadonlySet<string> = new Set(["jsonrpc", "method", "params", "name", "id"]);

/**
 * Why a message of the agent must not be sent on, or null. The bytes go on as they came, so that a message which another reader could
 * take for another call is refused too. Costs nothing where all tools are allowed.
 */
export function forbiddenTool(
  principal: Principal,
  upstream: string,
  message: Message,
  body: Buffer,
  headers: Readonly<Record<string, unknown>>,
): RouterError | null {
  if (principal.mayCallAll(upstream)) return null;
  const refuse = (why: string): RouterError => ({ code: "forbidden", message: `${principal.agent} ${why}`, retriable: false });
  if (hasAmbiguousKeys(body.toString("utf8"), decisive))
    return refuse("sent a message with a key that stands twice, or in another case: send each key once, in small letters");
  if (message.kind === "response") return null;
  // Servers of protocol 2026-07-28 may go by the headers.
  const [method, name] = [headers["mcp-method"], headers["mcp-name"]];
  if (typeof method === "string" && method !== message.method)
    return refuse("named one method in Mcp-Method and another one in the message");
  if (message.method !== "tools/call") return null;
  const tool = message.params?.["name"];
  if (typeof tool !== "string") return refuse("called a tool without a name");
  if (typeof name === "string" && plainText(name) !== tool) return refuse("named one tool in Mcp-Name and another one in the message");
  if (principal.mayCall(upstream, tool)) return null;
  return refuse(
    `may not call ${JSON.stringify(tool.slice(0, 128))} of ${upstream}; it was not sent. An operator can allow it in agents.${principal.agent}.allow`,
  );
}

/** The answer to a `tools/list` as the agent may see it, which is for nobody else to keep (requirement R16); null: as it is. */
export function visibleAnswer(
  principal: Principal,
  upstream: string,
  value: Readonly<Record<string, unknown>>,
): Record<string, unknown> | null {
  if (principal.mayCallAll(upstream)) return null;
  const { result } = value;
  if (typeof result !== "object" || result === null) return null;
  const { tools } = result as { tools?: unknown };
  if (!Array.isArray(tools)) return null;
  const scope = "cacheScope" in result ? { cacheScope: "private" } : {};
  return { ...value, result: { ...result, ...scope, tools: allowedTools(principal.grant, upstream, tools) } };
}
