import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { clientApiPrefix as api, consumerSubjects, onlooker } from "@mcp-failover/contracts";
import { headers, type NatsConnection } from "nats";
import { jetStreamApi } from "../src/internal.ts";
import type { Anybody, GuardedWorld } from "./guarded-world.ts";

/** What somebody would try who has the key of one service. */
export interface Attack {
  readonly name: string;
  run(world: GuardedWorld): Promise<void>;
}

const forged = "failover.executed.pinecone";
const payload = new TextEncoder().encode('{"forged":true}');
/** Who gets no answer has asked in vain. */
const answerMs = 300;
/** An answer that would land in the log has done so by then: the checks ask the same server afterwards. */
const settleMs = 50;

interface Before {
  readonly audit: string;
  readonly config: string;
}

async function standing(world: GuardedWorld): Promise<Before> {
  const { config, state } = await jetStreamApi<{ config: object; state: { messages: number; last_seq: number; first_seq: number } }>(
    world.admin,
    "STREAM.INFO.AUDIT",
  );
  const own = (await world.subjectsIn("AUDIT")).filter(
    (subject) => !/^(?:(?:health|breaker)\.changed\.mine|command\.accepted)/.test(subject),
  );
  const { messages, last_seq, first_seq } = state;
  return { audit: JSON.stringify(own), config: `${JSON.stringify(config)} ${last_seq - messages} ${first_seq}` };
}

/** Runs the attack, then looks into the streams: neither a message that was not there nor a change of the stream. */
function attack(name: string, as: Anybody, act: (nc: NatsConnection, world: GuardedWorld) => Promise<void> | void): Attack {
  return {
    name: `${as}: ${name}`,
    async run(world) {
      await something(world);
      const nc = await world.attack(as);
      const before = await standing(world);
      await act(nc, world);
      await nc.flush();
      await sleep(settleMs);
      const after = await standing(world);
      assert.equal(after.audit, before.audit, "no message of others has come into AUDIT");
      assert.equal(after.config, before.config, "AUDIT is as it was");
      await nc.close();
    },
  };
}

/** Asks, and expects no success: silence, a refusal, or an error of JetStream. */
async function inVain(nc: NatsConnection, subject: string, body: unknown = {}): Promise<void> {
  const answer = await nc.request(subject, JSON.stringify(body), { timeout: answerMs }).catch(() => null);
  if (answer === null || answer.headers?.code) return;
  const text = answer.string();
  assert.match(text, /"error"|-ERR/, `${subject} answered ${text.slice(0, 200)}`);
}

/** A consumer of its own, as the keeper makes it. */
async function ownConsumer(nc: NatsConnection, stream = "AUDIT"): Promise<string> {
  const answer = await nc.request(consumerSubjects.open, JSON.stringify({ stream, filter: ">", from: { kind: "all" } }), {
    timeout: 10_000,
  });
  return answer.json<{ name: string }>().name;
}

/** Something in AUDIT that a pull or a get could bring. */
async function something(world: GuardedWorld): Promise<void> {
  const nc = await world.attack("prober");
  await nc.request("health.changed.mine.a", payload, { timeout: 10_000 });
  await nc.close();
}

