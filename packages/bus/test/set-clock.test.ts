import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { streams } from "@mcp-failover/contracts";
import { freePort, patientMs, startNats } from "@mcp-failover/testkit";
import { BusError, connectBus } from "../src/index.ts";
import { connected, note, until } from "./behaviour/world.ts";

// A file of its own: the clock is set for all that runs in the process.
const tenMinutesMs = 600_000;
const trueMs = Date.now;
/** So much the wall clock of this process is set off. From the start, because who is given the clock keeps the function. */
let offMs = 0;
Date.now = () => trueMs() + offMs;

test("a clock that is set back gives no publish, question or read more time than its time-out", async () => {
  const bus = connectBus({ servers: `127.0.0.1:${await freePort()}`, name: "suite", instance: "suite" });
  const gaveUp: string[] = [];
  const giveUp = (name: string, work: Promise<unknown>): Promise<unknown> =>
    assert.rejects(work, (error) => error instanceof BusError && error.code === "unreachable").then(() => gaveUp.push(name));
  const readAll = async (): Promise<void> => {
    for await (const _ of bus.read("AUDIT")) assert.fail("there is nothing to read");
  };
  const working = Promise.all([
    giveUp("append", bus.append(note("pager", 1))),
    giveUp("appendFenced", bus.appendFenced(note("pager", 2), 0, { timeoutMs: 1500 })),
    giveUp("info", bus.info("AUDIT")),
    giveUp("read", readAll()),
  ]);
  await sleep(100);
  offMs = -tenMinutesMs;
  try {
    // Their time-outs are 5 s and less; by the clock that was set it would be ten minutes.
    await Promise.race([working, sleep(patientMs(60_000), undefined, { ref: false })]);
    assert.deepEqual(gaveUp.sort(), ["append", "appendFenced", "info", "read"]);
  } finally {
    offMs = 0;
    await bus.close();
  }
});

test("a clock that is set forward takes no time from a publish: it waits for NATS as long as it was given", async () => {
  const port = await freePort();
  const bus = connectBus({ servers: `127.0.0.1:${port}`, name: "suite", instance: "suite" });
  const stored = bus.appendFenced(note("pager", 1), 0, { timeoutMs: patientMs(60_000) });
  stored.catch(() => undefined); // Looked at below.
  await sleep(100);
  offMs = tenMinutesMs;
  await sleep(2500); // Over one try.
  const server = await startNats({ port });
  try {
    await until(() => connected(bus), "it is connected");
    await bus.ensureStreams(streams, { replicas: 1 });
    assert.deepEqual(await stored, { outcome: "won", seq: 1 });
  } finally {
    offMs = 0;
    await bus.close();
    await server.stop();
  }
});
