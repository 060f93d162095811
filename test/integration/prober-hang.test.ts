import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ownerOf } from "@mcp-failover/domain";
import { patientMs } from "@mcp-failover/testkit";
import { until } from "../harness/wait.ts";
import { proberWorld } from "./prober-world.ts";

test("of three probers one hangs and wakes up again: replaced within 3 seconds, nothing unprobed for over two intervals or probed by two for over one", {
  timeout: 60_000,
}, async (t) => {
  const world = await proberWorld();
  t.after(() => world.stop());
  const server = createServer((_request, response) => response.end("{}"));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  const endpoints = Array.from({ length: 12 }, (_, index) => `e${index}`);
  const interval_ms = 3000;
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
  const hung = "prober-2";
  const owned = endpoints.filter((name) => ownerOf(`api/${name}`, names) === hung);
  assert.ok(owned.length > 0 && owned.length < endpoints.length);
  await sleep(1000);
  const fromMs = Date.now();
  const seen = (endpoint: string) => world.observations.filter((one) => one.endpoint === endpoint && one.startedAtMs > fromMs);

  const process = probers[names.indexOf(hung)];
  process?.kill("SIGSTOP");
  const stoppedMs = Date.now();
  const heirs = names.filter((name) => name !== hung);
  await until(
    () => owned.every((name) => seen(name).some(({ observer, startedAtMs }) => observer !== hung && startedAtMs > stoppedMs)),
    6000,
  );
  const replacedMs = owned.map((name) => {
    const first = seen(name).find(({ observer, startedAtMs }) => observer !== hung && startedAtMs > stoppedMs);
    assert.equal(first?.observer, ownerOf(`api/${name}`, heirs), "by the right heir");
    return (first?.startedAtMs ?? Number.POSITIVE_INFINITY) - stoppedMs;
  });
  t.diagnostic(`probed again after ${Math.min(...replacedMs)} to ${Math.max(...replacedMs)} ms`);
  assert.ok(Math.max(...replacedMs) < patientMs(3000), replacedMs.join());

  await sleep(1000);
  process?.kill("SIGCONT");
  const wokenMs = Date.now();
  await sleep(2 * interval_ms + 1000);
  for (const name of endpoints) {
    const times = [fromMs, ...seen(name).map(({ startedAtMs }) => startedAtMs), Date.now()].sort((a, b) => a - b);
    const gapMs = Math.max(...times.slice(1).map((atMs, index) => atMs - (times[index] ?? 0)));
    assert.ok(gapMs <= patientMs(2 * interval_ms), `${name} was not probed for ${gapMs} ms`);
    const later = seen(name).filter(({ startedAtMs }) => startedAtMs > wokenMs + interval_ms);
    assert.ok(later.length > 0);
    assert.deepEqual([...new Set(later.map(({ observer }) => observer))], [ownerOf(`api/${name}`, names)], `${name} has one prober again`);
  }
  assert.deepEqual([...new Set(world.said.map(({ status }) => status))], ["healthy"], "a hung prober is no reason to call anything down");
  assert.equal(world.said.length, endpoints.length, "each was said to be healthy, once");
});
