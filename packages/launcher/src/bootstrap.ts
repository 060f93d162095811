import { spawn } from "node:child_process";
import { lineCutter, openLogFile, summaryOf } from "./log-file.ts";

/** The one-shot failed: the log could not be prepared, so no service can work. */
export class BootstrapError extends Error {
  override readonly name = "BootstrapError";
  readonly code = "bootstrap_failed";
  readonly retriable = true;
  readonly exitCode: number | null;
  constructor(message: string, exitCode: number | null) {
    super(message);
    this.exitCode = exitCode;
  }
}

const tailLines = 5;

/** Runs bootstrap to its end. Throws {@link BootstrapError} with the last of what it said. */
export async function runBootstrap(options: {
  readonly command: readonly [string, ...string[]];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  readonly logFile: string;
  readonly timeoutMs: number;
  readonly onSpawn: (pid: number) => void;
  readonly onGone: (pid: number) => void;
  /** Its log cannot be written. It runs on. */
  readonly onLogProblem: (problem: string) => void;
  /** Ends it, for an orderly stop. */
  readonly signal: AbortSignal;
}): Promise<void> {
  const log = openLogFile(options.logFile, { onProblem: options.onLogProblem });
  const [program, ...args] = options.command;
  const said: string[] = [];
  const child = spawn(program, args, {
    cwd: options.cwd,
    env: { ...options.env },
    detached: true,
    stdio: ["pipe", "pipe", "pipe"],
    signal: options.signal,
    killSignal: "SIGKILL",
  });
  const { pid } = child;
  if (pid !== undefined) options.onSpawn(pid);
  child.stdin.on("error", () => undefined);
  const cut = lineCutter((line) => {
    const text = line.startsWith("{") ? summaryOf(line)?.text : line;
    if (text !== undefined && said.push(text) > tailLines) said.shift();
  });
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8");
    stream.on("data", (text: string) => {
      log.write(text);
      cut(text);
    });
  }
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill("SIGKILL");
  }, options.timeoutMs);
  try {
    const [code, error] = await new Promise<[number | null, Error | null]>((resolve) => {
      child.once("error", (cause) => resolve([null, cause]));
      child.once("close", (exitCode) => resolve([exitCode, null]));
    });
    if (code === 0) return;
    const how = late ? `did not end within ${options.timeoutMs} ms` : error === null ? `ended with exit code ${code}` : error.message;
    throw new BootstrapError([`bootstrap ${how}; its log is ${options.logFile}`, ...said.map((line) => `  ${line}`)].join("\n"), code);
  } finally {
    clearTimeout(timer);
    if (pid !== undefined) options.onGone(pid);
    log.close();
  }
}
