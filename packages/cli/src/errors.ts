/** Pinned: 0 done, 1 failed, 2 wrong usage, 3 unhealthy. */
export type ExitCode = 0 | 1 | 2 | 3;

/** Ends a command with an exit code and one sentence that says what to do. */
export class CliError extends Error {
  override readonly name = "CliError";
  readonly code: string;
  readonly retriable: boolean;
  readonly exitCode: ExitCode;
  constructor(exitCode: ExitCode, code: string, message: string, retriable = false) {
    super(message);
    this.exitCode = exitCode;
    this.code = code;
    this.retriable = retriable;
  }
}

export function usageError(message: string, code = "usage"): CliError {
  return new CliError(2, code, message);
}
