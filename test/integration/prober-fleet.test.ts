import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ownerOf } from "@mcp-failover/domain";
import { patientMs } from "@mcp-failover/testkit";
import { until } from "../harness/wait.ts";
import { proberWorld } from "./prober-world.ts";

test("of three probers one is killed: its endpoints are probed again within 3 seconds, by the right heir, nothing is unprobed for over two intervals or probed by two for over one, and nothing was said to be down", {
  timeout: 60_000,
}, async (t) => {
  const world = await proberWorld();
  t.after(() => world.stop());
  const server = createServer((_request, response) => response.end("{}"));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  const endpoints = Array.from({ length: 12 }, (_, index) => `e${index}`);
  const interval_ms = 4000;
  await world.configure({
    api: {
      kind: "http",
      probe: { interval_ms },
      endpoints: endpoints.map((name, tier) => ({ name, url: `http://127.0.0.1:${port}/${name}`, tier })),
    },
  });
  const names = ["prober-1", "prober-2", "prober-3"];
  const probers = await Promise.all(names.map((name) => world.startProber(name)));
  await until(
    () => endpoints.every((name) => world.health.get(`api/${name}`)?.status === "healthy"),
    15_000,
    () => probers.map((prober) => prober.output()).join("\n"),
  );
  for (const prober of probers) await until(async () => (await prober.readyz()) === "ready", 8000);
  const dead = "prober-2";
  const owned = endpoints.filter((name) => ownerOf(`api/${name}`, names) === dead);
  assert.ok(owned.length > 0 && owned.length < endpoints.length);
  // All of them on schedule with their owner, none with another.
  await sleep(1000);
  const settledMs = Date.now();
  await until(
    () => endpoints.every((name) => world.observations.some((seen) => seen.endpoint === name && seen.startedAtMs > settledMs)),
    8000,
  );
  for (const seen of world.observations.filter(({ startedAtMs }) => startedAtMs > settledMs))
    assert.equal(seen.observer, ownerOf(`api/${seen.endpoint}`, names));

  const killedMs = Date.now();
  probers[names.indexOf(dead)]?.kill("SIGKILL");
  const left = names.filter((name) => name !== dead);
  await until(
    () =>
      owned.every((name) =>
        world.observations.some((seen) => seen.endpoint === name && seen.observer !== dead && seen.startedAtMs > killedMs),
      ),
    6000,
  );
  const gapsMs = owned.map((name) => {
    const heir = ownerOf(`api/${name}`, left);
    const first = world.observations.find((seen) => seen.endpoint === name && seen.observer === heir && seen.startedAtMs > killedMs);
    return (first?.storedMs ?? Number.POSITIVE_INFINITY) - killedMs;
  });
  t.diagnostic(`${owned.length} endpoints probed again after ${Math.min(...gapsMs)} to ${Math.max(...gapsMs)} ms`);
  assert.ok(Math.max(...gapsMs) < patientMs(3000), gapsMs.join());
  // One interval after the death each has one prober, which has come round by the end of the third.
  await sleep(killedMs + 3 * interval_ms - Date.now());
  for (const name of endpoints) {
    const seen = world.observations.filter(({ endpoint, startedAtMs }) => endpoint === name && startedAtMs > settledMs);
    const times = [settledMs, ...seen.map(({ startedAtMs }) => startedAtMs), Date.now()].sort((a, b) => a - b);
    const gapMs = Math.max(...times.slice(1).map((atMs, index) => atMs - (times[index] ?? 0)));
    assert.ok(gapMs <= patientMs(2 * interval_ms), `${name} was not probed for ${gapMs} ms`);
    const later = seen.filter(({ startedAtMs }) => startedAtMs > killedMs + interval_ms);
    assert.ok(later.length > 0, `${name} is probed on`);
    assert.deepEqual([...new Set(later.map(({ observer }) => observer))], [ownerOf(`api/${name}`, left)], `${name} has one prober`);
  }
  assert.equal(world.said.length, endpoints.length, "each was said to be healthy, once");
  assert.deepEqual(await Promise.all(left.map((name) => probers[names.indexOf(name)]?.stop())), [0, 0], "the others stop in good order");
});
