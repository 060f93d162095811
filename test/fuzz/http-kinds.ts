import type { Random } from "../sim/random.ts";
import { crlf, cut, type Expectation, head, hidden, hiddenRequest, type Kind, latin, mutate, once, plain } from "./request.ts";

const refused: Expectation = { outcome: "refused", marks: [], answers: 1 };
const unclear = (mark: number): Expectation => ({ outcome: "lenient", marks: [mark], answers: 1, mayWait: true });

/** Two ways to tell where a body ends: whoever takes the one reads another request than whoever takes the other (RFC 9112, 11.2). */
const twoLengths: Kind = {
  name: "smuggling: length and chunks",
  weight: 6,
  make(random, mark) {
    const inner = hiddenRequest(mark);
    const body = `0${crlf}${crlf}${inner}`;
    const length = random.pick([body.length, 4, 5, 0, body.length + 50]);
    const encoding = random.pick(["transfer-encoding: chunked", "Transfer-Encoding: chunked", "TRANSFER-ENCODING:chunked"]);
    const lines = [`content-length: ${length}`, encoding];
    if (random.chance(0.5)) lines.reverse();
    return { parts: once(head("POST", `/http/good/m/${mark}`, ["host: localhost", ...lines]) + body), expect: refused };
  },
};

const badLength: Kind = {
  name: "smuggling: a length that is none",
  weight: 6,
  make(random, mark) {
    const inner = hiddenRequest(mark);
    const length = random.pick([
      "5, 6",
      "+5",
      "-1",
      "0x5",
      "5 5",
      "5;",
      "5.0",
      "1e2",
      "99999999999999999999",
      "18446744073709551621",
      "٥",
      "\x0b5",
      "five",
      "5\0",
    ]);
    return { parts: once(head("POST", `/http/good/m/${mark}`, ["host: localhost", `content-length: ${length}`]) + inner), expect: refused };
  },
};

const lengthTwice: Kind = {
  name: "smuggling: two lengths",
  weight: 3,
  make(random, mark) {
    const inner = hiddenRequest(mark);
    const lines = [`content-length: ${inner.length}`, `Content-Length: ${random.pick([0, 1, inner.length + 1])}`];
    if (random.chance(0.5)) lines.reverse();
    return { parts: once(head("POST", `/http/good/m/${mark}`, ["host: localhost", ...lines]) + inner), expect: refused };
  },
};

const badEncoding: Kind = {
  name: "smuggling: an encoding that is none",
  weight: 6,
  make(random, mark) {
    const encoding = random.pick([
      "xchunked",
      "chunked, identity",
      "identity",
      "gzip",
      "chunked, gzip",
      "\x0bchunked",
      "chunke",
      "chunked\x01",
      '"chunked"',
      "chunked;q=1",
    ]);
    const body = `0${crlf}${crlf}${hiddenRequest(mark)}`;
    const more = random.chance(0.3) ? ["transfer-encoding: identity"] : [];
    const request = head("POST", `/http/good/m/${mark}`, ["host: localhost", `transfer-encoding: ${encoding}`, ...more]) + body;
    return { parts: once(request), expect: refused };
  },
};

const badChunk: Kind = {
  name: "smuggling: chunks that are none",
  weight: 8,
  make(random, mark) {
    const inner = hiddenRequest(mark);
    const chunks = random.pick([
      `ffffffffffffffff1${crlf}x`,
      `0x5${crlf}xxxxx`,
      `-5${crlf}xxxxx`,
      `+5${crlf}xxxxx`,
      `zz${crlf}xxxxx`,
      `5${crlf}xxxxxyyy${crlf}`,
      `5 5${crlf}xxxxx${crlf}`,
      `${crlf}5${crlf}xxxxx`,
      `5\rxxxxx`,
      `1${crlf}x0${crlf}${crlf}`,
      `5_0${crlf}xxxxx`,
    ]);
    const request = head("POST", `/http/good/m/${mark}`, ["host: localhost", "transfer-encoding: chunked"]) + chunks + inner;
    return { parts: once(request), expect: refused };
  },
};

const looseChunk: Kind = {
  name: "smuggling: chunks that some readers take",
  weight: 4,
  make(random, mark) {
    const chunks = random.pick([
      `5;name=value${crlf}xxxxx${crlf}0${crlf}${crlf}`,
      `5;${"x".repeat(20_000)}${crlf}xxxxx${crlf}0${crlf}${crlf}`,
      `5 ${crlf}xxxxx${crlf}0${crlf}${crlf}`,
      `00000005${crlf}xxxxx${crlf}0${crlf}${crlf}`,
      `5\nxxxxx\n0\n\n`,
      `5${crlf}xxxxx${crlf}0${crlf}content-length: 50${crlf}host: evil${crlf}${crlf}`,
      `5${crlf}xxxxx${crlf}0${crlf}${"x-t: y\r\n".repeat(9000)}${crlf}`,
    ]);
    const request = head("POST", `/http/good/m/${mark}`, ["host: localhost", "transfer-encoding: chunked", "connection: close"]) + chunks;
    return { parts: once(request), expect: unclear(mark) };
  },
};

