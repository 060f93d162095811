import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { BusError, RefusedError } from "@mcp-failover/bus";
import type { ChaosCommand, ChaosFinished } from "@mcp-failover/contracts";
import { type ExperimentPace, experimentPolicy } from "@mcp-failover/domain";
import { type AppliedTopology, followTopology, type Kit, type Running } from "@mcp-failover/service-kit";
import { type Canary, openCanary } from "./canary.ts";
import type { ChaosConfig } from "./config.ts";
import { runExperiment } from "./experiment.ts";
import { experimentOf, foldUnfinished, openJournal, readFinished, recordFinished, type Unfinished } from "./journal.ts";
import { acquireLease, recovery } from "./lease.ts";
import { chooseTool, resolveTarget } from "./plan.ts";
import { recoverUnfinished } from "./recovery.ts";
import { askStatus } from "./stack.ts";

/** How often experiments that nobody finishes are looked for. */
const sweepMs = 1000;

/** An experiment of this process. `work` ends when it is on record, `answer` at the latest `recordMsMax` after its verdict. */
interface Begun {
  readonly work: Promise<ChaosFinished>;
  readonly answer: Promise<ChaosFinished>;
}

/**
 * `command.chaos.run` -> steady state -> baseline -> on record -> fault -> canary and status -> revert -> verdict on record.
 * AUDIT tells which experiments were begun and not finished: whoever gets the lease reverts and finishes those.
 */
export async function startChaosRunner(kit: Kit<ChaosConfig>, pace: ExperimentPace = experimentPolicy): Promise<Running> {
  const stop = new AbortController();
  const running = new Map<string, Begun>();
  const life = randomUUID();
  const unfinished = new Map<string, Unfinished>();
  let topology: AppliedTopology | null = null;
  let caughtUp = false;
  const config = followTopology(kit, (applied) => {
    topology = applied;
  });
  kit.ready("audit", false, "the log has not been read yet");
  const following = kit.bus.follow(
    "AUDIT",
    {
      from: "last_per_subject",
      filter: "chaos.>",
      onCaughtUp: () => {
        caughtUp = true;
        kit.ready("audit", true);
      },
    },
    ({ content, timeMs }) => {
      if (content.kind === "event") foldUnfinished(unfinished, content.event, timeMs);
    },
  );

  let sweeping: Promise<void> = Promise.resolve();
  let busy = false;
  const sweep = async (): Promise<void> => {
    if (!caughtUp || running.size > 0 || unfinished.size === 0 || kit.bus.status.kind !== "connected") return;
    const got = await acquireLease(kit.bus, { experiment: recovery, instance: kit.instance, life }, unfinished);
    if (!("lease" in got)) return;
    try {
      for (const one of [...unfinished.values()]) await recoverUnfinished(kit, one, stop.signal);
    } finally {
      await got.lease.release();
    }
  };
  const timer = setInterval(() => {
    if (busy || stop.signal.aborted) return;
    busy = true;
    sweeping = sweep()
      .catch((error: unknown) => {
        if (error instanceof BusError) kit.log.warn({ err: error }, "experiments without an end could not be finished yet");
        else kit.log.error({ err: error }, "experiments without an end could not be finished");
      })
      .finally(() => {
        busy = false;
      });
  }, sweepMs);

  const run = async (command: ChaosCommand, experiment: string, onJudged: (result: ChaosFinished) => void): Promise<ChaosFinished> => {
    const known = await readFinished(kit, experiment);
    if (known !== null) return known;
    if (topology === null || !caughtUp)
      throw new RefusedError("not_ready", "the chaos-runner is still reading the log: ask again in a second", true);
    const got = await acquireLease(kit.bus, { experiment, instance: kit.instance, life }, new Set());
    if (!("lease" in got)) {
      const { experiment: other, instance } = got.heldBy;
      throw new RefusedError("experiment_running", `${instance} runs ${other} now; one experiment at a time, so wait for its end`, true);
    }
    let canary: Canary | null = null;
    const offsetMs = kit.nowMs() - performance.now();
    const nowMs = (): number => offsetMs + performance.now();
    try {
      // Nothing is broken beside what another runner left broken, nor measured against it.
      const left = [...unfinished.values()];
      for (const one of left) {
        if (await recoverUnfinished(kit, one, stop.signal)) continue;
        const why = `a fault of ${one.started.experiment}, which its runner left, is not seen to be gone yet`;
        throw new RefusedError("experiment_running", `${why}; ask again once it is`, true);
      }
      const ended = left.length === 0 ? null : await readFinished(kit, experiment);
      if (ended !== null) return ended;
      const seqBefore = (await kit.bus.info("AUDIT")).lastSeq;
      const target = await resolveTarget(kit.bus, command, topology, await askStatus(kit.bus));
      canary = await connect(kit, target.upstream, nowMs);
      const tool = chooseTool(target, canary.tools, command.options.tool);
      const journal = openJournal(kit, experiment);
      const result = await runExperiment({
        kit,
        experiment,
        command,
        target,
        seqBefore,
        canary,
        tool,
        lease: got.lease,
        journal,
        nowMs,
        pace,
        stop: stop.signal,
      });
      onJudged(result);
      // The lease is kept meanwhile, so that nobody else finishes what is judged already.
      const onRecord = await recordFinished(kit, journal, result, stop.signal);
      return onRecord ?? { ...result, unrecorded: "the log did not take the result in time: a later chaos-runner records it as failed" };
    } finally {
      await canary?.close();
      await got.lease.release();
    }
  };

  return {
    handlers: {
      "command.chaos.run": async (command) => {
        const experiment = experimentOf(command.commandId);
        const known = running.get(experiment);
        if (known !== undefined) return known.answer;
        if (stop.signal.aborted) throw new RefusedError("not_ready", "the chaos-runner is stopping", true);
        const [other] = running.keys();
        if (other !== undefined)
          throw new RefusedError(
            "experiment_running",
            `${kit.instance} runs ${other} now; one experiment at a time, so wait for its end`,
            true,
          );
        const judged = Promise.withResolvers<ChaosFinished>();
        const work = run(command, experiment, judged.resolve)
          .catch((error: unknown) => {
            if (error instanceof BusError)
              throw new RefusedError("bus_unreachable", `the experiment did not begin: ${error.message}`, true);
            throw error;
          })
          .finally(() => running.delete(experiment));
        const late = judged.promise.then(async (result) => {
          await sleep(pace.recordMsMax, undefined, { ref: false });
          return {
            ...result,
            unrecorded: "the log does not take the result: this chaos-runner tries on, and begins nothing else meanwhile",
          };
        });
        const answer = Promise.race([work, late]);
        running.set(experiment, { work, answer });
        return answer;
      },
    },
    async stop() {
      clearInterval(timer);
      stop.abort("the chaos-runner was stopped while the experiment ran");
      await Promise.allSettled([sweeping, ...[...running.values()].map(({ work }) => work)]);
      await Promise.all([following.stop(), config.stop()]);
    },
  };
}

async function connect(kit: Kit<ChaosConfig>, upstream: string, nowMs: () => number): Promise<Canary> {
  const url = new URL(`/mcp/${encodeURIComponent(upstream)}`, kit.config.MCPF_ROUTER_URL);
  try {
    return await openCanary(url, nowMs);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new RefusedError("not_steady", `${upstream} is not in a steady state: no MCP session at ${url.href}: ${why.slice(0, 300)}`);
  }
}
