import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { describe, test } from "node:test";
import { Links } from "../src/aggregate/links.ts";
import { type LocalCall, localCaller } from "../src/aggregate/local-request.ts";
import { type ModernContext, type ModernRequest, serveModern } from "../src/aggregate/modern.ts";
import { serveModernListen } from "../src/aggregate/modern-listen.ts";
import { SessionCalls } from "../src/aggregate/session-call.ts";
import type { AggregateSettings } from "../src/aggregate/settings.ts";
import { SharedLists } from "../src/aggregate/shared-lists.ts";
import { LocalResponse } from "../src/bridge/local-exchange.ts";
import { Ending } from "../src/ending.ts";
import { anybody } from "../src/identity/principal.ts";
import type { UpstreamResponse } from "../src/upstream-client.ts";
import { until } from "./support/clients.ts";

const waitMs = 30_000;
const meta = { "io.modelcontextprotocol/protocolVersion": "2026-07-28" };

/** A client's connection, whose buffer is full when the test says so. */
class Connection extends EventEmitter {
  headersSent = false;
  destroyed = false;
  writableEnded = false;
  isSlow = false;
  readonly sent: string[] = [];
  writeHead(): this {
    this.headersSent = true;
    return this;
  }
  flushHeaders(): void {
    this.headersSent = true;
  }
  write(text: string): boolean {
    this.sent.push(text);
    return !this.isSlow;
  }
  end(): void {
    this.writableEnded = true;
  }
  drain(): void {
    this.isSlow = false;
    this.emit("drain");
  }
  hangUp(): void {
    this.destroyed = true;
    this.emit("close");
  }
}

