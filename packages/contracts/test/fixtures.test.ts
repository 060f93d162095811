import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { type EventType, events, makeEvent, parseEvent, requests, type ServiceName, streams, subjectFor } from "../src/index.ts";

const dir = new URL("../fixtures/v1/", import.meta.url);

/** Pinned: what other people's services subscribe to. Every type with the subject of its fixture and the stream that keeps it. */
const pinned: Record<EventType, readonly [subject: string, stream: string | null]> = {
  "log.started": ["log.started", "AUDIT"],
  "config.applied": ["config.applied", "AUDIT"],
  "health.changed": ["health.changed.pinecone.primary", "AUDIT"],
  "breaker.changed": ["breaker.changed.pinecone.primary", "AUDIT"],
  "failover.decided": ["failover.decided.pinecone", "AUDIT"],
  "failover.executed": ["failover.executed.pinecone", "AUDIT"],
  "failover.held": ["failover.held.pinecone", "AUDIT"],
  "failover.released": ["failover.released.pinecone", "AUDIT"],
  "failover.rejected": ["failover.rejected.pinecone", "AUDIT"],
  "failover.failed": ["failover.failed.pinecone", "AUDIT"],
  "fleet.reserved": ["fleet.reserved", "AUDIT"],
  "rollback.decided": ["rollback.decided.tool.get_inventory", "AUDIT"],
  "rollback.executed": ["rollback.executed.tool.get_inventory", "AUDIT"],
  "rollback.advanced": ["rollback.advanced.tool.get_inventory", "AUDIT"],
  "rollback.paused": ["rollback.paused.tool.get_inventory", "AUDIT"],
  "rollback.recovered": ["rollback.recovered.tool.get_inventory", "AUDIT"],
  // "stock clerk" is no token: "~" and base64url.
  "rollback.rejected": ["rollback.rejected.agent.~c3RvY2sgY2xlcms", "AUDIT"],
  "command.accepted": ["command.accepted.failover", "AUDIT"],
  "incident.changed": ["incident.changed.inc-1", "AUDIT"],
  "notify.sent": ["notify.sent.ops", "AUDIT"],
  "notify.failed": ["notify.failed.ops", "AUDIT"],
  "notify.silenced": ["notify.silenced.pinecone", "AUDIT"],
  "chaos.started": ["chaos.started.exp-1", "AUDIT"],
  "chaos.injected": ["chaos.injected.exp-1", "AUDIT"],
  "chaos.reverted": ["chaos.reverted.exp-1", "AUDIT"],
  "chaos.finished": ["chaos.finished.exp-1", "AUDIT"],
  "probe.observed": ["probe.observed.prober-1", "SIGNALS"],
  "traffic.observed": ["traffic.observed.router-1", "SIGNALS"],
  outbox: ["outbox.ops", "OUTBOX"],
  "probe.requested": ["probe.requested", null],
  "prober.heartbeat": ["prober.heartbeat", null],
  "endpoint.reported": ["endpoint.reported", null],
  "session.claimed": ["session.claimed", null],
  "session.changed": ["session.changed", null],
  "session.cancelled": ["session.cancelled", null],
  "session.released": ["session.released", null],
};

const read = (type: string): Buffer => readFileSync(new URL(`${type}.json`, dir));

test("every event type has one fixture and one pinned subject, and nothing else has", () => {
  const types = Object.keys(events).sort();
  assert.deepEqual(
    readdirSync(dir)
      .map((file) => file.replace(/\.json$/, ""))
      .sort(),
    types,
  );
  assert.deepEqual(Object.keys(pinned).sort(), types);
});