const badHeader: Kind = {
  name: "headers that are none",
  weight: 8,
  make(random, mark) {
    const line = random.pick([
      "x-a : b",
      ": b",
      "no colon",
      "x-a: b\0c",
      "x-a: b\rc",
      "x a: b",
      "x-(a): b",
      "x-a\0: b",
      "x-a: \x01",
      "content-length : 5",
      "transfer-encoding : chunked",
      "x-a: b\r\n folded: c",
      "x-a: \x7f",
    ]);
    const request = head("GET", `/http/good/m/${mark}`, ["host: localhost", line, "connection: close"]);
    return { parts: once(request + hiddenRequest(mark)), expect: { ...unclear(mark), marks: [mark] } };
  },
};

const badLine: Kind = {
  name: "request lines",
  weight: 8,
  make(random, mark) {
    const path = `/http/good/m/${mark}`;
    const line = random.pick([
      `get ${path} HTTP/1.1`,
      `FOO ${path} HTTP/1.1`,
      `${"A".repeat(5000)} ${path} HTTP/1.1`,
      `GET ${path}`,
      `GET ${path} HTTP/1.0`,
      `GET ${path} HTTP/2.0`,
      `GET ${path} HTTP/1.1 x`,
      `GET  ${path}  HTTP/1.1`,
      `GET\t${path}\tHTTP/1.1`,
      `GET http://localhost${path} HTTP/1.1`,
      `GET http://evil.example${path} HTTP/1.1`,
      `CONNECT evil.example:443 HTTP/1.1`,
      `OPTIONS * HTTP/1.1`,
      `GET ${path}\0 HTTP/1.1`,
      `GET ${path} x HTTP/1.1`,
      `GET ${path}#f HTTP/1.1`,
      `GET ${path}\\..\\x HTTP/1.1`,
      `GET ${path}/../../admin HTTP/1.1`,
      `GET ${path}/%2e%2e/x HTTP/1.1`,
      `GET ${path}?${"q".repeat(60_000)} HTTP/1.1`,
      `GET ${path}?\xff\xfe HTTP/1.1`,
      `GET ${path}?a=%0d%0ahost:%20evil HTTP/1.1`,
      `PRI * HTTP/2.0`,
      ` GET ${path} HTTP/1.1`,
      `${crlf}${crlf}GET ${path} HTTP/1.1`,
      `GET //${path} HTTP/1.1`,
      `GET /http/good HTTP/1.1`,
      `GET /http//m/1 HTTP/1.1`,
      `TRACE ${path} HTTP/1.1`,
      `PROPFIND ${path} HTTP/1.1`,
    ]);
    return { parts: once(`${line}${crlf}host: localhost${crlf}connection: close${crlf}${crlf}`), expect: unclear(mark) };
  },
};

const badHost: Kind = {
  name: "hosts",
  weight: 3,
  make(random, mark) {
    const hosts = random.pick([
      [],
      ["host: localhost", "host: localhost"],
      ["host: localhost", "host: evil"],
      ["host: "],
      ["host: evil.example"],
      ["host: localhost/x"],
      ["host: a@localhost"],
      ["host: localhost:99999999"],
      ["host: localhost, evil"],
      ["host: [::1"],
    ]);
    return { parts: once(head("GET", `/http/good/m/${mark}`, [...hosts, "connection: close"])), expect: refused };
  },
};

const expects: Kind = {
  name: "expectations and upgrades",
  weight: 3,
  make(random, mark) {
    const lines = random.pick([
      ["expect: 100-continue", "content-length: 3"],
      ["expect: the-impossible", "content-length: 3"],
      ["connection: upgrade, close", "upgrade: websocket"],
      ["connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAMAAABk"],
      ["connection: close, host, content-length", "content-length: 3"],
      ["te: trailers", "trailer: host", "content-length: 3"],
      ["connection: keep-alive, close", "content-length: 3"],
    ]);
    return { parts: once(`${head("POST", `/http/good/m/${mark}`, ["host: localhost", ...lines])}a=b`), expect: unclear(mark) };
  },
};

