import assert from "node:assert/strict";
import { test } from "node:test";
import { makeEvent, type ProberHeartbeat } from "@mcp-failover/contracts";
import { configured, runMcpf } from "./support.ts";

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
