import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { streams } from "@mcp-failover/contracts";
import { startNats } from "@mcp-failover/testkit";
import { type Bus, connectBus } from "../src/index.ts";
import { jetStreamApi, publishRaw, putObject } from "../src/internal.ts";
import { connected, until, type WorldOptions, type WorldWithObjects } from "./behaviour/world.ts";
import { type TcpProxy, tcpProxy } from "./tcp-proxy.ts";

/** A real nats-server, and a proxy before each connection to it. */
export async function natsWorld(options: WorldOptions = {}): Promise<WorldWithObjects> {
  const server = await startNats();
  const proxies = new Map<Bus, TcpProxy>();
  const proxyOf = (bus: Bus): TcpProxy => {
    const proxy = proxies.get(bus);
    assert.ok(proxy);
    return proxy;
  };
  const direct = connectBus({ servers: server.url, name: "suite", instance: "suite" });
  await direct.ensureStreams(options.streams ?? streams, { replicas: 1 });
  return {
    async connect(name = "one") {
      const proxy = await tcpProxy(server.port);
      const bus = connectBus({ servers: proxy.url, name, instance: name });
      proxies.set(bus, proxy);
      await until(() => connected(bus), "it is connected");
      return bus;
    },
    cut: async (bus) => proxyOf(bus).cut(),
    restore: async (bus) => proxyOf(bus).restore(),
    async restartServer(downMs) {
      await server.kill();
      await sleep(downMs);
      await server.restart();
    },
    loseNextPublish: (bus, loss) => proxyOf(bus).loseNextPublish(loss),
    publishRaw: (subject, bytes) => publishRaw(direct, subject, bytes),
    async loseObjects() {
      await jetStreamApi(direct, `STREAM.DELETE.OBJ_configurations`).catch(() => undefined); // Not there: the same.
    },
    putObject: (name, text) => putObject(direct, name, text),
    async close() {
      await Promise.all([direct, ...proxies.keys()].map((bus) => bus.close()));
      await Promise.all([...proxies.values()].map((proxy) => proxy.close()));
      await server.stop();
    },
  };
}
