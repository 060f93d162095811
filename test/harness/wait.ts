import { eventually } from "@mcp-failover/testkit";

/** `eventually`, with the limit and what to say first: most waits of tests with processes need no more. */
export const until = <T>(condition: () => T | Promise<T>, withinMs: number, what?: string | (() => string)) =>
  eventually(condition, { withinMs, everyMs: 25, ...(what === undefined ? {} : { what }) });
