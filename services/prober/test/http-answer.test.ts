import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { HttpAnswer, HttpParserError } from "../src/probes/http-answer.ts";

interface Read {
  readonly status: number;
  readonly body: string;
  readonly done: boolean;
  readonly reusable: boolean;
  readonly enough: boolean;
  readonly server: string | null;
}
const generous = { toHead: false, bytesMax: 100_000, keepsBody: true };

/** Reads an answer that comes in these pieces; what is refused is named by its code. */
function read(
  pieces: readonly Buffer[],
  { closes = false, ...limits }: Partial<typeof generous> & { closes?: boolean } = {},
): Read | string {
  const answer = new HttpAnswer({ ...generous, ...limits });
  try {
    for (const piece of pieces) answer.take(piece);
  } catch (error) {
    assert.ok(error instanceof HttpParserError, String(error));
    return error.code;
  }
  if (closes) answer.close();
  const { status, done, reusable, enough } = answer;
  return { status, body: answer.body.toString("latin1"), done, reusable, enough, server: answer.header("server") };
}
const whole = (text: string, more: Parameters<typeof read>[1] = {}): Read | string => read([Buffer.from(text, "latin1")], more);
const well = { status: 200, body: "", done: true, reusable: true, enough: false, server: null };

test("an answer ends where its length, its chunks, its status or the close of the connection says", () => {
  const cases: [string, object, Partial<Read>][] = [
    ["HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer: a b \r\n\r\nhello", {}, { body: "hello", server: "a b" }],
    ["HTTP/1.1 200\r\ncontent-length:0\r\n\r\n", {}, {}],
    ["HTTP/1.1 204 No Content\r\n\r\n", {}, { status: 204 }],
    ["HTTP/1.1 304 x\r\ncontent-length: 9\r\n\r\n", {}, { status: 304 }],
    ["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", { toHead: true }, {}],
    [
      "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n3\r\nabc\r\nA;x=1\r\n0123456789\r\n0\r\nx: y\r\n\r\n",
      {},
      { body: "abc0123456789" },
    ],
    ["HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nlink: y\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx", {}, { body: "x" }],
    ["HTTP/1.1 200 OK\r\n\r\nto the end", { closes: true }, { body: "to the end", reusable: false }],
    ["HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx", {}, { body: "x", reusable: false }],
    ["HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: foo, Close\r\n\r\nx", {}, { body: "x", reusable: false }],
  ];
  for (const [text, more, expected] of cases) assert.deepEqual(whole(text, more), { ...well, ...expected }, text);
});

