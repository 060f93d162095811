import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { type AddressInfo, connect, type Socket } from "node:net";
import { type TestContext, test } from "node:test";
import { connect as connectTls } from "node:tls";
import { patientMs, selfSigned } from "@mcp-failover/testkit";
import { type Front, standBefore } from "../src/front/front.ts";
import type { FrontResponse } from "../src/front/front-response.ts";
import { openSession, toolCall, until } from "./support/clients.ts";
import { fakeControl } from "./support/fake-control.ts";
import { startMcpServer } from "./support/mcp-server.ts";
import { startTestRouter } from "./support/router.ts";

interface World {
  readonly server: Server;
  readonly front: Front;
  readonly port: number;
  /** Who read what, in order. */
  readonly seen: string[];
  /** Answers that the front has not given yet. */
  readonly held: FrontResponse[];
  readonly over: () => number;
  /** The server's ends of the connections. */
  readonly sockets: Socket[];
}

/** A server of node:http with the front before it. Requests whose body is `hold` are answered by the test. */
async function startWorld(t: TestContext, idleMs = 60_000, tls: { key: string; cert: string } | null = null): Promise<World> {
  const seen: string[] = [];
  const held: FrontResponse[] = [];
  let over = 0;
  const server = (tls === null ? createServer({ keepAliveTimeout: 0 }) : createTlsServer({ keepAliveTimeout: 0, ...tls })) as Server;
  server.on("request", (request, response) => {
    let body = "";
    request.setEncoding("latin1").on("data", (part) => {
      body += part;
    });
    request.on("end", () => {
      seen.push(`node ${request.method} ${request.url} ${body}`);
      response.end(`node:${body}`);
    });
  });
  const front = standBefore(server, {
    idleMs,
    stalledMs: 60_000,
    onTrouble: () => undefined,
    over: () => {
      over += 1;
    },
    serve: (request, response) => {
      const body = request.body.toString("latin1");
      seen.push(`front ${request.method} ${request.url} ${body}`);
      if (body === "hold") held.push(response);
      else response.end(`front:${body}`);
    },
  });
  const sockets: Socket[] = [];
  server.on("connection", (socket) => sockets.push(socket));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    front.closeAll();
    server.closeAllConnections();
    server.close();
  });
  return { server, front, port: (server.address() as AddressInfo).port, seen, held, over: () => over, sockets };
}

interface Line {
  readonly socket: Socket;
  readonly came: () => string;
  readonly closed: () => boolean;
}
function dial(t: TestContext, port: number, socket: Socket = connect(port, "127.0.0.1")): Line {
  let came = "";
  let closed = false;
  socket.setEncoding("latin1").on("data", (part) => {
    came += part;
  });
  socket.on("error", () => undefined);
  socket.on("close", () => {
    closed = true;
  });
  t.after(() => socket.destroy());
  return { socket, came: () => came, closed: () => closed };
}
function post(body: string, more = ""): string {
  return `POST /mcp/x HTTP/1.1\r\nhost: localhost\r\n${more}content-length: ${body.length}\r\n\r\n${body}`;
}

test("F6: the front answers what it takes, and node:http all else, on one connection and in order", async (t) => {
  const { port, seen } = await startWorld(t);
  const { socket, came } = dial(t, port);
  socket.write(post("one"));
  await until(() => came().includes("front:one"));
  socket.write(post("two"));
  await until(() => came().includes("front:two"));
  socket.write("GET /other HTTP/1.1\r\nhost: localhost\r\n\r\n");
  await until(() => came().includes("node:"));
  socket.write(post("three"));
  await until(() => came().includes("node:three"));
  assert.deepEqual(seen, ["front POST /mcp/x one", "front POST /mcp/x two", "node GET /other ", "node POST /mcp/x three"]);
});

test("F6: the same over TLS, on a connection that both read one after the other", async (t) => {
  const { port, seen, front } = await startWorld(t, 60_000, selfSigned({ untilMs: Date.now() + 86_400_000, name: "localhost" }));
  const { socket, came } = dial(t, port, connectTls({ port, host: "127.0.0.1", rejectUnauthorized: false }));
  socket.write(post("one"));
  await until(() => came().includes("front:one"));
  assert.equal(front.count, 1);
  socket.write(
    post("chunked").replace("content-length: 7\r\n\r\n", "transfer-encoding: chunked\r\n\r\n7\r\n").concat("\r\n0\r\n\r\n", post("two")),
  );
  await until(() => came().includes("node:two"));
  assert.equal(front.count, 0);
  assert.deepEqual(seen, ["front POST /mcp/x one", "node POST /mcp/x chunked", "node POST /mcp/x two"]);
});

