import assert from "node:assert/strict";
import { request } from "node:http";
import { Duplex } from "node:stream";
import { test } from "node:test";
import fc from "fast-check";
import { type AnswerHeaders, MalformedAnswer, ResponseParser } from "../src/upstream/response-parser.ts";
import { alike } from "./support/alike.ts";

/** What a reader made of the bytes of one connection on which one request was sent. */
type Read =
  | { readonly kind: "answer"; readonly status: number; readonly headers: [string, string[]][]; readonly body: string }
  /** Not HTTP, or cut off before its end. */
  | { readonly kind: "refused" };

const headerBytesMax = 4096;

/** Our reader: `closed` says that the server closes after the last byte. `before` came on the same connection. */
function ours(
  bytes: Buffer,
  cuts: readonly number[],
  method = "POST",
  before: readonly Buffer[] = [],
): Read & { readonly reusable: boolean } {
  let [status, headers, ended] = [0, {} as AnswerHeaders, false];
  let chunks: Buffer[] = [];
  const parser = new ResponseParser(
    {
      onHead: (code, named) => {
        assert.equal(status, 0, "an answer has one head");
        [status, headers] = [code, named];
      },
      onData: (chunk) => {
        assert.ok(!ended, "no byte after the end");
        chunks.push(chunk);
      },
      onEnd: () => {
        assert.ok(!ended, "an answer ends once");
        ended = true;
      },
    },
    headerBytesMax,
  );
  for (const earlier of before) {
    parser.begin("POST");
    parser.feed(earlier);
    [status, headers, ended, chunks] = [0, {}, false, []];
  }
  parser.begin(method);
  try {
    let from = 0;
    for (const to of [...new Set([...cuts.map((cut) => cut % (bytes.length + 1)), bytes.length])].sort((a, b) => a - b)) {
      parser.feed(bytes.subarray(from, to));
      from = to;
    }
  } catch (error) {
    assert.ok(error instanceof MalformedAnswer);
    if (!ended) return { kind: "refused", reusable: false };
  }
  const { reusable } = parser;
  if (!ended) parser.close();
  if (!ended) return { kind: "refused", reusable: false };
  const named = Object.entries(headers).map(([name, value]): [string, string[]] => [name, [value].flat()]);
  return { kind: "answer", status, headers: named.sort(), body: Buffer.concat(chunks).toString("latin1"), reusable };
}

/** Where the answer ends: what follows it belongs to nobody, and node:http calls the answer before it broken for it. */
function endOf(bytes: Buffer, method: string): number {
  for (let length = 1; length < bytes.length; length += 1) {
    let ended = false;
    const parser = new ResponseParser({ onHead: () => undefined, onData: () => undefined, onEnd: () => (ended = true) }, headerBytesMax);
    parser.begin(method);
    parser.feed(bytes.subarray(0, length));
    if (ended) return length;
  }
  return bytes.length;
}

/** node:http's reading of the same bytes, on a connection that is then closed. */
function nodes(bytes: Buffer, method = "POST"): Promise<Read> {
  return new Promise((resolve) => {
    const line = new Duplex({ read: () => undefined, write: (_chunk, _encoding, done) => done() });
    const sent = request({ method, createConnection: () => line as never, maxHeaderSize: headerBytesMax + 200, path: "/" });
    sent.on("error", () => resolve({ kind: "refused" }));
    // What an upgrade would make of the connection is no answer.
    sent.on("upgrade", () => resolve({ kind: "refused" }));
    sent.on("response", (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("error", () => resolve({ kind: "refused" }));
      response.on("end", () => {
        const headers = Object.entries(response.headersDistinct).map(([name, values]): [string, string[]] => [name, values ?? []]);
        const body = Buffer.concat(chunks).toString("latin1");
        resolve(
          response.complete ? { kind: "answer", status: response.statusCode ?? 0, headers: headers.sort(), body } : { kind: "refused" },
        );
      });
    });
    sent.end();
    setImmediate(() => {
      line.push(bytes);
      line.push(null);
    });
  });
}

const answerOf = (read: Read & { reusable?: boolean }): Read => {
  const { reusable: _, ...rest } = read;
  return rest as Read;
};

/** Pieces that are right, nearly right and wrong, put together at random: far more of them are nearly HTTP than random bytes would be. */
const mostly = <T>(right: T, ...wrong: readonly T[]) =>
  fc.oneof({ weight: 12, arbitrary: fc.constant(right) }, { weight: 1, arbitrary: fc.constantFrom(...wrong) });