describe("a client of 2026-07-28 that reads more slowly than the upstreams of /mcp speak", () => {
  /** The router, and an upstream `up` whose answers the test gives. */
  const startWith = (era: "modern" | "legacy", answer: (method: string, id: unknown) => UpstreamResponse) => {
    const settings: AggregateSettings = { upstreams: ["up"], separator: "__", graceMs: 60_000 };
    const call: LocalCall = async ({ body, signal }) => {
      const { method, id } = JSON.parse(String(body ?? "{}")) as { method?: string; id?: unknown };
      const response = answer(String(method), id);
      signal?.addEventListener("abort", () => response.cancel("who asked has left"));
      return response;
    };
    const mcp = {
      nowMs: () => 0,
      heartbeatMs: 60_000,
      rights: { watch: () => () => undefined },
      openEnded: new Set(),
      control: { upstream: () => ({ endpoints: [{ name: "only" }], active: "only" }) },
      eras: { known: () => era },
      log: { error: (details: object, message: string) => assert.fail(`${message} ${JSON.stringify(details)}`) },
    } as never;
    const context: ModernContext = { mcp, call, lists: new SharedLists(() => 0), links: new Links(mcp, call), calls: new SessionCalls() };
    const asked = (connection: Connection, method: string, params: Record<string, unknown>): ModernRequest => ({
      request: {
        headers: { "mcp-protocol-version": "2026-07-28", "mcp-method": method, "mcp-name": String(params["name"]) },
      },
      response: connection as never,
      envelope: { kind: "request", id: 7, method, params: { ...params, _meta: meta } } as never,
      principal: anybody,
      settings,
      passed: {},
    });
    return { context, asked, settings };
  };
  const stream = (): LocalResponse => new LocalResponse(200, { "content-type": "text/event-stream" });
  const eventOf = (method: string, params: object): Buffer =>
    Buffer.from(`data: ${JSON.stringify({ jsonrpc: "2.0", method, params })}\n\n`);

  test("S4: hears of each list and each resource once, however often it changed meanwhile, and nothing more is kept for it", async (t) => {
    const upstream = stream();
    const { context, asked, settings } = startWith("modern", () => upstream);
    const connection = new Connection();
    t.after(() => connection.hangUp());
    const notifications = { toolsListChanged: true, resourceSubscriptions: ["mcpf+up+note://one"] };
    const listening = serveModernListen(context, asked(connection, "subscriptions/listen", { notifications }), () => settings);
    upstream.push(eventOf("notifications/tools/list_changed", {}));
    await until(() => connection.sent.length === 2, waitMs);
    connection.isSlow = true;
    const large = "x".repeat(10_000);
    for (let times = 0; times < 1000; times += 1) {
      upstream.push(eventOf("notifications/tools/list_changed", { _meta: { large } }));
      upstream.push(eventOf("notifications/resources/updated", { uri: "note://one", large }));
    }
    assert.equal(connection.sent.length, 3, "what was written before the client was known to be slow");
    connection.drain();
    const told = connection.sent.slice(3);
    assert.deepEqual(
      told.map((text) => {
        const { method, params } = JSON.parse(/^data: (.*)$/m.exec(text)?.[1] ?? "{}") as {
          method: string;
          params: Record<string, unknown>;
        };
        return [method, params["uri"], params["_meta"]];
      }),
      [
        ["notifications/resources/updated", "mcpf+up+note://one", { "io.modelcontextprotocol/subscriptionId": 7 }],
        ["notifications/tools/list_changed", undefined, { "io.modelcontextprotocol/subscriptionId": 7 }],
      ],
    );
    upstream.push(eventOf("notifications/tools/list_changed", {}));
    assert.equal(connection.sent.length, 6, "and goes on as before");
    connection.hangUp();
    await listening;
  });

  test("holds back the server whose call in a session it follows", async (t) => {
    const upstream = stream();
    let request: unknown;
    const { context, asked } = startWith("legacy", (method, id) => {
      if (method === "initialize") {
        const text = JSON.stringify({ jsonrpc: "2.0", id, result: {} });
        return LocalResponse.whole(200, { "content-type": "application/json", "mcp-session-id": "s" }, text);
      }
      if (id === undefined) return LocalResponse.whole(202, {}, "");
      request = id;
      return upstream;
    });
    const connection = new Connection();
    t.after(() => connection.hangUp());
    const serving = serveModern(context, asked(connection, "tools/call", { name: "up__slow" }));
    const line = eventOf("notifications/message", { level: "info", data: "x" });
    upstream.push(line);
    await until(() => connection.sent.length === 1, waitMs);
    connection.isSlow = true;
    assert.equal(upstream.push(line), false);
    upstream.push(line);
    assert.equal(connection.sent.length, 2);
    connection.drain();
    assert.equal(connection.sent.length, 3);
    upstream.push(Buffer.from(`data: ${JSON.stringify({ jsonrpc: "2.0", id: request, result: { content: [] } })}\n\n`));
    await serving;
    assert.match(connection.sent.at(-1) ?? "", /"complete"/);
    assert.ok(connection.writableEnded);
  });
});

describe("a request inside the router", () => {
  /** One that says how many listen to it. */
  class Counted extends Ending {
    listening = 0;
    override addEventListener(type: "abort", listener: () => void): void {
      this.listening += 1;
      super.addEventListener(type, listener);
    }
    override removeEventListener(type: "abort", listener: () => void): void {
      this.listening -= 1;
      super.removeEventListener(type, listener);
    }
  }

  test("leaves nothing behind with whoever asks again and again for as long as a client listens", async () => {
    const view = { name: "up", kind: "mcp", bodyBytesMax: 1000, endpoints: [] };
    const call = localCaller({ control: { upstream: () => view }, nowMs: () => 0, log: console } as never);
    const signal = new Counted();
    for (let times = 0; times < 50; times += 1) {
      const response = await call({ upstream: "up", method: "GET", headers: {}, body: null, principal: anybody, signal });
      assert.equal(response.status, 406);
      response.discard(100);
    }
    await until(() => signal.listening === 0, waitMs);
  });
});
