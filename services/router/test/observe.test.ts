import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, test } from "node:test";
import fc from "fast-check";
import { Registry } from "prom-client";
import { routerConfig } from "../src/config.ts";
import { callMetrics } from "../src/observe/call-metrics.ts";
import type { CallRecord } from "../src/observe/observed-control.ts";
import { createOtlpExporter, parseOtlpHeaders } from "../src/observe/otlp.ts";
import { startObserving } from "../src/observe/start-observing.ts";
import { formatTraceparent, parseTraceparent, type Span } from "../src/observe/trace.ts";
import { initializeBody, openSession, post, toolCall, until } from "./support/clients.ts";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { startMcpServer, type TestMcpServer } from "./support/mcp-server.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";

const stop: (() => Promise<unknown>)[] = [];
let a: TestMcpServer;
let b: TestMcpServer;
let control: FakeControl;
const lines: { details: Record<string, unknown>; message: string }[] = [];
let registry: Registry;
beforeEach(async () => {
  [a, b] = await Promise.all([startMcpServer("a"), startMcpServer("b")]);
  control = fakeControl([
    { name: "a", url: a.url },
    { name: "b", url: b.url },
  ]);
  stop.push(a.kill, b.kill);
  lines.length = 0;
  registry = new Registry();
});
afterEach(async () => {
  for (const end of stop.splice(0).reverse()) await end();
});

async function observedRouter(env: Record<string, string>): Promise<TestRouter> {
  const say = (details: unknown, message: string): void => void lines.push({ details: details as Record<string, unknown>, message });
  const log = { info: say, warn: say, error: say, debug: () => undefined } as never;
  const observing = startObserving({ config: routerConfig.parse(env), log, registry, instance: "router-1" });
  const router = await startTestRouter(control, { observing });
  stop.push(async () => {
    await router.close(0);
    await observing.stop();
    assert.deepEqual(router.problems, []);
  });
  return router;
}
const accessLines = (): Record<string, unknown>[] =>
  lines.flatMap(({ details }) => (details["access"] === undefined ? [] : [details["access"] as Record<string, unknown>]));

describe("the access log", () => {
  test("has one line a call with who, what, where and how, and no secret, no argument and no session id", async () => {
    const { mcpUrl } = await observedRouter({ MCPF_ROUTER_ACCESS_LOG: "all" });
    const id = await openSession(mcpUrl);
    const secrets = { "mcp-session-id": id, authorization: "Bearer a-secret-token" };
    const first = await post(mcpUrl, toolCall(1, "write", { key: "a-secret-argument" }), secrets);
    await a.kill();
    assert.equal((await post(mcpUrl, toolCall(2, "whoami"), secrets)).status, 200);
    await until(() => accessLines().length >= 4);
    const [wrote, read] = accessLines().filter(({ tool }) => tool !== null);
    assert.equal(wrote?.["operationId"], first.headers.get("mcpf-operation-id"));
    assert.deepEqual(
      [wrote, read].map((line) => [
        line?.["upstream"],
        line?.["endpoint"],
        line?.["tool"],
        line?.["agent"],
        line?.["outcome"],
        line?.["attempts"],
      ]),
      [
        ["fake", "a", "write", "raw", "ok", 1],
        ["fake", "b", "whoami", "raw", "ok", 2],
      ],
    );
    assert.ok(Number(wrote?.["ms"]) >= 0);
    assert.doesNotMatch(JSON.stringify(lines), /a-secret|mcpf1\./);
  });

  test("is off, tells failures, or a share, as it is asked to", async () => {
    for (const [setting, wanted] of [
      ["off", []],
      ["failures", ["hard"]],
      ["0.000001", ["hard"]],
    ] as const) {
      lines.length = 0;
      const { mcpUrl } = await observedRouter({ MCPF_ROUTER_ACCESS_LOG: setting });
      const headers = { "mcp-session-id": await openSession(mcpUrl) };
      await post(mcpUrl, toolCall(1, "whoami"), headers);
      a.resetAfterWrite = true;
      await post(mcpUrl, toolCall(2, "write", { key: "1" }), headers);
      assert.deepEqual(
        accessLines().map(({ outcome }) => outcome),
        wanted,
        setting,
      );
      registry.clear();
    }
    assert.throws(() => routerConfig.parse({ MCPF_ROUTER_ACCESS_LOG: "sometimes" }));
  });
});

