import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { Agent, buildConnector } from "undici";
import { callLegacy, LegacyError, legacyToolOf } from "../../src/control/legacy.ts";
import { LegacyPlaces, legacyPlaces } from "../../src/control/legacy-places.ts";
import type { CallControl } from "../../src/control/port.ts";
import { attemptOf, describe, type Fixture, ok, play, refused, reset, start, until } from "./fixture.ts";

interface Seen {
  readonly method: string;
  readonly url: URL;
  readonly headers: IncomingMessage["headers"];
  readonly body: string;
}

/** A real legacy API on a free port. */
async function legacyApi(t: TestContext, answer: (seen: Seen, response: ServerResponse) => void): Promise<{ url: string; seen: Seen[] }> {
  const seen: Seen[] = [];
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    const one = { method: request.method ?? "", url: new URL(request.url ?? "/", "http://x"), headers: request.headers, body };
    seen.push(one);
    answer(one, response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, seen };
}

const json = (response: ServerResponse, value: unknown, status = 200): void => {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(value));
};

const yamlOf = (url: string, more = "") => `
upstreams:
  warehouse:
    kind: mcp
    endpoints:
      - { name: primary, url: "http://127.0.0.1:1/mcp", tier: 0, headers: { x-key: { secret: PRIMARY_KEY, prefix: "Bearer " } }, auth: { username: me, password: { secret: PASSWORD } } }
      - { name: secondary, url: "http://127.0.0.1:2/mcp", tier: 1 }
    tools:
      get_inventory: { read_only: true, legacy: { url: "${url}/inventory?site=1", headers: { x-api-key: { secret: LEGACY_KEY } } } }
      ship_order: { legacy: { url: "${url}/ship", method: POST, timeout_ms: 300 } }
${more}`;
const secrets = { PRIMARY_KEY: "primary-secret-value", PASSWORD: "password-secret-value", LEGACY_KEY: "legacy-secret-value" };

const withLegacy = (t: TestContext, url: string, more = "") => start(t, { yaml: yamlOf(url, more), secrets });
const never = new AbortController().signal;
const run = (call: CallControl, args: unknown, signal: AbortSignal = never) => {
  assert.ok(call.legacy, "no legacy implementation is offered");
  return call.legacy(args, signal, "operation-1");
};
/** A call that is served by legacy from the start. */
async function rolledBack(fixture: Fixture, tool: string): Promise<CallControl> {
  await fixture.rollback("tool", tool, 0, 1);
  const call = fixture.control.begin(describe(fixture, { tool }));
  assert.equal(call.implementation, "legacy");
  assert.equal(await call.next(), null, "a call that is rolled back makes no attempt at MCP");
  return call;
}

test("GET sends the arguments as the query beside what the URL has, with the operation's id and the tool's own secret", async (t) => {
  const api = await legacyApi(t, (_seen, response) => json(response, { sku: "A", count: 3 }));
  const fixture = await withLegacy(t, api.url);
  const result = await run(await rolledBack(fixture, "get_inventory"), {
    sku: "A&B",
    sizes: [1, 2],
    filter: { colour: "red" },
    none: null,
  });
  assert.deepEqual(result, { content: [{ type: "text", text: '{"sku":"A","count":3}' }], structuredContent: { sku: "A", count: 3 } });
  const [seen] = api.seen;
  assert.equal(seen?.method, "GET");
  assert.deepEqual(
    [...(seen?.url.searchParams ?? [])],
    [
      ["site", "1"],
      ["sku", "A&B"],
      ["sizes", "1"],
      ["sizes", "2"],
      ["filter", '{"colour":"red"}'],
    ],
  );
  assert.equal(seen?.headers["idempotency-key"], "operation-1");
  assert.equal(seen?.headers["x-api-key"], "legacy-secret-value");
  assert.equal(seen?.headers["x-key"], undefined, "an endpoint's secret goes to that endpoint alone");
});

test("an answer without a body is a success, also where it says that it is JSON", async (t) => {
  for (const status of [200, 204]) {
    const api = await legacyApi(t, (_seen, response) => response.writeHead(status, { "content-type": "application/json" }).end());
    const fixture = await withLegacy(t, api.url);
    const result = await run(await rolledBack(fixture, "ship_order"), { sku: "A" });
    assert.deepEqual(result, { content: [{ type: "text", text: "" }] }, String(status));
  }
});