const otherProtocols: Kind = {
  name: "other protocols",
  weight: 2,
  make(random) {
    const bytes = random.pick([
      latin("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
      Buffer.from("16030100a5010000a10303", "hex"),
      latin("\0\0\0\0"),
      latin("*1\r\n$4\r\nPING\r\n"),
      latin("EHLO localhost\r\n"),
      Buffer.from(Array.from({ length: random.whole(1, 400) }, () => random.whole(0, 255))),
      latin("\r\n".repeat(500)),
    ]);
    return { parts: once(bytes), expect: { ...refused, outcome: "lenient", mayWait: true } };
  },
};

const broken: Kind = {
  name: "broken off",
  weight: 5,
  make(random, mark) {
    const bytes = latin(plain(mark, random));
    return { parts: once(bytes.subarray(0, random.whole(1, bytes.length - 1))), expect: { ...unclear(mark), leaves: true } };
  },
};

const slowly: Kind = {
  name: "in small pieces",
  weight: 6,
  make: (random, mark) => ({ parts: cut(latin(plain(mark, random)), random), expect: { outcome: "answered", marks: [mark], answers: 1 } }),
};

const asItShould: Kind = {
  name: "well-formed",
  weight: 8,
  make: (random, mark) => ({ parts: once(plain(mark, random)), expect: { outcome: "answered", marks: [mark], answers: 1 } }),
};

const inOneGo: Kind = {
  name: "pipelined",
  weight: 4,
  make(random, mark) {
    const count = random.whole(2, 4);
    const requests = Array.from({ length: count }, (_, index) => plain(mark, random, index < count - 1));
    return {
      parts: once(requests.join("")),
      expect: { outcome: "answered", marks: Array.from({ length: count }, () => mark), answers: count },
    };
  },
};

const afterGarbage: Kind = {
  name: "pipelined before garbage",
  weight: 4,
  make(random, mark) {
    const garbage = random.pick([
      head("POST", `/http/good/m/${mark + hidden}`, ["host: localhost", "content-length: 4", "transfer-encoding: chunked"]),
      head("GET", `/http/good/m/${mark + hidden}`, ["host: localhost", "content-length: -1"]),
      `GET /http/good/m/${mark + hidden} HTTP/9.9${crlf}${crlf}`,
    ]);
    return { parts: once(plain(mark, random, true) + garbage), expect: { outcome: "lenient", marks: [mark], answers: 2, mayWait: true } };
  },
};

const mutated: Kind = {
  name: "mutated bytes",
  weight: 12,
  make(random, mark) {
    const bytes = mutate(latin(plain(mark, random)), random);
    // A changed digit names another request; the run knows its own and takes a foreign number of the same request for what it is.
    return { parts: random.chance(0.3) ? cut(bytes, random) : once(bytes), expect: { ...unclear(mark), answers: 4, marks: anyMark } };
  },
};

/** Bytes were changed at random: what number a request has in the end cannot be said. */
export const anyMark: readonly number[] = [-1];

const large: Kind = {
  name: "too much",
  weight: 2,
  make(random, mark) {
    const lines = (count: number, size: number): string[] =>
      Array.from({ length: count }, (_, index) => `x-h${index}: ${"y".repeat(size)}`);
    const target = `/http/good/m/${mark}`;
    const over = 70_000;
    const request = random.pick([
      (): string => head("GET", target, ["host: localhost", ...lines(random.whole(200, 3000), 5), "connection: close"]),
      (): string => head("GET", target, ["host: localhost", ...lines(1, 60_000), "connection: close"]),
      (): string => head("POST", target, ["host: localhost", `content-length: ${over}`, "connection: close"]) + "z".repeat(over),
      (): string =>
        `${head("POST", target, ["host: localhost", "transfer-encoding: chunked", "connection: close"])}${over.toString(16)}${crlf}${"z".repeat(over)}${crlf}0${crlf}${crlf}`,
      (): string => head("GET", `${target}?${"q".repeat(100_000)}`, ["host: localhost"]),
    ])();
    return { parts: once(request), expect: unclear(mark) };
  },
};

export const httpKinds: readonly Kind[] = [
  twoLengths,
  badLength,
  lengthTwice,
  badEncoding,
  badChunk,
  looseChunk,
  badHeader,
  badLine,
  badHost,
  expects,
  otherProtocols,
  broken,
  slowly,
  asItShould,
  inOneGo,
  afterGarbage,
  mutated,
  large,
];

/** A head that is never finished: a byte now and then, for as long as the router lets it. */
export function slowHead(random: Random): Buffer {
  return latin(
    `POST /http/good/m/0 HTTP/1.1${crlf}host: localhost${crlf}${random.chance(0.5) ? `content-length: 50${crlf}${crlf}` : "x-slow: "}`,
  );
}
