import { type ChaosFinished, chaosFinished, chaosScenario } from "@mcp-failover/contracts";
import { ask, type Context } from "../context.ts";
import { type ExitCode, usageError } from "../errors.ts";
import { table } from "../output.ts";
import { configuredUpstreams, sayStored } from "../read-log.ts";
import type { ChangeOptions } from "./changes.ts";

export interface ChaosOptions extends ChangeOptions {
  readonly endpoint?: string;
  readonly tool?: string;
  readonly durationMs?: string;
  readonly delayMs?: string;
  readonly maxWaitMs?: string;
  readonly force?: boolean;
}

/** What the runner needs besides the fault and the wait: baseline, revert, final state. */
const overheadMs = 60_000;

/** `mcpf chaos run`: 1 when a check failed. */
export async function run(context: Context, scenario: string, upstream: string, options: ChaosOptions): Promise<ExitCode> {
  const known = chaosScenario.safeParse(scenario);
  if (!known.success)
    throw usageError(`unknown scenario ${JSON.stringify(scenario)}; known: ${chaosScenario.options.join(", ")}`, "unknown_scenario");
  if (options.force === true && options.reason === undefined)
    throw usageError("--force takes away what nobody can serve for: say why (`--reason TEXT`)");
  const bus = await context.bus();
  const upstreams = await configuredUpstreams(bus);
  if (!upstreams.includes(upstream))
    throw usageError(`no upstream ${JSON.stringify(upstream)} is configured; known: ${upstreams.join(", ") || "none"}`, "unknown_upstream");
  await context.confirm(`Run ${scenario} on ${upstream}?`, options.yes ?? false);
  const number = (text: string | undefined, flag: string): number | undefined => {
    if (text === undefined) return undefined;
    if (!/^\d{1,7}$/.test(text)) throw usageError(`${flag} is a number of milliseconds, not ${text}`);
    return Number(text);
  };
  const durationMs = number(options.durationMs, "--duration-ms");
  const delayMs = number(options.delayMs, "--delay-ms");
  const maxWaitMs = number(options.maxWaitMs, "--max-wait-ms");
  const following = bus.follow("AUDIT", { from: "new", filter: "chaos.>" }, (stored) => context.out.note(sayStored(stored)));
  try {
    const answer = await ask(
      context,
      "command.chaos.run",
      {
        commandId: context.newId(),
        by: context.by(),
        reason: options.reason ?? `rehearsal of ${scenario} on ${upstream}`,
        scenario: known.data,
        target: upstream,
        options: {
          endpoint: options.endpoint ?? null,
          tool: options.tool ?? null,
          force: options.force ?? false,
          ...(durationMs === undefined ? {} : { durationMs }),
          ...(delayMs === undefined ? {} : { delayMs }),
          ...(maxWaitMs === undefined ? {} : { maxWaitMs }),
        },
      },
      (durationMs ?? 20_000) + (maxWaitMs ?? 60_000) + overheadMs,
    );
    const result = chaosFinished.parse(answer);
    if (result.unrecorded !== undefined) context.out.note(`not on record: ${result.unrecorded}`);
    context.out.print(result, () => say(result));
    return result.success ? 0 : 1;
  } finally {
    await following.stop();
  }
}

function say(result: ChaosFinished): string {
  const { validation } = result;
  const metrics = (name: string, of: ChaosFinished["baseline"]): string[] =>
    of
      ? [
          `${name}  ${of.calls} calls, ${of.failed} failed, p50 ${of.latencyMsP50?.toFixed(1) ?? "-"} ms, p95 ${of.latencyMsP95?.toFixed(1) ?? "-"} ms`,
        ]
      : [];
  return [
    `${result.scenario} on ${result.target}: ${result.success ? "PASSED" : "FAILED"}${result.error ? ` (${result.error})` : ""}`,
    ...metrics("baseline   ", result.baseline),
    `recovery     ${result.recoveryTime === null ? "did not recover" : `${result.recoveryTime} ms`}`,
    ...metrics("final state", result.finalState),
    ...leftAt(result),
    "",
    table(
      ["CHECK", "PASSED", "DETAIL"],
      [
        ["dataIntegrity", String(validation.dataIntegrity), ""],
        ["performanceWithinThreshold", String(validation.performanceWithinThreshold), ""],
        ["noDataLoss", String(validation.noDataLoss), ""],
        ...validation.checks.map(({ name, passed, detail }) => [name, String(passed), detail]),
      ],
    ),
  ].join("\n");
}

/** The fault is taken back, the move that it led to is not: that is another change of its own. */
function leftAt({ baseline, finalState, target }: ChaosFinished): string[] {
  const [before, after] = [baseline?.services[target], finalState?.services[target]];
  if (before === undefined || after === undefined || before.active === after.active) return [];
  const back = `\`mcpf failback ${target} --reason TEXT\``;
  return [
    `left at      ${after.active} (epoch ${after.epoch}), not at ${before.active} as before: ${back}, where no automatic failback is configured`,
  ];
}