test("POST sends the arguments as JSON; a list is in the text alone, because structured content is an object", async (t) => {
  const api = await legacyApi(t, (_seen, response) => json(response, [1, 2]));
  const fixture = await withLegacy(t, api.url);
  assert.deepEqual(await run(await rolledBack(fixture, "ship_order"), { id: 7 }), { content: [{ type: "text", text: "[1,2]" }] });
  assert.deepEqual([api.seen[0]?.body, api.seen[0]?.headers["content-type"]], ['{"id":7}', "application/json"]);
});

test("4xx is the tool's own error; 401 says nothing of what the API answered", async (t) => {
  const api = await legacyApi(t, (seen, response) =>
    json(response, { why: "legacy-secret-value is wrong" }, seen.method === "GET" ? 404 : 401),
  );
  const fixture = await withLegacy(t, api.url);
  const missing = await run(await rolledBack(fixture, "get_inventory"), {});
  assert.equal(missing.isError, true);
  assert.deepEqual(missing.content, [{ type: "text", text: '{"why":"[secret LEGACY_KEY] is wrong"}' }]);
  const denied = await run(await rolledBack(fixture, "ship_order"), {});
  assert.deepEqual([denied.isError, JSON.stringify(denied.content).includes("why")], [true, false]);
});

test("5xx, a redirect, broken JSON, an oversized body, a time-out and a refusal are errors, and say whether the call may have run", async (t) => {
  let behaviour: (seen: Seen, response: ServerResponse) => void = () => undefined;
  const api = await legacyApi(t, (seen, response) => behaviour(seen, response));
  const fixture = await withLegacy(t, api.url, "router: { body_bytes_max: 1024 }\n");
  await fixture.rollback("tool", "ship_order", 0, 1);
  const fails = async (how: typeof behaviour, wanted: RegExp, executed: "no" | "unknown") => {
    behaviour = how;
    const call = fixture.control.begin(describe(fixture, { tool: "ship_order" }));
    await assert.rejects(run(call, {}), (error: unknown) => {
      assert.ok(error instanceof LegacyError);
      assert.match(error.message, wanted);
      assert.equal(error.executed, executed);
      return true;
    });
    const { code, retriable } = call.problem();
    assert.deepEqual([code, retriable], executed === "no" ? ["no_endpoint", true] : ["outcome_unknown", false]);
    assert.equal(call.legacy, null, "it is not called again");
  };
  await fails((_seen, response) => json(response, {}, 503), /answered 503/, "unknown");
  await fails((_seen, response) => response.writeHead(302, { location: "/elsewhere" }).end(), /redirect/, "unknown");
  await fails(
    (_seen, response) => response.writeHead(200, { "content-type": "application/json" }).end("{"),
    /said that it answers JSON/,
    "unknown",
  );
  await fails((_seen, response) => json(response, "x".repeat(2000)), /more than 1024 bytes/, "unknown");
  await fails((_seen, response) => response.socket?.destroy(), /could not be reached/, "unknown");
  await fails(() => undefined, /did not answer in time/, "unknown");
  assert.equal(api.seen.length, 6, "no redirect was followed, and nothing was sent twice");
  await fixture.configure(yamlOf("http://127.0.0.1:9"));
  await fails(() => undefined, /could not be reached \(refused\)/, "no");
});

test("fallback: a read that no endpoint answers is offered to legacy, within the time that the attempts left", async (t) => {
  const api = await legacyApi(t, (_seen, response) => json(response, { from: "legacy" }));
  const fixture = await withLegacy(t, api.url);
  const call = fixture.control.begin(describe(fixture, { deadlineMs: fixture.clock.nowMs + 10_000 }));
  assert.equal(call.legacy, null, "not before the attempts failed");
  assert.ok(call.fallbackDeadlineMs - call.deadlineMs >= 1500, "the attempts leave it time");
  assert.deepEqual(await play(call, () => refused), ["primary", "secondary"]);
  assert.deepEqual((await run(call, {})).structuredContent, { from: "legacy" });
});

