import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import fc from "fast-check";
import { type EventType, holdCommand, makeEvent, parseEvent } from "../src/index.ts";

const subject = "health.changed.pinecone.primary";
const valid = JSON.parse(readFileSync(new URL("../fixtures/v1/health.changed.json", import.meta.url), "utf8")) as Record<
  string,
  unknown
> & {
  data: Record<string, unknown>;
};

function refused(on: string, value: unknown): string {
  const parsed = parseEvent(
    on,
    value instanceof Uint8Array ? value : Buffer.from(typeof value === "string" ? value : JSON.stringify(value)),
  );
  assert.ok(!parsed.ok, `${JSON.stringify(value)?.slice(0, 80)} was taken`);
  assert.ok(parsed.reason.length > 0 && parsed.reason.length < 1000 && !parsed.reason.includes("\n"), parsed.reason);
  return parsed.reason;
}

test("what is not UTF-8 JSON is refused", () => {
  assert.match(refused(subject, "not json"), /not UTF-8 JSON/);
  assert.match(refused(subject, ""), /not UTF-8 JSON/);
  assert.match(refused(subject, Buffer.from([0x22, 0xff, 0xfe, 0x22])), /not UTF-8 JSON/);
  for (const value of [null, 1, "text", [], true]) assert.match(refused(subject, JSON.stringify(value)), /envelope/);
});

test("an event of a version that is not known here is refused by that version, however well it reads, and so is one of no version", () => {
  const urn = (rest: string): object => ({ ...valid, dataschema: `urn:mcp-failover:${rest}` });
  for (const version of ["2", "2.1", "10"])
    assert.match(
      refused(subject, urn(`health.changed:${version}`)),
      new RegExp(
        `^version ${version.replace(".", "\\.")} of health\\.changed is not known here, which reads up to 1: update this service$`,
      ),
    );
  for (const minor of ["1", "1.0", "1.7"])
    assert.ok(parseEvent(subject, Buffer.from(JSON.stringify(urn(`health.changed:${minor}`)))).ok, minor);
  for (const wrong of [
    "health.changed",
    "health.changed:",
    "health.changed:0",
    "health.changed:x",
    "breaker.changed:1",
    "health.changed:1:2",
  ])
    assert.match(refused(subject, urn(wrong)), /^dataschema: .* is not urn:mcp-failover:health\.changed:1$/, wrong);
});

test("each missing or wrong field of the envelope is named", () => {
  for (const field of ["specversion", "id", "source", "type", "time", "datacontenttype", "dataschema"]) {
    const { [field]: _gone, ...rest } = valid;
    assert.match(refused(subject, rest), new RegExp(field));
    assert.match(refused(subject, { ...valid, [field]: 7 }), new RegExp(field));
  }
  assert.match(refused(subject, { ...valid, specversion: "0.3" }), /specversion/);
  assert.match(refused(subject, { ...valid, time: "yesterday" }), /time/);
  assert.match(refused(subject, { ...valid, id: "" }), /id/);
});

test("what is wrong in an event is said by what belongs there, and quotes nothing of it", () => {
  const said = (field: string, value: unknown): string => refused(subject, { ...valid, [field]: value });
  const { id: _, ...nameless } = valid;
  assert.match(refused(subject, nameless), /envelope: id: it is missing; give text$/);
  assert.match(said("id", 7), /envelope: id: give text$/);
  assert.match(said("time", "yesterday"), /envelope: time: give a time as 2026-/);
  assert.match(said("data", { ...valid.data, responseTime: "hunter2" }), /^data of health\.changed: responseTime: give a number$/);
  assert.match(said("data", { ...valid.data, status: "hunter2" }), /^data of health\.changed: status: give one of healthy, /);
  const every = Object.keys(valid).map((field) => said(field, [{ hunter2: 1 }]));
  assert.doesNotMatch([...every, refused(subject, [])].join("\n"), /Invalid|expected|received|Too small|hunter2/);
});

test("an unknown type, and a known one on a subject that is not its own, are refused", () => {
  assert.match(refused(subject, { ...valid, type: "health.exploded" }), /unknown event type "health.exploded"/);
  assert.match(refused(subject, { ...valid, type: "__proto__" }), /unknown event type/);
  assert.match(refused(subject, { ...valid, type: "constructor" }), /unknown event type/);
  for (const other of [
    "health.changed",
    "health.changed.pinecone",
    "health.changed.pinecone.primary.more",
    "breaker.changed.pinecone.primary",
    "health.changedx.a.b",
  ]) {
    assert.match(refused(other, valid), /does not belong on the subject/);
  }
});

test("unknown fields pass through, in the envelope and in the data", () => {
  const parsed = parseEvent(subject, Buffer.from(JSON.stringify({ ...valid, future: { a: 1 }, data: { ...valid.data, later: [1, 2] } })));
  assert.ok(parsed.ok);
  assert.deepEqual((parsed.event as unknown as { future: unknown }).future, { a: 1 });
  assert.deepEqual((parsed.event.data as unknown as { later: unknown }).later, [1, 2]);
});

test("any bytes and any JSON are taken or refused with a sentence, and never throw", () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.uint8Array(),
        fc.json().map((text) => Buffer.from(text)),
      ),
      fc.string(),
      (bytes, on) => {
        const parsed = parseEvent(on, bytes);
        assert.ok(!parsed.ok && parsed.reason.length > 0);
      },
    ),
  );
  fc.assert(
    fc.property(fc.constantFrom(...Object.keys(valid.data)), fc.jsonValue(), (field, value) => {
      const parsed = parseEvent(subject, Buffer.from(JSON.stringify({ ...valid, data: { ...valid.data, [field]: value } })));
      assert.equal(typeof parsed.ok, "boolean");
    }),
  );
});

test("an event with the wrong number of keys cannot be made", () => {
  const from = { data: valid.data, id: "1", service: "prober", instance: "p", timeMs: 0 } as const;
  for (const [type, keys] of [
    ["health.changed", ["pinecone"]],
    ["health.changed", []],
    ["log.started", ["extra"]],
  ] as const) {
    assert.throws(() => makeEvent({ ...from, type: type as EventType, keys } as unknown as Parameters<typeof makeEvent>[0]), RangeError);
  }
});

test("a time that no date can show is refused, in an event and in a command: whoever shows it would end", () => {
  const last = 8_640_000_000_000_000;
  const withSince = (sinceMs: number) => ({ ...valid, data: { ...valid.data, state: { ...(valid.data["state"] as object), sinceMs } } });
  assert.ok(parseEvent(subject, Buffer.from(JSON.stringify(withSince(last)))).ok);
  assert.match(refused(subject, withSince(last + 1)), /sinceMs/);
  const command = { commandId: "c", by: { kind: "operator", id: "ann" }, reason: "r", upstream: "shop" };
  for (const forMs of [1, 10 * 365 * 86_400_000, null]) assert.ok(holdCommand.safeParse({ ...command, forMs }).success, String(forMs));
  for (const forMs of [0, 10 * 365 * 86_400_000 + 1, 9e15]) assert.ok(!holdCommand.safeParse({ ...command, forMs }).success, String(forMs));
});
