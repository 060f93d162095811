import { RefusedError, type ServiceDefinition } from "@mcp-failover/bus";
import type { Supervised } from "./supervised.ts";

/** The reply leaves before nats-server is killed that carries it. */
const replyFirstMs = 50;

/** Answers `launcher.processes|kill|stop|start` for the stack's processes. */
export function launcherHandlers(supervised: ReadonlyMap<string, Supervised>, stopMsMax: number): ServiceDefinition["handlers"] {
  const find = (name: string): Supervised => {
    const found = supervised.get(name);
    if (found === undefined)
      throw new RefusedError("unknown_process", `no process ${JSON.stringify(name)}; there are: ${[...supervised.keys()].join(", ")}`);
    return found;
  };
  return {
    "launcher.processes": async () => ({ processes: [...supervised.values()].map((one) => one.info()) }),
    "launcher.kill": async ({ process, restartAfterMs }) => {
      const target = find(process);
      const before = target.info();
      if (before.pid === null) throw new RefusedError("not_running", `${process} is ${before.state}; there is nothing to kill`);
      const options = restartAfterMs === undefined ? {} : { restartAfterMs };
      if (process === "nats") setTimeout(() => target.kill(options), replyFirstMs);
      else target.kill(options);
      return { killed: before };
    },
    "launcher.stop": async ({ process }) => {
      const target = find(process);
      if (process === "nats")
        throw new RefusedError("would_cut_itself_off", "nothing could start nats again by request; use launcher.kill with restartAfterMs");
      await target.stop(stopMsMax);
      return target.info();
    },
    "launcher.start": async ({ process }) => {
      const target = find(process);
      target.start();
      return target.info();
    },
  };
}