describe("metrics of calls", () => {
  const record = (more: Partial<CallRecord>): CallRecord => ({
    upstream: "u",
    endpoint: "e",
    method: "tools/call",
    tool: "t",
    agent: null,
    outcome: "ok",
    code: null,
    attempts: 1,
    tookMs: 10,
    operationId: null,
    ...more,
  });

  test("are by upstream, tool, endpoint and outcome", async () => {
    const over = callMetrics(registry);
    over(record({}));
    over(record({ outcome: "hard", endpoint: "f", attempts: 3 }));
    const text = await registry.metrics();
    assert.match(text, /mcpf_router_call_seconds_count\{upstream="u",tool="t",endpoint="e",outcome="ok"\} 1/);
    assert.match(text, /mcpf_router_call_seconds_count\{upstream="u",tool="t",endpoint="f",outcome="hard"\} 1/);
    assert.match(text, /mcpf_router_attempts_again_total\{upstream="u"\} 2/);
  });

  test("do not grow with what agents make up: a tool has a name only once it has worked, and there is an end to names", async () => {
    const over = callMetrics(registry);
    for (let index = 0; index < 3000; index++) over(record({ tool: `made-up-${index}`, outcome: "caller" }));
    for (let index = 0; index < 3000; index++) over(record({ tool: `works-${index}` }));
    const text = await registry.metrics();
    const tools = new Set([...text.matchAll(/tool="([^"]+)"/g)].map(([, tool]) => tool));
    assert.ok(tools.has("other") && tools.has("works-1") && !tools.has("made-up-1"));
    assert.ok(tools.size <= 201, `${tools.size} tools`);
  });
});

describe("traces", () => {
  test("traceparent is read as W3C Trace Context says: what is none begins a new trace", () => {
    const [traceId, spanId] = ["0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"];
    assert.deepEqual(parseTraceparent(`00-${traceId}-${spanId}-01`), { traceId, spanId, sampled: true });
    assert.deepEqual(parseTraceparent(`cc-${traceId}-${spanId}-00-more`), { traceId, spanId, sampled: false });
    for (const bad of [
      "",
      `00-${traceId}-${spanId}-01-more`,
      `ff-${traceId}-${spanId}-01`,
      `00-${"0".repeat(32)}-${spanId}-01`,
      `00-${traceId}-${"0".repeat(16)}-01`,
      `00-${traceId.toUpperCase()}-${spanId}-01`,
      1,
      null,
    ]) {
      assert.equal(parseTraceparent(bad), null, String(bad));
    }
    fc.assert(
      fc.property(
        fc.string(),
        (text) => parseTraceparent(text) === null || formatTraceparent(parseTraceparent(text) as never).length === 55,
      ),
    );
  });

  interface Exported extends Pick<Span, "traceId" | "spanId" | "name"> {
    readonly parentSpanId?: string;
    readonly kind: number;
    readonly attributes: { key: string; value: { stringValue?: string } }[];
  }
  async function collector(status = 200) {
    const spans: Exported[] = [];
    const requests: { headers: Record<string, unknown>; url: string }[] = [];
    const server = createServer((request, response) => {
      let body = "";
      request.on("data", (chunk: Buffer) => {
        body += chunk.toString();
      });
      request.on("end", () => {
        requests.push({ headers: request.headers, url: request.url ?? "" });
        const parsed = JSON.parse(body) as { resourceSpans: { scopeSpans: { spans: Exported[] }[] }[] };
        for (const { scopeSpans } of parsed.resourceSpans) for (const { spans: more } of scopeSpans) spans.push(...more);
        response.writeHead(status).end("{}");
      });
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    stop.push(
      () =>
        new Promise((resolve) => {
          server.close(resolve);
          server.closeAllConnections();
        }),
    );
    return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, spans, requests };
  }
  const from = { traceId: "0af7651916cd43dd8448eb211c80319c", spanId: "b7ad6b7169203331", sampled: true };

  test("one call is one trace from agent to upstream: the call below the agent's step, each attempt below the call, and the upstream below its attempt", async () => {
    const { url, spans, requests } = await collector();
    const { mcpUrl } = await observedRouter({ OTEL_EXPORTER_OTLP_ENDPOINT: url, OTEL_EXPORTER_OTLP_HEADERS: "x-key=a%20b" });
    const headers = { "mcp-session-id": await openSession(mcpUrl), traceparent: formatTraceparent(from), tracestate: "vendor=1" };
    await a.kill();
    assert.equal((await post(mcpUrl, toolCall(1, "whoami"), headers)).status, 200);
    const mine = (): Exported[] => spans.filter(({ traceId, name }) => traceId === from.traceId && name === "tools/call whoami");
    await until(() => mine().length === 3);
    const call = mine().find(({ kind }) => kind === 2);
    const attempts = mine().filter(({ kind }) => kind === 3);
    assert.equal(call?.parentSpanId, from.spanId);
    assert.deepEqual(
      attempts.map(({ parentSpanId }) => parentSpanId),
      [call?.spanId, call?.spanId],
    );
    const last = attempts.find(({ attributes }) =>
      attributes.some(({ key, value }) => key === "mcpf.endpoint" && value.stringValue === "b"),
    );
    const seen = b.seen.headers.filter((one) => String(one["traceparent"]).includes(from.traceId)).at(-1);
    assert.deepEqual(
      [seen?.["traceparent"], seen?.["tracestate"]],
      [formatTraceparent({ ...from, spanId: last?.spanId ?? "" }), "vendor=1"],
    );
    assert.deepEqual([requests[0]?.url, requests[0]?.headers["x-key"]], ["/v1/traces", "a b"]);
  });

  test("_meta.traceparent of a message goes before the header, and names the router's step when it is sent on; every other byte stays", async () => {
    const { url, spans } = await collector();
    const bodies: string[] = [];
    const upstream = createServer((request, response) => {
      let body = "";
      request.on("data", (chunk: Buffer) => {
        body += chunk.toString();
      });
      request.on("end", () => {
        bodies.push(body);
        const { id } = JSON.parse(body) as { id: unknown };
        response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ jsonrpc: "2.0", id, result: {} }));
      });
    });
    await new Promise<void>((resolve) => upstream.listen(0, "127.0.0.1", resolve));
    stop.push(
      () =>
        new Promise((resolve) => {
          upstream.close(resolve);
          upstream.closeAllConnections();
        }),
    );
    control = fakeControl([{ name: "u", url: `http://127.0.0.1:${(upstream.address() as AddressInfo).port}` }]);
    const { mcpUrl } = await observedRouter({ OTEL_EXPORTER_OTLP_ENDPOINT: url });
    const given = `{ "jsonrpc":"2.0", "id":7,"method":"tools/list","params":{"_meta":{"traceparent":"${formatTraceparent(from)}"}, "x":  1e2}}`;
    await post(mcpUrl, given, { traceparent: formatTraceparent({ ...from, traceId: "1".repeat(32) }) });
    await until(() => spans.some(({ kind, traceId }) => kind === 2 && traceId === from.traceId));
    const call = spans.find(({ kind }) => kind === 2);
    assert.equal(call?.parentSpanId, from.spanId);
    assert.equal(bodies[0], given.replace(from.spanId, call?.spanId ?? ""));
  });

  const spansNamed = (spans: Exported[], name: string, kind: number): Exported[] =>
    spans.filter((span) => span.traceId === from.traceId && span.name === name && span.kind === kind);
  /** The call of the client at `/mcp`, below it that of the upstream, below that its attempt, which is what the upstream was given. */
  async function assertOneTrace(spans: Exported[], wholeName: string): Promise<void> {
    await until(() => spansNamed(spans, wholeName, 2).length > 0 && spansNamed(spans, "tools/call whoami", 3).length > 0);
    const [whole] = spansNamed(spans, wholeName, 2);
    await until(() => spansNamed(spans, "tools/call whoami", 2).length > 0);
    const [call] = spansNamed(spans, "tools/call whoami", 2);
    const [attempt] = spansNamed(spans, "tools/call whoami", 3);
    assert.deepEqual([whole?.parentSpanId, call?.parentSpanId, attempt?.parentSpanId], [from.spanId, whole?.spanId, call?.spanId]);
    assert.ok(
      a.seen.headers.some((seen) => seen["traceparent"] === formatTraceparent({ ...from, spanId: attempt?.spanId ?? "" })),
      "the upstream goes on below its attempt",
    );
  }

  test("a call to /mcp is one trace too, from the agent through the upstream's part of it to the upstream: in a session", async () => {
    const { url, spans } = await collector();
    const router = await observedRouter({ OTEL_EXPORTER_OTLP_ENDPOINT: url });
    const all = new URL(`${router.url}/mcp`);
    const session = { "mcp-session-id": await openSession(all) };
    await post(all, toolCall(1, "fake__whoami"), { ...session, traceparent: formatTraceparent(from) });
    await assertOneTrace(spans, "tools/call fake__whoami");
  });

  test("a call to /mcp is one trace too, from the agent through the upstream's part of it to the upstream: without a session, by its _meta", async () => {
    const { url, spans } = await collector();
    const router = await observedRouter({ OTEL_EXPORTER_OTLP_ENDPOINT: url });
    const _meta = {
      "io.modelcontextprotocol/protocolVersion": "2026-07-28",
      "io.modelcontextprotocol/clientInfo": { name: "agent", version: "1" },
      "io.modelcontextprotocol/clientCapabilities": {},
      traceparent: formatTraceparent(from),
    };
    const params = { name: "fake__whoami", arguments: {}, _meta };
    const named = { "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "fake__whoami" };
    const other = formatTraceparent({ ...from, traceId: "1".repeat(32) });
    const message = { jsonrpc: "2.0", id: 1, method: "tools/call", params };
    const answer = await post(new URL(`${router.url}/mcp`), message, { ...named, traceparent: other });
    assert.equal(answer.status, 200, answer.text);
    await assertOneTrace(spans, "tools/call fake__whoami");
  });

  test("each message of a batch is a step of its own, and each is what its own upstream call goes on below", async () => {
    const { url, spans } = await collector();
    const { mcpUrl } = await observedRouter({ OTEL_EXPORTER_OTLP_ENDPOINT: url });
    const begun = await post(mcpUrl, { ...initializeBody, params: { ...initializeBody.params, protocolVersion: "2025-03-26" } });
    const headers = { "mcp-session-id": begun.headers.get("mcp-session-id") ?? "", traceparent: formatTraceparent(from) };
    await post(mcpUrl, JSON.stringify([toolCall(1, "whoami"), toolCall(2, "whoami")]), headers);
    const [calls, attempts] = [2, 3].map((kind) => () => spansNamed(spans, "tools/call whoami", kind)) as [
      () => Exported[],
      () => Exported[],
    ];
    await until(() => calls().length === 2 && attempts().length === 2);
    const ids = calls().map(({ spanId }) => spanId);
    assert.equal(new Set(ids).size, 2);
    assert.deepEqual(new Set(attempts().map(({ parentSpanId }) => parentSpanId)), new Set(ids));
    const seen = new Set(a.seen.headers.map((one) => one["traceparent"]));
    for (const { spanId } of attempts())
      assert.ok(seen.has(formatTraceparent({ ...from, spanId })), "the upstream goes on below its attempt");
  });

  test("what the caller does not sample is passed on and not exported; without a collector traceparent stays as it came", async () => {
    const { url, spans } = await collector();
    const traced = await observedRouter({ OTEL_EXPORTER_OTLP_ENDPOINT: url });
    const unsampled = formatTraceparent({ ...from, sampled: false });
    await post(traced.mcpUrl, toolCall(1, "whoami"), { traceparent: unsampled });
    registry.clear();
    const plain = await observedRouter({});
    await post(plain.mcpUrl, toolCall(2, "whoami"), { traceparent: formatTraceparent(from) });
    const [first, second] = a.seen.headers.map((seen) => String(seen["traceparent"]));
    assert.match(first ?? "", new RegExp(`^00-${from.traceId}-[0-9a-f]{16}-00$`));
    assert.notEqual(first, unsampled);
    assert.equal(second, formatTraceparent(from));
    assert.deepEqual(
      spans.filter(({ traceId }) => traceId === from.traceId),
      [],
    );
  });

  test("E1, E2: a collector that refuses or hangs costs spans, never a call or memory", async () => {
    const { url } = await collector(500);
    const troubles: unknown[] = [];
    const span: Span = { ...from, parentSpanId: null, kind: "server", name: "x", startMs: 1, endMs: 2, failed: false, attributes: {} };
    const exporter = createOtlpExporter({
      endpoint: url,
      headers: {},
      serviceName: "s",
      instance: "i",
      onTrouble: (error) => troubles.push(error),
      spansMax: 1000,
    });
    for (let index = 0; index < 5000; index++) exporter.export(span);
    assert.ok(exporter.dropped >= 3400, `${exporter.dropped} dropped`);
    await exporter.stop();
    assert.ok(troubles.length > 0);
    assert.deepEqual(parseOtlpHeaders("A=b, c = d%3D ,=x,y"), { a: "b", c: "d=" });
  });
});
