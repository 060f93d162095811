import { type ChildProcess, spawn } from "node:child_process";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

const startMs = 15_000;
const stopMs = 5000;
const outputCharsMax = 64 * 1024;

/** A real server that a test started. */
export interface RunningServer {
  readonly url: string;
  readonly port: number;
  /** Of the process that runs now, or ran last. */
  readonly pid: number;
  /** What it wrote, the last 64 KiB. */
  readonly output: string;
  /** SIGTERM, then SIGKILL after 5 s; removes the folder that was made for it. Doing it twice does no harm. */
  stop(): Promise<void>;
  /** SIGKILL; the store stays. */
  kill(): Promise<void>;
  /** Starts it again on the same port and store; ends it first where it runs. */
  restart(): Promise<void>;
}

/** A server did not come up; the message has the end of what it wrote. */
export class ServerStartError extends Error {
  override readonly name = "ServerStartError";
  readonly code = "server_start_failed";
  readonly retriable = false;
}

export interface ServerSpec {
  readonly program: string;
  readonly args: readonly string[];
  readonly url: string;
  readonly port: number;
  /** Throws as long as the server does not do its work yet. */
  readonly ready: () => Promise<void>;
  readonly cleanup: () => Promise<void>;
}

const alive = new Set<ChildProcess>();
process.once("exit", () => {
  for (const child of alive) child.kill("SIGKILL"); // Nothing outlives the test process.
});

export async function runServer(spec: ServerSpec): Promise<RunningServer> {
  let output = "";
  let child = await launch().catch(async (error: unknown) => {
    await spec.cleanup();
    throw error;
  });

  async function launch(): Promise<ChildProcess> {
    const started = spawn(spec.program, [...spec.args], { stdio: ["ignore", "pipe", "pipe"] });
    let failure: Error | undefined;
    started.once("error", (error) => {
      failure = error;
    });
    const closed = new Promise((resolve) => started.once("close", resolve));
    alive.add(started);
    started.once("exit", () => alive.delete(started));
    for (const stream of [started.stdout, started.stderr]) {
      stream?.on("data", (chunk: Buffer) => {
        output = (output + chunk.toString()).slice(-outputCharsMax);
      });
    }
    const endMs = Date.now() + startMs;
    for (;;) {
      const ended = failure !== undefined || started.exitCode !== null || started.signalCode !== null;
      if (ended || Date.now() > endMs) {
        started.kill("SIGKILL");
        // It writes into its folder until its end, and what it said of that is the last to be read.
        if (failure === undefined) await closed;
        throw new ServerStartError(`${spec.program} did not come up: ${failure?.message ?? output.slice(-2000)}`);
      }
      try {
        await spec.ready();
        return started;
      } catch {
        await sleep(25); // Not yet; the loop has an end.
      }
    }
  }

  async function end(signal: NodeJS.Signals): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise<void>((resolve) => child.once("exit", () => resolve()));
    child.kill(signal);
    const force = setTimeout(() => child.kill("SIGKILL"), stopMs);
    await gone;
    clearTimeout(force);
  }

  return {
    url: spec.url,
    port: spec.port,
    get pid() {
      return child.pid ?? 0;
    },
    get output() {
      return output;
    },
    async stop() {
      await end("SIGTERM");
      await spec.cleanup();
    },
    kill: () => end("SIGKILL"),
    async restart() {
      await end("SIGTERM");
      child = await launch();
    },
  };
}

/** Connects to 127.0.0.1, and gives what the server says first, or after `send`. */
export async function firstWords(port: number, send?: string): Promise<string> {
  return new Promise<string>((resolve, reject) => {
    const socket = connect({ host: "127.0.0.1", port });
    socket.setTimeout(1000, () => socket.destroy(new Error("no answer within 1 s")));
    socket.once("error", reject);
    socket.once("connect", () => send !== undefined && socket.write(send));
    socket.once("data", (chunk: Buffer) => {
      resolve(chunk.toString());
      socket.destroy();
    });
    socket.once("close", () => reject(new Error("closed without a word")));
  });
}
