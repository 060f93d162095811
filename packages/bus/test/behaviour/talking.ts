import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { RequestInput } from "@mcp-failover/contracts";
import { type Bus, BusError, NoResponderError, RefusedError, type ServiceDefinition } from "../../src/index.ts";
import { droppedBy } from "../../src/internal.ts";
import { connected, heartbeat, holdBody, inWorld, type MakeWorld, note, probeRequest, until } from "./world.ts";

function controller(instance: string, handlers: ServiceDefinition["handlers"]): ServiceDefinition {
  return { name: "failover-controller", instance, version: "0.1.0", description: "decides", handlers };
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const each of items) found.push(each);
  return found;
}

export function talking(makeWorld: MakeWorld): void {
  test(
    "a core event reaches every subscriber, and a broadcast with a reply inbox yields every answer",
    inWorld(makeWorld, async (world) => {
      const [asker, ...probers] = (await Promise.all(["asker", "p1", "p2", "p3"].map((name) => world.connect(name)))) as [Bus, ...Bus[]];
      const heard: string[] = [];
      for (const [index, bus] of probers.entries()) {
        bus.subscribe("probe.requested", ({ data }, respond) => {
          heard.push(data.requestedBy);
          respond(heartbeat(`p${index + 1}`));
        });
      }
      await sleep(50);
      asker.publish(probeRequest("nobody waits"));
      await until(() => heard.length === 3, "all three have heard it");
      const answers = await collect(asker.requestMany(probeRequest("asker"), { timeoutMs: 300 }));
      assert.deepEqual(
        answers.map(({ source }) => source).sort(),
        ["p1", "p2", "p3"].map((name) => `mcp-failover/prober/${name}`),
      );
      const startMs = Date.now();
      assert.equal((await collect(asker.requestMany(probeRequest("asker"), { timeoutMs: 5000, max: 2 }))).length, 2);
      assert.ok(Date.now() - startMs < 1000);
    }),
  );

  test(
    "a broadcast that nobody hears ends at once, and a stopped subscription hears no more",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      let heard = 0;
      const subscription = bus.subscribe("prober.heartbeat", () => {
        heard += 1;
      });
      bus.publish(heartbeat("p1"));
      await until(() => heard === 1, "it is heard");
      subscription.stop();
      const startMs = Date.now();
      assert.deepEqual(await collect(bus.requestMany(heartbeat("p1"), { timeoutMs: 5000 })), []);
      assert.ok(Date.now() - startMs < 1000);
      assert.equal(heard, 1);
    }),
  );

  test(
    "a subscriber that throws does not stop the next event",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      let heard = 0;
      bus.subscribe("prober.heartbeat", () => {
        heard += 1;
        throw new Error("on purpose");
      });
      bus.publish(heartbeat("p1"));
      bus.publish(heartbeat("p1"));
      await until(() => heard === 2, "both are heard");
    }),
  );

  test(
    "a request is answered, its body is validated before the handler, and errors tell no more than they should",
    inWorld(makeWorld, async (world) => {
      const [asker, server] = [await world.connect("asker"), await world.connect("server")];
      const handled: unknown[] = [];
      await server.serve(
        controller("fc-1", {
          "command.hold": async (body) => {
            handled.push(body.upstream);
            if (body.upstream === "unknown") throw new RefusedError("unknown_upstream", "there is no upstream unknown");
            if (body.upstream === "broken") throw new Error("password=hunter2");
            return { held: body.upstream };
          },
        }),
      );
      assert.deepEqual(await asker.request("command.hold", holdBody), { ok: true, result: { held: "pinecone" } });
      assert.deepEqual(await asker.request("command.hold", { ...holdBody, upstream: "unknown" }), {
        ok: false,
        error: { code: "unknown_upstream", message: "there is no upstream unknown", retriable: false },
      });
      const broken = await asker.request("command.hold", { ...holdBody, upstream: "broken" });
      assert.ok(!broken.ok && broken.error.code === "internal");
      assert.ok(!JSON.stringify(broken).includes("hunter2"));
      const invalid = await asker.request("command.hold", { ...holdBody, reason: "  " } as RequestInput<"command.hold">);
      assert.ok(!invalid.ok && invalid.error.code === "bad_request");
      assert.match(invalid.error.message, /reason/);
      assert.deepEqual(handled, ["pinecone", "unknown", "broken"]);
    }),
  );

  test(
    "a request that no instance answers fails at once, and one that is answered too late fails in time",
    inWorld(makeWorld, async (world) => {
      const [asker, server] = [await world.connect("asker"), await world.connect("server")];
      const startMs = Date.now();
      await assert.rejects(
        asker.request("command.hold", holdBody),
        (error) => error instanceof NoResponderError && /failover-controller/.test(error.message),
      );
      assert.ok(Date.now() - startMs < 1000);
      const served = await server.serve(controller("fc-1", { "command.hold": async () => sleep(3000, undefined, { ref: false }) }));
      const askedMs = Date.now();
      await assert.rejects(
        asker.request("command.hold", holdBody, { timeoutMs: 300 }),
        (error) => error instanceof BusError && error.code === "timeout",
      );
      assert.ok(Date.now() - askedMs < 1500);
      await served.stop();
      await assert.rejects(asker.request("command.hold", holdBody), NoResponderError);
    }),
  );

  test(
    "every live instance is listed with its name, also one that answers nothing, and one of them answers each request",
    inWorld(makeWorld, async (world) => {
      const [asker, one, two, mute] = (await Promise.all(["asker", "one", "two", "mute"].map((name) => world.connect(name)))) as [
        Bus,
        Bus,
        Bus,
        Bus,
      ];
      let answered = 0;
      for (const [bus, instance] of [
        [one, "fc-1"],
        [two, "fc-2"],
      ] as const) {
        await bus.serve(
          controller(instance, {
            "command.hold": async () => {
              answered += 1;
            },
          }),
        );
      }
      await mute.serve({ name: "prober", instance: "p-1", version: "0.1.0", description: "probes", metadata: { zone: "a" }, handlers: {} });
      const listed = (await asker.services()).map(({ name, metadata }) =>
        `${name} ${metadata["instance"]} ${metadata["zone"] ?? ""}`.trim(),
      );
      assert.deepEqual(listed.sort(), ["failover-controller fc-1", "failover-controller fc-2", "prober p-1 a"]);
      for (let n = 0; n < 10; n += 1) assert.deepEqual(await asker.request("command.hold", holdBody), { ok: true, result: null });
      assert.equal(answered, 10);
    }),
  );

  test(
    "what a service says of itself at the moment is told to who examines it, as it is at each question, and to nobody else",
    inWorld(makeWorld, async (world) => {
      const [asker, server] = [await world.connect("asker"), await world.connect("server")];
      let said = "starting";
      await server.serve({ ...controller("fc-1", {}), metadata: { zone: "a" }, readiness: () => said });
      await server.serve({ name: "prober", instance: "p-1", version: "0.1.0", description: "says nothing of it", handlers: {} });
      const listed = async (examine: boolean) =>
        (await asker.services({ examine })).map(({ metadata }) => `${metadata["instance"]} ${metadata["readiness"] ?? "-"}`).sort();
      assert.deepEqual(await listed(true), ["fc-1 starting", "p-1 -"]);
      said = "ready";
      assert.deepEqual(await listed(true), ["fc-1 ready", "p-1 -"]);
      assert.deepEqual(await listed(false), ["fc-1 -", "p-1 -"]);
    }),
  );

  test(
    "B7: subscriptions and services are there again after a restart of the server",
    inWorld(makeWorld, async (world) => {
      const [asker, server] = [await world.connect("asker"), await world.connect("server")];
      let heard = 0;
      server.subscribe("prober.heartbeat", () => {
        heard += 1;
      });
      await server.serve(controller("fc-1", { "command.hold": async () => "held" }));
      await world.restartServer(300);
      await until(() => connected(asker) && connected(server), "both are connected again");
      await until(async () => (await asker.services()).length === 1, "the service is listed again");
      assert.deepEqual(await asker.request("command.hold", holdBody), { ok: true, result: "held" });
      asker.publish(heartbeat("p1"));
      await until(() => heard === 1, "the subscription hears again");
    }),
  );

  test(
    "B7: without a connection every operation ends in time with `unreachable`, core events are dropped and counted, and status says so",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      await world.cut(bus);
      await until(() => bus.status.kind === "disconnected", "the loss is noticed");
      assert.ok(bus.status.kind === "disconnected" && bus.status.reason.length > 0 && Date.now() - bus.status.sinceMs < 5000);
      for (let n = 0; n < 100; n += 1) bus.publish(heartbeat("p1"));
      assert.equal(droppedBy(bus), 100);
      const unreachable = (error: unknown) => error instanceof BusError && error.code === "unreachable" && error.retriable;
      const startMs = Date.now();
      const bucket = await bus.bucket("things");
      await Promise.all([
        assert.rejects(bus.append(note("pager", 1)), unreachable),
        assert.rejects(bus.appendFenced(note("pager", 1), 0, { timeoutMs: 500 }), unreachable),
        assert.rejects(bus.lastOf("AUDIT", "notify.sent.pager"), unreachable),
        assert.rejects(bus.at("AUDIT", 1), unreachable),
        assert.rejects(bus.info("AUDIT"), unreachable),
        assert.rejects(collect(bus.read("AUDIT")), unreachable),
        assert.rejects(bus.request("command.hold", holdBody, { timeoutMs: 500 }), unreachable),
        assert.rejects(bus.services({ timeoutMs: 500 }), unreachable),
        assert.rejects(collect(bus.requestMany(heartbeat("p1"), { timeoutMs: 500 })), unreachable),
        assert.rejects(bucket.get("a"), unreachable),
      ]);
      assert.ok(Date.now() - startMs < 7000);
    }),
  );

  test(
    "a bus without a connection closes in time, whatever it serves, follows and takes from",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      await bus.serve(controller("fc-1", { "command.hold": async () => null }));
      bus.subscribe("prober.heartbeat", () => undefined);
      bus.follow("AUDIT", { from: "last_per_subject" }, () => undefined);
      bus.consumeQueue("q", { filter: "outbox.>", ackWaitMs: 1000, concurrency: 1 }, async () => ({ kind: "done" }));
      await sleep(100);
      await world.cut(bus);
      await until(() => !connected(bus), "the loss is noticed");
      const startMs = Date.now();
      await bus.close();
      assert.ok(Date.now() - startMs < 3000, `${Date.now() - startMs} ms`);
    }),
  );

  test(
    "a request that is worked on when its service stops is answered before the service is gone",
    inWorld(makeWorld, async (world) => {
      const [asker, server] = [await world.connect("asker"), await world.connect("server")];
      let begun = 0;
      const hold = async (): Promise<string> => {
        begun += 1;
        await sleep(600);
        return "held";
      };
      const served = await server.serve(controller("fc-1", { "command.hold": hold }));
      const answers = [asker.request("command.hold", holdBody), asker.request("command.hold", holdBody)];
      await until(() => begun === 2, "both are worked on");
      await served.stop();
      await server.close();
      for (const answer of answers) assert.deepEqual(await answer, { ok: true, result: "held" });
    }),
  );

  test(
    "who loses the connection before an answer came is told that it may have been done",
    inWorld(makeWorld, async (world) => {
      const [asker, server] = [await world.connect("asker"), await world.connect("server")];
      let begun = 0;
      const hold = async (): Promise<void> => {
        begun += 1;
        await sleep(300);
      };
      await server.serve(controller("fc-1", { "command.hold": hold }));
      const answer = asker.request("command.hold", holdBody);
      const told = assert.rejects(
        answer,
        (error) => error instanceof BusError && error.code === "timeout" && /may have been done/.test(error.message),
      );
      await until(() => begun === 1, "it is worked on");
      await world.cut(asker);
      await told;
    }),
  );

  test(
    "an instance that is swamped refuses what it cannot hold, and answers again when it has worked it off",
    inWorld(makeWorld, async (world) => {
      const [asker, server] = [await world.connect("asker"), await world.connect("server")];
      let release: () => void = () => undefined;
      const held = new Promise<void>((resolve) => {
        release = resolve;
      });
      await server.serve(controller("fc-1", { "command.hold": () => held }));
      const answers = Array.from({ length: 300 }, () => asker.request("command.hold", holdBody));
      let refused = 0;
      for (const answer of answers) {
        void answer.then((reply) => {
          if (!reply.ok && reply.error.code === "busy" && reply.error.retriable) refused += 1;
        });
      }
      await until(() => refused === 300 - 256, "the surplus is refused");
      release();
      assert.equal((await Promise.all(answers)).filter(({ ok }) => ok).length, 256);
      assert.deepEqual(await asker.request("command.hold", holdBody), { ok: true, result: null });
    }),
  );

  test(
    "a closed bus says so at once, and closing twice does no harm",
    inWorld(makeWorld, async (world) => {
      const bus = await world.connect();
      bus.follow("AUDIT", { from: "new" }, () => undefined);
      bus.consumeQueue("q", { filter: "outbox.>", ackWaitMs: 1000, concurrency: 1 }, async () => ({ kind: "done" }));
      await bus.close();
      await bus.close();
      assert.equal(bus.status.kind, "closed");
      const startMs = Date.now();
      await assert.rejects(bus.info("AUDIT"), (error) => error instanceof BusError && error.code === "unreachable" && !error.retriable);
      assert.ok(Date.now() - startMs < 500);
    }),
  );
}
