import { Agent, request } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

/** Reads may be sent anywhere, idempotent writes again, unsafe ones never after they may have run. */
type CallKind = "read" | "idempotent" | "unsafe";
export interface CallRecord {
  readonly n: number;
  readonly kind: CallKind;
  readonly begunMs: number;
  /** Null: it had no answer when the load was stopped. */
  readonly endedMs: number | null;
  /** HTTP status; 0 for a connection that broke, -1 for an error with status 200 (as MCP has it). */
  readonly status: number;
  /** Of one that failed: the begin of what was answered instead, without numbers. */
  readonly reason: string | null;
}
export interface HttpLoad {
  readonly calls: readonly CallRecord[];
  /** Sends nothing more, waits a moment for what is on its way, gives up the rest. */
  stop(): Promise<void>;
}

/** How a call is said, and whether an answer with status 200 is a good one. */
export interface Speech {
  request(
    n: number,
    kind: CallKind,
  ): { readonly method: string; readonly path: string; readonly headers: Record<string, string>; readonly body: string };
  isGood(body: string): boolean;
  /** What is kept of an answer that is not good; default: its begin. */
  reasonOf?(body: string): string;
}

export interface LoadOptions {
  readonly callsPerSecond: number;
  /** Default: of 60 calls 5 are idempotent writes and 1 is an unsafe one. */
  readonly kindOf?: (n: number) => CallKind;
  /** Default 1024. With `Infinity` no call ever waits for another one's connection. */
  readonly socketsMax?: number;
  /** A caller that has no answer by then hangs up. Default: not before the load is stopped. */
  readonly giveUpMs?: number;
  /** How long a stop waits for what is on its way. */
  readonly stopWaitMs?: number;
}

const methods = { read: "GET", idempotent: "PUT", unsafe: "POST" } as const;
export const httpSpeech = (upstream: string): Speech => ({
  request: (n, kind) => ({ method: methods[kind], path: `/http/${upstream}/order/${n}`, headers: {}, body: "" }),
  isGood: () => true,
});

/** Tool calls in sessions of their own, one after the other, without an SDK: at this rate its clients would cost more than all the rest. */
export async function mcpSpeech(routerUrl: string, upstream: string, sessions: number): Promise<Speech> {
  const path = `/mcp/${upstream}`;
  const accept = { "content-type": "application/json", accept: "application/json, text/event-stream" };
  const post = (message: object, headers: Record<string, string>): Promise<Response> =>
    fetch(`${routerUrl}${path}`, {
      method: "POST",
      headers: { ...accept, ...headers },
      body: JSON.stringify({ jsonrpc: "2.0", ...message }),
    });
  const protocolVersion = "2025-06-18";
  const clientInfo = { name: "detection", version: "1.0.0" };
  const open = async (): Promise<Record<string, string>> => {
    const answer = await post({ id: 0, method: "initialize", params: { protocolVersion, capabilities: {}, clientInfo } }, {});
    await answer.text();
    const session = { "mcp-session-id": answer.headers.get("mcp-session-id") ?? "", "mcp-protocol-version": protocolVersion };
    await (await post({ method: "notifications/initialized" }, session)).text();
    return session;
  };
  const all = await Promise.all(Array.from({ length: sessions }, open));
  return {
    request: (n, kind) => ({
      method: "POST",
      path,
      headers: { ...accept, ...all[n % all.length] },
      body: JSON.stringify({ jsonrpc: "2.0", id: n + 1, method: "tools/call", params: { name: kind, arguments: { id: n } } }),
    }),
    isGood: (body) => body.includes("done by"),
  };
}

const wrongAnswer = -1;
const reasonCharsMax = 300;

function mixedKindOf(n: number): CallKind {
  if (n % 60 === 30) return "unsafe";
  return n % 12 === 6 ? "idempotent" : "read";
}

/** Calls at a fixed rate, open loop: as independent agents would, who do not wait for each other. */
export function startHttpLoad(url: string, speech: Speech, options: LoadOptions): HttpLoad {
  const { callsPerSecond, kindOf = mixedKindOf, socketsMax = 1024, giveUpMs, stopWaitMs = 3000 } = options;
  const { hostname, port } = new URL(url);
  const agent = new Agent({ keepAlive: true, maxSockets: socketsMax, maxFreeSockets: 64 });
  const calls: CallRecord[] = [];
  const open = new Map<number, () => void>();
  const stopping = new AbortController();
  let sent = 0;

  const call = (n: number): void => {
    const kind = kindOf(n);
    const begunMs = Date.now();
    const end = (status: number, endedMs: number | null, said: string): void => {
      if (!open.delete(n)) return;
      clearTimeout(patience);
      const reason =
        status === 200 ? null : (speech.reasonOf?.(said) ?? said).replaceAll(/[0-9a-f-]{6,}|[0-9]+/g, "#").slice(0, reasonCharsMax);
      calls.push({ n, kind, begunMs, endedMs, status, reason });
    };
    const { method, path, headers, body } = speech.request(n, kind);
    const asking = request({ hostname, port, method, path, headers, agent }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
      response.once("end", () =>
        end(response.statusCode === 200 && !speech.isGood(text) ? wrongAnswer : (response.statusCode ?? 0), Date.now(), text),
      );
      response.once("error", (error) => end(0, Date.now(), error.message));
    });
    const giveUp = (): void => {
      end(0, null, "no answer");
      asking.destroy();
    };
    const patience = giveUpMs === undefined ? undefined : setTimeout(giveUp, giveUpMs);
    open.set(n, giveUp);
    asking.once("error", (error) => end(0, Date.now(), error.message));
    asking.end(body);
  };
  const run = async (): Promise<void> => {
    const startMs = performance.now();
    while (!stopping.signal.aborted) {
      const due = Math.floor(((performance.now() - startMs) / 1000) * callsPerSecond);
      for (; sent < due; sent += 1) call(sent);
      await sleep(3);
    }
  };
  const running = run();
  return {
    calls,
    async stop() {
      stopping.abort();
      await running;
      const endMs = performance.now() + stopWaitMs;
      while (open.size > 0 && performance.now() < endMs) await sleep(20);
      for (const giveUp of [...open.values()]) giveUp();
      agent.destroy();
    },
  };
}
