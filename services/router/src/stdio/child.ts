import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import type { MessagePipe, PipeListener } from "../bridge/message-pipe.ts";
import { clientInfoKey, firstModernVersion, isObject, isTooDeep, versionKey } from "../mcp/envelope.ts";
import type { DataPlaneLog } from "../mcp/inbound.ts";
import { UpstreamError } from "../upstream-client.ts";
import type { Guard } from "./guard.ts";
import { LineReader } from "./lines.ts";

/**
 * One process of a stdio server. Guarantees:
 * P1  No shell, a process group of its own, and no environment but what is given.
 * P2  A message is refused (`written: false`) only before any byte of it was given to the process: it has ended, never began, or does not read.
 * P3  The order to stop is: end of its input, SIGTERM to its group, SIGKILL to its group. What it started itself ends with it.
 * P4  A line on its standard output over `lineBytesMax` ends it; its standard error goes to the log, cut and at a limited rate.
 */
export class StdioChild implements MessagePipe {
  readonly name: string;
  /** Resolves with whether the process could be started. */
  readonly started: Promise<boolean>;
  readonly ended: Promise<void>;
  /** `performance.now()`. */
  readonly bornAtMs = performance.now();
  readonly #process: ChildProcessWithoutNullStreams | null;
  readonly #limits: ChildLimits;
  readonly #log: DataPlaneLog;

  readonly #asked = new Map<string, (answer: Record<string, unknown> | null) => void>();
  #listener: PipeListener | null = null;
  #askNumber = 0;
  #over: UpstreamError | null = null;
  #closing = false;
  #heard = false;
  #isHeld = false;
  #holds = 0;
  /** It was given something since it last said anything. */
  #isSilent = false;
  /** When it was first asked by the router itself since then. */
  #unansweredSinceMs: number | null = null;
  #timer: NodeJS.Timeout | undefined;
  #settleEnded: () => void = () => undefined;
  #errorLines = { windowMs: 0, count: 0, dropped: 0 };

