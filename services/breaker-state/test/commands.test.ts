import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { Bus, RefusedError } from "@mcp-failover/bus";
import { type BreakerCommand, canonicalJson, makeEvent } from "@mcp-failover/contracts";
import { type BreakerInput, decideBreaker, nothingVerified, verifyNext } from "@mcp-failover/domain";
import { applyConfiguration, changesOf, memory, sleep, startInstance, traffic, until } from "./breaker-state.ts";

let log: Awaited<ReturnType<typeof memory.open>>;
let bus: Bus;
let instances: Awaited<ReturnType<typeof startInstance>>[];
before(async () => {
  log = await memory.open();
  bus = await log.connect();
  await applyConfiguration(bus);
  instances = await Promise.all(["one", "two"].map(async (name) => startInstance(await log.connect(), `breaker-state-${name}`)));
});
after(async () => {
  await Promise.all(instances.map((instance) => instance.stop()));
  await log.close();
});

let ids = 0;
const command = (action: BreakerCommand["action"], more: Partial<BreakerCommand> = {}): BreakerCommand => {
  ids += 1;
  const by = { kind: "operator" as const, id: "ada" };
  return { commandId: `c-${ids}`, by, reason: "the index is being rebuilt", upstream: "docs", endpoint: "primary", action, ...more };
};
const ask = async (body: BreakerCommand) => {
  const reply = await bus.request("command.breaker", body);
  assert.ok(reply.ok, JSON.stringify(reply));
  return reply.result as { endpoints: { endpoint: string; status: string; generation: number; eventId: string }[] };
};

test("a command is recorded with who and why before it acts, is one change, and stays against any evidence until it is reset", async () => {
  const body = command("force_open");
  const { endpoints } = await ask(body);
  assert.deepEqual(
    endpoints.map(({ endpoint, status, generation }) => [endpoint, status, generation]),
    [["primary", "forced_open", 1]],
  );
  const [changed] = await changesOf(bus, "breaker.changed.docs.primary");
  assert.deepEqual([changed?.data.by, changed?.data.commandId, changed?.data.certificate.rule], [body.by, body.commandId, "operator"]);
  assert.match(changed?.data.reason ?? "", /forced open by ada: the index is being rebuilt/);
  const accepted = await bus.lastOf("AUDIT", "command.accepted.breaker");
  const done = await bus.lastOf("AUDIT", "breaker.changed.docs.primary");
  assert.ok((accepted?.seq ?? Number.NaN) < (done?.seq ?? Number.NaN));
  await traffic(bus, "router-1", { hard: 50 });
  await traffic(bus, "router-2", { ok: 50 });
  await sleep(1200);
  assert.equal((await changesOf(bus, "breaker.changed.docs.primary")).length, 1);
  await ask(command("reset"));
  const reset = (await changesOf(bus, "breaker.changed.docs.primary"))[1];
  assert.deepEqual([reset?.data.status, reset?.data.state.generation, reset?.data.state.openings], ["closed", 2, 0]);
  await traffic(bus, "router-1", { hard: 5 }, "primary", 2);
  await until("the evidence decides again", async () => (await changesOf(bus, "breaker.changed.docs.primary"))[2]?.data.status === "open");
  await ask(command("reset"));
});

test("a repeated command answers what was done and does nothing a second time, also by an instance that began later", async () => {
  const body = command("metrics_only", { endpoint: null });
  const first = await ask(body);
  assert.deepEqual(
    first.endpoints.map(({ endpoint, status }) => [endpoint, status]),
    [
      ["primary", "metrics_only"],
      ["secondary", "metrics_only"],
    ],
  );
  const count = (await changesOf(bus)).length;
  assert.deepEqual(await ask(body), first);
  await ask(command("disable"));
  const later = await startInstance(await log.connect(), "breaker-state-three");
  const again = (await later.handlers["command.breaker"]?.(body)) as typeof first;
  await later.stop();
  assert.deepEqual(
    again.endpoints.map(({ endpoint, status }) => [endpoint, status]),
    [
      ["primary", "disabled"],
      ["secondary", "metrics_only"],
    ],
    "the second command stands",
  );
  assert.equal((await changesOf(bus)).length, count + 1);
});

