import { hashOf } from "@mcp-failover/contracts";
import { type CanaryCall, experimentPolicy } from "@mcp-failover/domain";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

export interface CanaryTool {
  readonly name: string;
  readonly inputSchema: unknown;
  readonly readOnlyHint: boolean;
}

/** A real MCP client that calls one tool through the router, as an agent does. */
export interface Canary {
  readonly tools: readonly CanaryTool[];
  /** One call; never throws. */
  call(tool: string, args: Record<string, unknown>, timeoutMs: number): Promise<CanaryCall>;
  close(): Promise<void>;
}

const connectMs = 5000;
const closeMs = 1000;
const pagesMax = 20;
const errorCharsMax = 300;

/** Connects and lists the tools. Throws what the client throws. */
export async function openCanary(url: URL, nowMs: () => number): Promise<Canary> {
  const client = new Client({ name: "mcpf-chaos-canary", version: "0.1.0" });
  const transport = new StreamableHTTPClientTransport(url);
  await client.connect(transport, { timeout: connectMs });
  const tools: CanaryTool[] = [];
  let cursor: string | undefined;
  for (let page = 0; page < pagesMax; page += 1) {
    const listed = await client.listTools(cursor === undefined ? undefined : { cursor }, { timeout: connectMs });
    for (const { name, inputSchema, annotations } of listed.tools) {
      tools.push({ name, inputSchema, readOnlyHint: annotations?.readOnlyHint === true });
    }
    cursor = listed.nextCursor;
    if (cursor === undefined) break;
  }
  return {
    tools,
    async call(tool, args, timeoutMs) {
      const startedAtMs = nowMs();
      const ended = (ok: boolean, answer: string | null, error: string | null): CanaryCall => ({
        startedAtMs,
        endedAtMs: nowMs(),
        ok,
        answer,
        error,
      });
      try {
        const { content, structuredContent, isError } = await client.callTool({ name: tool, arguments: args }, { timeout: timeoutMs });
        const answer = hashOf({ content, structuredContent, isError: isError === true });
        return ended(isError !== true, answer, isError === true ? "the tool answered with isError" : null);
      } catch (error) {
        return ended(false, null, (error instanceof Error ? error.message : String(error)).slice(0, errorCharsMax));
      }
    },
    async close() {
      // The session is ended politely where somebody listens; nobody waits long for that.
      await within(closeMs, transport.terminateSession());
      await within(closeMs, client.close());
    },
  };
}

/** Calls at a steady pace until `stop`; what is under way at the end gets its time to be answered. */
export interface Pace {
  /** Calls by their start; `endedAtMs` is null while one is under way. */
  calls(): readonly CanaryCall[];
  /** Calls that were not made because too many were under way. */
  readonly skipped: number;
  stop(options: { readonly drain: boolean }): Promise<void>;
}

export function startPace(
  canary: Canary,
  tool: string,
  args: Record<string, unknown>,
  options: { readonly timeoutMs: number; readonly everyMs: number; readonly callsMax: number; readonly nowMs: () => number },
): Pace {
  const { timeoutMs, everyMs, callsMax, nowMs } = options;
  const calls: CanaryCall[] = [];
  const underWay = new Set<Promise<void>>();
  let skipped = 0;
  const begin = (): void => {
    if (calls.length >= callsMax) return;
    if (underWay.size >= experimentPolicy.callsInFlightMax) {
      skipped += 1;
      return;
    }
    const index = calls.length;
    calls.push({ startedAtMs: nowMs(), endedAtMs: null, ok: false, answer: null, error: null });
    const work: Promise<void> = canary.call(tool, args, timeoutMs).then((call) => {
      calls[index] = call;
      underWay.delete(work);
    });
    underWay.add(work);
  };
  begin();
  const timer = setInterval(begin, everyMs);
  return {
    calls: () => calls,
    get skipped() {
      return skipped;
    },
    async stop({ drain }) {
      clearInterval(timer);
      if (drain) await Promise.all(underWay);
    },
  };
}

async function within(ms: number, work: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const bound = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([work.catch(() => undefined), bound]);
  clearTimeout(timer);
}
