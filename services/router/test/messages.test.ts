import assert from "node:assert/strict";
import { test } from "node:test";
import { createParser } from "eventsource-parser";
import fc from "fast-check";
import { checkAccess } from "../src/access.ts";
import { readEnvelope, readServerMessage } from "../src/mcp/envelope.ts";
import { LogBudget } from "../src/mcp/log-budget.ts";
import { isToBeRead, rewriteEvent, splitRequestId, tagRequestId } from "../src/mcp/rewrite.ts";
import { newHold } from "../src/mcp/session.ts";
import { isSessionUnknown } from "../src/mcp/session-unknown.ts";
import { formatEvent } from "../src/mcp/sse.ts";
import { eventIdOf, readEventId, requestIdOf, StreamLogs } from "../src/mcp/stream-log.ts";

const hold = newHold("a", "upstream-session", 0);

test("R11: an id of a server's request comes back from the client as it was, text as text and number as number", () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.integer(), fc.double({ noNaN: true, noDefaultInfinity: true })), (id) => {
      const split = splitRequestId(tagRequestId(id, hold));
      assert.deepEqual(split, { tag: hold.tag, id: id === 0 ? 0 : id });
    }),
  );
});

test("R11: an id that is not ours is not taken for one, whatever a client sends", () => {
  fc.assert(fc.property(fc.oneof(fc.string(), fc.integer(), fc.constant(null)), (id) => assert.equal(splitRequestId(id), null)));
  for (const id of ["mcpf.", "mcpf.short.1", "mcpf.AAAAAAAA.{", 'mcpf.AAAAAAAA.{"a":1}', "mcpf.AAAAAAAA.null"]) {
    assert.equal(splitRequestId(id), null, id);
  }
});

test("R9: an event id of the router is read as it was written, whatever the upstream's own looks like", () => {
  const upstreamId = fc.string().filter((text) => !/[\r\n\0]/.test(text));
  fc.assert(
    fc.property(
      fc.constantFrom(hold.tag, ""),
      fc.oneof(fc.string({ maxLength: 20, size: "max" }), fc.integer()),
      fc.nat(),
      upstreamId,
      fc.boolean(),
      (tag, id, seq, upstream, isLast) => {
        const { name } = new StreamLogs(new LogBudget().of("")).open(id);
        const eventId = { tag, stream: name, seq, upstreamId: upstream, isLast };
        assert.deepEqual(readEventId(eventIdOf(eventId)), eventId);
        assert.equal(requestIdOf(name), id);
      },
    ),
  );
  fc.assert(fc.property(fc.string(), (text) => assert.ok(readEventId(text) === null || /^([\w-]{8})?\.[\w-]{5,}\./.test(text))));
});

test("R9: a log keeps the newest events of a stream, and no more of all streams together than its budget", () => {
  const budget = new LogBudget();
  const logs = new StreamLogs(budget.of(""));
  const log = logs.open(1);
  for (let n = 1; n <= 2000; n++) log.add({ data: `event ${n}` }, hold);
  assert.equal(log.after(0).length, 512);
  const dataOf = (text: string | undefined): string | undefined => /^data: (.*)$/m.exec(text ?? "")?.[1];
  assert.equal(dataOf(log.after(0).at(-1)), "event 2000");
  assert.equal(log.covers(0), false);
  assert.equal(log.covers(1990), true);
  assert.deepEqual(
    log.after(1998).map((text) => dataOf(text)),
    ["event 1999", "event 2000"],
  );
  log.add({ data: "x".repeat(1024 * 1024) }, hold);
  assert.deepEqual(log.after(0), [], "larger than the log by itself");
  for (let stream = 0; stream < 100; stream++) logs.open(stream).add({ data: "x".repeat(100_000) }, hold);
  assert.ok(budget.chars < 33 * 101_000, `${budget.chars} characters are kept`);
  for (let n = 1; n <= 100; n++) logs.open("ids").add({ data: "", id: `${n}${"x".repeat(400_000)}` }, hold);
  assert.ok(budget.chars > 400_000 && budget.chars < 33 * 500_000, "ids of an upstream count too");
  logs.clear();
  assert.equal(budget.chars, 0);
  log.add({ data: "late" }, hold);
  assert.equal(budget.chars, 0, "a stream that was forgotten keeps nothing");
});

