import { type ChildProcess, spawn } from "node:child_process";
import { constants } from "node:os";
import type { ProcessInfo } from "@mcp-failover/contracts";
import { lineCutter, openLogFile } from "./log-file.ts";

/** One process of the stack: what to run, and what it is. */
export interface ProcessSpec {
  readonly name: string;
  readonly kind: ProcessInfo["kind"];
  readonly command: readonly [string, ...string[]];
  readonly cwd: string;
  /** Its whole environment. */
  readonly env: Readonly<Record<string, string>>;
  /** How long it stays down after it ended by itself, at least. */
  readonly restartAfterMs: number;
  /** Whether it does its work; asked until it says so for the first time. */
  readonly isUp: () => Promise<boolean>;
  /** `upstream/endpoint` that it serves, and the fault proxy in front of it. */
  readonly endpoint: string | null;
  readonly faultProxy: string | null;
  /** Its standard input ends when we do: the process watches for it (`MCPF_PARENT_PIPE=1`). */
  readonly parentPipe: boolean;
}

/** What a supervised process tells. */
export interface SupervisionEvents {
  onSpawn(pid: number): void;
  onGone(pid: number): void;
  /** It ended without having been asked; it comes back after `againInMs`. */
  onCrash(what: string, againInMs: number): void;
  onLine(line: string): void;
  /** Its log cannot be written. It runs on. */
  onLogProblem(problem: string): void;
}

/** A process that is kept running: restarted with back-off when it ends, until it is stopped. */
export interface Supervised {
  readonly spec: ProcessSpec;
  info(): ProcessInfo;
  /** Nothing where it runs; where a kill of it is under way, it comes back as soon as it is gone. */
  start(): void;
  /** SIGTERM, then SIGKILL after `graceMs`; it stays down. Resolves when it is gone. */
  stop(graceMs: number): Promise<void>;
  /** SIGKILL; it comes back after `restartAfterMs`, else after its own time, or at `start`. False when it is not running. */
  kill(options?: { restartAfterMs?: number }): boolean;
  /** SIGKILL; it stays down. */
  destroy(): void;
}

/** Back-off after a crash: 100 ms doubling to 10 s, forgotten after 30 s up (systemd's and Kubernetes' shape at a trial's scale). */
const backoff = { firstMs: 100, maxMs: 10_000, resetAfterMs: 30_000 } as const;
/** How long after its start a process is first asked whether it is up (Node with our code takes longer), and how often then. */
const firstAskMs = { infrastructure: 30, upstream: 250, service: 350 } as const;
const askAgainMs = 100;

/** How long a process stays down after its n-th crash in a row (from 1). */
export function backoffMs(crashesInARow: number, restartAfterMs: number): number {
  const doubled = Math.min(backoff.maxMs, backoff.firstMs * 2 ** Math.min(crashesInARow - 1, 20));
  return Math.max(restartAfterMs, doubled);
}

