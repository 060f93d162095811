import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, mock, test } from "node:test";
import { type Bus, memoryBroker, type Stored } from "@mcp-failover/bus";
import { type DataOf, type Event, type EventType, makeEvent, type NewEvent, type Reply, topology } from "@mcp-failover/contracts";
import { callerPairsMax, decideRollback, initialRollbackState, type RollbackInput } from "@mcp-failover/domain";
import { testKit } from "@mcp-failover/service-kit/testing";
import { becomes } from "@mcp-failover/testkit";
import { startRollbackController } from "../src/wiring.ts";

const operator = { kind: "operator", id: "ann" } as const;
const service = { kind: "service", id: "test" } as const;
const cleanups: (() => Promise<void>)[] = [];
after(async () => {
  for (const cleanup of cleanups.reverse()) await cleanup();
});

const legacy = { url: "http://127.0.0.1:1/legacy" };
const config = topology.parse({
  upstreams: {
    warehouse: {
      kind: "mcp",
      endpoints: [{ name: "primary", tier: 0, url: "http://127.0.0.1:1/mcp" }],
      tools: { get_inventory: { legacy }, get_orders: { legacy }, no_way_back: {} },
    },
  },
  agents: { picker: { tools: ["get_inventory"] }, painter: { tools: ["no_way_back"] } },
});

let ids = 0;
function event<T extends EventType>(type: T, keys: readonly string[], data: DataOf<T>): Event<T> {
  ids += 1;
  const from = { type, keys, data, id: `test-${ids}`, service: "router", instance: "test", timeMs: Date.now() };
  return makeEvent(from as NewEvent<T>);
}

/** `through`: what a controller sees of its bus; `before`: windows of calls that were stored before it was there. */
async function stack(
  controllers = 1,
  topology: typeof config = config,
  through = (bus: Bus): Bus => bus,
  before: readonly { agoMs: number; calls: number; errors: number; router?: string; legacyFails?: boolean; refusal?: boolean }[] = [],
  step: { agoMs: number; mcpPercent: number } | null = null,
) {
  let agoMs = step?.agoMs ?? before[0]?.agoMs ?? 0;
  const broker = memoryBroker({ nowMs: () => Date.now() - agoMs });
  const bus = broker.connect();
  const timestamp = new Date().toISOString();
  await bus.appendFenced(event("log.started", [], { generation: 1, timestamp, by: service, reason: "test" }), 0);
  const applied = { version: 1, hash: "h", fileHash: null, timestamp, by: service, reason: "test", environment: "development" as const };
  await bus.appendFenced(event("config.applied", [], { ...applied, topology }), 0);
  if (step !== null) await beginStep(bus, Date.now() - step.agoMs, step.mcpPercent);
  for (const window of before) {
    agoMs = window.agoMs;
    await traffic(bus, window, {}, window.router);
    if (window.refusal === true) await refuse(bus, Date.now() - agoMs);
  }
  agoMs = 0;
  const kits: ReturnType<typeof testKit>[] = [];
  for (let count = 1; count <= controllers; count += 1) {
    const own = broker.connect();
    const kit = testKit({ service: "rollback-controller", bus: through(own), instance: `rc-${count}` });
    kits.push(kit);
    const running = await startRollbackController(kit);
    const definition = { name: "rollback-controller", instance: `rc-${count}`, version: "0", description: "" };
    const served = await own.serve({ ...definition, handlers: running.handlers ?? {} });
    cleanups.push(async () => {
      await running.stop?.();
      await served.stop();
      await own.close();
    });
    await until(
      () => kit.readiness().status,
      (status) => status === "ready",
    );
  }
  cleanups.push(() => bus.close());
  const metric = async (name: string): Promise<number> => {
    const found = await Promise.all(kits.map((kit) => kit.registry.getSingleMetric(name)?.get()));
    return found.reduce((sum, one) => sum + (one?.values[0]?.value ?? 0), 0);
  };
  const command = (subject: "command.rollback" | "command.recover", body: object): Promise<Reply> =>
    bus.request(subject, { commandId: randomUUID(), by: operator, reason: "test", ...body } as never, { timeoutMs: 60_000 });
  return {
    bus,
    kits,
    metric,
    rollback: (scope: string, name: string, more: object = {}) => command("command.rollback", { scope, name, force: false, ...more }),
    recover: (scope: string, name: string, percent: number | null = 100, more: object = {}) =>
      command("command.recover", { scope, name, percent, ...more }),
  };
}