test("R9: an agent that keeps much leaves the streams of another one what they have said", () => {
  const budget = new LogBudget(1_000_000);
  const modest = new StreamLogs(budget.of("agent:modest")).open(1);
  for (let n = 1; n <= 100; n++) modest.add({ data: "x".repeat(1000) }, hold);
  const greedy = Array.from({ length: 50 }, () => new StreamLogs(budget.of("agent:greedy")));
  for (const logs of greedy) for (let stream = 0; stream < 5; stream++) logs.open(stream).add({ data: "x".repeat(100_000) }, hold);
  assert.ok(budget.chars <= 1_000_000, `${budget.chars}`);
  assert.equal(modest.after(0).length, 100);
  const late = new StreamLogs(budget.of("agent:late")).open(1);
  for (let n = 1; n <= 100; n++) late.add({ data: "x".repeat(1000) }, hold);
  assert.deepEqual([late.after(0).length, modest.after(0).length], [100, 100]);
  assert.ok(budget.chars > 900_000 && budget.chars <= 1_000_000, "what nobody else needs may be used");
  for (const logs of greedy) logs.clear();
  assert.ok(budget.chars < 300_000);
});

test("R11: the name of an upstream session is shared by no other, and the same in every process", () => {
  assert.notEqual(newHold("a", "1", 0).tag, newHold("a", "2", 0).tag);
  assert.notEqual(newHold("a", "1", 0).tag, newHold("b", "1", 0).tag);
  assert.equal(newHold("a", "1", 0).tag, newHold("a", "1", 99).tag, "the same in every process");
});

test("R11: only ids are rewritten: what the server says stays", () => {
  const request = { jsonrpc: "2.0", id: 3, method: "sampling/createMessage", params: { x: [1, { y: null }] } };
  const rewritten = rewriteEvent(
    { id: "e1", event: "message", data: JSON.stringify(request) },
    readServerMessage(JSON.stringify(request)),
    hold,
  );
  assert.deepEqual(JSON.parse(rewritten.data), { ...request, id: tagRequestId(3, hold) });
  const answer = '{"jsonrpc":"2.0","id":3,"result":{"n":12345678901234567890}}';
  assert.equal(rewriteEvent({ data: answer }, readServerMessage(answer), hold).data, answer);
  const cancelled = { jsonrpc: "2.0", method: "notifications/cancelled", params: { requestId: 3, reason: "r" } };
  const data = rewriteEvent({ data: JSON.stringify(cancelled) }, readServerMessage(JSON.stringify(cancelled)), hold).data;
  assert.deepEqual(JSON.parse(data).params, { requestId: tagRequestId(3, hold), reason: "r" });
  assert.deepEqual(rewriteEvent({ id: "e", data: answer }, readServerMessage(answer), null), { id: "e", data: answer });
});

test("R11: an event that is not read for what is to be rewritten has nothing of that kind in it, however it is written", () => {
  const name = fc.constantFrom("id", "method", "params", "requestId", "result", "jsonrpc", "x");
  const value = fc.oneof(fc.constantFrom<unknown>("notifications/cancelled", "notifications/message", "2.0", 1, "a", null), fc.string());
  const messages = fc.dictionary(name, fc.oneof(value, fc.dictionary(name, value)));
  /** Any letter of a text may be written as an escape. */
  const escaped = (text: string, at: number): string => {
    const letter = text[at];
    if (letter === undefined || !/[\w/]/.test(letter)) return text;
    const written = letter === "/" ? "\\/" : `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`;
    return `${text.slice(0, at)}${written}${text.slice(at + 1)}`;
  };
  let rewritten = 0;
  fc.assert(
    fc.property(messages, fc.boolean(), fc.nat(60), (message, isSpaced, at) => {
      const plain = JSON.stringify(message, null, isSpaced ? 1 : 0);
      for (const data of [plain, escaped(plain, at)]) {
        const same = rewriteEvent({ data }, readServerMessage(data), hold).data === data;
        if (!same) rewritten += 1;
        assert.ok(same || isToBeRead(data), data);
      }
    }),
    { numRuns: 500 },
  );
  assert.ok(rewritten > 0, "some of them were rewritten");
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

test("R1: the era is read from the request itself", () => {
  const body = (params: object): Buffer => Buffer.from(JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params }));
  const modern = readEnvelope(body({ name: "t", _meta: { "io.modelcontextprotocol/protocolVersion": "2026-07-28" } }));
  assert.deepEqual([modern.kind === "request" && modern.era, modern.kind === "request" && modern.tool], ["modern", "t"]);
  const legacy = readEnvelope(body({ name: 5, _meta: { progressToken: 1 } }));
  assert.deepEqual([legacy.kind === "request" && legacy.era, legacy.kind === "request" && legacy.tool], ["legacy", null]);
});

test("R4: a lost session is recognised by its status and words, and nothing else is taken for one", () => {
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

test("R23: only named hosts and origins pass, whatever else a page makes up", () => {
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