test("S3: what a stop closes because it has no request on it has sent its last answer whole", async (t) => {
  const { port, held, front, sockets } = await startWorld(t);
  const { socket, came, closed } = dial(t, port);
  socket.write(post("hold"));
  await until(() => held.length === 1);
  socket.pause();
  const response = held[0] as FrontResponse;
  response.writeHead(200, { "content-type": "text/plain" });
  // Until the system takes no more of it, and then not so much that the next request would wait.
  const part = "x".repeat(8 * 1024);
  for (let parts = 0; sockets[0]?.writableLength === 0 && parts < 10_000; parts += 1) {
    response.write(part);
    await new Promise((resolve) => setImmediate(resolve));
  }
  response.end("the last of it");
  assert.ok((sockets[0]?.writableLength ?? 0) > 0);
  front.closeIdle();
  front.closeIdle();
  socket.resume();
  await until(closed);
  assert.ok(came().endsWith("e\r\nthe last of it\r\n0\r\n\r\n"), `it ended with ${JSON.stringify(came().slice(-40))}`);
});

test("F6: requests that come before the answer to the last one wait for it, and go to node:http with every byte", async (t) => {
  const { port, seen, held } = await startWorld(t);
  const { socket, came } = dial(t, port);
  socket.write(post("hold") + post("two"));
  await until(() => held.length === 1);
  socket.write(`${post("three")}GET /x HT`);
  socket.write("TP/1.1\r\nhost: localhost\r\n\r\n");
  assert.equal(seen.length, 1);
  held[0]?.end("front:one");
  await until(() => came().split("HTTP/1.1 200").length === 5);
  assert.deepEqual(seen, ["front POST /mcp/x hold", "node POST /mcp/x two", "node POST /mcp/x three", "node GET /x "]);
  assert.deepEqual(came().match(/(?:front|node):(?:one|two|three)?/g), ["front:one", "node:two", "node:three", "node:"]);
});

for (const [what, rest, then] of [
  ["no HTTP at all", "}}\r\n\r\n", /^HTTP\/1\.1 400 Bad Request/],
  ["a CONNECT, at which node:http closes", "CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", /^$/],
] as const) {
  test(`F6: the answer to a request is sent whole before what waits behind it is read, be that ${what}`, async (t) => {
    const { port, held } = await startWorld(t);
    const { socket, came, closed } = dial(t, port);
    socket.write(post("hold") + rest);
    await until(() => held.length === 1);
    held[0]?.end("front:one");
    await until(closed);
    const [answer = "", after = ""] = came().split(/(?<=front:one)/);
    assert.match(answer, /^HTTP\/1\.1 200 OK\r\n.*\r\n\r\nfront:one$/s);
    assert.match(after, then);
  });
}

test("F6: a request with another hidden behind its end is two requests, whoever reads them", async (t) => {
  const { port, seen } = await startWorld(t);
  const { socket, came } = dial(t, port);
  const hidden = "GET /hidden HTTP/1.1\r\nhost: localhost\r\n\r\n";
  socket.write(`POST /mcp/x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n${hidden}`);
  await until(() => came().includes("400 Bad Request"));
  assert.deepEqual(seen, []);
});

test("F6: the last request of a connection is answered, and the connection closed", async (t) => {
  const { port, seen } = await startWorld(t);
  const { socket, came, closed } = dial(t, port);
  socket.write(post("last", "Connection: Close\r\n"));
  await until(closed);
  assert.match(came(), /\r\nConnection: close\r\n/);
  assert.ok(came().endsWith("front:last"));
  assert.deepEqual(seen, ["front POST /mcp/x last"]);
});