for (const [type, [subject, stream]] of Object.entries(pinned) as [EventType, readonly [string, string | null]][]) {
  test(`version 1 of ${type} is read as it was written, on ${subject}, kept in ${stream ?? "no stream"}`, () => {
    const bytes = read(type);
    const parsed = parseEvent(subject, bytes);
    assert.ok(parsed.ok, parsed.ok ? "" : parsed.reason);
    // Nothing is lost, renamed or made up on the way through the schema.
    assert.deepEqual(parsed.event, JSON.parse(bytes.toString()));
    assert.equal(parsed.event.type, type);
    assert.equal(events[type].stream, stream);
    const { event } = parsed;
    const keys = events[type].keys.length === 0 ? [] : (event.subject ?? "").split("/");
    assert.equal(subjectFor(type, ...keys), subject);
    const [, service = "", instance = ""] = event.source.split("/");
    assert.ok((events[type].saidBy as readonly ServiceName[]).includes(service as ServiceName), `${service} says ${type}`);
    const timeMs = Date.parse(event.time);
    const { traceparent } = event;
    const made = makeEvent({
      type,
      keys,
      data: event.data,
      id: event.id,
      service: service as ServiceName,
      instance,
      timeMs,
      ...(traceparent ? { traceparent } : {}),
    });
    assert.deepEqual(made, event);
  });

  test(`${type} without any one of its fields, or with one of another kind, is refused with the field's name`, () => {
    const event = JSON.parse(read(type).toString()) as { data: Record<string, unknown> };
    // Added after the first events of version 1.
    const optional = [
      "failover.rejected.epoch",
      "rollback.rejected.epoch",
      "chaos.started.overrode",
      "session.claimed.sealed",
      "session.released.whole",
    ];
    for (const field of Object.keys(event.data)) {
      const without = { ...event, data: { ...event.data } };
      delete without.data[field];
      const parsed = parseEvent(subject, Buffer.from(JSON.stringify(without)));
      if (parsed.ok) assert.ok(optional.includes(`${type}.${field}`), `${field} may be missing`);
      else assert.match(parsed.reason, new RegExp(`^data of ${type.replace(".", "\\.")}: ${field}: `));
      const broken = parseEvent(subject, Buffer.from(JSON.stringify({ ...event, data: { ...event.data, [field]: [{ wrong: 1 }] } })));
      assert.ok(!broken.ok || field === "topology", `${field} of another kind is taken`);
    }
  });
}

test("the streams hold these subjects, and every stored event lies in exactly the one that the table names", () => {
  assert.deepEqual(Object.fromEntries(streams.map(({ name, subjects }) => [name, subjects])), {
    AUDIT: [
      "log.>",
      "config.>",
      "health.>",
      "breaker.>",
      "failover.>",
      "fleet.>",
      "rollback.>",
      "command.accepted.>",
      "incident.>",
      "notify.>",
      "chaos.>",
    ],
    SIGNALS: ["probe.observed.>", "traffic.observed.>"],
    OUTBOX: ["outbox.>"],
    QUARANTINE: ["quarantine.>"],
  });
  for (const [subject, stream] of Object.values(pinned)) {
    const holding = streams.filter(({ subjects }) => subjects.some((filter) => subject.startsWith(filter.slice(0, -1))));
    assert.deepEqual(
      holding.map(({ name }) => name),
      stream === null ? [] : [stream],
      subject,
    );
  }
  const requested = Object.keys(requests).filter((subject) =>
    streams.some(({ subjects }) => subjects.some((filter) => subject.startsWith(filter.slice(0, -1)))),
  );
  assert.deepEqual(requested, [], "no request is stored by accident");
});

test("AUDIT forgets nothing by age and refuses what is new when it is full; only a work queue may be taken from", () => {
  const limits = Object.fromEntries(streams.map(({ name, retention, discard, maxAgeMs }) => [name, { retention, discard, maxAgeMs }]));
  assert.deepEqual(limits, {
    AUDIT: { retention: "limits", discard: "new", maxAgeMs: 0 },
    SIGNALS: { retention: "limits", discard: "old", maxAgeMs: 72 * 3_600_000 },
    OUTBOX: { retention: "workqueue", discard: "new", maxAgeMs: 0 },
    QUARANTINE: { retention: "limits", discard: "old", maxAgeMs: 30 * 24 * 3_600_000 },
  });
});

test("what is decided is fenced, and what is only counted is not", () => {
  const unfenced = Object.entries(events)
    .filter(([, { fenced }]) => !fenced)
    .map(([type]) => type);
  assert.deepEqual(unfenced, [
    "command.accepted",
    "notify.sent",
    "notify.failed",
    "probe.observed",
    "traffic.observed",
    "outbox",
    "probe.requested",
    "prober.heartbeat",
    "endpoint.reported",
    "session.claimed",
    "session.changed",
    "session.cancelled",
    "session.released",
  ]);
});

test("the requests and the services that answer them are these", () => {
  assert.deepEqual(Object.fromEntries(Object.entries(requests).map(([subject, { service }]) => [subject, service])), {
    "command.failover": "failover-controller",
    "command.failback": "failover-controller",
    "command.hold": "failover-controller",
    "command.release": "failover-controller",
    "command.rollback": "rollback-controller",
    "command.recover": "rollback-controller",
    "command.chaos.run": "chaos-runner",
    "command.acknowledge": "notifier",
    "command.silence": "notifier",
    "command.unsilence": "notifier",
    "command.breaker": "breaker-state",
    "state.status": "state-store",
    "state.health_report": "state-store",
    "state.get": "state-store",
    "state.history": "state-store",
    "launcher.processes": "launcher",
    "launcher.kill": "launcher",
    "launcher.start": "launcher",
    "launcher.stop": "launcher",
    "fault.set": "fault-proxy",
    "fault.clear": "fault-proxy",
    "fault.list": "fault-proxy",
  });
});
