import { type ChildProcess, spawn } from "node:child_process";
import { constants } from "node:os";

/** What happens to a running child when its variables have changed. */
export type OnChange = { readonly kind: "none" | "restart" } | { readonly kind: "signal"; readonly signal: NodeJS.Signals };

/** Restarts are at least this far apart, whatever the fleet does. */
const restartMsMin = 1000;
/** As a shell says that a command was not found, or cannot be run. */
const notFound = 127;
const notRunnable = 126;

/**
 * A child that is told of new variables, or started anew with them.
 *
 * Invariants, cited by the tests:
 * X1  At most one child runs at a time: the next one starts after the one before has ended.
 * X2  A restart gives the newest variables, however many changes came meanwhile, and comes at most once a second.
 * X3  A child that does not end within `stopMs` of a SIGTERM that a restart sent is killed.
 * X4  When the child ends by itself, or was told to by a signal from outside, that is the end, and its exit code is ours.
 */
export class SupervisedChild {
  readonly #command: readonly [string, ...string[]];
  readonly #onChange: OnChange;
  readonly #stopMs: number;
  readonly #say: (text: string) => void;
  readonly #ended = Promise.withResolvers<number>();
  #env: Readonly<Record<string, string | undefined>> = {};
  #child: ChildProcess | null = null;
  #startedMs = 0;
  /** A restart has asked the child to end. */
  #restarting = false;
  #ending = false;
  #killing: NodeJS.Timeout | undefined;
  #later: NodeJS.Timeout | undefined;

  constructor(options: {
    readonly command: readonly [string, ...string[]];
    readonly onChange: OnChange;
    readonly stopMs: number;
    readonly say: (text: string) => void;
  }) {
    this.#command = options.command;
    this.#onChange = options.onChange;
    this.#stopMs = options.stopMs;
    this.#say = options.say;
  }

  /** Its exit code, 128 and the number of the signal that ended it, 127 or 126 where it could not be started. */
  get ended(): Promise<number> {
    return this.#ended.promise;
  }

  start(env: Readonly<Record<string, string | undefined>>): void {
    this.#env = env;
    this.#spawn();
  }

  /** The variables have changed. */
  change(env: Readonly<Record<string, string | undefined>>): void {
    this.#env = env;
    if (this.#onChange.kind === "signal") this.#child?.kill(this.#onChange.signal);
    if (this.#onChange.kind === "restart" && this.#child !== null && !this.#ending && this.#later === undefined && !this.#restarting) {
      const waitMs = Math.max(0, this.#startedMs + restartMsMin - performance.now());
      this.#later = setTimeout(() => this.#restart(), waitMs);
    }
  }

  /** A signal from outside: the child's to answer. `fromTerminal`: it has it already. */
  forward(signal: NodeJS.Signals, fromTerminal = false): void {
    if (signal === "SIGTERM" || signal === "SIGINT" || signal === "SIGQUIT") {
      this.#ending = true;
      clearTimeout(this.#later);
    }
    if (!fromTerminal) this.#child?.kill(signal);
  }

  /** Whether a signal from outside told it to end: no change starts it anew after that. */
  get ending(): boolean {
    return this.#ending;
  }

  #restart(): void {
    this.#later = undefined;
    if (this.#child === null || this.#ending) return;
    this.#restarting = true;
    this.#child.kill("SIGTERM");
    this.#killing = setTimeout(() => {
      this.#say(`mcpf: the command did not end within ${this.#stopMs} ms and is killed`);
      this.#child?.kill("SIGKILL");
    }, this.#stopMs);
  }

  #spawn(): void {
    const [file, ...args] = this.#command;
    this.#startedMs = performance.now();
    const cannotStart = ({ code }: NodeJS.ErrnoException): void => {
      this.#say(`mcpf: ${file} cannot be started (${code}): see that it is installed and may be run`);
      this.#finish(code === "ENOENT" ? notFound : notRunnable);
    };
    let child: ChildProcess;
    try {
      child = spawn(file, args, { stdio: "inherit", env: this.#env as NodeJS.ProcessEnv });
    } catch (error) {
      // Some of what is wrong with a file is thrown at once: one that a deploy is just writing (ETXTBSY), variables that are too long (E2BIG).
      cannotStart(error as NodeJS.ErrnoException);
      return;
    }
    this.#child = child;
    child.once("error", (error: NodeJS.ErrnoException) => {
      if (child.pid === undefined) cannotStart(error);
    });
    child.once("exit", (code, signal) => {
      clearTimeout(this.#killing);
      this.#child = null;
      if (!this.#restarting || this.#ending) {
        this.#finish(code ?? 128 + (signal === null ? 0 : constants.signals[signal]));
        return;
      }
      this.#restarting = false;
      this.#spawn();
    });
  }

  #finish(code: number): void {
    clearTimeout(this.#later);
    clearTimeout(this.#killing);
    this.#child = null;
    this.#ended.resolve(code);
  }
}
