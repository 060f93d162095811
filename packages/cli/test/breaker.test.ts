import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { memoryBroker, RefusedError } from "@mcp-failover/bus";
import { publishRawToMemory } from "@mcp-failover/bus/internal";
import { type BreakerCommand, type BreakerState, makeEvent, type Observation, streams } from "@mcp-failover/contracts";
import { initialBreakerState } from "@mcp-failover/domain";
import { configured, observed, runMcpf, serveProber } from "./support.ts";

const by = { kind: "operator" as const, id: "ada" };
const timestamp = "2026-01-01T00:00:00.000Z";

/** A bus with a configuration, a breaker-state that records its commands, and one prober. */
async function world(t: TestContext, outcome: Observation["outcome"] | null = null, storeNowMs: () => number = Date.now) {
  const { broker, bus } = await configured(undefined, memoryBroker({ nowMs: storeNowMs }));
  let ids = 0;
  const from = (service: "breaker-state" | "prober") => {
    ids += 1;
    return { id: `e-${ids}`, service, instance: "test", timeMs: Date.now() };
  };
  const commands: BreakerCommand[] = [];
  const served = await bus.serve({
    name: "breaker-state",
    instance: "b-1",
    version: "0.1.0",
    description: "",
    handlers: {
      "command.breaker": async (body) => {
        commands.push(body);
        if (body.reason === "refuse") throw new RefusedError("contended", "others decide just now", true);
        const names = body.endpoint === null ? ["one", "two"] : [body.endpoint];
        return {
          upstream: body.upstream,
          action: body.action,
          endpoints: names.map((endpoint) => ({ endpoint, status: "forced_open", generation: 1 })),
        };
      },
    },
  });
  t.after(() => served.stop());
  if (outcome !== null) {
    await serveProber(t, broker, "p1", (prober, asked, respond) => {
      const refused = outcome === "hard" ? { code: "refused" as const, error: "connection refused" } : {};
      const observations = observed("p1", asked, { outcome, responseTimeMs: 3, ...refused });
      const event = makeEvent({ type: "probe.observed", keys: ["p1"], data: { observer: "p1", observations }, ...from("prober") });
      // As a prober does: whoever asked is answered while the log is still being written.
      respond(event);
      setTimeout(() => void prober.append(event).catch(assert.fail), 20);
    });
  }
  const mcpf = (...argv: string[]) => runMcpf(bus, argv, { MCPF_OPERATOR: "ada" });
  const say = (endpoint: string, state: Partial<BreakerState>) =>
    bus.append(
      makeEvent({
        type: "breaker.changed",
        keys: ["api", endpoint],
        data: {
          service: "api",
          endpoint,
          status: state.status ?? "closed",
          previousStatus: "closed",
          timestamp,
          reason: "forced open by ada: rebuilt",
          by,
          state: { ...initialBreakerState, sinceMs: Date.parse(timestamp), ...state },
          certificate: {
            decider: "decideBreaker",
            rule: "operator",
            policyHash: "0",
            nowMs: 0,
            folded: { AUDIT: null, SIGNALS: null },
            input: null,
            rejected: [],
          },
        },
        ...from("breaker-state"),
      }),
    );
  const failing = async (times: number) => {
    for (let time = 0; time < times; time += 1) await mcpf("breaker", "test", "api/one");
  };
  return { broker, mcpf, commands, say, failing };
}

test("each command needs a reason, and asks breaker-state with who, why, a key of its own, and the endpoint or all", async (t) => {
  const { mcpf, commands } = await world(t);
  for (const [name, action] of [
    ["force-open", "force_open"],
    ["disable", "disable"],
    ["metrics-only", "metrics_only"],
    ["reset", "reset"],
  ] as const) {
    assert.equal((await mcpf("breaker", name, "api/one", "--yes")).code, 2, "no reason");
    const ran = await mcpf("breaker", name, "api/one", "--reason", "rebuilt", "--yes");
    assert.deepEqual([ran.code, ran.stderr], [0, ""]);
    const { commandId, ...rest } = commands.at(-1) ?? assert.fail();
    assert.deepEqual(rest, { by, reason: "rebuilt", upstream: "api", endpoint: "one", action });
    assert.ok(commandId.length > 10);
  }
  const all = await mcpf("breaker", "force-open", "api", "--reason", "rebuilt", "--yes");
  assert.equal(commands.at(-1)?.endpoint, null);
  assert.equal(all.stdout, "api/one: forced_open (generation 1)\napi/two: forced_open (generation 1)\n");
  assert.equal(new Set(commands.map(({ commandId }) => commandId)).size, 5);
  assert.equal((await mcpf("breaker", "reset", "api", "--reason", "refuse", "--yes")).code, 1);
  for (const target of ["nope", "api/nope", "api/one/x"]) {
    const ran = await mcpf("breaker", "reset", target, "--reason", "r", "--yes");
    assert.deepEqual([ran.code, commands.length], [2, 6], target);
  }
});

