import assert from "node:assert/strict";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { memoryBroker, RefusedError } from "@mcp-failover/bus";
import { type BreakerCommand, type BreakerState, makeEvent, type Observation, parseTopology, streams } from "@mcp-failover/contracts";
import { initialBreakerState } from "@mcp-failover/domain";
import { runCli } from "../src/index.ts";

const yaml = `
upstreams:
  api:
    kind: http
    endpoints:
      - { name: one, url: "http://127.0.0.1:9001", tier: 0 }
      - { name: two, url: "http://127.0.0.1:9002", tier: 1 }
`;
const by = { kind: "operator" as const, id: "ada" };
const timestamp = "2026-01-01T00:00:00.000Z";

/** A bus with a configuration, a breaker-state that records its commands, and one prober. */
async function world(t: TestContext, outcome: Observation["outcome"] | null = null) {
  const broker = memoryBroker();
  const bus = broker.connect();
  await bus.ensureStreams(streams, { replicas: 1 });
  const { topology, hash } = parseTopology(yaml, { file: "failover.yaml", env: {} });
  const config = { version: 1, hash, fileHash: hash, timestamp, by, reason: "start", environment: "development" as const, topology };
  let ids = 0;
  const from = (service: "bootstrap" | "breaker-state" | "prober") => {
    ids += 1;
    return { id: `e-${ids}`, service, instance: "test", timeMs: Date.now() };
  };
  await bus.appendFenced(makeEvent({ type: "config.applied", keys: [], data: config, ...from("bootstrap") }), 0);
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
    const prober = broker.connect({ instance: "p1" });
    const own = await prober.serve({
      name: "prober",
      instance: "p1",
      version: "0.1.0",
      description: "",
      metadata: { instance: "p1" },
      handlers: {},
    });
    t.after(() => own.stop());
    prober.subscribe("probe.requested", (event, respond) => {
      const observations = event.data.targets.map((target) => ({
        ...target,
        observer: "p1",
        purpose: event.data.purpose,
        requestId: event.data.requestId,
        startedAtMs: Date.now(),
        responseTimeMs: 3,
        outcome,
        code: outcome === "hard" ? ("refused" as const) : null,
        error: outcome === "hard" ? "connection refused" : null,
        httpStatus: null,
        era: null,
      }));
      const observed = makeEvent({ type: "probe.observed", keys: ["p1"], data: { observer: "p1", observations }, ...from("prober") });
      prober.append(observed).then(() => respond(observed), assert.fail);
    });
  }
  const mcpf = async (...argv: string[]) => {
    let [stdout, stderr] = ["", ""];
    const code = await runCli(argv, {
      env: { MCPF_DATA_DIR: join(tmpdir(), "mcpf-none"), MCPF_OPERATOR: "ada" },
      write: (text) => {
        stdout += text;
      },
      writeError: (text) => {
        stderr += text;
      },
      bus,
    });
    return { code, stdout, stderr };
  };
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
  return { mcpf, commands, say, failing };
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