/** Takes a process under supervision; nothing runs before `start`. Its output goes to `logFile`. */
export function supervise(spec: ProcessSpec, logFile: string, events: SupervisionEvents): Supervised {
  let child: ChildProcess | null = null;
  let wanted = false;
  let up = false;
  let restarts = 0;
  let crashesInARow = 0;
  let startedMs = 0;
  /** It was sent SIGKILL, and its end was not seen yet. */
  let dying = false;
  /** How long it stays down after that; null: its own time. */
  let killedFor: number | null = null;
  /** The last error that it wrote in plain text: why a process ends that never came to its own log. */
  let lastError: string | null = null;
  let again: NodeJS.Timeout | null = null;
  let asking: NodeJS.Timeout | null = null;
  let onceGone: (() => void)[] = [];
  const log = openLogFile(logFile, { onProblem: events.onLogProblem });

  const launch = (): void => {
    if (again !== null) clearTimeout(again);
    again = null;
    up = false;
    startedMs = performance.now();
    lastError = null;
    const [program, ...args] = spec.command;
    log.write(`--- ${new Date().toISOString()} starting ${spec.command.join(" ")}\n`);
    // A group of its own: a Ctrl-C in the terminal reaches us alone, and we stop everything in order.
    const started = spawn(program, args, {
      cwd: spec.cwd,
      env: { ...spec.env },
      detached: true,
      stdio: [spec.parentPipe ? "pipe" : "ignore", "pipe", "pipe"],
    });
    child = started;
    const cut = lineCutter((line) => {
      if (/^(Uncaught )?\w*Error\b.*:/.test(line)) lastError = line.slice(0, 300);
      events.onLine(line);
    });
    for (const stream of [started.stdout, started.stderr]) {
      stream?.setEncoding("utf8");
      stream?.on("data", (text: string) => {
        log.write(text);
        cut(text);
      });
    }
    started.stdin?.on("error", () => undefined);
    let gone = false;
    const end = (what: string): void => {
      if (gone) return;
      gone = true;
      if (started.pid !== undefined) {
        killGroup(started.pid);
        events.onGone(started.pid);
      }
      ended(what);
    };
    started.once("error", (error) => {
      // Without a pid it never ran; with one, the error is about a signal that could not be sent.
      if (started.pid === undefined) end(`it could not be started: ${error.message}`);
    });
    started.once("exit", (code, signal) => end(signal === null ? `it ended with exit code ${code}` : `it was ended by ${signal}`));
    if (started.pid !== undefined) {
      events.onSpawn(started.pid);
      askUp(started, firstAskMs[spec.kind]);
    }
  };
  const ended = (what: string): void => {
    child = null;
    up = false;
    dying = false;
    if (asking !== null) clearTimeout(asking);
    asking = null;
    log.write(`--- ${new Date().toISOString()} ${what}\n`);
    const waiters = onceGone;
    onceGone = [];
    if (wanted) {
      crashesInARow = performance.now() - startedMs >= backoff.resetAfterMs ? 1 : crashesInARow + 1;
      const againInMs = killedFor ?? backoffMs(crashesInARow, spec.restartAfterMs);
      killedFor = null;
      again = setTimeout(() => {
        restarts += 1;
        launch();
      }, againInMs);
      events.onCrash(lastError === null ? what : `${what} (${lastError})`, againInMs);
    }
    for (const done of waiters) done();
  };
  const askUp = (of: ChildProcess, inMs: number): void => {
    asking = setTimeout(() => {
      spec.isUp().then(
        (isUp) => {
          if (child !== of) return;
          up = isUp;
          if (!isUp) askUp(of, askAgainMs);
        },
        () => {
          if (child === of) askUp(of, askAgainMs);
        },
      );
    }, inMs);
  };
  const settle = (): void => {
    if (again !== null) clearTimeout(again);
    again = null;
    wanted = false;
  };
  return {
    spec,
    info: () => ({
      name: spec.name,
      kind: spec.kind,
      pid: child?.pid ?? null,
      state: again !== null || (dying && wanted) ? "backing_off" : child === null || dying ? "stopped" : up ? "running" : "starting",
      restarts,
      endpoint: spec.endpoint,
      faultProxy: spec.faultProxy,
    }),
    start() {
      wanted = true;
      if (dying) killedFor = 0;
      if (child !== null) return;
      crashesInARow = 0;
      launch();
    },
    async stop(graceMs) {
      settle();
      const stopping = child;
      if (stopping === null) return;
      await new Promise<void>((resolve) => {
        const force = setTimeout(() => {
          log.write(`--- it did not end within ${graceMs} ms of SIGTERM\n`);
          if (stopping.pid !== undefined) killGroup(stopping.pid);
        }, graceMs);
        onceGone.push(() => {
          clearTimeout(force);
          resolve();
        });
        stopping.kill("SIGTERM");
      });
    },
    kill({ restartAfterMs } = {}) {
      if (child?.pid === undefined) return false;
      killedFor = restartAfterMs ?? null;
      dying = true;
      killGroup(child.pid);
      return true;
    },
    destroy() {
      settle();
      if (child?.pid === undefined) return;
      dying = true;
      killGroup(child.pid);
    },
  };
}

/** SIGKILL to a process and to whatever it started in its group. */
function killGroup(pid: number): void {
  try {
    process.kill(-pid, constants.signals.SIGKILL);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
