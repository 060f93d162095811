import assert from "node:assert/strict";
import dns from "node:dns";
import { writeFile } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { after, afterEach, beforeEach, describe, test } from "node:test";
import { createServer as createTlsServer } from "node:tls";
import { eventually, selfSigned, tempDir } from "@mcp-failover/testkit";
import { createUpstreamClient, type UpstreamClient, UpstreamError, type UpstreamRequest } from "../src/upstream-client.ts";

/** A TCP server that a test tells, connection by connection, what to do. */
async function tcp(handler: (socket: Socket, number: number) => void): Promise<{ url: string; server: Server; received: string[] }> {
  const received: string[] = [];
  let count = 0;
  const server = createServer((socket) => {
    const number = count++;
    received[number] = "";
    socket.on("data", (chunk) => {
      received[number] += chunk.toString();
    });
    socket.on("error", () => undefined);
    handler(socket, number);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`, server, received };
}

describe("the upstream client", () => {
  let client: UpstreamClient;
  const servers: Server[] = [];
  beforeEach(() => {
    client = createUpstreamClient({ connectionsMax: 2, headerBytesMax: 16_384, idleMs: 4000 });
  });
  afterEach(async () => {
    await client.close();
    for (const server of servers.splice(0)) server.close();
  });
  const start = async (handler: Parameters<typeof tcp>[0]) => {
    const started = await tcp(handler);
    servers.push(started.server);
    return started;
  };
  const request = (url: string, more: Partial<UpstreamRequest> = {}): UpstreamRequest => ({
    endpoint: { name: "e", url, role: "write", headers: {} },
    method: "POST",
    headers: { "content-type": "application/json" },
    body: Buffer.from("{}"),
    connectMs: 300,
    lane: "call",
    ...more,
  });
  const failure = async (sent: Promise<unknown>): Promise<UpstreamError> => {
    const error = await sent.then(
      () => assert.fail("it should have failed"),
      (caught: unknown) => caught,
    );
    assert.ok(error instanceof UpstreamError);
    return error;
  };

  test("U2, R26: says that nothing was written when the connection is refused, the name unknown, or nobody accepts in time", async () => {
    const { url, server } = await start(() => undefined);
    await new Promise((resolve) => server.close(resolve));
    const refused = await failure(client.send(request(url)));
    assert.deepEqual([refused.code, refused.written], ["refused", false]);
    const unknown = await failure(client.send(request("http://no-such-name.invalid/mcp")));
    assert.deepEqual([unknown.code, unknown.written], ["dns", false]);
    // TEST-NET-1: packets to it go nowhere; where they are refused at once, the class is another but the proof the same.
    const late = await failure(client.send(request("http://192.0.2.1:9/mcp", { connectMs: 100 })));
    assert.equal(late.written, false);
  });

  test("U2: says that this machine has run out of files or ports, which is no word on the endpoint, and that nothing was written", async (t) => {
    let code = "";
    t.mock.method(dns, "lookup", (_name: string, _options: object, told: (error: Error) => void) =>
      told(Object.assign(new Error(code), { code })),
    );
    for (code of ["EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "EADDRNOTAVAIL"]) {
      const error = await failure(client.send(request("http://endpoint.test/mcp")));
      assert.deepEqual([error.code, error.written], ["exhausted", false], code);
      assert.match(error.message, new RegExp(`this router has run out of .*${code}`));
    }
  });

  test("U2: says that it may have run when the connection breaks after the first byte", async () => {
    const { url, received } = await start((socket) => socket.once("data", () => socket.resetAndDestroy()));
    const reset = await failure(client.send(request(url)));
    assert.equal(reset.written, true);
    assert.match(received[0] ?? "", /^POST \/mcp/);
    const closed = await start((socket) => socket.once("data", () => socket.end()));
    assert.equal((await failure(client.send(request(closed.url)))).written, true);
  });

  test("U1: writes a request once, also on a kept connection that the server closes in that moment", async () => {
    const answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    let total = 0;
    const { url } = await start((socket) => {
      let requests = 0;
      socket.on("data", () => {
        total++;
        if (++requests === 1) socket.write(answer);
        else socket.resetAndDestroy();
      });
    });
    await client.close();
    client = createUpstreamClient({ connectionsMax: 1, headerBytesMax: 16_384, idleMs: 4000 });
    assert.equal((await (await client.send(request(url))).collect(10)).toString(), "{}");
    const error = await failure(client.send(request(url)));
    assert.equal(error.written, true);
    assert.equal(total, 2, "the second request reached the server once, and was not sent again on a new connection");
  });

  test("U2: a request that waits for a free connection and is given up was not written, and never will be", async () => {
    const sockets: Socket[] = [];
    const { url, received } = await start((socket) => sockets.push(socket));
    const busy = [client.send(request(url)), client.send(request(url))];
    for (const one of busy) one.catch(() => undefined);
    await new Promise((resolve) => setTimeout(resolve, 50));
    const waiting = await failure(client.send(request(url, { body: Buffer.from('{"late":1}'), connectMs: 100 })));
    assert.deepEqual([waiting.code, waiting.written], ["timeout", false]);
    for (const socket of sockets) socket.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
    for (const one of busy) await (await one).collect(10);
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.ok(!received.join("").includes("late"));
  });

  test("U2: an abort before the first byte is proof, and after it is none", async () => {
    const { url } = await start(() => undefined);
    const early = new AbortController();
    early.abort(new Error("early"));
    assert.equal((await failure(client.send(request(url, { signal: early.signal })))).written, false);
    const later = new AbortController();
    const sent = client.send(request(url, { signal: later.signal }));
    setTimeout(() => later.abort(new Error("later")), 50);
    assert.equal((await failure(sent)).written, true);
  });

  test("U3: hands a redirect over and does not follow it", async () => {
    const { url, received } = await start((socket) =>
      socket.once("data", () => socket.write("HTTP/1.1 307 Temporary Redirect\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n")),
    );
    const response = await client.send(request(url));
    assert.equal(response.status, 307);
    assert.equal((await response.collect(10)).length, 0);
    assert.equal(received.length, 1);
  });

  test("sends an endpoint's own headers over the client's, and a body over the limit is malformed", async () => {
    const { url, received } = await start((socket) =>
      socket.on("data", () => socket.write(`HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n${"x".repeat(100)}`)),
    );
    const endpoint = { name: "e", url, role: "write" as const, headers: { Authorization: "Bearer ours" } };
    const response = await client.send(request(url, { endpoint, headers: { authorization: "Bearer theirs" } }));
    assert.equal((await failure(response.collect(50))).code, "malformed");
    assert.match(received[0] ?? "", /authorization: Bearer ours/);
    assert.doesNotMatch(received[0] ?? "", /theirs/);
  });

  test("calls something that is no HTTP malformed", async () => {
    const { url } = await start((socket) => socket.once("data", () => socket.end("hello\r\n\r\n")));
    assert.equal((await failure(client.send(request(url)))).code, "malformed");
  });

  test("N1, N2: a connection is used again after a whole answer, and closed where bytes came that nobody asked for", async () => {
    const answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    const { url, received } = await start((socket, number) =>
      socket.on("data", () => socket.write(number === 0 ? answer : answer + answer)),
    );
    for (let call = 0; call < 3; call += 1) assert.equal((await (await client.send(request(url))).collect(10)).toString(), "{}");
    assert.equal(received.length, 1, "three calls, one connection");
    const other = await start((socket) =>
      socket.on("data", () => socket.write(`${answer}HTTP/1.1 500 Smuggled\r\ncontent-length: 0\r\n\r\n`)),
    );
    for (let call = 0; call < 3; call += 1) assert.equal((await client.send(request(other.url))).status, 200);
    assert.equal(other.received.length, 3, "each on a connection of its own");
  });

  test("U5: after an answer that was no answer to its request, what comes on its connection is nobody's", async () => {
    const { url, received } = await start((socket, number) => {
      const text = number === 0 ? "stray" : "right";
      socket.on("data", () => socket.write(`HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n${text}`));
    });
    const first = await client.send(request(url));
    assert.equal((await first.collect(100)).toString(), "stray");
    first.distrust?.();
    assert.equal((await (await client.send(request(url))).collect(100)).toString(), "right");
    assert.equal(received.length, 2, "each on a connection of its own");
  });

  test("U5: a request that has the connection by then keeps it, and is the last one there", async () => {
    const one = createUpstreamClient({ connectionsMax: 1, headerBytesMax: 16_384, idleMs: 4000 });
    try {
      const { url, received } = await start((socket, number) =>
        socket.on("data", () => socket.write(`HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n${number}`)),
      );
      const [first, second] = [one.send(request(url)), one.send(request(url))];
      const answer = await first;
      answer.distrust?.();
      assert.equal((await (await second).collect(100)).toString(), "0");
      assert.equal((await (await one.send(request(url))).collect(100)).toString(), "1");
      assert.equal(received.length, 2);
    } finally {
      await one.close();
    }
  });

  test("O3: a connection is not used again when the server says that it keeps it for a moment only, nor after an answer that came before the request was written", async () => {
    const { url, received } = await start((socket) =>
      socket.on("data", () => socket.write("HTTP/1.1 200 OK\r\nkeep-alive: timeout=1\r\ncontent-length: 2\r\n\r\n{}")),
    );
    for (let call = 0; call < 2; call += 1) await (await client.send(request(url))).collect(10);
    assert.equal(received.length, 2);
    const early = await start((socket) => {
      socket.pause();
      socket.write("HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n");
    });
    const large = Buffer.alloc(16 * 1024 * 1024);
    for (let call = 0; call < 2; call += 1)
      assert.equal((await client.send(request(early.url, { body: large, lane: "stream" }))).status, 413);
    assert.equal(early.received.length, 2);
  });

  test("writes no request that could be read as two: line breaks in paths and headers, framing headers, CONNECT", async () => {
    const { url, received } = await start(() => undefined);
    for (const more of [
      { suffix: "/a b" },
      { suffix: "/a\r\nx: y" },
      { headers: { x: "a\r\nb: c" } },
      { headers: { "x\r\ny": "a" } },
      { headers: { "transfer-encoding": "chunked" } },
      { headers: { "content-length": "5" } },
      { method: "CONNECT" },
      { method: "GET / HTTP/1.1\r\nx:" },
    ]) {
      const error = await failure(client.send(request(url, more)));
      assert.equal(error.written, false, JSON.stringify(more));
    }
    assert.equal(received.length, 0);
  });

  test("an error of whoever reads an answer ends that exchange alone, and a client that was closed opens no connection", async () => {
    const { url, received } = await start((socket) =>
      socket.on("data", () => {
        socket.write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n");
        setTimeout(() => socket.write("{}"), 30);
      }),
    );
    const response = await client.send(request(url));
    const error = await new Promise<unknown>((resolve, reject) => {
      const data = (): boolean => {
        throw new Error("of a reader");
      };
      response.read({ data, end: () => reject(new Error("it has no end")), error: resolve });
    });
    assert.ok(error instanceof UpstreamError && /of a reader/.test(String(error.cause)));
    await client.close();
    assert.equal((await failure(client.send(request(url)))).written, false);
    assert.equal(received.length, 1);
  });

  /** An endpoint over TLS; `meet` gets each TCP connection, before TLS, and says whether it is served. */
  const secure = async (meet: (number: number) => boolean, answer: (socket: Socket) => void) => {
    const made = selfSigned({ untilMs: Date.now() + 86_400_000 });
    const dir = await tempDir();
    await writeFile(join(dir.path, "ca.pem"), made.cert);
    after(() => dir.remove());
    const tls = createTlsServer(made, (socket) => {
      socket.on("error", () => undefined);
      socket.on("data", () => answer(socket));
    });
    const { url } = await start((socket, number) => {
      if (!meet(number)) return;
      socket.removeAllListeners("data");
      tls.emit("connection", socket);
    });
    const endpoint = {
      name: "e",
      url: url.replace("http:", "https:"),
      role: "write" as const,
      headers: {},
      tls: { ca_file: join(dir.path, "ca.pem") },
    };
    return (more: Partial<UpstreamRequest> = {}) => request(url, { endpoint, signal: AbortSignal.timeout(10_000), ...more });
  };

  test("U4: a reader that has had enough is given what was read with that, and no more before it goes on", async () => {
    const sockets: Socket[] = [];
    const { url } = await start((socket) => socket.once("data", () => sockets.push(socket)));
    const asked = client.send(request(url));
    await eventually(() => sockets.length === 1);
    sockets[0]?.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    const response = await asked;
    let came = "";
    const data = (chunk: Buffer): boolean => {
      came += chunk.toString();
      return chunk.toString() !== "enough";
    };
    const ended = new Promise<void>((resolve, reject) => response.read({ data, end: resolve, error: reject }));
    sockets[0]?.write("6\r\nenough\r\n3\r\n+it\r\n");
    await eventually(() => came === "enough+it");
    sockets[0]?.write("5\r\n+more\r\n");
    // Long enough for it to come, were it read.
    const next = client.send(request(url));
    await eventually(() => sockets.length === 2);
    sockets[1]?.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
    await (await next).collect(10);
    assert.equal(came, "enough+it");
    response.resume();
    await eventually(() => came === "enough+it+more");
    sockets[0]?.write("0\r\n\r\n");
    await ended;
  });

  test("U4: an answer over TLS whose end comes while its reader is slow leaves a connection that can be read", async () => {
    let connections = 0;
    const size = 40_000;
    const asked = await secure(
      () => ++connections > 0,
      (socket) => socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${size}\r\n\r\n${"x".repeat(size)}`),
    );
    for (let call = 0; call < 4; call += 1) {
      const response = await client.send(asked());
      let read = 0;
      await new Promise<void>((resolve, reject) => {
        const data = (chunk: Buffer): boolean => {
          read += chunk.length;
          setTimeout(() => response.resume(), 5);
          return false;
        };
        response.read({ data, end: resolve, error: reject });
      });
      assert.equal(read, size);
    }
    assert.equal(connections, 1);
  });

  test("O4: a connection that never comes about holds up those who waited for it, and not who comes after them", async () => {
    const asked = await secure(
      (number) => number > 0,
      (socket) => socket.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"),
    );
    const first = await failure(client.send(asked({ connectMs: 1100 })));
    assert.deepEqual([first.code, first.written], ["timeout", false]);
    assert.equal((await (await client.send(asked({ connectMs: 5000 }))).collect(10)).toString(), "{}");
  });
});