async function said<T extends EventType>(bus: Bus, ...types: T[]): Promise<Event<T>[]> {
  const found: Event<T>[] = [];
  for await (const { content } of bus.read("AUDIT")) {
    if (content.kind === "event" && (types as string[]).includes(content.event.type)) found.push(content.event as unknown as Event<T>);
  }
  return found;
}

/** A ramp of get_inventory that came to a share. */
async function beginStep(bus: Bus, atMs: number, mcpPercent: number): Promise<void> {
  const state = { ...initialRollbackState, epoch: 1, implementation: "legacy" as const, mcpPercent, sinceMs: atMs };
  const implementations = { implementation: "legacy" as const, previousImplementation: "legacy" as const };
  const folded = { AUDIT: null, SIGNALS: null };
  const certificate = { decider: "none", rule: "operator", policyHash: "", nowMs: atMs, folded, input: null, rejected: [] };
  const data = {
    scope: "tool" as const,
    name: "get_inventory",
    action: "advanced" as const,
    ...implementations,
    automatic: false,
    by: operator,
  };
  const said = { reason: "test", commandId: null, timestamp: new Date(atMs).toISOString(), certificate };
  const ramp = { stepSinceMs: atMs, paused: false };
  await bus.appendFenced(event("rollback.decided", ["tool", "get_inventory"], { ...data, ...said, state: { ...state, ramp } }), 0);
}

/** The word that get_inventory needs a rollback, and that its legacy implementation is no better. */
async function refuse(bus: Bus, atMs: number): Promise<void> {
  const folded = { AUDIT: null, SIGNALS: null };
  const rule = "legacy_no_better";
  const certificate = { decider: "decideRollback", rule, policyHash: "", nowMs: atMs, folded, input: null, rejected: [] };
  const said = { reason: "test", automatic: true, by: service, commandId: null, epoch: 0, timestamp: new Date(atMs).toISOString() };
  const of = { scope: "tool" as const, name: "get_inventory", rule };
  await bus.appendFenced(event("rollback.rejected", ["tool", "get_inventory"], { ...of, ...said, certificate }), 0);
}

/** One router's window of calls of get_inventory. */
async function traffic(
  bus: Bus,
  mcp: { calls: number; errors: number; legacyFails?: boolean },
  rollbacks: Record<string, number> = {},
  router = "r1",
  rollbackIds?: Record<string, string>,
): Promise<void> {
  const nowMs = Date.now();
  const { calls, errors, legacyFails } = mcp;
  const row = { upstream: "warehouse", tool: "get_inventory", agent: "picker", implementation: "mcp" as const, calls, errors };
  const latency = Array.from({ length: 14 }, (_, index) => (index === 0 ? calls : 0));
  const ofLegacy = { ...row, implementation: "legacy" as const, errors: calls, latency };
  const tools = calls > 0 ? [{ ...row, latency }, ...(legacyFails === true ? [ofLegacy] : [])] : [];
  await bus.append(
    event("traffic.observed", [router], {
      router,
      fromMs: nowMs - 250,
      toMs: nowMs,
      endpoints: [],
      tools,
      routes: {},
      rollbacks,
      ...(rollbackIds === undefined ? {} : { rollbackIds }),
    }),
  );
}

const until = <V>(read: () => V | Promise<V>, holds: (value: V) => boolean, withinMs = 8000) => becomes(read, holds, { withinMs });
const codeOf = (reply: Reply): string => (reply.ok ? "ok" : reply.error.code);
const resultOf = (reply: Reply): Record<string, unknown> => {
  if (!reply.ok) assert.fail(`${reply.error.code}: ${reply.error.message}`);
  return reply.result as Record<string, unknown>;
};

test("a tool, an agent and the system are rolled back and recovered by command, each told once by one of two controllers", async () => {
  const { bus, rollback, recover } = await stack(2);
  for (const [scope, name] of [
    ["tool", "get_inventory"],
    ["agent", "picker"],
    ["system", "system"],
  ] as const) {
    const down = resultOf(await rollback(scope, name));
    assert.deepEqual([down["implementation"], down["mcpPercent"], down["epoch"], down["executed"]], ["legacy", 0, 1, true]);
    const up = resultOf(await recover(scope, name));
    assert.deepEqual([up["implementation"], up["mcpPercent"], up["epoch"], up["action"]], ["mcp", 100, 2, "recovered"]);
  }
  const notices = await said(bus, "rollback.executed", "rollback.recovered");
  assert.deepEqual(
    notices.map(({ type, data }) => `${type} ${data.scope}/${data.name} ${data.epoch}`),
    ["tool/get_inventory", "agent/picker", "system/system"].flatMap((key) => [`rollback.executed ${key} 1`, `rollback.recovered ${key} 2`]),
  );
});