test("F7: a request that comes in pieces is read by the front, one that does not end by node:http", async (t) => {
  const { port, seen, front } = await startWorld(t);
  const [quick, slow] = [dial(t, port), dial(t, port)];
  const bytes = post("pieces");
  const requests = 20;
  quick.socket.setNoDelay(true);
  for (let request = 1; request <= requests; request += 1) {
    for (const piece of [bytes.slice(0, 8), bytes.slice(8, 40), bytes.slice(40)]) {
      quick.socket.write(piece);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    await until(() => quick.came().split("front:pieces").length === request + 1);
  }
  slow.socket.write(bytes.slice(0, -2));
  // Twice as it is, and once more should the bytes have come between.
  const sweeping = setInterval(() => front.sweep(), 20);
  t.after(() => clearInterval(sweeping));
  await new Promise((resolve) => setTimeout(resolve, 200));
  slow.socket.write(bytes.slice(-2));
  await until(() => slow.came().includes(":pieces"));
  assert.deepEqual(seen, [...new Array<string>(requests).fill("front POST /mcp/x pieces"), "node POST /mcp/x pieces"]);
});

test("S4: the time of a connection without a request begins with its last answer", async (t) => {
  const { port, front } = await startWorld(t, patientMs(300));
  const { socket, came, closed } = dial(t, port);
  for (const body of ["one", "two", "three"]) {
    socket.write(post(body));
    await until(() => came().includes(`front:${body}`));
    front.sweep();
    await new Promise((resolve) => setTimeout(resolve, patientMs(180)));
    assert.equal(closed(), false, body);
  }
  await until(() => {
    front.sweep();
    return closed();
  });
});

test("S4: a connection that is idle for too long is closed, and none whose answer is not given yet", async (t) => {
  const { port, held, front } = await startWorld(t, 30);
  const [idle, busy] = [dial(t, port), dial(t, port)];
  idle.socket.write(post("one"));
  busy.socket.write(post("hold"));
  await until(() => held.length === 1 && idle.came().includes("front:one"));
  await new Promise((resolve) => setTimeout(resolve, 60));
  front.sweep();
  await until(idle.closed);
  assert.equal(busy.closed(), false);
  held[0]?.end("late");
  await until(() => busy.came().includes("late"));
});

test("F4: an answer is ended once, with its length or with chunks, and no header can end its line", async (t) => {
  const { port, held } = await startWorld(t);
  const { socket, came } = dial(t, port);
  const next = async (): Promise<FrontResponse> => {
    const count = held.length;
    socket.write(post("hold"));
    await until(() => held.length > count);
    return held[count] as FrontResponse;
  };
  const injected = await next();
  assert.throws(() => injected.writeHead(200, { "x-a": "b\r\nx-injected: c" }), /control character/);
  assert.throws(() => injected.writeHead(200, { "x-a:": "b" }), /cannot be written/);
  assert.throws(() => injected.writeHead(200, { "Transfer-Encoding": "chunked" }), /cannot be written/);
  injected.writeHead(200, { "content-type": "text/plain" });
  injected.write("");
  injected.write("grüße");
  injected.write("");
  injected.write(Buffer.from("x"));
  injected.end("last");
  injected.end("never");
  assert.equal(injected.write("never"), true);
  await until(() => came().endsWith("\r\n0\r\n\r\n"));
  const [head, body] = came().split(/(?<=\r\n\r\n)/, 2) as [string, string];
  assert.match(
    head,
    /^HTTP\/1\.1 200 OK\r\ncontent-type: text\/plain\r\nDate: [^\r]+ GMT\r\nConnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n$/,
  );
  assert.equal(
    body + came().slice(head.length + body.length),
    Buffer.from("7\r\ngrüße\r\n1\r\nx\r\n4\r\nlast\r\n0\r\n\r\n").toString("latin1"),
  );
  const before = came().length;
  (await next()).writeHead(202).end();
  await until(() => came().length > before);
  assert.match(came().slice(before), /^HTTP\/1\.1 202 Accepted\r\nDate: [^\r]+\r\nConnection: keep-alive\r\ncontent-length: 0\r\n\r\n$/);
});

for (const [what, answer] of [
  ["longer, in one piece", (response) => response.end("abcdefghij")],
  ["longer, in parts", (response) => [response.write("abcd"), response.write("efghij"), response.end()]],
  ["shorter, in one piece", (response) => response.end("abc")],
  ["shorter, in parts", (response) => [response.write("abc"), response.end()]],
  ["shorter by all of it", (response) => response.end()],
] as readonly (readonly [string, (response: FrontResponse) => unknown])[]) {
  test(`F4: a body that is ${what} than its length ends the connection, and nothing of it is read as the next answer`, async (t) => {
    const { port, held, over } = await startWorld(t);
    const { socket, came, closed } = dial(t, port);
    socket.write(post("hold"));
    await until(() => held.length === 1);
    const response = held[0] as FrontResponse;
    response.writeHead(200, { "content-length": "5" });
    answer(response);
    await until(closed);
    assert.ok(came().length === 0 || (came().split("\r\n\r\n")[1] ?? "").length < 5, came());
    assert.deepEqual([over(), response.destroyed], [1, true]);
  });
}

test("F5: a client that reads slowly is waited for, and one that leaves is told of", async (t) => {
  const { port, held, over } = await startWorld(t);
  const { socket } = dial(t, port);
  socket.write(post("hold"));
  await until(() => held.length === 1);
  socket.pause();
  const response = held[0] as FrontResponse;
  response.writeHead(200, { "content-type": "text/plain" });
  const part = "x".repeat(1024 * 1024);
  let parts = 0;
  while (parts < 200 && response.write(part)) parts += 1;
  assert.ok(parts < 200, "nobody said that the client does not read");
  const drained = once(response, "drain");
  socket.resume();
  await drained;
  const closed = once(response, "close");
  socket.destroy();
  await closed;
  assert.deepEqual([response.destroyed, response.writableEnded, over()], [true, false, 1]);
  response.end("nobody");
  assert.equal(over(), 1);
});

/** More than the system holds of one connection. */
const large = Buffer.alloc(48 * 1024 * 1024, "x");
const moment = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, patientMs(100)));