test("a command that was done to one endpoint only, before its instance died, is done to the others by a repeat", async () => {
  const body = command("disable", { endpoint: null });
  const half = command("disable", { commandId: body.commandId, endpoint: "primary" });
  await ask(half);
  const before = (await changesOf(bus)).length;
  await ask(body);
  const changes = await changesOf(bus);
  assert.deepEqual(
    changes.slice(before).map(({ data }) => [data.endpoint, data.status, data.commandId]),
    [["secondary", "disabled", body.commandId]],
  );
});

test("an order that could not be carried out does not come through behind a later one, whoever asks for it again", async () => {
  const late = command("force_open");
  const { commandId, by, reason, upstream, endpoint, action } = late;
  // Recorded by an instance that died before it acted.
  const data = {
    commandId,
    command: "breaker",
    by,
    reason,
    timestamp: new Date().toISOString(),
    parameters: { upstream, endpoint, action },
  };
  const source = { service: "breaker-state", instance: "breaker-state-gone", timeMs: Date.now() } as const;
  await bus.append(makeEvent({ ...source, type: "command.accepted", keys: ["breaker"], id: `command-${commandId}`, data }));
  await ask(command("reset"));
  const before = (await changesOf(bus)).length;
  await assert.rejects(
    async () => instances[0]?.handlers["command.breaker"]?.(late),
    (error: RefusedError) => error.code === "overtaken" && error.message.includes("a later order for docs/primary was carried out first"),
  );
  assert.equal((await changesOf(bus)).length, before);
  await ask(command("force_open"));
  await ask(command("reset"));
});

test("in metrics_only what would open it is counted, and nothing is blocked", async () => {
  await ask(command("metrics_only"));
  const { generation } = (await changesOf(bus, "breaker.changed.docs.primary")).at(-1)?.data.state ?? { generation: 0 };
  const before = (await changesOf(bus)).length;
  await traffic(bus, "router-1", { hard: 50 }, "primary", generation);
  await until("it is counted", async () => {
    const texts = await Promise.all(instances.map((instance) => instance.kit.registry.metrics()));
    return /mcpf_breaker_would_open_total\{upstream="docs",endpoint="primary"\} [1-9]/.test(texts.join(""));
  });
  assert.equal((await changesOf(bus)).length, before);
});

test("what is not configured is refused by name, and what has no reason is refused", async () => {
  const refused = async (body: object) => {
    const reply = await bus.request("command.breaker", body as BreakerCommand);
    assert.ok(!reply.ok);
    return `${reply.error.code}: ${reply.error.message}`;
  };
  assert.match(await refused(command("reset", { upstream: "nope" })), /^unknown_upstream: .*known: docs/);
  assert.match(await refused(command("reset", { endpoint: "nope" })), /^unknown_endpoint: .*known: primary, secondary/);
  assert.match(await refused(command("reset", { reason: " " })), /reason/);
  assert.match(await refused({ ...command("reset"), action: "explode" }), /action/);
});

test("everything that was said can be verified: bytes, fences and decisions, an operator's included", async () => {
  const changes = await changesOf(bus);
  assert.ok(changes.length > 5);
  for (const { data } of changes) {
    const again = decideBreaker(data.certificate.input as BreakerInput);
    assert.equal(canonicalJson(again.state), canonicalJson(data.state));
  }
  let state = nothingVerified;
  for await (const { seq, subject, timeMs, headers, bytes } of bus.read("AUDIT")) {
    const deciders = { decideBreaker: (input: unknown) => decideBreaker(input as BreakerInput) };
    state = verifyNext(state, { seq, subject, timeMs, headers, bytes }, { deciders, signalAt: () => null, complete: true });
  }
  assert.deepEqual(state.problems, []);
  assert.equal(state.decisions, changes.length);
});
