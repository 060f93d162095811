// Clients with a session and an open stream each, which look whether every event comes, and when.
import { Agent, type IncomingMessage, request } from "node:http";

export interface Open {
  readonly kind: "open";
  readonly port: number;
  readonly path: string;
  readonly streams: number;
}
export interface Measure {
  readonly kind: "measure";
  readonly ms: number;
  readonly lateMs: number;
}
export interface Measured {
  readonly kind: "measured";
  readonly events: number;
  readonly tookMs: number;
  /** Numbers that were passed over, and streams that ended or said nothing. */
  readonly lost: number;
  readonly late: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly worstMs: number;
}

const atOnce = 250;
const agent = new Agent({ keepAlive: true, maxSockets: atOnce });
const streamAgent = new Agent({ maxSockets: Number.POSITIVE_INFINITY });
const version = "2025-11-25";

interface Listener {
  /** Number of the last event. */
  last: number;
  eventsNow: number;
  over: boolean;
}
let listeners: Listener[] = [];
let open: IncomingMessage[] = [];
let lost = 0;
let measuring = false;
let delaysMs: number[] = [];

process.on("message", (message: Open | Measure | { kind: "close" }) => {
  if (message.kind === "open") {
    openAll(message).then(
      () => process.send?.({ kind: "opened" }),
      (error: unknown) => {
        process.stderr.write(`${String(error)}\n`);
        process.exit(1);
      },
    );
  } else if (message.kind === "measure") measure(message);
  else {
    for (const stream of open) stream.destroy();
    listeners = [];
    open = [];
    process.send?.({ kind: "closed" });
  }
});
process.once("disconnect", () => process.exit(0));
process.send?.({ kind: "ready" });

async function openAll({ port, path, streams }: Open): Promise<void> {
  let left = streams;
  const lane = async (): Promise<void> => {
    for (; left > 0; ) {
      left -= 1;
      await openOne(port, path);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
}

async function openOne(port: number, path: string): Promise<void> {
  const clientInfo = { name: "listener", version: "1" };
  const params = { protocolVersion: version, capabilities: {}, clientInfo };
  const first = await post(port, path, { jsonrpc: "2.0", id: 1, method: "initialize", params }, {});
  const session = String(first["mcp-session-id"]);
  const own = { "mcp-session-id": session, "mcp-protocol-version": version };
  await post(port, path, { jsonrpc: "2.0", method: "notifications/initialized" }, own);
  const listener: Listener = { last: 0, eventsNow: 0, over: false };
  await new Promise<void>((resolve, reject) => {
    const asking = request({ port, path, agent: streamAgent, headers: { accept: "text/event-stream", ...own } }, (answer) => {
      if (answer.statusCode !== 200) {
        reject(new Error(`a stream was answered with ${answer.statusCode}`));
        return;
      }
      open.push(answer);
      listeners.push(listener);
      read(answer, listener);
      resolve();
    });
    asking.on("error", reject);
    asking.end();
  });
}

function post(port: number, path: string, message: object, own: Record<string, string>): Promise<IncomingMessage["headers"]> {
  const headers = { "content-type": "application/json", accept: "application/json, text/event-stream", ...own };
  return new Promise((resolve, reject) => {
    const asking = request({ port, path, method: "POST", agent, headers }, (answer) => {
      answer.resume().once("end", () => {
        if ((answer.statusCode ?? 500) < 300) resolve(answer.headers);
        else reject(new Error(`a session was answered with ${answer.statusCode}`));
      });
    });
    asking.on("error", reject);
    asking.end(JSON.stringify(message));
  });
}

function read(answer: IncomingMessage, listener: Listener): void {
  let rest = "";
  answer.setEncoding("utf8");
  answer.on("data", (text: string) => {
    const atMs = performance.timeOrigin + performance.now();
    const events = (rest + text).split("\n\n");
    rest = events.pop() ?? "";
    for (const event of events) {
      const at = event.indexOf("data: {");
      if (at === -1) continue;
      const { n, atMs: saidMs } = (JSON.parse(event.slice(at + 6)) as { params: { data: { n: number; atMs: number } } }).params.data;
      if (listener.last !== 0 && measuring) lost += Math.abs(n - listener.last - 1);
      listener.last = n;
      if (!measuring) continue;
      listener.eventsNow += 1;
      delaysMs.push(atMs - saidMs);
    }
  });
  const over = (): void => {
    listener.over = true;
  };
  answer.on("error", over);
  answer.on("close", over);
}

function measure({ ms, lateMs }: Measure): void {
  lost = 0;
  delaysMs = [];
  for (const listener of listeners) listener.eventsNow = 0;
  measuring = true;
  const beganMs = performance.now();
  setTimeout(() => {
    measuring = false;
    const tookMs = performance.now() - beganMs;
    const silent = listeners.filter(({ eventsNow, over }) => over || eventsNow === 0).length;
    const sorted = Float64Array.from(delaysMs).sort();
    const at = (share: number): number => sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN;
    const measured: Measured = {
      kind: "measured",
      events: sorted.length,
      tookMs,
      lost: lost + silent,
      late: delaysMs.filter((delay) => delay > lateMs).length,
      p50Ms: at(0.5),
      p99Ms: at(0.99),
      worstMs: at(1),
    };
    process.send?.(measured);
  }, ms);
}