test("F5: what a client has not taken is one answer at most: its next request is read after that", async (t) => {
  const { port, held, seen } = await startWorld(t);
  const { socket } = dial(t, port);
  socket.write(post("hold"));
  await until(() => held.length === 1);
  socket.pause();
  held[0]?.end(large);
  socket.write(post("two"));
  await moment();
  assert.deepEqual(seen, ["front POST /mcp/x hold"]);
  socket.resume();
  await until(() => seen.length === 2);
  assert.deepEqual(seen, ["front POST /mcp/x hold", "node POST /mcp/x two"]);
});

test("F6: of what a client sends before it has its answer no more is read than one request, and nothing of it is lost", async (t) => {
  const { port, held, seen, sockets } = await startWorld(t);
  const { socket } = dial(t, port);
  socket.write(post("hold"));
  await until(() => held.length === 1);
  const body = "y".repeat(16 * 1024 * 1024);
  socket.write(post(body));
  await moment();
  const read = sockets[0]?.bytesRead ?? 0;
  assert.ok(read < 1024 * 1024, `${read} bytes were read`);
  held[0]?.end("late");
  await until(() => seen.length === 2);
  assert.ok(seen[1] === `node POST /mcp/x ${body}`, "the whole request");
});

test("F6: after the last answer of a connection nothing more is read on it, however slowly that is taken", async (t) => {
  const { port, held, seen } = await startWorld(t);
  const { socket, closed } = dial(t, port);
  socket.write(post("hold"));
  await until(() => held.length === 1);
  socket.pause();
  held[0]?.setHeader("connection", "close");
  held[0]?.end(large);
  socket.write(post("two"));
  await moment();
  socket.resume();
  await until(closed);
  assert.deepEqual(seen, ["front POST /mcp/x hold"]);
});