const forgedReplies: Attack[] = [
  attack("the reply of its own publish is an event of another service", "prober", (nc) =>
    nc.publish("health.changed.mine.a", payload, { reply: forged }),
  ),
  attack("the reply of its pull is an event of another service", "prober", async (nc) => {
    nc.publish(`${api}.CONSUMER.MSG.NEXT.AUDIT.${await ownConsumer(nc)}`, JSON.stringify({ batch: 10, no_wait: true }), { reply: forged });
  }),
  attack("the reply of reading one message is an event of another service", "prober", async (nc) => {
    nc.publish(`${api}.STREAM.MSG.GET.AUDIT`, JSON.stringify({ seq: 1 }), { reply: forged });
  }),
  attack("the reply of a direct get is an event of another service", "router", async (nc) => {
    await nc.request(`${api}.$KV.router-sessions.forged`, payload, { timeout: 10_000 });
    nc.publish(`${api}.DIRECT.GET.KV_router-sessions.$KV.router-sessions.forged`, "", { reply: forged });
  }),
  attack("the reply of looking at a stream is an event of another service", "router", (nc) =>
    nc.publish(`${api}.STREAM.INFO.AUDIT`, "", { reply: forged }),
  ),
  attack("the reply of a write to its bucket is an event of another service", "router", (nc) =>
    nc.publish(`${api}.$KV.router-sessions.k`, payload, { reply: forged }),
  ),
  attack("the reply of a request to the keeper is an event of another service", "prober", (nc) =>
    nc.publish(consumerSubjects.open, JSON.stringify({ stream: "AUDIT", filter: ">", from: { kind: "all" } }), { reply: forged }),
  ),
  attack("the reply of a command is an event of the one who obeys it", "console", async (nc, world) => {
    const served = await world.attack("failover-controller");
    served.subscribe("command.failover", { callback: (_error, message) => void message.respond(payload) });
    await served.flush();
    nc.publish("command.failover", payload, { reply: "failover.decided.pinecone" });
    await nc.flush();
    await sleep(settleMs);
  }),
  attack("the reply of a question to probers is one of their events", "failover-controller", async (nc, world) => {
    const asked = await world.attack("prober");
    asked.subscribe("probe.requested", { callback: (_error, message) => void message.respond(payload) });
    await asked.flush();
    nc.publish("probe.requested", payload, { reply: "health.changed.pinecone.primary" });
    await nc.flush();
    await sleep(settleMs);
  }),
  attack("the reply of asking who is there is an event of a service", "state-store", async (nc, world) => {
    const there = await world.attack("notifier");
    there.subscribe("$SRV.PING.notifier", { callback: (_error, message) => void message.respond(payload) });
    await there.flush();
    nc.publish("$SRV.PING.notifier", "", { reply: "incident.changed.forged" });
    await nc.flush();
    await sleep(settleMs);
  }),
  attack("the reply of asking how a service is, is an event of it", "cli", async (nc, world) => {
    const there = await world.attack("notifier");
    there.subscribe("$SRV.INFO.notifier", { callback: (_error, message) => void message.respond(payload) });
    await there.flush();
    nc.publish("$SRV.INFO.notifier", "", { reply: "incident.changed.forged" });
    await nc.flush();
    await sleep(settleMs);
  }),
  attack("asks how another service is", "state-store", (nc) => inVain(nc, "$SRV.INFO.notifier")),
  attack("an acknowledgement asks for the next message, as an event of another service", "notifier", async (nc) => {
    await nc.request("outbox.mail", payload, { timeout: 10_000 });
    await nc.request("outbox.mail", payload, { timeout: 10_000 });
    const wish = { stream: "OUTBOX", filter: "outbox.>", from: { kind: "all" }, queue: { durable: "notifier", ackWaitMs: 30_000 } };
    await nc.request(consumerSubjects.open, JSON.stringify(wish), { timeout: 10_000 });
    const first = await nc.request(`${api}.CONSUMER.MSG.NEXT.OUTBOX.notifier`, JSON.stringify({ batch: 1, expires: 5e9 }), {
      timeout: 10_000,
      noMux: true,
    });
    assert.match(first.reply ?? "", /^\$JS\.ACK\.OUTBOX\.notifier\./);
    nc.publish(first.reply ?? "", "+NXT 1", { reply: forged });
  }),
];

