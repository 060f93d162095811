import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { type TestContext, test } from "node:test";
import { type Bus, type MemoryBroker, memoryBroker } from "@mcp-failover/bus";
import { publishRawToMemory } from "@mcp-failover/bus/internal";
import { makeEvent, type ProbeRequested, type ProberHeartbeat, residentServices, type StreamName } from "@mcp-failover/contracts";
import { configured, observed, runMcpf } from "./support.ts";

type Finding = { check: string; ok: boolean; detail: string; fix: string | null };

/** `mcpf doctor` in a fleet of which all services run, with streams as full as the test says (of 1). */
async function examined(t: TestContext, broker: MemoryBroker, full: Partial<Record<StreamName, number>> = {}) {
  const bus = broker.connect({ instance: "all" });
  for (const name of residentServices) await bus.serve({ name, instance: name, version: "0.1.0", description: "runs", handlers: {} });
  t.after(() => bus.close());
  const info = async (stream: StreamName) => {
    const found = await bus.info(stream);
    const fill = full[stream];
    return fill === undefined ? found : { ...found, bytes: Math.round(found.maxBytes * fill) };
  };
  const filled: Bus = Object.assign(Object.create(bus) as Bus, { info });
  const ran = await runMcpf(filled, ["doctor", "-o", "json"]);
  const findings: Finding[] = JSON.parse(ran.stdout).findings;
  return { code: ran.code, wrong: findings.filter(({ ok }) => !ok), of: (check: string) => findings.find((one) => one.check === check) };
}

test("mcpf doctor is content with a stream that drops its oldest when it is full, and says how far back it reaches", async (t) => {
  const { broker, bus } = await configured();
  const asked = { requestId: null, purpose: "scheduled", targets: [{ upstream: "api", endpoint: "one" }] };
  const observations = observed("p1", asked as unknown as ProbeRequested, {});
  const data = { observer: "p1", observations };
  await bus.append(
    makeEvent({ type: "probe.observed", keys: ["p1"], data, id: "o", service: "prober", instance: "p1", timeMs: Date.now() }),
  );
  const { code, wrong, of } = await examined(t, broker, { SIGNALS: 1, QUARANTINE: 1 });
  assert.deepEqual([code, wrong], [0, []]);
  assert.match(of("stream SIGNALS")?.detail ?? "", /100\.0 % full, reaches back \d+ min, drops its oldest/);
  await bus.close();
});

test("mcpf doctor warns of a stream that takes nothing more when it is full, before it is", async (t) => {
  const { broker, bus } = await configured();
  const { code, wrong } = await examined(t, broker, { AUDIT: 0.71, OUTBOX: 0.69 });
  assert.deepEqual([code, wrong.map(({ check }) => check)], [3, ["stream AUDIT"]]);
  assert.match(wrong[0]?.fix ?? "", /make room/);
  await bus.close();
});

test("mcpf doctor warns of what did not parse in the last hour, names the newest, and only mentions what is older", async (t) => {
  for (const [agoMs, expected] of [
    [30 * 60_000, 3],
    [5 * 3_600_000, 0],
  ] as const) {
    const broker = memoryBroker({ nowMs: () => Date.now() - agoMs });
    const { bus } = await configured(undefined, broker);
    publishRawToMemory(broker, "quarantine.AUDIT.7", JSON.stringify({ subject: "health.changed.a.b", reason: "no such field" }));
    const { code, of } = await examined(t, broker);
    assert.equal(code, expected);
    assert.equal(of("quarantine")?.ok, expected === 0);
    assert.match(
      of("quarantine")?.detail ?? "",
      /^1 messages that do not parse or that nobody could handle, the newest (\d+ min|5 h) ago \(AUDIT\.7\): no such field$/,
    );
    await bus.close();
  }
});

test("mcpf doctor shows probers that cannot be trusted just now, and what to do", async (t) => {
  const { broker, bus } = await configured();
  const probers = broker.connect({ instance: "probers" });
  const beat = (prober: string, more: Partial<ProberHeartbeat>): void =>
    probers.publish(
      makeEvent({
        type: "prober.heartbeat",
        keys: [],
        data: { prober, zone: null, startedAtMs: 1, sentAtMs: Date.now(), endpointsOwned: 1, ready: true, ...more },
        id: `${prober}-${Date.now()}`,
        service: "prober",
        instance: prober,
        timeMs: Date.now(),
      }),
    );
  const beating = setInterval(() => {
    beat("p1", {});
    beat("p2", { isolated: true });
    beat("p3", { overloaded: true });
  }, 100);
  t.after(async () => {
    clearInterval(beating);
    await probers.close();
    await bus.close();
  });
  const ran = await runMcpf(bus, ["doctor", "-o", "json"]);
  const findings: { check: string; ok: boolean; detail: string; fix: string | null }[] = JSON.parse(ran.stdout).findings;
  const of = (prober: string) => findings.find(({ check }) => check === `prober ${prober}`);
  assert.deepEqual(
    ["p1", "p2", "p3"].map((prober) => of(prober)?.ok),
    [true, false, false],
  );
  assert.match(`${of("p2")?.detail} ${of("p2")?.fix}`, /isolated.*network/);
  assert.match(`${of("p3")?.detail} ${of("p3")?.fix}`, /overloaded.*processor time/);
  assert.equal(ran.code, 3);
});

/** `mcpf doctor` where one service says this of its readiness, and that its health is served at an address. */
async function readinessOf(t: TestContext, readiness: string | null, health: string): Promise<Finding | undefined> {
  const { broker, bus } = await configured();
  const served = broker.connect({ instance: "breaker-state-c0ffee" });
  t.after(() => Promise.all([served.close(), bus.close()]));
  const instance = "breaker-state-c0ffee";
  const said = readiness === null ? {} : { readiness: () => readiness };
  await served.serve({ name: "breaker-state", instance, version: "0.1.0", description: "", metadata: { health }, handlers: {}, ...said });
  const { wrong } = await examined(t, broker);
  return wrong.find(({ check }) => check === `readiness of ${instance}`);
}

test("mcpf doctor asks a service over the bus how it is: an address of another network says nothing of it, whoever answers there", async (t) => {
  const catchAll = createServer((_request, response) => response.writeHead(200).end("Prometheus Server is Ready."));
  await new Promise<void>((resolve) => catchAll.listen(0, "127.0.0.1", resolve));
  t.after(() => catchAll.close());
  const { port } = catchAll.address() as AddressInfo;
  const condition = (ok: boolean) =>
    JSON.stringify({ status: "", conditions: { log: { ok, required: true, reason: ok ? "" : "not read" } } });
  for (const health of [`http://0.0.0.0:${port}`, `http://127.0.0.1:${port}`, "http://0.0.0.0:1"]) {
    assert.equal(await readinessOf(t, condition(true), health), undefined, health);
    assert.match((await readinessOf(t, condition(false), health))?.detail ?? "", /^log: not read$/, health);
  }
  // One of an earlier version, or where the accounts are of one.
  const unknown = await readinessOf(t, null, `http://0.0.0.0:${port}`);
  assert.match(unknown?.detail ?? "", /cannot be asked from here/);
  assert.match((await readinessOf(t, null, `http://127.0.0.1:${port}`))?.detail ?? "", /is answered by something else/);
  assert.match((await readinessOf(t, "well, thanks", `http://0.0.0.0:${port}`))?.detail ?? "", /cannot be asked from here/);
});
