import { constants } from "node:os";
import { resolve } from "node:path";
import { type ActiveVariables, readVariables, textOf, upstreamsOf, watchVariables } from "../active-variables.ts";
import type { Context } from "../context.ts";
import { usageError } from "../errors.ts";
import { type OnChange, SupervisedChild } from "../supervised-child.ts";
import { secretsFor, whereOf, writeFileOf } from "./env.ts";

export interface ExecOptions {
  readonly onChange?: string;
  readonly stopMs?: string;
  readonly file?: string;
}

const stopMsDefault = 10_000;
/** SIGKILL and SIGSTOP cannot be caught, and the others are the terminal's or the kernel's word on one process. */
const forwarded = ["SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2"] as const satisfies NodeJS.Signals[];
/** A terminal sends these to every process of its foreground group by itself. */
const fromTerminal: readonly string[] = ["SIGINT", "SIGQUIT"];

/**
 * `mcpf exec <upstreams> -- command`: runs the command with the variables of the endpoints that are active, and on a change restarts or signals it.
 * Gives the command's exit code. Values of variables are given to the command, and to `--file`, and are said nowhere.
 */
export async function exec(context: Context, upstreams: string, command: readonly string[], options: ExecOptions): Promise<number> {
  const [program, ...args] = command;
  if (program === undefined) throw usageError("what shall run? mcpf exec <upstreams> -- command [arguments]");
  const onChange = parseOnChange(options.onChange ?? "restart");
  const stopMs = parseStopMs(options.stopMs);
  const file = options.file === undefined ? undefined : resolve(options.file);
  if (onChange.kind === "signal" && file === undefined)
    context.out.note(
      "mcpf: a signal alone tells the command nothing new; with --file FILE it can read the variables again from MCPF_ENV_FILE",
    );
  const names = upstreamsOf(upstreams);
  const secrets = secretsFor(context);
  const client = await context.fleet();
  const read = (): ActiveVariables => readVariables(client, names, secrets);
  const envOf = ({ variables, unset }: ActiveVariables): Record<string, string | undefined> => ({
    ...context.env,
    ...Object.fromEntries(unset.map((name) => [name, undefined])),
    ...Object.fromEntries(variables),
    ...(file === undefined ? {} : { MCPF_ENV_FILE: file }),
  });
  const keep = async (active: ActiveVariables): Promise<void> => (file === undefined ? undefined : writeFileOf(file, active, "dotenv"));

  const first = read();
  await keep(first);
  const child = new SupervisedChild({ command: [program, ...args], onChange, stopMs, say: context.out.note });
  // Output may go into a pipe: the terminal sends its signals to the command all the same, and a second one makes many give up what they finish.
  const atTerminal = context.terminal || process.stdin.isTTY || process.stderr.isTTY;
  const onSignal = (signal: NodeJS.Signals): void => {
    child.forward(signal, atTerminal && fromTerminal.includes(signal));
  };
  for (const signal of forwarded) process.on(signal, onSignal);
  child.start(envOf(first));
  let given = textOf(first);
  const tell = (active: ActiveVariables): void => {
    if (textOf(active) === given) return;
    given = textOf(active);
    context.out.note(`mcpf: now ${whereOf(active)}${sayWhatNext(onChange, child.ending)}`);
    child.change(envOf(active));
  };
  const signals = onChange.kind === "signal";
  const watching = watchVariables(read, client, first, {
    async change(active) {
      // The file is whole before the command hears of it. A restart gives the variables itself; only a signal would be in vain without the file.
      if (signals) await keep(active).then(() => tell(active));
      else await keep(active).finally(() => tell(active));
    },
    problem(text, during) {
      const stays = during === "change" && !signals ? "the file stays as it is" : "the command keeps the variables that it has";
      context.out.note(`mcpf: ${text}; ${stays}, and it is tried again`);
    },
  });
  try {
    return await child.ended;
  } finally {
    for (const signal of forwarded) process.off(signal, onSignal);
    await watching.stop();
  }
}

function parseOnChange(text: string): OnChange {
  if (text === "restart" || text === "none") return { kind: text };
  const signal = /^signal:(SIG[A-Z0-9]+)$/.exec(text)?.[1];
  if (signal !== undefined && Object.hasOwn(constants.signals, signal)) return { kind: "signal", signal: signal as NodeJS.Signals };
  throw usageError(`--on-change is restart, none or signal:SIGHUP, not ${text}`);
}

function parseStopMs(text: string | undefined): number {
  const value = text === undefined ? stopMsDefault : Number(text);
  if (!Number.isInteger(value) || value < 0 || value > 3_600_000)
    throw usageError(`--stop-ms is a whole number up to 3600000, not ${text}`);
  return value;
}

function sayWhatNext(onChange: OnChange, ending: boolean): string {
  if (onChange.kind === "restart") return ending ? "; the command was told to end, and is not restarted" : "; the command is restarted";
  return onChange.kind === "signal" ? `; the command gets ${onChange.signal}` : "";
}