const version = mostly("HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "http/1.1", "ICY", "HTTP/1.1 ");
const status = mostly(
  "200 OK",
  "200",
  "204 No Content",
  "304 Not Modified",
  "100 Continue",
  "101 Switching",
  "404 \xe9",
  "99 x",
  "600 x",
  "2000 x",
);
const end = mostly("\r\n", "\n", "\r", "\r\r\n");
const header = fc.constantFrom(
  "content-length: 5",
  "Content-Length: 5",
  "content-length: 0",
  "content-length: 5, 5",
  "content-length: +5",
  "content-length: 0x5",
  "content-length: -1",
  "content-length:",
  "content-length : 5",
  " content-length: 5",
  "content-length: 99999999999999999999",
  "transfer-encoding: chunked",
  "Transfer-Encoding: Chunked",
  "transfer-encoding: gzip, chunked",
  "transfer-encoding: chunked, identity",
  "transfer-encoding: xchunked",
  "transfer-encoding:\x0bchunked",
  "connection: close",
  "connection: keep-alive",
  "connection: upgrade",
  "upgrade: h2c",
  "keep-alive: timeout=5",
  "x: 1",
  "x: 2",
  "x:",
  "x: a\x00b",
  "x: a\x7fb",
  "x: \xe9",
  "set-cookie: a=1",
  "__proto__: x",
  "constructor: y",
  ": empty",
  "no colon",
  "\tfolded",
);
const body = fc.constantFrom(
  "",
  "hello",
  "hell",
  "hello!",
  "5\r\nhello\r\n0\r\n\r\n",
  "5;a=b\r\nhello\r\n0\r\n\r\n",
  "5\nhello\n0\n\n",
  "05\r\nhello\r\n0\r\nt: 1\r\n\r\n",
  "5\r\nhelloX\r\n0\r\n\r\n",
  "5\r\nhello\r\n0\r\n",
  "-5\r\nhello\r\n0\r\n\r\n",
  "0x5\r\nhello\r\n0\r\n\r\n",
  "5 \r\nhello\r\n0\r\n\r\n",
  "ffffffffffffffffffff\r\nhello",
  "2\r\nhe\r\n3\r\nllo\r\n000\r\n\r\n",
  "5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
  "5\r\nhello\r\n0\r\n folded: x\r\n\r\n",
  "helloHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
);
const message = fc
  .record({ version, status, headers: fc.array(fc.tuple(header, end), { maxLength: 3 }), lineEnd: end, headEnd: end, body })
  .map((one) => Buffer.from(`${one.version} ${one.status}${one.lineEnd}${one.headers.flat().join("")}${one.headEnd}${one.body}`, "latin1"));
const interim = fc.constantFrom("", "", "", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early\r\nlink: a\r\n\r\n");
const stream = fc.tuple(interim, message).map(([first, rest]) => Buffer.concat([Buffer.from(first), rest]));
const cuts = fc.array(fc.nat(300), { maxLength: 6 });
const method = fc.constantFrom("POST", "POST", "GET", "HEAD");

test("H1: every answer is read as node:http reads it, or refused", async () => {
  let answers = 0;
  await fc.assert(
    fc.asyncProperty(stream, method, cuts, async (bytes, asked, at) => {
      const read = ours(bytes, at, asked);
      if (read.kind === "refused") return;
      answers += 1;
      assert.deepEqual(answerOf(read), await nodes(bytes.subarray(0, endOf(bytes, asked)), asked));
    }),
    { numRuns: 4000 },
  );
  assert.ok(answers > 200, `only ${answers} of the messages were answers: the test shows little`);
});

test("H1: what node:http reads and every server sends is not refused", async () => {
  const usual = [
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200\r\ncontent-length:5\r\n\r\nhello",
    "HTTP/1.0 200 OK\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello",
    "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nset-cookie: a\r\nset-cookie: b\r\ncontent-length: 0\r\n\r\n",
    'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;ext="1"\r\nhello\r\n0\r\nchecksum: 1\r\n\r\n',
  ];
  for (const text of usual) {
    const bytes = Buffer.from(text);
    const read = ours(bytes, []);
    assert.equal(read.kind, "answer", text);
    assert.deepEqual(answerOf(read), await nodes(bytes), text);
  }
});

test("H2: how the bytes are cut changes nothing", () => {
  fc.assert(
    fc.property(stream, method, cuts, (bytes, asked, at) => {
      assert.deepEqual(ours(bytes, at, asked), ours(bytes, [], asked));
    }),
    { numRuns: 4000 },
  );
});

/** What servers answer. */
const wellFormed = fc
  .record({
    status: fc.constantFrom("200 OK", "202 Accepted", "404 Not Found", "204 No Content"),
    name: fc.constantFrom("content-length: ", "Content-Length:", "content-length:\t ", "transfer-encoding: chunked"),
    before: fc.subarray(["content-type: application/json\r\n", "Date: now\r\n", "mcp-session-id: abc\r\n", "set-cookie: a\r\n"]),
    after: fc.subarray(["connection: keep-alive\r\n", "set-cookie: b\r\n", "keep-alive: timeout=5\r\n", "x:\r\n"]),
    text: fc.constantFrom("hello", "", '{"jsonrpc":"2.0"}', "\r\n\r\n"),
  })
  .map(({ status, name, before, after, text }) => {
    const isChunked = name.endsWith("chunked");
    const body = status.startsWith("204") ? "" : isChunked ? `${text.length.toString(16)}\r\n${text}\r\n0\r\n\r\n` : text;
    const framing = status.startsWith("204") ? "" : isChunked ? `${name}\r\n` : `${name}${text.length}\r\n`;
    const chunks = text === "" && isChunked ? "0\r\n\r\n" : body;
    return Buffer.from(`HTTP/1.1 ${status}\r\n${before.join("")}${framing}${after.join("")}\r\n${chunks}`);
  });
test("M1: what a connection has heard before does not change how an answer is read", () => {
  let matched = 0;
  fc.assert(
    fc.property(alike(wellFormed), method, cuts, fc.boolean(), ([first, second], asked, at, isThrice) => {
      // A connection goes on only after such an answer.
      const known = ours(first, []);
      if (known.kind !== "answer" || !known.reusable || first.length > headerBytesMax) return;
      matched += 1;
      const before = isThrice ? [first, first] : [first];
      assert.deepEqual(ours(second, at, asked, before), ours(second, at, asked));
      assert.deepEqual(ours(first, at, asked, [...before, first]), ours(first, at, asked));
    }),
    { numRuns: 6000 },
  );
  assert.ok(matched > 3000, `only ${matched} answers were followed by one like them: the test shows little`);
});

test("H1, H4: smuggling patterns are refused, or leave the connection unusable", () => {
  const refused = [
    "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "content-length: 5,5\r\n\r\nhello",
    "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
    "transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "transfer-encoding:\r\n\r\n0\r\n\r\n",
    "x: a\r\n b\r\ncontent-length: 0\r\n\r\n",
    "x: a\ncontent-length: 0\r\n\r\n",
    "content-length : 0\r\n\r\n",
    "transfer-encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n",
    "transfer-encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
    "transfer-encoding: chunked\r\n\r\n1g\r\nhello\r\n0\r\n\r\n",
  ];
  for (const text of refused) assert.equal(ours(Buffer.from(`HTTP/1.1 200 OK\r\n${text}`), []).kind, "refused", text);
  const unusable = [
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n\r\n",
    "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello",
    "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n",
    "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\n\r\nhello",
  ];
  for (const text of unusable) {
    const read = ours(Buffer.from(text), []);
    assert.deepEqual([read.kind, read.reusable], ["answer", false], text);
  }
  assert.equal(ours(Buffer.from("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"), []).reusable, true);
  assert.equal(ours(Buffer.from("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"), []).reusable, true);
  assert.equal(ours(Buffer.from("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"), [], "HEAD").reusable, true);
});

test("H1: an answer that is cut off is none, wherever it is cut", () => {
  for (const text of [
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
  ]) {
    for (let length = 0; length < text.length; length += 1) assert.equal(ours(Buffer.from(text.slice(0, length)), []).kind, "refused");
  }
});

test("H3: nothing grows without limit: heads, headers, interim answers, chunk lines, trailers", () => {
  const long = "x".repeat(headerBytesMax);
  const chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
  for (const text of [
    `HTTP/1.1 200 OK\r\nx: ${long}`,
    `HTTP/1.1 200 ${long}`,
    `HTTP/1.1 200 OK\r\n${"a: b\r\n".repeat(600)}\r\n`,
    "HTTP/1.1 100 Continue\r\n\r\n".repeat(20),
    `${chunked}1;${long}`,
    `${chunked}0\r\n${`t: ${"x".repeat(100)}\r\n`.repeat(100)}`,
  ]) {
    const parser = new ResponseParser({ onHead: () => undefined, onData: () => undefined, onEnd: () => undefined }, headerBytesMax);
    parser.begin("POST");
    assert.throws(() => parser.feed(Buffer.from(text)), MalformedAnswer, text.slice(0, 60));
  }
});
