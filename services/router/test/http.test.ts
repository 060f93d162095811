import assert from "node:assert/strict";
import { createServer, request as httpRequest, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { afterEach, beforeEach, describe, test } from "node:test";
import { patientMs } from "@mcp-failover/testkit";
import type { Attempt } from "../src/control/port.ts";
import { initializeBody, openSession, post, toolCall, until } from "./support/clients.ts";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { startMcpServer, type TestMcpServer } from "./support/mcp-server.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";

async function listen(
  handler: (request: IncomingMessage, response: ServerResponse) => void,
): Promise<{ url: string; server: Server; close(): Promise<void> }> {
  const server = createServer(handler);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    server,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

describe("the router's HTTP face for MCP", () => {
  let a: TestMcpServer;
  let control: FakeControl;
  let router: TestRouter;
  beforeEach(async () => {
    a = await startMcpServer("a");
    control = fakeControl([{ name: "a", url: a.url, headers: { Authorization: "Bearer of-a", "X-Tenant": "t" } }]);
    router = await startTestRouter(control);
  });
  afterEach(async () => {
    await router.close(0);
    await a.kill();
    assert.deepEqual(router.problems, []);
  });

  test("answers what is no message with the statuses that SDK servers use, and sends nothing on", async () => {
    const before = a.seen.headers.length;
    const cases: [string, Record<string, string>, number, number][] = [
      ["{", {}, 400, -32700],
      ['"text"', {}, 400, -32700],
      ["{}", {}, 400, -32700],
      ['{"jsonrpc":"2.0","id":{},"method":"x"}', {}, 400, -32700],
      ["[]", {}, 400, -32600],
      [JSON.stringify([initializeBody]), {}, 400, -32600],
      [JSON.stringify(initializeBody), { "content-type": "text/plain" }, 415, -32000],
      [JSON.stringify(initializeBody), { accept: "application/json" }, 406, -32000],
    ];
    for (const [body, headers, status, code] of cases) {
      const answer = await post(router.mcpUrl, body, headers);
      assert.deepEqual([answer.status, answer.body.error?.code], [status, code], body);
    }
    assert.equal(a.seen.headers.length, before);
  });

  test("R25: refuses a body over the limit without reading it, announced or not", async () => {
    const limit = control.view.bodyBytesMax;
    const announced = await post(router.mcpUrl, JSON.stringify({ ...toolCall(1, "write"), pad: "x".repeat(limit) }));
    assert.equal(announced.status, 413);
    let sent = 0;
    const status = await new Promise<number>((resolve, reject) => {
      const request = httpRequest(router.mcpUrl, {
        method: "POST",
        headers: { "content-type": "application/json", accept: "application/json, text/event-stream" },
      });
      request.on("response", (response) => {
        resolve(response.statusCode ?? 0);
        request.destroy();
      });
      request.on("error", reject);
      const pump = (): void => {
        if (request.destroyed || sent > 20 * limit) return;
        sent += 16_384;
        request.write("x".repeat(16_384), () => setImmediate(pump));
      };
      pump();
    });
    assert.equal(status, 413);
    assert.ok(sent < 20 * limit);
    assert.equal((await post(router.mcpUrl, initializeBody)).status, 200, "the router goes on");
  });

  test("names the upstreams that there are when one is unknown", async () => {
    const answer = await post(`${router.url}/mcp/nobody`, initializeBody);
    assert.equal(answer.status, 404);
    assert.match(answer.body.error?.message ?? "", /known: fake.*failover\.yaml/);
    assert.equal((await fetch(`${router.url}/elsewhere`)).status, 404);
    assert.equal((await post(`${router.mcpUrl}/deeper`, initializeBody)).status, 404);
    assert.equal((await fetch(router.mcpUrl, { method: "PUT" })).status, 405);
  });

  test("R23: refuses foreign Hosts and Origins, as a rebound name of a web page would send them", async () => {
    const ask = (headers: Record<string, string>): Promise<number> =>
      new Promise((resolve, reject) => {
        const request = httpRequest(router.mcpUrl, {
          method: "POST",
          headers: { "content-type": "application/json", accept: "application/json, text/event-stream", ...headers },
        });
        request.on("response", (response) => {
          response.resume();
          resolve(response.statusCode ?? 0);
        });
        request.on("error", reject);
        request.end(JSON.stringify(initializeBody));
      });
    assert.equal(await ask({ host: "evil.example.com" }), 403);
    assert.equal(await ask({ host: "127.0.0.1.evil.example.com:80" }), 403);
    assert.equal(await ask({ origin: "http://evil.example.com" }), 403);
    assert.equal(await ask({ origin: "null" }), 403);
    assert.equal(a.seen.headers.length, 0);
    assert.equal(await ask({ host: "localhost:1", origin: "http://localhost:6274" }), 200);
    assert.equal(await ask({ host: "[::1]:80" }), 200);
  });

  test("R23: tells a rebound page nothing of itself, and asks no process for it", async () => {
    const ask = (path: string, host: string): Promise<number> =>
      new Promise((resolve, reject) => {
        const request = httpRequest(new URL(path, router.url), { headers: { host } }, (response) => {
          response.resume();
          resolve(response.statusCode ?? 0);
        });
        request.on("error", reject);
        request.end();
      });
    for (const path of ["/metrics", "/probe/fake/a"]) {
      assert.equal(await ask(path, "evil.example.com"), 403, path);
      for (const host of ["localhost:1", "10.0.0.7:7300"]) assert.notEqual(await ask(path, host), 403, `${path} by ${host}`);
    }
    assert.equal(await ask("/healthz", "evil.example.com"), 200, "whoever looks after the process may ask whether it lives");
  });

  test("R24: keeps clients' credentials to itself, and gives an endpoint its own alone", async () => {
    const foreign = await listen((request, response) => {
      seen.push(request.headers);
      response.writeHead(200, { "content-type": "application/json" }).end("{}");
    });
    const seen: IncomingMessage["headers"][] = [];
    const answer = await post(router.mcpUrl, initializeBody, {
      authorization: "Bearer of-the-client",
      cookie: "session=1",
      "x-api-key": "k",
      "mcp-future": "kept",
      traceparent: "00-1-1-00",
    });
    assert.equal(answer.status, 200);
    const got = a.seen.headers[0] ?? {};
    assert.equal(got["authorization"], "Bearer of-a");
    assert.equal(got["x-tenant"], "t");
    assert.deepEqual([got["cookie"], got["x-api-key"]], [undefined, undefined]);
    assert.deepEqual([got["mcp-future"], got["traceparent"]], ["kept", "00-1-1-00"]);
    const second = await startTestRouter(fakeControl([{ name: "f", url: foreign.url }]));
    await post(second.mcpUrl, initializeBody, { authorization: "Bearer of-the-client" });
    assert.equal(seen[0]?.authorization, undefined);
    await second.close(0);
    await foreign.close();
  });

  test("R26: stops in order: no new connections, calls in flight end, streams are closed", async () => {
    const other = await startTestRouter(control);
    const id = await openSession(other.mcpUrl);
    const stream = await fetch(other.mcpUrl, { headers: { accept: "text/event-stream", "mcp-session-id": id } });
    const running = post(other.mcpUrl, toolCall(1, "slow", { steps: 5, ms: 40 }), { "mcp-session-id": id });
    await until(() => control.calls.some(({ tool }) => tool === "slow"));
    const startedAtMs = Date.now();
    await other.close(3000);
    assert.ok(Date.now() - startedAtMs < patientMs(2000));
    assert.equal((await running).body.result?.content?.[0]?.text, "a is done");
    await assert.rejects(fetch(other.mcpUrl), "the port is closed");
    await stream.text();
  });

  test("survives nonsense on its port", async () => {
    for (const bytes of ["\0\0\0", "GET / HTTP/9.9\r\n\r\n", "POST /mcp/fake HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n"]) {
      await new Promise<void>((resolve) => {
        const socket = connect(router.port, "127.0.0.1", () => socket.end(bytes));
        socket.on("close", () => resolve());
        socket.on("error", () => resolve());
        socket.resume();
      });
    }
    assert.equal((await post(router.mcpUrl, initializeBody)).status, 200);
    assert.equal(await (await fetch(`${router.url}/healthz`)).text(), "ok");
  });
});

describe("the router's HTTP face for any API", () => {
  const opened: { close(): Promise<void> }[] = [];
  const seen: { method: string; url: string; headers: IncomingMessage["headers"]; body: string; by: string }[] = [];
  let behaviour: (request: IncomingMessage, response: ServerResponse, by: string) => void;
  let control: FakeControl;
  let router: TestRouter;
  let servers: Awaited<ReturnType<typeof listen>>[];

  beforeEach(async () => {
    seen.length = 0;
    behaviour = (_request, response, by) => response.end(`from ${by}`);
    const server = (by: string) =>
      listen((request, response) => {
        let body = "";
        request.on("data", (chunk: Buffer) => {
          body += chunk.toString();
        });
        request.on("end", () => {
          seen.push({ method: request.method ?? "", url: request.url ?? "", headers: request.headers, body, by });
          behaviour(request, response, by);
        });
      });
    servers = [await server("a"), await server("b")];
    control = fakeControl(
      servers.map(({ url }, index) => ({ name: "ab"[index] ?? "", url: `${url}/base/`, headers: { authorization: "Bearer ours" } })),
      { kind: "http" },
    );
    router = await startTestRouter(control);
    opened.push({ close: () => router.close(0) }, ...servers);
  });
  afterEach(async () => {
    for (const { close } of opened.splice(0)) await close();
    assert.deepEqual(router.problems, []);
  });

  test("a call that fails by a fault of our own is ended, so that it takes no place of the upstream for ever", async () => {
    const { begin } = control;
    control.begin = (call) => {
      const begun = begin(call);
      const next = () => {
        const attempt = begun.next() as Attempt;
        return { ...attempt, answering: () => assert.fail("a fault of our own") };
      };
      return { ...begun, next };
    };
    assert.equal((await fetch(`${router.url}/http/fake/x`)).status, 500);
    assert.deepEqual(control.ended, ["error"]);
    assert.equal(router.problems.splice(0).length, 1);
  });

  test("keeps to the path of the endpoint, for which its credential is meant, and refuses a second Host", async () => {
    const { port } = new URL(router.url);
    const statusOf = async (target: string, host = `Host: 127.0.0.1:${port}\r\n`): Promise<number> => {
      const socket = connect(Number(port), "127.0.0.1");
      socket.write(`GET ${target} HTTP/1.1\r\n${host}Connection: close\r\n\r\n`);
      let text = "";
      for await (const chunk of socket) text += String(chunk);
      return Number(text.split(" ")[1]);
    };
    const escapes = [
      "/../admin",
      "/v1/../../admin",
      "/%2e%2E/admin",
      "/.%2e",
      "/v1/..\\..\\admin",
      "/v1/..%2f..%2fadmin",
      "/v1/..;/admin",
      "/./x",
      "/..#x",
      "/v1/..#",
      "/v1?to=..#/x",
    ];
    for (const path of escapes) assert.equal(await statusOf(`/http/fake${path}`), 400, path);
    assert.equal(await statusOf("/http/fake/v1", `Host: 127.0.0.1:${port}\r\nHost: evil.example\r\n`), 400);
    assert.deepEqual(seen, [], "nothing was sent on");
    for (const path of ["/v1/a..b", "/...", "/.well-known/x", "/x?to=../y", "/..%23"])
      assert.equal(await statusOf(`/http/fake${path}`), 200, path);
  });

  test("passes path, query, method and body on, and strips what belongs to one connection", async () => {
    behaviour = (_request, response) => {
      response.writeHead(201, { "x-answer": "1", "set-cookie": "a=b", location: "http://elsewhere/x" });
      response.end("made");
    };
    const answer = await fetch(`${router.url}/http/fake/v1/items?x=1&y=%20`, {
      method: "POST",
      headers: { "x-ask": "1", authorization: "Bearer theirs", cookie: "c=d", "content-type": "text/plain", "mcpf-agent": "agent" },
      body: "content",
    });
    assert.deepEqual([answer.status, await answer.text()], [201, "made"]);
    assert.deepEqual([answer.headers.get("x-answer"), answer.headers.get("location")], ["1", "http://elsewhere/x"]);
    assert.equal(answer.headers.get("set-cookie"), null);
    const [got] = seen;
    assert.deepEqual([got?.method, got?.url, got?.body], ["POST", "/base/v1/items?x=1&y=%20", "content"]);
    assert.deepEqual([got?.headers["x-ask"], got?.headers.authorization, got?.headers.cookie], ["1", "Bearer ours", undefined]);
    assert.equal(got?.headers["mcpf-agent"], undefined);
    assert.equal(control.calls[0]?.agent, "agent");
  });

  test("says of an answer that its route is old while the log is out of reach, also of an error", async () => {
    const post = async () => {
      const answer = await fetch(`${router.url}/http/fake/x`, { method: "POST", body: "1" });
      await answer.text();
      return [answer.status, answer.headers.get("mcpf-route")];
    };
    assert.deepEqual(await post(), [200, null]);
    control.stale = true;
    assert.deepEqual(await post(), [200, "stale"]);
    for (const server of servers) await server.close();
    assert.deepEqual(await post(), [503, "stale"]);
  });

  test("strips what an agent or an upstream says to the next one on its way alone, and what is of a page or a credential", async () => {
    behaviour = (_request, response) => {
      response.writeHead(200, { connection: "keep-alive, x-inner", "x-inner": "1", "www-authenticate": "Basic", "x-answer": "1" }).end();
    };
    const headers = {
      connection: "keep-alive, x-hop",
      "x-hop": "1",
      te: "trailers",
      "proxy-authorization": "Basic dGhlaXJz",
      origin: "http://localhost",
      "x-ask": "1",
    };
    const answer = await new Promise<IncomingMessage>((resolve, reject) => {
      httpRequest(`${router.url}/http/fake/x`, { headers }, resolve).on("error", reject).end();
    });
    answer.resume();
    const names = ["x-answer", "x-inner", "www-authenticate"];
    assert.deepEqual([answer.statusCode, ...names.map((name) => answer.headers[name])], [200, "1", undefined, undefined]);
    const got = seen[0]?.headers ?? {};
    assert.deepEqual(
      ["x-ask", "x-hop", "te", "proxy-authorization", "origin"].map((name) => got[name]),
      ["1", undefined, undefined, undefined, undefined],
    );
  });

  test("lets go of an answer that it does not pass on, and of its connection", async () => {
    let closed = 0;
    let status = 503;
    behaviour = (request, response, by) => {
      if (by === "b") return void response.end("from b");
      request.socket.once("close", () => {
        closed += 1;
      });
      response.writeHead(status).write("and then no more");
    };
    assert.equal(await (await fetch(`${router.url}/http/fake/x`)).text(), "from b");
    await until(() => closed === 1);
    status = 401;
    assert.equal((await fetch(`${router.url}/http/fake/x`, { method: "POST" })).status, 502);
    await until(() => closed === 2);
  });

  test("R26: the deadline ends with the headers of an answer, also of one that is an error", async () => {
    behaviour = (_request, response) => {
      response.writeHead(503).write("begun");
      setTimeout(() => response.end(", and whole"), patientMs(1500));
    };
    const answer = await fetch(`${router.url}/http/fake/x`, { method: "POST", headers: { "mcpf-timeout-ms": String(patientMs(1000)) } });
    assert.deepEqual([answer.status, await answer.text()], [503, "begun, and whole"]);
  });

  test("R26: a client that reads nothing of its answer for a minute is hung up on, and its endpoint is not judged by it", async (t) => {
    let closed = false;
    let isBlocked = false;
    let written = 0;
    behaviour = (request, response) => {
      request.socket.on("close", () => {
        closed = true;
      });
      const chunk = Buffer.alloc(1024 * 1024);
      const pump = (): void => {
        isBlocked = false;
        while (!response.destroyed && response.write(chunk)) written += 1;
        isBlocked = true;
        response.once("drain", pump);
      };
      pump();
    };
    t.mock.timers.enable({ apis: ["setTimeout"] });
    const socket = connect(router.port, "127.0.0.1");
    t.after(() => socket.destroy());
    socket.pause().write("GET /http/fake/big HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    // Until nothing moves any more between the three.
    for (let [rest, before] = [0, -1]; rest < 30; rest = isBlocked && written === before ? rest + 1 : 0) {
      before = written;
      await new Promise<void>((resolve) => {
        const turn = setInterval(() => {
          clearInterval(turn);
          resolve();
        }, 10);
      });
    }
    t.mock.timers.tick(60_000);
    t.mock.timers.reset();
    await until(() => closed && control.told.length === 1);
    assert.deepEqual(
      control.told.map(({ result }) => result.outcome),
      ["aborted"],
    );
  });

  test("tells no length of an answer that has no body, whatever the upstream says of it", async () => {
    behaviour = (request) => request.socket.write("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\nx-answer: 1\r\n\r\n");
    const answer = await fetch(`${router.url}/http/fake/x`);
    assert.deepEqual([answer.status, answer.headers.get("content-length"), answer.headers.get("x-answer")], [204, null, "1"]);
  });

  test("sends a safe request again and an unsafe one never, but where it was refused", async () => {
    behaviour = (request, response, by) => {
      if (by === "a") request.socket.resetAndDestroy();
      else response.end("from b");
    };
    assert.equal(await (await fetch(`${router.url}/http/fake/x`)).text(), "from b");
    const lost = await fetch(`${router.url}/http/fake/x`, { method: "POST", body: "1" });
    assert.equal(lost.status, 502);
    const { error } = (await lost.json()) as { error: Record<string, unknown> };
    assert.deepEqual([error["code"], error["upstream"], error["retriable"]], ["outcome_unknown", "fake", false]);
    assert.deepEqual(
      seen.filter(({ method }) => method === "POST").map(({ by }) => by),
      ["a"],
    );
    await servers[0]?.close();
    assert.equal(await (await fetch(`${router.url}/http/fake/x`, { method: "POST", body: "2" })).text(), "from b");
  });

  test("passes the upstream's own error on when nothing else can be tried, and answers typed when there is nobody", async () => {
    behaviour = (_request, response) => response.writeHead(503, { "retry-after": "7" }).end("busy");
    const busy = await fetch(`${router.url}/http/fake/x`, { method: "POST" });
    assert.deepEqual([busy.status, await busy.text(), busy.headers.get("retry-after")], [503, "busy", "7"]);
    behaviour = (_request, response) => response.writeHead(401, { "www-authenticate": "Basic realm=inner" }).end();
    const auth = await fetch(`${router.url}/http/fake/x`, { method: "POST" });
    assert.deepEqual([auth.status, auth.headers.get("www-authenticate")], [502, null]);
    for (const server of servers) await server.close();
    const startedAtMs = Date.now();
    const nobody = await fetch(`${router.url}/http/fake/x`);
    assert.ok(Date.now() - startedAtMs < patientMs(1000));
    assert.equal(nobody.status, 503);
    assert.equal(((await nobody.json()) as { error: { code: string } }).error.code, "no_endpoint");
    assert.equal((await fetch(`${router.url}/mcp/fake`)).status, 404);
  });

  test("streams answers as they come, and breaks off where the upstream broke off", async () => {
    let finish = (): void => undefined;
    behaviour = (request, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write("data: 1\n\n");
      finish = () => request.socket.destroy();
    };
    const answer = await fetch(`${router.url}/http/fake/stream`);
    const reader = (answer.body as ReadableStream<Uint8Array>).getReader();
    const first = await reader.read();
    assert.equal(Buffer.from(first.value ?? []).toString(), "data: 1\n\n");
    finish();
    await assert.rejects(reader.read());
    await until(() => control.told.length === 1);
    assert.equal(control.told[0]?.result.outcome, "hard");
  });

  test("slows an upstream down to the pace of a client that reads slowly", async () => {
    const total = 32 * 1024 * 1024;
    let written = 0;
    behaviour = (_request, response) => {
      const chunk = Buffer.alloc(64 * 1024);
      const pump = (): void => {
        while (written < total) {
          written += chunk.length;
          if (!response.write(chunk)) {
            response.once("drain", pump);
            return;
          }
        }
        response.end();
      };
      pump();
    };
    const received = await new Promise<number>((resolve, reject) => {
      const request = httpRequest(`${router.url}/http/fake/big`);
      request.on("error", reject);
      request.on("response", (response) => {
        setTimeout(() => {
          assert.ok(written < total, `the upstream had written ${written} of ${total} while nobody read`);
          let size = 0;
          response.on("data", (chunk: Buffer) => {
            size += chunk.length;
          });
          response.on("end", () => resolve(size));
        }, 300);
      });
      request.end();
    });
    assert.equal(received, total);
  });

  test("ends the exchange upstream when the client leaves", async () => {
    let closed = false;
    behaviour = (request) => {
      request.socket.on("close", () => {
        closed = true;
      });
    };
    const leave = new AbortController();
    const asked = fetch(`${router.url}/http/fake/wait`, { signal: leave.signal }).catch(() => undefined);
    await until(() => seen.length === 1);
    leave.abort();
    await asked;
    await until(() => closed);
    await until(() => control.told.length === 1);
    assert.equal(control.told[0]?.result.outcome, "aborted");
  });

  test("R26: ends an answer of which nothing more comes for a minute, at both ends", async (t) => {
    let more = (): void => undefined;
    let closed = false;
    behaviour = (request, response) => {
      request.socket.on("close", () => {
        closed = true;
      });
      response.write("begun");
      more = () => response.write("more");
    };
    t.mock.timers.enable({ apis: ["setTimeout"] });
    const answer = await fetch(`${router.url}/http/fake/pauses`, { signal: AbortSignal.timeout(patientMs(20_000)) });
    const reader = (answer.body as ReadableStream<Uint8Array>).getReader();
    const next = async (): Promise<string> => Buffer.from((await reader.read()).value ?? []).toString();
    assert.equal(await next(), "begun");
    t.mock.timers.tick(59_000);
    more();
    assert.equal(await next(), "more");
    t.mock.timers.tick(60_000);
    await assert.rejects(reader.read());
    t.mock.timers.reset();
    await until(() => closed && control.told.length === 1);
    const outcomes = control.told.map(({ result }) => result.outcome);
    assert.deepEqual(outcomes, ["hard"]);
  });

  test("R26: gives up at the client's own deadline", async () => {
    behaviour = () => undefined;
    const answer = await fetch(`${router.url}/http/fake/wait`, { method: "POST", headers: { "mcpf-timeout-ms": "200" } });
    assert.equal(answer.status, 502);
    assert.equal(((await answer.json()) as { error: { code: string } }).error.code, "outcome_unknown");
  });

  test("R26: gives up at the client's own deadline after an endpoint has answered with an error, and gives its place back", async () => {
    behaviour = (_request, response, by) => {
      if (by === "a") response.writeHead(503).end("busy");
    };
    const answer = await fetch(`${router.url}/http/fake/wait`, {
      headers: { "mcpf-timeout-ms": String(patientMs(1000)) },
      signal: AbortSignal.timeout(patientMs(10_000)),
    });
    assert.equal(((await answer.json()) as { error: { code: string } }).error.code, "no_endpoint");
    assert.deepEqual(
      seen.map(({ by }) => by),
      ["a", "b"],
    );
    assert.deepEqual(control.ended, ["error"]);
  });
});
