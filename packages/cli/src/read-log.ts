import type { Bus, FollowOptions, Stored } from "@mcp-failover/bus";
import type { StreamName } from "@mcp-failover/contracts";
import { ownReadModel, type ReadModel } from "@mcp-failover/domain";
import { CliError } from "./errors.ts";

/** A stream that gives nothing for so long, and is not at its end, cannot be read. */
export const silenceMsMax = 10_000;

/**
 * Hands over what a stream holds, to its end; gives the store's time of the last. Following tries for ever, and whoever waits at a terminal
 * would take that for "nothing happened". Throws a BusError where the stream is out of reach, and a {@link CliError} where nothing comes.
 */
export async function readToEnd(
  bus: Bus,
  stream: StreamName,
  options: Pick<FollowOptions, "from" | "filter">,
  take: (stored: Stored) => void,
): Promise<number> {
  await bus.info(stream);
  let lastMs = 0;
  let ended = false;
  const end = Promise.withResolvers<void>();
  const silence = setTimeout(() => {
    ended = true;
    end.reject(new CliError(1, "timeout", `${stream} could not be read in time: see that NATS is well, and try again`, true));
  }, silenceMsMax);
  const onCaughtUp = (): void => {
    ended = true;
    end.resolve();
  };
  const following = bus.follow(stream, { ...options, onCaughtUp }, (stored) => {
    if (ended) return;
    silence.refresh();
    lastMs = stored.timeMs;
    take(stored);
  });
  try {
    await end.promise;
  } finally {
    clearTimeout(silence);
    await following.stop();
  }
  return lastMs;
}

/**
 * The newest time that the store gave a message: its clock as far as the log shows it, and never ahead of it. Routers and probers of a fleet
 * that is alive store something every few seconds. Null: nothing is stored. For what the fleet's services decide by that clock: this machine's may be wrong.
 */
export async function storedMs(bus: Bus): Promise<number | null> {
  const newest = await Promise.all(
    (["AUDIT", "SIGNALS"] as const).map(async (stream) => {
      const { lastSeq, messages } = await bus.info(stream);
      return messages === 0 ? null : ((await bus.at(stream, lastSeq))?.timeMs ?? null);
    }),
  );
  const times = newest.filter((timeMs) => timeMs !== null);
  return times.length === 0 ? null : Math.max(...times);
}

/** The sequence of the first message that a stream stored at this time or later; behind its last one where there is none. Throws a BusError. */
export async function seqAt(bus: Bus, stream: StreamName, timeMs: number): Promise<number> {
  const { firstSeq, lastSeq } = await bus.info(stream);
  let low = Math.max(1, firstSeq);
  let high = lastSeq + 1;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    // Where one was taken out, the next one tells.
    let known = middle;
    let stored = await bus.at(stream, known);
    while (stored === null && known + 1 < high) {
      known += 1;
      stored = await bus.at(stream, known);
    }
    if (stored !== null && stored.timeMs < timeMs) low = known + 1;
    else high = middle;
  }
  return low;
}

/** Folds AUDIT into the read model, from its start. */
export async function foldLog(
  bus: Bus,
  toSeq?: number,
): Promise<{ model: ReadModel; messages: number; decisions: number; malformed: number }> {
  const { model, fold } = ownReadModel();
  let messages = 0;
  let decisions = 0;
  let malformed = 0;
  for await (const stored of bus.read("AUDIT", toSeq === undefined ? {} : { toSeq })) {
    messages += 1;
    if (stored.content.kind !== "event") {
      malformed += 1;
      continue;
    }
    if ("certificate" in stored.content.event.data) decisions += 1;
    fold({ seq: stored.seq, subject: stored.subject, timeMs: stored.timeMs, event: stored.content.event });
  }
  return { model, messages, decisions, malformed };
}

/** Names of the configured upstreams, from the log. */
export async function configuredUpstreams(bus: Bus): Promise<string[]> {
  const last = await bus.lastOf("AUDIT", "config.applied");
  if (last?.content.kind !== "event" || last.content.event.type !== "config.applied") return [];
  const { upstreams } = last.content.event.data.topology as { upstreams?: Record<string, unknown> };
  return Object.keys(upstreams ?? {});
}

/** One line for people. */
export function sayStored(stored: Stored): string {
  const time = new Date(stored.timeMs).toISOString();
  if (stored.content.kind === "malformed") return `${time} #${stored.seq} ${stored.subject} MALFORMED ${stored.content.reason}`;
  const data = stored.content.event.data as Record<string, unknown>;
  const move =
    typeof data["previousEndpoint"] === "string" && data["previousEndpoint"] !== data["currentEndpoint"]
      ? `${data["previousEndpoint"]} -> ${String(data["currentEndpoint"])}`
      : "";
  const parts = [move, data["status"], data["title"], data["reason"], data["error"]].filter(
    (part) => typeof part === "string" && part !== "",
  );
  return `${time} #${stored.seq} ${stored.subject} ${parts.join(" | ")}`.trimEnd();
}
