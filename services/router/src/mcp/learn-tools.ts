import type { LearnedTool } from "../control/port.ts";
import { isObject } from "./envelope.ts";
import type { McpContext } from "./inbound.ts";

/** What the server says of its tools; the control believes it only where the operator does (requirement R19). */
export function learnTools(context: McpContext, upstream: string, value: Record<string, unknown>): void {
  const tools = isObject(value["result"]) ? value["result"]["tools"] : undefined;
  if (!Array.isArray(tools)) return;
  const named = tools.slice(0, 1000).flatMap((tool: unknown): LearnedTool[] => {
    if (!isObject(tool) || typeof tool["name"] !== "string") return [];
    const { name, annotations } = tool;
    if (!isObject(annotations)) return [{ name }];
    const hint = (key: string): boolean | undefined => (typeof annotations[key] === "boolean" ? annotations[key] : undefined);
    return [
      {
        name,
        annotations: {
          readOnlyHint: hint("readOnlyHint"),
          idempotentHint: hint("idempotentHint"),
          destructiveHint: hint("destructiveHint"),
        },
      },
    ];
  });
  context.control.learnTools(upstream, named);
}
