import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { BusError, RefusedError } from "@mcp-failover/bus";
import { type DataOf, type FailbackCommand, type HoldCommand, makeEvent } from "@mcp-failover/contracts";
import { configured, runMcpf } from "./support.ts";

const by = { kind: "operator" as const, id: "ada" };
const timestamp = "2026-01-01T00:00:00.000Z";

/** A bus with a configuration, and a failover-controller that takes down what it is asked. */
async function world(t: TestContext) {
  const { bus } = await configured();
  const asked: { failback: FailbackCommand[]; hold: HoldCommand[] } = { failback: [], hold: [] };
  const answer = {
    upstream: "api",
    from: "two",
    to: "one",
    epoch: 2,
    overrode: [],
    rejected: [{ option: "three", why: "its health is unhealthy" }],
  };
  const answers = { hold: (): object => ({ upstream: "api", epoch: 3 }) };
  const served = await bus.serve({
    name: "failover-controller",
    instance: "f-1",
    version: "0.1.0",
    description: "",
    handlers: {
      "command.failback": async (body) => {
        asked.failback.push(body);
        return answer;
      },
      "command.hold": async (body) => {
        asked.hold.push(body);
        return answers.hold();
      },
    },
  });
  t.after(async () => {
    await served.stop();
    await bus.close();
  });
  const mcpf = (...argv: string[]) => runMcpf(bus, argv);
  const say = async (data: DataOf<"failover.decided">) =>
    bus.appendFenced(
      makeEvent({
        type: "failover.decided",
        keys: ["api"],
        data,
        id: "e-1",
        service: "failover-controller",
        instance: "test",
        timeMs: Date.now(),
      }),
      0,
    );
  return { asked, answers, mcpf, say, bus };
}

test("mcpf failback asks for a way back with a reason, and a dry run shows what was not chosen without asking for consent", async (t) => {
  const { mcpf, asked } = await world(t);
  assert.equal((await mcpf("failback", "api", "--yes")).code, 2, "a change needs a reason");
  const done = await mcpf("failback", "api", "--reason", "mended", "--yes");
  assert.deepEqual([done.code, done.stdout], [0, "api: two -> one (epoch 2)\n"]);
  const dry = await mcpf("failback", "api", "--reason", "look", "--dry-run");
  assert.deepEqual([dry.code, dry.stdout], [0, "would move api: two -> one (epoch 2)\n  not three: its health is unhealthy\n"]);
  const forced = await mcpf("failback", "api", "--reason", "now", "--yes", "--force", "-o", "json");
  assert.equal(JSON.parse(forced.stdout).to, "one");
  assert.deepEqual(
    asked.failback.map(({ upstream, force, dryRun, reason }) => [upstream, force, dryRun, reason]),
    [
      ["api", false, false, "mended"],
      ["api", false, true, "look"],
      ["api", true, false, "now"],
    ],
  );
});

test("mcpf hold --until says the time itself, whatever this machine's clock says of it, and refuses one that is no time or comes with --for", async (t) => {
  const { mcpf, asked, answers } = await world(t);
  const until = new Date(Math.ceil(Date.now() / 1000) * 1000 + 3_600_000).toISOString();
  const held = await mcpf("hold", "api", "--until", until, "--reason", "upgrade", "--yes");
  assert.deepEqual([held.code, held.stdout], [0, `api is held until ${until} (epoch 3)\n`]);
  assert.equal(asked.hold[0]?.untilMs, Date.parse(until));
  // By this machine's clock it is over: whether it is, the controller says.
  const over = await mcpf("hold", "api", "--until", "2020-01-01T00:00:00Z", "--reason", "upgrade", "--yes");
  assert.deepEqual([over.code, asked.hold[1]?.untilMs, asked.hold[1]?.forMs], [0, Date.parse("2020-01-01T00:00:00Z"), 1]);
  answers.hold = () => {
    throw new RefusedError("until_over", "it is over: it is 12:00 by the store's clock; give a time that is still to come");
  };
  assert.equal(
    (await mcpf("hold", "api", "--until", until, "--reason", "upgrade", "--yes")).code,
    2,
    "wrong usage, as the controller says",
  );
  const { length } = asked.hold;
  for (const wrong of [
    ["--until", "tomorrow"],
    ["--until", until, "--for", "1h"],
  ]) {
    assert.equal((await mcpf("hold", "api", ...wrong, "--reason", "upgrade", "--yes")).code, 2, wrong.join(" "));
  }
  assert.equal(asked.hold.length, length);
  assert.equal((await mcpf("hold", "api", "--for", "10m", "--reason", "upgrade", "--yes")).code, 2);
  assert.deepEqual([asked.hold.at(-1)?.forMs, asked.hold.at(-1)?.untilMs], [600_000, undefined]);
});

