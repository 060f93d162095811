/** What a person sees. Progress goes to standard output, trouble to standard error. */
export interface Terminal {
  /** False for a file or a pipe: others may read there, and it is kept, so no secret is said. */
  readonly isForAPerson: boolean;
  say(line: string): void;
  complain(line: string): void;
  /** A warning or error of a child, kept short when they come in numbers. */
  relay(process: string, level: "warn" | "error", text: string): void;
  /** From now on warnings are shown too: while everything starts, many are only about what is not there yet. */
  settled(): void;
  /** From now on only what we say ourselves is shown: everything is being stopped, and says so. */
  hush(): void;
}

/** Lines of one child shown within `windowMs`; the rest is counted and stays in its log. */
const linesMax = 3;
const windowMs = 10_000;

export function terminal(out: NodeJS.WritableStream, err: NodeJS.WritableStream): Terminal {
  let warningsToo = false;
  let hushed = false;
  const budgets = new Map<string, { sinceMs: number; shown: number; held: number }>();
  // A closed terminal must not end the stack by itself; its SIGHUP does, in order.
  out.on("error", () => undefined);
  err.on("error", () => undefined);
  return {
    isForAPerson: (out as { isTTY?: boolean }).isTTY === true,
    say: (line) => void out.write(`${line}\n`),
    complain: (line) => void err.write(`${line}\n`),
    relay(process, level, text) {
      if (hushed || (level === "warn" && !warningsToo)) return;
      const nowMs = performance.now();
      let budget = budgets.get(process);
      if (budget === undefined || nowMs - budget.sinceMs > windowMs) {
        if (budget !== undefined && budget.held > 0) err.write(`[${process}] and ${budget.held} more lines like these; see its log\n`);
        budget = { sinceMs: nowMs, shown: 0, held: 0 };
        budgets.set(process, budget);
      }
      if (budget.shown < linesMax) {
        budget.shown += 1;
        err.write(`[${process}] ${level}: ${text}\n`);
      } else budget.held += 1;
    },
    settled() {
      warningsToo = true;
    },
    hush() {
      hushed = true;
    },
  };
}
