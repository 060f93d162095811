import { ask, type Context } from "../context.ts";
import { type ExitCode, usageError } from "../errors.ts";
import { table } from "../output.ts";

export async function get(context: Context, upstream: string): Promise<ExitCode> {
  const state = await ask(context, "state.get", { upstream });
  context.out.print(state, () => JSON.stringify(state, null, 2));
  return 0;
}

export async function history(context: Context, upstream: string, options: { limit?: string }): Promise<ExitCode> {
  const limit = options.limit === undefined ? 10 : Number(options.limit);
  if (!Number.isInteger(limit) || limit < 1 || limit > 1000)
    throw usageError(`--limit is a whole number from 1 to 1000, not ${options.limit}`);
  const answer = (await ask(context, "state.history", { upstream, limit })) as {
    failovers: {
      timestamp: string;
      previousEndpoint: string;
      currentEndpoint: string;
      epoch: number;
      automatic: boolean;
      by: string;
      reason: string;
    }[];
  };
  context.out.print(
    answer,
    () =>
      table(
        ["WHEN", "FROM", "TO", "EPOCH", "BY", "REASON"],
        answer.failovers.map((one) => [
          one.timestamp,
          one.previousEndpoint,
          one.currentEndpoint,
          String(one.epoch),
          one.automatic ? "automatic" : one.by,
          one.reason,
        ]),
      ),
    answer.failovers,
  );
  return 0;
}
