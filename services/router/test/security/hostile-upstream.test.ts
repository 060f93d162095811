import assert from "node:assert/strict";
import { createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { afterEach, describe, test } from "node:test";
import type { UpstreamView } from "../../src/control/port.ts";
import { initializeBody, openSession, post, toolCall, until } from "../support/clients.ts";
import { type FakeControl, fakeControl } from "../support/fake-control.ts";
import { startTestRouter, type TestRouter } from "../support/router.ts";

type Handler = (request: IncomingMessage, response: ServerResponse, message: { id?: unknown; method?: string } | null) => void;

const stop: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of stop.splice(0).reverse()) await end();
});

async function serve(handler: Handler): Promise<{ url: string; seen: { method: string; headers: IncomingMessage["headers"] }[] }> {
  const seen: { method: string; headers: IncomingMessage["headers"] }[] = [];
  const server = createServer((request, response) => {
    seen.push({ method: request.method ?? "", headers: request.headers });
    let body = "";
    request.on("data", (chunk: Buffer) => {
      body += chunk.toString();
    });
    request.on("end", () => handler(request, response, body.startsWith("{") ? (JSON.parse(body) as { id?: unknown }) : null));
    response.on("error", () => undefined);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  stop.push(async () => {
    const closed = new Promise((resolve) => server.close(resolve));
    server.closeAllConnections();
    await closed;
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, seen };
}

async function routerTo(url: string, view: Partial<UpstreamView> = {}): Promise<{ router: TestRouter; control: FakeControl }> {
  const control = fakeControl([{ name: "a", url, headers: { authorization: "Bearer of-a" } }], view);
  const router = await startTestRouter(control);
  stop.push(async () => {
    await router.close(0);
    assert.deepEqual(router.problems, []);
  });
  return { router, control };
}

/** Answers `initialize` as a server with sessions does, and everything else by `handler`. */
function withSession(handler: Handler): Handler {
  return (request, response, message) => {
    if (message?.method === "initialize") {
      const result = { protocolVersion: "2025-11-25", capabilities: { tools: {} }, serverInfo: { name: "s", version: "1" } };
      response.writeHead(200, { "content-type": "application/json", "mcp-session-id": "s-1" });
      response.end(JSON.stringify({ jsonrpc: "2.0", id: message.id, result }));
    } else if (message?.method === "notifications/initialized") response.writeHead(202).end();
    else if (request.method === "GET" && request.headers["last-event-id"] === undefined) response.writeHead(405).end();
    else handler(request, response, message);
  };
}

describe("an upstream that redirects to another host", () => {
  test("R24: is not followed for any message of MCP, and the client gets a typed error instead of the redirect", async () => {
    const evil = await serve((_request, response) => response.end("{}"));
    let status = 307;
    const redirect: Handler = (_request, response) => response.writeHead(status, { location: `${evil.url}/mcp` }).end();
    const upstream = await serve(withSession(redirect));
    const { router, control } = await routerTo(upstream.url);
    const id = await openSession(router.mcpUrl);
    const headers = { "mcp-session-id": id };
    for (status of [301, 302, 303, 307, 308]) {
      const call = await post(router.mcpUrl, toolCall(1, "write", { key: "1" }), headers);
      assert.deepEqual([call.status, call.body.error?.data?.["code"], call.headers.get("location")], [200, "outcome_unknown", null]);
      assert.equal(control.told.at(-1)?.result.outcome, "hard", "it counts against the endpoint");
      const notified = await post(router.mcpUrl, { jsonrpc: "2.0", method: "notifications/roots/list_changed" }, headers);
      assert.ok(notified.status >= 500, `a notification that was redirected was not delivered: ${notified.status}`);
      const discover = { _meta: { "io.modelcontextprotocol/protocolVersion": "2026-07-28" } };
      const modern = await post(router.mcpUrl, { jsonrpc: "2.0", id: 2, method: "tools/list", params: discover });
      assert.ok(modern.status < 300 || modern.status >= 400);
      const get = await fetch(router.mcpUrl, { headers: { accept: "text/event-stream", "last-event-id": "1" }, redirect: "manual" });
      assert.ok(get.status >= 400, `a stream that was redirected: ${get.status}`);
    }
    status = 307;
    assert.equal((await fetch(router.mcpUrl, { method: "DELETE", headers, redirect: "manual" })).status, 200);
    const whole = await serve(redirect);
    const second = await routerTo(whole.url);
    const begun = await post(second.router.mcpUrl, initializeBody);
    assert.deepEqual([begun.status, begun.body.error?.data?.["code"]], [200, "no_endpoint"]);
    assert.deepEqual(evil.seen, []);
  });

  test("R24: is passed on by /http with no credential in it, and not followed", async () => {
    const evil = await serve((_request, response) => response.end("stolen"));
    const upstream = await serve((_request, response) =>
      response.writeHead(302, { location: `${evil.url}/x`, "set-cookie": "session=of-the-upstream" }).end(),
    );
    const { router } = await routerTo(upstream.url, { kind: "http" });
    for (const method of ["GET", "POST", "PUT", "DELETE"]) {
      const answer = await fetch(`${router.url}/http/fake/v1`, { method, redirect: "manual", headers: { authorization: "Bearer client" } });
      assert.deepEqual([answer.status, answer.headers.get("location"), answer.headers.get("set-cookie")], [302, `${evil.url}/x`, null]);
    }
    assert.deepEqual(evil.seen, []);
    assert.ok(upstream.seen.every(({ headers }) => headers.authorization === "Bearer of-a"));
  });
});

/** Writes for as long as somebody reads, up to 10 GB; `made` counts the bytes that left the generator. */
function flood(response: ServerResponse | Socket, made: { bytes: number }, chunk: Buffer): void {
  const pump = (): void => {
    while (made.bytes < 10_000_000_000 && !response.destroyed) {
      made.bytes += chunk.length;
      if (!response.write(chunk)) {
        response.once("drain", pump);
        return;
      }
    }
    response.end();
  };
  pump();
}

/** The most memory that was in use at once while `work` ran, above what was in use before. */
async function peakOf(work: () => Promise<void>): Promise<number> {
  const used = (): number => {
    const { heapUsed, external } = process.memoryUsage();
    return heapUsed + external;
  };
  const before = used();
  let peak = 0;
  const watch = setInterval(() => {
    peak = Math.max(peak, used() - before);
  }, 10);
  try {
    await work();
  } finally {
    clearInterval(watch);
  }
  return peak;
}

const mib = 1024 * 1024;
/** The limit of an answer in one piece is 16 MiB; it is held as chunks, as one piece and as text at the same time, and waits to be collected. */
const memoryMax = 256 * mib;
const block = Buffer.alloc(64 * 1024, "x");
const words = Buffer.from(`data: ${"x".repeat(1000)}\n\n`.repeat(64));
const notifications = Buffer.from(
  `data: ${JSON.stringify({ jsonrpc: "2.0", method: "notifications/message", params: { level: "info", data: "x".repeat(900) } })}\n\n`.repeat(
    64,
  ),
);

describe("an upstream that answers with 10 GB", () => {
  const cases: { name: string; status?: number; type: string; chunk: Buffer; madeMax: number; code: string | null }[] = [
    { name: "as one JSON body", type: "application/json", chunk: block, madeMax: 64 * mib, code: "outcome_unknown" },
    { name: "as an error", status: 400, type: "application/json", chunk: block, madeMax: 32 * mib, code: "outcome_unknown" },
    { name: "as one event without an end", type: "text/event-stream", chunk: block, madeMax: 64 * mib, code: "outcome_unknown" },
    {
      name: "as one comment without an end",
      type: "text/event-stream",
      chunk: Buffer.from(`:${"x".repeat(65_000)}`),
      madeMax: 64 * mib,
      code: "outcome_unknown",
    },
    {
      name: "as lines of one event",
      type: "text/event-stream",
      chunk: Buffer.from(`data: ${"x".repeat(1000)}\n`.repeat(64)),
      madeMax: 64 * mib,
      code: "outcome_unknown",
    },
    { name: "with a type that is none of MCP's", type: "text/html", chunk: block, madeMax: 32 * mib, code: "outcome_unknown" },
    { name: "with a failure", status: 500, type: "text/html", chunk: block, madeMax: 32 * mib, code: "outcome_unknown" },
  ];
  for (const { name, status = 200, type, chunk, madeMax, code } of cases) {
    test(`R25: ${name} is given up at a limit, in bounded memory, and the client gets its one error`, async () => {
      const made = { bytes: 0 };
      let isOver = false;
      const upstream = await serve(
        withSession((_request, response) => {
          response.once("close", () => {
            isOver = true;
          });
          response.writeHead(status, { "content-type": type });
          flood(response, made, chunk);
        }),
      );
      const { router } = await routerTo(upstream.url);
      const headers = { "mcp-session-id": await openSession(router.mcpUrl) };
      const peak = await peakOf(async () => {
        const answer = await post(router.mcpUrl, toolCall(1, "write", { key: "1" }), headers);
        assert.deepEqual([answer.status, answer.body.error?.data?.["code"] ?? null], [200, code]);
      });
      assert.ok(peak < memoryMax, `${Math.round(peak / mib)} MiB were in use`);
      // What is read on behind the client's back counts too.
      await until(() => isOver);
      assert.ok(made.bytes < madeMax, `${made.bytes} bytes were read of it`);
      assert.equal((await fetch(`${router.url}/healthz`)).status, 200);
    });
  }

  test("R25, R26: in events that are no answer is streamed as far as the client reads, and ended by the call's deadline", async () => {
    const made = { bytes: 0 };
    const upstream = await serve(
      withSession((_request, response) => {
        response.writeHead(200, { "content-type": "text/event-stream" });
        flood(response, made, notifications);
      }),
    );
    const { router } = await routerTo(upstream.url, { callMs: 1500 });
    const headers = { "mcp-session-id": await openSession(router.mcpUrl) };
    const peak = await peakOf(() => held(router, "/mcp/fake", headers, JSON.stringify(toolCall(1, "slow"))));
    assert.ok(made.bytes < 128 * mib, `${made.bytes} bytes were read for a client that reads nothing`);
    assert.ok(peak < memoryMax, `${Math.round(peak / mib)} MiB were in use`);
    await settled(made);
  });

  test("R25: to the client's own stream is held back with the client", async () => {
    const made = { bytes: 0 };
    const upstream = await serve((request, response, message) => {
      if (request.method === "GET") {
        response.writeHead(200, { "content-type": "text/event-stream" });
        flood(response, made, words);
      } else withSession((_request, other) => other.writeHead(202).end())(request, response, message);
    });
    const { router } = await routerTo(upstream.url);
    const peak = await peakOf(async () => {
      // Opens the stream ahead of the client, whose GET then reads nothing.
      const id = await openSession(router.mcpUrl);
      await held(router, "/mcp/fake", { "mcp-session-id": id }, null);
    });
    assert.ok(made.bytes < 128 * mib, `${made.bytes} bytes were read for a client that reads nothing`);
    assert.ok(peak < memoryMax, `${Math.round(peak / mib)} MiB were in use`);
    await settled(made);
  });

  test("R25: to /http goes through at the pace of the client, who may end it", async () => {
    const made = { bytes: 0 };
    const upstream = await serve((_request, response) => flood(response, made, block));
    const { router, control } = await routerTo(upstream.url, { kind: "http" });
    const peak = await peakOf(async () => {
      const leave = new AbortController();
      const answer = await fetch(`${router.url}/http/fake/big`, { signal: leave.signal });
      const reader = (answer.body as ReadableStream<Uint8Array>).getReader();
      for (let read = 0; read < 64 * mib; ) read += (await reader.read()).value?.length ?? 0;
      leave.abort();
      await reader.closed.catch(() => undefined);
    });
    assert.ok(peak < memoryMax, `${Math.round(peak / mib)} MiB were in use`);
    await until(() => control.told.length === 1);
    assert.equal(control.told[0]?.result.outcome, "aborted", "that the client left is not the endpoint's fault");
    await settled(made);
  });

  test("R25: of headers is refused as no HTTP", async () => {
    const made = { bytes: 0 };
    const upstream = await serve((request) => {
      request.socket.write("HTTP/1.1 200 OK\r\n");
      flood(request.socket, made, Buffer.from(`x-pad: ${"y".repeat(8000)}\r\n`));
    });
    const { router } = await routerTo(upstream.url, { kind: "http" });
    const answer = await fetch(`${router.url}/http/fake/headers`, { method: "POST" });
    assert.equal(answer.status, 502);
    assert.ok(made.bytes < 64 * mib);
    await settled(made);
  });
});

/** Nobody reads any more: the generator stands still, or its connection is gone. */
async function settled(made: { bytes: number }): Promise<void> {
  let before = -1;
  await until(() => {
    const still = before === made.bytes;
    before = made.bytes;
    return still;
  });
}

/** A client that sends a request, reads nothing of the answer for a while, and leaves. */
async function held(router: TestRouter, path: string, headers: Record<string, string>, body: string | null): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const request = httpRequest(`${router.url}${path}`, {
      method: body === null ? "GET" : "POST",
      headers: {
        "content-type": "application/json",
        accept: body === null ? "text/event-stream" : "application/json, text/event-stream",
        ...headers,
      },
    });
    request.on("error", reject);
    request.on("response", () => {
      setTimeout(() => {
        request.off("error", reject);
        request.on("error", () => undefined);
        request.destroy();
        resolve();
      }, 1800);
    });
    request.end(body ?? undefined);
  });
}