test("an unknown name is refused with the known ones, and a scope without a legacy implementation by its rule", async () => {
  const { bus, rollback, recover } = await stack();
  const unknown = await rollback("tool", "get_invntory");
  assert.equal(codeOf(unknown), "unknown_tool");
  assert.match(unknown.ok ? "" : unknown.error.message, /get_inventory, get_orders, no_way_back/);
  const agent = await rollback("agent", "nobody");
  assert.match(agent.ok ? "" : `${agent.error.code} ${agent.error.message}`, /unknown_agent .*picker, painter/);
  assert.equal(codeOf(await rollback("system", "everything")), "unknown_system");
  assert.equal(codeOf(await rollback("tool", "no_way_back")), "no_legacy");
  assert.equal(codeOf(await rollback("agent", "painter")), "no_legacy");
  assert.equal(codeOf(await recover("tool", "get_orders")), "not_rolled_back");
  assert.deepEqual(await said(bus, "rollback.decided"), []);
});

test("the answer waits for the live routers, and says who has applied the decision", async () => {
  const { bus, rollback } = await stack();
  await traffic(bus, { calls: 0, errors: 0 });
  await traffic(bus, { calls: 0, errors: 0 }, {}, "r2");
  const asking = rollback("tool", "get_orders");
  await until(
    () => said(bus, "rollback.decided"),
    (events) => events.length === 1,
  );
  await traffic(bus, { calls: 0, errors: 0 }, { "tool/get_orders": 1 });
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.deepEqual(await said(bus, "rollback.executed"), []);
  await traffic(bus, { calls: 0, errors: 0 }, { "tool/get_orders": 1 }, "r2");
  assert.deepEqual(resultOf(await asking)["appliedBy"], ["r1", "r2"]);
});

test("after the log was lost a router that holds the old one's rollback gets a decision above it, once, and is not said to have applied another", async () => {
  const { bus, rollback } = await stack(2, { ...config, rollback: { ...config.rollback, fallback_timeout: 1 } });
  const key = "tool/get_inventory";
  const report = (epoch: number, id: string) => traffic(bus, { calls: 0, errors: 0 }, { [key]: epoch }, "r1", { [key]: id });
  await report(3, "of-another-log");
  const [again] = await until(
    () => said(bus, "rollback.decided"),
    (events) => events.length > 0,
  );
  assert.deepEqual(
    [again?.data.action, again?.data.state.epoch, again?.data.state.mcpPercent, again?.data.certificate.rule],
    ["recovered", 4, 100, "routers_ahead"],
  );
  assert.deepEqual(decideRollback(again?.data.certificate.input as RollbackInput).kind, "decided");
  await report(4, again?.id ?? "");
  const [told] = await until(
    () => said(bus, "rollback.recovered"),
    (events) => events.length > 0,
  );
  assert.deepEqual([told?.data.appliedBy, told?.data.rule], [["r1"], "routers_ahead"]);
  await report(5, "of-another-log");
  const asking = resultOf(await rollback("tool", "get_inventory"));
  assert.ok((asking["epoch"] as number) >= 6);
  assert.deepEqual([asking["executed"], asking["appliedBy"], asking["notAppliedBy"]], [true, [], ["r1"]], "it holds another decision");
  await new Promise((resolve) => setTimeout(resolve, 2500));
  const epochs = (await said(bus, "rollback.decided")).map(({ data }) => data.state.epoch);
  assert.ok(epochs.length <= 3, String(epochs));
});

