import type { Socket } from "node:net";

/** The mark that no client ever has: an answer that carries it was meant for nobody. */
export const poison = 999_999_999_999;

/** What comes after the answer on a stream: no JSON-RPC client may see it. */
export const secondAnswer = "the second answer";

/** Answers a request in one of the ways of `oddities`. */
export function answerOddly(socket: Socket, odd: string, mark: number, id: unknown, method: string): void {
  const text = `mark:${mark}`;
  const good = JSON.stringify({ jsonrpc: "2.0", id, result: { content: [{ type: "text", text }] } });
  const line = "HTTP/1.1 200 OK\r\n";
  const type = "content-type: application/json\r\n";
  const whole = (body: string, more = "", status = "200 OK"): string =>
    `HTTP/1.1 ${status}\r\n${type}${more}content-length: ${Buffer.byteLength(body)}\r\n\r\n${method === "HEAD" ? "" : body}`;
  const events = (body: string, close = true): void => {
    socket.write(`${line}content-type: text/event-stream\r\n${close ? "connection: close\r\n" : ""}\r\n${body}`);
    if (close) socket.end();
  };
  const event = (value: unknown, idLine = ""): string => `event: message\n${idLine}data: ${JSON.stringify(value)}\n\n`;
  const answer = { jsonrpc: "2.0", id, result: { content: [{ type: "text", text }] } };
  const poisoned = whole(JSON.stringify({ jsonrpc: "2.0", id: 1, result: { content: [{ type: "text", text: `mark:${poison}` }] } }));
  const write = (bytes: string): void => void socket.write(bytes, "latin1");
  const last = (bytes: string): void => void socket.end(bytes, "latin1");
  const ways: Record<string, () => void> = {
    garbage: () => last("\0\x01\x02 this is no HTTP \xff\xfe\r\n\r\n"),
    close: () => socket.destroy(),
    reset: () => socket.resetAndDestroy(),
    short: () => last(`${line}${type}content-length: ${good.length + 100}\r\n\r\n${good}`),
    long: () => write(`${line}${type}content-length: ${Math.max(0, good.length - 10)}\r\n\r\n${good}`),
    "length and chunks": () =>
      last(`${line}${type}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n${good.length.toString(16)}\r\n${good}\r\n0\r\n\r\n`),
    "two lengths": () => last(`${line}${type}content-length: ${good.length}\r\ncontent-length: 3\r\n\r\n${good}`),
    "bad chunk": () => last(`${line}${type}transfer-encoding: chunked\r\n\r\nzz\r\n${good}\r\n0\r\n\r\n`),
    "chunk broken off": () => last(`${line}${type}transfer-encoding: chunked\r\n\r\nffff\r\n${good}`),
    continue: () => write(`HTTP/1.1 100 Continue\r\n\r\n${whole(good)}`),
    "hundred continues": () => write(`${"HTTP/1.1 100 Continue\r\n\r\n".repeat(100)}${whole(good)}`),
    "early hints": () => write(`HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n${whole(good)}`),
    switching: () => write("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nraw bytes"),
    "no content with a body": () => write(`HTTP/1.1 204 No Content\r\n${type}content-length: 5\r\n\r\nhello`),
    "not modified with a body": () => last(`HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\nhello`),
    "two answers": () => write(whole(good) + poisoned),
    "poison later": () => {
      write(whole(good));
      // Once the next request is on its way, nobody can tell whose answer this is (RFC 9112, 9.2): it has no mark.
      setTimeout(() => socket.write(whole("{}")), 5).unref();
    },
    "bare header": () => last(`${line}no colon here\r\n${type}content-length: ${good.length}\r\n\r\n${good}`),
    folded: () => last(`${line}x-a: b\r\n folded: x-injected\r\n${type}content-length: ${good.length}\r\n\r\n${good}`),
    "nul header": () => last(`${line}x-a: b\0c\r\n${type}content-length: ${good.length}\r\n\r\n${good}`),
    "http 1.0": () => last(`HTTP/1.0 200 OK\r\n${type}\r\n${method === "HEAD" ? "" : good}`),
    "http 2": () => last("HTTP/2 200\r\n\r\n"),
    "no status": () => last(`HTTP/1.1\r\n${type}\r\n${good}`),
    "status 999": () => write(whole(good, "", "999 Odd")),
    "status 099": () => last(whole(good, "", "099 Odd")),
    "big header": () => last(`${line}x-big: ${"y".repeat(200_000)}\r\n${type}content-length: 2\r\n\r\n{}`),
    "many headers": () => last(`${line}${"x-many: y\r\n".repeat(5000)}${type}content-length: 2\r\n\r\n{}`),
    "set-cookie": () => write(whole(good, "set-cookie: a=b\r\nset-cookie: c=d\r\nwww-authenticate: Basic\r\n")),
    redirect: () => write(whole("", "location: http://127.0.0.1:9/stolen\r\n", "307 Elsewhere")),
    unauthorized: () => write(whole("{}", "www-authenticate: Bearer realm=inner\r\n", "401 Who")),
    unavailable: () => write(whole("{}", "retry-after: 0\r\n", "503 Busy")),
    "too many": () => write(whole("{}", "retry-after: -1\r\n", "429 Many")),
    teapot: () => write(whole(good, "", "418 Teapot")),
    gzip: () => write(whole(good, "content-encoding: gzip\r\n")),
    "not json": () => write(whole(`{"mark:${mark}`)),
    "wrong id": () => write(whole(JSON.stringify({ ...answer, id: "somebody else's" }))),
    "null id": () => write(whole(JSON.stringify({ jsonrpc: "2.0", id: null, error: { code: -1, message: text } }))),
    batch: () => write(whole(JSON.stringify([answer, answer]))),
    notification: () => write(whole(JSON.stringify({ jsonrpc: "2.0", method: "notifications/message" }))),
    proto: () => write(whole(`{"jsonrpc":"2.0","id":${JSON.stringify(id)},"result":{"__proto__":{"x":1},"constructor":1,"content":[]}}`)),
    deep: () => write(whole(`{"jsonrpc":"2.0","id":${JSON.stringify(id)},"result":{"d":${"[".repeat(3000)}${"]".repeat(3000)}}}`)),
    "sse deep": () =>
      events(`data: {"jsonrpc":"2.0","id":0,"method":"x","params":{"d":${"[".repeat(20_000)}${"]".repeat(20_000)}}}\n\n${event(answer)}`),
    "sse empty": () => events(""),
    "sse answer": () => events(event(answer), false),
    "sse junk": () => events(`\0\xff:::\n\n\r\r\ndata\ndata:\nid\nretry: x\n\n${event(answer)}`),
    "sse big line": () => events(`data: ${"x".repeat(200_000)}\n\n${event(answer)}`),
    "sse bad utf-8": () => {
      socket.write(`${line}content-type: text/event-stream\r\nconnection: close\r\n\r\n`);
      socket.end(Buffer.concat([Buffer.from("data: \xc0\xaf\xff\xfe\n\n", "latin1"), Buffer.from(event(answer))]));
    },
    "sse wrong id": () => events(event({ ...answer, id: "somebody else's" })),
    "sse many answers": () => events(event(answer) + event({ ...answer, result: { content: [{ type: "text", text: secondAnswer }] } })),
    "sse request": () => events(event({ jsonrpc: "2.0", id: 0, method: "sampling/createMessage", params: {} }) + event(answer)),
    "sse strange ids": () =>
      events(
        event({ jsonrpc: "2.0", id: { a: 1 }, method: "x" }) +
          event({ jsonrpc: "2.0", id: [1], result: {} }, "id: \0\n") +
          event(answer, `id: ${"i".repeat(5000)}\n`),
      ),
    "sse broken off": () => {
      socket.write(`${line}content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n20\r\ndata: {"jsonrpc":`);
      setTimeout(() => socket.destroy(), 5).unref();
    },
    "sse no end": () => events(": waits\n\n", false),
    "sse cr": () => events(`event: message\rdata: ${JSON.stringify(answer)}\r\r`),
    "sse crlf in id": () => events(event({ jsonrpc: "2.0", method: "notifications/x\r\ndata: injected" }, "id: 1\u2028\n") + event(answer)),
    "sse progress": () =>
      events(event({ jsonrpc: "2.0", method: "notifications/progress", params: { progressToken: 1, progress: "NaN" } }) + event(answer)),
    "negative length": () => last(`${line}${type}content-length: -1\r\n\r\n${good}`),
    "empty length": () => last(`${line}${type}content-length:\r\n\r\n${good}`),
    "chunked twice": () => last(`${line}${type}transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n`),
    trailers: () =>
      write(
        `${line}${type}transfer-encoding: chunked\r\n\r\n${Buffer.byteLength(good).toString(16)}\r\n${good}\r\n0\r\nx-injected: 1\r\nset-cookie: a=b\r\n\r\n`,
      ),
    "session header": () => write(whole(good, "mcp-session-id: another\r\nmcp-session-id: two\r\n")),
    "location smuggles": () => write(whole("", "location: /x\tHTTP/1.1\r\n", "302 There")),
    fine: () => write(whole(good)),
  };
  (ways[odd] ?? (ways["fine"] as () => void))();
}
