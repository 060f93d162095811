import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { memorySeams } from "@mcp-failover/bus/internal";
import { makeEvent } from "@mcp-failover/contracts";
import { decideFailover, type FailoverInput } from "@mcp-failover/domain";
import { patientMs } from "@mcp-failover/testkit";
import { until, upstreamOf } from "./fleet-double.ts";
import { codeOf, operator, resultOf, stack } from "./stack.ts";

test("a dead active endpoint is left for a proven one at the first failed probe, once, by one of two controllers", async () => {
  const { fleet } = await stack({ controllers: 2 });
  await fleet.probe("p1", [{ upstream: "shop", endpoint: "primary" }]);
  fleet.truth.set("shop/primary", "hard");
  const atMs = Date.now();
  await fleet.probe("p1", [{ upstream: "shop", endpoint: "primary" }]);
  const executed = await until(
    () => fleet.said("failover.executed"),
    (events) => events.length > 0,
  );
  assert.ok(Date.now() - atMs < patientMs(1500), `took ${Date.now() - atMs} ms`);
  const decided = await fleet.said("failover.decided");
  assert.equal(decided.length, 1);
  const { id, data } = decided[0]!;
  assert.equal(data.state.active, "secondary");
  assert.equal(data.state.epoch, 1);
  assert.equal(data.certificate.rule, "majority_unhealthy");
  assert.equal(executed[0]?.data.decisionId, id);
  assert.equal(executed[0]?.data.previousEndpoint, "primary");
  // The certificate is the whole argument: the same function on it decides the same.
  const again = decideFailover(JSON.parse(JSON.stringify(data.certificate.input)) as FailoverInput);
  assert.equal(again.kind, "decided");
  assert.deepEqual(again.kind === "decided" ? again.state : null, data.state);
  assert.ok(JSON.stringify(data).length < 20_000, "a decision of a small fleet stays small");
});

test("F18: an active endpoint that an operator forces open is left for a proven one, though every prober says that it answers", async () => {
  const { fleet } = await stack();
  await fleet.breaker("shop", "primary", "forced_open");
  const [decided] = await until(
    () => fleet.said("failover.decided"),
    (events) => events.length > 0,
  );
  assert.deepEqual([decided?.data.state.active, decided?.data.certificate.rule], ["secondary", "breaker_forced_open"]);
});

