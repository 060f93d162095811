// Makes the calls: raw sockets, one call at a time on each, the request written as one prepared buffer, the answer counted and not parsed.
import { connect, type Socket } from "node:net";

/** What the benchmark asks for. */
export interface Load {
  readonly port: number;
  /** One whole request a connection. */
  readonly requests: readonly string[];
  readonly ms: number;
  /** Calls a second over all connections; null: as many as there can be. */
  readonly rate: number | null;
}

export interface Loaded {
  readonly kind: "loaded";
  readonly calls: number;
  readonly failed: number;
  readonly tookMs: number;
  /** Of single calls, in milliseconds, sorted; at saturation only some. */
  readonly latenciesMs: readonly number[];
  /** Processor time of this process. */
  readonly cpuS: number;
}

/** Answers are read between two sleeps. */
const sleepMsMax = 0.1;
const never = new Int32Array(new SharedArrayBuffer(4));

/** Enough for a quantile of 99 %. */
const samplesMax = 20_000;

process.on("message", (load: Load) => {
  run(load).then(
    (loaded) => process.send?.(loaded),
    (error: unknown) => {
      process.stderr.write(`loader: ${String(error)}\n`);
      process.exit(1);
    },
  );
});
process.once("disconnect", () => process.exit(0));
process.send?.({ kind: "ready" });

class Line {
  readonly #request: Buffer;
  readonly #onAnswer: (line: Line, ok: boolean) => void;
  readonly #socket: Socket;
  #expected = 0;
  #came = 0;
  #first: Buffer[] = [];
  idle = true;
  sentAtMs = 0;

  constructor(port: number, request: string, onAnswer: (line: Line, ok: boolean) => void) {
    this.#request = Buffer.from(request);
    this.#onAnswer = onAnswer;
    const buffer = Buffer.alloc(16 * 1024);
    this.#socket = connect({
      port,
      host: "127.0.0.1",
      noDelay: true,
      onread: { buffer, callback: (bytes, chunk) => this.#take(bytes, chunk) },
    });
    this.#socket.on("error", (error) => this.#lost(error.message));
    this.#socket.on("close", () => this.#lost("closed"));
  }

  send(sinceMs: number): void {
    this.idle = false;
    this.sentAtMs = sinceMs;
    this.#came = 0;
    this.#socket.write(this.#request);
  }

  close(): void {
    this.#socket.removeAllListeners("close");
    this.#socket.destroy();
  }

  #take(bytes: number, chunk: Uint8Array): boolean {
    this.#came += bytes;
    // All answers to one request are equally long: the first is read, the others are counted.
    if (this.#expected === 0) {
      this.#first.push(Buffer.from(chunk.subarray(0, bytes)));
      this.#expected = wholeLength(Buffer.concat(this.#first));
    }
    if (this.#came < this.#expected || this.#expected === 0) return true;
    const ok = this.#came === this.#expected && (chunk[9] === 0x32 || this.#came !== bytes);
    this.idle = true;
    this.#onAnswer(this, ok);
    return true;
  }

  #lost(why: string): void {
    if (this.idle) return;
    this.idle = true;
    process.stderr.write(`loader: a connection was lost: ${why}\n`);
    this.#onAnswer(this, false);
  }
}

/** Length of a whole answer; 0 while its head or its end is not there. */
function wholeLength(bytes: Buffer): number {
  const headEnd = bytes.indexOf("\r\n\r\n");
  if (headEnd === -1) return 0;
  const head = bytes.toString("latin1", 0, headEnd);
  if (!head.startsWith("HTTP/1.1 200")) throw new Error(`an answer is not 200: ${bytes.toString("latin1")}`);
  const length = /^content-length: *(\d+)/im.exec(head)?.[1];
  if (length !== undefined) return headEnd + 4 + Number(length);
  const end = bytes.indexOf("0\r\n\r\n", headEnd);
  return end === -1 ? 0 : end + 5;
}

async function run({ port, requests, ms, rate }: Load): Promise<Loaded> {
  const before = process.cpuUsage();
  const latenciesMs: number[] = [];
  const due: number[] = [];
  let calls = 0;
  let failed = 0;
  let over = false;
  const done = Promise.withResolvers<void>();
  const lines: Line[] = [];
  const onAnswer = (line: Line, ok: boolean): void => {
    const nowMs = performance.now();
    if (ok) calls += 1;
    else failed += 1;
    if (latenciesMs.length < samplesMax) latenciesMs.push(nowMs - line.sentAtMs);
    const next = over ? undefined : rate === null && ok ? nowMs : due.shift();
    if (next !== undefined) line.send(next);
    else if (over && lines.every(({ idle }) => idle)) done.resolve();
  };
  lines.push(...requests.map((request) => new Line(port, request, onAnswer)));
  const beganMs = performance.now();
  let sent = 0;
  const pace = (): void => {
    if (over || rate === null) return;
    const nowMs = performance.now();
    // An open loop: a call that finds no free connection waits, and its wait counts.
    for (; sent < ((nowMs - beganMs) * rate) / 1000; sent += 1) {
      const atMs = beganMs + (sent / rate) * 1000;
      const line = lines.find(({ idle }) => idle);
      if (line === undefined) due.push(atMs);
      else line.send(Math.max(atMs, nowMs - 1));
    }
    // A timer is a whole millisecond late, and all calls of that time would come at once. Sleeping for less leaves the core to the server.
    const nextMs = beganMs + (sent / rate) * 1000 - performance.now();
    if (nextMs > 0) Atomics.wait(never, 0, 0, Math.min(nextMs, sleepMsMax));
    setImmediate(pace);
  };
  if (rate === null) for (const line of lines) line.send(beganMs);
  else pace();
  await new Promise((resolve) => setTimeout(resolve, ms));
  over = true;
  const tookMs = performance.now() - beganMs;
  if (!lines.every(({ idle }) => idle)) await Promise.race([done.promise, new Promise((resolve) => setTimeout(resolve, 2000))]);
  for (const line of lines) line.close();
  const { user, system } = process.cpuUsage(before);
  return { kind: "loaded", calls, failed, tookMs, latenciesMs: latenciesMs.toSorted((a, b) => a - b), cpuS: (user + system) / 1e6 };
}
