import { spawn } from "node:child_process";
import { constants } from "node:os";

const FORWARDED = /** @type {const} */ (["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"]);

/** One Ctrl-C reaches us from the terminal and again from npm; a second one pressed on purpose comes later than this. */
const SAME_SIGNAL_MS = 300;

/** @type {NodeJS.Signals | null} */
let toldToEndBy = null;

/** A signal came while a child ran: whoever would begin another one has to end instead. */
export class ToldToEndError extends Error {
  code = "told_to_end";
  retriable = false;

  /** @param {NodeJS.Signals} signal */
  constructor(signal) {
    super(`told to end by ${signal}`);
    /** As a shell has it. */
    this.exitCode = 128 + constants.signals[signal];
  }
}

/**
 * After each of several children: a child that was told to end may end with any code, and the next one would not know.
 * @throws {ToldToEndError} when a signal was forwarded to any child of this process
 */
export function throwIfToldToEnd() {
  if (toldToEndBy !== null) throw new ToldToEndError(toldToEndBy);
}

/**
 * Runs a program, forwards the signals that we get, and outlives it: a caller who waits for us has also waited for the child.
 * The child stays in our process group, so that killing the group leaves nothing behind. It may therefore see one Ctrl-C twice.
 *
 * @param {string} command
 * @param {readonly string[]} args
 * @param {{ cwd?: string, env?: NodeJS.ProcessEnv, stdio?: import("node:child_process").StdioOptions,
 *   onSpawn?: (child: import("node:child_process").ChildProcess) => void }} [options] default: inherit everything
 * @returns {Promise<number>} the exit code; 128 + n when signal n ended it; 127 when it could not be started
 */
export function runChild(command, args, options = {}) {
  const { onSpawn, stdio = "inherit", ...rest } = options;
  return new Promise((resolve) => {
    const child = spawn(command, [...args], { ...rest, stdio });
    /** @type {Map<string, number>} */
    const forwardedAt = new Map();
    const forward = (/** @type {NodeJS.Signals} */ signal) => {
      const now = Date.now();
      if (now - (forwardedAt.get(signal) ?? 0) < SAME_SIGNAL_MS) return;
      forwardedAt.set(signal, now);
      toldToEndBy ??= signal;
      child.kill(signal);
    };
    const settle = (/** @type {number} */ code) => {
      for (const signal of FORWARDED) process.off(signal, forward);
      resolve(code);
    };
    for (const signal of FORWARDED) process.on(signal, forward);
    child.once("error", (error) => {
      process.stderr.write(`could not start ${command}: ${error.message}\n`);
      settle(127);
    });
    // "close" comes after the last byte of piped output; "exit" may come before it.
    child.once("close", (code, signal) => settle(code ?? 128 + (signal === null ? 0 : constants.signals[signal])));
    onSpawn?.(child);
  });
}