const words: Attack[] = [
  attack("decides a failover", "prober", (nc) => inVain(nc, "failover.decided.pinecone")),
  attack("says that a failover was executed", "router", (nc) => inVain(nc, forged)),
  attack("says that an endpoint is unhealthy", "router", (nc) => inVain(nc, "health.changed.pinecone.primary")),
  attack("applies a configuration", "notifier", (nc) => inVain(nc, "config.applied")),
  attack("accepts a command of another service", "breaker-state", (nc) => inVain(nc, "command.accepted.failover")),
  attack("begins a new generation of the log", "chaos-runner", (nc) => inVain(nc, "log.started")),
  attack("decides on behalf of an onlooker", "client", (nc) => inVain(nc, "rollback.decided.system.all")),
  attack("rolls the log up into one message", "prober", async (nc) => {
    const rollup = headers();
    rollup.set("Nats-Rollup", "all");
    await nc.request("health.changed.mine.a", payload, { headers: rollup, timeout: answerMs }).catch(() => null);
  }),
  attack("writes into the bucket of another service", "router", (nc) => inVain(nc, `${api}.$KV.chaos-lease.active`)),
  attack("overwrites a configuration in the object store", "prober", (nc) => inVain(nc, "$O.configurations.M.x")),
  attack("acknowledges a notification that it did not send", "router", (nc) => inVain(nc, "$JS.ACK.OUTBOX.notifier.1.1.1.1.0", "+ACK")),
  attack("sends a notification of its own", "console", (nc) => inVain(nc, "outbox.mail")),
];

const streamsOfOthers = [
  ["purges AUDIT", "cli", "STREAM.PURGE.AUDIT", {}],
  ["deletes AUDIT", "failover-controller", "STREAM.DELETE.AUDIT", {}],
  ["empties AUDIT by a small max_age", "prober", "STREAM.UPDATE.AUDIT", { name: "AUDIT", subjects: ["failover.>"], max_age: 1e9 }],
  ["makes a stream that takes the events of another", "router", "STREAM.CREATE.MINE", { name: "MINE", subjects: ["outbox.>"] }],
  ["deletes one message of AUDIT", "state-store", "STREAM.MSG.DELETE.AUDIT", { seq: 1 }],
  ["restores AUDIT from its own copy", "notifier", "STREAM.RESTORE.AUDIT", { config: { name: "AUDIT" }, state: {} }],
  ["takes a snapshot of AUDIT to a subject of its own", "console", "STREAM.SNAPSHOT.AUDIT", { deliver_subject: forged }],
  [
    "makes a consumer that pushes the signals into AUDIT",
    "breaker-state",
    "CONSUMER.CREATE.SIGNALS",
    { stream_name: "SIGNALS", config: { deliver_subject: forged } },
  ],
  [
    "makes a named consumer that pushes",
    "breaker-state",
    "CONSUMER.CREATE.SIGNALS.mine",
    { stream_name: "SIGNALS", config: { name: "mine", deliver_subject: forged } },
  ],
  [
    "makes a durable consumer that pushes",
    "router",
    "CONSUMER.DURABLE.CREATE.AUDIT.mine",
    { stream_name: "AUDIT", config: { durable_name: "mine", deliver_subject: "probe.observed.x" } },
  ],
  ["lists the consumers of others", "router", "CONSUMER.NAMES.AUDIT", {}],
  ["makes the leader step down", "router", "STREAM.LEADER.STEPDOWN.AUDIT", {}],
  ["reads the queue of the notifier", "prober", "STREAM.MSG.GET.OUTBOX", { seq: 1 }],
] as const;

function changesStreams(name: string, as: Anybody, verb: string, body: object): Attack {
  return attack(name, as, async (nc) => {
    // Both ways: as our own code would, and past it.
    for (const prefix of [api, "$JS.API"]) await inVain(nc, `${prefix}.${verb}`, body);
  });
}

