import { type Gate, openGate } from "./gate.ts";
import { startNats } from "./nats.ts";
import type { RunningServer } from "./server.ts";
import { freePort } from "./system.ts";

/** One of the servers of a cluster. */
export interface ClusterNode extends RunningServer {
  readonly name: string;
  /** Holds all that goes in and out, of clients and of other nodes, until `rejoin`: a cable that was pulled, not a process that ended. */
  cutOff(): void;
  rejoin(): void;
}

export interface NatsCluster {
  readonly nodes: readonly [ClusterNode, ClusterNode, ClusterNode];
  /** All nodes, as NATS_URL has them. */
  readonly url: string;
  stop(): Promise<void>;
}

/** Three nats-servers that make one cluster, on free ports of 127.0.0.1; their clients and routes go through gates that can be held. */
export async function startNatsCluster(binary: string): Promise<NatsCluster> {
  const names = ["n1", "n2", "n3"] as const;
  const away = new Set<string>();
  const here = (name: string | null): boolean => name === null || !away.has(name);
  const ports = await Promise.all(names.map(async () => ({ client: await freePort(), route: await freePort() })));
  const gates = await Promise.all(
    names.map(async (name, index) => {
      const port = ports[index] as { client: number; route: number };
      return {
        client: await openGate({ targetPort: port.client, passes: () => here(name) }),
        route: await openGate({
          targetPort: port.route,
          passes: (caller) => here(name) && here(caller),
          // A node that dials says who it is before anything else.
          callerOf: (said) => /"server_name":"([^"]+)"/.exec(said)?.[1] ?? null,
        }),
      };
    }),
  );
  const all: Gate[] = gates.flatMap(({ client, route }) => [client, route]);
  const settle = (): void => {
    for (const gate of all) gate.settle();
  };
  const started = await Promise.allSettled(
    names.map((name, index) => {
      const own = gates[index] as { client: Gate; route: Gate };
      const routes = gates.filter((gate) => gate !== own).map(({ route }) => `nats-route://127.0.0.1:${route.port}`);
      const listen = `listen: "127.0.0.1:${ports[index]?.route}", advertise: "127.0.0.1:${own.route.port}"`;
      const lines = [
        `server_name: ${name}`,
        `client_advertise: "127.0.0.1:${own.client.port}"`,
        `cluster { name: test, ${listen}, routes: ${JSON.stringify(routes)} }`,
      ];
      return startNats({ binary, port: ports[index]?.client as number, config: lines.join("\n") });
    }),
  );
  const servers = started.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
  const stop = async (): Promise<void> => {
    await Promise.all(servers.map((server) => server.stop()));
    await Promise.all(all.map((gate) => gate.close()));
  };
  const failed = started.find((one) => one.status === "rejected");
  if (failed !== undefined) {
    await stop();
    throw failed.reason;
  }
  const nodes = servers.map((server, index): ClusterNode => {
    const name = names[index] as string;
    const port = (gates[index] as { client: Gate }).client.port;
    return {
      name,
      url: `nats://127.0.0.1:${port}`,
      port,
      get pid() {
        return server.pid;
      },
      get output() {
        return server.output;
      },
      stop: () => server.stop(),
      kill: () => server.kill(),
      restart: () => server.restart(),
      cutOff() {
        away.add(name);
        settle();
      },
      rejoin() {
        away.delete(name);
        settle();
      },
    };
  }) as [ClusterNode, ClusterNode, ClusterNode];
  return { nodes, url: nodes.map(({ url }) => url).join(","), stop };
}