test("A1: fallback of a write only with proof that it did not run", async (t) => {
  const api = await legacyApi(t, (_seen, response) => json(response, {}));
  const fixture = await withLegacy(t, api.url, "failover: { automatic: false }\n");
  const lost = fixture.control.begin(describe(fixture, { tool: "ship_order" }));
  (await attemptOf(lost)).done(reset);
  assert.equal(lost.legacy, null);
  const shed = fixture.control.begin(describe(fixture, { tool: "ship_order" }));
  (await attemptOf(shed)).done({ outcome: "soft", httpStatus: 429, toolError: false });
  assert.equal(shed.legacy, null, "a 429 proves nothing");
  const gone = fixture.control.begin(describe(fixture, { tool: "ship_order" }));
  (await attemptOf(gone)).done({ outcome: "aborted" });
  assert.equal(gone.legacy, null);
  const notRun = fixture.control.begin(describe(fixture, { tool: "ship_order" }));
  assert.deepEqual(await play(notRun, () => refused), ["primary"]);
  assert.ok(notRun.legacy);
  assert.equal(api.seen.length, 0);
});

test("fallback is off where the configuration says so, by scope", async (t) => {
  const offered = async (flags: string, agent: string | null) => {
    const fixture = await withLegacy(t, "http://127.0.0.1:9", `fallback: { ${flags} }\n`);
    const call = fixture.control.begin(describe(fixture, { agent }));
    await play(call, () => refused);
    return call.legacy !== null;
  };
  assert.equal(await offered("enabled: false", "picker"), false);
  assert.equal(await offered("tool_fallback: false, agent_fallback: false, system_fallback: false", "picker"), false);
  assert.equal(await offered("tool_fallback: false, system_fallback: false", "picker"), true);
  assert.equal(await offered("tool_fallback: false, system_fallback: false", null), false);
  assert.equal(await offered("tool_fallback: false, agent_fallback: false", null), true, "the whole upstream is down");
  const fixture = await withLegacy(t, "http://127.0.0.1:9", "fallback: { tool_fallback: false, agent_fallback: false }\n");
  const call = fixture.control.begin(describe(fixture, { tool: "ship_order" }));
  await play(call, () => refused);
  assert.deepEqual([call.problem().code, call.legacy], ["no_endpoint", null], "but not while a standby is up");
});

test("legacy gets no more time than the call has left, nor than it may take itself", async (t) => {
  const given: number[] = [];
  const fixture = await start(t, {
    yaml: yamlOf("http://127.0.0.1:9"),
    secrets,
    callLegacy: async ({ timeoutMs }) => {
      given.push(timeoutMs);
      return { content: [] };
    },
  });
  for (const tool of ["ship_order", "get_inventory"]) await fixture.rollback("tool", tool, 0, 1);
  for (const [tool, ms] of [
    ["ship_order", 200],
    ["ship_order", 60_000],
    ["get_inventory", 1000],
  ] as const)
    await run(fixture.control.begin(describe(fixture, { tool, deadlineMs: fixture.clock.nowMs + ms })), {});
  const [short = 0, own, rest = 0] = given;
  assert.ok(short > 0 && short <= 200 && own === 300 && rest > 300 && rest <= 1000, given.join(" "));
});

test("C4: an endpoint's secrets are in its own view alone, and in no event and no file", async (t) => {
  const api = await legacyApi(t, (_seen, response) => json(response, {}));
  const fixture = await withLegacy(t, api.url);
  const [primary, secondary] = fixture.control.upstream("warehouse")?.endpoints ?? [];
  assert.deepEqual(primary?.headers, {
    "x-key": "Bearer primary-secret-value",
    authorization: `Basic ${Buffer.from("me:password-secret-value").toString("base64")}`,
  });
  assert.deepEqual(secondary?.headers, {});
  const call = fixture.control.begin(describe(fixture));
  await play(call, () => refused);
  await run(call, {});
  await fixture.control.stop();
  const folder = join(fixture.dataDir, "router");
  const files = await Promise.all((await readdir(folder)).map((name) => readFile(join(folder, name), "utf8")));
  assert.equal(files.length, 1);
  for (const text of [...files, JSON.stringify(fixture.traffic), call.problem().message]) {
    for (const secret of Object.values(secrets)) assert.ok(!text.includes(secret), `${secret} was found`);
  }
});