const others: Attack[] = [
  attack("asks the keeper for a stream that it does not read", "router", (nc) =>
    inVain(nc, consumerSubjects.open, { stream: "SIGNALS", filter: ">", from: { kind: "all" } }),
  ),
  attack("asks the keeper in the name of another", "router", (nc) =>
    inVain(nc, `${consumerSubjects.open}.breaker-state`, { stream: "SIGNALS", filter: ">", from: { kind: "all" } }),
  ),
  attack("smuggles a publish into what the keeper sends", "prober", (nc) =>
    inVain(nc, consumerSubjects.open, { stream: "AUDIT", filter: `a 0\r\n\r\nPUB ${forged} 2\r\n{}\r\nPUB x`, from: { kind: "all" } }),
  ),
  attack("takes from the queue of another by its durable name", "router", (nc) =>
    inVain(nc, consumerSubjects.open, {
      stream: "OUTBOX",
      filter: ">",
      from: { kind: "all" },
      queue: { durable: "notifier", ackWaitMs: 1000 },
    }),
  ),
  attack("deletes the consumer of another service", "prober", async (nc, world) => {
    const victim = await world.attack("router");
    const name = await ownConsumer(victim);
    await inVain(nc, consumerSubjects.close, { stream: "AUDIT", name });
    await inVain(nc, `${api}.CONSUMER.DELETE.AUDIT.${name}`);
    await inVain(nc, `$JS.API.CONSUMER.DELETE.AUDIT.${name}`);
    const there = await jetStreamApi<{ consumers: string[] }>(world.admin, "CONSUMER.NAMES.AUDIT", {});
    assert.ok(there.consumers.includes(name), "the consumer is still there");
  }),
  attack("answers the request of another", "notifier", async (nc, world) => {
    nc.subscribe("command.failover", {
      callback: (error, message) => (error ? undefined : void message.respond('{"ok":true,"result":"forged"}')),
    });
    await nc.flush();
    const console_ = await world.attack("console");
    const answer = await console_.request("command.failover", "{}", { timeout: answerMs }).catch(() => null);
    assert.doesNotMatch(answer?.string() ?? "", /"result":"forged"/);
  }),
  attack("listens to the answers and events of all", "fault-proxy", async (nc, world) => {
    const heard: string[] = [];
    for (const subject of ["_INBOX.>", "_R_.>", "outbox.>", "failover.>", "mcpf.>", "$JS.>", "CORE.API.>", "command.>"])
      nc.subscribe(subject, { callback: (error, message) => (error ? undefined : void heard.push(message.subject)) });
    await nc.flush();
    const notifier = await world.attack("notifier");
    await notifier.request("outbox.mail", payload, { timeout: 10_000 });
    await ownConsumer(notifier);
    await nc.flush();
    assert.deepEqual(heard, []);
  }),
  attack("comes without a key", "router", async (nc, world) => {
    const { connect } = await import("nats");
    await assert.rejects(
      connect({ servers: `127.0.0.1:${nc.info?.port ?? world.server.port}`, maxReconnectAttempts: 0, reconnect: false }),
    );
  }),
];

export const attacks: readonly Attack[] = [
  ...forgedReplies,
  ...words,
  ...streamsOfOthers.map(([name, as, verb, body]) => changesStreams(name, as, verb, body)),
  ...others,
];

const saidByOthers = [
  ...["failover.decided.pinecone", forged, "health.changed.pinecone.primary", "breaker.changed.pinecone.primary", "config.applied"],
  ...["log.started", "outbox.mail", "quarantine.AUDIT.1", "probe.requested", "traffic.observed.router-1", "$O.configurations.M.x"],
  ...[
    "command.failover",
    "command.rollback.tool",
    "launcher.kill",
    "fault.set",
    "state.status",
    "$SRV.PING.router",
    "$SRV.INFO.router",
    "$SYS.REQ.SERVER.PING",
  ],
  ...["$KV.chaos-lease.active", `${api}.$KV.chaos-lease.active`, "$JS.ACK.OUTBOX.notifier.1.1.1.1.0"],
];