test("mcpf why tells of a hold after a verification what was tried, by which traffic it was judged, and prints the same as JSON", async (t) => {
  const { mcpf, say } = await world(t);
  const reason = "two: 20 of 20 calls failed since it became active at epoch 3; held until an operator releases it";
  const before = {
    epoch: 3,
    kind: "failover" as const,
    atMs: 1,
    untilMs: 2,
    round: 2,
    tried: ["one"],
    before: { ok: 0, hard: 9 },
    failed: true,
  };
  await say({
    service: "api",
    action: "held",
    previousEndpoint: "two",
    currentEndpoint: "two",
    timestamp,
    automatic: true,
    by: { kind: "service", id: "failover-controller" },
    reason,
    commandId: null,
    overrode: [],
    state: {
      generation: 1,
      epoch: 4,
      active: "two",
      tier: 1,
      sinceMs: 1,
      held: { by, reason, sinceMs: 1, untilMs: null },
      moves: [],
      trial: before,
    },
    certificate: {
      decider: "decideFailover",
      rule: "verify_failed",
      policyHash: "p",
      nowMs: 1,
      folded: { AUDIT: null, SIGNALS: null },
      input: { evidence: {}, traffic: { after: [{ router: "r1", ok: 0, hard: 20, run: 20 }], before: { ok: 0, hard: 20 } } },
      rejected: [{ option: "one", why: "tried already" }],
    },
  });
  const said = (await mcpf("why", "api")).stdout;
  assert.match(said, /^Held at two \(epoch 4\)/);
  assert.match(said, /rule +verify_failed, automatic/);
  assert.match(said, /traffic +r1: 0 calls well, 20 failed, the last 20 in a row/);
  assert.match(said, /not one: tried already/);
  const { decision } = JSON.parse((await mcpf("why", "api", "-o", "json")).stdout);
  assert.deepEqual(
    [decision.action, decision.rule, decision.traffic],
    ["held", "verify_failed", [{ router: "r1", ok: 0, hard: 20, run: 20 }]],
  );
});

test("an order says at which sequence of the log it was given, so that it is refused where it comes through after a later one", async (t) => {
  const { mcpf, asked, bus } = await world(t);
  const { lastSeq } = await bus.info("AUDIT");
  assert.ok(lastSeq > 0);
  assert.equal((await mcpf("hold", "api", "--reason", "r", "--yes")).code, 0);
  assert.equal((await mcpf("failback", "api", "--reason", "r", "--yes")).code, 0);
  assert.deepEqual([asked.hold[0]?.givenAtSeq, asked.failback[0]?.givenAtSeq], [lastSeq, lastSeq]);
});

test("an order whose answer is lost is given again under its own id, and never told to be worth another try where nobody knows what became of it", async (t) => {
  const { mcpf, asked, bus } = await world(t);
  const request = bus.request.bind(bus);
  let lost = 0;
  const lose = (count: number): void => {
    lost = count;
    bus.request = (async (...all: Parameters<typeof request>) => {
      const answer = await request(...all);
      if (lost === 0) return answer;
      lost -= 1;
      throw new BusError("timeout", "no answer to it; it may have been done all the same", { retriable: true });
    }) as typeof bus.request;
  };
  lose(1);
  assert.equal((await mcpf("failback", "api", "--reason", "r", "--yes")).code, 0);
  assert.equal(asked.failback.length, 2);
  assert.equal(new Set(asked.failback.map(({ commandId }) => commandId)).size, 1, "it is one order");
  lose(3);
  const unknown = await mcpf("failback", "api", "--reason", "r", "--yes", "-o", "json");
  assert.equal(unknown.code, 1);
  const { error } = JSON.parse(unknown.stderr || unknown.stdout);
  assert.deepEqual([error.code, error.retriable ?? false], ["timeout", false]);
  assert.match(error.message, /Look at `mcpf status` before you give the order again/);
});

test("an order that reached nobody at any try is told as not given, and a try that reached nobody says nothing of one before it", async (t) => {
  const { mcpf, bus } = await world(t);
  const lost = new BusError("timeout", "no answer to it; it may have been done all the same", { retriable: true });
  const unsent = new BusError("unreachable", "NATS cannot be reached", { retriable: true });
  const nobody = new BusError("no_responders", "no instance answers", { retriable: true });
  for (const [tries, told] of [
    [[unsent, unsent, unsent], { code: "unreachable", retriable: true, isUnknown: false }],
    [[unsent, nobody, nobody], { code: "no_responders", retriable: true, isUnknown: false }],
    [[lost, unsent, unsent], { code: "unreachable", retriable: false, isUnknown: true }],
    [[unsent, lost, nobody], { code: "no_responders", retriable: false, isUnknown: true }],
  ] as const) {
    const left = [...tries];
    bus.request = (async () => {
      throw left.shift();
    }) as typeof bus.request;
    const ran = await mcpf("failback", "api", "--reason", "r", "--yes", "-o", "json");
    const { error } = JSON.parse(ran.stderr);
    const isUnknown = /may have been done by a try before\. Look at `mcpf status` before you give the order again/.test(error.message);
    assert.deepEqual({ code: error.code, retriable: error.retriable, isUnknown }, told, error.message);
  }
});