test("rollback.fallback_timeout bounds a switch: a router that has not applied it by then is named, and the switch is told all the same", async () => {
  const { bus, rollback } = await stack(1, { ...config, rollback: { ...config.rollback, fallback_timeout: 1 } });
  const report = async (applied: number): Promise<void> => {
    await traffic(bus, { calls: 0, errors: 0 }, { "tool/get_orders": applied });
    await traffic(bus, { calls: 0, errors: 0 }, {}, "r2");
  };
  await report(0);
  const asking = rollback("tool", "get_orders");
  await until(
    () => said(bus, "rollback.decided"),
    (events) => events.length > 0,
  );
  const [executed] = await until(
    async () => {
      await report(1);
      return said(bus, "rollback.executed");
    },
    (events) => events.length > 0,
    20_000,
  );
  assert.deepEqual([executed?.data.appliedBy, executed?.data.notAppliedBy], [["r1"], ["r2"]]);
  const [decided] = await said(bus, "rollback.decided");
  const tookMs = Date.parse(executed?.time ?? "") - Date.parse(decided?.time ?? "");
  assert.ok(tookMs >= 900, `told after ${tookMs} ms`);
  resultOf(await asking);
});

/** What makes, with as many calls again now, a tool ill in three samples of five, however long its start takes. */
const agosMs = [16_000, 13_000, 10_000, 7000];
const illBefore = agosMs.map((agoMs) => ({ agoMs, calls: 20, errors: 10 }));

test("a tool whose MCP calls fail too often is rolled back by itself, once, and its certificate can be recomputed", async () => {
  const { bus } = await stack(2, config, (own) => own, illBefore);
  // Lately nobody called it: that condemns nothing.
  await new Promise((resolve) => setTimeout(resolve, 1100));
  assert.deepEqual(await said(bus, "rollback.decided"), []);
  await traffic(bus, { calls: 20, errors: 10 });
  const decided = await until(
    () => said(bus, "rollback.decided"),
    (events) => events.length > 0,
  );
  const [{ data }] = decided as [Event<"rollback.decided">];
  assert.deepEqual([data.scope, data.name, data.certificate.rule, data.automatic], ["tool", "get_inventory", "error_rate", true]);
  const again = decideRollback(JSON.parse(JSON.stringify(data.certificate.input)) as RollbackInput);
  assert.deepEqual(again.kind === "decided" ? again.state : null, data.state);
  await until(
    () => said(bus, "rollback.executed"),
    (events) => events.length === 1,
  );
  await new Promise((resolve) => setTimeout(resolve, 1100));
  assert.equal((await said(bus, "rollback.decided")).length, 1);
});

test("what one router of three alone sees fail rolls nothing back", async () => {
  const seen = (router: string) => ({ calls: 20, errors: router === "r1" ? 20 : 0 });
  const routers = ["r1", "r2", "r3"];
  const before = agosMs.flatMap((agoMs) => routers.map((router) => ({ agoMs, router, ...seen(router) })));
  const { bus } = await stack(1, config, (own) => own, before);
  for (const router of routers) await traffic(bus, seen(router), {}, router);
  await new Promise((resolve) => setTimeout(resolve, 2200));
  assert.deepEqual(await said(bus, "rollback.decided"), []);
  // Another one that sees it makes two of three.
  await traffic(bus, { calls: 20, errors: 20 }, {}, "r2");
  await until(
    () => said(bus, "rollback.decided"),
    (events) => events.length > 0,
  );
});

test("in maintenance of its upstream a tool that fails is left where it is, until an operator says otherwise", async () => {
  const [from, until] = [-60_000, 3_600_000].map((ms) => new Date(Date.now() + ms).toISOString());
  const maintenance = [{ name: "upgrade", upstreams: ["warehouse"], from, until, reason: "planned" }];
  const { bus, rollback } = await stack(1, { ...config, maintenance }, (own) => own, illBefore);
  await traffic(bus, { calls: 20, errors: 10 });
  await new Promise((resolve) => setTimeout(resolve, 2200));
  assert.deepEqual(await said(bus, "rollback.decided"), []);
  resultOf(await rollback("tool", "get_inventory"));
});

test("calls by more agents than are told apart are counted, and said to be", async () => {
  const { bus, metric } = await stack();
  const row = { upstream: "warehouse", tool: "get_orders", implementation: "mcp" as const, calls: 1, errors: 0 };
  const latency = Array.from({ length: 14 }, (_, index) => (index === 0 ? 1 : 0));
  for (let from = 0; from < callerPairsMax + 5; from += 1000) {
    const tools = Array.from({ length: Math.min(1000, callerPairsMax + 5 - from) }, (_, index) => ({
      ...row,
      agent: `a${from + index}`,
      latency,
    }));
    const nowMs = Date.now();
    await bus.append(
      event("traffic.observed", ["r1"], { router: "r1", fromMs: nowMs, toMs: nowMs, endpoints: [], tools, routes: {}, rollbacks: {} }),
    );
  }
  await until(
    () => metric("mcpf_tool_callers_left_out_total"),
    (rows) => rows > 0,
  );
});