  constructor(command: ChildCommand, limits: ChildLimits, log: DataPlaneLog, guard: Guard) {
    this.name = command.name;
    this.#limits = limits;
    this.#log = log;

    this.ended = new Promise((resolve) => {
      this.#settleEnded = resolve;
    });
    const { process: started, error } = launch(command);
    this.#process = started;
    if (started === null) {
      this.started = Promise.resolve(false);
      this.#end(new UpstreamError("refused", `${this.name} cannot be started (${codeOf(error)})`, false, error));
      return;
    }
    this.started = new Promise((resolve) => {
      started.once("spawn", () => resolve(true));
      started.on("error", (cause) => {
        resolve(false);
        if (started.pid === undefined)
          this.#end(new UpstreamError("refused", `${this.name} cannot be started (${codeOf(cause)})`, false, cause));
      });
    });
    if (started.pid !== undefined) guard.add(started.pid);
    // A broken pipe is told by the exit.
    started.stdin.on("error", () => undefined);
    const out = new LineReader(
      limits.lineBytesMax,
      (line) => this.#hear(line),
      () => this.#tooLong(),
    );
    started.stdout.on("data", (chunk: Buffer) => {
      this.#isSilent = false;
      this.#unansweredSinceMs = null;
      out.feed(chunk);
    });
    const err = new LineReader(
      limits.errorLineBytesMax,
      (line) => this.#sayError(line),
      () => this.#sayError("(a line too long to be shown)"),
    );
    started.stderr.on("data", (chunk: Buffer) => err.feed(chunk));
    started.once("exit", () => {
      clearTimeout(this.#timer);
      // What it started itself must not outlive it, and may hold its output open.
      this.#signal("SIGKILL");
      if (started.pid !== undefined) guard.remove(started.pid);
      setTimeout(() => {
        started.stdout.destroy();
        started.stderr.destroy();
      }, outputRestMs).unref();
    });
    started.once("close", (code, signal) => {
      const how = signal === null ? `exited with ${code}` : `was ended by ${signal}`;
      if (!this.#closing) log.warn({ endpoint: this.name, pid: started.pid, code, signal }, "a stdio server ended by itself");
      this.#end(new UpstreamError("closed", `the process of ${this.name} ${how}`, true));
    });
  }

  get pid(): number | undefined {
    return this.#process?.pid;
  }
  /** Whether it has said anything of the protocol. */
  get heard(): boolean {
    return this.#heard;
  }
  get isSilent(): boolean {
    return this.#isSilent && !this.#isHeld;
  }
  /** Since when it has said nothing though it was asked by the router itself (`performance.now()`); null: it has. */
  get unansweredSinceMs(): number | null {
    return this.#isHeld ? null : this.#unansweredSinceMs;
  }
  /** Its output waits for a slow reader here: that it says nothing is not its own silence. */
  get isHeld(): boolean {
    return this.#isHeld;
  }
  /** How often its output was held so far: what it said meanwhile may not have been read yet. */
  get holds(): number {
    return this.#holds;
  }
  /** Whether its end was asked for. */
  get closing(): boolean {
    return this.#closing;
  }
  get over(): boolean {
    return this.#over !== null || this.#closing;
  }
  /** Who hears the server from now on; at most one. */
  attach(listener: PipeListener): void {
    this.#listener = listener;
    if (this.#over !== null) listener.lineEnded(this.#over);
  }

  async send(text: string): Promise<void> {
    await this.started;
    this.#write(text);
  }

  /** Asks the server under an id of this router's own; null when it does not answer in time. P2 holds for what it throws. */
  async ask(message: Record<string, unknown>, timeoutMs: number): Promise<Record<string, unknown> | null> {
    await this.started;
    const id = `mcpf-ask-${++this.#askNumber}`;
    const { promise, resolve } = Promise.withResolvers<Record<string, unknown> | null>();
    const timer = setTimeout(() => resolve(null), timeoutMs);
    this.#asked.set(id, resolve);
    try {
      this.#write(JSON.stringify({ ...message, id }));
      this.#unansweredSinceMs ??= performance.now();
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#asked.delete(id);
    }
  }
  /**
   * Whether the process answers; an error is an answer too. `ping` belongs to the legacy era, and a process that has not been used would take
   * it as the choice of that era; `server/discover` leaves it open, also where it is not known.
   */
  async answers(by: "ping" | "discover", timeoutMs: number): Promise<boolean> {
    try {
      return (await this.ask(by === "ping" ? pingMessage : discoverMessage, timeoutMs)) !== null;
    } catch (error) {
      if (error instanceof UpstreamError) return false;
      throw error;
    }
  }

  pause(): void {
    if (!this.#isHeld) this.#holds += 1;
    this.#isHeld = true;
    this.#process?.stdout.pause();
  }
  resume(): void {
    this.#isHeld = false;
    this.#process?.stdout.resume();
  }

  /** P3. */
  close(): void {
    if (this.#closing || this.#over !== null) return;
    this.#closing = true;
    const { stopMs } = this.#limits;
    this.#process?.stdout.resume();
    this.#process?.stdin.end();
    this.#timer = setTimeout(() => {
      this.#signal("SIGTERM");
      this.#timer = setTimeout(() => this.#signal("SIGKILL"), stopMs);
    }, stopMs);
  }

  /** Ends a process that does not answer; it counts as one that ended by itself. */
  kill(): void {
    this.#signal("SIGKILL");
  }

  #write(text: string): void {
    const stdin = this.#process?.stdin;
    if (this.#over !== null) throw new UpstreamError("refused", `the process of ${this.name} has ended`, false);
    if (this.#closing || stdin === undefined || !stdin.writable)
      throw new UpstreamError("refused", `the process of ${this.name} is ending`, false);
    if (stdin.writableLength > this.#limits.inputBytesMax) {
      throw new UpstreamError("refused", `the process of ${this.name} does not read its input`, false);
    }
    stdin.write(`${text}\n`);
    this.#isSilent = true;
  }

  #hear(line: string): void {
    let value: unknown;
    try {
      value = isTooDeep(line) ? null : JSON.parse(line);
    } catch {
      // Some servers print to the wrong stream; the protocol's own clients pass over it too.
      this.#sayError(`(on standard output) ${line}`);
      return;
    }
    for (const message of Array.isArray(value) ? value : [value]) {
      if (!isObject(message)) continue;
      this.#heard = true;
      const id = message["id"];
      const asked = typeof id === "string" && message["method"] === undefined ? this.#asked.get(id) : undefined;
      if (asked !== undefined) asked(message);
      // A line may hold a carriage return between its values, which would end a line of an event stream.
      else this.#listener?.message(message, Array.isArray(value) || line.includes("\r") ? JSON.stringify(message) : line);
    }
  }

  #tooLong(): void {
    const { lineBytesMax } = this.#limits;
    this.#log.error({ endpoint: this.name, pid: this.pid, lineBytesMax }, "a stdio server wrote a line over the limit and is ended");
    this.#signal("SIGKILL");
    this.#end(new UpstreamError("malformed", `${this.name} wrote a line longer than ${lineBytesMax} bytes`, true));
  }

  #sayError(line: string): void {
    const nowMs = performance.now();
    const lines = this.#errorLines;
    if (nowMs - lines.windowMs >= 1000) {
      const { dropped } = lines;
      this.#errorLines = { windowMs: nowMs, count: 0, dropped: 0 };
      if (dropped > 0) this.#log.info({ endpoint: this.name, pid: this.pid, dropped }, "lines of a stdio server were left out");
    }
    if (++this.#errorLines.count > this.#limits.errorLinesASecond) this.#errorLines.dropped += 1;
    else this.#log.info({ endpoint: this.name, pid: this.pid, stderr: line.slice(0, this.#limits.errorLineBytesMax) }, "stdio server");
  }

  #signal(signal: "SIGTERM" | "SIGKILL"): void {
    const pid = this.#process?.pid;
    if (pid === undefined) return;
    try {
      process.kill(-pid, signal);
    } catch (error) {
      // EPERM: what runs as another user is not ours to end.
      if (!["ESRCH", "EPERM"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
    }
  }

  #end(error: UpstreamError): void {
    this.#settleEnded();
    if (this.#over !== null) return;
    this.#over = error;
    for (const settle of this.#asked.values()) settle(null);
    this.#listener?.lineEnded(error);
  }
}

const pingMessage = { jsonrpc: "2.0", method: "ping" };
const discoverMessage = {
  jsonrpc: "2.0",
  method: "server/discover",
  params: {
    _meta: {
      [versionKey]: firstModernVersion,
      [clientInfoKey]: { name: "mcp-failover", version: "1" },
      "io.modelcontextprotocol/clientCapabilities": {},
    },
  },
};

export interface ChildCommand {
  /** Of the endpoint, for messages. */
  readonly name: string;
  readonly program: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string | undefined;
}
export interface ChildLimits {
  readonly lineBytesMax: number;
  readonly errorLineBytesMax: number;
  readonly errorLinesASecond: number;
  /** What may wait for a process that does not read. */
  readonly inputBytesMax: number;
  /** Between the end of its input, SIGTERM and SIGKILL. */
  readonly stopMs: number;
}

/** What a process wrote before its end is waited for this long. */
const outputRestMs = 250;

/** Some reasons not to start are thrown, others are told later. */
function launch({ program, args, env, cwd }: ChildCommand): { process: ChildProcessWithoutNullStreams | null; error?: unknown } {
  try {
    const started = spawn(program, args, {
      shell: false,
      detached: true,
      stdio: ["pipe", "pipe", "pipe"],
      env: { ...env },
      ...(cwd === undefined ? {} : { cwd }),
    });
    // Without a free file descriptor there are no pipes.
    if ((started.stdin as unknown) === undefined || started.stdin === null) {
      started.on("error", () => undefined);
      return { process: null, error: { code: "EMFILE" } };
    }
    return { process: started };
  } catch (error) {
    return { process: null, error };
  }
}

function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | undefined)?.code;
  return typeof code === "string" ? code : "unknown";
}