/** What somebody would try who has no key, where such may look. */
export const attacksOfOnlookers: readonly Attack[] = [
  ...saidByOthers.map((subject) => attack(`says ${subject}`, onlooker, (nc) => inVain(nc, subject))),
  ...streamsOfOthers.map(([name, , verb, body]) => changesStreams(name, onlooker, verb, body)),
  ...["SIGNALS", "OUTBOX", "QUARANTINE", "KV_router-sessions", "KV_router-lists", "OBJ_configurations"].flatMap((stream) => [
    ...(stream.startsWith("OBJ_") ? [] : [changesStreams(`reads ${stream}`, onlooker, `STREAM.MSG.GET.${stream}`, { seq: 1 })]),
    changesStreams(`removes from ${stream}`, onlooker, `STREAM.MSG.DELETE.${stream}`, { seq: 1 }),
  ]),
  ...(["SIGNALS", "OUTBOX", "QUARANTINE"] as const).map((stream) =>
    attack(`asks the keeper for ${stream}`, onlooker, (nc) =>
      inVain(nc, consumerSubjects.open, { stream, filter: ">", from: { kind: "all" } }),
    ),
  ),
  attack("the reply of its pull is an event", onlooker, async (nc) => {
    nc.publish(`${api}.CONSUMER.MSG.NEXT.AUDIT.${await ownConsumer(nc)}`, JSON.stringify({ batch: 10, no_wait: true }), { reply: forged });
  }),
  attack("the reply of reading one message is an event", onlooker, (nc) =>
    nc.publish(`${api}.STREAM.MSG.GET.AUDIT`, JSON.stringify({ seq: 1 }), { reply: forged }),
  ),
  attack("the reply of looking at a stream is an event", onlooker, (nc) => nc.publish(`${api}.STREAM.INFO.AUDIT`, "", { reply: forged })),
  attack("the reply of a request to the keeper is an event", onlooker, (nc) =>
    nc.publish(consumerSubjects.open, JSON.stringify({ stream: "AUDIT", filter: ">", from: { kind: "all" } }), { reply: forged }),
  ),
  attack("answers the request of a service", onlooker, async (nc, world) => {
    for (const subject of ["command.failover", "mcpf.consumer.open.prober", ">"])
      nc.subscribe(subject, { callback: (error, message) => (error ? undefined : void message.respond('{"ok":true,"result":"forged"}')) });
    await nc.flush();
    const asker = await world.attack("console");
    const answer = await asker.request("command.failover", "{}", { timeout: answerMs }).catch(() => null);
    assert.doesNotMatch(answer?.string() ?? "", /"result":"forged"/);
  }),
  attack("listens to what services ask and answer, to signals, notifications and keys", onlooker, async (nc, world) => {
    const heard: string[] = [];
    for (const subject of [">", "_INBOX.>", "outbox.>", "mcpf.>", "$JS.>", "$KV.>", "CORE.API.>", "command.>", "probe.>"])
      nc.subscribe(subject, {
        callback: (error, message) => (error ? undefined : void heard.push(`${message.subject} ${message.string()}`)),
      });
    await nc.flush();
    const notifier = await world.attack("notifier");
    await notifier.request("outbox.mail", payload, { timeout: 10_000 });
    await ownConsumer(notifier);
    const prober = await world.attack("prober");
    await prober.request("probe.observed.x1", payload, { timeout: 10_000 }).catch(() => null);
    await nc.flush();
    await sleep(settleMs);
    // Others of these tests say events meanwhile, which are for everybody; and onlookers have one account, with each other's answers in it,
    // also those that were to be an event of a service.
    const isOfServices = (one: string): boolean =>
      /^(?:outbox|probe|traffic|notification|mcpf|\$KV|\$JS|CORE)\./.test(one) ||
      /^command\.(?!accepted\.)/.test(one) ||
      (one.startsWith("_INBOX.") && /notifier-|OUTBOX|SIGNALS/.test(one) && !one.includes("onlooker does not read"));
    assert.deepEqual(heard.filter(isOfServices), []);
  }),
  attack("takes the consumer of a service, or removes it", onlooker, async (nc, world) => {
    const name = await ownConsumer(await world.attack("router"));
    await inVain(nc, `${api}.CONSUMER.DELETE.AUDIT.${name}`);
    await inVain(nc, consumerSubjects.close, { stream: "AUDIT", name });
    const there = await jetStreamApi<{ consumers: string[] }>(world.admin, "CONSUMER.NAMES.AUDIT", {});
    assert.ok(there.consumers.includes(name), "the consumer is still there");
  }),
];
