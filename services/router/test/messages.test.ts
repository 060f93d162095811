import assert from "node:assert/strict";
import { test } from "node:test";
import { createParser } from "eventsource-parser";
import fc from "fast-check";
import { checkAccess } from "../src/access.ts";
import { readEnvelope, readServerMessage } from "../src/mcp/envelope.ts";
import { rewriteEvent, splitEventId, splitRequestId, tagEventId, tagRequestId } from "../src/mcp/rewrite.ts";
import { newHold } from "../src/mcp/session.ts";
import { isSessionUnknown } from "../src/mcp/session-unknown.ts";
import { formatEvent } from "../src/mcp/sse.ts";

const hold = newHold("a", "upstream-session", 0);

test("an id of a server's request comes back from the client as it was, text as text and number as number", () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.integer(), fc.double({ noNaN: true, noDefaultInfinity: true })), (id) => {
      const split = splitRequestId(tagRequestId(id, hold));
      assert.deepEqual(split, { tag: hold.tag, id: id === 0 ? 0 : id });
    }),
  );
});

test("an id that is not ours is not taken for one, whatever a client sends", () => {
  fc.assert(fc.property(fc.oneof(fc.string(), fc.integer(), fc.constant(null)), (id) => assert.equal(splitRequestId(id), null)));
  for (const id of ["mcpf.", "mcpf.short.1", "mcpf.AAAAAAAA.{", 'mcpf.AAAAAAAA.{"a":1}', "mcpf.AAAAAAAA.null"]) {
    assert.equal(splitRequestId(id), null, id);
  }
});

test("an event id names its upstream session, and two sessions never share a name", () => {
  fc.assert(fc.property(fc.string({ minLength: 1 }), (id) => assert.deepEqual(splitEventId(tagEventId(id, hold)), { tag: hold.tag, id })));
  assert.notEqual(newHold("a", "1", 0).tag, newHold("a", "2", 0).tag);
  assert.notEqual(newHold("a", "1", 0).tag, newHold("b", "1", 0).tag);
  assert.equal(newHold("a", "1", 0).tag, newHold("a", "1", 99).tag, "the same in every process");
});

test("only ids are rewritten: what the server says stays", () => {
  const request = { jsonrpc: "2.0", id: 3, method: "sampling/createMessage", params: { x: [1, { y: null }] } };
  const rewritten = rewriteEvent(
    { id: "e1", event: "message", data: JSON.stringify(request) },
    readServerMessage(JSON.stringify(request)),
    hold,
  );
  assert.deepEqual(JSON.parse(rewritten.data), { ...request, id: tagRequestId(3, hold) });
  assert.equal(rewritten.id, tagEventId("e1", hold));
  const answer = '{"jsonrpc":"2.0","id":3,"result":{"n":12345678901234567890}}';
  assert.equal(rewriteEvent({ data: answer }, readServerMessage(answer), hold).data, answer);
  const cancelled = { jsonrpc: "2.0", method: "notifications/cancelled", params: { requestId: 3, reason: "r" } };
  const data = rewriteEvent({ data: JSON.stringify(cancelled) }, readServerMessage(JSON.stringify(cancelled)), hold).data;
  assert.deepEqual(JSON.parse(data).params, { requestId: tagRequestId(3, hold), reason: "r" });
  assert.deepEqual(rewriteEvent({ id: "e", data: answer }, readServerMessage(answer), null), { id: "e", data: answer });
});

test("an event that was written is read as the same event by the SDKs' parser", () => {
  const line = fc.string().filter((text) => !/[\r\n\0]/.test(text) && !text.startsWith(" "));
  fc.assert(
    fc.property(fc.option(line, { nil: undefined }), fc.array(line, { minLength: 1 }), (id, lines) => {
      const seen: unknown[] = [];
      const parser = createParser({ onEvent: (event) => seen.push(event) });
      const data = lines.join("\n");
      parser.feed(formatEvent({ id, event: "message", data }));
      assert.deepEqual(seen, [{ id, event: "message", data }]);
    }),
  );
});

test("no body breaks the reading of an envelope: it is an envelope or refused", () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.json(),
        fc.uint8Array().map((bytes) => Buffer.from(bytes).toString("latin1")),
      ),
      (text) => {
        try {
          assert.ok(["request", "notification", "response"].includes(readEnvelope(Buffer.from(text)).kind));
        } catch (error) {
          assert.equal((error as Error).name, "RefusedRequest");
          assert.equal((error as { status?: number }).status, 400);
        }
      },
    ),
  );
});

test("the era is read from the request itself", () => {
  const body = (params: object): Buffer => Buffer.from(JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params }));
  const modern = readEnvelope(body({ name: "t", _meta: { "io.modelcontextprotocol/protocolVersion": "2026-07-28" } }));
  assert.deepEqual([modern.kind === "request" && modern.era, modern.kind === "request" && modern.tool], ["modern", "t"]);
  const legacy = readEnvelope(body({ name: 5, _meta: { progressToken: 1 } }));
  assert.deepEqual([legacy.kind === "request" && legacy.era, legacy.kind === "request" && legacy.tool], ["legacy", null]);
});

test("a lost session is recognised by its status and words, and nothing else is taken for one", () => {
  const rpc = (code: number, message: string): Buffer =>
    Buffer.from(JSON.stringify({ jsonrpc: "2.0", id: null, error: { code, message } }));
  assert.equal(isSessionUnknown(404, Buffer.from("")), true);
  assert.equal(isSessionUnknown(400, rpc(-32000, "Bad Request: No valid session ID provided")), true);
  assert.equal(isSessionUnknown(400, rpc(-32000, "Bad Request: Server not initialized")), true);
  assert.equal(isSessionUnknown(400, rpc(-32000, "Bad Request: Unsupported protocol version")), false);
  assert.equal(isSessionUnknown(400, rpc(-32602, "the session argument is missing")), false);
  assert.equal(isSessionUnknown(400, Buffer.from("session")), false);
  assert.equal(isSessionUnknown(500, rpc(-32000, "session")), false);
});

test("only named hosts and origins pass, whatever else a page makes up", () => {
  const rules = { hosts: ["router.example.com"], origins: ["https://console.example.com"] };
  for (const [host, origin] of [
    ["localhost:7300", undefined],
    ["127.0.0.1", "http://localhost:8080"],
    ["ROUTER.example.com:443", "https://console.example.com"],
  ] as const) {
    checkAccess(host, origin, rules);
  }
  for (const [host, origin] of [
    [undefined, undefined],
    ["router.example.com.evil.com", undefined],
    ["evil.com", undefined],
    ["localhost@evil.com", undefined],
    ["localhost", "https://console.example.com.evil.com"],
    ["localhost", "http://console.example.com"],
    ["localhost", "null"],
    ["localhost", ""],
  ] as const) {
    assert.throws(() => checkAccess(host, origin, rules), { status: 403 }, `${host} ${origin}`);
  }
  checkAccess("anything", "https://anywhere", { hosts: ["*"], origins: ["*"] });
});
