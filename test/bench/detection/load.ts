import { Agent, request } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

/** Reads may be sent anywhere, idempotent writes again, unsafe ones never after they may have run. */
export type CallKind = "read" | "idempotent" | "unsafe";
export interface CallRecord {
  readonly n: number;
  readonly kind: CallKind;
  readonly begunMs: number;
  /** Null: it had no answer when the load was stopped. */
  readonly endedMs: number | null;
  /** HTTP status; 0 for a connection that broke. */
  readonly status: number;
}
export interface HttpLoad {
  readonly calls: readonly CallRecord[];
  /** Sends nothing more, waits a moment for what is on its way, gives up the rest. */
  stop(): Promise<void>;
}

const methods = { read: "GET", idempotent: "PUT", unsafe: "POST" } as const;
const stopWaitMs = 3000;

/** Of 60 calls 5 are idempotent writes and 1 is an unsafe one. */
function kindOf(n: number): CallKind {
  if (n % 60 === 30) return "unsafe";
  return n % 12 === 6 ? "idempotent" : "read";
}

/** Calls `<url>/<n>` at a fixed rate, open loop: as independent agents would, who do not wait for each other. */
export function startHttpLoad(url: string, callsPerSecond: number): HttpLoad {
  const agent = new Agent({ keepAlive: true, maxSockets: 1024, maxFreeSockets: 64 });
  const calls: CallRecord[] = [];
  const open = new Map<number, () => void>();
  const stopping = new AbortController();
  let sent = 0;

  const call = (n: number): void => {
    const kind = kindOf(n);
    const begunMs = Date.now();
    const end = (status: number, endedMs: number | null): void => {
      if (!open.delete(n)) return;
      calls.push({ n, kind, begunMs, endedMs, status });
    };
    const asking = request(`${url}/${n}`, { method: methods[kind], agent }, (response) => {
      response.resume();
      response.once("end", () => end(response.statusCode ?? 0, Date.now()));
      response.once("error", () => end(0, Date.now()));
    });
    open.set(n, () => {
      end(0, null);
      asking.destroy();
    });
    asking.once("error", () => end(0, Date.now()));
    asking.end();
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
