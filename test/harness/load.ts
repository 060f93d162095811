import { setTimeout as sleep } from "node:timers/promises";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import type { Transport } from "@modelcontextprotocol/sdk/shared/transport.js";

/** A connected client of the SDK's 1.x line, as an agent has it. */
export async function connectClient(url: string, name = "load"): Promise<Client> {
  const client = new Client({ name, version: "1.0.0" });
  // The SDK's own transport does not fit its own interface under exactOptionalPropertyTypes.
  await client.connect(new StreamableHTTPClientTransport(new URL(url)) as Transport);
  return client;
}

export interface LoadOptions {
  /** `${routerUrl}/mcp/<upstream>`. */
  readonly url: string;
  readonly tool: string;
  /** Arguments of the n-th call. */
  readonly args: (n: number) => Record<string, unknown>;
  /** What is wrong with the answer of the n-th call, or null. */
  readonly check?: (result: unknown, n: number) => string | null;
  readonly callsPerSecond: number;
  /** Sessions among which the calls go round. Default 4. */
  readonly sessions?: number;
  readonly timeoutMs?: number;
}
interface FailedCall {
  readonly n: number;
  readonly atMs: number;
  readonly durationMs: number;
  readonly message: string;
}
export interface LoadReport {
  readonly sent: number;
  readonly ok: number;
  readonly failed: readonly FailedCall[];
  /** Of all calls that ended, in milliseconds, ascending. */
  readonly durationsMs: readonly number[];
  /** The longest time between two answers, in milliseconds. */
  readonly longestGapMs: number;
}
export interface Load {
  /** As it stands. */
  report(): LoadReport;
  /**
   * Sends nothing more, waits for what is on its way, closes the sessions. A test says it to `t.after` as well: one that failed before it came
   * to that would leave its load running, and the file would never end.
   */
  stop(): Promise<LoadReport>;
}

/**
 * Calls a tool at a fixed rate, open loop: a slow answer does not hold back the next call, as independent agents would not wait for
 * each other. (A closed loop would hide an outage by not calling during it.)
 */
export async function startLoad(options: LoadOptions): Promise<Load> {
  const clients = await Promise.all(Array.from({ length: options.sessions ?? 4 }, (_, i) => connectClient(options.url, `load-${i + 1}`)));
  const inFlight = new Set<Promise<void>>();
  const failed: FailedCall[] = [];
  const durationsMs: number[] = [];
  const answersMs: number[] = [performance.now()];
  let sent = 0;
  let stopped = false;

  const call = async (n: number): Promise<void> => {
    const atMs = Date.now();
    const startMs = performance.now();
    const fail = (message: string): void => {
      failed.push({ n, atMs, durationMs: performance.now() - startMs, message });
    };
    try {
      const client = clients[n % clients.length] as Client;
      const result = await client.callTool({ name: options.tool, arguments: options.args(n) }, undefined, {
        timeout: options.timeoutMs ?? 10_000,
      });
      const wrong = result.isError === true ? `isError: ${JSON.stringify(result.content)}` : (options.check?.(result, n) ?? null);
      if (wrong !== null) fail(wrong);
      answersMs.push(performance.now());
    } catch (error) {
      fail(error instanceof Error ? `${error.name}: ${error.message}` : String(error));
    }
    durationsMs.push(performance.now() - startMs);
  };
  const run = async (): Promise<void> => {
    const startMs = performance.now();
    while (!stopped) {
      const due = Math.floor(((performance.now() - startMs) / 1000) * options.callsPerSecond);
      while (sent < due) {
        const one: Promise<void> = call(sent).finally(() => inFlight.delete(one));
        inFlight.add(one);
        sent += 1;
      }
      await sleep(Math.max(1, 500 / options.callsPerSecond));
    }
  };
  const running = run();
  const report = (): LoadReport => ({
    sent,
    ok: durationsMs.length - failed.length,
    failed: [...failed],
    durationsMs: [...durationsMs].sort((a, b) => a - b),
    longestGapMs: answersMs.reduce((longest, at, index) => Math.max(longest, at - (answersMs[index - 1] ?? at)), 0),
  });
  return {
    report,
    async stop() {
      stopped = true;
      await running;
      await Promise.all(inFlight);
      const final = report();
      // A session may be gone with its server; closing it is a courtesy.
      await Promise.allSettled(clients.map((client) => client.close()));
      return final;
    },
  };
}

/** What a failed load says first: how many, and the different reasons with their counts. */
export function failuresOf({ sent, failed }: LoadReport): string {
  const reasons = new Map<string, number>();
  for (const { message } of failed) reasons.set(message, (reasons.get(message) ?? 0) + 1);
  return `${failed.length} of ${sent} calls failed: ${[...reasons].map(([message, count]) => `${count} x ${message}`).join("; ")}`;
}
