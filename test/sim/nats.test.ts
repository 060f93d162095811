import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Bus } from "@mcp-failover/bus";
import { headerNames } from "@mcp-failover/bus/internal";
import { parseEvent, type StreamName, streams } from "@mcp-failover/contracts";
import { fence } from "../../packages/bus/test/behaviour/fence.ts";
import { following } from "../../packages/bus/test/behaviour/following.ts";
import type { MakeWorld } from "../../packages/bus/test/behaviour/world.ts";
import { Host, SimProcess } from "./clock.ts";
import { EventQueue } from "./event-queue.ts";
import { simBus } from "./nats/bus.ts";
import { SimLink } from "./nats/link.ts";
import { Line } from "./nats/network.ts";
import { SimServer } from "./nats/server.ts";
import { SimStream } from "./nats/store.ts";
import { Random } from "./random.ts";

/** The simulated NATS at the pace of the real clock, so that the suite of the other two adapters can be held to it. */
const makeWorld: MakeWorld = async (options = {}) => {
  const queue = new EventQueue((_process, error) => {
    throw error;
  });
  const startedMs = Date.now();
  const pump = setInterval(() => queue.run(Date.now() - startedMs), 1);
  const server = new SimServer({
    queue,
    host: new Host(queue, "nats", startedMs),
    random: new Random(1),
    streams: options.streams ?? streams,
    onStored: () => undefined,
    validates: true,
  });
  const links = new Map<Bus, SimLink>();
  const linkOf = (bus: Bus): SimLink => {
    const link = links.get(bus);
    if (link === undefined) throw new RangeError("a bus of another world");
    return link;
  };
  const foreign = new SimProcess("foreign", new Host(queue, "foreign", startedMs), 2);
  const untilConnected = async (link: SimLink): Promise<void> => {
    while (!link.connected) await sleep(1);
  };
  return {
    async connect(name = "one") {
      const link = new SimLink(server, new SimProcess(name, new Host(queue, name, startedMs), links.size + 3), new Line(links.size + 3));
      const bus = simBus(link, () => undefined);
      links.set(bus, link);
      await untilConnected(link);
      return bus;
    },
    async cut(bus) {
      const link = linkOf(bus);
      link.line.outCuts += 1;
      link.line.inCuts += 1;
      link.breakNow("cut by a test");
    },
    async restore(bus) {
      const { line } = linkOf(bus);
      line.outCuts -= 1;
      line.inCuts -= 1;
    },
    async restartServer(downMs) {
      server.goDown();
      await sleep(downMs);
      server.comeUp({ forgetsIds: false });
      await Promise.all([...links.values()].map(untilConnected));
    },
    loseNextPublish(bus, loss) {
      linkOf(bus).line.loseNext.push(loss);
    },
    async publishRaw(subject, bytes) {
      const encoded = new TextEncoder().encode(bytes);
      const stream = [...server.streams.values()].find(({ definition }) =>
        definition.subjects.some((one) => subject.startsWith(one.slice(0, -1))),
      );
      if (stream === undefined) return;
      const parsed = parseEvent(subject, encoded);
      const content = parsed.ok
        ? ({ kind: "event", event: parsed.event } as const)
        : ({ kind: "malformed", reason: parsed.reason } as const);
      server.store(stream, { stream: stream.definition.name as StreamName, subject, bytes: encoded, headers: {}, content }, foreign);
    },
    async close() {
      await Promise.all([...links.keys()].map((bus) => bus.close()));
      clearInterval(pump);
    },
  };
};

describe("the simulated NATS keeps the bus's fence", { concurrency: 8 }, () => fence(makeWorld));
describe("the simulated NATS is followed as the bus says", { concurrency: 8 }, () => following(makeWorld));

test("the simulated NATS knows an id for the whole of the duplicate window, whatever it stores meanwhile, and no longer", () => {
  const definition = streams.find(({ name }) => name === "SIGNALS");
  assert.ok(definition !== undefined);
  const stream = new SimStream(definition, false);
  const isRepeated = (id: string, windows: number): boolean => {
    const timeMs = Math.round(1_000_000_000 + windows * definition.duplicateWindowMs);
    const content = { kind: "malformed", reason: "a test" } as const;
    const message = { stream: definition.name, subject: "any", bytes: new Uint8Array(), headers: { [headerNames.messageId]: id }, content };
    const outcome = stream.store(message, { process: "test", atMs: 0, timeMs });
    return outcome.kind === "stored" && outcome.duplicate;
  };
  const told = [
    ["a", 0],
    ["b", 0.9],
    ["a", 1],
    ["c", 1.1],
    ["b", 1.8],
    ["b", 2],
    ["c", 2.05],
    ["d", 2.5],
    ["b", 2.9],
    ["c", 2.9],
    ["b", 3.5],
  ] as const;
  const repeated = told.map(([id, windows]) => isRepeated(id, windows));
  assert.deepEqual(repeated, [false, false, true, false, true, false, true, false, true, false, false]);
});
