import { setTimeout as sleep } from "node:timers/promises";
import { RefusedError, type ServiceDefinition } from "@mcp-failover/bus";
import type { ProcessInfo } from "@mcp-failover/contracts";
import { type Engine, EngineError } from "./engine.ts";
import type { OwedStarts } from "./owed-starts.ts";

/** On a container of docker-compose.yml: the `upstream/endpoint` that it serves. */
const servesLabel = "mcp-failover.serves";
const projectLabel = "com.docker.compose.project";
/** What is killed stays down as long as an upstream of the local stack does, so that a failover can be watched. */
const restartMsUsual = 20_000;
/** Who asks waits no longer than two seconds; an engine on a busy machine may, until it has seen the end of what it killed. */
const replyMsMax = 1000;
const infrastructure: ReadonlySet<string> = new Set(["nats", "redis", "front"]);

interface Inspected {
  readonly Id: string;
  readonly RestartCount: number;
  readonly State: { readonly Status: string; readonly Pid: number };
  readonly Config: { readonly Labels: Readonly<Record<string, string>> };
}
interface Container {
  readonly id: string;
  readonly info: ProcessInfo;
}

/** Answers `launcher.processes|kill|stop|start` for the containers of a Compose project, as the launcher does for its processes. */
export function containerHandlers(project: string, engine: Engine, owed: OwedStarts): ServiceDefinition["handlers"] {
  const containers = async (): Promise<Container[]> => {
    const filters = encodeURIComponent(JSON.stringify({ label: [`${projectLabel}=${project}`] }));
    const listed = (await engine("GET", `/containers/json?all=true&filters=${filters}`)) as { Id: string }[];
    return Promise.all(listed.map(async ({ Id }) => describe((await engine("GET", `/containers/${Id}/json`)) as Inspected)));
  };
  const find = async (name: string): Promise<Container> => {
    const all = await containers();
    const found = all.find(({ info }) => info.name === name);
    if (found !== undefined) return found;
    const known = all.map(({ info }) => info.name).join(", ");
    throw new RefusedError(
      "unknown_process",
      `no container ${JSON.stringify(name)} in the project ${project}; there are: ${known || "none"}`,
    );
  };
  return {
    "launcher.processes": async () => ({ processes: (await containers()).map(({ info }) => info) }),
    "launcher.kill": async ({ process, restartAfterMs = restartMsUsual }) => {
      const { id, info } = await find(process);
      if (info.pid === null) throw new RefusedError("not_running", `${process} is ${info.state}; there is nothing to kill`);
      // What is killed through the engine stays down whatever its restart policy says.
      await owed.owe({ id, name: process }, restartAfterMs);
      const killed = engine("POST", `/containers/${id}/kill?signal=KILL`).catch(async (error: unknown) => {
        // It is not there, or does not run: nobody killed it. After any other error it may be dead.
        if (error instanceof EngineError && [404, 409].includes(error.status ?? 0)) await owed.forget(id);
        throw error;
      });
      owed.after(id, killed);
      await Promise.race([killed, sleep(replyMsMax, null, { ref: false })]);
      return { killed: info };
    },
    "launcher.stop": async ({ process }) => {
      const { id } = await find(process);
      await owed.forget(id);
      await engine("POST", `/containers/${id}/stop`);
      return (await find(process)).info;
    },
    "launcher.start": async ({ process }) => {
      const { id } = await find(process);
      await owed.start(id);
      return (await find(process)).info;
    },
  };
}

function describe({ Id, RestartCount, State, Config }: Inspected): Container {
  const service = Config.Labels["com.docker.compose.service"] ?? Id.slice(0, 12);
  const number = Config.Labels["com.docker.compose.container-number"] ?? "1";
  const endpoint = Config.Labels[servesLabel] ?? null;
  const running = State.Status === "running";
  const info: ProcessInfo = {
    name: number === "1" ? service : `${service}-${number}`,
    kind: infrastructure.has(service) ? "infrastructure" : endpoint === null ? "service" : "upstream",
    pid: running ? State.Pid : null,
    state: running ? "running" : State.Status === "restarting" ? "backing_off" : "stopped",
    restarts: RestartCount,
    endpoint,
    faultProxy: null,
  };
  return { id: Id, info };
}