test("a controller that began in the middle of a step of a ramp knows how the step began", async () => {
  // Long before it was there, but since the step began, MCP failed; lately it does not.
  const before = [
    { agoMs: 300_000, calls: 30, errors: 12 },
    { agoMs: 20_000, calls: 22, errors: 0 },
  ];
  const { bus } = await stack(1, config, (own) => own, before, { agoMs: 310_000, mcpPercent: 5 });
  await traffic(bus, { calls: 1, errors: 0 });
  const [, decided] = await until(
    () => said(bus, "rollback.decided"),
    (events) => events.length > 1,
  );
  assert.deepEqual([decided?.data.action, decided?.data.certificate.rule, decided?.data.state.mcpPercent], ["paused", "mcp_worse", 5]);
});

test("an automatic rollback that a rule forbids is told once an outage, also by who began to look in the middle of one", async () => {
  const windows = (fromAgoMs: number, toAgoMs: number, ill: boolean) =>
    Array.from({ length: (fromAgoMs - toAgoMs) / 1000 }, (_, index) => ({
      agoMs: fromAgoMs - index * 1000,
      calls: 20,
      ...(ill ? { errors: 20, legacyFails: true } : { errors: 0 }),
    }));
  const told = { ...windows(300_000, 299_000, true)[0], agoMs: 270_000, calls: 20, errors: 20, refusal: true };
  const first = [...windows(400_000, 300_000, false), ...windows(300_000, 271_000, true), told, ...windows(269_000, 250_000, true)];
  const another = await stack(1, config, undefined, [...first, ...windows(250_000, 40_000, false), ...windows(40_000, 0, true)]);
  const refusals = await until(
    () => said(another.bus, "rollback.rejected"),
    (found) => found.length >= 2,
  );
  assert.deepEqual(
    refusals.map(({ data }) => [data.rule, data.epoch]),
    [
      ["legacy_no_better", 0],
      ["legacy_no_better", 0],
    ],
  );
  const lasting = await stack(1, config, undefined, [...first, ...windows(250_000, 0, true)]);
  for (const { bus } of [another, lasting]) await traffic(bus, { calls: 20, errors: 20, legacyFails: true });
  await new Promise((resolve) => setTimeout(resolve, 3000));
  assert.equal((await said(lasting.bus, "rollback.rejected")).length, 1, "it was told when it began");
  assert.equal((await said(another.bus, "rollback.rejected")).length, 2);
});

test("a command repeated with its id gets the first answer and acts once", async () => {
  const { bus, rollback, recover } = await stack(2);
  const commandId = "the-same";
  const replies = await Promise.all([1, 2, 3].map(() => rollback("tool", "get_orders", { commandId })));
  assert.deepEqual(
    replies.map((reply) => resultOf(reply)["epoch"]),
    [1, 1, 1],
  );
  assert.equal(codeOf(await recover("tool", "get_orders", 100, { commandId })), "command_id_reused");
  assert.equal((await said(bus, "rollback.decided")).length, 1);
});

test("a recovery without a percentage begins a ramp at its first step", async () => {
  const { rollback, recover } = await stack();
  resultOf(await rollback("tool", "get_orders"));
  const begun = resultOf(await recover("tool", "get_orders", null));
  assert.deepEqual([begun["action"], begun["mcpPercent"], begun["implementation"]], ["advanced", 1, "legacy"]);
  assert.equal(codeOf(await recover("tool", "get_orders", null)), "already_recovering");
  const back = resultOf(await rollback("tool", "get_orders"));
  assert.deepEqual([back["action"], back["mcpPercent"]], ["rolled_back", 0]);
});

