import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer, type IncomingMessage, request, type ServerResponse } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import { afterEach, beforeEach, describe, test } from "node:test";
import { eventually } from "@mcp-failover/testkit";
import { createParser } from "eventsource-parser";
import { SseWriter } from "../src/mcp/sse.ts";
import { openSession } from "./support/clients.ts";
import { fakeControl } from "./support/fake-control.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";

const eventBytes = 256 * 1024;
const events = 40;

/** A server that says what it is told to on the stream of a session, as fast as it is let. */
async function startChatterbox() {
  const said = new Map<string, number>();
  const streams = new Map<string, ServerResponse>();
  let sessions = 0;
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    if (request.method === "GET") {
      response.writeHead(200, { "content-type": "text/event-stream" }).flushHeaders();
      return void streams.set(String(request.headers["mcp-session-id"]), response);
    }
    if (request.method === "DELETE") return void response.writeHead(200).end();
    const { id, method } = JSON.parse(body) as { id?: unknown; method: string };
    if (id === undefined) return void response.writeHead(202).end();
    const result =
      method === "initialize"
        ? { protocolVersion: "2025-11-25", capabilities: { logging: {} }, serverInfo: { name: "chatterbox", version: "1" } }
        : {};
    if (method === "initialize") response.setHeader("mcp-session-id", `session-${++sessions}`);
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ jsonrpc: "2.0", id, result }));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    name: "chatterbox",
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`,
    said,
    async say(session: string, count: number, bytes: number): Promise<void> {
      const stream = streams.get(session);
      assert.ok(stream !== undefined, `${session} has no stream`);
      for (let n = 1; n <= count; n += 1) {
        const number = (said.get(session) ?? 0) + 1;
        said.set(session, number);
        const params = { level: "info", data: { n: number, text: `é${"x".repeat(bytes)}` } };
        const data = JSON.stringify({ jsonrpc: "2.0", method: "notifications/message", params });
        if (!stream.write(`event: message\nid: ${number}\ndata: ${data}\n\n`)) await new Promise((go) => stream.once("drain", go));
      }
    },
    async kill() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** The numbers of the events that a client has read from its stream. */
interface Reading {
  readonly numbers: number[];
  readonly response: IncomingMessage;
}

describe("a client that does not read its stream", () => {
  let server: Awaited<ReturnType<typeof startChatterbox>>;
  let router: TestRouter;
  const sockets: Socket[] = [];
  beforeEach(async () => {
    server = await startChatterbox();
    router = await startTestRouter(fakeControl([server]));
  });
  afterEach(async () => {
    for (const socket of sockets.splice(0)) socket.destroy();
    await router.close(0);
    await server.kill();
    assert.deepEqual(router.problems, []);
  });

  const listen = async (session: string): Promise<Reading> => {
    const asking = request(router.mcpUrl, {
      agent: false,
      headers: { accept: "text/event-stream", "mcp-session-id": session },
    });
    const numbers: number[] = [];
    const parser = createParser({
      // The first one has an id alone.
      onEvent: ({ data }) => data !== "" && numbers.push((JSON.parse(data) as { params: { data: { n: number } } }).params.data.n),
    });
    const reading = new Promise<Reading>((resolve, reject) => {
      asking.on("error", reject);
      asking.on("response", (response) => {
        response.setEncoding("utf8").on("data", (text: string) => parser.feed(text));
        response.on("error", () => undefined);
        sockets.push(response.socket);
        resolve({ numbers, response });
      });
    });
    asking.end();
    return reading;
  };

  test("delays no one else, and gets every event once and in order when it reads on", async () => {
    const slow = await listen(await openSession(router.mcpUrl));
    const quick = await listen(await openSession(router.mcpUrl));
    slow.response.pause();
    const saying = server.say("session-1", events, eventBytes);
    await server.say("session-2", 20, 100);
    await eventually(() => quick.numbers.length >= 20);
    assert.ok(slow.numbers.length < events);
    slow.response.resume();
    await eventually(() => slow.numbers.length >= events, { withinMs: 60_000 });
    await saying;
    const counted = (count: number): number[] => Array.from({ length: count }, (_, at) => at + 1);
    assert.deepEqual(slow.numbers, counted(events));
    assert.deepEqual(quick.numbers, counted(20));
  });

  test("leaves a connection behind that carries the next request, where its stream ends in good order", async () => {
    const session = await openSession(router.mcpUrl);
    const { port } = router.mcpUrl;
    const socket = connect(Number(port), "127.0.0.1");
    sockets.push(socket);
    let text = "";
    socket.setEncoding("utf8").on("data", (part: string) => {
      text += part;
    });
    socket.write(`GET /mcp/fake HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\naccept: text/event-stream\r\nmcp-session-id: ${session}\r\n\r\n`);
    await eventually(() => /^HTTP\/1\.1 200 OK\r\n/.test(text));
    await server.say("session-1", 3, 100);
    await eventually(() => /"n":3,/.test(text));
    const ended = await fetch(router.mcpUrl, { method: "DELETE", headers: { "mcp-session-id": session } });
    assert.equal(ended.status, 200);
    await eventually(() => text.endsWith("\r\n0\r\n\r\n"));
    text = "";
    socket.write(`GET /healthz HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\n\r\n`);
    await eventually(() => /^HTTP\/1\.1 200 OK\r\n[\s\S]*ok/.test(text));
  });
});

test("a writer whose client reads too slowly says so, and is told once when it has read on", async () => {
  // More than the system holds of one connection.
  const text = `data: ${"x".repeat(1.5 * (socketBytesMax("tcp_rmem") + socketBytesMax("tcp_wmem")))}\n\n`;
  const last = "data: last\n\n";
  let told = 0;
  let more: boolean | null = null;
  const server = createServer((_request, response) => {
    const writer = new SseWriter(response);
    writer.begin({});
    writer.writeText("data: first\n\n", 0);
    more = writer.writeText(text, 0);
    writer.whenDrained(() => {
      told += 1;
      writer.writeText(last, 0);
      writer.end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    let bytes = 0;
    let tail = "";
    const ended = new Promise<void>((resolve, reject) => {
      request({ port: (server.address() as AddressInfo).port, agent: false }, (response) => {
        assert.deepEqual([more, told], [false, 0]);
        response.on("data", (chunk: Buffer) => {
          bytes += chunk.length;
          tail = (tail + chunk.toString("latin1")).slice(-last.length);
        });
        response.on("end", resolve);
        response.on("error", reject);
      }).end();
    });
    await eventually(() => told > 0, { withinMs: 60_000 });
    await ended;
    assert.deepEqual([told, bytes, tail], [1, 13 + text.length + last.length, last]);
  } finally {
    server.closeAllConnections();
    server.close();
  }
});

function socketBytesMax(name: string): number {
  try {
    return Number(readFileSync(`/proc/sys/net/ipv4/${name}`, "utf8").trim().split(/\s+/).at(-1));
  } catch {
    // Another system, with smaller ones.
    return 8 * 1024 * 1024;
  }
}