test("P2: an answer whose end could be understood in two ways, or that is no HTTP, is refused", () => {
  const cases: [string, string][] = [
    ["ICY 200 yes\r\n\r\n", "HPE_INVALID_CONSTANT"],
    ["SSH-2.0-OpenSSH", "HPE_INVALID_CONSTANT"],
    ["HTTP/2 200 OK\r\n\r\n", "HPE_INVALID_CONSTANT"],
    ["HTTP/1.1 2000 OK\r\n\r\n", "HPE_INVALID_CONSTANT"],
    ["HTTP/1.1 099 OK\r\n\r\n", "HPE_INVALID_STATUS"],
    ["HTTP/1.1 101 x\r\n\r\n", "HPE_INVALID_STATUS"],
    ["HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n", "HPE_INVALID_HEADER_TOKEN"],
    ["HTTP/1.1 200 OK\r\ncontent-length: 1, 1\r\n\r\n", "HPE_INVALID_CONTENT_LENGTH"],
    ["HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "HPE_INVALID_CONTENT_LENGTH"],
    ["HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", "HPE_UNEXPECTED_CONTENT_LENGTH"],
    ["HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", "HPE_INVALID_TRANSFER_ENCODING"],
    ["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n", "HPE_INVALID_HEADER_TOKEN"],
    ["HTTP/1.1 200 OK\r\nx: y\r\n folded\r\n\r\n", "HPE_INVALID_HEADER_TOKEN"],
    ["HTTP/1.1 200 OK\r\nx : y\r\n\r\n", "HPE_INVALID_HEADER_TOKEN"],
    ["HTTP/1.1 200 OK\r\nx: a\nb: c\r\n\r\n", "HPE_INVALID_HEADER_TOKEN"],
    ["HTTP/1.1 200 OK\r\nx: a\u0000\r\n\r\n", "HPE_INVALID_HEADER_TOKEN"],
    ["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n", "HPE_INVALID_CHUNK_SIZE"],
    ["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n", "HPE_STRICT"],
    ["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\nabc\r\n", "HPE_CR_EXPECTED"],
    [`HTTP/1.1 200 OK\r\nx: ${"y".repeat(16_500)}`, "HPE_HEADER_OVERFLOW"],
    [`HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;${"y".repeat(16_500)}`, "HPE_CHUNK_EXTENSIONS_OVERFLOW"],
    ["HTTP/1.1 100 Continue\r\n\r\n".repeat(1000), "HPE_HEADER_OVERFLOW"],
  ];
  for (const [text, code] of cases) assert.equal(whole(text), code, text.slice(0, 120));
});

test("what is cut off is not done, and its connection is not used again", () => {
  for (const text of [
    "",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
  ]) {
    const found = whole(text, { closes: true });
    assert.deepEqual(typeof found === "string" ? found : [found.done, found.reusable], [false, false], text);
  }
});

test("P3: no more of a body is kept than was asked for, and none where nobody asked", () => {
  const text = `HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n${"x".repeat(1000)}`;
  assert.deepEqual(whole(text, { bytesMax: 10 }), { ...well, body: "x".repeat(10), reusable: false, enough: true });
  assert.deepEqual(whole(text, { bytesMax: 1000, keepsBody: false }), { ...well });
  assert.deepEqual(whole(text, { bytesMax: 999, keepsBody: false }), { ...well, reusable: false, enough: true });
});

test("P4: bytes after the end of an answer cost its connection", () => {
  assert.deepEqual(whole("HTTP/1.1 204 x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), { ...well, status: 204, reusable: false });
});

test("how long a server keeps an idle connection is heard, where it keeps it at all", () => {
  for (const [fields, keepsForMs] of [
    ["keep-alive: timeout=5, max=100\r\n", 5000],
    ["Keep-Alive: max=3, timeout=7\r\n", 7000],
    ["keep-alive: timeout=5\r\nconnection: close\r\n", null],
    ["keep-alive: nothing\r\n", null],
  ] as const) {
    const answer = new HttpAnswer(generous);
    answer.take(Buffer.from(`HTTP/1.1 200 OK\r\n${fields}content-length: 0\r\n\r\n`));
    assert.equal(answer.keepsForMs, keepsForMs, fields);
  }
});

const token = fc.stringMatching(/^[a-z][a-z-]{0,8}$/).map((name) => `x-${name}`);
const body = fc.uint8Array({ maxLength: 300, size: "max" }).map((bytes) => Buffer.from(bytes));
const anAnswer = fc.record({
  status: fc.integer({ min: 200, max: 599 }),
  names: fc.array(token, { maxLength: 5 }),
  body,
  chunked: fc.boolean(),
});

function bytesOf({ status, names, body: content, chunked }: { status: number; names: string[]; body: Buffer; chunked: boolean }): Buffer {
  const bare = status === 204 || status === 304;
  const framing = chunked ? "transfer-encoding: chunked" : `content-length: ${content.length}`;
  const head = `HTTP/1.1 ${status} any reason\r\n${names.map((name) => `${name}: value of ${name}\r\n`).join("")}${framing}\r\n\r\n`;
  const chunks = [content.subarray(0, 7), content.subarray(7)].filter(({ length }) => length > 0);
  const pieces = chunks.flatMap((chunk) => [Buffer.from(`${chunk.length.toString(16)}\r\n`), chunk, Buffer.from("\r\n")]);
  return Buffer.concat([Buffer.from(head), ...(bare ? [] : chunked ? [...pieces, Buffer.from("0\r\n\r\n")] : [content])]);
}
function cut(bytes: Buffer, at: readonly number[]): Buffer[] {
  const places = [0, ...at.map((place) => place % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
  return places.slice(1).map((place, index) => bytes.subarray(places[index], place));
}

test("P1: an answer is the same however its bytes are cut into pieces", () => {
  fc.assert(
    fc.property(anAnswer, fc.array(fc.nat(), { maxLength: 12, size: "max" }), (answer, at) => {
      const bytes = bytesOf(answer);
      const expected = read([bytes]);
      assert.ok(typeof expected !== "string" && expected.done && expected.reusable, JSON.stringify(expected));
      assert.deepEqual(
        [expected.status, expected.body],
        [answer.status, [204, 304].includes(answer.status) ? "" : answer.body.toString("latin1")],
      );
      assert.deepEqual(read(cut(bytes, at)), expected);
      assert.deepEqual(read([...bytes].map((byte) => Buffer.of(byte))), expected);
    }),
  );
});

test("whatever bytes a server sends are an answer, a part of one, or refused by name, and nothing else", () => {
  const damaged = fc
    .tuple(anAnswer, fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { maxLength: 4 }))
    .map(([answer, changes]) => {
      const bytes = bytesOf(answer);
      for (const [at, byte] of changes) bytes[at % bytes.length] = byte;
      return bytes;
    });
  fc.assert(
    fc.property(fc.oneof(damaged, body), fc.array(fc.nat(), { maxLength: 5 }), (bytes, at) => {
      const once = read([bytes], { bytesMax: 100 });
      const inPieces = read(cut(bytes, at), { bytesMax: 100 });
      // What is refused may be refused for another reason when less of it is known.
      if (typeof once !== "string") assert.deepEqual(inPieces, once);
      else assert.equal(typeof inPieces, "string");
    }),
    { numRuns: 500 },
  );
});