test("an endpoint whose secret is missing gets nothing, and the error names the secret", async (t) => {
  const fixture = await start(t, { yaml: yamlOf("http://127.0.0.1:9", "failover: { automatic: false }\n"), secrets: {} });
  assert.deepEqual(await play(fixture.control.begin(describe(fixture)), () => ok), ["secondary"]);
  const call = fixture.control.begin(describe(fixture, { tool: "ship_order" }));
  assert.equal(await call.next(), null);
  assert.match(call.problem().message, /PRIMARY_KEY/);
});

test("R14: what goes on with a call, or begins a task, is of MCP alone: rolled back, by a ramp or as a fallback, legacy gets nothing of it", async (t) => {
  const fixture = await withLegacy(t, "http://127.0.0.1:9");
  await fixture.rollback("tool", "ship_order", 0, 1);
  for (const mcpOnly of ["goes_on", "task"] as const) {
    const call = fixture.control.begin(describe(fixture, { tool: "ship_order", mcpOnly }));
    assert.deepEqual([call.implementation, call.legacy], ["mcp", null]);
    assert.ok((await play(call, () => refused)).length > 0);
    assert.equal(call.legacy, null, "nothing ran, and nothing runs in its place");
    const { code, retriable } = call.problem();
    // Who is told to try again begins a new call, and that one legacy serves without asking anybody.
    assert.deepEqual([code, retriable], mcpOnly === "goes_on" ? ["outcome_unknown", false] : ["no_endpoint", true]);
    call.end("error");
  }
  assert.equal(fixture.control.begin(describe(fixture, { tool: "ship_order" })).implementation, "legacy");
});

test("F4: a rollback of the system, of the agent or of each tool makes an agent begin by legacy, fallback or not; one of a tool alone does not", async (t) => {
  const faceOf = (fixture: Fixture, agent: string | null) =>
    fixture.control.begin(describe(fixture, { method: "initialize", tool: null, agent })).legacyFace?.();
  const all = { tools: ["get_inventory", "ship_order"], inForce: true };
  const none = { tools: [], inForce: false };
  const fixture = await withLegacy(t, "http://127.0.0.1:9", "fallback: { enabled: false }\n");
  assert.deepEqual(faceOf(fixture, "picker"), none);
  await fixture.rollback("tool", "ship_order", 0, 1);
  assert.deepEqual(faceOf(fixture, "picker"), { tools: ["ship_order"], inForce: false });
  await fixture.rollback("tool", "get_inventory", 0, 1);
  assert.deepEqual(faceOf(fixture, "picker"), all);
  for (const tool of ["ship_order", "get_inventory"]) await fixture.rollback("tool", tool, 100, 2);
  await fixture.rollback("agent", "picker", 0, 1);
  assert.deepEqual([faceOf(fixture, "picker"), faceOf(fixture, "packer"), faceOf(fixture, null)], [all, none, none]);
  await fixture.rollback("agent", "picker", 5, 2);
  assert.deepEqual(faceOf(fixture, "picker"), none, "a ramp sends some of the calls to MCP");
  await fixture.rollback("system", "system", 0, 1);
  assert.deepEqual(faceOf(fixture, null), all);
  await fixture.rollback("system", "system", 100, 2);
  await fixture.configure(yamlOf("http://127.0.0.1:9", "fallback: { tool_fallback: false, system_fallback: false }\n"));
  assert.deepEqual(faceOf(fixture, "picker"), { ...all, inForce: false }, "the fallback of agents serves an agent with a name");
  assert.deepEqual(faceOf(fixture, null), none);
});

