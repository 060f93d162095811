import { type Bus, BusError } from "@mcp-failover/bus";
import { Command, CommanderError, Option } from "commander";
import manifest from "../package.json" with { type: "json" };
import { type Context, openContext } from "./context.ts";
import { CliError, usageError } from "./errors.ts";
import { type Format, openOutput } from "./output.ts";

export interface CliEnvironment {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly write: (text: string) => void;
  readonly writeError: (text: string) => void;
  /** Standard output is a terminal, where a person reads it. */
  readonly terminal?: boolean;
  /** A test's bus. */
  readonly bus?: Bus;
  /** Rejects when `write` cannot write any more: that ends the command. */
  readonly outputLost?: Promise<never>;
}

/** Runs `mcpf` with these arguments and gives its exit code; of `mcpf exec` that of the command. Command modules are loaded when they are used, because each start counts. */
export async function runCli(argv: readonly string[], environment: CliEnvironment): Promise<number> {
  let exitCode = 0;
  let format: Format = "table";
  const program = new Command("mcpf")
    .description("See and steer the failover of MCP servers and APIs. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 unhealthy.")
    .version(manifest.version)
    .addOption(new Option("--data-dir <dir>", "data directory of the stack").default(environment.env["MCPF_DATA_DIR"] ?? ".mcpf"))
    .addOption(new Option("-o, --output <format>", "how to print").choices(["table", "json", "ndjson"]).default("table"))
    .exitOverride()
    .configureOutput({
      writeOut: environment.write,
      writeErr: (text) => {
        if (!asksForJson(argv)) environment.writeError(text);
      },
    })
    .showHelpAfterError("(mcpf --help lists the commands)");

  /** Wraps a command: context, exit code, closing. */
  const action =
    (run: (context: Context, ...rest: never[]) => Promise<number>) =>
    async (...given: unknown[]): Promise<void> => {
      const command = given.pop() as Command;
      const options = command.optsWithGlobals<{ output: Format; dataDir: string }>();
      format = options.output;
      const context = openContext({
        out: openOutput(options.output, environment.write, environment.writeError),
        dataDir: options.dataDir,
        env: environment.env,
        terminal: environment.terminal === true,
        ...(environment.bus === undefined ? {} : { bus: environment.bus }),
      });
      try {
        const running = run(context, ...(given as never[]));
        exitCode = await (environment.outputLost === undefined ? running : Promise.race([running, environment.outputLost]));
      } finally {
        await context.close();
      }
    };
  addCommands(program, action);

  try {
    // -o may stand after the command too: commander hands unknown options of a subcommand to nobody otherwise.
    await program.parseAsync([...hoistGlobals(argv)], { from: "user" });
    return exitCode;
  } catch (error) {
    // In words commander has said it by itself.
    if (error instanceof CommanderError && (error.exitCode === 0 || !asksForJson(argv))) return error.exitCode === 0 ? 0 : 2;
    const failed = asCliError(error);
    const wanted = asksForJson(argv) ? "json" : format;
    environment.writeError(
      wanted === "table"
        ? `mcpf: ${failed.message}\n`
        : `${JSON.stringify({ error: { code: failed.code, message: failed.message, retriable: failed.retriable } })}\n`,
    );
    return failed.exitCode;
  }
}

/** Also where the command line could not be read: `-o json`, `-ojson`, `--output=json`. Behind `--` stand the words of another program. */
function asksForJson(argv: readonly string[]): boolean {
  const end = argv.indexOf("--");
  const own = end === -1 ? argv : argv.slice(0, end);
  return /(^| )(-o|--output)[ =]?(nd)?json( |$)/.test(own.join(" "));
}

/** Whatever ends a command is told in one sentence, and in JSON where that was asked for; a defect with its stack, to be reported. */
function asCliError(error: unknown): CliError {
  if (error instanceof CliError) return error;
  if (error instanceof CommanderError) {
    const text = error.code === "commander.help" ? "a command is missing" : error.message.replace(/^error: /, "").replaceAll("\n", " ");
    return usageError(`${text} (mcpf --help lists the commands)`);
  }
  if (error instanceof BusError) return new CliError(1, error.code, error.message, error.retriable);
  const what = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return new CliError(1, "internal", `this is a defect of mcpf or of the service that answered; report it with this: ${what}`);
}

