import type { Random } from "../sim/random.ts";
import { anyMark } from "./http-kinds.ts";
import { cut, type Expectation, head, type Kind, type KindWorld, latin, mutate, once } from "./request.ts";

const lenient = (mark: number): Expectation => ({ outcome: "lenient", marks: [mark], answers: 1 });
const accepts = ["accept: application/json, text/event-stream", "content-type: application/json"];

function postTo(path: string, body: Buffer, headers: readonly string[] = accepts): Buffer {
  return Buffer.concat([
    latin(head("POST", path, ["host: localhost", ...headers, `content-length: ${body.length}`, "connection: close"])),
    body,
  ]);
}
function json(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value));
}
function call(mark: number, more: object = {}): object {
  return { jsonrpc: "2.0", id: mark, method: "tools/call", params: { name: "echo", arguments: { mark } }, ...more };
}
const sessionOf = (random: Random, world: KindWorld): string[] => {
  const id = random.pick(world.sessions);
  switch (random.whole(0, 6)) {
    case 0:
      return [];
    case 1:
      return [`mcp-session-id: ${id.slice(0, -random.whole(1, 20))}`];
    case 2:
      return [`mcp-session-id: ${mutate(latin(id), random).toString("hex")}`];
    case 3:
      return [`mcp-session-id: ${id}`, `mcp-session-id: ${id}`];
    default:
      return [`mcp-session-id: ${id}`];
  }
};

const strangeValues: readonly unknown[] = [
  null,
  true,
  -1,
  1.5,
  1e308,
  2 ** 60,
  "",
  "\0",
  "\ud800",
  "__proto__",
  "mcpf.12345678.1",
  "mcpf.12345678.{}",
  "x".repeat(5000),
  [],
  [1],
  {},
  { a: 1 },
  { __proto__: null, constructor: 1 },
  "mcpf-initialize",
  "mcpf-discover",
];

const well: Kind = {
  name: "mcp: well-formed",
  weight: 5,
  make: (_random, mark, world) => ({
    parts: once(postTo("/mcp/good", json(call(mark)), [...accepts, `mcp-session-id: ${world.sessions[0]}`])),
    expect: { outcome: "answered", marks: [mark], answers: 1 },
  }),
};

const envelopes: Kind = {
  name: "mcp: envelopes",
  weight: 14,
  make(random, mark, world) {
    const value = call(mark) as Record<string, unknown>;
    const key = random.pick(["jsonrpc", "id", "method", "params", "result", "error", "extra"]);
    const message = random.pick([
      { ...value, [key]: random.pick(strangeValues) },
      {
        ...value,
        params: {
          ...(value["params"] as object),
          [random.pick(["name", "arguments", "_meta", "cursor", "uri", "requestId", "__proto__"])]: random.pick(strangeValues),
        },
      },
      {
        ...value,
        method: random.pick([
          "initialize",
          "ping",
          "tools/list",
          "logging/setLevel",
          "resources/subscribe",
          "subscriptions/listen",
          "server/discover",
          "notifications/cancelled",
          "__proto__",
          "constructor",
          "x".repeat(3000),
          "tools/call\0",
        ]),
      },
      {
        jsonrpc: "2.0",
        method: random.pick(["notifications/initialized", "notifications/cancelled", "notifications/progress", "tools/call"]),
        params: random.pick(strangeValues),
      },
      { jsonrpc: "2.0", id: random.pick(strangeValues), [random.pick(["result", "error"])]: random.pick(strangeValues) },
      [value, value],
      random.pick(strangeValues),
    ]);
    return {
      parts: once(postTo("/mcp/good", json(message), [...accepts, ...sessionOf(random, world)])),
      expect: { ...lenient(mark), marks: anyMark },
    };
  },
};

const texts: Kind = {
  name: "mcp: text that is no JSON",
  weight: 8,
  make(random, mark, world) {
    const good = json(call(mark));
    const text = random.pick([
      (): Buffer => mutate(good, random),
      (): Buffer => good.subarray(0, random.whole(0, good.length - 1)),
      (): Buffer => Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf]), good]),
      (): Buffer => Buffer.from(good.toString(), "utf16le"),
      (): Buffer => Buffer.from(`${"[".repeat(20_000)}${"]".repeat(20_000)}`),
      (): Buffer => Buffer.from(`{"jsonrpc":"2.0","id":${mark},"method":"x","params":${'{"a":'.repeat(5000)}1${"}".repeat(5000)}}`),
      (): Buffer =>
        Buffer.from(
          `{"jsonrpc":"2.0","id":${mark},"id":${mark},"method":"tools/list","method":"tools/call","params":{"name":"echo","name":"other"}}`,
        ),
      (): Buffer => Buffer.from(`{"jsonrpc":"2.0","id":${"9".repeat(400)},"method":"tools/list"}`),
      (): Buffer => Buffer.alloc(0),
      (): Buffer => Buffer.concat([good, good]),
    ])();
    return {
      parts: once(postTo("/mcp/good", text, [...accepts, ...sessionOf(random, world)])),
      expect: { ...lenient(mark), marks: anyMark },
    };
  },
};