test("the word of one prober against two others moves nothing", async () => {
  const { fleet } = await stack();
  fleet.illusions.set("p1 shop/primary", "hard");
  for (let round = 0; round < 5; round += 1) {
    await fleet.probe("p1", [{ upstream: "shop", endpoint: "primary" }]);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.ok(fleet.requests > 0, "the others were asked");
  assert.deepEqual(await fleet.said("failover.decided", "failover.rejected", "failover.failed"), []);
});

test("with both endpoints dead nothing is moved, one failover.failed says so, and a second one ends it", async () => {
  const { fleet } = await stack({ controllers: 2 });
  fleet.truth.set("shop/primary", "hard").set("shop/secondary", "hard");
  await fleet.probe("p1", [{ upstream: "shop", endpoint: "primary" }]);
  await until(
    () => fleet.said("failover.failed"),
    (events) => events.length > 0,
  );
  await new Promise((resolve) => setTimeout(resolve, 1200));
  assert.deepEqual(
    (await fleet.said("failover.failed")).map(({ data }) => data.failing),
    [true],
  );
  assert.deepEqual(await fleet.said("failover.decided"), []);
  fleet.truth.delete("shop/secondary");
  const decided = await until(
    () => fleet.said("failover.decided"),
    (events) => events.length > 0,
  );
  assert.equal(decided[0]?.data.state.active, "secondary");
  const failed = await until(
    () => fleet.said("failover.failed"),
    (events) => events.length > 1,
  );
  assert.deepEqual(
    failed.map(({ data }) => data.failing),
    [true, false],
  );
});

test("a cool-down refuses the next automatic move, and says so once", async () => {
  const { fleet } = await stack();
  fleet.truth.set("shop/primary", "hard");
  await fleet.probe("p1", [{ upstream: "shop", endpoint: "primary" }]);
  await until(
    () => fleet.said("failover.executed"),
    (events) => events.length === 1,
  );
  fleet.truth.set("shop/secondary", "hard").delete("shop/primary");
  for (let round = 0; round < 8; round += 1) {
    await fleet.probe("p1", [{ upstream: "shop", endpoint: "secondary" }]);
    await new Promise((resolve) => setTimeout(resolve, 150));
  }
  const rejected = await fleet.said("failover.rejected");
  assert.deepEqual(
    rejected.map(({ data }) => data.rule),
    ["cooldown"],
  );
  assert.equal((await fleet.said("failover.decided")).length, 1);
});

test("an operator's move gathers proof first, is recorded before it acts, and answers with who applied it", async () => {
  const { fleet, move } = await stack();
  const result = resultOf(await move({ to: "secondary", reason: "maintenance" }));
  assert.deepEqual([result["epoch"], result["from"], result["to"], result["executed"]], [1, "primary", "secondary", true]);
  const types = (await fleet.said("command.accepted", "failover.decided", "failover.executed")).map(({ type }) => type);
  assert.deepEqual(types, ["command.accepted", "failover.decided", "failover.executed"]);
  assert.equal((await fleet.said("failover.decided"))[0]?.data.reason, "maintenance");
});

test("an operator's move to a sick, silent, unknown or active endpoint is refused with its code", async () => {
  const { fleet, move, command } = await stack();
  assert.equal(codeOf(await move({ to: "nowhere" })), "unknown_endpoint");
  assert.equal(codeOf(await move({ to: "primary" })), "already_active");
  assert.equal(codeOf(await move({ upstream: "nothing" })), "unknown_upstream");
  assert.equal(codeOf(await command("command.release", { upstream: "shop" })), "not_held");
  fleet.truth.set("shop/secondary", "hard");
  assert.equal(codeOf(await move({ to: "secondary" })), "candidate_unhealthy");
  fleet.truth.set("shop/secondary", "auth");
  assert.equal(codeOf(await move({ to: "secondary" })), "candidate_unknown");
  for (const prober of fleet.probers) fleet.silent.add(prober);
  assert.equal(codeOf(await move({ to: "secondary" })), "candidate_unknown");
  assert.deepEqual(await fleet.said("failover.decided"), []);
  const forced = resultOf(await move({ to: "secondary", force: true }));
  assert.deepEqual(forced["overrode"], ["proof"]);
});

test("a hold stops automatic moves and unforced commands until it is released", async () => {
  const { fleet, move, command } = await stack();
  assert.equal(resultOf(await command("command.hold", { upstream: "shop", forMs: null }))["action"], "held");
  fleet.truth.set("shop/primary", "hard");
  await fleet.probe("p1", [{ upstream: "shop", endpoint: "primary" }]);
  const rejected = await until(
    () => fleet.said("failover.rejected"),
    (events) => events.length > 0,
  );
  assert.equal(rejected[0]?.data.rule, "held");
  assert.equal(codeOf(await move({ to: "secondary" })), "held");
  assert.deepEqual(resultOf(await move({ force: true }))["overrode"], ["hold"]);
  assert.equal(resultOf(await command("command.release", { upstream: "shop" }))["action"], "released");
  const notices = await fleet.said("failover.held", "failover.executed", "failover.released");
  assert.deepEqual(
    notices.map(({ type, data }) => [type, data.epoch]),
    [
      ["failover.held", 1],
      ["failover.executed", 2],
      ["failover.released", 3],
    ],
  );
});

test("a command repeated with its id, to the other controller or after a restart, gets the first answer and acts once", async () => {
  const { fleet, start, move } = await stack({ controllers: 2 });
  const commandId = "the-same";
  const replies = await Promise.all([
    move({ to: "secondary", commandId }),
    move({ to: "secondary", commandId }),
    move({ to: "secondary", commandId }),
  ]);
  const epochs = replies.map((reply) => resultOf(reply)["epoch"]);
  assert.deepEqual(epochs, [1, 1, 1]);
  await start("fc-late");
  for (let count = 0; count < 4; count += 1) assert.equal(resultOf(await move({ to: "secondary", commandId }))["epoch"], 1);
  assert.equal((await fleet.said("failover.decided")).length, 1);
  assert.equal((await fleet.said("command.accepted")).length, 1);
});

test("a dry run says what would be done and records nothing", async () => {
  const { fleet, move } = await stack();
  const result = resultOf(await move({ dryRun: true }));
  assert.deepEqual([result["to"], result["epoch"], result["dryRun"]], ["secondary", 1, true]);
  assert.deepEqual(await fleet.said("command.accepted", "failover.decided"), []);
});

test("a dry run is no evidence that was waited for: a failure after it has its whole time to find the best endpoint", async () => {
  const { fleet, move } = await stack();
  await move({ dryRun: true });
  await new Promise((resolve) => setTimeout(resolve, 20));
  fleet.truth.set("shop/primary", "hard");
  await fleet.probe("p1", [{ upstream: "shop", endpoint: "primary" }]);
  const [decided] = await until(
    () => fleet.said("failover.decided"),
    (events) => events.length > 0,
  );
  const { gatherSinceMs, evidence } = decided!.data.certificate.input as FailoverInput;
  const failedMs = Math.min(...(evidence["primary"]?.votes ?? []).map(({ hardSinceMs }) => hardSinceMs ?? Number.POSITIVE_INFINITY));
  assert.ok(gatherSinceMs === null || gatherSinceMs >= failedMs, `waited since ${gatherSinceMs}, failed at ${failedMs}`);
});

test("of two upstreams that fail together, one moves when the fleet may make one move", async () => {
  const upstreams = { shop: upstreamOf(["primary", "secondary"]), bank: upstreamOf(["primary", "secondary"]) };
  const { fleet } = await stack({ controllers: 2, upstreams, more: { failover: { fleet_moves: 1, fleet_window_ms: 60_000 } } });
  fleet.truth.set("shop/primary", "hard").set("bank/primary", "hard");
  const endpoints = ["shop", "bank"].map((upstream) => ({ upstream, endpoint: "primary" }));
  await fleet.probe("p1", endpoints);
  const rejected = await until(
    () => fleet.said("failover.rejected"),
    (events) => events.length > 0,
  );
  await new Promise((resolve) => setTimeout(resolve, 500));
  assert.equal(rejected[0]?.data.rule, "fleet_limit");
  assert.equal((await fleet.said("failover.decided")).length, 1);
});

test("an upstream that is taken out of the configuration while it waits for a place among the fleet's moves keeps nobody else waiting", async () => {
  const upstreams = { busy: upstreamOf(["primary", "secondary"]), shop: upstreamOf(["primary", "secondary"]) };
  const limited = (fleet_window_ms: number) => ({ failover: { fleet_moves: 1, fleet_window_ms } });
  const gone = upstreamOf(["primary", "secondary"]);
  const { fleet } = await stack({ upstreams: { ...upstreams, gone }, more: limited(3_600_000) });
  const dies = async (upstream: string): Promise<void> => {
    fleet.truth.set(`${upstream}/primary`, "hard");
    await fleet.probe("p1", [{ upstream, endpoint: "primary" }]);
  };
  await dies("busy");
  await until(
    () => fleet.said("failover.decided"),
    (events) => events.length === 1,
  );
  await dies("gone");
  await until(
    () => fleet.said("failover.rejected"),
    (events) => events.some(({ data }) => data.service === "gone" && data.rule === "fleet_limit"),
  );
  await fleet.configure(upstreams, limited(1000));
  await dies("shop");
  const decided = await until(
    () => fleet.said("failover.decided"),
    (events) => events.length === 2,
    10_000,
  );
  assert.equal(decided[1]?.data.service, "shop");
});

test("failover.executed waits for the live routers and names those that have not applied the epoch", async () => {
  const { fleet, move } = await stack();
  const held = (epoch: number, active: string) => ({ shop: { generation: 1, epoch, eventId: null, active } });
  await fleet.traffic("r1", "shop", "primary", { ok: 1 }, held(0, "primary"));
  await fleet.traffic("r2", "shop", "primary", { ok: 1 }, held(0, "primary"));
  const moving = move({ to: "secondary" });
  await until(
    () => fleet.said("failover.decided"),
    (events) => events.length > 0,
  );
  assert.deepEqual(await fleet.said("failover.executed"), []);
  await fleet.traffic("r1", "shop", "secondary", { ok: 1 }, held(1, "secondary"));
  const result = resultOf(await moving);
  assert.deepEqual([result["appliedBy"], result["notAppliedBy"]], [["r1"], ["r2"]]);
});

test("a command that another controller finished while this one still gathered proof is answered by what was done, not done again", async () => {
  const { fleet, move } = await stack();
  await move({ to: "secondary" });
  for (const prober of fleet.probers) fleet.silent.add(prober);
  const moving = move({ to: null, commandId: "taken-over" });
  await until(
    () => fleet.said("command.accepted"),
    (events) => events.length === 2,
  );
  // What another instance publishes for a repeat of the same command: back to the primary, at the next epoch.
  const [first] = await fleet.said("failover.decided");
  const last = await fleet.bus.lastOf("AUDIT", "failover.decided.shop");
  const { state } = first!.data;
  const back = { previousEndpoint: "secondary", currentEndpoint: "primary", commandId: "taken-over" };
  const data = { ...first!.data, ...back, state: { ...state, epoch: 2, active: "primary", tier: 0 } };
  await fleet.bus.appendFenced(fleet.event("failover.decided", ["shop"], data), last?.seq ?? 0);
  fleet.silent.clear();
  const result = resultOf(await moving);
  assert.deepEqual([result["epoch"], result["to"]], [2, "primary"]);
  assert.equal((await fleet.said("failover.decided")).length, 2);
});

test("a decision whose notice was lost with its controller is told by the next one, each once and in order", async () => {
  const { fleet, start } = await stack({ controllers: 0 });
  const first = await start("fc-1");
  await fleet.bus.request("command.failover", {
    commandId: "one",
    by: operator,
    reason: "test",
    upstream: "shop",
    to: "secondary",
    force: true,
    dryRun: false,
  });
  await first.stop();
  // Two decisions that nobody has told: copies of the first one with the next epochs, as its controller would have left them.
  const [decision] = await fleet.said("failover.decided");
  for (const epoch of [2, 3]) {
    const last = await fleet.bus.lastOf("AUDIT", "failover.decided.shop");
    const data = { ...decision!.data, state: { ...decision!.data.state, epoch } };
    await fleet.bus.appendFenced(fleet.event("failover.decided", ["shop"], data), last?.seq ?? 0);
  }
  await start("fc-2");
  const executed = await until(
    () => fleet.said("failover.executed"),
    (events) => events.length === 3,
  );
  assert.deepEqual(
    executed.map(({ data }) => data.epoch),
    [1, 2, 3],
  );
});

test("an active endpoint that leaves the configuration is replaced", async () => {
  const { fleet } = await stack({ upstreams: { shop: upstreamOf(["primary", "secondary"]) } });
  await fleet.probe("p1", [{ upstream: "shop", endpoint: "primary" }]);
  fleet.truth.set("shop/primary", "hard");
  await fleet.probe("p1", [{ upstream: "shop", endpoint: "primary" }]);
  await until(
    () => fleet.said("failover.executed"),
    (events) => events.length === 1,
  );
  await fleet.configure({ shop: upstreamOf(["third", "fourth"]) });
  const decided = await until(
    () => fleet.said("failover.decided"),
    (events) => events.length === 2,
  );
  assert.deepEqual([decided[1]?.data.state.active, decided[1]?.data.certificate.rule], ["third", "active_vanished"]);
});

test("while the bus is away nothing is decided; when it is back, only what is said after that counts", async () => {
  const { fleet, controllers } = await stack();
  const [{ kit }] = controllers as [(typeof controllers)[0]];
  await fleet.probe("p1", [{ upstream: "shop", endpoint: "primary" }]);
  memorySeams(kit.bus).cut();
  // A fleet in trouble while the controller does not listen: over before it is back.
  for (const prober of fleet.probers) fleet.silent.add(prober);
  fleet.truth.set("shop/primary", "hard");
  for (const prober of fleet.probers) await fleet.probe(prober, [{ upstream: "shop", endpoint: "primary", purpose: "confirm" }]);
  fleet.truth.delete("shop/primary");
  memorySeams(kit.bus).restore();
  await new Promise((resolve) => setTimeout(resolve, 1300));
  assert.deepEqual(await fleet.said("failover.decided", "failover.rejected", "failover.failed"), []);
  // New trouble is decided at once: no waiting for half a minute.
  fleet.silent.clear();
  fleet.truth.set("shop/primary", "hard");
  const atMs = Date.now();
  await fleet.probe("p1", [{ upstream: "shop", endpoint: "primary" }]);
  await until(
    () => fleet.said("failover.executed"),
    (events) => events.length === 1,
  );
  assert.ok(Date.now() - atMs < patientMs(1500), `took ${Date.now() - atMs} ms`);
});

test("what was decided about an endpoint while a controller was cut off is looked at as soon as it hears of it", async () => {
  const { fleet, controllers } = await stack();
  const [{ kit }] = controllers as [(typeof controllers)[0]];
  // By then the upstream is at rest, and is not looked at each second.
  await fleet.probe("p1", [{ upstream: "shop", endpoint: "primary" }]);
  await new Promise((resolve) => setTimeout(resolve, 1100));
  memorySeams(kit.bus).cut();
  await fleet.breaker("shop", "primary", "forced_open");
  memorySeams(kit.bus).restore();
  const atMs = Date.now();
  await until(
    () => fleet.said("failover.decided"),
    (events) => events.length > 0,
    15_000,
  );
  assert.ok(Date.now() - atMs < patientMs(3000), `took ${Date.now() - atMs} ms`);
});

test("with answers of the log lost on the way, decisions and notices still come once each", async () => {
  const { fleet, controllers, move } = await stack({ controllers: 2 });
  for (let epoch = 1; epoch <= 2; epoch += 1) {
    for (const { kit } of controllers) memorySeams(kit.bus).losePublishes(1, { stored: epoch % 2 === 0 });
    const result = resultOf(await move({ to: epoch % 2 === 1 ? "secondary" : "primary", force: true }));
    assert.equal(result["epoch"], epoch);
  }
  await until(
    () => fleet.said("failover.executed"),
    (events) => events.length === 2,
  );
  for (const type of ["failover.decided", "failover.executed"] as const) {
    const epochs = (await fleet.said(type)).map(({ data }) => ("state" in data ? (data.state as { epoch: number }).epoch : data.epoch));
    assert.deepEqual(epochs, [1, 2], type);
  }
});

test("an operator's order that comes through late is refused, and undoes nothing that was ordered since", async () => {
  const { fleet, command, move } = await stack({ controllers: 2 });
  const lastSeq = async (): Promise<number> => (await fleet.bus.info("AUDIT")).lastSeq;
  const moves = async () => (await fleet.said("failover.decided")).map(({ data }) => `${data.action} ${data.currentEndpoint}`);
  const before = await lastSeq();
  resultOf(await move({ to: "secondary", givenAtSeq: before }));
  resultOf(await command("command.failback", { upstream: "shop", force: true, dryRun: false, givenAtSeq: await lastSeq() }));
  for (const to of ["secondary", null]) assert.equal(codeOf(await move({ to, givenAtSeq: before, force: true })), "overtaken");
  assert.deepEqual(await moves(), ["moved secondary", "moved primary"]);
  const beforeHold = await lastSeq();
  resultOf(await command("command.hold", { upstream: "shop", forMs: null, givenAtSeq: beforeHold }));
  assert.equal(codeOf(await command("command.release", { upstream: "shop", givenAtSeq: beforeHold })), "overtaken");
  assert.equal((await moves()).length, 3);
  resultOf(await command("command.release", { upstream: "shop", givenAtSeq: await lastSeq() }));
});

test("of two orders that do not say when they were given, the one recorded first is refused where the other was carried out already", async () => {
  const { fleet, move } = await stack({ controllers: 2 });
  const late = { commandId: "late", by: operator, reason: "test" };
  const timestamp = new Date().toISOString();
  const accepted = { ...late, command: "failover", timestamp, parameters: {} };
  const from = { id: "command-late", service: "failover-controller", instance: "fc-9", timeMs: Date.now() } as const;
  await fleet.bus.append(makeEvent({ type: "command.accepted", keys: ["failover"], data: accepted, ...from }));
  resultOf(await move({ to: "secondary" }));
  resultOf(await move({ to: "primary", force: true }));
  assert.equal(codeOf(await move({ ...late, to: "secondary", force: true })), "overtaken");
  assert.equal((await fleet.said("failover.decided")).length, 2);
});

test("a configuration that does not parse changes nothing, and is told", async () => {
  const { fleet, controllers, move } = await stack();
  const told = mock.method((controllers[0] as (typeof controllers)[number]).kit.log, "error");
  const applied = { version: 99, hash: "h", fileHash: null, timestamp: new Date().toISOString(), by: operator, reason: "test" };
  const topology = { upstreams: { shop: { kind: "unheard-of" } } } as never;
  await fleet.bus.append(fleet.event("config.applied", [], { ...applied, environment: "development", topology }));
  const [call] = await until(
    () => told.mock.calls,
    (calls) => calls.length > 0,
  );
  assert.match(String(call?.arguments.at(1)), /does not parse; the last good one stays in force/);
  assert.match(JSON.stringify(call?.arguments[0]), /"version":99.*upstreams.shop/);
  assert.equal(codeOf(await move({ to: "secondary" })), "ok");
});

test("endpoints that are spoken on beyond those whose words are kept are counted", async () => {
  const { fleet, controllers } = await stack();
  const targets = Array.from({ length: 20_003 }, (_, index) => ({ upstream: "many", endpoint: `e${index}` }));
  for (let from = 0; from < targets.length; from += 1000) await fleet.probe("p1", targets.slice(from, from + 1000));
  // Those of the configuration, heard of before, are the first that are forgotten.
  await until(
    async () => (await controllers[0]?.kit.registry.getMetricsAsJSON())?.find(({ name }) => name === "mcpf_evidence_displaced_total"),
    (metric) => metric?.values[0]?.value === 5,
  );
});