/** Global options may stand anywhere: `mcpf status -o json`. */
function hoistGlobals(argv: readonly string[]): readonly string[] {
  const hoisted: string[] = [];
  const rest: string[] = [];
  for (let index = 0; index < argv.length; index += 1) {
    const word = argv[index] as string;
    if (word === "--") {
      rest.push(...argv.slice(index));
      break;
    }
    if (["-o", "--output", "--data-dir"].includes(word) && argv[index + 1] !== undefined) {
      hoisted.push(word, argv[index + 1] as string);
      index += 1;
    } else if (/^(-o.|--output=|--data-dir=)/.test(word)) hoisted.push(word);
    else rest.push(word);
  }
  return [...hoisted, ...rest];
}

type Action = (run: (context: Context, ...rest: never[]) => Promise<number>) => (...given: unknown[]) => Promise<void>;

function addCommands(program: Command, action: Action): void {
  const changes = () => import("./commands/changes.ts");
  const reason = ["--reason <text>", "why; it is recorded"] as const;
  const yes = ["--yes", "do not ask"] as const;

  program
    .command("status")
    .description("what serves each upstream, and how well")
    .option("--report", "one line a service, as the health report of the reference; 3 when a critical one is unhealthy")
    .action(
      action(async (context, { report }: { report?: boolean }) =>
        report
          ? (await import("./commands/health-report.ts")).statusReport(context)
          : (await import("./commands/status.ts")).status(context),
      ),
    );
  program
    .command("why <upstream>")
    .description("why the active endpoint is active: votes, rule, rejected alternatives")
    .action(action(async (context, upstream: string) => (await import("./commands/why.ts")).why(context, upstream)));
  program
    .command("failover <upstream>")
    .description("move an upstream to a healthy endpoint")
    .option("--to <endpoint>", "which; otherwise the best proven one")
    .option("--force", "override cool-down, limits, holds and safety rules; recorded")
    .option("--dry-run", "say what would be done")
    .option(...reason)
    .option(...yes)
    .action(action(async (context, upstream: string, options: object) => (await changes()).failover(context, upstream, options)));
  program
    .command("failback <upstream>")
    .description("move an upstream back to its preferred endpoint")
    .option("--force", "override cool-down, holds, hold-down and safety rules; recorded")
    .option("--dry-run", "say what would be done")
    .option(...reason)
    .option(...yes)
    .action(action(async (context, upstream: string, options: object) => (await changes()).failback(context, upstream, options)));
  program
    .command("hold <upstream>")
    .description("stop automatic moves of an upstream")
    .option("--for <duration>", "90s, 30m, 2h; otherwise until released")
    .option("--until <time>", "2026-03-01T02:00:00Z")
    .option(...reason)
    .option(...yes)
    .action(action(async (context, upstream: string, options: object) => (await changes()).hold(context, upstream, options)));
  program
    .command("release <upstream>")
    .description("allow automatic moves again")
    .option(...reason)
    .option(...yes)
    .action(action(async (context, upstream: string, options: object) => (await changes()).release(context, upstream, options)));
  program
    .command("rollback <scope> [name]")
    .description("serve a tool, an agent or the system by its legacy implementation")
    .option("--force", "also when legacy is no better")
    .option(...reason)
    .option(...yes)
    .action(
      action(async (context, scope: string, name: string | undefined, options: object) =>
        (await changes()).rollback(context, scope, name, options),
      ),
    );
  program
    .command("recover <scope> [name]")
    .description("bring a tool, an agent or the system back to MCP")
    .option("--percent <number>", "share of the calls that go to MCP; otherwise all at once")
    .option("--ramp", "in steps, each only when MCP was no worse than legacy")
    .option(...reason)
    .option(...yes)
    .action(
      action(async (context, scope: string, name: string | undefined, options: object) =>
        (await changes()).recover(context, scope, name, options),
      ),
    );
  program
    .command("ack <incident>")
    .description("say that you have an incident")
    .option(...reason)
    .option("--yes", "nothing is asked anyway; taken so that every change can be written alike")
    .action(action(async (context, incident: string, options: object) => (await changes()).acknowledge(context, incident, options)));
  program
    .command("log")
    .description("the log itself")
    .command("adopt")
    .description("this log is the right one, whatever routers hold of another: after it was lost or restored")
    .option(...reason)
    .option(...yes)
    .action(action(async (context, options: object) => (await import("./commands/log.ts")).adopt(context, options)));
  const silences = () => import("./commands/silence.ts");
  program
    .command("silence [target]")
    .description(
      "tell nobody what happens to <upstream> with its tools, or to <incident key>, until a time; what is still wrong then is told",
    )
    .option("--for <duration>", "90s, 30m, 2h; at most 30d")
    .option("--until <time>", "2026-03-01T02:00:00Z")
    .option("--list", "show what is silenced, until when, by whom and why")
    .option(...reason)
    .option(...yes)
    .action(action(async (context, target: string | undefined, options: object) => (await silences()).silence(context, target, options)));
  program
    .command("unsilence <target>")
    .description("end a silence before its time; what is still wrong is told")
    .option(...reason)
    .option(...yes)
    .action(action(async (context, target: string, options: object) => (await silences()).unsilence(context, target, options)));

  const events = program.command("events").description("the log: read it, replay it, verify it");
  const log = () => import("./commands/events.ts");
  events
    .command("tail [filter]")
    .description("the last events, for example `mcpf events tail 'failover.>'`")
    .option("--since <duration>", "how far back", "10m")
    .option("-f, --follow", "go on with what happens")
    .action(action(async (context, filter: string | undefined, options: object) => (await log()).tail(context, filter, options)));
  events
    .command("find <text>")
    .description("what the log says of an operation id (of an error, or the header mcpf-operation-id), or of any other text")
    .option("--since <duration>", "how far back", "1h")
    .action(action(async (context, text: string, options: object) => (await import("./commands/find.ts")).find(context, text, options)));
  events
    .command("replay")
    .description("fold the log again and compare with the read model")
    .option("--to <seq>", "up to this event only")
    .action(action(async (context, options: object) => (await log()).replay(context, options)));
  events
    .command("verify")
    .description("recompute every decision and check every byte")
    .option("--file <file>", "an export instead of the live log")
    .action(action(async (context, options: object) => (await log()).verify(context, options)));
  events
    .command("export")
    .description("the log as NDJSON, byte for byte")
    .option("--file <file>", "write to a file")
    .option("--signals", "what probers and routers saw (kept for three days) instead of what was decided")
    .action(action(async (context, options: object) => (await log()).exportLog(context, options)));
  events
    .command("backtest <file>")
    .description("try the policy of a configuration file on what the log recorded: what would it have moved, when, and was that needed")
    .option("--since <duration>", "how far back", "24h")
    .option("--from <time>", "from this time on instead, for example 2026-11-01T08:00:00Z")
    .option("--to <time>", "up to this time")
    .option("--env <environment>", "development or production; otherwise the one in force")
    .option("--export <file...>", "files of `mcpf events export`, of the log and of --signals, instead of the live log")
    .action(
      action(async (context, file: string, options: object) => (await import("./commands/backtest.ts")).backtest(context, file, options)),
    );

  const state = program.command("state").description("read models");
  state
    .command("get <upstream>")
    .description("the state of one upstream")
    .action(action(async (context, upstream: string) => (await import("./commands/state.ts")).get(context, upstream)));
  state
    .command("history <upstream>")
    .description("its failovers, newest first")
    .option("--limit <number>", "how many", "10")
    .action(
      action(async (context, upstream: string, options: object) =>
        (await import("./commands/state.ts")).history(context, upstream, options),
      ),
    );

  program
    .command("chaos")
    .description("rehearse failure")
    .command("run <scenario> <upstream>")
    .description("killService or slowResponse, with baseline, recovery time and validations")
    .option("--endpoint <name>", "which; otherwise the active one")
    .option("--tool <name>", "read-only tool to watch with")
    .option("--duration-ms <number>", "how long the fault lasts at most")
    .option("--delay-ms <number>", "slowResponse: added to each answer")
    .option("--max-wait-ms <number>", "how long to wait for recovery")
    .option("--force", "also where nothing else would serve, or a hold keeps it from moving; needs --reason, recorded")
    .option(...reason)
    .option(...yes)
    .action(
      action(async (context, scenario: string, upstream: string, options: object) =>
        (await import("./commands/chaos.ts")).run(context, scenario, upstream, options),
      ),
    );

  program
    .command("probe")
    .description("look at an endpoint now")
    .command("run <target>")
    .description("every prober probes <upstream> or <upstream>/<endpoint> once; 3 when it is unhealthy")
    .option("--timeout-ms <number>", "how long a probe may take")
    .action(
      action(async (context, target: string, options: object) => (await import("./commands/probe.ts")).run(context, target, options)),
    );
  program
    .command("env <upstreams>")
    .description("the variables of the active endpoints, for `eval` or a file; several upstreams with commas")
    .option("--format <format>", "export, dotenv or json")
    .option("--file <file>", "write them there, readable by you alone")
    .option("--watch", "keep the file current")
    .option("--show-secrets", "also on a terminal")
    .action(
      action(async (context, upstreams: string, options: object) => (await import("./commands/env.ts")).env(context, upstreams, options)),
    );
  program
    .command("exec <upstreams> [command...]")
    .description("run a command with the variables of the active endpoints: mcpf exec pinecone -- node app.js")
    .option("--on-change <what>", "restart, none, or signal:SIGHUP", "restart")
    .option("--stop-ms <number>", "how long a restart waits for the command to end", "10000")
    .option("--file <file>", "keep a dotenv file current too; the command finds its path in MCPF_ENV_FILE")
    .action(
      action(async (context, upstreams: string, command: string[], options: object) =>
        (await import("./commands/exec.ts")).exec(context, upstreams, command, options),
      ),
    );
  const breaker = program.command("breaker").description("the circuit breakers that the fleet keeps");
  const breakers = () => import("./commands/breaker.ts");
  breaker
    .command("status [target]")
    .description("what each breaker of <upstream>[/<endpoint>] says, since when, and who or what made it so; 3 when one is open")
    .action(action(async (context, target: string | undefined) => (await breakers()).status(context, target)));
  breaker
    .command("test <target>")
    .description("probe <upstream>[/<endpoint>] once, and say what its breaker does next; 3 when it is or would be open")
    .action(action(async (context, target: string) => (await breakers()).test(context, target)));
  for (const [name, what] of [
    ["force-open", "let no traffic through, until it is reset"],
    ["disable", "let everything through, whatever fails, until it is reset"],
    ["metrics-only", "count what would open it, and stop nothing, until it is reset"],
    ["reset", "closed, and decided on automatically again"],
  ] as const) {
    breaker
      .command(`${name} <target>`)
      .description(`${what}: for <upstream>, or <upstream>/<endpoint>`)
      .option(...reason)
      .option(...yes)
      .action(action(async (context, target: string, options: object) => (await breakers()).command(context, name, target, options)));
  }
  const config = program.command("config").description("the configuration");
  config
    .command("validate [file]")
    .description("check a failover.yaml: every problem with path and fix")
    .action(action(async (context, file: string | undefined) => (await import("./commands/config.ts")).validate(context, file)));
  config
    .command("apply <file>")
    .description("make it the next version in the log; services change without a restart")
    .option("--env <name>", "development or production; otherwise MCPF_ENV, or the one in force")
    .option(...reason)
    .option(...yes)
    .action(action(async (context, file: string, options: object) => (await import("./commands/config.ts")).apply(context, file, options)));
  program
    .command("doctor")
    .description("look at every part and say what to do")
    .action(action(async (context) => (await import("./commands/doctor.ts")).doctor(context)));
}