test("mcpf why prints the certificate of a move, who applied it, what it overrode, and what was refused or failed since; as JSON the same", async (t) => {
  const { mcpf, say, bus } = await world(t);
  const vote = {
    observer: "p1",
    kind: "prober",
    verdict: "unhealthy",
    outcome: "hard",
    code: "refused",
    atMs: 1_000,
    ref: { stream: "SIGNALS", seq: 7 },
  };
  const certificate = {
    decider: "decideFailover",
    rule: "operator_forced",
    policyHash: "hash-of-the-policy",
    nowMs: 1,
    folded: { AUDIT: { first: 1, last: 3 }, SIGNALS: { first: 2, last: 9 } },
    input: { evidence: { one: { votes: [vote] } } },
    rejected: [{ option: "three", why: "its health is unhealthy" }],
  };
  const common = { service: "api", timestamp, by, reason: "one is dead" };
  const moved = { generation: 1, epoch: 4, active: "two", tier: 1, sinceMs: 1, held: null, moves: [] };
  await say({
    ...common,
    action: "moved",
    previousEndpoint: "one",
    currentEndpoint: "two",
    automatic: false,
    commandId: "c-1",
    overrode: ["cooldown", "breaker"],
    state: moved,
    certificate,
  });
  const first = JSON.parse((await mcpf("why", "api", "-o", "json")).stdout);
  assert.deepEqual([first.executed, first.rejected, first.failing], [null, null, null]);
  const decided = (await bus.info("AUDIT")).lastSeq;
  const from = (id: string) => ({ id, service: "failover-controller", instance: "test", timeMs: Date.now() }) as const;
  const applied = { appliedBy: ["router-1"], notAppliedBy: ["router-2"] };
  const executed = {
    ...common,
    epoch: 4,
    decisionId: "e-1",
    previousEndpoint: "one",
    currentEndpoint: "two",
    automatic: false,
    ...applied,
  };
  await bus.append(makeEvent({ type: "failover.executed", keys: ["api"], data: executed, ...from("e-2") }));
  const refused = { ...certificate, rule: "cooldown", rejected: [] };
  const refusal = { ...common, epoch: 4, rule: "cooldown", reason: "it was moved a moment ago", automatic: true, commandId: null };
  await bus.append(makeEvent({ type: "failover.rejected", keys: ["api"], data: { ...refusal, certificate: refused }, ...from("e-3") }));
  const dead = { service: "api", timestamp, rule: "no_candidate", reason: "nothing else is proven", failing: true };
  const failing = { ...certificate, rule: "no_candidate", rejected: [{ option: "one", why: "it is dead" }] };
  await bus.append(makeEvent({ type: "failover.failed", keys: ["api"], data: { ...dead, certificate: failing }, ...from("e-4") }));

  const why = JSON.parse((await mcpf("why", "api", "-o", "json")).stdout);
  const { decision } = why;
  assert.deepEqual([decision.seq, decision.epoch, decision.from, decision.to, decision.by], [decided, 4, "one", "two", "ada"]);
  assert.deepEqual(
    [decision.overrode, decision.policyHash, decision.folded],
    [["cooldown", "breaker"], "hash-of-the-policy", certificate.folded],
  );
  assert.deepEqual([decision.votes, decision.alternatives], [[{ endpoint: "one", ...vote }], certificate.rejected]);
  assert.deepEqual([why.executed.appliedBy, why.executed.notAppliedBy, why.executed.seq], [["router-1"], ["router-2"], decided + 1]);
  assert.deepEqual([why.rejected.rule, why.rejected.reason], ["cooldown", "it was moved a moment ago"]);
  assert.deepEqual([why.failing.rule, why.failing.alternatives], ["no_candidate", [{ option: "one", why: "it is dead" }]]);

  const { stdout } = await mcpf("why", "api");
  for (const line of [
    /^Moved one -> two \(epoch 4\)/,
    /because +one is dead/,
    /rule +operator_forced, by ada; policy hash-of-the-policy/,
    /overrode +cooldown, breaker/,
    /read +AUDIT 1\.\.3, SIGNALS 2\.\.9/,
    /one +p1 +unhealthy +refused +1970-01-01T00:00:01\.000Z +SIGNALS #7/,
    /not three: its health is unhealthy/,
    /executed .*applied by router-1, not by router-2/,
    /FAILING, nowhere to go.*\n.*nothing else is proven/,
    /Refused since.*\n.*it was moved a moment ago/,
  ])
    assert.match(stdout, line);
});