test("status reads the log alone: every breaker, why it is as it is and by whom, and 3 when one is open", async (t) => {
  const { mcpf, say } = await world(t);
  assert.equal((await mcpf("breaker", "status")).code, 0);
  await say("two", {
    status: "half_open",
    generation: 4,
    permits: [{ router: "router-1", calls: 10, expiresAtMs: Date.parse(timestamp) + 1000 }],
  });
  assert.equal((await mcpf("breaker", "status")).code, 0);
  await say("one", { status: "forced_open", generation: 9 });
  const ran = await mcpf("breaker", "status", "-o", "json");
  assert.equal(ran.code, 3);
  const { breakers } = JSON.parse(ran.stdout);
  assert.deepEqual(breakers[0], {
    upstream: "api",
    endpoint: "one",
    status: "forced_open",
    generation: 9,
    since: timestamp,
    openUntil: null,
    openings: 0,
    permits: [],
    by,
    reason: "forced open by ada: rebuilt",
  });
  assert.deepEqual(breakers[1].permits, [{ router: "router-1", calls: 10, expires: "2026-01-01T00:00:01.000Z" }]);
  assert.equal((await mcpf("breaker", "status", "api/two")).code, 0);
  assert.match((await mcpf("breaker", "status", "api")).stdout, /one +forced_open +9 .*forced open by ada: rebuilt \| \(by ada\)/);
});

test("status: what cannot be read changes nothing, as for breaker-state, and without a configuration nothing is known", async (t) => {
  const { broker, mcpf, say } = await world(t);
  await say("one", { status: "forced_open", generation: 9 });
  publishRawToMemory(broker, "breaker.changed.api.one", "{ torn");
  const ran = await mcpf("breaker", "status", "api/one");
  assert.deepEqual([ran.code, /forced_open +9 /.test(ran.stdout)], [3, true], ran.stdout);
  const empty = memoryBroker().connect();
  await empty.ensureStreams(streams, { replicas: 1 });
  const none = await runMcpf(empty, ["breaker", "status"]);
  assert.deepEqual([none.code, none.stdout], [1, ""]);
  assert.match(none.stderr, /no configuration that can be read has been applied/);
});

test("status of more endpoints than are asked for at once has each of them, in order", async (t) => {
  const endpoints = Array.from({ length: 600 }, (_, n) => `{ name: e${n}, url: "http://127.0.0.1:${9000 + n}", tier: 0 }`);
  const { bus } = await configured(`upstreams: { api: { kind: http, mode: pool, endpoints: [${endpoints.join(", ")}] } }`);
  t.after(() => bus.close());
  const ran = await runMcpf(bus, ["breaker", "status", "-o", "json"]);
  assert.equal(ran.code, 0, ran.stderr);
  const { breakers } = JSON.parse(ran.stdout) as { breakers: { endpoint: string }[] };
  assert.deepEqual(
    breakers.map(({ endpoint }) => endpoint),
    endpoints.map((_, n) => `e${n}`),
  );
});

test("test probes once, and says what the fleet would decide on all that it knows", async (t) => {
  const good = await world(t, "ok");
  const ran = await good.mcpf("breaker", "test", "api/one");
  assert.deepEqual([ran.code, ran.stderr], [0, ""]);
  assert.match(ran.stdout, /^api\/one: closed \(generation 0\), stays closed: nothing trips it\n {2}p1: ok in 3\.0 ms\n$/);
  const bad = await world(t, "hard");
  await bad.failing(4);
  const fifth = await bad.mcpf("breaker", "test", "api/one", "-o", "json");
  assert.equal(fifth.code, 3);
  const said = JSON.parse(fifth.stdout);
  assert.deepEqual(
    [said.status, said.next.status, said.next.rule, said.evidence[0].hardRun],
    ["closed", "open", "consecutive_failures", 5],
  );
  const nobody = await world(t);
  assert.match((await nobody.mcpf("breaker", "test", "api/one")).stderr, /no prober is running/);
});

test("test judges by the store's clock, as the fleet does, on a machine that is an hour ahead of it or behind it", async (t) => {
  for (const aheadMs of [3_600_000, -3_600_000]) {
    const storeNowMs = (): number => Date.now() + aheadMs;
    const { mcpf, say, failing } = await world(t, "hard", storeNowMs);
    await failing(4);
    const said = JSON.parse((await mcpf("breaker", "test", "api/one", "-o", "json")).stdout);
    assert.deepEqual([said.next.status, said.next.rule, said.evidence[0]?.hardRun], ["open", "consecutive_failures", 5], `${aheadMs}`);
    await say("two", { status: "open", generation: 1, openings: 1, sinceMs: storeNowMs(), openUntilMs: storeNowMs() + 600_000 });
    const open = JSON.parse((await mcpf("breaker", "test", "api/two", "-o", "json")).stdout);
    assert.deepEqual([open.status, open.next.status], ["open", "open"], `its ten minutes are not over: ${aheadMs}`);
    await say("two", { status: "open", generation: 2, openings: 1, sinceMs: storeNowMs() - 9000, openUntilMs: storeNowMs() - 1000 });
    const over = JSON.parse((await mcpf("breaker", "test", "api/two", "-o", "json")).stdout);
    assert.deepEqual([over.status, over.next.status], ["open", "half_open"], `its time is over: ${aheadMs}`);
  }
});