const modern: Kind = {
  name: "mcp: the modern era",
  weight: 6,
  make(random, mark) {
    const meta = random.pick<Record<string, unknown>>([
      { "io.modelcontextprotocol/protocolVersion": "2026-07-28" },
      { "io.modelcontextprotocol/protocolVersion": "9999-99-99" },
      { "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientInfo": random.pick(strangeValues) },
      { "io.modelcontextprotocol/protocolVersion": random.pick(strangeValues) },
    ]);
    const method = random.pick(["tools/call", "tools/list", "server/discover", "initialize", "ping", "notifications/cancelled"]);
    const headers = random.pick([
      [],
      [`mcp-method: ${method}`],
      ["mcp-method: tools/delete"],
      ["mcp-name: =?base64?####?="],
      ["mcp-name: =?base64?ZWNobw==?="],
      ["mcp-protocol-version: 2026-07-28"],
      ["mcp-protocol-version: nonsense", "mcp-param-x: y"],
    ]);
    const body = json({ jsonrpc: "2.0", id: mark, method, params: { name: "echo", arguments: { mark }, _meta: meta } });
    return { parts: once(postTo("/mcp/good", body, [...accepts, ...headers])), expect: { ...lenient(mark), marks: anyMark } };
  },
};

const around: Kind = {
  name: "mcp: methods, headers, streams",
  weight: 8,
  make(random, mark, world) {
    const method = random.pick(["GET", "DELETE", "PUT", "PATCH", "OPTIONS", "HEAD", "POST"]);
    const session = method === "DELETE" ? [`mcp-session-id: ${"x".repeat(random.whole(1, 9000))}`] : sessionOf(random, world);
    const headers = random.pick([
      accepts,
      [],
      ["accept: text/event-stream"],
      ["accept: */*", "content-type: text/plain"],
      ["accept: text/event-stream", `last-event-id: ${random.pick(["", "0", "12345678.0", "x".repeat(2000), "........."])}`],
      [...accepts, "mcp-protocol-version: \xff"],
      [...accepts, `mcpf-timeout-ms: ${random.pick(["-1", "0", "NaN", "1e99", "1", "Infinity"])}`],
      [...accepts, `mcpf-agent: ${"a".repeat(200)}`],
      [...accepts, "content-encoding: gzip"],
      [...accepts, "origin: null"],
    ]);
    const body = method === "GET" || method === "HEAD" || method === "DELETE" || method === "OPTIONS" ? Buffer.alloc(0) : json(call(mark));
    const bytes = Buffer.concat([
      latin(
        head(method, random.pick(["/mcp/good", "/mcp/good", "/mcp/good/", "/mcp/", "/mcp/none", "/mcp/%67ood"]), [
          "host: localhost",
          ...headers,
          ...session,
          `content-length: ${body.length}`,
          "connection: close",
        ]),
      ),
      body,
    ]);
    // A stream has no end of its own.
    return { parts: once(bytes), expect: { ...lenient(mark), marks: anyMark, mayWait: true } };
  },
};

const oddCall: Kind = {
  name: "odd upstream: call",
  weight: 14,
  make(random, mark, world) {
    const odd = random.pick(oddities);
    const session = world.sessions.length > 1 && random.chance(0.5) ? [`mcp-session-id: ${world.sessions[1]}`] : [];
    const bytes = postTo("/mcp/odd", json(call(mark)), [...accepts, `mcp-odd: ${odd}`, ...session]);
    return { parts: random.chance(0.1) ? cut(bytes, random) : once(bytes), expect: { outcome: "odd", marks: [mark], answers: 1 } };
  },
};

const oddHttp: Kind = {
  name: "odd upstream: http",
  weight: 10,
  make(random, mark) {
    const method = random.pick(["GET", "POST", "HEAD"]);
    const odd = random.pick(oddities);
    const bytes = latin(
      head(method, `/http/strange/m/${mark}`, ["host: localhost", `mcp-odd: ${odd}`, "content-length: 0", "connection: close"]),
    );
    // An event stream of an HTTP API may last.
    return { parts: once(bytes), expect: { outcome: "odd", marks: [mark], answers: 1, mayWait: lasting.has(odd) } };
  },
};
const lasting: ReadonlySet<string> = new Set(["sse answer", "sse no end", "switching"]);

/** What the odd upstream can be asked for, by the header `mcp-odd`. */
const oddities = [
  "garbage",
  "close",
  "reset",
  "short",
  "long",
  "length and chunks",
  "two lengths",
  "bad chunk",
  "chunk broken off",
  "continue",
  "hundred continues",
  "early hints",
  "switching",
  "no content with a body",
  "not modified with a body",
  "two answers",
  "poison later",
  "bare header",
  "folded",
  "nul header",
  "http 1.0",
  "http 2",
  "no status",
  "status 999",
  "status 099",
  "big header",
  "many headers",
  "set-cookie",
  "redirect",
  "unauthorized",
  "unavailable",
  "too many",
  "teapot",
  "gzip",
  "not json",
  "wrong id",
  "null id",
  "batch",
  "notification",
  "proto",
  "deep",
  "sse deep",
  "sse empty",
  "sse answer",
  "sse junk",
  "sse big line",
  "sse bad utf-8",
  "sse wrong id",
  "sse many answers",
  "sse request",
  "sse strange ids",
  "sse broken off",
  "sse no end",
  "sse cr",
  "sse crlf in id",
  "sse progress",
  "negative length",
  "empty length",
  "chunked twice",
  "trailers",
  "session header",
  "location smuggles",
  "fine",
] as const;

export const mcpKinds: readonly Kind[] = [well, envelopes, texts, modern, around, oddCall, oddHttp];
