import assert from "node:assert/strict";
import { test } from "node:test";
import type { Event, EventType } from "@mcp-failover/contracts";
import type { FailoverDecision, FailoverInput, Want } from "@mcp-failover/domain";
import { Attention } from "../src/attention.ts";
import { WaitingRoom } from "../src/waiting-room.ts";

const nowMs = 1_000_000;
const input = (upstream: string, more: object = {}): FailoverInput =>
  ({
    upstream,
    state: { active: "a", tier: 0, held: null, moves: [] },
    policy: { failback: "manual" },
    health: {},
    endpoints: [{ name: "a", tier: 0, role: "write" }],
    suspects: [],
    nowMs,
    ...more,
  }) as unknown as FailoverInput;
const none = (rule: string): FailoverDecision => ({ kind: "none", rule, reason: "" });
/** Only what the attention reads of an event. */
const heard = (type: EventType, data: object): Event => ({ type, data }) as unknown as Event;
const probe = (upstream: string, outcome: string, endpoint = "a"): Event =>
  heard("probe.observed", { observations: [{ upstream, endpoint, outcome }] });

test("of a fleet that is well only a thirtieth is looked at each second, and all of it within thirty", () => {
  const attention = new Attention();
  const known = Array.from({ length: 1000 }, (_, index) => `u${index}`);
  assert.equal([...attention.due(known, nowMs)].length, 1000, "nothing is known of it yet");
  for (const upstream of known) attention.evaluated(input(upstream), none("active_healthy"), true);
  const looked = new Set<string>();
  for (let second = 0; second < 30; second += 1) {
    const due = [...attention.due(known, nowMs)];
    assert.ok(due.length <= 34, `${due.length} in one second`);
    for (const upstream of due) looked.add(upstream);
  }
  assert.equal(looked.size, 1000);
});

test("a word for an upstream that is well changes nothing, one against it does at once; of one that nothing is known of any word does", () => {
  const attention = new Attention();
  attention.evaluated(input("calm"), none("active_healthy"), true);
  attention.evaluated(input("blank"), none("no_evidence"), true);
  const of = (event: Event) => [...attention.heard(event, ["calm", "blank"])];
  assert.deepEqual(of(probe("calm", "ok")), []);
  assert.deepEqual(of(probe("calm", "hard")), ["calm"]);
  assert.deepEqual(of(probe("blank", "ok")), ["blank"]);
  attention.evaluated(input("blank"), none("maintenance"), true);
  assert.deepEqual(of(probe("blank", "ok")), [], "in maintenance nothing is moved whatever is said");
  assert.deepEqual(of(heard("health.changed", { service: "calm" })), ["calm"]);
  const traffic = (window: object) =>
    of(heard("traffic.observed", { endpoints: [{ upstream: "calm", endpoint: "a", hard: 0, inFlight: 0, ok: 1, ...window }] }));
  assert.deepEqual(traffic({}), []);
  assert.deepEqual(traffic({ hard: 1 }), ["calm"]);
  assert.deepEqual(traffic({ ok: 0, inFlight: 2 }), ["calm"], "calls that do not end");
  assert.deepEqual(of(heard("config.applied", {})), ["calm", "blank"]);
});

test("a word against an endpoint that an upstream is not judged by wakes nobody; in a pool it is judged by all of the active tier", () => {
  const attention = new Attention();
  const endpoints = [
    { name: "a", tier: 0, role: "write" },
    { name: "b", tier: 0, role: "write" },
    { name: "c", tier: 1, role: "write" },
  ];
  attention.evaluated(input("pair", { mode: "active_standby", endpoints }), none("active_healthy"), true);
  attention.evaluated(input("pool", { mode: "pool", endpoints }), none("active_healthy"), true);
  const of = (upstream: string, endpoint: string) => [...attention.heard(probe(upstream, "hard", endpoint), ["pair", "pool"])];
  assert.deepEqual(of("pair", "a"), ["pair"]);
  assert.deepEqual(of("pair", "b"), []);
  assert.deepEqual(of("pool", "b"), ["pool"]);
  assert.deepEqual(of("pool", "c"), []);
});

test("where everything fails a word for any endpoint is looked at at once, and more words against them wait for the next second", () => {
  const attention = new Attention();
  const failing: FailoverDecision = { kind: "failing", rule: "no_candidate", reason: "", sinceMs: nowMs, rejected: [], targets: [] };
  const endpoints = ["a", "b"].map((name, tier) => ({ name, tier, role: "write" }));
  attention.evaluated(input("down", { endpoints }), failing, true);
  const of = (event: Event) => [...attention.heard(event, ["down"])];
  const calls = (window: object) =>
    of(heard("traffic.observed", { endpoints: [{ upstream: "down", endpoint: "b", inFlight: 3, ...window }] }));
  assert.deepEqual([of(probe("down", "hard")), of(probe("down", "hard", "b")), calls({ hard: 9, ok: 0 })], [[], [], []]);
  assert.deepEqual([...attention.due(["down"], nowMs)], ["down"]);
  assert.deepEqual([...attention.due(["down"], nowMs + 1000)], ["down"], "each second");
  assert.deepEqual([of(probe("down", "ok", "b")), calls({ hard: 9, ok: 1 })], [["down"], ["down"]]);
  assert.deepEqual(of(heard("breaker.changed", { service: "down" })), ["down"]);
  attention.evaluated(input("down"), { ...failing, kind: "gather" } as unknown as FailoverDecision, true);
  assert.deepEqual(of(probe("down", "hard")), ["down"], "while the observers are asked any word matters");
  const rejected = { ...failing, kind: "rejected", rule: "held", automatic: true } as unknown as FailoverDecision;
  attention.evaluated(input("down", { endpoints }), rejected, true);
  assert.deepEqual([of(probe("down", "ok", "b")), of(probe("down", "hard"))], [[], []], "held: that another one is well changes nothing");
  assert.deepEqual(of(probe("down", "ok")), ["down"]);
  assert.deepEqual([...attention.due(["down"], nowMs)], ["down"]);
  attention.evaluated(input("down", { endpoints }), { ...rejected, targets: ["b"] } as FailoverDecision, true);
  assert.deepEqual(of(probe("down", "ok", "b")), ["down"], "proof that was asked for");
});

