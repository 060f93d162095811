import assert from "node:assert/strict";
import { createServer, type IncomingMessage } from "node:http";
import { Duplex } from "node:stream";
import { after, test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import { type KnownRequest, readStrict as readAfter, type StrictRequest } from "../src/front/strict-request.ts";
import { KnownHead } from "../src/known-head.ts";
import { alike } from "./support/alike.ts";

interface Seen {
  readonly method: string | undefined;
  readonly url: string | undefined;
  readonly headers: readonly (readonly [string, unknown])[];
  readonly body: string;
}

/** What node:http reads of a connection on which these bytes come: each request, then whether it stumbled. */
let listener: (request: IncomingMessage, body: string) => void = () => undefined;
let stumbled: () => void = () => undefined;
const server = createServer({ maxHeaderSize: 48 * 1024 }, (request, response) => {
  let body = "";
  request.setEncoding("latin1");
  request.on("data", (chunk: string) => {
    body += chunk;
  });
  request.on("end", () => {
    listener(request, body);
    response.end();
  });
});
server.on("clientError", () => stumbled());
after(() => server.close());

const marker = "GET /after HTTP/1.1\r\nhost: after\r\n\r\n";

function nodes(bytes: Buffer): Promise<readonly Seen[]> {
  return new Promise((resolve) => {
    const seen: Seen[] = [];
    const line = new Duplex({ read: () => undefined, write: (_chunk, _encoding, done) => done(), allowHalfOpen: true });
    const finish = (): void => {
      resolve(seen);
      line.destroy();
    };
    // What was read before is told of first.
    stumbled = () => void setImmediate(finish);
    listener = ({ method, url, headers }, body) => {
      seen.push({ method, url, headers: Object.entries(headers).sort(), body });
      if (url === "/after") finish();
    };
    server.emit("connection", line);
    line.push(Buffer.concat([bytes, Buffer.from(marker)]));
  });
}

function seenOf({ method, url, headers, body }: StrictRequest): Seen {
  return { method, url, headers: Object.entries(headers).sort(), body: body.toString("latin1") };
}
/** The first request of a connection. */
const readStrict = (bytes: Buffer) => readAfter(bytes, new KnownHead());
const latin = (text: string): Buffer => Buffer.from(text, "latin1");
const isTaken = (read: ReturnType<typeof readStrict>): read is StrictRequest => typeof read === "object";

const target = fc.constantFrom(
  ...Array.from({ length: 60 }, () => "/mcp/good"),
  ...["/mcp/a-b_9", "/mcp/", "/mcp", "/mcp/a/b", "/mcp/a?b=c", "/mcp/..", "/mcp/%2e"],
  ...["/http/good", "http://x/mcp/good", "/mcp/good#a", "/mcp/gööd", "/mcp/a b", "*", "/mcp/good\t", "//mcp/good"],
);
const startOf = (asked: string) =>
  fc.constantFrom(
    ...Array.from({ length: 60 }, () => `POST ${asked} HTTP/1.1`),
    ...[`GET ${asked} HTTP/1.1`, `POST ${asked} HTTP/1.0`, `POST  ${asked} HTTP/1.1`, `POST ${asked}  HTTP/1.1`, `post ${asked} HTTP/1.1`],
    ...[`POST ${asked} HTTP/1.1 `, `POST ${asked}`, `POST\t${asked} HTTP/1.1`, `\r\nPOST ${asked} HTTP/1.1`, `POST ${asked} HTTP/2.0`],
    ...[`POST ${asked} HTTPS/1.1`, `POST ${asked} http/1.1`],
  );
const plainHeaders = [
  "accept: application/json, text/event-stream",
  "Accept:application/json",
  "Content-Type: application/json",
  "mcp-session-id: abcdefgh",
  "Mcp-Protocol-Version:\t2025-11-25 \t ",
  "Authorization: Bearer x.y.z",
  "Connection: keep-alive",
  "connection: Keep-Alive",
  "connection: close",
  "Connection:  CLOSE ",
  'user-agent: test/1 (a; b) "c"',
  "X-Empty:",
  "x-spaces:   a  b   ",
  "origin: http://localhost",
  "constructor: y",
  "toString: z",
];
const oddHeaders = [
  ...["connection: close, x", "connection: keep-alive, x", "connection: upgrade", "upgrade: h2c", "expect: 100-continue", "te: trailers"],
  ...["transfer-encoding: chunked", "Transfer-Encoding: identity", "transfer-encoding:\x0bchunked", "transfer-encoding : chunked"],
  ...["content-length: 5", "Content-Length: 4", "content-length: 0", "content-length : 5", "content-length: 5, 5", "content-length: +5"],
  ...["content-length: 0x5", "content-length: 05", "content-length:", "content-length: 5 5", "content-length: 5\x00", "content-length: -1"],
  ...["host: other", "host :x", "x: a\x00b", "x: \xe9", "x: a\x7fb", "x y: z", ": nameless", "no colon", " folded", "\tfolded", "x_y: z"],
  ...["__proto__: x", "x: a\rb", "x: a\nb", "keep-alive: timeout=5", "x:\x0bq", "trailer: host"],
];
const header = fc.oneof(
  { weight: 25, arbitrary: fc.constantFrom(...plainHeaders) },
  { weight: 1, arbitrary: fc.constantFrom(...oddHeaders) },
);
const end = fc.constantFrom(...Array.from({ length: 120 }, () => "\r\n"), "\n", "\r", "\r\r\n", " \r\n");
const body = fc.constantFrom("hello", "hello", '{"a":1}', "", "\xff\x00\r\n", "5\r\nhello\r\n0\r\n\r\n", "POST /mcp/good HTTP/1.1\r\n\r\n");
const hosts = [
  ...Array.from({ length: 20 }, () => "host: localhost\r\n"),
  "Host:localhost:80\r\n",
  "",
  "host:\r\n",
  "host: a\r\nhost: b\r\n",
];
const lengthOf = (text: string) => fc.constantFrom(text.length, text.length, text.length, text.length, text.length + 1, 0);
const message = fc
  .tuple(target, body)
  .chain(([asked, text]) =>
    fc.record({
      start: startOf(asked),
      startEnd: end,
      host: fc.constantFrom(...hosts),
      length: lengthOf(text),
      headers: fc.uniqueArray(fc.tuple(header, end), { maxLength: 5, selector: ([line]) => line.split(":", 1)[0] }),
      last: end,
      text: fc.constant(text),
    }),
  )
  .map(({ start, startEnd, host, length, headers, last, text }) =>
    latin(`${start}${startEnd}${host}content-length: ${length}\r\n${headers.flat().join("")}${last}${text}`),
  );
/** A byte changed, taken away, put in or doubled. */
const changed = fc.tuple(message, fc.array(fc.tuple(fc.nat(400), fc.nat(3), fc.nat(255)), { maxLength: 2 })).map(([bytes, changes]) => {
  let now = bytes;
  for (const [place, kind, byte] of changes) {
    const at = place % Math.max(1, now.length);
    const rest = kind === 0 ? 1 : kind === 1 ? 0 : kind === 2 ? -1 : 1;
    const put = kind === 0 ? [] : [byte];
    now = Buffer.concat([now.subarray(0, at), Buffer.from(put), now.subarray(Math.max(0, at + rest))]);
  }
  return now;
});
const runs = Number(process.env["MCPF_FUZZ_RUNS"] ?? 4000);

test("F1: every request that the front takes is read by node:http in the same way, and the next one begins at the same byte", async () => {
  let taken = 0;
  await fc.assert(
    fc.asyncProperty(changed, async (bytes) => {
      const read = readStrict(bytes);
      if (!isTaken(read)) return;
      taken += 1;
      const seen = await nodes(bytes.subarray(0, read.end));
      const next = read.keepAlive ? [{ method: "GET", url: "/after", headers: [["host", "after"]], body: "" }] : [];
      assert.deepEqual(seen, [seenOf(read), ...next]);
    }),
    { numRuns: runs },
  );
  assert.ok(taken > runs / 20, `only ${taken} of ${runs} requests were taken: the test shows little`);
});

test("F1: what was taken stays what it is, whatever comes after it, and a part of it is none", () => {
  fc.assert(
    fc.property(changed, fc.constantFrom("x", "\r\n", marker, "POST /mcp/good HTTP/1.1\r\n"), (bytes, more) => {
      const read = readStrict(bytes);
      if (!isTaken(read)) return;
      const longer = readStrict(Buffer.concat([bytes.subarray(0, read.end), Buffer.from(more)]));
      if (!read.keepAlive) assert.equal(longer, "other");
      else assert.deepEqual(isTaken(longer) && seenOf(longer), seenOf(read));
      for (let length = 1; length < read.end; length += 1) assert.equal(readStrict(bytes.subarray(0, length)), "more");
    }),
    { numRuns: 2000 },
  );
});

test("M1: what a connection has said before does not change how a request is read, and no request has the headers of another one", () => {
  let matched = 0;
  fc.assert(
    fc.property(alike(changed), fc.boolean(), ([first, second], isTwice) => {
      const known: KnownRequest = new KnownHead();
      const before = readAfter(first, known);
      if (!isTaken(before)) return;
      matched += 1;
      if (isTwice) readAfter(first, known);
      for (const bytes of [second, first, second]) {
        const read = readAfter(bytes, known);
        assert.deepEqual(read, readStrict(bytes));
        if (isTaken(read)) read.headers["traceparent"] = "changed by its trace";
      }
      assert.deepEqual(before, readStrict(first));
    }),
    { numRuns: 6000 },
  );
  assert.ok(matched > 300, `only ${matched} requests were followed by one like them: the test shows little`);
});

test("M1, M2: the same head is known again with every length, and a connection that changes it each time is not remembered", () => {
  const known: KnownRequest = new KnownHead();
  const lengths = [5, 0, 12, 5, 1, 65_536, 65_537];
  for (const length of lengths) {
    const bytes = latin(wellFormed("accept: a\r\n", "z".repeat(length)));
    const headEnd = bytes.indexOf("\r\n\r\n");
    assert.deepEqual(readAfter(bytes, known), readStrict(bytes));
    assert.notEqual(known.match(bytes, 0, headEnd), null);
    assert.equal(known.length, length);
  }
  const said = (index: number): Buffer => latin(wellFormed(`x-turn: ${index}\r\n`));
  for (let index = 0; index < 20; index += 1) assert.deepEqual(readAfter(said(index), known), readStrict(said(index)));
  assert.equal(known.match(said(19), 0, said(19).indexOf("\r\n\r\n")), null);
});

const wellFormed = (more = "", text = "hello"): string =>
  `POST /mcp/good HTTP/1.1\r\nhost: localhost\r\ncontent-length: ${text.length}\r\n${more}\r\n${text}`;

test("F2: smuggling patterns and everything unusual is left to node:http", () => {
  for (const line of oddHeaders) assert.equal(readStrict(latin(wellFormed(`${line}\r\n`))), "other", JSON.stringify(line));
  const others = [
    wellFormed("accept: a\r\nAccept: b\r\n"),
    wellFormed("mcp-session-id: a\r\nmcp-session-id: a\r\n"),
    wellFormed("x: a\r\n b\r\n"),
    wellFormed().replace("host: localhost\r\n", ""),
    wellFormed().replace("content-length: 5\r\n", ""),
    wellFormed().replaceAll("\r\n", "\n"),
    wellFormed().replace("POST", "PUT"),
    wellFormed().replace("/mcp/", "/http/"),
    wellFormed().replace("1.1", "1.0"),
    wellFormed("x: y\r\n".repeat(70)),
    wellFormed(`x: ${"y".repeat(33_000)}\r\n`),
    wellFormed("", "z".repeat(65_537)),
    wellFormed().replace("content-length: 5", "content-length: 99999999"),
    "\r\nPOST /mcp/good",
    "\x16\x03\x01",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
  ];
  for (const text of others) assert.equal(readStrict(latin(text)), "other", JSON.stringify(text.slice(0, 80)));
  assert.equal(readStrict(latin(`POST /mcp/good HTTP/1.1\r\nx: ${"y".repeat(33_000)}`)), "other", "a head without an end");
});

test("F2: what MCP clients send is taken", () => {
  for (const line of plainHeaders) assert.ok(isTaken(readStrict(latin(wellFormed(`${line}\r\n`)))), line);
  const read = readStrict(latin(wellFormed(`${["X-A: 1", "x-b: 2"].join("\r\n")}\r\n`, "grüße")));
  assert.ok(isTaken(read));
  assert.deepEqual(seenOf(read), {
    method: "POST",
    url: "/mcp/good",
    headers: [
      ["content-length", "5"],
      ["host", "localhost"],
      ["x-a", "1"],
      ["x-b", "2"],
    ],
    body: "grüße",
  });
});

test("F2: what somebody remembers of a request does not keep the rest of it in memory", () => {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const requests = 400;
  const padding = "x".repeat(24 * 1024);
  const kept: unknown[] = [];
  const read = (index: number): void => {
    const head = `host: localhost\r\nX-Somebody-Else-${index}: 1\r\nmcpf-agent: agent-number-${index}\r\nx-padding: ${padding}`;
    const request = readStrict(latin(`POST /mcp/good HTTP/1.1\r\n${head}\r\ncontent-length: 0\r\n\r\n`));
    assert.ok(isTaken(request));
    kept.push(request.headers["mcpf-agent"]);
  };
  collect();
  const before = process.memoryUsage().heapUsed;
  for (let index = 0; index < requests; index += 1) read(index);
  collect();
  const grown = process.memoryUsage().heapUsed - before;
  assert.ok(grown < (requests * padding.length) / 4, `${kept.length} names of agents hold ${grown} bytes`);
});