test("a tool whose legacy implementation is configured no more is whole on MCP at once when it recovers, and a ramp of it ends by itself", async () => {
  const { warehouse } = config.upstreams;
  const tools = { get_inventory: {}, get_orders: { legacy }, no_way_back: {} };
  const without = topology.parse({ ...config, upstreams: { warehouse: { ...warehouse, tools } } });
  const ramp = await stack(1, without, undefined, [], { agoMs: 5000, mcpPercent: 25 });
  const [, ended] = await until(
    () => said(ramp.bus, "rollback.decided"),
    ({ length }) => length === 2,
  );
  assert.deepEqual([ended?.data.action, ended?.data.state.mcpPercent, ended?.data.certificate.rule], ["recovered", 100, "legacy_gone"]);
  const { bus, rollback, recover } = await stack();
  resultOf(await rollback("tool", "get_inventory"));
  const applied = { version: 2, hash: "h2", fileHash: null, by: service, reason: "test", environment: "development" as const };
  await bus.append(event("config.applied", [], { ...applied, timestamp: new Date().toISOString(), topology: without }));
  await until(
    async () => codeOf(await rollback("tool", "get_inventory")),
    (code) => code === "no_legacy",
  );
  const begun = resultOf(await recover("tool", "get_inventory", null));
  assert.deepEqual([begun["action"], begun["mcpPercent"], begun["implementation"]], ["recovered", 100, "mcp"]);
});

test("an order that is on its way while a tool is rolled back by itself loses to that, and is decided anew on it", async () => {
  const reading = Promise.withResolvers<void>();
  const rolledBack = Promise.withResolvers<void>();
  let held = true;
  /** Whether another order stands on the subject is answered late: not before the tool was rolled back. */
  const through = (own: Bus): Bus => {
    async function* read(...[stream, options]: Parameters<Bus["read"]>): ReturnType<Bus["read"]> {
      if (held && options?.filter === "rollback.decided.tool.get_inventory") {
        held = false;
        const found: Stored[] = [];
        for await (const stored of own.read(stream, options)) found.push(stored);
        reading.resolve();
        await rolledBack.promise;
        yield* found;
      } else yield* own.read(stream, options);
    }
    return Object.create(own, { read: { value: read } });
  };
  const { bus, rollback } = await stack(1, config, through, illBefore);
  const answered = rollback("tool", "get_inventory", { givenAtSeq: (await bus.info("AUDIT")).lastSeq });
  await reading.promise;
  await traffic(bus, { calls: 20, errors: 10 });
  // Told by the controller itself: it has folded it.
  await until(
    () => said(bus, "rollback.executed"),
    (events) => events.length === 1,
    20_000,
  );
  rolledBack.resolve();
  assert.equal(codeOf(await answered), "already_rolled_back");
  const decided = (await said(bus, "rollback.decided")).map(({ data }) => [data.automatic, data.state.epoch, data.state.mcpPercent]);
  assert.deepEqual(decided, [[true, 1, 0]]);
});

test("an operator's order that comes through late is refused, and undoes nothing that was ordered since", async () => {
  const { bus, rollback, recover } = await stack(2);
  const lastSeq = async (): Promise<number> => (await bus.info("AUDIT")).lastSeq;
  const before = await lastSeq();
  resultOf(await rollback("tool", "get_orders", { givenAtSeq: before }));
  resultOf(await recover("tool", "get_orders", 100, { givenAtSeq: await lastSeq() }));
  assert.equal(codeOf(await rollback("tool", "get_orders", { givenAtSeq: before })), "overtaken");
  assert.equal((await said(bus, "rollback.decided")).length, 2);
  resultOf(await rollback("tool", "get_inventory", { givenAtSeq: before }));
  resultOf(await rollback("tool", "get_orders", { givenAtSeq: await lastSeq() }));
});

test("a configuration that does not parse changes nothing, and is told", async () => {
  const { bus, kits, rollback } = await stack();
  const told = mock.method((kits[0] as (typeof kits)[number]).log, "error");
  const timestamp = new Date().toISOString();
  const applied = { version: 2, hash: "h2", fileHash: null, timestamp, by: service, reason: "test", environment: "development" as const };
  await bus.append(event("config.applied", [], { ...applied, topology: { ...config, agents: { picker: { tools: "all" } } } as never }));
  const [call] = await until(
    () => told.mock.calls,
    (calls) => calls.length > 0,
  );
  assert.match(String(call?.arguments.at(1)), /does not parse; the last good one stays in force/);
  assert.match(JSON.stringify(call?.arguments[0]), /"version":2.*agents.picker.tools/);
  assert.equal(codeOf(await rollback("tool", "get_inventory")), "ok");
});
