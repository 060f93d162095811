import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fleetFor, http, server, statusOf, until } from "./fleet-of-memory.ts";

const seldom = { interval_ms: 3_600_000 };

/** Enough that some are looked at for their silence before the shorter interval has its first probe of them. */
const names = Array.from({ length: 20 }, (_, n) => `e${n}`);

test("a shorter interval holds at once: nobody waits for what the longer one had planned, and no health becomes unknown by it", async (t) => {
  const fleet = await fleetFor(t);
  const fake = await server(t);
  const urls = Object.fromEntries(names.map((name) => [name, `${fake.url}/${name}`]));
  await fleet.configure({ api: http(urls, seldom) });
  await fleet.start("p1");
  const said = async () => (await Promise.all(names.map((name) => fleet.health("api", name)))).flat().map(({ data }) => data.status);
  await until("all are healthy", async () => (await said()).length === names.length);
  await sleep(4000);
  fake.requests = [];
  await fleet.configure({ api: http(urls, { interval_ms: 1500, timeout_ms: 300 }) });
  const probesOf = (name: string) => fake.requests.filter(({ path }) => path === `/${name}`).length;
  await until("each is probed as often as is asked for", () => names.every((name) => probesOf(name) >= 2));
  assert.ok(!(await said()).includes("unknown"));
});

test("another server under the name is looked at at once, however seldom the one before was", async (t) => {
  const fleet = await fleetFor(t);
  const [fake, other] = [await server(t), await server(t, 503)];
  await fleet.configure({ api: http({ one: fake.url }, seldom) });
  await fleet.start("p1");
  await until("it is healthy", async () => (await statusOf(fleet, "api", "one")) === "healthy");
  await sleep(300);
  await fleet.configure({ api: http({ one: other.url }, seldom) });
  await until("the new one is found out", async () => (await statusOf(fleet, "api", "one")) === "unhealthy");
});