test("F7: a request in very many pieces is node:http's, so that it is not looked through again for each of them", async (t) => {
  const { port, seen } = await startWorld(t);
  const { socket, came } = dial(t, port);
  socket.setNoDelay(true);
  for (const piece of post("pieces", `x-long: ${"z".repeat(200)}\r\n`).match(/.{1,4}/gs) ?? []) {
    socket.write(piece);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  await until(() => came().includes(":pieces"));
  assert.deepEqual(seen, ["node POST /mcp/x pieces"]);
});

test("S3: a connection on which a request has begun to come is not closed as one that has none", async (t) => {
  const { port, seen, front } = await startWorld(t);
  const { socket, came } = dial(t, port);
  socket.write(post("one"));
  await until(() => came().includes("front:one"));
  const bytes = post("two");
  socket.write(bytes.slice(0, -2));
  await moment();
  front.closeIdle();
  socket.write(bytes.slice(-2));
  await until(() => came().includes("front:two"));
  assert.deepEqual(seen, ["front POST /mcp/x one", "front POST /mcp/x two"]);
});

test("F6: a client that ends in the midst of a request hears what node:http says to that", async (t) => {
  const { port, seen } = await startWorld(t);
  const { socket, came, closed } = dial(t, port);
  socket.end(post("whole").slice(0, -2));
  await until(closed);
  assert.equal(came(), "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
  assert.deepEqual(seen, []);
});

test("S1, S3: an answer of the router is the same whoever reads the request, and a stop lets it end", async (t) => {
  const upstream = await startMcpServer("a");
  const control = fakeControl([upstream]);
  const [ours, nodes] = [await startTestRouter(control, { front: true }), await startTestRouter(control, { front: false })];
  t.after(async () => {
    await ours.close(0);
    await nodes.close(0);
    await upstream.kill();
  });
  const id = await openSession(ours.mcpUrl);
  const rpc = (body: string, more = "", path = "/mcp/fake", host = "localhost"): string =>
    `POST ${path} HTTP/1.1\r\nhost: ${host}\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\n${more}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
  const call = JSON.stringify(toolCall("c", "whoami", {}));
  const session = `mcp-session-id: ${id}\r\n`;
  const requests = [
    rpc(call, session),
    rpc(call, "mcp-session-id: nonsense\r\n"),
    rpc(call, session, "/mcp/nobody"),
    rpc(call, session, "/mcp/fake", "evil.example"),
    rpc(call, `${session}origin: http://evil.example\r\n`),
    rpc("{", session),
    rpc("[]", session),
    rpc('{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"nothing"}}', session),
    rpc('{"jsonrpc":"2.0","id":1,"method":"ping"}', session),
    rpc(call, session).replace("text/event-stream", "text/plain"),
    rpc(call, session).replace("application/json", "text/plain"),
  ];
  const shown = (text: string): string =>
    text
      .replace(/op-[\w-]{12}/g, "op-*")
      .replace(/Date: [^\r]+/, "Date: *")
      .replace(/^id: .*$/m, "id: *")
      // Whoever refuses a request before he has read its body closes the connection; the front has read it.
      .replace(/connection: [^\r]+\r\n/i, "")
      .toLowerCase()
      .split("\r\n\r\n")
      .map((part, index) => (index === 0 ? part.split("\r\n").toSorted().join("\r\n") : part))
      .join("\r\n\r\n");
  for (const request of requests) {
    const answers: string[] = [];
    for (const { port } of [ours, nodes]) {
      const { socket, came, closed } = dial(t, port);
      socket.write(request);
      await until(() => {
        const length = /content-length: (\d+)/i.exec(came())?.[1];
        const whole =
          length === undefined ? /\r\n0\r\n\r\n$/.test(came()) : came().length >= came().indexOf("\r\n\r\n") + 4 + Number(length);
        return (came() !== "" && whole) || closed();
      });
      answers.push(shown(came()));
    }
    assert.equal(answers[0], answers[1], request);
  }
  upstream.lagMs = 300;
  const { socket, came, closed } = dial(t, ours.port);
  const idle = dial(t, ours.port);
  await once(idle.socket, "connect");
  socket.write(rpc(call, session));
  const before = control.calls.length;
  await until(() => control.calls.length > before || came() !== "");
  await ours.close(10_000);
  await until(() => closed() && idle.closed());
  assert.match(came(), /^HTTP\/1\.1 200 OK\r\n/);
  assert.deepEqual([ours.problems, nodes.problems], [[], []]);
});

test("S3: a connection that was taken just before a stop has its first request answered, whoever reads it", async (t) => {
  const upstream = await startMcpServer("a");
  const control = fakeControl([upstream]);
  t.after(() => upstream.kill());
  for (const front of [true, false]) {
    const router = await startTestRouter(control, { front });
    const { socket, came, closed } = dial(t, router.port);
    // It is taken before the next one, which has its answer.
    await fetch(`${router.url}/healthz`);
    const stopped = router.close(10_000);
    await new Promise((resolve) => setTimeout(resolve, 100));
    const body = JSON.stringify(toolCall("c", "whoami", {}));
    const head = "host: localhost\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream";
    socket.write(`POST /mcp/nobody HTTP/1.1\r\n${head}\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
    await until(closed);
    assert.match(came(), /^HTTP\/1\.1 404 /, `front: ${front}`);
    // Else its client would send the next request on a connection that is about to be closed.
    assert.match(came(), /\r\nconnection: close\r\n/i, `front: ${front}`);
    await stopped;
  }
});