test("L1: what waits in vain for a connection to the legacy API was not sent, and is told so; no more wait than may", async (t) => {
  const hung: ServerResponse[] = [];
  const api = await legacyApi(t, (_seen, response) => hung.push(response));
  const fixture = await start(t, { yaml: yamlOf(api.url).replace("timeout_ms: 300", "timeout_ms: 20000"), secrets });
  await fixture.rollback("tool", "ship_order", 0, 1);
  const ship = async (signal = never) => {
    const call = fixture.control.begin(describe(fixture, { tool: "ship_order" }));
    const error = await run(call, {}, signal).catch((thrown: unknown) => thrown);
    assert.ok(error instanceof LegacyError);
    call.end("error");
    return { executed: error.executed, ...call.problem() };
  };
  const inside = Array.from({ length: legacyPlaces.concurrencyMax }, () => ship());
  const gone = new AbortController();
  const waiting = Array.from({ length: legacyPlaces.queueMax - 1 }, () => ship());
  const leaves = ship(gone.signal);
  const { executed, code, retriable, retryAfterMs } = await ship();
  assert.deepEqual([executed, code, retriable, retryAfterMs], ["no", "overloaded", true, legacyPlaces.queueMsMax]);
  gone.abort();
  assert.equal((await leaves).executed, "no");
  assert.deepEqual(new Set((await Promise.all(waiting)).map((told) => `${told.executed} ${told.code}`)), new Set(["no overloaded"]));
  assert.equal(api.seen.length, legacyPlaces.concurrencyMax, "nothing of what was refused had been sent");
  for (const response of hung) response.destroy();
  assert.deepEqual(
    new Set((await Promise.all(inside)).map((told) => `${told.executed} ${told.code}`)),
    new Set(["unknown outcome_unknown"]),
  );
  // Their places are free again.
  hung.length = 0;
  const next = ship();
  await until("the API is called again", () => hung.length === 1);
  hung[0]?.destroy();
  assert.equal((await next).executed, "unknown");
});

test("L2: whatever order calls come, wait, end and go away in, nobody is left at a legacy API", async () => {
  const places = new LegacyPlaces();
  const { concurrencyMax } = legacyPlaces;
  let waits = 0;
  const enter = (path: string, signal: AbortSignal, deadlineMs = Number.POSITIVE_INFINITY) =>
    places.enter(`http://127.0.0.1:9/${path}`, { critical: false, deadlineMs, signal, onWait: () => waits++ }, () => 0);
  for (let round = 0; round < 5; round += 1) {
    const gone = new AbortController();
    const calls = Array.from({ length: concurrencyMax * 2 }, (_, index) => enter(`${index}`, index % 3 === 0 ? gone.signal : never));
    gone.abort();
    let left = 0;
    await Promise.all(
      calls.map(async (call) => {
        const place = await call;
        if (typeof place === "string") return assert.equal(place, "legacy_wait");
        left += 1;
        return place();
      }),
    );
    assert.ok(left >= concurrencyMax && left < calls.length);
  }
  assert.ok(waits >= concurrencyMax);
  assert.equal(places.size, 0);
});

test("a call whose time is over before it has a connection was not sent", async (t) => {
  const api = await legacyApi(t, (_seen, response) => json(response, {}));
  const connector = buildConnector({});
  // undici tells the end of a call only once its connection is made, or refused.
  const agent = new Agent({ connect: (options, callback) => void setTimeout(connector, 100, options, callback) });
  t.after(() => agent.destroy());
  const tool = legacyToolOf("ship_order", { url: api.url, method: "POST", headers: {} }, { resolve: String });
  const given = { tool, args: {}, operationId: "op", bodyBytesMax: 100, agent, redact: String };
  const ends = new AbortController();
  const late = callLegacy({ ...given, signal: never, timeoutMs: 20 });
  const ended = callLegacy({ ...given, signal: ends.signal, timeoutMs: 20_000 });
  setTimeout(() => ends.abort(), 20);
  for (const [one, timedOut] of [
    [late, true],
    [ended, false],
  ] as const) {
    const error = await one.catch((thrown: unknown) => thrown);
    assert.ok(error instanceof LegacyError);
    assert.deepEqual([error.executed, error.timedOut], ["no", timedOut]);
  }
  assert.deepEqual(await callLegacy({ ...given, signal: never, timeoutMs: 20_000 }), {
    content: [{ type: "text", text: "{}" }],
    structuredContent: {},
  });
  assert.equal(api.seen.length, 1);
});
