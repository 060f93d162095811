import assert from "node:assert/strict";
import { test } from "node:test";
import { memorySeams } from "@mcp-failover/bus/internal";
import { fractionOf } from "@mcp-failover/domain";
import { patientMs } from "@mcp-failover/testkit";
import { fleetFor, http, server, until } from "./fleet-of-memory.ts";
import { answers } from "./servers.ts";

/** Of a prober's limits, in this test. */
const limits = { inFlightMax: 24, inFlightReserved: 4, inFlightCritical: 4, inFlightPerHostMax: 1000 };
const regularMax = limits.inFlightMax - limits.inFlightReserved;
const endpoints = 600;
/** Clocks and timers agree to within this. */
const earlyMs = 20;

test("what a dead prober had is first probed over a second, each at its own place in it, and never more at once than the limit", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  const asked = { p1: new Map<string, number[]>(), p2: new Map<string, number[]>() };
  let open = 0;
  let openMost = 0;
  let answerMs = 5;
  // The probers are told apart by a header that carries each one's own secret.
  fake.handler = (request, response, body) => {
    const who = request.headers["x-who"] === "p1" ? "p1" : "p2";
    const path = String(request.url).slice(1);
    asked[who].set(path, [...(asked[who].get(path) ?? []), Date.now()]);
    if (who === "p2") {
      open += 1;
      openMost = Math.max(openMost, open);
      response.once("close", () => {
        open -= 1;
      });
    }
    setTimeout(() => answers.status(200)(request, response, body), answerMs);
  };
  const names = Array.from({ length: endpoints }, (_, index) => `e${index}`);
  const urls = Object.fromEntries(names.map((name) => [name, `${fake.url}/${name}`]));
  // No regular probe comes in between.
  const probe = { interval_ms: 3_600_000, timeout_ms: 10_000 };
  await fleet.configure({ api: http(urls, probe, { tier: 0, headers: { "x-who": { secret: "WHO" } } }) });
  const start = (name: string) => fleet.start(name, { secrets: { WHO: name }, policy: limits });
  const [first, second] = await Promise.all([start("p1"), start("p2")]);
  const ownedBySecond = () => second.metric("mcpf_prober_owned_endpoints");
  // Two good answers each make them healthy, and then they are left alone.
  await until(
    "every endpoint is probed and shared",
    async () => {
      const [ownedByFirst, owned] = [await first.metric("mcpf_prober_owned_endpoints"), await ownedBySecond()];
      const probed = names.every((name) => (asked.p1.get(name)?.length ?? 0) + (asked.p2.get(name)?.length ?? 0) >= 2);
      return probed && ownedByFirst > 0 && owned > 0 && ownedByFirst + owned === endpoints;
    },
    patientMs(20_000),
  );
  const before = await ownedBySecond();
  const known = new Set(asked.p2.keys());
  openMost = open;
  // Slow enough that without the limit three times as many would be under way.
  answerMs = 200;
  const diedMs = Date.now();
  memorySeams(first.bus).cut();
  await until("all is the other's", async () => (await ownedBySecond()) === endpoints, patientMs(5000));
  const taken = names.filter((name) => !known.has(name));
  await until("all of it is probed", () => taken.every((name) => asked.p2.has(name)), patientMs(30_000));

  assert.ok(endpoints - before >= 250 && taken.length >= 250, `${taken.length} were taken over`);
  const tooEarly = taken.filter((name) => {
    const [firstMs = 0] = asked.p2.get(name) ?? [];
    return firstMs < diedMs + fractionOf(`api/${name}`) * 1000 - earlyMs;
  });
  assert.deepEqual(tooEarly, [], "these were probed before their place in the second");
  assert.ok(openMost > 0 && openMost <= regularMax, `${openMost} were probed at once`);
});