test("what has something due, is in trouble, in its grace or in a verification is looked at each second, what is due to fail back when it is", () => {
  const isRestless = (more: object, decision = none("active_healthy"), graceOver = true, afterMs = 0): boolean => {
    const attention = new Attention();
    const known = ["other", "u"];
    attention.evaluated(input("other"), none("active_healthy"), true);
    attention.evaluated(input("u", more), decision, graceOver);
    // Two seconds one after another: the sweep can explain one of them at most.
    const due = [...attention.due(known, nowMs + afterMs), ...attention.due(known, nowMs + afterMs)];
    return due.filter((upstream) => upstream === "u").length === 2;
  };
  assert.equal(isRestless({}), false);
  const state = { active: "a", tier: 0, held: null };
  assert.equal(isRestless({ state: { ...state, held: { untilMs: nowMs } } }), true, "a hold that ends");
  assert.equal(isRestless({ state: { ...state, trial: { untilMs: nowMs + 1, failed: false } } }), true, "a verification");
  assert.equal(isRestless({}, none("active_healthy"), false), true, "the grace");
  assert.equal(isRestless({}, { kind: "gather", rule: "evidence_missing", reason: "", targets: [] }), true);
  assert.equal(isRestless({}, none("no_majority")), true);
  const vote = { kind: "prober", observer: "p1", verdict: "unhealthy" };
  const evidence = (name: string) => ({ [name]: { observers: ["prober:p1"], votes: [vote] } });
  assert.equal(isRestless({ suspects: ["prober:p1"], evidence: evidence("a") }), true, "it may become credible again by words on others");
  assert.equal(isRestless({ suspects: ["prober:p1"], evidence: evidence("b") }), false, "what it says of another endpoint moves nothing");
  const backup = {
    state: { ...state, moves: [{ atMs: nowMs - 400_000 }] },
    policy: { failback: "automatic", failbackAfterMs: 300_000, failbackBackoffMax: 8 },
    endpoints: [
      { name: "b", tier: 0, role: "write" },
      { name: "a", tier: 1, role: "write" },
    ],
    health: { b: { status: "healthy", sinceMs: nowMs - 300_000 } },
  };
  const isDueAfter = (afterMs: number, more: object): boolean => isRestless(more, none("active_healthy"), true, afterMs);
  const wellFor = (ms: number) => ({ ...backup, health: { b: { status: "healthy", sinceMs: nowMs - ms } } });
  assert.deepEqual([isDueAfter(0, wellFor(299_000)), isDueAfter(1000, wellFor(299_000))], [false, true], "well for long enough");
  const moved = { ...backup, state: { ...backup.state, moves: [{ atMs: nowMs - 299_000 }] } };
  assert.deepEqual([isDueAfter(0, moved), isDueAfter(1000, moved)], [false, true], "moved long enough ago");
  assert.deepEqual([isDueAfter(0, backup), isDueAfter(5000, backup)], [false, true], "due, and something holds it up: asked again");
  assert.equal(
    isDueAfter(600_000, { ...backup, health: { b: { status: "unhealthy", sinceMs: 0 } } }),
    false,
    "only its health can change that",
  );
});

const want = (upstream: string, critical: boolean, sinceMs: number): Want =>
  ({ upstream, epoch: 1, critical, sinceMs, from: "a", to: "b", toBackup: true, failback: false, operator: false, force: false }) as Want;

test("in the waiting room the most urgent moves have their turn, and who is not proven in its turn makes room", () => {
  const room = new WaitingRoom();
  const all = [want("plain", false, 1), want("old", true, 1), want("young", true, 2)];
  for (const one of all) room.enter(one);
  const waits = (atMs: number) => all.map(({ upstream }) => upstream).filter((upstream) => room.mustWait(upstream, 1, atMs));
  assert.deepEqual(waits(nowMs), ["plain", "young"]);
  room.refused(all[1] as Want, nowMs + 1000, nowMs);
  assert.deepEqual(waits(nowMs), ["plain", "old", "young"], "there is no place for anybody yet");
  assert.deepEqual(waits(nowMs + 1000), ["plain", "young"]);
  assert.deepEqual(waits(nowMs + 7000), ["plain"], "old had its turn");
  room.refused(all[2] as Want, nowMs + 60_000, nowMs);
  assert.deepEqual(waits(nowMs + 7000), ["plain", "young"]);
  room.reopen(["plain", "old", "young"]);
  assert.deepEqual(waits(nowMs + 7000), ["plain"], "another configuration may allow more");
  room.leave("young");
  assert.deepEqual(waits(nowMs + 7000), []);
});

test("who is not configured any more has no place in the waiting room: it would never leave it, and all others would wait for ever", () => {
  const room = new WaitingRoom();
  const gone = Array.from({ length: 10 }, (_, index) => want(`gone${index}`, index === 0, index));
  for (const one of [...gone, want("here", false, 100)]) room.enter(one);
  assert.ok(room.mustWait("here", 10, nowMs));
  room.reopen(["here"]);
  assert.ok(!room.mustWait("here", 10, nowMs));
});
